"""Coarse search of the tangent plane: where to start the refinement, and at which frequency offsets."""

from typing import NamedTuple

import numpy as np
import scipy.fft
import xarray as xr

from heimdall_lab.core import geodesy
from heimdall_lab.core.arrays import Array
from heimdall_lab.core.units import SPEED_OF_LIGHT
from heimdall_lab.localization import observations, tdoa
from heimdall_lab.localization.dpd.whitening import WhitenedSignals, band_spectrum
from heimdall_lab.localization.observations import Observations

_SIDE = 40  # grid positions along each side of the square that is searched, of which each 2 × 2 yield one start
_HALF_WIDTH = 2.0  # of that square, in distances of the outermost receiver from the middle of all
_NUM_STARTS = 8  # of the grid that are refined
_GUMBEL_MEAN, _GUMBEL_SIGMA = np.euler_gamma, np.pi / 6**0.5  # of the largest of many exponential variables, less ln n
_PAIR_LOG_LIKELIHOOD = 14.0  # of a pair's peak above the largest of noise's, which one in a million exceeds
_DETECTION_SIGMAS = 7.0  # above the noise's mean, which the best of some thousand positions does not reach


class Candidates(NamedTuple):
    """What the search found in S scenes."""

    start: Array  # (S, K, 2) m on the tangent plane
    frequency_hz: Array  # (S, R) offsets against the reference
    detected: Array  # (S,) bool, at least three receivers agree better than by chance


def search(observed: Observations, batch: xr.Dataset, signals: WhitenedSignals, fdoa_hz: Array) -> Candidates:
    """Search the tangent plane for starts of `refinement.refine`, with frequency offsets unknown.

    Against the reference alone, the likelihood is the sum of the pairs' squared cross-ambiguities, each at its best
    frequency. It chooses the frequencies, and the starts among whose maxima the joint likelihood decides. ``fdoa_hz``
    (S, R), what pairs alone show, is kept where they show it clearly, or the search finds the same peak.
    """
    rate_hz = batch.attrs["sample_rate_hz"]
    rows = np.arange(len(observed.reference))
    plane, axis_m = position_grid(observed, _SIDE)
    present = np.isfinite(observed.latitude_deg)
    relative = _relative_delays(observed, plane, rate_hz)  # (S, G, R)
    widest = int(np.abs(relative).max()) // 2 + 2
    max_hz = 2 * batch.attrs["max_frequency_offset_hz"]
    power, bins = _power_over_noise(signals, observed.reference, widest, max_hz, rate_hz)
    total = _at_delays(power, relative).sum(axis=2)
    # The best of each 2 × 2, so that starts lie on either side of a receiver, and all along a ridge.
    half = _SIDE // 2
    blocks = np.arange(_SIDE**2).reshape(half, 2, half, 2).swapaxes(1, 2).reshape(-1, 4)
    block_best = blocks[np.arange(len(blocks)), total[:, blocks].argmax(axis=2)]  # (S, _SIDE² / 4)
    order = np.argsort(-np.take_along_axis(total, block_best, axis=1), axis=1, kind="stable")[:, :_NUM_STARTS]
    of_grid = plane[rows[:, None], np.take_along_axis(block_best, order, axis=1)]
    start = np.concatenate(
        [of_grid, _by_differences(observed, of_grid[:, 0]), _around_strongest(observed, axis_m)], axis=1
    )

    relative = _relative_delays(observed, start, rate_hz)
    power_at_start = _at_delays(power, relative)  # (S, K, R)
    best = power_at_start.sum(axis=2).argmax(axis=1)
    lag = np.rint(relative[rows, best] / 2).astype(int)
    frequency_hz = _frequencies(signals, observed.reference, lag, max_hz, rate_hz)
    found = _found_alone(observed, power, bins, rate_hz)
    exact = found | (np.abs(fdoa_hz - frequency_hz) < rate_hz / signals.duration / 2)
    detected = _agree_better_than_noise(power_at_start[rows, best], present.sum(axis=1), bins)
    return Candidates(start, np.where(exact, fdoa_hz, frequency_hz), detected)


def _relative_delays(observed: Observations, plane: Array, rate_hz: float) -> Array:
    """Delays (S, G, R) from positions on the tangent plane against the reference, in samples; 0 where none is."""
    delay = grid_delays(observed, plane, rate_hz)
    of_reference = np.take_along_axis(delay, observed.reference[:, None, None], axis=2)
    return np.where(np.isfinite(observed.latitude_deg)[:, None], delay - of_reference, 0.0)


def _at_delays(power: Array, delay: Array) -> Array:
    """Power (S, R, L), at lags of two samples about 0, at delays (S, G, R) in samples; at its ends where beyond."""
    widest = power.shape[2] // 2
    place = (delay / 2 + widest).clip(0, 2 * widest - 1)
    below = place.astype(int)
    scene, receiver = np.arange(len(power))[:, None, None], np.arange(power.shape[1])
    return power[scene, receiver, below] * (below + 1 - place) + power[scene, receiver, below + 1] * (place - below)


def _around_strongest(observed: Observations, axis_m: Array) -> Array:
    """Four positions (S, 4, 2) m one grid step, of the axis (S, side) m, from the reference, the strongest receiver.

    Close to it the likelihood turns faster than the grid shows, and behind it lies a flat ridge.
    """
    rows = np.arange(len(observed.reference))
    latitude, longitude = (
        degrees[rows, observed.reference] for degrees in (observed.latitude_deg, observed.longitude_deg)
    )
    steps = (axis_m[:, 1] - axis_m[:, 0])[:, None, None] * np.array([[1, 0], [0, 1], [-1, 0], [0, -1]])
    return observations.tangent_plane(observed, latitude, longitude)[:, None] + steps


def _found_alone(observed: Observations, power: Array, bins: int, rate_hz: float) -> Array:
    """Whether the peak of a receiver with the reference alone is beyond chance, (S, R) bool.

    The power (S, R, L) is over its mean in noise, the largest of ``bins`` frequencies.
    """
    delay = observed.pseudorange_m / SPEED_OF_LIGHT * rate_hz
    at_delay = _at_delays(power, np.nan_to_num(delay)[:, None])[:, 0]
    return np.isfinite(delay) & (at_delay > np.log(bins * power.shape[2]) + _PAIR_LOG_LIKELIHOOD)


def _by_differences(observed: Observations, best: Array) -> Array:
    """Starts (S, 5, 2) m where the time differences of pairs meet, and mirror images of the first of them and ``best``.

    In large networks the likelihood's summits are narrower than the grid's steps. Receivers on a line see a position
    and its mirror image alike.
    """
    fix, _ = tdoa.tdoa_ls(observed)
    closed = tdoa.intersections(observed)  # (S, 2, 2) degrees
    latitude = np.concatenate([fix.latitude_deg[:, None], closed[..., 0]], axis=1)
    longitude = np.concatenate([fix.longitude_deg[:, None], closed[..., 1]], axis=1)
    met = np.stack(
        [observations.tangent_plane(observed, latitude[:, k], longitude[:, k]) for k in range(latitude.shape[1])],
        axis=1,
    )
    return np.concatenate([met, mirrored(observed, np.stack([met[:, 0], best], axis=1))], axis=1)


def mirrored(observed: Observations, plane: Array) -> Array:
    """Mirror images of positions (S, K, 2) m on the tangent plane, across the line that is nearest to the receivers."""
    latitude, longitude = geodesy.tangent_plane_origin(observed.latitude_deg, observed.longitude_deg)
    position = geodesy.ecef(observed.latitude_deg, observed.longitude_deg, observed.altitude_m)
    receivers = geodesy.enu(position, latitude, longitude)[..., :2]
    middle = np.nanmean(receivers, axis=1)[:, None]
    offset = np.nan_to_num(receivers - middle)
    _, axes = np.linalg.eigh(offset.swapaxes(1, 2) @ offset)
    along = axes[:, None, :, 1]  # (S, 1, 2)
    from_middle = plane - middle
    return middle + 2 * (from_middle * along).sum(axis=-1, keepdims=True) * along - from_middle


def _agree_better_than_noise(power: Array, num_present: Array, bins: int) -> Array:
    """Whether at least three receivers agree better than by chance, (S,) bool, at the best position.

    The power (S, R) is the squared cross-ambiguity with the reference over its mean in noise, the largest of ``bins``
    frequencies.
    """
    # The strongest pair alone is a hyperbola; what the others add must be more than noise would.
    others = num_present - 2
    excess = power.sum(axis=1) - power.max(axis=1) - others * (np.log(bins) + _GUMBEL_MEAN)
    return (others > 0) & (excess > _DETECTION_SIGMAS * _GUMBEL_SIGMA * np.sqrt(np.maximum(others, 1)))


def position_grid(observed: Observations, side: int) -> tuple[Array, Array]:
    """Positions (S, side², 2) m in a square on the tangent plane, rows northward; and one axis (S, side) m."""
    latitude, longitude = geodesy.tangent_plane_origin(observed.latitude_deg, observed.longitude_deg)
    position = geodesy.ecef(observed.latitude_deg, observed.longitude_deg, observed.altitude_m)
    radius = np.nanmax(geodesy.length(geodesy.enu(position, latitude, longitude)), axis=1)
    axis = _HALF_WIDTH * radius[:, None] * np.linspace(-1, 1, side)
    east, north = np.broadcast_arrays(axis[:, None, :], axis[:, :, None])
    return np.stack([east, north], axis=-1).reshape(len(axis), -1, 2), axis


def grid_delays(observed: Observations, plane: Array, rate_hz: float) -> Array:
    """Delays (S, G, R) from positions on the tangent plane, in samples; 0 where no receiver is."""
    return np.nan_to_num(observations.grid_distances(observed, plane)) / SPEED_OF_LIGHT * rate_hz


def _power_over_noise(
    signals: WhitenedSignals, reference: Array, widest: int, max_hz: float, rate_hz: float
) -> tuple[Array, int]:
    """Squared cross-ambiguity with the reference at its best frequency, over its mean in noise: (S, R, 2 · widest + 1).

    It is at lags of two samples, from −widest on; 0 of the reference itself. Returned beside it is the number of
    frequencies among which the best was chosen.
    """
    rows = np.arange(len(reference))
    strongest = signals.voltage[rows, reference]
    # Noise of unit variance in the band, weighted, times the reference.
    spectrum = band_spectrum(strongest, signals.share.shape[-1])
    noise = (signals.share * np.abs(spectrum) ** 2).mean(axis=-1)
    padded = np.pad(signals.voltage, ((0, 0), (0, 0), (widest, widest)))
    num_time = strongest.shape[-1]
    power = np.stack(
        [
            np.abs(_low_frequencies(padded[..., first : first + num_time], strongest, max_hz, rate_hz, 2)[1]) ** 2
            for first in range(2 * widest + 1)
        ],
        axis=-2,
    )  # (S, R, L, F)
    power[rows, reference] = 0.0
    with np.errstate(divide="ignore", invalid="ignore"):  # scenes without any signal have no weight either
        return np.nan_to_num(power.max(axis=-1) / noise[:, None, None]), power.shape[-1]


def _frequencies(signals: WhitenedSignals, reference: Array, lag: Array, max_hz: float, rate_hz: float) -> Array:
    """Frequency offsets (S, R) against the reference at given lags of two samples, Hz."""
    rows, num_time = np.arange(len(reference)), signals.voltage.shape[-1]
    time = lag[..., None] + np.arange(num_time)
    inside = (time >= 0) & (time < num_time)
    aligned = np.where(inside, np.take_along_axis(signals.voltage, time.clip(0, num_time - 1), axis=-1), 0.0)
    frequency_hz, values = _low_frequencies(aligned, signals.voltage[rows, reference], max_hz, rate_hz, 32)
    return frequency_hz[np.abs(values).argmax(axis=-1)]


def _low_frequencies(
    aligned: Array, strongest: Array, max_hz: float, rate_hz: float, oversampling: int
) -> tuple[Array, Array]:
    """Spectra (S, R, F) of signals (S, R, K) times the conjugate reference (S, K), and their frequencies (F,) Hz.

    Only frequencies up to ``max_hz`` are evaluated. Sums over blocks so short that those fall by 0.2 dB at most replace
    the samples.
    """
    num_time = strongest.shape[-1]
    block = min(num_time, max(1, int(rate_hz / 2 / (8 * max_hz)))) if max_hz > 0 else num_time
    blocks = num_time // block
    product = (aligned * strongest.conj()[:, None])[..., : blocks * block]
    sums = product.reshape(*product.shape[:-1], blocks, block).sum(axis=-1)
    length = oversampling * blocks
    frequency_hz = np.fft.fftfreq(length, 2 * block / rate_hz)
    kept = np.abs(frequency_hz) <= max_hz
    return frequency_hz[kept], scipy.fft.fft(sums, n=length, axis=-1)[..., kept]
