"""Recordings drawn from the model that the joint solution takes them to follow."""

from typing import NamedTuple

import numpy as np

from heimdall_lab.core import geodesy
from heimdall_lab.core.units import SPEED_OF_LIGHT
from heimdall_lab.localization import paths
from heimdall_lab.localization.joint.pseudo_ranges import Recordings

HEIGHT_M, HEIGHT_SIGMA_M = 200.0, 50.0
# Seven receivers around Turin, Genoa and Milan: latitude and longitude, degrees.
ITALIAN = np.array(
    [
        [45.030, 7.270],
        [45.234, 7.857],
        [45.044, 7.672],
        [45.048, 7.238],
        [44.561, 8.956],
        [44.395, 8.956],
        [45.478, 9.123],
    ]
)


class Drawn(NamedTuple):
    """Recordings, and what is true of them."""

    recordings: Recordings
    place_deg: np.ndarray  # (B, S, 2)
    start_deg: np.ndarray  # (B, S, 2), as far from there as levels leave it
    height_m: np.ndarray  # (B, S)
    clocks: np.ndarray  # (B, M) m


def draw(
    random: np.random.Generator,
    count: int,
    emissions: int,
    receivers: int | np.ndarray = ITALIAN,
    *,
    references: int = 0,
    sigma_m: float = 40.0,
    clock_sigma_s: float = 10e-3,
    growth_sigma_m: float = 0.0,
    false_ratio: float = 0.0,
) -> Drawn:
    """Draw recordings of unknown emissions and references, by receivers at given places or so many anywhere."""
    total = emissions + references
    if isinstance(receivers, int):
        plane = random.uniform(-60e3, 60e3, (count, receivers, 2))
        middle = np.full((count, receivers), 45.0), np.full((count, receivers), 8.0)
        places = np.stack(geodesy.displace(*middle, plane[..., 0], plane[..., 1]), axis=-1)
    else:
        places = np.broadcast_to(receivers, (count, *receivers.shape))
    low, high = places.min(axis=1)[:, None] - 0.2, places.max(axis=1)[:, None] + 0.2
    place = random.uniform(low, high, (count, total, 2))
    latitude, longitude = (np.repeat(places[:, None, :, axis], total, axis=1) for axis in range(2))
    altitude = np.full_like(latitude, HEIGHT_M)
    height = HEIGHT_M + HEIGHT_SIGMA_M * random.standard_normal((count, total))
    distance = paths.lengths_alone(
        "line_of_sight", (latitude, longitude, altitude), place[..., 0], place[..., 1], height
    )
    shape = distance.shape
    # Clocks of one number each, or of an offset and of what it grows by over the recording.
    sigmas_m = np.array([clock_sigma_s * SPEED_OF_LIGHT, growth_sigma_m])[: 2 if growth_sigma_m else 1]
    clocks = sigmas_m * random.standard_normal((count, shape[2], len(sigmas_m)))
    grown = np.linspace(-0.5, 0.5, total)
    basis = np.broadcast_to(
        np.stack([np.ones(total), grown], axis=-1)[:, : len(sigmas_m)], (count, total, len(sigmas_m))
    )
    time = random.uniform(-1e5, 1e5, (count, total, 1))
    measured = distance + time + basis @ clocks.swapaxes(1, 2) + sigma_m * random.standard_normal(shape)
    is_false = random.random(shape) < false_ratio
    measured += np.where(is_false, random.uniform(-20e-3, 20e-3, shape) * SPEED_OF_LIGHT, 0.0)
    is_known = np.broadcast_to(np.arange(total) >= emissions, (count, total))
    off = random.normal(0.0, 25e3, (count, total, 2))
    start = np.stack(geodesy.displace(place[..., 0], place[..., 1], off[..., 0], off[..., 1]), axis=-1)
    numbers = shape[2] * len(sigmas_m)
    recordings = Recordings(
        latitude_deg=latitude,
        longitude_deg=longitude,
        altitude_m=altitude,
        measured_m=measured,
        variance_m2=np.full(shape, sigma_m**2),
        used=np.full(shape, True),
        is_known=is_known,
        place_deg=np.where(is_known[..., None], place, np.nan),
        height_m=np.full_like(height, HEIGHT_M),
        height_sigma_m=np.full_like(height, HEIGHT_SIGMA_M),
        basis=basis,
        span_s=np.ones(count),
        clock_mean_m=np.zeros((count, numbers)),
        clock_information=np.broadcast_to(np.diag(np.tile(sigmas_m**-2, shape[2])), (count, numbers, numbers)),
        propagation="line_of_sight",
    )
    return Drawn(recordings, place, start, height, clocks.reshape(count, numbers))


def offset_m(place_deg: np.ndarray, latitude_deg: np.ndarray, longitude_deg: np.ndarray) -> np.ndarray:
    """East and north, (..., 2) m, of places from true ones, (..., 2) degrees."""
    distance, azimuth_deg = geodesy.geodesic(place_deg[..., 0], place_deg[..., 1], latitude_deg, longitude_deg)
    azimuth = np.radians(azimuth_deg)
    return distance[..., None] * np.stack([np.sin(azimuth), np.cos(azimuth)], axis=-1)
