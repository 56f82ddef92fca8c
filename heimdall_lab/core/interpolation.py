"""Values of band-limited signals between their samples, by a windowed sinc."""

import numpy as np

from heimdall_lab.core.compiled import njit

TAPS = 16
PHASES = 1024
LEAD = TAPS // 2 - 1  # samples needed before the one at or below a position; LEAD + 1 after it
_KAISER_BETA = 11.7  # side lobes of -115 dB: Kaiser and Schafer, IEEE Trans. ASSP 28 (1980)


def kernel_table() -> np.ndarray:
    """Return the coefficients of a Kaiser-windowed sinc for fractions 0, 1 / PHASES, … 1: (PHASES + 1, TAPS) float32.

    A signal whose spectrum ends at a quarter of the sample rate, as every waveform's in its channel does, is
    interpolated to −100 dB: below the step of a 16-bit converter. Each row adds up to 1.
    """
    fraction = np.arange(PHASES + 1)[:, None] / PHASES
    offset = np.arange(TAPS) - LEAD - fraction  # (PHASES + 1, TAPS), from the position to each sample
    window = np.i0(_KAISER_BETA * np.sqrt(np.maximum(1 - (2 * offset / TAPS) ** 2, 0)))
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
    """Raise the sample rate of waveforms by a whole factor.

    Parameters
    ----------
    waveform : (S, M) complex64
    factor : int

    Returns
    -------
    (S, 2, (M − TAPS) · factor) float32
        Real and imaginary part, so that compilers find neighbours to work on together; the first sample is the
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
