"""Workbench for locating radio transmitters with distributed SDR receivers."""

from heimdall_lab.compiled import kernels_kept

with kernels_kept():
    from heimdall_lab.bounds import crlb, gdop
    from heimdall_lab.config import Config, preset
    from heimdall_lab.estimators import locate, methods
    from heimdall_lab.features import features
    from heimdall_lab.generate import generate, load_or_generate
    from heimdall_lab.metrics import compare
    from heimdall_lab.recordings import read_kiwi, read_locards, read_sigmf, write_sigmf
    from heimdall_lab.schema import iq
    from heimdall_lab.store import datasets, open_dataset

__all__ = [
    "Config",
    "compare",
    "crlb",
    "datasets",
    "features",
    "gdop",
    "generate",
    "iq",
    "load_or_generate",
    "locate",
    "methods",
    "open_dataset",
    "preset",
    "read_kiwi",
    "read_locards",
    "read_sigmf",
    "write_sigmf",
]
