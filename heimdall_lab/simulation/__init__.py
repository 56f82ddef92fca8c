"""Simulated datasets: scenes, propagation, waveforms and receivers.

`generate` writes a dataset; `cluster` has its shards written in this process, by worker processes or on a Dask cluster;
`synthesis` makes the scenes of one shard. It draws them by `scenes` (with `placement` and `propagation`), their
waveforms by `waveforms`, and the receivers' samples by `receiver`, or `receiver_cuda` on a GPU. `coverage` maps the
bounds of a network, and `speed` measures how fast this machine generates.

A new loss or fading goes to `propagation`, a new waveform to `waveforms`, a new part of a receiver to `receiver` and
``receiver.cu``. What is drawn at random takes its numbers from a stage of its own in `core.philox`, so that the scenes
of existing configurations stay as they are.
"""
