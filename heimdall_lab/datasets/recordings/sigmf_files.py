"""SigMF files: metadata that is checked as it is parsed, and the samples that it describes.

The package ``sigmf``, which the tests compare with, accepts captures beyond the data, positions off the Earth, numbers
that are not finite and types of data that SigMF does not have, and cuts times to microseconds.

Source: SigMF specification 1.2.6, sigmf.org, with the schema of its metadata.
"""

import hashlib
import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from heimdall_lab.core.checked import first_error
from heimdall_lab.core.files import file_checksum

VERSION = "1.2.6"
COLLECTION, META, DATA = ".sigmf-collection", ".sigmf-meta", ".sigmf-data"
NAMESPACE = "heimdall"  # of what the specification has no field for

_DATATYPE = re.compile(r"[cr](?:(f32|f64|i32|i16|u32|u16)_(le|be)|(i8|u8))")
_DATETIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,18}))?Z", re.ASCII | re.IGNORECASE)
_FILE_NAME = re.compile(r'[^/\\:*?"<>|\x00-\x1f]+')
_NANOSECONDS = 2**63 - 1  # before and after 1970 that NumPy's datetime64[ns] can hold


class SigmfError(ValueError):
    """A SigMF file that cannot be used; the message names the file, the field and the remedy."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)


class _Core(_Strict):
    model_config = ConfigDict(alias_generator=lambda name: f"core:{name}")


_Index = Annotated[int, Field(ge=0, lt=2**63)]
Scalar = bool | int | float | str | None


class Point(_Strict):
    """GeoJSON point: longitude and latitude in degrees and, if known, altitude in metres above the ellipsoid."""

    type: Literal["Point"] = "Point"
    coordinates: list[float] = Field(min_length=2, max_length=3)

    @field_validator("coordinates")
    @classmethod
    def _on_earth(cls, coordinates: list[float]) -> list[float]:
        if not (abs(coordinates[0]) <= 180 and abs(coordinates[1]) <= 90):
            raise ValueError("longitude must be within ±180° and latitude, the second, within ±90°")
        return coordinates


class Channel(_Strict):
    """One receiver of a recording: ``heimdall:channels`` holds one for each of its channels."""

    name: str
    label: int | None = None
    geolocation: Point | None = None
    attributes: dict[str, Scalar] = {}


class _Extension(_Strict):
    name: str
    version: str
    optional: bool


class _Global(_Core):
    datatype: str
    sample_rate: float | None = Field(None, ge=1e-6, le=1e12)
    num_channels: int = Field(1, ge=1, lt=2**63)
    sha512: str | None = None
    dataset: str | None = None
    offset: _Index = 0
    trailing_bytes: _Index = 0
    metadata_only: bool = False
    geolocation: Point | None = None
    extensions: list[_Extension] = []
    channels: list[Channel] | None = Field(None, alias=f"{NAMESPACE}:channels")
    attributes: dict[str, Scalar | list[Scalar]] = Field({}, alias=f"{NAMESPACE}:attributes")


class Capture(_Core):
    """A segment of samples."""

    sample_start: _Index
    datetime: str | None = None
    frequency: float | None = Field(None, ge=-1e12, le=1e12)
    header_bytes: _Index = 0
    geolocation: Point | None = None
    sample: int | None = Field(None, alias=f"{NAMESPACE}:sample", ge=-(2**63), lt=2**63)


class Annotation(_Core):
    """A remark on some samples; with ``heimdall:variables``, what is known of the capture that they lie in."""

    model_config = ConfigDict(extra="allow")

    sample_start: _Index
    sample_count: _Index | None = None
    variables: dict[str, Any] | None = Field(None, alias=f"{NAMESPACE}:variables")


class _Meta(_Strict):
    about: _Global = Field(alias="global")
    captures: list[Capture]
    annotations: list[Annotation]


class _Stream(_Strict):
    name: str
    hash: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_pair(cls, value: Any) -> Any:
        """Accept [name, hash], as the schema has it, beside the specification's objects."""
        return dict(zip(("name", "hash"), value, strict=False)) if isinstance(value, list) else value


class _Streams(_Core):
    streams: list[_Stream] = Field(min_length=1)


class _Collection(_Strict):
    collection: _Streams


@dataclass(frozen=True)
class Segment:
    """One capture of a recording.

    Attributes
    ----------
    capture : its metadata.
    samples : (N, C, P) as they are stored, of C channels; P is 2 for I and Q, 1 for real samples.
    start_s, resolution_s : time of the first sample since 1970 UTC, and the worth of its last digit; None if unknown.
    variables : what is known of the capture, by names of the contract.
    """

    capture: Capture
    samples: np.ndarray
    start_s: Fraction | None
    resolution_s: Fraction
    variables: dict[str, Any]


@dataclass(frozen=True)
class Recording:
    """One metadata file with its samples; ``about`` is its global object, ``annotations`` are those not ours."""

    file: Path
    about: _Global
    segments: tuple[Segment, ...]
    annotations: tuple[dict[str, Any], ...]

    @property
    def name(self) -> str:
        """Name of the file without its extension."""
        return self.file.name.removesuffix(META)


def collection_files(file: Path) -> list[Path]:
    """List the metadata files of a collection, in its order.

    Raises
    ------
    SigmfError
        If the collection is not valid, or a file is missing, outside of its folder, or not that of the hash.
    """
    files = []
    for stream in _parse(file, _Collection).collection.streams:
        meta = file.parent / f"{_plain_name(stream.name, file, 'core:streams')}{META}"
        if stream.hash is not None and hashlib.sha512(_read_bytes(meta)).hexdigest() != stream.hash.lower():
            raise SigmfError(
                f"{meta}: is not the file of which {file.name} holds the hash; fetch it again, or correct the hash"
            )
        files.append(meta)
    return files


def load_recording(file: Path) -> Recording:
    """Read one metadata file, and open and check the data file that it describes.

    Raises
    ------
    SigmfError
        If the metadata is not valid, or the data is missing, truncated, empty or not that of the hash.
    """
    meta = _parse(file, _Meta)
    about = meta.about
    needed = [e.name for e in about.extensions if not e.optional and e.name != NAMESPACE]
    if needed:
        raise SigmfError(f"{file}: core:extensions requires {needed[0]!r}, which is not supported; convert the file")
    if about.trailing_bytes or any(capture.header_bytes for capture in meta.captures) or about.metadata_only:
        raise SigmfError(f"{file}: has core:metadata_only, header or trailing bytes; give a file of samples only")
    data = file.with_name(f"{file.name.removesuffix(META)}{DATA}")
    if about.dataset is not None:
        data = file.with_name(_plain_name(about.dataset, file, "core:dataset"))
    samples = _map_samples(data, about, file)
    captures = meta.captures or [Capture.model_validate({"core:sample_start": about.offset})]
    starts = [capture.sample_start - about.offset for capture in captures]
    if starts[0] < 0 or any(start >= stop for start, stop in pairwise([*starts, len(samples)])):
        raise SigmfError(
            f"{file}: captures begin at samples {starts}, of {len(samples)} in {data.name}; they must ascend and hold "
            "samples each: fetch the whole file again, or correct core:sample_start"
        )
    variables = _variables(meta.annotations, about.offset, starts, len(samples), file)
    segments = [
        Segment(capture, samples[start:stop], *_start_time(capture, file), known)
        for capture, (start, stop), known in zip(captures, pairwise([*starts, len(samples)]), variables, strict=True)
    ]
    remarks = [annotation for annotation in meta.annotations if annotation.variables is None]
    return Recording(
        file=file,
        about=about,
        segments=tuple(segments),
        annotations=tuple(remark.model_dump(by_alias=True, exclude_none=True) for remark in remarks),
    )


def _variables(
    annotations: Sequence[Annotation], offset: int, starts: Sequence[int], length: int, file: Path
) -> list[dict[str, Any]]:
    """Variables that annotations state of each capture, after the samples that they cover are checked."""
    known: list[dict[str, Any]] = [{} for _ in starts]
    for index, annotation in enumerate(annotations):
        first, count = annotation.sample_start - offset, annotation.sample_count or 0
        if not 0 <= first <= length - count:
            raise SigmfError(
                f"{file}: annotations.{index} covers {count} samples from {first}, of {length} in the data; "
                "fetch the whole file again, or correct the annotation"
            )
        known[max(bisect_right(starts, first) - 1, 0)].update(annotation.variables or {})
    return known


_Model = TypeVar("_Model", bound=BaseModel)


def _parse(file: Path, model: type[_Model]) -> _Model:
    try:
        return model.model_validate_json(_read_bytes(file))
    except ValidationError as error:
        raise SigmfError(f"{file}: {first_error(error, model)}") from error


def _read_bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise SigmfError(f"{file}: cannot be read ({error.strerror}); give a readable file") from error


def _plain_name(name: str, file: Path, field: str) -> str:
    """Return a file's name if it holds no path."""
    if not _FILE_NAME.fullmatch(name) or name in (".", ".."):
        raise SigmfError(f"{file}: {field}: {name!r} is no plain name of a file beside it; correct it")
    return name


def _dtype(datatype: str, file: Path) -> np.dtype[Any]:
    """Return the type of one component, of a format that the specification allows."""
    match = _DATATYPE.fullmatch(datatype)
    if match is None:
        raise SigmfError(
            f"{file}: core:datatype: {datatype!r} is unknown; it must be c or r, then f32, f64, i32, i16, u32 or u16 "
            "with _le or _be, or i8 or u8"
        )
    kind = match[1] or match[3]
    return np.dtype(f"{'>' if match[2] == 'be' else '<'}{kind[0]}{int(kind[1:]) // 8}")


def _map_samples(data: Path, about: _Global, file: Path) -> np.ndarray:
    """Map a data file as (N, C, P), after its size and hash are checked."""
    dtype, components = _dtype(about.datatype, file), 2 if about.datatype[0] == "c" else 1
    frame = dtype.itemsize * components * about.num_channels
    try:
        size = data.stat().st_size
        if size == 0 or size % frame:
            raise SigmfError(
                f"{data}: has {size} bytes, which is no positive multiple of the {frame} of a sample of "
                f"{about.num_channels} channels in {about.datatype}; fetch the whole file again"
            )
        if about.sha512 is not None and file_checksum(data, "sha512") != about.sha512.lower():
            raise SigmfError(f"{data}: has another hash than core:sha512 of {file.name}; fetch it again")
        return np.memmap(data, dtype, mode="r", shape=(size // frame, about.num_channels, components))
    except OSError as error:
        raise SigmfError(f"{data}: cannot be read ({error.strerror}); put it beside {file.name}") from error


def _start_time(capture: Capture, file: Path) -> tuple[Fraction | None, Fraction]:
    """Return the time of a capture's first sample in seconds since 1970 UTC, and the worth of its last digit."""
    if capture.datetime is None:
        return None, Fraction(0)
    match = _DATETIME.fullmatch(capture.datetime)
    try:
        if match is None:
            raise ValueError("it is not of that form")
        whole = datetime.fromisoformat(f"{match[1].upper()}+00:00")
    except ValueError as error:
        raise SigmfError(
            f"{file}: core:datetime: {capture.datetime!r} is refused ({error}); write YYYY-MM-DDThh:mm:ss.sssZ"
        ) from error
    digits = match[2] or ""
    resolution = Fraction(1, 10 ** len(digits))
    start_s = int(whole.timestamp()) + int(digits or 0) * resolution
    if abs(start_s) * 10**9 > _NANOSECONDS:
        raise SigmfError(f"{file}: core:datetime: {capture.datetime} is centuries away; correct it")
    return start_s, resolution


def common_value(recordings: Sequence[Recording], values: Sequence[Any], field: str) -> Any:
    """Return the one value that recordings have in common.

    Raises
    ------
    SigmfError
        If there are several.
    """
    for recording, value in zip(recordings, values, strict=True):
        if value != values[0]:
            raise SigmfError(
                f"{recording.file}: {field}: is {value}, but {values[0]} in {recordings[0].name}; give recordings alike"
            )
    return values[0]
