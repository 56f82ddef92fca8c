"""Captures of SigMF recordings that are emissions: of several frequencies, or of transmitters at known places.

A receiver that is retuned, to a transmitter at a known place, to the one that is sought and back, keeps its oscillator:
its captures are emissions of one recording. The first capture of each receiver is aligned with those of the others as
any capture is, later ones by what each receiver's own clock has counted since, whatever their own stamps say.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from math import ceil
from typing import Any

import numpy as np

from heimdall_lab.core.interpolation import HALF_WIDTH
from heimdall_lab.core.text import quoted
from heimdall_lab.datasets.recordings import stretches
from heimdall_lab.datasets.recordings.sigmf_files import NAMESPACE, REPORTED, Recording, Segment, common_value
from heimdall_lab.datasets.recordings.sigmf_stored import SigmfError
from heimdall_lab.datasets.recordings.sigmf_time import LARGEST_SHIFT, Span, Stream, common_span, usual

_STAMP_DIGIT_S = Fraction(1, 10**9)  # of stamps that are written with all digits that times of datasets have
_TRUSTED_STAMP_S = Fraction(1, 10)  # by which stamps of a computer may differ from counted samples

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Emissions:
    """Which captures are emissions of which recording.

    Attributes
    ----------
    recordings : captures of each recording, in the order of time.
    centres_hz : frequency that the IQ of each capture is brought to, None where it stays as it is.
    """

    recordings: tuple[tuple[int, ...], ...]
    centres_hz: tuple[float | None, ...]


def emissions_of(recordings: Sequence[Recording], rate_hz: float, given: Mapping[str, Any]) -> Emissions | None:
    """Captures that are emissions, None where they are not: of one frequency, and no transmitter's place is marked.

    Frequencies differ where several recordings are all retuned, or by more than 0.4 of the sample rate. Whoever gives
    ``centre_frequency_hz`` says that there is one.

    Raises
    ------
    SigmfError
        If recordings disagree on the sequence of frequencies, or samples are counted backwards.
    """
    counts = [len(recording.segments) for recording in recordings]
    tuned = [_frequencies(recording) for recording in recordings]
    stated = any("centre_frequency" in segment.variables for r in recordings for segment in r.segments)
    retuned = "centre_frequency_hz" not in given and _are_retuned(tuned, rate_hz)
    if max(counts) == 1 or not (retuned or any(_marks_reference(recording) for recording in recordings)):
        return None
    count = common_value(recordings, counts, "number of captures")
    centres_hz: list[float | None] = [None] * count
    if "centre_frequency_hz" not in given and all(frequency is not None for own in tuned for frequency in own):
        of_captures = enumerate(zip(*tuned, strict=True))
        centres_hz = [_agreed_hz(recordings, own, capture, rate_hz) for capture, own in of_captures]
    for recording in recordings:
        check_places(recording)
    return Emissions(_grouped(recordings[0], stated), tuple(centres_hz))


def _frequencies(recording: Recording) -> list[float | None]:
    return [segment.capture.frequency for segment in recording.segments]


def _are_retuned(tuned: Sequence[Sequence[float | None]], rate_hz: float) -> bool:
    """Whether frequencies of captures are those of several emissions rather than nearly one."""
    known = [[frequency for frequency in own if frequency is not None] for own in tuned]
    if any(len(own) != len(every) for own, every in zip(known, tuned, strict=True)):
        return False
    widest_hz = max(max(own) - min(own) for own in known)
    return widest_hz > LARGEST_SHIFT * rate_hz or (len(known) > 1 and all(len(set(own)) > 1 for own in known))


def _marks_reference(recording: Recording) -> bool:
    return any(f"{NAMESPACE}:{REPORTED[0]}" in remark for remark in recording.annotations)


def _agreed_hz(
    recordings: Sequence[Recording], frequencies: Sequence[float | None], capture: int, rate_hz: float
) -> float:
    """Frequency that most of the recordings have in a capture, which that of every other one can be shifted to."""
    tuned = [frequency or 0.0 for frequency in frequencies]
    centre_hz = usual(tuned)
    for recording, frequency in zip(recordings, tuned, strict=True):
        shift = frequency - centre_hz
        if abs(shift) > LARGEST_SHIFT * rate_hz or (shift and recording.about.datatype[0] == "r"):
            raise SigmfError(
                f"{recording.file}: captures.{capture}: core:frequency: is {frequency}, but {centre_hz} in "
                f"{recordings[tuned.index(centre_hz)].name}; give recordings that are tuned to the same frequencies in "
                "the same order"
            )
    return centre_hz


def check_places(recording: Recording) -> None:
    """Raise SigmfError where a capture begins before the one before it ends, by ``core:global_index``."""
    for number, (before, after) in enumerate(pairwise(recording.segments), start=1):
        stated = after.capture.global_index is not None or before.capture.global_index is not None
        if "recording_time" not in after.variables and stated and after.place < before.place + len(before.samples):
            raise SigmfError(
                f"{recording.file}: captures.{number}: core:global_index: is {after.place}, but the capture before it "
                f"ends at {before.place + len(before.samples)}; correct it, or leave it out of all captures"
            )


def _grouped(recording: Recording, stated: bool) -> tuple[tuple[int, ...], ...]:
    """Captures of each recording: of all of them, or as the file states; what states other variables is its own."""
    groups: dict[Any, list[int]] = {}
    for capture, segment in enumerate(recording.segments):
        number = segment.variables.get("recording", ("alone", capture) if stated else None)
        groups.setdefault(number if isinstance(number, int | tuple) else None, []).append(capture)
    return tuple(tuple(captures) for captures in groups.values())


def timed_by_count(recording: Recording, rate_hz: float, emissions: Emissions) -> Recording:
    """The recording with stamps of later captures that follow from the first one of theirs and the counted samples."""
    segments, warned = list(recording.segments), False
    for first, *later in emissions.recordings:
        begin = segments[first]
        for capture in later:
            own, counted = segments[capture], _stamped(segments[capture], begin, rate_hz)
            segments[capture] = counted
            if not warned and own.start_s is not None and counted.start_s is not None:
                late_s = own.start_s - counted.start_s
                warned = abs(late_s) > _TRUSTED_STAMP_S + own.resolution_s + begin.resolution_s
                if warned:
                    _log.warning(
                        "%s: captures.%d: core:datetime is %.6g s %s than the samples counted since capture %d say, "
                        "which are used instead; state lost samples by core:global_index",
                        recording.file.name, capture, abs(late_s), "later" if late_s > 0 else "earlier", first,
                    )  # fmt: skip
    return replace(recording, segments=tuple(segments))


def _stamped(segment: Segment, first: Segment, rate_hz: float) -> Segment:
    if first.start_s is None:
        return replace(segment, start_s=None, resolution_s=first.resolution_s)
    start_s = first.start_s + (segment.place - first.place) / Fraction(rate_hz)
    own_s = segment.start_s
    if own_s is not None and segment.resolution_s <= _STAMP_DIGIT_S and abs(own_s - start_s) <= _STAMP_DIGIT_S:
        start_s = own_s
    return replace(segment, start_s=start_s, resolution_s=first.resolution_s)


def emission_spans(streams: Sequence[Stream], emissions: Emissions, rate_hz: float) -> list[Span]:
    """What the receivers have in common of each emission, in the order of captures.

    Raises
    ------
    SigmfError
        If they have nothing in common of one.
    """
    spans: dict[int, Span] = {}
    for number, captures in enumerate(emissions.recordings):
        first = captures[0]
        aligned = common_span(streams, [first] * len(streams), rate_hz)
        places = [stream.segment(first).place for stream in streams]
        for capture in captures:
            span = span_since(streams, aligned, places, capture, rate_hz, f"captures.{capture}")
            spans[capture] = replace(span, centre_hz=emissions.centres_hz[capture], recording=number)
    return [spans[capture] for capture in sorted(spans)]


def span_since(
    streams: Sequence[Stream], aligned: Span, places: Sequence[int], capture: int, rate_hz: float, named: str
) -> Span:
    """What the receivers have in common of a capture, at whole samples of the axis since the recording's beginning.

    Parameters
    ----------
    streams : (R,)
        Receivers.
    aligned : Span
        Of which the samples where it begins are simultaneous.
    places : (R,)
        Places in the receivers' streams that its samples count from.
    capture : int
        Number of the capture of all of them.
    rate_hz : float
        Of the axis.
    named : str
        How messages name the capture.

    Raises
    ------
    SigmfError
        If they have nothing in common.
    """
    segments = [stream.segment(capture) for stream in streams]
    between = any(step != 1 or begin.denominator > 1 for step, begin in zip(aligned.step, aligned.begin, strict=True))
    margin = HALF_WIDTH if between else 0  # samples for interpolation
    ahead = [segment.place - place for segment, place in zip(segments, places, strict=True)]
    starts = [(count - begin) / step for count, begin, step in zip(ahead, aligned.begin, aligned.step, strict=True)]
    since = ceil(max(starts)) + margin
    begin = [own + since * step - count for own, step, count in zip(aligned.begin, aligned.step, ahead, strict=True)]
    lengths = [
        ceil((len(segment.samples) - margin - own) / step)
        for segment, own, step in zip(segments, begin, aligned.step, strict=True)
    ]
    if min(lengths) < 1:
        early, late = streams[lengths.index(min(lengths))], streams[starts.index(max(starts))]
        raise SigmfError(
            f"{early.recording.file}: {named}: of {quoted(early.channel.name)} ends before that of "
            f"{quoted(late.channel.name)} begins, by the samples counted since the first captures; give recordings "
            "that are retuned at the same times, or state lost samples by core:global_index"
        )
    since_s = since / Fraction(rate_hz)
    start_s = None if aligned.start_s is None else aligned.start_s + since_s
    stamp_s = segments[0].start_s
    if stamp_s is not None and not any(begin) and start_s is not None and abs(stamp_s - start_s) <= _STAMP_DIGIT_S:
        start_s = stamp_s
    return replace(
        aligned,
        captures=(capture,) * len(streams),
        begin=tuple(begin),
        length=min(lengths),
        start_s=start_s,
        since_s=since_s,
    )


def window_of_emissions(spans: Sequence[Span], window_s: float | None, rate_hz: float) -> tuple[list[Span], int]:
    """Spans, cut to what all hold where no length is given, and the number of samples of their windows.

    Raises
    ------
    ValueError
        If an emission holds no window of the length.
    """
    lengths = [span.length for span in spans]
    shortest, longest = min(lengths), max(lengths)
    if window_s is None:
        if shortest < longest:
            _log.warning(
                "emissions hold %.6g to %.6g s, and are cut to %.6g s each; window_s makes several windows of longer "
                "ones",
                *(length / rate_hz for length in (shortest, longest, shortest)),
            )
        window = stretches.best_length([shortest])
        return [span.cut(0, shortest // window * window, rate_hz) for span in spans], window
    if not 1 <= window_s * rate_hz < shortest + 0.5:
        raise ValueError(
            f"window_s: is {window_s}; give at least one sample, {1 / rate_hz:g} s, and at most what every emission "
            f"holds: capture {lengths.index(shortest)} {shortest / rate_hz:g} s"
        )
    return list(spans), round(window_s * rate_hz)


def emission_variables(spans: Sequence[Span], counts: Sequence[int], window_s: float) -> dict[str, np.ndarray]:
    """Recording, time in it and frequency of every window."""
    variables = {
        "recording": np.repeat([span.recording for span in spans], counts),
        "recording_time": _of_windows(np.array([float(span.since_s or 0) for span in spans]), counts, window_s),
    }
    if all(span.centre_hz is not None for span in spans):
        variables["centre_frequency"] = np.repeat([float(span.centre_hz or 0.0) for span in spans], counts)
    return variables


def stated_recordings(
    spans: Sequence[Span], counts: Sequence[int], window_s: float, rate_hz: float, known: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """What files state of the recordings that captures are of, ``known`` of each span, for every window."""
    names = ("recording", "centre_frequency")
    variables = {name: np.repeat(known[name], counts) for name in names if name in known}
    if "recording_time" in known:
        late_s = np.array([float(span.begin[0] / span.step[0] / Fraction(rate_hz)) for span in spans])
        variables["recording_time"] = _of_windows(known["recording_time"] + late_s, counts, window_s)
    return variables


def _of_windows(begin_s: np.ndarray, counts: Sequence[int], window_s: float) -> np.ndarray:
    """Time at which every window begins, s, of spans that begin at some."""
    return np.repeat(begin_s, counts) + window_s * np.concatenate([np.arange(count) for count in counts])
