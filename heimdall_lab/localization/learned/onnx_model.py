"""Trained localizers in ONNX files, run by onnxruntime without PyTorch."""

import hashlib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from heimdall_lab.core.arrays import Array, batch_slices
from heimdall_lab.core.files import check_regular
from heimdall_lab.core.text import quoted, shortened
from heimdall_lab.localization.learned import metadata
from heimdall_lab.localization.learned.inputs import FEATURES

OUTPUTS = tuple(metadata.OUTPUTS)

COORDINATE_FRAME = "east, north km on the tangent plane at the centroid of present receivers"

CHECKSUM_PLACEHOLDER = "0" * 64  # in the place of the checksum while that is computed

_BATCH = 256  # scenes located at a time
_MAX_OPEN = 16  # models of some megabytes each
_MOST_BYTES = 2_000_000_000  # of a file, as large as ONNX allows
_MOST_MEMORY_BYTES = 4_000_000_000  # that graphs compute in: 256 scenes of the largest network here take 1.5 GB


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
        """Locate scenes: positions (S, 2) km and Cholesky factors (S, 3) km, both float64.

        Raises
        ------
        ValueError
            If the graph cannot be computed, in the memory that there is for it, or gives something else.
        """
        parts = [
            self._run({name: arrays[name][rows] for name in self.inputs}, len(arrays["present"][rows]))
            for rows in batch_slices(len(arrays["present"]), _BATCH)
        ]
        position, cholesky = (np.concatenate([part[of] for part in parts]).astype(np.float64) for of in (0, 1))
        return position, cholesky

    def _run(self, arrays: Mapping[str, Array], scenes: int) -> list[Array]:
        try:
            found: list[Array] = self.session.run(OUTPUTS, arrays)
        except Exception as error:  # onnxruntime's own kinds have no common ancestor
            reason = shortened(str(error).splitlines()[0])
            raise ValueError(
                f"model: {quoted(self.path)} cannot be computed, in {_MOST_MEMORY_BYTES / 1e9:g} GB of memory at most "
                f"({reason}); export it again"
            ) from error
        for array, (name, length) in zip(found, metadata.OUTPUTS.items(), strict=True):
            if array.shape != (scenes, length) or array.dtype.kind != "f":
                raise ValueError(
                    f"model: {quoted(self.path)} gives {name} as {array.dtype} of shape {array.shape} for {scenes} "
                    f"scenes, not numbers of shape ({scenes}, {length}); export it again"
                )
        return found


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
    named = quoted(path)
    check_regular(path, "model", _MOST_BYTES)
    session, stored = _session(path)
    if missing := [name for name in metadata.REQUIRED if name not in stored]:
        writer = shortened(stored.get("package_version", "").strip('"'))
        raise ValueError(
            f"model: {named} lacks the metadata {quoted(missing[0])}; give a file that heimdall_lab exported"
            + (f" in this version, {version('heimdall_lab')}: version {writer} wrote this one" if writer else "")
        )
    try:
        known, about = metadata.parse(stored)
    except ValueError as error:
        raise ValueError(f"model: {named} has metadata that are refused: {error}; export it again") from error
    if checksum(path.read_bytes(), known.checksum) != known.checksum:
        raise ValueError(f"model: {named} is damaged, its checksum is another; export it again")
    _check_features(path, known)
    try:
        metadata.check_graph(
            known,
            {each.name: (each.type, each.shape) for each in session.get_inputs()},
            {each.name: each.shape for each in session.get_outputs()},
        )
    except ValueError as error:
        raise ValueError(f"model: {named} contradicts its metadata: {error}; export it again") from error
    return OnnxLocalizer(
        path=path,
        name=known.architecture,
        num_parameters=known.num_parameters,
        inputs=known.inputs,
        window=known.window,
        max_receivers=known.max_receivers,
        freedom=math.inf if known.freedom is None else known.freedom,
        about=about,
        session=session,
    )


def _session(path: Path) -> tuple[Any, dict[str, str]]:
    """Open a graph, and read its metadata."""
    import onnxruntime  # here, so that classical estimators do not wait for it

    _limit_memory()
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.use_env_allocators", "1")
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return session, session.get_modelmeta().custom_metadata_map
    except Exception as error:  # onnxruntime's own kinds have no common ancestor
        raise ValueError(
            f"model: {quoted(path)} is damaged or not an ONNX file ({shortened(str(error).splitlines()[0])}); export "
            "it again"
        ) from error


@cache
def _limit_memory() -> None:
    """Limit what all graphs of this process compute in: a few bytes of a file can ask for any amount."""
    import onnxruntime

    as_requested = 1  # grow by what is asked for, no more
    place = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    limits = {"max_mem": _MOST_MEMORY_BYTES, "arena_extend_strategy": as_requested}
    onnxruntime.create_and_register_allocator(place, onnxruntime.OrtArenaCfg(limits))


def checksum(content: bytes, stored: str) -> str:
    """SHA-256 of a file, in which the stored checksum is replaced by `CHECKSUM_PLACEHOLDER`."""
    return hashlib.sha256(content.replace(stored.encode(), CHECKSUM_PLACEHOLDER.encode())).hexdigest()


def _check_features(path: Path, known: metadata.Metadata) -> None:
    if "features" not in known.inputs or known.features == FEATURES:
        return
    differing = sorted(set(known.features) ^ set(FEATURES))
    what = f"{quoted(differing[0])} is not in both" if differing else "their order is another"
    raise ValueError(
        f"features: {quoted(path)} was made by version {shortened(known.package_version)} for other features than this "
        f"version {version('heimdall_lab')} has ({what}); train and export it again, or use that version"
    )
