"""Workbench for locating radio transmitters with distributed SDR receivers."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from heimdall_lab.compiled import kernels_kept

with kernels_kept():
    from heimdall_lab.bounds import crlb, gdop
    from heimdall_lab.config import Config, preset
    from heimdall_lab.estimators import locate, methods
    from heimdall_lab.features import features
    from heimdall_lab.generate import generate, load_or_generate
    from heimdall_lab.learned import pretrained
    from heimdall_lab.metrics import compare
    from heimdall_lab.recordings import read_kiwi, read_locards, read_sigmf, write_sigmf
    from heimdall_lab.schema import iq
    from heimdall_lab.store import datasets, open_dataset

if TYPE_CHECKING:
    from heimdall_lab.export import export_onnx
    from heimdall_lab.models import architectures
    from heimdall_lab.runs import train

__all__ = [
    "Config",
    "architectures",
    "compare",
    "crlb",
    "datasets",
    "export_onnx",
    "features",
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
    "architectures": "models",
    "export_onnx": "export",
    "train": "runs",
}


def __getattr__(name: str) -> Any:
    """Import what needs torch (PEP 562)."""
    if name not in _NEEDING_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_NEEDING_TORCH[name]}"), name)


def __dir__() -> list[str]:
    """Name all that there is, imported already or not."""
    return sorted({*globals(), *__all__})
