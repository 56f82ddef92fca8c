"""Workbench for locating radio transmitters with distributed SDR receivers."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from heimdall_lab.core.compiled import kernels_kept

with kernels_kept():
    from heimdall_lab.core.config import Config
    from heimdall_lab.core.presets import preset
    from heimdall_lab.datasets.catalogue import datasets
    from heimdall_lab.datasets.recordings import read_kiwi, read_locards, read_sigmf, write_sigmf
    from heimdall_lab.datasets.schema import iq
    from heimdall_lab.datasets.store import open_dataset
    from heimdall_lab.datasets.terrain.tiles import fetch_terrain
    from heimdall_lab.localization.bounds import crlb, gdop
    from heimdall_lab.localization.estimators import locate, methods
    from heimdall_lab.localization.leaderboard import compare
    from heimdall_lab.localization.learned import pretrained
    from heimdall_lab.signals.features import features
    from heimdall_lab.simulation.generate import generate, load_or_generate

if TYPE_CHECKING:
    from heimdall_lab.learning.architectures import architectures
    from heimdall_lab.learning.export import export_onnx
    from heimdall_lab.report.runs import train

__all__ = [
    "Config",
    "architectures",
    "compare",
    "crlb",
    "datasets",
    "export_onnx",
    "features",
    "fetch_terrain",
    "gdop",
    "generate",
    "iq",
    "load_or_generate",
    "locate",
    "methods",
    "open_dataset",
    "preset",
    "pretrained",
    "read_kiwi",
    "read_locards",
    "read_sigmf",
    "train",
    "write_sigmf",
]

_NEEDING_TORCH = {  # imported when they are asked for: importing torch takes seconds, and most work needs none of it
    "architectures": "learning.architectures",
    "export_onnx": "learning.export",
    "train": "report.runs",
}


def __getattr__(name: str) -> Any:
    """Import what needs torch (PEP 562)."""
    if name not in _NEEDING_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_NEEDING_TORCH[name]}"), name)


def __dir__() -> list[str]:
    """Name all that there is, imported already or not."""
    return sorted({*globals(), *__all__})
