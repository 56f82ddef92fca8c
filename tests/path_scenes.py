"""Scenes of ground and sky waves over hundreds of kilometres, with errors as they are stated, without IQ."""

import numpy as np
import pyproj
import xarray as xr
from measured_delays import measured

from heimdall_lab.core.units import EARTH_RADIUS_KM, SPEED_OF_LIGHT

_WGS84 = pyproj.Geod(ellps="WGS84")


def hop_m(distance_m: np.ndarray, height_m: np.ndarray) -> np.ndarray:
    """Two legs by a mirror above the middle of the way, by the theorem of cosines."""
    radius = EARTH_RADIUS_KM * 1e3
    mirror = radius + height_m
    return 2 * np.sqrt(radius**2 + mirror**2 - 2 * radius * mirror * np.cos(distance_m / 2 / radius))


def network(rng: np.random.Generator, stations: int, radius_m: float) -> np.ndarray:
    """Stations (R, 2), degrees, around 48° N 9° E."""
    azimuth_deg = 360 * (np.arange(stations) + rng.uniform(-0.4, 0.4, stations)) / stations
    centre = np.full(stations, 9.0), np.full(stations, 48.0)
    longitude, latitude, _ = _WGS84.fwd(*centre, azimuth_deg, radius_m * np.sqrt(rng.uniform(0.3, 1, stations)))
    return np.stack([latitude, longitude], axis=-1)


def scenes(
    rng: np.random.Generator, stations: np.ndarray, count: int, radius_m: float, height_m: np.ndarray | None, **attrs
) -> xr.Dataset:
    """Transmitters at random, most of them inside; ``height_m`` (S,) reflects sky waves, None for ground waves."""
    away_m = radius_m * np.sqrt(rng.uniform(0, 1, count)) * np.where(rng.random(count) < 0.7, 0.8, 1.6)
    centre = np.full(count, 9.0), np.full(count, 48.0)
    longitude, latitude, _ = _WGS84.fwd(*centre, rng.uniform(0, 360, count), away_m)
    each = np.broadcast_to(stations, (count, *stations.shape))
    ends = np.broadcast_arrays(longitude[:, None], latitude[:, None], each[..., 1], each[..., 0])
    _, _, distance_m = _WGS84.inv(*(end.copy() for end in ends))
    length_m = distance_m if height_m is None else hop_m(distance_m, height_m[:, None])
    to_ecef = pyproj.Transformer.from_crs("EPSG:4979", "EPSG:4978")
    here, there = (
        np.stack(to_ecef.transform(*place, np.zeros_like(place[0])), axis=-1)
        for place in ((each[..., 0], each[..., 1]), (latitude, longitude))
    )
    chord_m = np.linalg.norm(here - there[:, None], axis=-1)
    errors_s = np.hypot(attrs.get("path_delay_sigma_s", 0.0), 0.1e-6) * rng.standard_normal(distance_m.shape)
    kind = "ground_wave" if height_m is None else "sky_wave"
    delay_s = (length_m - chord_m) / SPEED_OF_LIGHT + errors_s
    return measured(each, np.stack([latitude, longitude], axis=-1), delay_s, propagation=kind, **attrs)
