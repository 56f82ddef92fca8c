"""Samples of several SigMF recordings on one time axis."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from math import ceil
from statistics import median
from typing import Any

import numpy as np

from heimdall_lab.core.interpolation import HALF_WIDTH
from heimdall_lab.core.text import quoted
from heimdall_lab.datasets.recordings import stretches
from heimdall_lab.datasets.recordings.common import contract_numbers
from heimdall_lab.datasets.recordings.sigmf_files import Channel, Recording, Segment, common_value
from heimdall_lab.datasets.recordings.sigmf_stored import SigmfError

_LEAST_SAMPLES = 4 * HALF_WIDTH  # of a stretch, of which interpolation takes some
_LARGEST_RATE_DIFFERENCE = 1e-3  # beyond any crystal's, and small enough for nothing to be lost by resampling
LARGEST_SHIFT = 0.4  # of the sample rate, within which interpolation is exact


def common_rate_hz(recordings: Sequence[Recording], given: Mapping[str, Any]) -> tuple[float, list[float]]:
    """Sample rate that most recordings have, and that of each, as the files say or a caller of all.

    Raises
    ------
    SigmfError
        If one says none, or they are too far apart to be brought together.
    """
    if "sample_rate_hz" in given:
        stated = contract_numbers({"sample_rate_hz": given["sample_rate_hz"]}, len(recordings))["sample_rate_hz"]
        return float(stated), [float(stated)] * len(recordings)
    own_rates_hz = [_stated_rate_hz(recording) for recording in recordings]
    rate_hz = usual(own_rates_hz)
    for recording, own_hz in zip(recordings, own_rates_hz, strict=True):
        if abs(own_hz / rate_hz - 1) > _LARGEST_RATE_DIFFERENCE:
            named = recordings[own_rates_hz.index(rate_hz)].name
            raise SigmfError(
                f"{recording.file}: core:sample_rate: is {own_hz}, but {rate_hz} in {named}; give recordings whose "
                f"rates differ by {_LARGEST_RATE_DIFFERENCE:.1%} at most, or resample them before"
            )
    return rate_hz, own_rates_hz


def _stated_rate_hz(recording: Recording) -> float:
    if recording.about.sample_rate is None:
        raise SigmfError(f"{recording.file}: core:sample_rate is missing; give sample_rate_hz")
    return recording.about.sample_rate


def common_centre_hz(recordings: Sequence[Recording], rate_hz: float) -> float | None:
    """Frequency that most captures are tuned to, None where none says it.

    Raises
    ------
    SigmfError
        If some do not say it, or are tuned too far from it to be brought there.
    """
    tuned = [(recording, segment.capture.frequency) for recording in recordings for segment in recording.segments]
    stated = [frequency for _, frequency in tuned if frequency is not None]
    if not stated:
        return None
    centre_hz = usual(stated)
    named = next(recording.name for recording, frequency in tuned if frequency == centre_hz)
    for recording, frequency in tuned:
        if frequency is None:
            raise SigmfError(
                f"{recording.file}: core:frequency: is missing, but {centre_hz} in {named}; add it, or give "
                "centre_frequency_hz"
            )
        shift = frequency - centre_hz
        if abs(shift) > LARGEST_SHIFT * rate_hz or (shift and recording.about.datatype[0] == "r"):
            raise SigmfError(
                f"{recording.file}: core:frequency: is {frequency}, but {centre_hz} in {named}; give recordings alike, "
                f"or complex ones whose centres differ by {LARGEST_SHIFT:.0%} of the sample rate at most"
            )
    return centre_hz


def usual(values: Sequence[float]) -> float:
    """Value that is most often there, of several the one next to the median, of these the first."""
    counts, middle = Counter(values), median(values)
    return max(counts, key=lambda value: (counts[value], -abs(value - middle)))


@dataclass(frozen=True)
class Stream:
    """What one receiver recorded: a channel of a recording.

    Attributes
    ----------
    recording, column, channel : of which it is the channel of that number.
    rate_hz : its own sample rate.
    """

    recording: Recording
    column: int
    channel: Channel
    rate_hz: float

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
    step : samples of each receiver from one common sample to the next; 1 but where rates differ.
    length : number of samples.
    start_s : time of the first one since 1970 UTC, None if unknown.
    since_s, recording, centre_hz : of emissions, time of the first sample since the recording begins, number of the
        recording, and frequency that the IQ is brought to.
    """

    captures: tuple[int, ...]
    begin: tuple[Fraction, ...]
    step: tuple[Fraction, ...]
    length: int
    start_s: Fraction | None
    since_s: Fraction | None = None
    recording: int = 0
    centre_hz: float | None = None

    def segments(self, receivers: Sequence[Stream]) -> list[Segment]:
        """Captures of the receivers."""
        return [receiver.segment(capture) for receiver, capture in zip(receivers, self.captures, strict=True)]

    def cut(self, first: int, length: int, rate_hz: float) -> "Span":
        """Only some of its samples."""
        later_s = first / Fraction(rate_hz)
        start_s, since_s = (None if own is None else own + later_s for own in (self.start_s, self.since_s))
        begin = tuple(begin + first * step for begin, step in zip(self.begin, self.step, strict=True))
        return replace(self, begin=begin, length=length, start_s=start_s, since_s=since_s)


def common_span(receivers: Sequence[Stream], captures: Sequence[int], rate_hz: float) -> Span:
    """Cut a capture of each receiver to the time that they have in common, by their stamps."""
    segments = [receiver.segment(capture) for receiver, capture in zip(receivers, captures, strict=True)]
    stamps = [segment.start_s for segment in segments if segment.start_s is not None]
    if 0 < len(stamps) < len(segments):
        index = next(index for index, segment in enumerate(segments) if segment.start_s is None)
        file, capture = receivers[index].recording.file, captures[index]
        raise SigmfError(f"{file}: core:datetime of capture {capture} is missing, but others have it; give all or none")
    steps = [Fraction(receiver.rate_hz) / Fraction(rate_hz) for receiver in receivers]
    latest, begin = max(stamps, default=Fraction(0)), [Fraction(0)] * len(segments)
    if stamps:
        tolerance = max(segment.resolution_s for segment in segments) * Fraction(rate_hz)
        begin = [(latest - start_s) * Fraction(each.rate_hz) for start_s, each in zip(stamps, receivers, strict=True)]
        begin = [
            _snapped_to_sample(offset, tolerance) if step == 1 else offset
            for offset, step in zip(begin, steps, strict=True)
        ]
    between = any(step != 1 for step in steps) or any(offset.denominator > 1 for offset in begin)
    margin = HALF_WIDTH if between else 0  # samples for interpolation
    begin = [offset + margin * step for offset, step in zip(begin, steps, strict=True)]
    lengths = [
        ceil((len(segment.samples) - margin - offset) / step)
        for segment, offset, step in zip(segments, begin, steps, strict=True)
    ]
    if min(lengths) < 1:
        early, file = receivers[lengths.index(min(lengths))].channel.name, receivers[0].recording.file
        late = receivers[stamps.index(latest)].channel.name if stamps else early
        reason = (
            f"of {quoted(late)} begins after that of {quoted(early)} ends; give simultaneous recordings, or correct "
            "core:datetime"
        )
        if late == early:
            reason = f"of {quoted(early)} has too few samples to interpolate between; give longer recordings"
        raise SigmfError(f"{file}: capture {captures[0]} {reason}")
    start_s = latest + margin / Fraction(rate_hz) if stamps else None
    return Span(tuple(captures), tuple(begin), tuple(steps), min(lengths), start_s)


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
        covered = [covered_s(receiver) for receiver in receivers]
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


def covered_s(receiver: Stream) -> list[tuple[Fraction, Fraction]]:
    """Time that each capture of a receiver covers, s since 1970 UTC; none where one has no stamp, or they overlap."""
    segments = receiver.recording.segments
    if any(segment.start_s is None for segment in segments):
        return []
    starts = [
        (segment.start_s or Fraction(0), len(segment.samples) / Fraction(receiver.rate_hz)) for segment in segments
    ]
    covered = [(start_s, start_s + length_s) for start_s, length_s in starts]
    return [] if any(end > begin for (_, end), (begin, _) in pairwise(covered)) else covered


def unusable(receivers: Sequence[Stream]) -> dict[int, str]:
    """Receivers to leave out, by their number, for the time that they tell, and why; at least three remain."""
    covered = {index: covered_s(receiver) for index, receiver in enumerate(receivers)}
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
        of_span = span.begin[0] / span.step[0] / Fraction(rate_hz) if span.start_s is None else span.start_s
        begin_s.append(float(of_span - first.setdefault(recording, of_span)))
    time_s = [begin + n * window_s for begin, count in zip(begin_s, counts, strict=True) for n in range(count)]
    return {"recording": np.repeat(number, counts), "recording_time": np.array(time_s)}
