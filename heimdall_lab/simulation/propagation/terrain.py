"""Diffraction loss over the profile of the ground between two antennas.

Heights and altitudes are in the system of the tiles (above sea level for SRTM), in metres; angles are in degrees.
"""

import numpy as np

from heimdall_lab.core.arrays import Array
from heimdall_lab.core.diffraction import EFFECTIVE_EARTH_RADIUS_KM
from heimdall_lab.datasets.terrain.heights import (
    MAX_POINTS,
    SPACING_M,
    broadcast_floats,
    require_heights,
    require_tiles,
    sampled_profiles,
)
from heimdall_lab.datasets.terrain.tiles import Heights
from heimdall_lab.simulation.propagation import losses

_CHUNK_LINKS = 256  # 20 MB of profile points
_LEAST_HEIGHT_M = 1.0


def diffraction_loss_db(
    heights: Heights,
    tx_latitude_deg: Array,
    tx_longitude_deg: Array,
    tx_altitude_m: Array,
    rx_latitude_deg: Array,
    rx_longitude_deg: Array,
    rx_altitude_m: Array,
    frequency_hz: Array,
    *,
    polarization: str = "vertical",
) -> Array:
    """Diffraction loss of links in dB over terrain and an Earth of 4/3 radius, beyond that of free space.

    Positions and frequencies broadcast, as (S, 1) with (S, R); a link's loss does not depend on the others, and is NaN
    where an argument is NaN. Profiles are those of ``profiles``. Antennas that stand less than 1 m above the ground are
    taken at 1 m. The polarization is ``vertical`` or ``horizontal``. MissingTilesError names all missing tiles of all
    links; ValueError if a tile cannot be read, or the polarization is unknown.

    Source: ITU-R P.1812-6 section 4.3.
    """
    tx, rx = (tx_latitude_deg, tx_longitude_deg, tx_altitude_m), (rx_latitude_deg, rx_longitude_deg, rx_altitude_m)
    links = broadcast_floats(*tx, *rx, frequency_hz)
    shape = links[0].shape
    links = [argument.ravel() for argument in links]
    loss_db, missing = np.empty(links[0].size), set[str]()
    for start in range(0, loss_db.size, _CHUNK_LINKS):
        chunk = slice(start, start + _CHUNK_LINKS)
        *ends, frequency = (a[chunk] for a in links)
        tx_latitude, tx_longitude, tx_altitude, rx_latitude, rx_longitude, rx_altitude = ends
        ends = [tx_latitude, tx_longitude, rx_latitude, rx_longitude]
        distance_km, latitude, longitude, ground, missing_here = sampled_profiles(heights, ends, SPACING_M, MAX_POINTS)
        missing |= missing_here
        if missing:
            continue
        require_heights(ground, latitude, longitude, heights)
        last = np.maximum(np.isfinite(distance_km).sum(axis=1) - 1, 0)
        loss_db[chunk] = losses.delta_bullington(
            distance_km,
            ground,
            np.maximum(tx_altitude - ground[:, 0], _LEAST_HEIGHT_M),
            np.maximum(rx_altitude - ground[np.arange(len(last)), last], _LEAST_HEIGHT_M),
            frequency / 1e6,
            effective_earth_radius_km=EFFECTIVE_EARTH_RADIUS_KM,
            polarization=polarization,
        )
    require_tiles(missing, heights)
    return loss_db.reshape(shape)
