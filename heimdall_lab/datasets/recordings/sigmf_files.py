"""SigMF files: metadata that is checked as it is parsed, and the samples that it describes.

The package ``sigmf``, which the tests compare with, accepts captures beyond the data, positions off the Earth, numbers
that are not finite and types of data that SigMF does not have, and cuts times to microseconds.

Source: SigMF specification 1.2.6, sigmf.org, with the schema of its metadata.
"""

import codecs
import hashlib
import json
import logging
import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import numpy as np
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from heimdall_lab.core.checked import first_error
from heimdall_lab.core.text import quoted, shortened
from heimdall_lab.datasets.recordings.sigmf_samples import Layout, map_captures
from heimdall_lab.datasets.recordings.sigmf_stored import (
    DATA,
    LONGEST_NAME,
    META,
    MOST_FILES,
    Archived,
    SigmfError,
    stored,
)

VERSION = "1.2.6"
NAMESPACE = "heimdall"  # of what the specification has no field for
REPORTED = ("reported_latitude", "reported_longitude", "reported_altitude")
WIDEST_BAND = 0.8  # of the sample rate, that a band within it can be; what is wider is the whole
META_LIMIT_BYTES = 10_000_000  # of a metadata file, which is read whole

_DATETIME = re.compile(  # to the second, with a fraction of it, and with an offset from UTC, which "Z" may follow
    r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:[.,](\d{1,99}))?"
    r"(?: ?(?:Z|[+-]00:?00Z|(?P<sign>[+-])(?P<hours>\d\d)(?::?(?P<minutes>[0-5]\d))?))?",
    re.ASCII | re.IGNORECASE,
)
_OFFSET = re.compile(r"(?:Z|[+-]\d\d(?::?\d\d)?)\s*$", re.ASCII | re.IGNORECASE)
_NANOSECONDS = 2**63 - 1  # before and after 1970 that NumPy's datetime64[ns] can hold


_log = logging.getLogger(__name__)


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)


class _Core(_Strict):
    model_config = ConfigDict(alias_generator=lambda name: f"core:{name}")


def _as_number(value: Any) -> Any:
    """Read a number that is written as text; what is none is returned as it is."""
    if not isinstance(value, str):
        return value
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value


def _as_integer(value: Any) -> Any:
    """Read a whole number that is written as ``1.0``, ``2.4e6`` or text; what is none is returned as it is."""
    number = _as_number(value)
    return int(number) if isinstance(number, float) and number.is_integer() else number


# JSON has one kind of number, which programs write with and without point, exponent and quotation marks.
_Number = Annotated[float, BeforeValidator(_as_number)]
_Integer = Annotated[int, BeforeValidator(_as_integer)]
_Edge = Annotated[int | float, BeforeValidator(_as_number)]
_Index = Annotated[_Integer, Field(ge=0, lt=2**63)]
Scalar = bool | int | float | str | None


class Point(_Strict):
    """GeoJSON point: longitude and latitude in degrees and, if known, altitude in metres above the ellipsoid."""

    type: Literal["Point"] = "Point"
    coordinates: list[_Number] = Field(min_length=2, max_length=3)

    @field_validator("type", mode="before")
    @classmethod
    def _in_any_case(cls, value: Any) -> Any:
        return value.capitalize() if isinstance(value, str) else value

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
    sample_rate: _Number | None = Field(None, ge=1e-6, le=1e12)
    num_channels: _Integer = Field(1, ge=1, le=1024)
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
    global_index: _Index | None = None
    datetime: str | None = None
    frequency: _Number | None = Field(None, ge=-1e12, le=1e12)
    header_bytes: _Index = 0
    geolocation: Point | None = None
    sample: int | None = Field(None, alias=f"{NAMESPACE}:sample", ge=-(2**63), lt=2**63)


class Annotation(_Core):
    """A remark on some samples; with fields of the namespace, what is known of the capture that they lie in.

    ``heimdall:variables`` holds variables of the contract, the others where the transmitter is known to be beforehand.
    """

    model_config = ConfigDict(extra="allow")

    sample_start: _Index
    sample_count: _Index | None = None
    freq_lower_edge: _Edge | None = None
    freq_upper_edge: _Edge | None = None
    variables: dict[str, Any] | None = Field(None, alias=f"{NAMESPACE}:variables")
    reported_latitude: _Number | None = Field(None, alias=f"{NAMESPACE}:reported_latitude", ge=-90, le=90)
    reported_longitude: _Number | None = Field(None, alias=f"{NAMESPACE}:reported_longitude", ge=-180, le=180)
    reported_altitude: _Number | None = Field(None, alias=f"{NAMESPACE}:reported_altitude")

    @model_validator(mode="after")
    def _whole_position(self) -> Self:
        if (self.reported_latitude is None) != (self.reported_longitude is None):
            raise ValueError(
                f"{NAMESPACE}:reported_latitude and {NAMESPACE}:reported_longitude belong together; give both or none"
            )
        return self

    def marked_band_hz(self, capture: Capture, rate_hz: float | None) -> tuple[float, float] | None:
        """Edges of the band that it marks within that of a capture; None where it marks none, or nearly all of it."""
        low_hz, high_hz = self.freq_lower_edge, self.freq_upper_edge
        if low_hz is None or high_hz is None or capture.frequency is None or rate_hz is None:
            return None
        within = abs(low_hz - capture.frequency) <= rate_hz / 2 and abs(high_hz - capture.frequency) <= rate_hz / 2
        return (low_hz, high_hz) if within and 0 < high_hz - low_hz <= WIDEST_BAND * rate_hz else None

    @property
    def reported(self) -> dict[str, float]:
        """What is known beforehand, by variables of the contract."""
        stated = {name: getattr(self, name) for name in REPORTED}
        return {name: value for name, value in stated.items() if value is not None}


class _Meta(_Strict):
    about: _Global = Field(alias="global")
    captures: list[Capture] = []
    annotations: list[Annotation] = []


class _Stream(_Strict):
    name: str
    hash: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_pair(cls, value: Any) -> Any:
        """Accept [name, hash], as the schema has it, beside the specification's objects."""
        return dict(zip(("name", "hash"), value, strict=False)) if isinstance(value, list) else value


class _Streams(_Core):
    streams: list[_Stream] = Field(min_length=1, max_length=MOST_FILES)


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
    place : number of the first sample in the stream that the receiver's oscillator counts.
    """

    capture: Capture
    samples: np.ndarray
    start_s: Fraction | None
    resolution_s: Fraction
    variables: dict[str, Any]
    place: int


@dataclass(frozen=True)
class Band:
    """What an annotation marks of a capture: one emission among those that a wide capture holds.

    Attributes
    ----------
    annotation : its number.
    capture : number of the capture that it begins in.
    first, count : of the samples of the capture; it may end beyond them.
    edges_hz : lower and upper edge.
    stated : what is known of the emission, by names of the contract.
    """

    annotation: int
    capture: int
    first: int
    count: int
    edges_hz: tuple[float, float]
    stated: dict[str, Any]


@dataclass(frozen=True)
class Recording:
    """One metadata file with its samples.

    Attributes
    ----------
    file : the metadata file.
    name : what its receiver is called, unless the file says that.
    about : its global object.
    segments : its captures.
    annotations : those not ours.
    bands : marked by annotations, in the order of time and frequency.
    """

    file: Path
    name: str
    about: _Global
    segments: tuple[Segment, ...]
    annotations: tuple[dict[str, Any], ...]
    bands: tuple[Band, ...]


def collection_files(file: Path, archived: Archived) -> list[Path]:
    """List the metadata files of a collection, in its order; those of one in an archive may be in folders below it.

    Raises
    ------
    SigmfError
        If the collection is not valid, or a file is missing, outside of its folder, or not that of the hash.
    """
    files, by_name = [], defaultdict[str, list[Path]](list)
    for path in archived:
        if path.is_relative_to(file.parent):
            by_name[path.name].append(path)
    for stream in _parse(file, _Collection, archived).collection.streams:
        meta = file.parent / f"{_plain_name(stream.name, file, 'core:streams').removesuffix(META)}{META}"
        if file in archived and meta not in archived:
            below = by_name[meta.name]
            meta = below[0] if len(below) == 1 else meta
        content = _read_bytes(meta, archived)
        if stream.hash is not None and hashlib.sha512(content).hexdigest() != stream.hash.lower():
            raise SigmfError(
                f"{meta}: is not the file of which {file.name} holds the hash; fetch it again, or correct the hash"
            )
        files.append(meta)
    return files


def named_dataset(file: Path) -> str | None:
    """Name of the file that metadata says holds its samples, None if it does not say it or cannot be read."""
    try:
        return _parse(file, _Meta, {}).about.dataset
    except SigmfError:
        return None


def load_recording(file: Path, name: str, archived: Archived) -> Recording:
    """Read one metadata file, and open and check the data file that it describes.

    Raises
    ------
    SigmfError
        If the metadata is not valid, or the data is missing, truncated, empty or not that of the hash.
    """
    meta = _parse(file, _Meta, archived)
    about = meta.about
    needed = [e.name for e in about.extensions if not e.optional and e.name != NAMESPACE]
    if needed:
        raise SigmfError(
            f"{file}: core:extensions requires {quoted(needed[0])}, which is not supported; convert the file"
        )
    captures = meta.captures or [Capture.model_validate({"core:sample_start": about.offset})]
    meta = meta.model_copy(update={"captures": captures})
    starts = [capture.sample_start - about.offset for capture in captures]
    samples, count = _captured_samples(file, about, captures, starts, archived)
    bands, variables = _variables(meta, starts, count, file)
    segments = [
        Segment(capture, part, *_start_time(capture, file), known, _place(capture))
        for capture, part, known in zip(captures, samples, variables, strict=True)
    ]
    stamps = [capture.datetime for capture in captures if capture.datetime is not None]
    if stamps and not _OFFSET.search(stamps[0]):
        _log.warning("%s: core:datetime: %s names no offset, and is taken for UTC", file.name, stamps[0].strip())
    remarks = [annotation for annotation in meta.annotations if annotation.variables is None]
    return Recording(
        file=file,
        name=name,
        about=about,
        segments=tuple(segments),
        annotations=tuple(remark.model_dump(by_alias=True, exclude_none=True) for remark in remarks),
        bands=tuple(sorted(bands, key=lambda band: (band.capture, band.first, band.edges_hz))),
    )


def _place(capture: Capture) -> int:
    return capture.sample_start if capture.global_index is None else capture.global_index


def _captured_samples(
    file: Path, about: _Global, captures: Sequence[Capture], starts: Sequence[int], archived: Archived
) -> tuple[list[np.ndarray], int]:
    """Map the samples of each capture, and count all of them, after the hash of their file is checked."""
    data = file.with_name(f"{file.name.removesuffix(META)}{DATA}")
    if about.dataset is not None:
        data = file.with_name(_plain_name(about.dataset, file, "core:dataset"))
    layout = Layout(
        datatype=about.datatype,
        channels=about.num_channels,
        starts=tuple(starts),
        header_bytes=tuple(capture.header_bytes for capture in captures),
        trailing_bytes=about.trailing_bytes,
    )
    try:
        if about.metadata_only and not (about.dataset is not None and (data in archived or data.is_file())):
            raise SigmfError(f"{file}: has core:metadata_only; give the data, too, and correct that")
        place = stored(data, archived)
        if about.sha512 is not None and place.sha512() != about.sha512.lower():
            raise SigmfError(f"{data}: has another hash than core:sha512 of {file.name}; fetch it again")
        return map_captures(data, place, layout, file)
    except OSError as error:
        raise SigmfError(f"{data}: cannot be read ({error.strerror}); put it beside {file.name}") from error


def _variables(meta: _Meta, starts: Sequence[int], length: int, file: Path) -> tuple[list[Band], list[dict[str, Any]]]:
    """Bands that annotations mark, and variables that others state of each capture, after their samples are checked."""
    known: list[dict[str, Any]] = [{} for _ in starts]
    bands = []
    for index, annotation in enumerate(meta.annotations):
        first, count = annotation.sample_start - meta.about.offset, annotation.sample_count or 0
        if not 0 <= first <= length - count:
            raise SigmfError(
                f"{file}: annotations.{index} covers {count} samples from {first}, of {length} in the data; "
                "fetch the whole file again, or correct the annotation"
            )
        capture = max(bisect_right(starts, first) - 1, 0)
        stated = (annotation.variables or {}) | annotation.reported
        edges_hz = annotation.marked_band_hz(meta.captures[capture], meta.about.sample_rate)
        if edges_hz is None:
            known[capture].update(stated)
        else:
            place = first - starts[capture]
            bands.append(Band(index, capture, place, count or length - first, edges_hz, stated))
    return bands, known


_Model = TypeVar("_Model", bound=BaseModel)


def _parse(file: Path, model: type[_Model], archived: Archived) -> _Model:
    try:
        return model.model_validate_json(_utf8(_read_bytes(file, archived)))
    except ValidationError as error:
        raise SigmfError(f"{file}: {first_error(error, model)}") from error


def _utf8(content: bytes) -> bytes:
    """JSON in UTF-8 without a byte order mark, which RFC 8259, section 8.1, lets readers ignore."""
    if not content.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)):
        return content
    try:
        return content.decode(json.detect_encoding(content)).encode()
    except UnicodeError:
        return content  # which is refused for what it is


def _read_bytes(file: Path, archived: Archived) -> bytes:
    try:
        return stored(file, archived).read(META_LIMIT_BYTES)
    except OSError as error:
        raise SigmfError(f"{file}: cannot be read ({error.strerror}); give a readable file") from error
    except ValueError as error:
        raise SigmfError(
            f"{file}: {error}, as metadata may; leave out annotations, or cut the recording into several"
        ) from error


def _plain_name(name: str, file: Path, field: str) -> str:
    """Return a file's name if it holds no path; names may hold all that those of files do, colons among it."""
    if name in ("", ".", "..") or "/" in name or "\0" in name or len(name) > LONGEST_NAME:
        raise SigmfError(f"{file}: {field}: {quoted(name)} is no plain name of a file beside it; correct it")
    return name


def _start_time(capture: Capture, file: Path) -> tuple[Fraction | None, Fraction]:
    """Return the time of a capture's first sample in seconds since 1970 UTC, and the worth of its last digit.

    SigMF allows UTC alone; other offsets are those of RFC 3339, section 5.6, and without one it is UTC.
    """
    if capture.datetime is None:
        return None, Fraction(0)
    match = _DATETIME.fullmatch(capture.datetime.strip())
    try:
        if match is None:
            raise ValueError("it is not of that form")
        whole = datetime.fromisoformat(f"{match[1]}T{match[2]}").replace(tzinfo=UTC)
        ahead = timedelta(hours=int(match["hours"] or 0), minutes=int(match["minutes"] or 0))
        if ahead >= timedelta(days=1):
            raise ValueError("its offset is a day or more")
    except ValueError as error:
        raise SigmfError(
            f"{file}: core:datetime: {quoted(capture.datetime)} is refused ({error}); write YYYY-MM-DDThh:mm:ss.sssZ"
        ) from error
    digits = match[3] or ""
    resolution = Fraction(1, 10 ** len(digits))
    start_s = int(whole.timestamp()) + int(digits or 0) * resolution
    start_s -= int(ahead.total_seconds()) * (-1 if match["sign"] == "-" else 1)
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
                f"{recording.file}: {field}: is {shortened(value)}, but {shortened(values[0])} in "
                f"{recordings[0].name}; give recordings alike"
            )
    return values[0]
