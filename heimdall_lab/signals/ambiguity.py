"""Rivals of correlation peaks: other delays at which two signals fit as well, as tones and repeated bursts have."""

import numpy as np

from heimdall_lab.core.arrays import Array, array_namespace

NUM_CANDIDATES = 8  # of the highest peaks besides the chosen one, each of which is climbed
_LEAST_HEIGHT = 0.5  # of the highest peak's coherence, below which noise never exchanges the two
_LEAST_OVERLAP = 0.25  # of the window, from which coherence is believed
_RIVAL_LOG_LIKELIHOOD = 14.0  # the likelihood ratio of a wrong delay to the right one exceeds e^14 once in a million
_LEAST_LOSS = 0.005  # of coherence, that a rival must lack: oscillators that drift take some, less of shorter overlaps
_LEAST_RESIDUAL = 1e-9  # of coherence, as rounding leaves it


def candidate_columns(level: Array, allowed: Array, best: Array, overlap: Array) -> tuple[Array, Array]:
    """Columns (S, R, K) of the highest other peaks, and whether they are any, (S, R, K) bool.

    Logarithmic squared correlations (S, R, L) are divided by the square of the windows' overlap (L,), as both energies
    fall with it. A peak is higher than its neighbours, and ``allowed`` (S, R, L − 2). ``best`` (S, R) is the column of
    the chosen one.
    """
    xp = array_namespace(level)
    with np.errstate(divide="ignore"):
        height = xp.where(overlap >= _LEAST_OVERLAP, level - 2 * xp.log(xp.maximum(overlap, 1e-9)), -xp.inf)
    middle = height[..., 1:-1]
    columns = xp.arange(1, level.shape[-1] - 1)
    is_peak = (middle > height[..., :-2]) & (middle >= height[..., 2:]) & allowed
    is_peak &= abs(columns - best[..., None]) > 1
    least = xp.take_along_axis(height, best[..., None], axis=-1) + np.log(_LEAST_HEIGHT)
    left = xp.where(is_peak & (middle > least), middle, -xp.inf)
    found = xp.empty((*best.shape, NUM_CANDIDATES), dtype=int)
    valid = xp.zeros(found.shape, dtype=bool)
    for number in range(NUM_CANDIDATES):
        at = left.argmax(axis=-1)[..., None]
        valid[..., number] = xp.isfinite(xp.take_along_axis(left, at, axis=-1)[..., 0])
        found[..., number] = at[..., 0] + 1
        xp.put_along_axis(left, at, -xp.inf, axis=-1)
        if not valid[..., number].any():
            found[..., number:] = 1
            break
    return found, valid


def may_be_rivals(level: Array, lag: Array, best: int, duration: float) -> Array:
    """Whether peaks at lags (C,) are as `candidate_columns` has them beside the best one, (C,) bool."""
    xp = array_namespace(level)
    overlap = 1 - abs(lag) / duration
    height = level - 2 * xp.log(xp.maximum(overlap, 1e-9))
    apart = abs(lag - lag[best]) > 1
    return (overlap >= _LEAST_OVERLAP) & (height > height[best] + np.log(_LEAST_HEIGHT)) & apart


def highest_and_rival(coherence: Array, valid: Array, values: Array) -> tuple[Array, Array]:
    """Which of the climbed peaks (S, R, K) is highest, (S, R), and which cannot be told from it, −1 where each can.

    ``values`` (S, R, K) are the numbers of independent samples in the overlaps. With the waveform known and the noise's
    level not, the log likelihood of a delay is −n ln(1 − ρ²) for a squared coherence ρ².

    Source: Kay, Fundamentals of Statistical Signal Processing: Detection Theory, section 9.4 (unknown noise variance).
    """
    xp = array_namespace(coherence)
    residual = xp.log(xp.maximum(1 - xp.where(valid, coherence, 0.0), _LEAST_RESIDUAL))
    highest = residual.argmin(axis=-1)
    least = xp.take_along_axis(residual, highest[..., None], axis=-1)
    apart = xp.where(valid, (residual - least) * values, xp.inf)
    xp.put_along_axis(apart, highest[..., None], xp.inf, axis=-1)
    lost = 1 - coherence / xp.take_along_axis(coherence, highest[..., None], axis=-1)
    apart = xp.where((lost < _LEAST_LOSS) & xp.isfinite(apart), 0.0, apart)
    nearest = apart.argmin(axis=-1)
    is_rival = xp.take_along_axis(apart, nearest[..., None], axis=-1)[..., 0] < _RIVAL_LOG_LIKELIHOOD
    return highest, xp.where(is_rival, nearest, -1)
