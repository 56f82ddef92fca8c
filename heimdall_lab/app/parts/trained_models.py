"""Trained localizers that pages offer beside the classical methods."""

from pathlib import Path

from heimdall_lab.learning.experiments import ONNX
from heimdall_lab.localization import learned


def trained_models(root: Path) -> dict[str, Path]:
    """Name the trained localizers of the package, and of the runs in a data folder, ``runs/NAME``, and their files."""
    runs = {f"runs/{path.parent.name}": path for path in sorted((root / "runs").glob(f"*/{ONNX}"))}
    return {**learned.pretrained(), **runs}
