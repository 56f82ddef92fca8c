"""The error bound of a network over an area, and the best site for one more receiver."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from heimdall_lab.core import geodesy
from heimdall_lab.core.config import Config
from heimdall_lab.core.text import quoted
from heimdall_lab.core.units import SPEED_OF_LIGHT, db_to_linear
from heimdall_lab.localization import bounds, delay_law, ellipses, information, level_law
from heimdall_lab.localization.information import Measurements
from heimdall_lab.signals.spectra import delay_sigma_s, level_sigma_db
from heimdall_lab.simulation import placement
from heimdall_lab.simulation.propagation import fading, losses

_PAIRS = 200_000  # of sites and points that are computed at a time
_ENTRIES = [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]  # of symmetric matrices along east, north and up


@dataclass(frozen=True)
class Transmitter:
    """Transmitter to be located: by default a handheld radio with the bandwidths of the package's voices."""

    power_dbm: float = 37.0
    altitude_m: float = 300.0
    rms_bandwidth_hz: float = 950.0
    occupied_bandwidth_hz: float = 5200.0


@dataclass(frozen=True)
class _LinkErrors:
    """Errors of what receivers R measure of transmitters at points P; positions are on the ENU axes of each point."""

    receivers: np.ndarray  # (P, R, 3) m, NaN where there is no signal
    transmitter: np.ndarray  # (P, 3) m
    toa_sigma_s: np.ndarray  # (P, R)
    rss_sigma_db: np.ndarray  # (P, R)
    level_slopes_db_per_m: tuple[np.ndarray, np.ndarray] | None  # as `information.levels` takes them


def grid_deg(config: Config, points: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """Latitudes and longitudes, (points) each, over the area where a configuration puts transmitters.

    Longitudes count on beyond 180 where that lies across the meridian.
    """
    south, north, west, east = placement.area_deg(config)
    return np.linspace(south, north, points), np.linspace(west, east, points)


def bound_map(
    config: Config,
    latitude_deg: np.ndarray,
    longitude_deg: np.ndarray,
    transmitter: Transmitter = Transmitter(),
    law: str | None = None,
) -> xr.Dataset:
    """Dilution of precision and Cramér-Rao bound for a transmitter at each point of a grid.

    The SNR of a link is that of its median loss: free space, diffraction over a smooth Earth if the configuration has
    it, and the mean environment loss. Times err by noise, clock, excess delays and echoes, levels by noise, shadowing,
    environment and fading, taken as independent from receiver to receiver; receivers below ``min_snr_db``, or within 1
    m of the transmitter, where there is no direction to them, measure nothing. Of the altitude no more is known than
    how far the configuration spreads it, whatever that of the transmitter is.

    Parameters
    ----------
    config : Config
        With a fixed network.
    latitude_deg : (N,)
    longitude_deg : (M,)
    transmitter : Transmitter
    law : str, optional
        Of the delays, one of `delay_law.LAWS`; by default the mixture's where a share of the links is late, else the
        normal one. The genie's information is the mean over which links are late.

    Returns
    -------
    xr.Dataset
        Dims latitude, longitude: ``gdop``, ``crlb_rmse`` m, ``cep50`` m, ``crlb_covariance`` (…, axis, other_axis) m²
        along east and north, NaN where not observable; ``receivers_with_signal``. Dim receiver: their positions. The
        attribute ``law`` of what follows from the bound names its law.

    Raises
    ------
    ValueError
        If the placement is not fixed, diffraction is that over terrain, or the law is unknown.
    """
    latitude, longitude = (a.ravel() for a in np.meshgrid(latitude_deg, longitude_deg, indexing="ij"))
    law = law or _law(config)
    links = _link_errors(config, transmitter, latitude, longitude, _network(config), law)
    covariance = bounds.crlb(
        links.receivers,
        links.transmitter,
        toa_sigma_s=links.toa_sigma_s,
        rss_sigma_db=links.rss_sigma_db,
        rss_slopes_db_per_m=links.level_slopes_db_per_m,
        altitude_sigma_m=np.array(config.geometry.transmitter_altitude_sigma_m),
    )
    shape = len(latitude_deg), len(longitude_deg)
    fields = {
        "gdop": (bounds.gdop(links.receivers, links.transmitter), "1", "horizontal TDOA dilution of precision"),
        "crlb_rmse": (np.sqrt(covariance[:, 0, 0] + covariance[:, 1, 1]), "m", "Cramér-Rao bound of the rms error"),
        "cep50": (ellipses.cep50(covariance), "m", "radius that holds half of the errors at the bound"),
        "receivers_with_signal": (np.isfinite(links.toa_sigma_s).sum(axis=1), "1", "receivers with signal"),
    }
    dims, axes = ("latitude", "longitude"), ["east", "north"]
    coords = _degrees("latitude", latitude_deg) | _degrees("longitude", longitude_deg) | _receivers(config)
    result = xr.Dataset(
        {
            name: (dims, values.reshape(shape), {"units": units, "long_name": long_name})
            for name, (values, units, long_name) in fields.items()
        },
        coords=coords | {"axis": axes, "other_axis": axes},
    )
    result["crlb_covariance"] = ((*dims, "axis", "other_axis"), covariance.reshape(*shape, 2, 2), {"units": "m2"})
    for name in ("crlb_rmse", "cep50", "crlb_covariance"):
        result[name].attrs["law"] = law
    return result


def best_site(
    config: Config,
    latitude_deg: np.ndarray,
    longitude_deg: np.ndarray,
    transmitter: Transmitter = Transmitter(),
    *,
    site_latitude_deg: np.ndarray | None = None,
    site_longitude_deg: np.ndarray | None = None,
    site_altitude_m: float | None = None,
) -> xr.Dataset:
    """Where one more receiver lowers the bound most, on the mean over all points of a grid.

    So that the mean exists where a position is not observable, the bound includes prior knowledge of the area: the
    information of a distribution as wide as the grid is added to that of the measurements (Van Trees' bound). A point
    that nothing observes counts with the spread of the area, and a site that makes it observable gains nearly all of
    that; where the Cramér-Rao bound is small against the area, both bounds agree. The altitude and the law of the
    delays are as for `bound_map`.

    Parameters
    ----------
    config : Config
        With a fixed network.
    latitude_deg, longitude_deg : (N,), (M,)
        The grid of points where transmitters may stand, all equally likely.
    site_latitude_deg, site_longitude_deg : (K,), (L,)
        The grid of sites for the new receiver; by default the points.
    site_altitude_m : float
        By default the mean of the network.

    Returns
    -------
    xr.Dataset
        ``mean_rmse`` (site_latitude, site_longitude) m with a receiver at each site; ``mean_rmse_now`` m without;
        ``best_latitude`` and ``best_longitude``, degrees.

    Raises
    ------
    ValueError
        As `bound_map`, or if the points span no area.

    Source: Van Trees, Detection, Estimation and Modulation Theory, part I, section 2.4.3. A receiver's information is a
    matrix of rank one for each kind of measurement, so that no site needs the network's again.
    """
    latitude, longitude = (a.ravel() for a in np.meshgrid(latitude_deg, longitude_deg, indexing="ij"))
    network = _network(config)
    sites = [latitude_deg if site_latitude_deg is None else site_latitude_deg]
    sites.append(longitude_deg if site_longitude_deg is None else site_longitude_deg)
    place = [network[2].mean() if site_altitude_m is None else site_altitude_m, 0.0]  # altitude; its position is known
    law = _law(config)
    known = _measurements(_link_errors(config, transmitter, latitude, longitude, network, law))
    prior = _prior(latitude, longitude, config.geometry.transmitter_altitude_sigma_m)
    now = prior + sum(information.fisher(kind, altitude=True) for kind in known)
    means = [_weighted_mean(kind) for kind in known]
    mean_rmse = []
    candidates = np.stack([a.ravel() for a in np.meshgrid(*sites, indexing="ij")])  # (2, C)
    for block in np.array_split(candidates, -(-candidates.shape[1] * len(latitude) // _PAIRS), axis=1):
        stations = np.concatenate([block, np.tile(place, (block.shape[1], 1)).T])
        entries = [now[:, None, i, k] for i, k in _ENTRIES]
        for kind, (total, mean) in zip(
            _measurements(_link_errors(config, transmitter, latitude, longitude, stations, law)), means, strict=True
        ):
            share = kind.weight * (total / np.maximum(total + kind.weight, np.finfo(float).tiny))
            about_mean = (own - others for own, others in zip(kind.gradient, mean, strict=True))
            step = [np.where(kind.weight > 0, difference, 0.0) for difference in about_mean]
            gain = (share * step[i] * step[k] for i, k in _ENTRIES)
            entries = [entry + added for entry, added in zip(entries, gain, strict=True)]
        mean_rmse.append(_rmse(entries).mean(axis=0))
    shape = len(sites[0]), len(sites[1])
    found = np.concatenate(mean_rmse)
    best = candidates[:, int(found.argmin())]
    metres = {"units": "m", "long_name": "mean bound of the rms error over the area", "law": law}
    return xr.Dataset(
        {
            "mean_rmse": (("site_latitude", "site_longitude"), found.reshape(shape), metres),
            "mean_rmse_now": ((), float(_rmse([now[:, i, k] for i, k in _ENTRIES]).mean()), metres),
            "best_latitude": ((), best[0], {"units": "degrees_north"}),
            "best_longitude": ((), best[1], {"units": "degrees_east"}),
        },
        coords=_degrees("site_latitude", sites[0]) | _degrees("site_longitude", sites[1]) | _receivers(config),
    )


def _network(config: Config) -> np.ndarray:
    """Latitude, longitude (degrees), altitude and standard deviation of the position (m) of a fixed network, (4, R)."""
    if config.geometry.placement != "fixed":
        raise ValueError(
            f"geometry.placement: {quoted(config.geometry.placement)} has another network in every scene; "
            "set it to 'fixed' and list the receivers"
        )
    geometry = config.geometry
    places = [(r.latitude_deg, r.altitude_m) for r in geometry.receivers]
    latitude, altitude = zip(*places, strict=True)
    return np.array([latitude, geometry.longitudes_deg, altitude, geometry.position_std_m])


def _law(config: Config) -> str:
    """Law of the delays that simulated scenes of a configuration have."""
    return "mixture" if config.channel.max_excess_delay_s > 0 else "normal"


def _link_errors(
    config: Config,
    transmitter: Transmitter,
    latitude: np.ndarray,
    longitude: np.ndarray,
    stations: np.ndarray,
    law: str = "normal",
) -> _LinkErrors:
    """Links between points (P) and stations (4, R)."""
    if config.channel.diffraction == "terrain":
        raise ValueError(
            "channel.diffraction: 'terrain' is not mapped, a profile for every link would take too long; "
            "set it to 'smooth_earth' or 'none'"
        )
    channel, signal = config.channel, config.signal
    receivers = _in_each_frame(geodesy.ecef(*stations[:3]), latitude, longitude)
    position = np.stack([np.zeros_like(latitude)] * 2 + [np.full_like(latitude, transmitter.altitude_m)], axis=-1)
    distance_m = geodesy.length(receivers - position[:, None])
    diffraction, slopes = 1.0, None
    if channel.diffraction == "smooth_earth":
        diffraction_db = losses.smooth_earth_loss_db(
            distance_m, transmitter.altitude_m, stations[2], signal.frequency_hz
        )
        diffraction = db_to_linear(-diffraction_db)
        law_of_levels = level_law.Links(
            channel.diffraction, signal.frequency_hz, np.tile(stations[2], (len(latitude), 1))
        )
        at = distance_m, position[:, 2]
        slopes = level_law.slope_db_per_m(law_of_levels, *at), level_law.altitude_slope_db_per_m(law_of_levels, *at)
    environment_db = (channel.environment_loss_min_db + channel.environment_loss_max_db) / 2
    loss_at_1_m_db = losses.path_loss_db(1.0, signal.frequency_hz, 0.0, environment_db)
    band_hz = transmitter.occupied_bandwidth_hz
    noise_dbm = losses.noise_power_dbm(band_hz, channel.noise_figure_db)
    snr_at_1_m = db_to_linear(transmitter.power_dbm - loss_at_1_m_db - noise_dbm)
    snr = snr_at_1_m * diffraction / np.maximum(distance_m, 1.0) ** 2
    heard = (snr >= db_to_linear(config.gate.min_snr_db)) & (distance_m >= 1)
    noise_s = delay_sigma_s(snr, band_hz, transmitter.rms_bandwidth_hz, signal.duration_s)
    noise_db = level_sigma_db(snr, band_hz, signal.duration_s)
    model_s2 = channel.clock_sigma_s**2 + fading.echo_delay_sigma_s(channel) ** 2 + (stations[3] / SPEED_OF_LIGHT) ** 2
    on_time_s = np.sqrt(noise_s**2 + model_s2)
    toa_sigma_s = delay_law.equivalent_sigma(law, on_time_s, channel.nlos_ratio, channel.nlos_excess_mean_s)
    model_db2 = channel.link_sigma_db**2 + fading.level_sigma_db(channel, signal.duration_s) ** 2
    return _LinkErrors(
        receivers=np.where(heard[..., None], receivers, np.nan),
        transmitter=position,
        toa_sigma_s=np.where(heard, toa_sigma_s, np.inf),
        rss_sigma_db=np.where(heard, np.sqrt(noise_db**2 + model_db2), np.inf),
        level_slopes_db_per_m=slopes,
    )


def _in_each_frame(stations_ecef: np.ndarray, latitude: np.ndarray, longitude: np.ndarray) -> np.ndarray:
    """Stations (R, 3) in the ENU frames below points (P), (P, R, 3) m: `geodesy.enu` as one product of matrices."""
    axes = geodesy.enu_axes(latitude, longitude)  # (P, 3, 3)
    origin = geodesy.ecef(latitude, longitude, np.zeros_like(latitude))
    along = (axes.reshape(-1, 3) @ stations_ecef.T).reshape(*axes.shape[:2], -1)  # (P, 3, R)
    return np.moveaxis(along - np.einsum("pij,pj->pi", axes, origin)[..., None], 1, 2)


def _measurements(links: _LinkErrors) -> list[Measurements]:
    """Arrival times and levels, the measurements of every receiver."""
    sight = information.lines_of_sight(links.receivers, links.transmitter)
    levels = information.levels(sight, links.rss_sigma_db, slopes=links.level_slopes_db_per_m)
    return [information.times(sight, links.toa_sigma_s), levels]


def _weighted_mean(kind: Measurements) -> tuple[np.ndarray, list[np.ndarray]]:
    """Total weight, and the weighted means of the gradients along east, north and up, (P, 1) each."""
    total = kind.weight.sum(axis=1, keepdims=True)
    means = [
        np.where(kind.weight > 0, kind.weight * gradient, 0.0).sum(axis=1, keepdims=True)
        / np.maximum(total, np.finfo(float).tiny)
        for gradient in kind.gradient
    ]
    return total, means


def _rmse(entries: Sequence[np.ndarray]) -> np.ndarray:
    """Rms error of the horizontal position by the entries of information, the altitude eliminated."""
    a, b, east, d, north, up = entries
    a, b, d = a - east * east / up, b - east * north / up, d - north * north / up
    return np.sqrt((a + d) / (a * d - b * b))


def _prior(latitude: np.ndarray, longitude: np.ndarray, altitude_sigma_m: float) -> np.ndarray:
    """Information (3, 3), 1/m², of a normal distribution as wide as the points (P); ValueError if they span no area."""
    for name, values in (("latitude_deg", latitude), ("longitude_deg", longitude)):
        if (count := len(np.unique(values))) < 2:
            raise ValueError(f"{name}: holds {count} value(s), which span no area; give at least 2 different ones")
    middle = latitude.mean(), longitude.mean()
    plane = geodesy.enu(geodesy.ecef(latitude, longitude, np.zeros_like(latitude)), *middle)
    altitude = 1 / altitude_sigma_m**2 if altitude_sigma_m > 0 else np.inf
    return np.diag([*(1 / plane[:, :2].var(axis=0)), altitude])


def _degrees(name: str, values: np.ndarray) -> dict[str, tuple[str, np.ndarray, dict[str, str]]]:
    return {name: (name, values, {"units": "degrees_north" if name.endswith("latitude") else "degrees_east"})}


def _receivers(config: Config) -> dict[str, tuple[str, np.ndarray, dict[str, str]]]:
    latitude, longitude, *_ = _network(config)
    return {
        "receiver_name": ("receiver", np.array([r.name for r in config.geometry.receivers]), {}),
        "receiver_latitude": ("receiver", latitude, {"units": "degrees_north"}),
        "receiver_longitude": ("receiver", longitude, {"units": "degrees_east"}),
    }
