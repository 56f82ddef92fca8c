"""Emissions that annotations mark in wide captures: each band is filtered, shifted to its centre and decimated.

The filters are of linear phase, the same for all receivers, and their delay is taken out, so that delays stay what they
are. All bands of a recording come to one sample rate, which the widest of them fills to four fifths.
"""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache
from math import ceil, floor

import numpy as np

from heimdall_lab.core.text import listed
from heimdall_lab.core.units import ADC_MAX
from heimdall_lab.datasets.recordings.common import as_numbers
from heimdall_lab.datasets.recordings.sigmf_cutting import complex_voltage
from heimdall_lab.datasets.recordings.sigmf_emissions import check_places, span_since
from heimdall_lab.datasets.recordings.sigmf_files import REPORTED, WIDEST_BAND, Band, Recording, Segment
from heimdall_lab.datasets.recordings.sigmf_stored import SigmfError
from heimdall_lab.datasets.recordings.sigmf_time import Span, Stream, common_span

MOST_BANDS = 1000  # of a recording
MOST_SAMPLES = 2**28  # of all bands and channels after decimation, which are held in memory: 2 GiB
_LARGEST_STEP = 2**16  # of decimation: filters grow with it, to 3.3 million taps here
_STOP_BAND_DB = 80.0
_TRANSITION = (1 - WIDEST_BAND) / 2  # of the decimated rate: what is left between the widest band and the next alias
_BATCH_SAMPLES = 2**22  # filtered at a time


def channelised(
    streams: Sequence[Stream], marking: Recording, rate_hz: float
) -> tuple[list[Stream], list[Span], float]:
    """Receivers of which each marked band is a capture, what they have of each, and the sample rate.

    Receivers whose files mark nothing take the marks of one that does, at the same time.

    Parameters
    ----------
    streams
        Receivers, of one sample rate within parts per million.
    marking
        Recording that marks bands.
    rate_hz
        Common rate of all.

    Raises
    ------
    SigmfError
        If receivers' files mark different bands, too many, too narrow ones, or one that all of them hold no sample of,
        or if samples are counted backwards.
    """
    if len(marking.bands) > MOST_BANDS:
        raise SigmfError(
            f"{marking.file}: annotations mark {len(marking.bands):,} bands, more than {MOST_BANDS:,}; mark those of "
            "single emissions, or say bands=False to read the capture whole"
        )
    step, held = _decimation(marking, rate_hz), {id(stream.recording): stream.recording for stream in streams}
    for recording in held.values():
        check_places(recording)
    marked = {key: _bands_of(recording, marking) for key, recording in held.items()}
    _check_size(marking, [(recording, marked[key]) for key, recording in held.items()], step)
    aligned, found = common_span(streams, [0] * len(streams), rate_hz), {}
    for stream, begin in zip(streams, aligned.begin, strict=True):
        key = id(stream.recording)
        if key not in found:
            segments = [_segment(stream, band, marking, floor(begin), step, rate_hz) for band in marked[key]]
            found[key] = replace(stream.recording, segments=tuple(segments))
    narrow = [
        replace(stream, recording=found[id(stream.recording)], rate_hz=stream.rate_hz / step) for stream in streams
    ]
    decimated = replace(aligned, begin=tuple((own - floor(own)) / step for own in aligned.begin))
    spans = []
    for number, band in enumerate(marking.bands):
        named = _edges_text([band.edges_hz])
        span = span_since(narrow, decimated, [0] * len(streams), number, rate_hz / step, named)
        spans.append(replace(span, centre_hz=sum(band.edges_hz) / 2))
    return narrow, spans, rate_hz / step


def _decimation(marking: Recording, rate_hz: float) -> int:
    """How many samples become one, so that the widest band fills the rate; SigmfError where they are too many."""
    widest = max(marking.bands, key=_width_hz)
    least_hz = WIDEST_BAND * rate_hz / (_LARGEST_STEP + 1)
    if _width_hz(widest) <= least_hz:
        raise SigmfError(
            f"{marking.file}: annotations.{widest.annotation} marks {_width_hz(widest):g} Hz, the widest band; at "
            f"{rate_hz:g} samples per second mark one of more than {least_hz:.4g} Hz, or say bands=False"
        )
    return floor(WIDEST_BAND * rate_hz / _width_hz(widest))


def _check_size(marking: Recording, marked: Sequence[tuple[Recording, Sequence[Band]]], step: int) -> None:
    """Raise SigmfError where all bands together hold more samples, after decimation, than are held in memory."""
    size = sum(
        recording.about.num_channels * _held(recording, band) // step for recording, bands in marked for band in bands
    )
    if size > MOST_SAMPLES:
        raise SigmfError(
            f"{marking.file}: annotations mark {len(marking.bands):,} bands, which hold {size:,} samples of all "
            f"receivers at the rate of the widest, of {max(map(_width_hz, marking.bands)):g} Hz, more than "
            f"{MOST_SAMPLES:,}; mark shorter times, fewer bands or narrower ones, or say bands=False"
        )


def _held(recording: Recording, band: Band) -> int:
    """How many samples of what is marked the capture holds."""
    end = min(band.first + band.count, len(recording.segments[band.capture].samples))
    return max(0, end - max(0, band.first))


def _width_hz(band: Band) -> float:
    low_hz, high_hz = band.edges_hz
    return high_hz - low_hz


def _bands_of(recording: Recording, marking: Recording) -> list[Band]:
    """Bands of a recording: its own marks, or those of another one at the same time."""
    if recording.bands:
        own, others = ([band.edges_hz for band in each.bands] for each in (recording, marking))
        if own != others:
            raise SigmfError(
                f"{recording.file}: annotations mark {_edges_text(own)}, but {_edges_text(others)} in {marking.name}; "
                "mark the same bands in the same order, or in one recording alone"
            )
        return list(recording.bands)
    if len(recording.segments) != len(marking.segments):
        raise SigmfError(
            f"{recording.file}: number of captures: is {len(recording.segments)}, but {len(marking.segments)} in "
            f"{marking.name}, which marks bands; give recordings alike"
        )
    faster = Fraction(recording.about.sample_rate or 1) / Fraction(marking.about.sample_rate or 1)
    return [
        replace(
            band,
            first=round(band.first * faster) + _later(recording, marking, band.capture),
            count=round(band.count * faster),
        )
        for band in marking.bands
    ]


def _later(recording: Recording, marking: Recording, capture: int) -> int:
    """Samples by which the capture of another recording began later, by their stamps."""
    own_s, other_s = (each.segments[capture].start_s for each in (recording, marking))
    if own_s is None or other_s is None:
        return 0
    return round((other_s - own_s) * Fraction(recording.about.sample_rate or 1))


def _edges_text(edges_hz: Sequence[tuple[float, float]]) -> str:
    return listed(f"{low_hz:.12g} to {high_hz:.12g} Hz" for low_hz, high_hz in edges_hz)


def _segment(stream: Stream, band: Band, marking: Recording, origin: int, step: int, rate_hz: float) -> Segment:
    """One band of a capture of all channels, its samples counted from the one of number ``origin`` of the first."""
    recording = stream.recording
    segment = recording.segments[band.capture]
    ahead = segment.place - recording.segments[0].place
    low_hz, high_hz = band.edges_hz
    tuned_hz, centre_hz = segment.capture.frequency, (low_hz + high_hz) / 2
    if tuned_hz is None or abs(centre_hz - tuned_hz) + (high_hz - low_hz) / 2 > stream.rate_hz / 2:
        raise SigmfError(
            f"{recording.file}: captures.{band.capture}: core:frequency: is {tuned_hz}, whose band does not hold "
            f"{_edges_text([band.edges_hz])}, which annotations mark; give recordings that hold all marked bands"
        )
    (count, _), length = _filter_size(step), len(segment.samples)
    half = count // 2
    begin, end = max(band.first, half), min(band.first + band.count, length - half)
    # Numbers of decimated samples whose middle lies in the band's time, with all samples that the filter takes.
    first, stop = ceil(Fraction(ahead + begin - origin, step)), ceil(Fraction(ahead + end - origin, step))
    if stop <= first:
        raise SigmfError(
            f"{recording.file}: annotations.{band.annotation}{'' if recording.bands else f' of {marking.name}'} marks "
            f"{_edges_text([band.edges_hz])} for {band.count} samples from {band.first} of capture {band.capture}, "
            f"which holds {length}; mark at least {2 * half + step} of them, or wider bands"
        )
    shift = (centre_hz - tuned_hz) / stream.rate_hz
    place = first * step + origin - ahead  # of the middle of the first one, in the capture
    taps = _low_pass(step, (high_hz - low_hz) / rate_hz)
    dtype = segment.samples.dtype
    half_range = 2.0 ** (8 * dtype.itemsize - 1) if dtype.kind in "iu" else 1.0
    samples = np.empty((stop - first, segment.samples.shape[1], 2), dtype=np.float32)
    for column in range(samples.shape[1]):
        values = _filtered(segment.samples[:, column], taps, shift, place, step, stop - first) / half_range
        with np.errstate(over="ignore"):  # what is infinite then is refused where it is cut
            samples[:, column, 0], samples[:, column, 1] = values.real, values.imag
    held = {name: value for name, value in segment.variables.items() if name not in (*REPORTED, "emission_time")}
    if "iq_full_scale" in held and dtype.itemsize <= 2:
        held["iq_full_scale"] = (as_numbers("iq_full_scale", held["iq_full_scale"]) * half_range / ADC_MAX).tolist()
    capture = segment.capture.model_copy(update={"frequency": centre_hz, "sample": None})
    return replace(segment, capture=capture, samples=samples, variables=held | band.stated, start_s=None, place=first)


def _filtered(samples: np.ndarray, taps: np.ndarray, shift: float, place: int, step: int, count: int) -> np.ndarray:
    """Samples (N, P) of one channel, shifted down by a share of the rate and filtered, every so many of them, (count,).

    The first one is at ``place``. The phase counts from the first sample of the capture, of all receivers alike.
    """
    from scipy.signal import upfirdn

    half, values = len(taps) // 2, np.empty(count, dtype=np.complex128)
    at_once = max(1, _BATCH_SAMPLES // step)
    for done in range(0, count, at_once):
        number = min(at_once, count - done)
        low = place + done * step - half
        voltage = complex_voltage(samples[low : low + (number - 1) * step + len(taps)])
        tuned = voltage * np.exp(-2j * np.pi * (np.arange(low, low + len(voltage)) * shift % 1))
        # Output k of upfirdn is the filter's at sample k · step: zeros before put one where it has all its taps.
        before = -(len(taps) - 1) % step
        decimated = upfirdn(taps, np.concatenate([np.zeros(before), tuned]), down=step)
        first = (before + len(taps) - 1) // step
        values[done : done + number] = decimated[first : first + number]
    return values


def _filter_size(step: int) -> tuple[int, float]:
    """Number of taps, odd, and beta of a filter before decimation, by Kaiser's formula (`scipy.signal.kaiserord`)."""
    from scipy.signal import kaiserord

    count, beta = kaiserord(_STOP_BAND_DB, 2 * _TRANSITION / step)
    return int(count) | 1, float(beta)


@lru_cache(maxsize=8)  # the largest take 26 MB each
def _low_pass(step: int, width: float) -> np.ndarray:
    """Linear-phase filter of a band as wide as a share of the sample rate, before decimation; of an odd number of taps.

    By Kaiser's window; pass and stop band are 80 dB exact.
    """
    from scipy.signal import firwin

    count, beta = _filter_size(step)
    return np.asarray(firwin(count, width + _TRANSITION / step, window=("kaiser", beta)))
