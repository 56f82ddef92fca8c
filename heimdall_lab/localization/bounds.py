"""Bounds of position by geometry and noise: dilution of precision and the Cramér-Rao bound."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import xarray as xr

from heimdall_lab.core import geodesy
from heimdall_lab.core.text import quoted
from heimdall_lab.core.units import SPEED_OF_LIGHT, db_to_linear
from heimdall_lab.datasets import schema
from heimdall_lab.localization import delay_law, information, level_law, paths, shared_clocks
from heimdall_lab.localization.information import LinesOfSight, Measurements
from heimdall_lab.signals.spectra import delay_sigma_s, level_sigma_db

# Measurements whose error is that of 1 m of range (times) or of the whole distance (levels and bearings).
_UNIT_ERRORS: dict[str, Callable[[LinesOfSight], Measurements]] = {
    "tdoa": lambda lines: information.times(lines, np.array(1 / SPEED_OF_LIGHT)),
    "toa": lambda lines: information.times(lines, np.array(1 / SPEED_OF_LIGHT), emission_time_known=True),
    "rss": lambda lines: information.levels(lines, np.array(20 / np.log(10))),
    "aoa": lambda lines: information.bearings(lines, np.array(1.0)),
}

GDOP_KINDS = tuple(_UNIT_ERRORS)
_COORDINATES = ("latitude", "longitude", "altitude")
_STATED_POSITION_SIGMA_M = 10.0  # of receivers' positions as people state them, where nothing else is said
JOINT_BOUNDS = "Bounds are joint: emissions of a recording share clocks, so that each tells of those of the others."
_EXACT_M = 1e-3  # standard deviation of what is stated as exact
_LEAST_SPAN_S = 1e-9  # of a recording whose emissions are all at one time
_STATED_SIGMA_FREEDOM = 4.0  # degrees of freedom that stated standard deviations of delays are worth


def gdop(receivers_enu: np.ndarray, transmitter_enu: np.ndarray, kind: str = "tdoa") -> np.ndarray:
    """Horizontal dilution of precision: rms position error over the error that one measurement means in position.

    That is the error in range of an arrival time. Levels and bearings err in proportion to distance: a level's error
    of s dB means a share s ln(10)/20 of the distance in free space, a bearing's of s rad a share s across it. Theirs is
    the dilution over that share of the geometric mean distance of the receivers. In the middle of a ring of N
    receivers all four are 2/√N.

    Parameters
    ----------
    receivers_enu : (..., R, 2 or 3) m
        NaN rows are absent receivers.
    transmitter_enu : (..., 2 or 3) m
    kind : str
        ``tdoa`` (emission time unknown), ``toa`` (emission time known), ``rss`` (power unknown) or ``aoa``.

    Returns
    -------
    (...) float64, NaN where the position is not observable or the transmitter stands on a receiver

    Raises
    ------
    ValueError
        If the kind is unknown.

    Source: Torrieri, "Statistical theory of passive location systems", IEEE Trans. AES 20 (1984); for bearings Levanon,
    "Lowest GDOP in 2-D scenarios", IEE Proc. Radar Sonar Navig. 147 (2000).
    It does not depend on a reference receiver, because the unknown emission time is eliminated from all of them alike.

    >>> import numpy as np
    >>> cross = np.array([[1e3, 0.0], [0.0, 1e3], [-1e3, 0.0], [0.0, -1e3]])
    >>> [round(float(gdop(cross, np.zeros(2), kind)), 6) for kind in GDOP_KINDS]
    [1.0, 1.0, 1.0, 1.0]
    """
    if kind not in GDOP_KINDS:
        raise ValueError(f"kind: {quoted(kind)} is unknown; choose one of {', '.join(GDOP_KINDS)}")
    return _dilution(information.lines_of_sight(np.asarray(receivers_enu), np.asarray(transmitter_enu)), kind)


def _dilution(lines: LinesOfSight, kind: str) -> np.ndarray:
    """Dilution of precision (...) by lines of sight, as `gdop`."""
    error_m = _rms(information.inverse(information.fisher(_UNIT_ERRORS[kind](lines))))
    if kind in ("tdoa", "toa"):
        return error_m
    share = np.where(lines.present, np.log(lines.distance_m), 0.0).sum(axis=-1)
    return error_m / np.exp(share / np.maximum(lines.present.sum(axis=-1), 1))


def crlb(
    receivers_enu: np.ndarray,
    transmitter_enu: np.ndarray,
    *,
    toa_sigma_s: np.ndarray | None = None,
    emission_time_known: bool = False,
    rss_sigma_db: np.ndarray | None = None,
    path_loss_exponent: float = 2.0,
    path_loss_exponent_known: bool = True,
    rss_slopes_db_per_m: tuple[np.ndarray, np.ndarray] | None = None,
    rss_correlation: np.ndarray | None = None,
    aoa_sigma_rad: np.ndarray | None = None,
    fdoa_sigma_hz: np.ndarray | None = None,
    frequency_hz: float | None = None,
    receiver_velocity_m_s: np.ndarray | None = None,
    transmitter_velocity_m_s: np.ndarray | None = None,
    altitude_sigma_m: np.ndarray | None = None,
) -> np.ndarray:
    """Cramér-Rao bound of the horizontal position from independent measurements, whose information adds.

    Errors are normal; of other laws, standard deviations are given that tell as much (`delay_law.equivalent_sigma`).
    Standard deviations are those of all that moves a measurement: independent causes add in quadrature, as the clock's
    error (s) to that of an arrival time, shadowing (dB) to that of a level, the oscillator's error (Hz) to that of a
    frequency. Infinite or NaN: this receiver makes no such measurement.

    Parameters
    ----------
    receivers_enu : (..., R, 2 or 3) m
        NaN rows are absent receivers.
    transmitter_enu : (..., 2 or 3) m
        A third coordinate is taken as known, unless ``altitude_sigma_m`` is given.
    toa_sigma_s : (..., R) s, optional
        Standard deviation of each receiver's arrival time.
    emission_time_known : bool
        Else (TDOA) only differences of arrival times carry information.
    rss_sigma_db : (..., R) dB, optional
        Standard deviation of each received level; the transmitted power is unknown.
    path_loss_exponent : float
        Of the law that levels follow, 2 in free space.
    path_loss_exponent_known : bool
        Else it is one more unknown.
    rss_slopes_db_per_m : two of (..., R), optional
        Of a law that is none of distance alone: by how much its loss grows for 1 m of distance, and for 1 m of the
        transmitter's altitude over the same distance. They go before the exponent.
    rss_correlation : (..., R, R), optional
        Correlation of the levels' errors, as of shadowing; independent by default.
    aoa_sigma_rad : (..., R) rad, optional
        Standard deviation of each receiver's horizontal bearing.
    fdoa_sigma_hz : (..., R) Hz, optional
        Standard deviation of each received frequency; the emission frequency is unknown, so only differences
        carry information.
    frequency_hz : float, optional
        Carrier frequency, for FDOA.
    receiver_velocity_m_s : (..., R, 2 or 3), optional
        As many coordinates as positions have; without it receivers stand still.
    transmitter_velocity_m_s : (..., 2 or 3), optional
        Taken as known; without it the transmitter stands still.
    altitude_sigma_m : (...) m, optional
        Standard deviation of what is known of the third coordinate beforehand, which is then one more unknown of all
        kinds of measurements together: 0 where it is known exactly, infinite where nothing is known. It changes nothing
        where positions have two coordinates.

    Returns
    -------
    (..., 2, 2) m², NaN where the position is not observable or the transmitter stands on a receiver

    Raises
    ------
    ValueError
        If no measurement is given, a standard deviation is not positive, FDOA lacks the carrier frequency or a
        velocity of the right number of coordinates, a correlation is not positive definite, or the altitude's standard
        deviation is negative or NaN.

    Source: Torrieri, IEEE Trans. AES 20 (1984); RSS after Patwari et al., IEEE Trans. Signal Process. 51 (2003); FDOA
    after Ho and Xu, IEEE Trans. Signal Process. 52 (2004); what is known beforehand after Van Trees, Detection,
    Estimation and Modulation Theory, part I, section 2.4.3.
    """
    lines = information.lines_of_sight(np.asarray(receivers_enu), np.asarray(transmitter_enu))
    measurements = []
    if toa_sigma_s is not None:
        measurements.append(information.times(lines, toa_sigma_s, emission_time_known=emission_time_known))
    if rss_sigma_db is not None:
        levels = information.levels(
            lines,
            rss_sigma_db,
            path_loss_exponent=path_loss_exponent,
            path_loss_exponent_known=path_loss_exponent_known,
            slopes=rss_slopes_db_per_m,
            correlation=rss_correlation,
        )
        measurements.append(levels)
    if aoa_sigma_rad is not None:
        measurements.append(information.bearings(lines, aoa_sigma_rad))
    if fdoa_sigma_hz is not None:
        if frequency_hz is None:
            raise ValueError("frequency_hz: is not given; fdoa_sigma_hz needs the carrier frequency")
        velocity = _relative_velocity(len(lines.unit), receiver_velocity_m_s, transmitter_velocity_m_s)
        measurements.append(information.frequencies(lines, fdoa_sigma_hz, frequency_hz, velocity))
    if not measurements:
        raise ValueError(
            "crlb: no measurement is given; pass toa_sigma_s, rss_sigma_db, aoa_sigma_rad, fdoa_sigma_hz or several"
        )
    return _bound(lines, measurements, altitude_sigma_m)


def _bound(lines: LinesOfSight, measurements: list[Measurements], height_sigma_m: np.ndarray | None) -> np.ndarray:
    """Bound (..., 2, 2) of measurements, with a third unknown where lines have one and its prior is given."""
    if height_sigma_m is None or len(lines.unit) == 2:
        return information.inverse(sum(information.fisher(each) for each in measurements))
    if not (np.asarray(height_sigma_m) >= 0).all():
        raise ValueError(
            f"altitude_sigma_m: {np.min(height_sigma_m)} is no standard deviation; give metres, 0 where it is known"
        )
    of_all_axes = sum(information.fisher(each, altitude=True) for each in measurements)
    return information.inverse(information.without_altitude(of_all_axes, height_sigma_m))


def crlb_joint(
    receivers_enu: np.ndarray,
    transmitter_enu: np.ndarray,
    *,
    toa_sigma_s: np.ndarray,
    clock_sigma_s: np.ndarray | float,
    is_known: np.ndarray | None = None,
    time_s: np.ndarray | None = None,
    clock_rate_sigma: np.ndarray | float = 0.0,
    altitude_sigma_m: np.ndarray | None = None,
) -> np.ndarray:
    """Cramér-Rao bound of the horizontal positions of emissions whose receivers' clocks are unknown, but common to all.

    Emission times are unknown, clocks have normal errors of known standard deviations beforehand. References tell the
    clocks, and so do unknown emissions that leave more delays than unknowns. With one emission, or clocks that are
    known, it is that of `crlb` with the clocks' error in quadrature.

    Parameters
    ----------
    receivers_enu : (..., S, R, 2 or 3) m
        Of each emission, about it or about the same origin for all; NaN rows are absent receivers.
    transmitter_enu : (..., S, 2 or 3) m
        A third coordinate is taken as known, unless ``altitude_sigma_m`` is given.
    toa_sigma_s : (..., S, R) s
        Standard deviation of each arrival time by all but the clocks; infinite or NaN where there is none.
    clock_sigma_s : (..., R) or float, s
        Standard deviation of each clock's offset, as it is known beforehand.
    is_known : (..., S) bool, optional
        Which emissions are references, whose horizontal positions are known.
    time_s : (..., S) s, optional
        When the emissions were; needed where clocks have rates.
    clock_rate_sigma : (..., R) or float
        Standard deviation of each clock's rate, by which its offset grows.
    altitude_sigma_m : (..., S) m, optional
        As of `crlb`.

    Returns
    -------
    (..., S, 2, 2) m², NaN of references, and where the position is not observable or stands on a receiver

    Raises
    ------
    ValueError
        If a standard deviation is not positive, or clocks have rates and no times are given.

    Source: Ho and Yang, IEEE Trans. Signal Process. 56 (2008), for references; Wang and Ho, IEEE Trans. Signal Process.
    61 (2013), for clocks; what is known beforehand after Van Trees, Detection, Estimation and Modulation Theory, part
    I, section 2.4.3.

    >>> import numpy as np
    >>> ring = 1e4 * np.stack([np.cos(np.arange(6)), np.sin(np.arange(6))], axis=-1)
    >>> emissions = np.array([[1e3, 2e3], [-3e3, 1e3], [2e3, -4e3]])
    >>> bound = crlb_joint(np.stack([ring] * 3), emissions, toa_sigma_s=np.full((3, 6), 1e-7), clock_sigma_s=1e-2)
    >>> bound.shape
    (3, 2, 2)
    """
    lines = information.lines_of_sight(np.asarray(receivers_enu, float), np.asarray(transmitter_enu, float))
    weight = information.times(lines, toa_sigma_s).weight
    *leading, emissions, receivers = weight.shape
    for name, value in (("clock_sigma_s", clock_sigma_s), ("altitude_sigma_m", altitude_sigma_m)):
        if value is not None and not (np.asarray(value) >= 0).all():
            raise ValueError(f"{name}: {np.min(value)} is no standard deviation; give what is known, 0 if it is exact")
    has_rates = np.any(np.asarray(clock_rate_sigma) != 0)
    if has_rates and time_s is None:
        raise ValueError("time_s: is not given; clock_rate_sigma needs the times of the emissions")
    count = int(np.prod(leading))
    known = np.zeros((count, emissions), bool) if is_known is None else np.reshape(is_known, (count, emissions))
    clocks_m = np.broadcast_to(clock_sigma_s, (*leading, receivers)).reshape(count, receivers) * SPEED_OF_LIGHT
    rates_m_s = np.broadcast_to(clock_rate_sigma, (*leading, receivers)).reshape(count, receivers) * SPEED_OF_LIGHT
    height = np.zeros((count, emissions, 3, 3))
    if altitude_sigma_m is not None and len(lines.unit) > 2:
        sigma_m = np.maximum(np.broadcast_to(altitude_sigma_m, (*leading, emissions)), _EXACT_M)
        height[..., 2, 2] = np.reshape(1 / sigma_m**2, (count, emissions))
    flat = LinesOfSight(
        [component.reshape(count, emissions, receivers) for component in lines.unit],
        lines.distance_m.reshape(count, emissions, receivers),
        lines.present.reshape(count, emissions, receivers),
    )
    bound = _joint_bound(
        flat,
        weight.reshape(count, emissions, receivers),
        height,
        known,
        clocks_m,
        rates_m_s if has_rates else None,
        np.zeros((count, emissions))
        if time_s is None
        else np.broadcast_to(time_s, (*leading, emissions)).reshape(known.shape),
        has_height=altitude_sigma_m is not None,
    )
    return bound.reshape(*leading, emissions, 2, 2)


def _joint_bound(
    lines: LinesOfSight,
    weight: np.ndarray,
    beforehand: np.ndarray,
    is_known: np.ndarray,
    clock_sigma_m: np.ndarray,
    rate_sigma_m_s: np.ndarray | None,
    time_s: np.ndarray,
    *,
    has_height: bool,
) -> np.ndarray:
    """Joint bounds (B, S, 2, 2) of arrival times with weights (B, S, R) 1/s², and other information (B, S, 3, 3)."""
    has_path = weight > 0
    axes = [np.where(has_path, component, 0.0) for component in lines.unit[: 3 if has_height else 2]]
    axes += [np.zeros_like(weight)] * (3 - len(axes))
    grown = time_s - time_s.mean(axis=1, keepdims=True)
    span_s = np.maximum(np.ptp(time_s, axis=1), _LEAST_SPAN_S)[:, None]
    basis, sigmas_m = [np.ones_like(grown)], [np.maximum(clock_sigma_m, _EXACT_M)]
    if rate_sigma_m_s is not None:
        basis, sigmas_m = [*basis, grown / span_s], [*sigmas_m, np.maximum(rate_sigma_m_s * span_s, _EXACT_M)]
    diagonal = np.stack(sigmas_m, axis=-1).reshape(len(weight), -1) ** -2.0
    return shared_clocks.position_bounds(
        np.stack(axes, axis=-1),
        weight / SPEED_OF_LIGHT**2,
        np.stack(basis, axis=-1),
        is_known,
        beforehand,
        diagonal[..., None] * np.eye(diagonal.shape[1]),
    )


def emissions_share_clocks(attributes: Mapping[Any, Any]) -> bool:
    """Whether each emission tells something of the clocks of the others, so that their bounds are joint.

    That is so in simulated recordings of several emissions (``recording.emissions`` of the attribute ``config``): the
    bound of one emission alone is above what a method may reach that takes them together. Recordings and tables that
    were received say what is known of their clocks by ``clock_sigma_s``; that ``recording`` numbers their samples
    changes none of their bounds.
    """
    return int(json.loads(attributes.get("config") or "{}").get("recording", {}).get("emissions", 1)) > 1


def joint_bounds_sentence(attributes: Mapping[Any, Any]) -> str:
    """Say of what emissions of a dataset share that their bounds are joint; empty where each has its own."""
    return JOINT_BOUNDS if emissions_share_clocks(attributes) else ""


def scene_crlb(dataset: xr.Dataset, law: str = "normal") -> xr.Dataset:
    """Cramér-Rao bound of each scene from its own truth.

    Time differences are bounded by SNR, rms bandwidth, duration and the errors of clocks, path delays and receivers'
    positions, levels by SNR, shadowing (correlated between receivers, where the attribute ``config`` gives the
    distance), environment loss and fading; both are used. The height that paths depend on, of transmitter or
    ionosphere, is unknown but for what estimators know of it beforehand (`paths.height_prior`), unless signals follow
    the ground.

    All errors are taken as normal, with the standard deviations that are known of them, except where a share of the
    links is late (`delay_law`): the normal law then bounds least squares, and robust methods may be better. The genie's
    law is told which links of the scene are late. Its bound is that of every estimate whose bias is the same wherever
    the transmitter is, which that of least squares and of means of the position under a flat prior is. The mixture's
    law bounds the mean over which links are late of those that know nothing of the single link but its delay and level;
    a scene that has few late links may be located better. Nothing known of the horizontal position is in any of them.

    Parameters
    ----------
    dataset : xr.Dataset
        With the truth variables of the contract.
    law : str
        One of `delay_law.LAWS`.

    Returns
    -------
    xr.Dataset
        ``gdop`` (sample), ``crlb_covariance`` (sample, axis, other_axis) m² along east and north at the transmitter,
        ``crlb_rmse`` (sample) m. NaN where not observable. Where `emissions_share_clocks` the bounds are joint, of the
        emissions of each recording that the dataset holds (`crlb_joint`), and NaN of references.

    Raises
    ------
    ValueError
        If the law is unknown.
    """
    used = dataset.receiver_present.values & dataset.get("signal_present", dataset.receiver_present).values
    lines = scene_lines(dataset, used)
    depends_on_height = dataset.attrs["propagation"] != "ground_wave"
    height_sigma_m = paths.height_prior(dataset)[1] if depends_on_height else None
    if emissions_share_clocks(dataset.attrs):
        covariance = _recorded_bounds(dataset, lines, used, law, height_sigma_m)
    else:
        covariance = _bound(lines, _scene_measurements(dataset, lines, used, law), height_sigma_m)
    axes = ["east", "north"]
    return xr.Dataset(
        {
            "gdop": ("sample", _dilution(lines, "tdoa"), {"units": "1"}),
            "crlb_covariance": (("sample", "axis", "other_axis"), covariance, {"units": "m2"}),
            "crlb_rmse": ("sample", _rms(covariance), {"units": "m"}),
        },
        coords={"sample": dataset.sample, "axis": axes, "other_axis": axes},
    )


def _recorded_bounds(
    dataset: xr.Dataset, lines: LinesOfSight, used: np.ndarray, law: str, height_sigma_m: np.ndarray | None
) -> np.ndarray:
    """Joint bounds (S, 2, 2) of the scenes of recordings, of arrival times and levels.

    Rates of clocks that frequencies tell, where one crystal drives tuner and sample clock, are taken as known.
    """
    times, levels = _scene_measurements(dataset, lines, used, law, shared_clocks_apart=True)
    has_height = height_sigma_m is not None
    of_levels = np.zeros((len(used), 3, 3))
    axes = slice(3 if has_height else 2)
    of_levels[:, axes, axes] = information.fisher(levels, altitude=has_height)
    if height_sigma_m is not None:
        of_levels[:, 2, 2] += 1 / np.maximum(height_sigma_m, _EXACT_M) ** 2
    variance_m2 = np.square(np.broadcast_to(clock_sigma_s(dataset), used.shape) * SPEED_OF_LIGHT)
    clocks_m = np.sqrt(shared_clocks.shared_clock_variance_m2(variance_m2, dataset.attrs))
    known = schema.references(dataset)
    rate = 0.0 if dataset.attrs.get("one_crystal", 0) else shared_clocks.clock_rate_sigma(dataset.attrs)
    covariance = np.full((len(used), 2, 2), np.nan)
    for rows in shared_clocks.rows_of_recordings(dataset):
        covariance[rows] = _joint_bound(
            LinesOfSight([component[rows] for component in lines.unit], lines.distance_m[rows], lines.present[rows]),
            times.weight[rows],
            of_levels[rows],
            known[rows],
            clocks_m[rows[:, 0]],
            np.full((len(rows), used.shape[1]), rate * SPEED_OF_LIGHT) if rate else None,
            dataset["recording_time"].values[rows],
            has_height=has_height,
        )
    return covariance


def _scene_measurements(
    dataset: xr.Dataset, lines: LinesOfSight, used: np.ndarray, law: str, *, shared_clocks_apart: bool = False
) -> list[Measurements]:
    """Arrival times and levels of each scene, with the standard deviations that its truth gives them.

    What clocks err by in all windows of a recording alike is left out where it is taken apart.
    """
    snr, duration_s = db_to_linear(dataset.snr.values), dataset.attrs["duration_s"]
    occupied_hz, rms_hz = (dataset[f"{kind}_bandwidth"].values[:, None] for kind in ("occupied", "rms"))
    noise_s = delay_sigma_s(snr, occupied_hz, rms_hz, duration_s)
    model_s2 = delay_model_variance(dataset)
    if shared_clocks_apart:
        window_s2 = shared_clocks.window_clock_variance_m2(dataset.attrs) / SPEED_OF_LIGHT**2
        model_s2 = np.maximum(model_s2 - np.square(clock_sigma_s(dataset)), 0.0) + window_s2
    of_law_s = _of_law(dataset, law, np.sqrt(noise_s**2 + model_s2), noise_s)
    level_db = np.hypot(level_sigma_db(snr, occupied_hz, duration_s), dataset.attrs["link_sigma_db"])
    correlation = _shadowing_correlation(dataset, used, level_db)
    levels = information.levels(lines, level_db, slopes=_level_slopes(dataset, lines), correlation=correlation)
    return [information.times(lines, of_law_s), levels]


def _level_slopes(dataset: xr.Dataset, lines: LinesOfSight) -> tuple[np.ndarray, np.ndarray] | None:
    """Slopes of a dataset's law of levels as `information.levels` takes them, None of free space."""
    law = dataset.attrs.get("level_law", schema.LEVEL_LAWS[0])
    if law == schema.LEVEL_LAWS[0] or dataset.attrs["propagation"] == "sky_wave":
        return None
    links = level_law.Links(law, dataset.attrs["centre_frequency_hz"], dataset.receiver_altitude.values)
    at = lines.distance_m, dataset.transmitter_altitude.values
    return level_law.slope_db_per_m(links, *at), level_law.altitude_slope_db_per_m(links, *at)


def scene_lines(dataset: xr.Dataset, used: np.ndarray) -> LinesOfSight:
    """Lines from each scene's true transmitter to the receivers that are used, (S, R) bool.

    Their third coordinate is that of the height that paths depend on. They are as long as a path changes with the steps
    of the transmitter and of the ionosphere: unit vectors along straight paths, horizontal ones along ground waves,
    neither along sky waves.
    """
    kind = dataset.attrs["propagation"]
    if kind == "line_of_sight":
        receivers, transmitter = transmitter_frame(dataset)
        return information.lines_of_sight(np.where(used[..., None], receivers, np.nan), transmitter)
    latitude, longitude, altitude = (dataset[f"receiver_{name}"].values for name in _COORDINATES)
    place = dataset.transmitter_latitude.values, dataset.transmitter_longitude.values
    height_m, _ = paths.height_prior(dataset)
    distance, gradient = paths.lengths(kind, (latitude, longitude, altitude), *place, height_m)
    has_path = used & (distance > 0)  # from the place of a receiver there is no direction to it
    along = np.where(has_path[..., None], -gradient, np.nan)
    apart = np.where(has_path, distance, np.nan)
    return LinesOfSight([along[..., axis] for axis in range(3)], apart, np.isfinite(apart))


def crlb_by_law(dataset: xr.Dataset) -> xr.Dataset:
    """Cramér-Rao bounds of each scene by every law that its delays may be taken to have.

    Returns
    -------
    xr.Dataset
        ``crlb_covariance`` and ``crlb_rmse`` of the normal law, as `scene_crlb` returns them; where a share of the
        links is late, ``crlb_covariance_genie`` and ``crlb_rmse_genie``, ``crlb_covariance_mixture`` and
        ``crlb_rmse_mixture`` too.
    """
    laws = delay_law.LAWS if delay_law.has_late_links(dataset.attrs) else ("normal",)
    names = "crlb_covariance", "crlb_rmse"
    suffixes = {law: delay_law.SUFFIXES[law] for law in laws}
    return xr.merge(
        scene_crlb(dataset, law)[[*names]].rename({name: f"{name}{suffix}" for name in names})
        for law, suffix in suffixes.items()
    )


def _of_law(dataset: xr.Dataset, law: str, sigma_s: np.ndarray, noise_s: np.ndarray) -> np.ndarray:
    """Standard deviations (S, R) of normal errors that tell as much as delays of a law, of such by all causes together.

    The genie is told what the truth says of each link; where that is not known, information is the mean of both.
    """
    delay_law.check(law)
    known = dataset.attrs
    if law == "normal" or not delay_law.has_late_links(known):
        return sigma_s
    excess = known["nlos_ratio"], known["nlos_excess_mean_s"]
    on_time_s = delay_law.on_time_sigma(sigma_s, *excess, least=noise_s)
    late = None
    if "line_of_sight" in dataset:
        late = np.where(np.isfinite(dataset.excess_delay.values), ~dataset.line_of_sight.values, known["nlos_ratio"])
    return delay_law.equivalent_sigma(law, on_time_s, *excess, late)


def delay_model_variance(dataset: xr.Dataset) -> np.ndarray:
    """Variance of receivers' arrivals that no signal averages out, by clocks, paths and their positions: (S, R) s²."""
    sigmas_s = clock_sigma_s(dataset), dataset.attrs["path_delay_sigma_s"], position_sigma_m(dataset) / SPEED_OF_LIGHT
    variance = sum(np.square(sigma_s) for sigma_s in sigmas_s)
    return np.broadcast_to(variance, (dataset.sizes["sample"], dataset.sizes["receiver"]))


def position_sigma_m(dataset: xr.Dataset) -> np.ndarray:
    """Standard deviation of receivers' positions along each axis, m: scalar, (R,) or (S, R).

    Where nobody says it simulated receivers stand where they are said to, and others within some metres.
    """
    unstated_m = 0.0 if np.isinf(sigma_freedom(dataset)) else _STATED_POSITION_SIGMA_M
    if "receiver_position_std" not in dataset:
        return np.asarray(unstated_m)
    stated_m = dataset["receiver_position_std"].values
    return np.where(np.isfinite(stated_m), stated_m, unstated_m)


def sigma_freedom(dataset: xr.Dataset) -> float:
    """Degrees of freedom that the scale of a dataset's standard deviations is known with; infinite in simulations."""
    return float(dataset.attrs.get("sigma_freedom", np.inf if dataset.attrs.get("config") else _STATED_SIGMA_FREEDOM))


def clock_sigma_s(dataset: xr.Dataset) -> np.ndarray:
    """Standard deviation of clocks, scalar or (R,) s; ValueError if it is of other receivers."""
    sigma_s, receivers = np.asarray(dataset.attrs["clock_sigma_s"]), dataset.sizes["receiver"]
    if sigma_s.shape not in ((), (receivers,)):
        raise ValueError(f"clock_sigma_s: holds {sigma_s.size} values for {receivers} receivers; choose those of them")
    return sigma_s


def transmitter_frame(variables: Mapping[Any, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Return receivers (S, R, 3) and transmitter (S, 3) in the ENU frame below each transmitter, m.

    Takes a dataset, or a dict of arrays, with the position variables of the contract.
    """
    receivers, transmitter = (
        [np.asarray(variables[f"{who}_{name}"]) for name in _COORDINATES] for who in ("receiver", "transmitter")
    )
    latitude, longitude, altitude = transmitter
    zero = np.zeros_like(latitude)
    return geodesy.enu(geodesy.ecef(*receivers), latitude, longitude), np.stack([zero, zero, altitude], axis=-1)


def _rms(covariance: np.ndarray) -> np.ndarray:
    return np.sqrt(covariance[..., 0, 0] + covariance[..., 1, 1])


def _relative_velocity(coordinates: int, receivers: np.ndarray | None, transmitter: np.ndarray | None) -> np.ndarray:
    """Velocity of the receivers as seen from the transmitter, (..., R or 1, 2 or 3) m/s."""
    velocities = {"receiver_velocity_m_s": receivers, "transmitter_velocity_m_s": transmitter}
    given = {name: np.asarray(value, dtype=float) for name, value in velocities.items() if value is not None}
    if not given:
        raise ValueError(
            "receiver_velocity_m_s: nothing moves; fdoa_sigma_hz needs a velocity, of receivers or transmitter"
        )
    for name, value in given.items():
        if value.shape[-1:] != (coordinates,):
            raise ValueError(f"{name}: has the shape {value.shape}; give {coordinates} coordinates, as positions have")
    still = np.zeros(coordinates)
    return given.get("receiver_velocity_m_s", still) - given.get("transmitter_velocity_m_s", still)[..., None, :]


def _shadowing_correlation(dataset: xr.Dataset, used: np.ndarray, rss_sigma_db: np.ndarray) -> np.ndarray | None:
    """Correlation (S, R, R) of the levels' errors between receivers that are used, None where it is not known or none.

    The shadowing's share of the variance is correlated by Gudmundson's law exp(−d / d_corr), the rest is not.
    """
    channel = json.loads(dataset.attrs.get("config") or "{}").get("channel", {})
    distance_m = 1e3 * channel.get("shadowing_distance_km", 0.0)
    if distance_m == 0:
        return None
    receivers = np.where(used[..., None], transmitter_frame(dataset)[0], np.nan)
    apart_m = np.sqrt(((receivers[:, :, None] - receivers[:, None]) ** 2).sum(axis=-1))
    shadowing = channel["shadowing_sigma_db"] / rss_sigma_db
    shared = shadowing[:, :, None] * shadowing[:, None] * np.exp(-apart_m / distance_m)
    return np.where(np.eye(receivers.shape[1], dtype=bool), 1.0, shared)
