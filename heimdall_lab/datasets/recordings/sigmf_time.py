"""Samples of several SigMF recordings on one time axis."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from math import floor

import numpy as np

from heimdall_lab.core.interpolation import HALF_WIDTH, interpolate_between
from heimdall_lab.core.units import ADC_MAX
from heimdall_lab.datasets.recordings import stretches
from heimdall_lab.datasets.recordings.common import as_numbers, quantise
from heimdall_lab.datasets.recordings.sigmf_files import Channel, Recording, Segment, SigmfError, common_value

_LEAST_SAMPLES = 4 * HALF_WIDTH  # of a stretch, of which interpolation takes some


@dataclass(frozen=True)
class Stream:
    """What one receiver recorded: a channel of a recording."""

    recording: Recording
    column: int
    channel: Channel

    def segment(self, capture: int) -> Segment:
        """Capture of that index."""
        return self.recording.segments[capture]


@dataclass(frozen=True)
class Span:
    """What captures of all receivers have in common.

    Attributes
    ----------
    captures : index of the capture of each receiver.
    begin : first sample of each receiver, a fraction where it lies between two.
    length : number of samples.
    start_s : time of the first one since 1970 UTC, None if unknown.
    """

    captures: tuple[int, ...]
    begin: tuple[Fraction, ...]
    length: int
    start_s: Fraction | None

    def segments(self, receivers: Sequence[Stream]) -> list[Segment]:
        """Captures of the receivers."""
        return [receiver.segment(capture) for receiver, capture in zip(receivers, self.captures, strict=True)]

    def cut(self, first: int, length: int, rate_hz: float) -> "Span":
        """Only some of its samples."""
        start_s = None if self.start_s is None else self.start_s + first / Fraction(rate_hz)
        return Span(self.captures, tuple(begin + first for begin in self.begin), length, start_s)


def common_span(receivers: Sequence[Stream], captures: Sequence[int], rate_hz: float) -> Span:
    """Cut a capture of each receiver to the time that they have in common, by their stamps."""
    segments = [receiver.segment(capture) for receiver, capture in zip(receivers, captures, strict=True)]
    stamps = [segment.start_s for segment in segments if segment.start_s is not None]
    if not stamps:
        shortest = min(len(segment.samples) for segment in segments)
        return Span(tuple(captures), (Fraction(0),) * len(segments), shortest, None)
    if len(stamps) < len(segments):
        index = next(index for index, segment in enumerate(segments) if segment.start_s is None)
        file, capture = receivers[index].recording.file, captures[index]
        raise SigmfError(f"{file}: core:datetime of capture {capture} is missing, but others have it; give all or none")
    latest, rate = max(stamps), Fraction(rate_hz)
    tolerance = max(segment.resolution_s for segment in segments) * rate
    begin = [_snapped_to_sample((latest - start_s) * rate, tolerance) for start_s in stamps]
    margin = HALF_WIDTH if any(offset.denominator > 1 for offset in begin) else 0  # samples for interpolation
    begin = [offset + margin for offset in begin]
    ends = [len(segment.samples) - floor(offset) for segment, offset in zip(segments, begin, strict=True)]
    length = min(ends) - margin
    if length < 1:
        late, early = (receivers[index].channel.name for index in (stamps.index(latest), ends.index(min(ends))))
        raise SigmfError(
            f"{receivers[0].recording.file}: capture {captures[0]} of {late!r} begins after that of {early!r} ends; "
            "give simultaneous recordings, or correct core:datetime"
        )
    return Span(tuple(captures), tuple(begin), length, latest + margin / rate)


def _snapped_to_sample(offset: Fraction, tolerance: Fraction) -> Fraction:
    nearest = Fraction(round(offset))
    return nearest if abs(offset - nearest) <= tolerance else offset


def window_length(spans: Sequence[Span], window_s: float | None, rate_hz: float) -> int:
    """Return the number of samples of one window."""
    shortest, longest = min(span.length for span in spans), max(span.length for span in spans)
    if window_s is None:
        if shortest < longest:
            raise ValueError(
                f"captures: hold {shortest} to {longest} common samples; give window_s, the length to cut them into"
            )
        return stretches.best_length([longest])
    if not 1 <= window_s * rate_hz < longest + 0.5:
        raise ValueError(
            f"window_s: is {window_s}; give at least one sample, {1 / rate_hz:g} s, and at most what the recordings "
            f"have in common, {longest / rate_hz:g} s"
        )
    return round(window_s * rate_hz)


def spans_by_capture(receivers: Sequence[Stream], rate_hz: float) -> list[Span]:
    """What the receivers have in common of each capture.

    Raises
    ------
    SigmfError
        If captures differ in number, or do not overlap.
    """
    recordings = [receiver.recording for receiver in receivers]
    count = common_value(recordings, [len(recording.segments) for recording in recordings], "number of captures")
    return [common_span(receivers, [capture] * len(receivers), rate_hz) for capture in range(count)]


def spans_of(receivers: Sequence[Stream], rate_hz: float) -> list[Span]:
    """What the receivers have in common of each capture, or by time where they lost samples at different times.

    Raises
    ------
    SigmfError
        If there is nothing, or captures differ in number without stamps that would tell what belongs together.
    """
    try:
        return spans_by_capture(receivers, rate_hz)
    except SigmfError:
        covered = [covered_s(receiver, rate_hz) for receiver in receivers]
        if all(len(own) < 2 for own in covered) or not all(covered):
            raise
        found = [
            common_span(receivers, numbers, rate_hz)
            for begin_s, end_s, numbers in stretches.common_stretches(covered)
            if (end_s - begin_s) * Fraction(rate_hz) > _LEAST_SAMPLES
        ]
        if not found:
            raise
        return found


def covered_s(receiver: Stream, rate_hz: float) -> list[tuple[Fraction, Fraction]]:
    """Time that each capture of a receiver covers, s since 1970 UTC; none where one has no stamp, or they overlap."""
    segments = receiver.recording.segments
    if any(segment.start_s is None for segment in segments):
        return []
    starts = [(segment.start_s or Fraction(0), len(segment.samples) / Fraction(rate_hz)) for segment in segments]
    covered = [(start_s, start_s + length_s) for start_s, length_s in starts]
    return [] if any(end > begin for (_, end), (begin, _) in pairwise(covered)) else covered


def unusable(receivers: Sequence[Stream], rate_hz: float) -> dict[int, str]:
    """Receivers to leave out, by their number, for the time that they tell, and why; at least three remain."""
    covered = {index: covered_s(receiver, rate_hz) for index, receiver in enumerate(receivers)}
    missing = [
        index
        for index, receiver in enumerate(receivers)
        if any(segment.start_s is None for segment in receiver.recording.segments)
    ]
    stamped = [index for index in covered if index not in missing]
    if len(stamped) < stretches.FEWEST:
        return {}
    left_out = dict.fromkeys(missing, "core:datetime is missing, but others have it")
    if not all(covered[index] for index in stamped):
        return left_out  # captures that are no times of one recording
    costly = stretches.costly_reasons([covered[index] for index in stamped])
    return left_out | {stamped[place]: reason for place, reason in costly.items()}


def recordings_of(
    spans: Sequence[Span], counts: Sequence[int], window_s: float, rate_hz: float
) -> dict[str, np.ndarray]:
    """Which windows are of one recording, and when they begin in it: of one capture, or of all between gaps."""
    by_time = any(len(set(span.captures)) > 1 for span in spans)
    number = [0 if by_time else span.captures[0] for span in spans]
    first: dict[int, Fraction] = {}
    begin_s = []
    for recording, span in zip(number, spans, strict=True):
        of_span = span.begin[0] / Fraction(rate_hz) if span.start_s is None else span.start_s
        begin_s.append(float(of_span - first.setdefault(recording, of_span)))
    time_s = [begin + n * window_s for begin, count in zip(begin_s, counts, strict=True) for n in range(count)]
    return {"recording": np.repeat(number, counts), "recording_time": np.array(time_s)}


def cut_windows(
    stream: Stream, capture: int, begin: Fraction, window: int, windows: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cut windows of int16 (W, 2, N) and their full scales (W,) out of one capture.

    Whole offsets leave 8 and 16 bits as they are; all else is quantised anew.
    """
    segment = stream.segment(capture)
    samples, fraction = segment.samples[:, stream.column], float(begin % 1)  # (N, P)
    size, kind = samples.dtype.itemsize, samples.dtype.kind
    half_range = 2.0 ** (8 * size - 1) if kind in "iu" else 1.0
    middle = half_range if kind == "u" else 0.0
    nominal = ADC_MAX / half_range if size <= 2 else 1.0
    scale = as_numbers("iq_full_scale", segment.variables.get("iq_full_scale", nominal))
    if scale.shape or scale <= 0:
        raise SigmfError(f"{stream.recording.file}: iq_full_scale: is {scale}; give one positive number")
    margin = HALF_WIDTH if fraction else 0
    first, stop = floor(begin), floor(begin) + windows * window
    if size <= 2 and not fraction:
        chosen = samples[first:stop].astype(np.int32) - np.int32(middle)
        iq = np.zeros((windows, 2, window), dtype=np.int16)
        iq[:, : chosen.shape[1]] = chosen.reshape(windows, window, -1).swapaxes(1, 2)
        return iq, np.full(windows, scale)
    level = samples[first - max(margin - 1, 0) : stop + margin].astype(np.float64)
    if not (np.abs(level) <= np.finfo(np.float32).max).all():
        raise SigmfError(f"{stream.recording.file}: has samples that are not finite; correct them or cut them out")
    voltage = (level - middle) / half_range @ np.array([1, 1j])[: level.shape[1]]
    if fraction:
        voltage = interpolate_between(voltage, fraction)
    iq, peak = quantise(voltage.reshape(windows, window))
    return iq, peak * scale / nominal
