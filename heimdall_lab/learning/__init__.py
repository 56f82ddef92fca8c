"""Training of localizers in PyTorch.

`training.train` runs it: with `options`, on batches of `data` (which reads by `sources` and `signals_on_disk`, and
applies `augmentation`), by the `lightning_module` and its `callbacks`, into the files of `run_folder`. `trained` is the
result; `export` writes it to ONNX and compares both by `parity`; `experiments` tracks runs in MLflow. A new network
goes to `architectures`, and its entry to `registry`, which knows without PyTorch what there is.
"""
