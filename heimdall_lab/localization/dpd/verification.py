"""Verification of fixes receiver by receiver, against the waveform that all the others see together.

A likelihood has a summit whatever is wrong. Whether a fix agrees with its receivers shows where each of them is left
out: the others, aligned as the fix says, add up to a waveform, against which its delay is measured.
"""

from typing import NamedTuple

import numpy as np

from heimdall_lab.core.arrays import Array
from heimdall_lab.localization.dpd.eigenvalues import correlate_with_others, gram_matrices

_DETECTION_LOG_LIKELIHOOD = 14.0  # above that of the largest of as many lags of noise: one in a million is
_ELSEWHERE_LOG_LIKELIHOOD = 12.0  # by which a peak elsewhere must exceed one at the fix, as neither noise nor lobes do
_NUM_STEPS = 8  # towards a peak
_LEAST_INFORMATION = 1e-12  # of a delay, 1 / samples²
_STEP = 0.1  # samples by which delays are changed to measure slope and curvature of a peak


class LeaveOneOut(NamedTuple):
    """Delays of receivers against the waveform that the others see, NaN where a receiver is not heard in it."""

    delay_s: Array  # (S, R), later than at the fix; up to a delay that is common to all receivers, errors are their own
    sigma_s: Array  # (S, R), by noise and by what is not coherent with the others; without clock and path
    incoherent_s: Array  # (S, R), the part of ``sigma_s`` that noise does not explain: echoes, filters, interference
    coherent: Array  # (S, R), energy that is coherent with the others, over that of the receiver's noise; heard or not
    rest: Array  # (S, R), its other energy, over the same


def leave_one_out_delays(
    table: Array, delay: Array, delay_error: Array, noise_energy: Array, rate_hz: float
) -> LeaveOneOut:
    """Measure the delay of each receiver against the sum of the others, as a fix aligns them.

    Parameters
    ----------
    table : (S, R, R, L) complex
        Of `correlations.correlation_table`.
    delay, delay_error : (S, R)
        From the fix to each receiver, and the errors beside it with which signals fit best, samples.
    noise_energy : (S,)
        Of one whitened receiver's noise, in the units of the table.
    rate_hz : float
        Sample rate of the delays.

    Source: of standard deviations, Stein, "Algorithms for ambiguity function processing", IEEE Trans. ASSP 29 (1981).
    """
    aligned = delay + delay_error
    gram = gram_matrices(table, aligned)
    share = np.abs(np.linalg.eigh(gram)[1][..., -1]) ** 2  # (S, R) of each receiver in the delay of the common waveform
    energy, weight = _templates(gram)
    lag, curvature, log_likelihood, heard = _peaks(table, aligned, weight, energy, gram, noise_energy)
    # What is measured, d = e − m', is one's own error e less the mean m' of the others. With shares p of the mean m of
    # all, m' = (m − p e) / (1 − p), so that e = (1 − p) d + m.
    error = delay_error + (1 - share) * lag
    received, rest = _received_energy(gram, energy, log_likelihood, noise_energy)
    inflation = np.maximum(rest, 1.0)
    noise_variance = 1 / np.maximum(curvature * received, _LEAST_INFORMATION)
    return LeaveOneOut(
        np.where(heard, error, np.nan) / rate_hz,
        np.where(heard, np.sqrt(noise_variance * inflation), np.nan) / rate_hz,
        np.where(heard, np.sqrt(noise_variance * (inflation - 1)), np.nan) / rate_hz,
        received / np.maximum(noise_energy, 1e-300)[:, None],
        rest,
    )


def _templates(gram: Array) -> tuple[Array, Array]:
    """Energy (S, R) and weights (S, R, R) of the sum of the others in which most energy agrees, for each receiver."""
    others = ~np.eye(gram.shape[1], dtype=bool)
    without = gram[:, None] * (others[:, :, None] & others[:, None, :])  # (S, R, R, R)
    value, vector = np.linalg.eigh(without)
    return np.maximum(value[..., -1], 1e-300), vector[..., -1]


def _peaks(
    table: Array, delay: Array, weight: Array, energy: Array, gram: Array, noise_energy: Array
) -> tuple[Array, Array, Array, Array]:
    """Lag (S, R) in samples of each receiver's peak, curvature of its log, log likelihood, and whether it is one."""
    middle = (table.shape[-1] - 1) // 2
    reach = np.arange(-middle, middle + 1)
    first = np.full(delay.shape, -float(middle))
    level = np.abs(correlate_with_others(table, delay, weight, first, len(reach))) ** 2 / energy[..., None]
    present = np.einsum("srr->sr", gram).real > 0
    apart = np.where(present[:, None], delay[:, :, None] - delay[:, None], 0.0)
    inside = (reach >= -middle - apart.min(axis=2)[..., None]) & (reach <= middle - apart.max(axis=2)[..., None])
    level = np.where(inside, level, 0.0)
    highest = level.max(axis=-1)
    heard = present & (highest > np.log(len(reach)) + _DETECTION_LOG_LIKELIHOOD)
    _, rest = _received_energy(gram, energy, highest, noise_energy)
    as_high = level >= (highest - _ELSEWHERE_LOG_LIKELIHOOD * np.maximum(rest, 1.0))[..., None]
    lag = reach[np.where(as_high, np.abs(reach), np.inf).argmin(axis=-1)].astype(float)
    for step in range(_NUM_STEPS + 1):
        below, at, above = (
            np.abs(correlate_with_others(table, delay, weight, lag + move, 1)[..., 0]) ** 2 / energy
            for move in (-_STEP, 0.0, _STEP)
        )
        floor = np.maximum(at, 1e-300)
        slope, curvature = (above - below) / (2 * _STEP) / floor, (2 * at - above - below) / _STEP**2 / floor
        if step < _NUM_STEPS:
            newton = np.where(curvature > 0, slope / np.where(curvature > 0, curvature, 1.0), np.sign(slope))
            lag = lag + newton.clip(-1, 1)
    return lag, np.maximum(curvature, 0.0), at, heard


def _received_energy(gram: Array, energy: Array, log_likelihood: Array, noise_energy: Array) -> tuple[Array, Array]:
    """Energy (S, R) of each receiver that is coherent with the others, over noise; and what else it has, over noise."""
    noise = np.maximum(noise_energy, 1e-300)[:, None]
    # The template's own noise takes a share off the likelihood.
    received = log_likelihood * (1 + noise / np.maximum(energy - noise, 1e-3 * noise))
    rest = np.einsum("srr->sr", gram).real - received
    return np.maximum(received, 1e-300), rest / noise
