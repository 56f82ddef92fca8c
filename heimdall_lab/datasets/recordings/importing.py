"""SigMF of what SDR programs record: WAV files and raw samples."""

import hashlib
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from heimdall_lab.core.files import make_folder, write_files
from heimdall_lab.core.text import quoted
from heimdall_lab.datasets.recordings.sigmf_files import NAMESPACE, VERSION
from heimdall_lab.datasets.recordings.sigmf_stored import DATA, META
from heimdall_lab.datasets.recordings.wav import clock_source, start_sigma_s
from heimdall_lab.datasets.recordings.wav_files import Start, open_wav, told_by_name

RAW = {".cu8": ("cu8", 2), ".cs8": ("ci8", 2), ".cs16": ("ci16_le", 4), ".cf32": ("cf32_le", 8)}  # and bytes a sample
SUFFIXES = (".wav", *RAW)
_TYPES = {"i1": "i8", "i2": "i16_le", "i4": "i32_le", "f4": "f32_le", "f8": "f64_le"}
_BATCH_SAMPLES = 2**20
_DATETIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,18})?Z", re.ASCII)
_PLAIN = re.compile(r'[^/\\:*?"<>|\x00-\x1f]+')


@dataclass(frozen=True)
class _Source:
    """Samples to import, as bytes of a SigMF datatype, and what their file tells; None and NaN where nothing."""

    batches: Iterator[bytes]
    datatype: str
    sample_rate_hz: float | None
    start: Start | None
    centre_frequency_hz: float
    num_bytes: int


def import_recording(
    file: str | Path,
    folder: str | Path = ".",
    *,
    sample_rate_hz: float | None = None,
    centre_frequency_hz: float | None = None,
    start: str | None = None,
    position: Sequence[float] | None = None,
    name: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Make a SigMF recording of a WAV file of an SDR program, or of raw samples.

    All samples are kept: integers of 8, 16 and 32 bits and floats as they are, 24 bits as the upper ones of 32. They
    are copied some at a time. What the header of a WAV or the file's name tells of the start and the centre frequency
    is kept, too; how far such a start may be off is in the field ``clock_sigma_s`` of ``heimdall:channels``. The data
    and the metadata appear together, when both are whole.

    Parameters
    ----------
    file
        WAV as `read_wav` takes it, or raw samples that end in ``.cu8``, ``.cs8``, ``.cs16`` or ``.cf32``: I and Q in
        turn, little-endian.
    folder
        To write into; made if it is missing.
    sample_rate_hz, centre_frequency_hz
        Of raw samples, or in the place of what the file tells.
    start
        UTC of the first sample, as ``2024-05-01T12:00:00.123456789Z``: it counts as good as its last digit.
    position
        Of the receiver: latitude, longitude and, if known, altitude, degrees and metres.
    name
        Of the receiver, and of the files; by default that of the file.
    overwrite
        Whether files of that name are replaced.

    Returns
    -------
    Path
        Of the metadata, ``NAME.sigmf-meta``.

    Raises
    ------
    ValueError
        If the file is no such recording, or not whole, an argument is not accepted, or there is a recording already.
    UnwritableError
        If the folder cannot be written, or has no room.

    Source
    ------
    SigMF specification 1.2.6, sigmf.org; `recordings.wav_files` names the layouts of WAVs.
    """
    source_file = Path(file)
    title = source_file.stem if name is None else name
    if not _PLAIN.fullmatch(title) or title in (".", ".."):
        raise ValueError(f"name: {quoted(title)} cannot name a file; give letters, digits, hyphens and underscores")
    meta, data = (Path(folder) / f"{title}{suffix}" for suffix in (META, DATA))
    present = [target for target in (meta, data) if target.exists()]
    if present and not overwrite:
        raise ValueError(f"{present[0]}: exists; choose another name or folder, or say that it is to be overwritten")
    source = _open_source(source_file)
    rate_hz = sample_rate_hz if sample_rate_hz is not None else source.sample_rate_hz
    if rate_hz is None or not 1e-6 <= rate_hz <= 1e12:
        raise ValueError(f"sample_rate_hz: is {rate_hz} for {source_file.name}; give 1e-6 to 1e12 samples per second")
    about: dict[str, Any] = {
        "core:datatype": source.datatype,
        "core:sample_rate": float(rate_hz),
        "core:version": VERSION,
        "core:description": f"imported from {source_file.name}",
        "core:extensions": [{"name": NAMESPACE, "version": "1.0.0", "optional": True}],
        f"{NAMESPACE}:channels": [{"name": title}],
    }
    if start is None and source.start is not None:
        about[f"{NAMESPACE}:channels"][0]["attributes"] = {
            "clock_sigma_s": start_sigma_s(source.start),
            "clock_source": clock_source(source.start),
        }
    if position is not None:
        about["core:geolocation"] = _point(position)
    capture = _capture(source, centre_frequency_hz, start)
    checksum = hashlib.sha512()

    def write_data(path: Path) -> None:
        with path.open("wb") as written:
            for batch in _read(source.batches, source_file):
                checksum.update(batch)
                written.write(batch)

    def write_meta(path: Path) -> None:
        content = {
            "global": {**about, "core:sha512": checksum.hexdigest()},
            "captures": [capture],
            "annotations": [],
        }
        text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        path.write_text(text, encoding="utf-8")

    make_folder(Path(folder))
    write_files({data: write_data, meta: write_meta}, needed_bytes=source.num_bytes)
    return meta


def _open_source(file: Path) -> _Source:
    suffix = file.suffix.lower()
    if suffix == ".wav":
        wav = open_wav(file)
        batches = (
            wav.values(first, first + _BATCH_SAMPLES).tobytes() for first in range(0, wav.frames, _BATCH_SAMPLES)
        )
        value = wav.values(0, 1).dtype
        datatype = f"{'c' if wav.channels == 2 else 'r'}{_TYPES[value.str[1:]]}"
        num_bytes = wav.frames * wav.channels * value.itemsize
        return _Source(batches, datatype, wav.sample_rate_hz, wav.start, wav.centre_frequency_hz, num_bytes)
    if suffix not in RAW:
        raise ValueError(f"{file.name}: is no recording to import; give files that end in {', '.join(SUFFIXES)}")
    datatype, frame = RAW[suffix]
    try:
        size = file.stat().st_size
    except OSError as error:
        raise _unreadable(file, error) from error
    if size == 0 or size % frame:
        raise ValueError(f"{file.name} has {size} bytes, no positive multiple of {frame}; fetch the whole file again")
    return _Source(_pieces(file, _BATCH_SAMPLES * frame), datatype, None, *told_by_name(file.stem), size)


def _pieces(file: Path, size: int) -> Iterator[bytes]:
    with file.open("rb") as opened:
        while piece := opened.read(size):
            yield piece


def _read(batches: Iterator[bytes], file: Path) -> Iterator[bytes]:
    """Yield the batches; ValueError where the file that they come from cannot be read."""
    try:
        yield from batches
    except OSError as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: OSError) -> ValueError:
    return ValueError(f"{file}: cannot be read ({error.strerror}); give a readable recording")


def _capture(source: _Source, centre_frequency_hz: float | None, start: str | None) -> dict[str, Any]:
    """Metadata of the samples: what is given goes before what the file tells."""
    capture: dict[str, Any] = {"core:sample_start": 0}
    centre_hz = source.centre_frequency_hz if centre_frequency_hz is None else centre_frequency_hz
    if math.isfinite(centre_hz):
        capture["core:frequency"] = float(centre_hz)
    if start is not None:
        capture["core:datetime"] = _checked_start(start)
    elif source.start is not None:
        capture["core:datetime"] = _text_of(source.start)
    return capture


def _checked_start(start: str) -> str:
    try:
        if _DATETIME.fullmatch(start) is None:
            raise ValueError("it is not of that form")
        datetime.fromisoformat(start[:19])
    except ValueError as error:
        raise ValueError(f"start: {quoted(start)} is refused ({error}); write YYYY-MM-DDThh:mm:ss.sssZ") from error
    return start


def _text_of(start: Start) -> str:
    digits = "milliseconds" if start.resolution_s < 1 else "seconds"
    return f"{start.time.replace(tzinfo=None).isoformat(timespec=digits)}Z"


def _point(position: Sequence[float]) -> dict[str, Any]:
    if len(position) not in (2, 3) or not (abs(position[0]) <= 90 and abs(position[1]) <= 180):
        raise ValueError(
            f"position: is {tuple(position)}; give latitude within ±90°, longitude within ±180° and, if known, altitude"
        )
    latitude, longitude, *altitude = map(float, position)
    if not all(map(math.isfinite, altitude)):
        raise ValueError(f"position: has an altitude of {altitude[0]}; give a finite one in metres, or none")
    return {"type": "Point", "coordinates": [longitude, latitude, *altitude]}
