"""Fixes by trained networks, as ONNX files or in memory."""

from heimdall_lab.localization.learned.fixes import (
    SUFFIX,
    HasTrained,
    Predictor,
    arrays,
    fix,
    is_path,
    labels,
    misfit,
    predictor,
    pretrained,
    seen,
)

__all__ = [
    "SUFFIX",
    "HasTrained",
    "Predictor",
    "arrays",
    "fix",
    "is_path",
    "labels",
    "misfit",
    "predictor",
    "pretrained",
    "seen",
]
