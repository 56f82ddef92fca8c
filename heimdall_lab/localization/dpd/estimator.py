"""The estimator: batches of scenes are searched, refined, and the most likely position of each is taken."""

from typing import NamedTuple

import numpy as np
import xarray as xr

from heimdall_lab.core.arrays import Array
from heimdall_lab.core.units import SPEED_OF_LIGHT
from heimdall_lab.localization import baselines, hyperbolic, integrity, observations
from heimdall_lab.localization.dpd.correlations import correlate_pairs, delay_sigma_s, noise_energy
from heimdall_lab.localization.dpd.eigenvalues import largest_eigenvalues
from heimdall_lab.localization.dpd.refinement import Summits, refine
from heimdall_lab.localization.dpd.search import grid_delays, position_grid, search
from heimdall_lab.localization.dpd.verification import LeaveOneOut, leave_one_out_delays
from heimdall_lab.localization.dpd.whitening import whiten
from heimdall_lab.localization.integrity import Evidence
from heimdall_lab.localization.observations import MAX_RANGE_M, Fix, Observations
from heimdall_lab.signals.measurements import with_measurements

_BATCH_IQ_SAMPLES = 2**20
_EQUAL_LOG_LIKELIHOOD = 0.5  # maxima that differ by less are equally likely
_MAX_WEIGHINGS = 4
_EQUAL_LOG_NOISE = np.log(2)  # of noise powers that differ by less, weights are not found anew
_LEAST_RESOLUTIONS = 1.25  # of the spectrum, that its rms bandwidth must exceed: a carrier is as wide as resolved


def dpd(observed: Observations, dataset: xr.Dataset) -> tuple[Fix, Evidence]:
    """Most likely position given the IQ of all receivers; waveform, phases and frequency offsets are unknown.

    For every position the delays that it implies are taken off the whitened signals. The largest eigenvalue of their
    Gram matrix, in which a frequency weighs by its share of signal, is the log likelihood. It is maximized together
    with one delay error a receiver, normal with the standard deviation of clock and path: where these exceed the error
    by noise, the eigenvalue alone would trust the strongest receivers too much.

    It is no fix if no more than two receivers agree better than by chance, if clocks (ntp, none) or paths err by more
    than the main lobe of the correlation is wide, if the signal is a carrier, whose delays are not seen, if it is
    uncertain by more than receivers can hear, or if another place is as likely. It rests on the delays of each receiver
    against the waveform that the others see, at the fix.

    Raises
    ------
    ValueError
        If the dataset holds no IQ, or its signals are sky waves.

    Source: Weiss, "Direct position determination of narrowband radio frequency transmitters", IEEE Signal Process.
    Lett. 11 (2004); frequency offsets as Amar and Weiss, IEEE Trans. Signal Process. 56 (2008), but each
    receiver's own.
    """
    _require_iq(dataset)
    if observed.propagation == "sky_wave":
        raise ValueError("propagation: is 'sky_wave', whose height of reflection dpd does not estimate; choose tdoa_ls")
    per_batch = _BATCH_IQ_SAMPLES // (dataset.sizes["receiver"] * dataset.sizes["time"])
    located = [
        _locate_batch(batch, dataset.isel(sample=rows).load(), dataset.fdoa_hz.values[rows])
        for rows, batch in observed.batches(per_batch)
    ]
    fixes, measured = zip(*located, strict=True)
    fix = Fix.concatenate(fixes)
    fix = baselines.centroid_where(np.isnan(fix.latitude_deg), fix, observed)
    delay_m, sigma_m = (np.concatenate(parts) * SPEED_OF_LIGHT for parts in zip(*measured, strict=True))
    return fix, _evidence(observed, fix, delay_m, sigma_m)


def _evidence(observed: Observations, fix: Fix, delay_m: Array, sigma_m: Array) -> Evidence:
    """Delays (S, R) m against the waveform of the others, as later than at the fix, with their standard deviations.

    A receiver that the reference alone hears is taken at its time difference: where a fix is wrong, the others do not
    add up to its waveform.
    """
    pairs = integrity.delays(observed, fix, observed.heard, has_own_covariance=True, least_scale=1.0)
    reference = observed.reference[:, None]
    of_pair = pairs.residual + np.take_along_axis(delay_m - pairs.residual, reference, axis=1)
    alone = pairs.used & np.isnan(delay_m) & np.isfinite(of_pair)
    variance = observed.variance_m2.copy()
    noise = observations.CAUSES.index("noise")
    variance[..., noise] = np.where(alone, variance[..., noise], np.square(sigma_m))
    residual = np.where(alone, of_pair, delay_m)
    return pairs._replace(used=np.isfinite(residual), residual=residual, variance=variance)


def likelihood(scene: xr.Dataset, side: int = 201) -> xr.DataArray:
    """Log likelihood of the transmitter's position in one scene, over that of the best position on the map.

    Parameters
    ----------
    scene : xr.Dataset
        One sample of a dataset with IQ, without the dimension ``sample``.
    side : int
        Positions along each axis.

    Returns
    -------
    xr.DataArray
        Dims (north, east), m on the tangent plane at the centroid of the present receivers, the plane of
        `estimators.locate`. Clocks and paths are taken as perfect.

    Raises
    ------
    ValueError
        If the scene holds no IQ or is more than one, or the map has fewer than two positions along an axis.
    """
    if "sample" in scene.dims:
        raise ValueError(f"scene: holds {scene.sizes['sample']} samples; choose one with .isel(sample=0)")
    _require_iq(scene)
    if side < 2:
        raise ValueError(f"side: {side} positions span no map; give at least 2")
    dataset = with_measurements(scene.expand_dims("sample").transpose("sample", "receiver", ...))
    observed = observations.from_dataset(dataset)
    signals = whiten(dataset)
    found = search(observed, dataset, signals, dataset.fdoa_hz.values)
    table = correlate_pairs(observed, dataset, signals, found.frequency_hz)
    plane, axis_m = position_grid(observed, side)
    delay = grid_delays(observed, plane, dataset.attrs["sample_rate_hz"])
    value = largest_eigenvalues(table, delay)[0].reshape(side, side)
    return xr.DataArray(
        value - value.max(),
        {name: (name, axis_m[0], {"units": "m"}) for name in ("north", "east")},
        ("north", "east"),
        "log_likelihood",
        {"units": "1", "long_name": "log likelihood over that of the best position"},
    )


def _require_iq(dataset: xr.Dataset) -> None:
    """Raise ValueError if there is no IQ."""
    if "iq" not in dataset:
        raise ValueError("iq: is missing; dpd needs a dataset of iq_raw, so choose another method")


def _locate_batch(observed: Observations, batch: xr.Dataset, fdoa_hz: Array) -> tuple[Fix, tuple[Array, Array]]:
    """Fixes of one batch of scenes, and delays (S, R) s against the waveform of the others, with their sigmas."""
    rate_hz = batch.attrs["sample_rate_hz"]
    signals = whiten(batch)
    sigma_s = delay_sigma_s(batch)
    found = search(observed, batch, signals, fdoa_hz)
    table = correlate_pairs(observed, batch, signals, found.frequency_hz)
    best = _climb_weighed(observed, table, found.start, noise_energy(signals), sigma_s * rate_hz, rate_hz)
    summit, measured = best.summit, best.measured
    reached = found.detected & np.isfinite(summit.value)
    reasons = {
        "noise": ~found.detected,
        "unobserved": ~reached,
        # Delay errors of one radian at the rms bandwidth leave the main lobe of the correlation; unknown ones may.
        "clocks": ~(2 * np.pi * signals.rms_hz[:, None] * sigma_s < 1).all(axis=1),
        "carrier": signals.rms_hz <= _LEAST_RESOLUTIONS * signals.resolution_hz,
        "far": ~(best.near & best.certain),
        "ambiguous": np.isfinite(best.rivals).any(axis=(1, 2)),
    }
    # What is not coherent with the others spreads a delay as noise does, of which the likelihood knows nothing.
    spread_m = summit.gain * np.nan_to_num(measured.incoherent_s * rate_hz)[:, None]
    fix = Fix(
        np.where(reached & best.near, summit.latitude_deg, np.nan),
        np.where(reached & best.near, summit.longitude_deg, np.nan),
        observed.height_m,
        summit.covariance + spread_m @ spread_m.swapaxes(1, 2),
        np.select(list(reasons.values()), list(reasons), "ok"),
        best.rivals,
    )
    return fix, (measured.delay_s, measured.sigma_s)


class _Best(NamedTuple):
    """The most likely summit of each of S scenes."""

    summit: Summits  # without the dimension of starts
    measured: LeaveOneOut  # there
    rivals: Array  # as `Fix` has them
    near: Array  # (S,) bool, whether it is where receivers can hear
    certain: Array  # (S,) bool, whether it is that certain, too

    def arrays(self) -> tuple[Array, ...]:
        """All that is said of the scenes, (S, ...) each."""
        return *self.summit, *self.measured, self.rivals, self.near, self.certain


def _climb_weighed(
    observed: Observations, table: Array, start: Array, noise: Array, sigma: Array, rate_hz: float
) -> _Best:
    """Summits where a signal most of which is not coherent with the others counts as noise of its receiver.

    The likelihood would be drawn away by it: interference, or an oscillator at another frequency. Which ones these are
    shows where the others add up to one waveform, at the summit: both are found in turn. From starts (S, K, 2) m, with
    the energy (S,) of noise and standard deviations (1, R) of delay errors in samples.
    """
    power = np.ones(table.shape[:2])  # of each receiver's noise, over that of ``noise``

    def climb(rows: Array) -> _Best:
        amplitude = 1 / np.sqrt(power[rows])
        weighed = table[rows] * (amplitude[:, :, None] * amplitude[:, None])[..., None]
        known = observed.select(rows)
        summits = refine(known, weighed, start[rows], sigma, rate_hz)
        chosen, *others = _choose(known, summits)
        summit = summits.select(chosen)
        measured = leave_one_out_delays(weighed, summit.delay, summit.delay_error, noise[rows], rate_hz)
        return _Best(summit, measured, *others)

    rows = np.arange(len(start))
    best = latest = climb(rows)
    for _ in range(_MAX_WEIGHINGS):
        strange = latest.measured.rest > latest.measured.coherent
        found = np.where(strange, np.maximum(power[rows] * latest.measured.rest, 1.0), 1.0)
        changes = (np.abs(np.log(found / power[rows])) > _EQUAL_LOG_NOISE).any(axis=1)
        if not changes.any():
            break
        rows = rows[changes]
        power[rows] = found[changes]
        latest = climb(rows)
        for values, new in zip(best.arrays(), latest.arrays(), strict=True):
            values[rows] = new
    return best


def _choose(observed: Observations, summits: Summits) -> tuple[Array, Array, Array, Array]:
    """Most likely summit of each scene, (S,), and its rivals as `Fix` has them.

    Returned besides is whether it is where receivers can hear, and whether it is that certain, too, (S,) bool each.

    Levels do not shape a fix, but help to choose between several. Of equally likely ones it is the one nearest the
    receivers.
    """
    places = summits.latitude_deg, summits.longitude_deg
    at_summits = observed.repeat(places[0].shape[1])
    levels = hyperbolic.level_cost(at_summits, *(degrees.ravel() for degrees in places)).reshape(places[0].shape)
    cost = levels - 2 * summits.value
    centre = baselines.receivers_centroid(observed)
    distance = hyperbolic.distance_m(*places, centre.latitude_deg, centre.longitude_deg)
    equal = cost <= cost.min(axis=1, keepdims=True) + 2 * _EQUAL_LOG_LIKELIHOOD
    best = np.where(equal, distance, np.inf).argmin(axis=1)
    spread = np.sqrt(np.trace(summits.covariance, axis1=-2, axis2=-1))
    in_reach = np.maximum(distance, spread) < MAX_RANGE_M[observed.propagation]
    rivals = hyperbolic.rivals(*places, summits.covariance, np.where(in_reach, cost, np.inf), best, strict=True)
    row = np.arange(len(best)), best
    return best, rivals, distance[row] < MAX_RANGE_M[observed.propagation], in_reach[row]
