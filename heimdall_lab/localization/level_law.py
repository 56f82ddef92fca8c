"""How levels fall with distance: as in free space, or more beyond the horizon of a smooth Earth."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from heimdall_lab.core.arrays import Array
from heimdall_lab.core.diffraction import smooth_earth_links

if TYPE_CHECKING:
    from heimdall_lab.localization.observations import Observations  # which needs bounds, and these need this module

_STEP_M = 50.0  # of distance, over which a slope is taken
_ALTITUDE_STEP_M = 1.0  # of the transmitter, likewise


class Links(NamedTuple):
    """What levels depend on beside distances and altitudes of transmitters; `Observations` hold the same."""

    level_law: str  # one of `schema.LEVEL_LAWS`
    frequency_hz: float  # of the carrier
    altitude_m: Array  # (S, R), of the receivers


def loss_db(observed: "Observations | Links", distance_m: Array, altitude_m: Array) -> Array:
    """Loss but for a constant, dB, over distances (S, R) or (S, G, R) m to transmitters at altitudes (S,) m.

    Source: ITU-R P.525-4; ITU-R P.1812-6, section 4.3.2, over land at the centre frequency, vertically polarised.
    """
    free_space_db: Array = 20 * np.log10(np.maximum(distance_m, 1.0))
    if observed.level_law == "free_space":
        return free_space_db
    between = (1,) * (distance_m.ndim - 2)
    transmitter_m = altitude_m.reshape(-1, *between, 1)
    receiver_m = observed.altitude_m.reshape(len(altitude_m), *between, -1)
    links = np.broadcast_arrays(distance_m, transmitter_m, receiver_m, np.asarray(observed.frequency_hz / 1e9))
    length_m, tx_m, rx_m, frequency_ghz = (each.ravel() for each in links)
    diffraction_db = smooth_earth_links(length_m, tx_m, rx_m, frequency_ghz, True)
    return free_space_db + np.nan_to_num(diffraction_db.reshape(distance_m.shape))


def slope_db_per_m(observed: "Observations | Links", distance_m: Array, altitude_m: Array) -> Array:
    """Change of the loss with distance (S, R), for transmitters at altitudes (S,) m."""
    free_space = 20 / np.log(10) / np.maximum(distance_m, 1.0)
    if observed.level_law == "free_space":
        return free_space
    near, far = (np.maximum(distance_m + step, 1.0) for step in (-_STEP_M, _STEP_M))
    diffraction_db = [loss_db(observed, at_m, altitude_m) - 20 * np.log10(at_m) for at_m in (near, far)]
    return free_space + (diffraction_db[1] - diffraction_db[0]) / (far - near)


def altitude_slope_db_per_m(observed: "Observations | Links", distance_m: Array, altitude_m: Array) -> Array:
    """Change of the loss with the transmitter's altitude over the same distance (S, R)."""
    if observed.level_law == "free_space":
        return np.zeros_like(distance_m)
    below, above = (loss_db(observed, distance_m, altitude_m + step) for step in (-_ALTITUDE_STEP_M, _ALTITUDE_STEP_M))
    return (above - below) / (2 * _ALTITUDE_STEP_M)


def altitudes(observed: "Observations") -> list[tuple[float, Array]]:
    """Altitudes (S,) m that stand for what is known beforehand, each with its share; one where levels tell no other.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, section 25.4.46, with three points.
    """
    mean_m, sigma_m = observed.transmitter_altitude_m, observed.height_sigma_m
    if observed.level_law == "free_space":
        return [(1.0, mean_m)]
    return [(1 / 6, mean_m - 3**0.5 * sigma_m), (2 / 3, mean_m), (1 / 6, mean_m + 3**0.5 * sigma_m)]


def altitude_sigma_db(observed: "Observations", distance_m: Array) -> Array:
    """Standard deviation of a level at distances (S, R) by what is not known of the altitude."""
    losses = [(share, loss_db(observed, distance_m, altitude_m)) for share, altitude_m in altitudes(observed)]
    mean_db = sum(share * loss for share, loss in losses)
    return np.sqrt(sum(share * (loss - mean_db) ** 2 for share, loss in losses))
