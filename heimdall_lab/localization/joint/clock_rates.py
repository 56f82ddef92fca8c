"""How clocks grow in a recording: beforehand, and by the frequencies that one crystal shifts."""

import numpy as np

from heimdall_lab.core.arrays import Array
from heimdall_lab.localization.hyperbolic import CAUCHY_SCALE
from heimdall_lab.localization.joint.pseudo_ranges import Recordings
from heimdall_lab.localization.joint.solver import clocks_and_times
from heimdall_lab.localization.shared_clocks import equations, inverse

_STEPS = 10  # of weighing measured rates anew
_LEAST_SIGMA_M_S = 3e-3  # of a measured rate: 1e-11, as steady as good oscillators are
_LEAST_SURPLUS = 3  # measured rates more than unknowns, from which their scatter tells how precise they are
_NORMAL_MEDIAN = 0.6745  # of the magnitude of normal errors, in standard deviations
_SEARCHED = 0.5  # of the most precise delay's standard deviation, up to which growth is taken for known in a search


def with_rates(recordings: Recordings, time_s: Array, sigma_m_s: float, measured_m_s: Array | None) -> Recordings:
    """Let the clocks of recordings grow over the times (B, S) s of their emissions.

    Beforehand rates have a standard deviation; ``measured_m_s`` (B, S, R) are those that frequencies tell, each but for
    what is common to its emission.
    """
    since_s = time_s - time_s.mean(axis=1, keepdims=True)
    span_s = np.ptp(time_s, axis=1)
    if sigma_m_s == 0 or (span_s == 0).all():
        return recordings
    count, receivers = recordings.clock_mean_m.shape
    mean = np.zeros((count, receivers))
    information = np.broadcast_to(np.eye(receivers) / sigma_m_s**2, (count, receivers, receivers))
    if measured_m_s is not None:
        mean, information = _measured(recordings, information, measured_m_s)
    span_s = np.where(span_s > 0, span_s, 1.0)[:, None]
    mean_m, information = mean * span_s, information / span_s[..., None] ** 2
    grown = since_s / span_s  # (B, S), from the middle of the recording
    both = np.zeros((count, receivers, 2, receivers, 2))
    both[:, :, 0, :, 0], both[:, :, 1, :, 1] = recordings.clock_information, information
    return recordings._replace(
        basis=np.stack([np.ones_like(grown), grown], axis=-1),
        span_s=span_s[:, 0],
        clock_mean_m=np.stack([recordings.clock_mean_m, mean_m], axis=-1).reshape(count, 2 * receivers),
        clock_information=both.reshape(count, 2 * receivers, 2 * receivers),
    )


def without_known_growth(recordings: Recordings) -> Recordings:
    """Recordings as they are searched: without growth of clocks where it is known well enough for that.

    That is to half of the most precise delay's standard deviation, in all of them.
    """
    count, receivers = recordings.used.shape[0], recordings.used.shape[2]
    if recordings.basis.shape[-1] == 1:
        return recordings
    both = recordings.clock_information.reshape(count, receivers, 2, receivers, 2)
    if (_uncertainty_m(recordings, both[:, :, 1, :, 1]) > _SEARCHED * _least_sigma_m(recordings)).any():
        return recordings
    mean_m = recordings.clock_mean_m.reshape(count, receivers, 2)
    rest = recordings.measured_m - recordings.basis[..., 1:] * mean_m[:, None, :, 1]
    return recordings._replace(
        measured_m=np.where(recordings.used, rest, 0.0),
        basis=recordings.basis[..., :1],
        span_s=np.ones(count),
        clock_mean_m=mean_m[..., 0],
        clock_information=both[:, :, 0, :, 0],
    )


def _measured(recordings: Recordings, beforehand: Array, measured_m_s: Array) -> tuple[Array, Array]:
    """Rates (B, R) m/s that measured ones (B, S, R) tell, and information (B, R, R), by how well these agree.

    They are a sum of the receiver's rate and of what its emission has in common, as pseudo-ranges without paths are,
    weighed by Cauchy's law. Where too few are left over to see how well they agree, none of them is used.
    """
    used = recordings.used & np.isfinite(measured_m_s)
    measured = np.where(used, measured_m_s, 0.0)
    basis = np.ones((*used.shape[:2], 1))
    rates = recordings._replace(
        measured_m=measured,
        used=used,
        basis=basis,
        clock_mean_m=np.zeros(beforehand.shape[:2]),
        clock_information=beforehand,
    )
    unknowns = used.any(axis=-1).sum(axis=1) + used.any(axis=1).sum(axis=1) - 1
    total = used.sum(axis=(1, 2))
    enough = total - unknowns >= _LEAST_SURPLUS
    stretch = np.sqrt(total / np.maximum(total - unknowns, 1))
    # They scatter by noise, and because rates wander: none counts more than others, for growth follows their mean.
    sigma, influence = np.ones((len(used), 1, 1)), used.astype(float)
    for _ in range(_STEPS):
        mean, common = clocks_and_times(rates, np.zeros_like(measured), influence / sigma**2)
        residual = np.where(used, measured - common[..., None] - mean[:, None], np.nan)
        known = np.where(enough[:, None, None], np.abs(residual), 0.0)
        typical = stretch * np.nanmedian(known, axis=(1, 2)) / _NORMAL_MEDIAN
        sigma = np.maximum(typical, _LEAST_SIGMA_M_S)[:, None, None]
        influence = used / (1 + (np.nan_to_num(residual) / sigma / CAUCHY_SCALE) ** 2)
    columns = np.zeros((*used.shape, 4))
    columns[..., 3] = used
    nothing = np.zeros((*used.shape[:2], 4, 4))
    told = equations(columns, influence / sigma**2, basis, nothing).clocks()
    chosen = enough[:, None, None]
    return np.where(chosen[..., 0], mean, 0.0), beforehand + np.where(chosen, told, 0.0)


def _uncertainty_m(recordings: Recordings, information: Array) -> Array:
    """Largest standard deviation, (B,) m, of the growth of one clock against the others that are used."""
    hears = recordings.used.any(axis=1)
    share = hears / np.maximum(hears.sum(axis=1, keepdims=True), 1)
    centred = (np.eye(hears.shape[1]) - share[:, None]) * hears[:, :, None]
    variance = np.einsum("brr->br", centred @ inverse(information) @ centred.swapaxes(1, 2))
    return np.sqrt(np.maximum(variance, 0.0).max(axis=1))


def _least_sigma_m(recordings: Recordings) -> Array:
    return np.sqrt(np.where(recordings.used, recordings.variance_m2, np.inf).min(axis=(1, 2)))
