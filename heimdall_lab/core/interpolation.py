"""Values of band-limited signals between their samples, by a windowed sinc.

Recordings are interpolated by `interpolate` and, many samples at once, by `interpolate_many`, in double precision, and
brought to a lower sample rate by `resample_many`; simulated receivers by `kernel` and `upsample`, in single precision
from a table.
"""

from functools import cache
from math import ceil

import numpy as np
import numpy.typing as npt
from scipy.special import i0, j0

from heimdall_lab.core.compiled import njit

HALF_WIDTH = 16  # samples on either side of a position that `interpolate` needs
# 32 taps over a transition band of 0.2 of the sample rate: Kaiser's design formula gives 100 dB and beta 10.
# Source: Oppenheim & Schafer, Discrete-Time Signal Processing, 3rd ed., eqs. (7.75) and (7.76)
_KAISER_BETA = 10.05
_FINE_PHASES = 4096  # between which cubic interpolation of the coefficients is exact to 1e-12

TAPS = 16
PHASES = 1024
LEAD = TAPS // 2 - 1  # samples that `kernel` needs before the one at or below a position; LEAD + 1 after it
_TABLE_KAISER_BETA = 11.7  # side lobes of -115 dB: Kaiser and Schafer, IEEE Trans. ASSP 28 (1980)


def interpolate(samples: npt.NDArray[np.complex128], position: npt.NDArray[np.float64]) -> npt.NDArray[np.complex128]:
    """Interpolate (N,) uniform samples at (M,) fractional positions by a Kaiser-windowed sinc.

    Positions lie at least HALF_WIDTH samples inside both ends. The error is below −80 dB for frequencies within ±0.4 of
    the sample rate.
    """
    # Source: Smith & Gossett, "A flexible sampling-rate conversion method", ICASSP 1984
    whole = np.floor(position).astype(np.intp)
    fraction = position - whole
    sine = np.sin(np.pi * fraction) / np.pi  # sin(π(f − k)) = (−1)^k sin(πf)
    total = np.zeros(position.shape, dtype=np.complex128)
    for tap in range(1 - HALF_WIDTH, HALF_WIDTH + 1):
        distance = fraction - tap
        sinc = np.divide(-sine if tap % 2 else sine, distance, out=np.ones_like(sine), where=distance != 0.0)
        window = i0(_KAISER_BETA * np.sqrt(np.maximum(0.0, 1.0 - (distance / HALF_WIDTH) ** 2))) / i0(_KAISER_BETA)
        total += samples[whole + tap] * (sinc * window)
    return total


def interpolate_between(samples: npt.NDArray[np.complex128], fraction: float) -> npt.NDArray[np.complex128]:
    """Interpolate (N,) samples a fraction of 0 … 1 after each that has enough neighbours: (N − 2 HALF_WIDTH + 1,)."""
    impulse = np.zeros(4 * HALF_WIDTH + 1, dtype=np.complex128)
    impulse[2 * HALF_WIDTH] = 1
    offset = np.arange(1.0 - HALF_WIDTH, HALF_WIDTH + 1.0)
    taps = interpolate(impulse, 2 * HALF_WIDTH + fraction - offset).real  # the same ones for every sample
    return np.correlate(samples, taps, mode="valid")


def interpolate_many(
    samples: npt.NDArray[np.complex128], position: npt.NDArray[np.float64]
) -> npt.NDArray[np.complex128]:
    """Interpolate as `interpolate` does to 1e-12 of the largest sample, in a fiftieth of the time."""
    values = np.empty(position.shape, dtype=np.complex128)
    _interpolate_many(samples, position, _fine_table(), values)
    return values


def half_width(ratio: float) -> int:
    """Samples on either side of a position that `resample_many` needs, for an output rate of ``ratio`` times theirs.

    >>> half_width(1.0), half_width(12_000 / 48_000)
    (16, 64)
    """
    return ceil(HALF_WIDTH / min(ratio, 1.0))


def resample_many(
    samples: npt.NDArray[np.complex128], position: npt.NDArray[np.float64], ratio: float
) -> npt.NDArray[np.complex128]:
    """Interpolate (N,) uniform samples at (M,) positions that are for an output rate of ``ratio`` times theirs.

    At a lower rate, frequencies outside of the output's band are taken out: the windowed sinc of `interpolate` is that
    of the output's sample interval. Within ±0.4 of the output rate levels and delays stay to −80 dB, from ±0.6 on
    nothing is left to −80 dB. Positions lie at least `half_width` samples inside both ends.
    """
    # Source: Smith & Gossett, "A flexible sampling-rate conversion method", ICASSP 1984
    if ratio >= 1.0:
        return interpolate_many(samples, position)
    values = np.empty(position.shape, dtype=np.complex128)
    _resample_many(samples, position, ratio, _fine_table(), values)
    return values


@cache
def _fine_table() -> np.ndarray:
    """Coefficients of `interpolate` at fractions −1 / P, 0, … 1 + 1 / P of P phases: (P + 3, 2 HALF_WIDTH)."""
    fraction = np.arange(-1, _FINE_PHASES + 2)[:, None] / _FINE_PHASES
    distance = fraction - np.arange(1.0 - HALF_WIDTH, HALF_WIDTH + 1.0)
    inside = 1 - (distance / HALF_WIDTH) ** 2
    # The window's continuation beyond its ends, which cubic interpolation next to them needs: I0(jx) = J0(x).
    root = _KAISER_BETA * np.sqrt(np.abs(inside))
    table: np.ndarray = np.sinc(distance) * np.where(inside >= 0, i0(root), j0(root)) / i0(_KAISER_BETA)
    return table


@njit(cache=True)
def _interpolate_many(samples: np.ndarray, position: np.ndarray, table: np.ndarray, values: np.ndarray) -> None:
    """Fill values (M,): Lagrange's cubic of four neighbouring rows of the table, and the sum over its taps."""
    for index in range(len(position)):
        whole = int(np.floor(position[index]))
        place = (position[index] - whole) * _FINE_PHASES
        row = min(int(place), _FINE_PHASES - 1)
        t = place - row
        before = -t * (t - 1) * (t - 2) / 6
        at = (t + 1) * (t - 1) * (t - 2) / 2
        after = -(t + 1) * t * (t - 2) / 2
        beyond = (t + 1) * t * (t - 1) / 6
        total = 0j
        for tap in range(2 * HALF_WIDTH):
            weight = before * table[row, tap] + at * table[row + 1, tap]
            weight += after * table[row + 2, tap] + beyond * table[row + 3, tap]
            total += samples[whole + 1 - HALF_WIDTH + tap] * weight
        values[index] = total


@njit(cache=True)
def _resample_many(
    samples: np.ndarray, position: np.ndarray, ratio: float, table: np.ndarray, values: np.ndarray
) -> None:
    """Fill values (M,): for each sample within reach, Lagrange's cubic of four neighbouring rows of the table."""
    reach = HALF_WIDTH / ratio
    for index in range(len(position)):
        total = 0j
        for sample in range(int(np.ceil(position[index] - reach)), int(np.floor(position[index] + reach)) + 1):
            distance = (position[index] - sample) * ratio  # in samples of the output
            whole = int(np.floor(distance))
            tap = HALF_WIDTH - 1 - whole
            if tap < 0:  # at the very edge, where the window ends
                continue
            place = (distance - whole) * _FINE_PHASES
            row = min(int(place), _FINE_PHASES - 1)
            t = place - row
            weight = -t * (t - 1) * (t - 2) / 6 * table[row, tap]
            weight += (t + 1) * (t - 1) * (t - 2) / 2 * table[row + 1, tap]
            weight -= (t + 1) * t * (t - 2) / 2 * table[row + 2, tap]
            weight += (t + 1) * t * (t - 1) / 6 * table[row + 3, tap]
            total += samples[sample] * weight
        values[index] = total * ratio


def kernel_table() -> np.ndarray:
    """Return the coefficients of a Kaiser-windowed sinc for fractions 0, 1 / PHASES, … 1: (PHASES + 1, TAPS) float32.

    A signal whose spectrum ends at a quarter of the sample rate, as every waveform's in its channel does, is
    interpolated to −100 dB: below the step of a 16-bit converter. Each row adds up to 1.
    """
    fraction = np.arange(PHASES + 1)[:, None] / PHASES
    offset = np.arange(TAPS) - LEAD - fraction  # (PHASES + 1, TAPS), from the position to each sample
    window = np.i0(_TABLE_KAISER_BETA * np.sqrt(np.maximum(1 - (2 * offset / TAPS) ** 2, 0)))
    table = np.sinc(offset) * window
    return (table / table.sum(axis=1, keepdims=True)).astype(np.float32)


TABLE = kernel_table()


@njit(cache=True, inline="always")
def kernel(table: np.ndarray, fraction: float, taps: np.ndarray) -> None:
    """Fill ``taps`` (TAPS,) with the coefficients at a fraction of 0 … 1 sample, between two rows of the table."""
    place = fraction * PHASES
    row = min(int(place), PHASES - 1)
    share = np.float32(place - row)
    for tap in range(TAPS):
        taps[tap] = table[row, tap] + share * (table[row + 1, tap] - table[row, tap])


def upsample(waveform: np.ndarray, factor: int) -> np.ndarray:
    """Raise the sample rate of waveforms (S, M) complex64 by a whole factor: (S, 2, (M − TAPS) · factor) float32.

    Real and imaginary part are apart, so that compilers find neighbours to work on together; the first sample is the
    waveform's sample LEAD.
    """
    planar = np.empty((len(waveform), 2, (waveform.shape[1] - TAPS) * factor), dtype=np.float32)
    _upsample(waveform.view(np.float32).reshape(*waveform.shape, 2), factor, TABLE, planar)
    return planar


@njit(cache=True)
def _upsample(waveform: np.ndarray, factor: int, table: np.ndarray, planar: np.ndarray) -> None:
    """Fill planar (S, 2, N) from waveforms (S, M, 2), one polyphase branch at a time."""
    count = planar.shape[2] // factor
    taps = np.empty(TAPS, np.float32)
    branch = np.empty(count, np.float32)
    part = np.empty(waveform.shape[1], np.float32)
    for row in range(planar.shape[0]):
        for component in range(2):
            part[:] = waveform[row, :, component]
            for phase in range(factor):
                kernel(table, phase / factor, taps)
                branch[:] = 0
                for tap in range(TAPS):
                    for index in range(count):
                        branch[index] += taps[tap] * part[index + tap]
                planar[row, component, phase::factor] = branch
