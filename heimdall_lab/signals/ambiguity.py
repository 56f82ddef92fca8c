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


def peak_and_rival(coherence: Array, valid: Array, values: Array) -> tuple[Array, Array]:
    """Which of the climbed peaks (S, R, K) is it, (S, R), and which cannot be told from it, −1 where each can.

    It is the first unless another is higher by more than noise could make it. ``values`` (S, R, K) are the numbers of
    independent samples in the overlaps. With the waveform known and the noise's level not, the log likelihood of a
    delay is −n ln(1 − ρ²) for a squared coherence ρ².

    Source: Kay, Fundamentals of Statistical Signal Processing: Detection Theory, section 9.4 (unknown noise variance).
    """
    xp = array_namespace(coherence)
    coherence = xp.where(valid, coherence, 0.0)
    residual = xp.log(xp.maximum(1 - coherence, _LEAST_RESIDUAL))
    highest = coherence.argmax(axis=-1)[..., None]
    apart = (residual - xp.take_along_axis(residual, highest, axis=-1)) * values
    lost = 1 - coherence / xp.maximum(xp.take_along_axis(coherence, highest, axis=-1), 1e-30)
    alike = valid & ((apart < _RIVAL_LOG_LIKELIHOOD) | (lost < _LEAST_LOSS))
    chosen = xp.where(alike[..., 0], 0, highest[..., 0])
    others = alike & (xp.arange(coherence.shape[-1]) != chosen[..., None])
    rival = xp.where(others, coherence, -1.0).argmax(axis=-1)
    return chosen, xp.where(others.any(axis=-1), rival, -1)
