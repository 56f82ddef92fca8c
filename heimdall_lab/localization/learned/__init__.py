"""Fixes by trained networks, as ONNX files or in memory; needs no PyTorch.

`fixes` makes positions of datasets, `inputs` the arrays that networks take, `onnx_model` opens files. A new input of
networks goes to `inputs`.
"""

from heimdall_lab.localization.learned.fixes import (
    SUFFIX,
    HasTrained,
    Predictor,
    arrays,
    fix,
    incompatibilities,
    is_path,
    labels,
    predictor,
    pretrained,
    share_in_training,
)

__all__ = [
    "SUFFIX",
    "HasTrained",
    "Predictor",
    "arrays",
    "fix",
    "incompatibilities",
    "is_path",
    "labels",
    "predictor",
    "pretrained",
    "share_in_training",
]
