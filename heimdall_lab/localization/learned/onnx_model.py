"""Trained localizers in ONNX files, run by onnxruntime without PyTorch."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from heimdall_lab.core.arrays import Array, batch_slices
from heimdall_lab.core.text import quoted
from heimdall_lab.localization.learned.inputs import FEATURES

OUTPUTS = ("transmitter_position", "cholesky")  # the name position is taken, by an input

COORDINATE_FRAME = "east, north km on the tangent plane at the centroid of present receivers"

CHECKSUM_PLACEHOLDER = "0" * 64  # in the place of the checksum while that is computed

_BATCH = 256  # scenes located at a time
_MAX_OPEN = 16  # models of some megabytes each
_REQUIRED_METADATA = (
    "architecture",
    "num_parameters",
    "inputs",
    "features",
    "window",
    "max_receivers",
    "freedom",
    "checksum",
)


@dataclass(frozen=True)
class OnnxLocalizer:
    """A localizer in an ONNX file.

    Attributes
    ----------
    path : Path
    name : str
        Its architecture, the name in leaderboards.
    num_parameters : int
        Number of weights.
    inputs : tuple of str
        Arrays of `inputs.ARRAYS` that it takes.
    window : int or None
        Instants of IQ that it takes; None if it takes no IQ.
    max_receivers : int or None
        Most receivers of a scene that it can tell apart; None if there is no limit.
    freedom : float
        Degrees of freedom of the law of its errors (`error_law`).
    about : dict
        All metadata of the file, see `export.export_onnx`.
    session : onnxruntime.InferenceSession
    """

    path: Path
    name: str
    num_parameters: int
    inputs: tuple[str, ...]
    window: int | None
    max_receivers: int | None
    freedom: float
    about: dict[str, Any]
    session: Any

    def __call__(self, arrays: Mapping[str, Array]) -> tuple[Array, Array]:
        """Locate scenes: positions (S, 2) km and Cholesky factors (S, 3) km, both float64."""
        parts = [
            self.session.run(OUTPUTS, {name: arrays[name][rows] for name in self.inputs})
            for rows in batch_slices(len(arrays["present"]), _BATCH)
        ]
        position, cholesky = (np.concatenate([part[of] for part in parts]).astype(np.float64) for of in (0, 1))
        return position, cholesky


def open_model(path: str | Path) -> OnnxLocalizer:
    """Read a localizer that `export.export_onnx` wrote, anew only when its file has changed.

    Raises
    ------
    ValueError
        If the file is not one of them, is damaged, or was made for other features than this version's.
    FileNotFoundError
        If there is none.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"model: there is no file {quoted(path)}; export one, or correct the path")
    found = path.stat()
    # Of this process alone: a forked one has none of the threads that a session computes with, and would wait for them.
    return _open_file(path, os.getpid(), found.st_mtime_ns, found.st_size, found.st_ino)


@lru_cache(maxsize=_MAX_OPEN)
def _open_file(path: Path, *_identity: int) -> OnnxLocalizer:
    import onnxruntime  # here, so that classical estimators do not wait for it

    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        stored = session.get_modelmeta().custom_metadata_map
    except Exception as error:  # onnxruntime's own kinds have no common ancestor
        raise ValueError(
            f"model: {quoted(path)} is damaged or not an ONNX file ({str(error).splitlines()[0]}); export it again"
        ) from error
    if missing := [name for name in _REQUIRED_METADATA if name not in stored]:
        writer = stored.get("package_version", "").strip('"')
        raise ValueError(
            f"model: {quoted(path)} lacks the metadata {quoted(missing[0])}; give a file that heimdall_lab exported"
            + (f" in this version, {version('heimdall_lab')}: version {writer} wrote this one" if writer else "")
        )
    about = {name: json.loads(text) for name, text in stored.items()}
    if checksum(path.read_bytes(), about["checksum"]) != about["checksum"]:
        raise ValueError(f"model: {quoted(path)} is damaged, its checksum is another; export it again")
    _check_features(path, about)
    return OnnxLocalizer(
        path=path,
        name=about["architecture"],
        num_parameters=about["num_parameters"],
        inputs=tuple(about["inputs"]),
        window=about["window"],
        max_receivers=about["max_receivers"],
        freedom=float(about["freedom"] or "inf"),
        about=about,
        session=session,
    )


def checksum(content: bytes, stored: str) -> str:
    """SHA-256 of a file, in which the stored checksum is replaced by `CHECKSUM_PLACEHOLDER`."""
    return hashlib.sha256(content.replace(stored.encode(), CHECKSUM_PLACEHOLDER.encode())).hexdigest()


def _check_features(path: Path, about: dict[str, Any]) -> None:
    if "features" not in about["inputs"] or tuple(about["features"]) == FEATURES:
        return
    differing = sorted(set(about["features"]) ^ set(FEATURES))
    what = f"{quoted(differing[0])} is not in both" if differing else "their order is another"
    raise ValueError(
        f"features: {quoted(path)} was made by version {about.get('package_version')} for other features than this "
        f"version {version('heimdall_lab')} has ({what}); train and export it again, or use that version"
    )
