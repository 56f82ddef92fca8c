"""Windows of SigMF recordings as the contract holds them: int16 with a full scale, on the axis of all receivers."""

from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from math import floor

import numpy as np

from heimdall_lab.core.arrays import batch_slices
from heimdall_lab.core.interpolation import HALF_WIDTH, interpolate_between, interpolate_many
from heimdall_lab.core.units import ADC_MAX
from heimdall_lab.datasets.recordings.common import as_numbers, quantise
from heimdall_lab.datasets.recordings.sigmf_stored import SigmfError
from heimdall_lab.datasets.recordings.sigmf_time import Span, Stream

_BATCH_SAMPLES = 2**22  # converted at a time
# 129 taps over a transition of 0.04 of the sample rate: 80 dB and beta 8 by Kaiser's design formula.
# Source: Oppenheim & Schafer, Discrete-Time Signal Processing, 3rd ed., eqs. (7.75) and (7.76)
_HALF_FILTER, _FILTER_KAISER_BETA = 64, 8.0


@dataclass(frozen=True)
class Cut:
    """What is taken of a capture.

    Attributes
    ----------
    samples : (N, P) of one channel.
    begin : place of the first one taken.
    step : from each to the next.
    shift : of the spectrum, up, as a share of the sample rate.
    """

    samples: np.ndarray
    begin: Fraction
    step: Fraction
    shift: float


def cut_windows(
    stream: Stream, index: int, span: Span, centre_hz: float | None, window: int, windows: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cut windows of int16 (W, 2, N) and their full scales (W,) out of what receiver ``index`` has of a span.

    Samples of 8 and 16 bits that are on the axis already are kept as they are; all else is quantised anew. Captures are
    shifted to a centre frequency, if one is given.
    """
    segment = stream.segment(span.captures[index])
    tuned_hz = segment.capture.frequency
    shift = 0.0 if centre_hz is None or tuned_hz is None else (tuned_hz - centre_hz) / stream.rate_hz
    cut = Cut(segment.samples[:, stream.column], span.begin[index], span.step[index], shift)
    size, kind = cut.samples.dtype.itemsize, cut.samples.dtype.kind
    half_range = 2.0 ** (8 * size - 1) if kind in "iu" else 1.0
    nominal = ADC_MAX / half_range if size <= 2 else 1.0
    scale = as_numbers("iq_full_scale", segment.variables.get("iq_full_scale", nominal))
    if scale.shape or scale <= 0:
        raise SigmfError(f"{stream.recording.file}: iq_full_scale: is {scale}; give one positive number")
    if size <= 2 and cut.begin.denominator == 1 and cut.step == 1 and not cut.shift:
        iq, steps = _kept(cut.samples[int(cut.begin) : int(cut.begin) + windows * window], window)
        return iq, np.full(windows, scale / steps)
    iq, peak = np.empty((windows, 2, window), dtype=np.int16), np.empty(windows)
    for rows in batch_slices(windows, max(1, _BATCH_SAMPLES // window)):
        voltage = _voltage(cut, rows.start * window, (min(rows.stop, windows) - rows.start) * window)
        if voltage is None:
            raise SigmfError(f"{stream.recording.file}: has samples that are not finite; correct them or cut them out")
        iq[rows], peak[rows] = quantise(voltage.reshape(-1, window) / half_range)
    return iq, peak * scale / nominal


def _kept(samples: np.ndarray, window: int) -> tuple[np.ndarray, int]:
    """Samples (W · N, P) of 8 or 16 bits as int16 (W, 2, N), and how many of its steps make one of theirs.

    Converters of unsigned bytes have no code for zero, which lies between 127 and 128: twice as many steps hold that.
    Of 16 bits half a step is less than any receiver's own offset.
    """
    steps = 2 if samples.dtype.kind == "u" and samples.dtype.itemsize == 1 else 1
    chosen = samples.astype(np.int32) * steps - int(_middle(samples.dtype) * steps)
    iq = np.zeros((len(samples) // window, 2, window), dtype=np.int16)
    iq[:, : chosen.shape[1]] = chosen.reshape(len(iq), window, -1).swapaxes(1, 2)
    return iq, steps


def _voltage(cut: Cut, number: int, count: int) -> np.ndarray | None:
    """Samples from a number of the axis on, (count,) and complex, in steps of the file; None if one is not finite."""
    first = cut.begin + number * cut.step
    interpolated = cut.step != 1 or first.denominator > 1
    beside = _HALF_FILTER if cut.shift else 0  # beyond what is needed, as far as there are samples
    low = max(floor(first) - (HALF_WIDTH - 1 if interpolated else 0) - beside, 0)
    last = floor(first + (count - 1) * cut.step)
    level = cut.samples[low : last + 1 + (HALF_WIDTH if interpolated else 0) + beside].astype(np.float64)
    if not (np.abs(level) <= np.finfo(np.float32).max).all():
        return None
    voltage = complex_voltage(level, _middle(cut.samples.dtype))
    if cut.shift:
        voltage = _shifted(voltage, low, cut.shift)
    begin = first - low
    if cut.step != 1:
        return interpolate_many(voltage, float(begin) + float(cut.step) * np.arange(count, dtype=np.float64))
    if interpolated:
        needed = floor(begin) - HALF_WIDTH + 1
        return interpolate_between(voltage[needed : needed + count + 2 * HALF_WIDTH - 1], float(begin % 1))
    return voltage[int(begin) : int(begin) + count]


def complex_voltage(samples: np.ndarray, middle: float | None = None) -> np.ndarray:
    """Samples (N, P) as they are stored, or less the code of no voltage, as complex ones (N,), in steps of the file."""
    middle = _middle(samples.dtype) if middle is None else middle
    voltage: np.ndarray = (samples.astype(np.float64) - middle) @ np.array([1, 1j])[: samples.shape[1]]
    return voltage


def _middle(dtype: np.dtype) -> float:
    """Code of no voltage."""
    if dtype.kind != "u":
        return 0.0
    return 127.5 if dtype.itemsize == 1 else 2.0 ** (8 * dtype.itemsize - 1)


def _shifted(voltage: np.ndarray, first: int, shift: float) -> np.ndarray:
    """Shift the spectrum of samples, counted from ``first`` on, by a share of the sample rate.

    What would come in at the other end of the spectrum, and is elsewhere on the air, is taken out.
    """
    from scipy.signal import oaconvolve

    count = np.arange(first, first + len(voltage), dtype=np.float64)
    shifted = voltage * np.exp(2j * np.pi * (count * shift % 1))
    return shifted - oaconvolve(shifted, _other_end(shift), mode="same")


@cache
def _other_end(shift: float) -> np.ndarray:
    """Filter for what a shift brings in at the other end of the spectrum: (2 · 64 + 1,)."""
    tap, width = np.arange(-_HALF_FILTER, _HALF_FILTER + 1), abs(shift)
    middle = -np.sign(shift) * (1 - width) / 2
    low_pass = width * np.sinc(width * tap) * np.kaiser(len(tap), _FILTER_KAISER_BETA)
    return np.asarray(low_pass * np.exp(2j * np.pi * middle * tap))
