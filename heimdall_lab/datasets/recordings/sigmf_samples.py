"""Samples in the data file of a SigMF recording, between headers and whatever else is no sample.

Source: SigMF specification 1.2.6, sigmf.org: "SigMF Dataset Format", ``core:header_bytes``, ``core:trailing_bytes``.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from heimdall_lab.core.text import listed, quoted
from heimdall_lab.datasets.recordings.sigmf_stored import SigmfError, Stored
from heimdall_lab.datasets.recordings.wav_files import is_wave, read_chunks

_DATATYPE = re.compile(r"[cr](?:(f32|f64|i32|i16|u32|u16)_(le|be)|(i8|u8)(?:_[lb]e)?)")


@dataclass(frozen=True)
class Layout:
    """What is stored in a data file: frames of a sample of each channel, with other bytes before, between and after.

    Attributes
    ----------
    datatype : as in ``core:datatype``.
    channels : samples in a frame.
    starts : first frame of each capture.
    header_bytes : before those of each capture.
    trailing_bytes : after the last one.
    """

    datatype: str
    channels: int
    starts: tuple[int, ...]
    header_bytes: tuple[int, ...]
    trailing_bytes: int


def map_captures(data: Path, place: Stored, layout: Layout, file: Path) -> tuple[list[np.ndarray], int]:
    """Map the samples of each capture as (N, C, P), and count the frames of all of them.

    Parameters
    ----------
    data : Path
        How messages name the data file.
    place : Stored
        Where it is.
    layout : Layout
        What is stored in it.
    file : Path
        Metadata file, for messages.

    Raises
    ------
    SigmfError
        If the file holds no whole number of frames, or a capture none.
    OSError
        If it cannot be read.
    """
    dtype, components = _dtype(layout.datatype, file), 2 if layout.datatype[0] == "c" else 1
    frame = dtype.itemsize * components * layout.channels
    headers, end = _bounds(place, layout)
    skipped = sum(headers) + place.size - end
    held = place.size - skipped
    if held <= 0 or held % frame:
        besides = f" beside the {skipped} of core:header_bytes and core:trailing_bytes" if skipped else ""
        raise SigmfError(
            f"{data}: has {held} bytes{besides}, which is no positive multiple of the {frame} of a sample of "
            f"{layout.channels} channels in {layout.datatype}; fetch the whole file again"
            f"{', or correct these' if skipped else ''}"
        )
    count, starts = held // frame, layout.starts
    if starts[0] < 0 or any(start >= stop for start, stop in pairwise([*starts, count])):
        raise SigmfError(
            f"{file}: captures begin at samples {listed(starts)}, of {count} in {data.name}; they must ascend and hold "
            "samples each: fetch the whole file again, or correct core:sample_start"
        )
    stored = np.memmap(place.file, np.uint8, mode="r", offset=place.offset, shape=(end,))
    bounds = zip(pairwise([*starts, count]), accumulate(headers), strict=True)
    pieces = (stored[before + frame * start : before + frame * stop] for (start, stop), before in bounds)
    return [piece.view(dtype).reshape(-1, layout.channels, components) for piece in pieces], count


def _dtype(datatype: str, file: Path) -> np.dtype[Any]:
    """Return the type of one component, of a format that the specification allows."""
    match = _DATATYPE.fullmatch(datatype)
    if match is None:
        raise SigmfError(
            f"{file}: core:datatype: {quoted(datatype)} is unknown; it must be c or r, then f32, f64, i32, i16, u32 or "
            "u16 with _le or _be, or i8 or u8"
        )
    kind = match[1] or match[3]
    return np.dtype(f"{'>' if match[2] == 'be' else '<'}{kind[0]}{int(kind[1:]) // 8}")


def _bounds(place: Stored, layout: Layout) -> tuple[Sequence[int], int]:
    """Bytes before the samples of each capture, and the end of the last ones.

    What metadata does not say of a WAV file with one capture, its own header does.
    """
    headers, end = layout.header_bytes, place.size - layout.trailing_bytes
    if len(headers) > 1 or layout.trailing_bytes:
        return headers, end
    samples = _samples_of_wave(place)
    if samples is None or headers[0] not in (0, samples[0]):
        return headers, end
    return [samples[0]], samples[1]


def _samples_of_wave(place: Stored) -> tuple[int, int] | None:
    """Where the samples of a WAV file begin and end, None of other files."""
    with place.file.open("rb") as opened:
        opened.seek(place.offset)
        if not is_wave(opened):
            return None
        try:
            _, samples = read_chunks(opened, place.size, place.file.name, place.offset)
        except ValueError as error:
            raise SigmfError(str(error)) from error
    return None if samples is None else (samples[0], samples[0] + samples[1])
