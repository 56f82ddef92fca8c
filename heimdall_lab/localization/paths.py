"""Paths of signals by kind of propagation: their lengths, and the height that these depend on beside the position.

It is the altitude of the transmitter on lines of sight, and of sky waves the virtual height at which the ionosphere
reflects them. Ground waves depend on none.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from heimdall_lab.core import geodesy, sky_wave
from heimdall_lab.core.arrays import Array
from heimdall_lab.localization.altitude import altitude_prior

HEIGHTS = {"line_of_sight": "altitude", "ground_wave": "altitude", "sky_wave": "ionosphere"}  # what it is the height of
_EXACT_M = 1e-3  # standard deviation of a height that is stated as exact


def height_prior(dataset: xr.Dataset) -> tuple[Array, Array]:
    """Mean and standard deviation, each (S,) m, of the height that paths of a dataset depend on.

    Of sky waves it is that of `reflection_prior`, else that of the transmitter's altitude.
    """
    if dataset.attrs["propagation"] != "sky_wave":
        return altitude_prior(dataset)
    mean_m, sigma_m = reflection_prior(dataset.attrs)
    return np.full(dataset.sizes["sample"], mean_m), np.full(dataset.sizes["sample"], sigma_m)


def reflection_prior(attributes: Mapping[Any, Any]) -> tuple[float, float]:
    """Mean and standard deviation of the virtual height of reflection, m.

    It is what the attributes ``reflection_height_m`` and ``reflection_height_sigma_m`` say; without them anything
    between the least and the largest height of `sky_wave` is as likely.
    """
    mean_m = float(attributes.get("reflection_height_m", sky_wave.MEAN_HEIGHT_M))
    sigma_m = float(attributes.get("reflection_height_sigma_m", sky_wave.HEIGHT_SIGMA_M))
    return mean_m, max(sigma_m, _EXACT_M)


def lengths(
    propagation: str, receivers: tuple[Array, Array, Array], latitude: Array, longitude: Array, height_m: Array
) -> tuple[Array, Array]:
    """Lengths (..., R) m of paths to receivers, and their gradient (..., R, 3) for 1 m east, north and of the height.

    Receivers are latitude, longitude (degrees) and altitude (m), (..., R) each; transmitters (...) stand on the
    ellipsoid, or on lines of sight at the height. Sky waves are of one hop.
    """
    if propagation == "line_of_sight":
        offset = geodesy.ecef(*receivers) - geodesy.ecef(latitude, longitude, height_m)[..., None, :]
        distance = geodesy.length(offset)
        gradient = -offset @ geodesy.enu_axes(latitude, longitude).swapaxes(-2, -1)
        return distance, gradient / np.maximum(distance, 1.0)[..., None]
    distance, azimuth_deg = geodesy.geodesic(latitude[..., None], longitude[..., None], *receivers[:2])
    azimuth = np.radians(azimuth_deg)
    along_distance, along_height = np.ones_like(distance), np.zeros_like(distance)
    if propagation == "sky_wave":
        distance, along_distance, along_height = sky_wave.hop(distance, np.asarray(height_m)[..., None])
    away = -np.sin(azimuth) * along_distance, -np.cos(azimuth) * along_distance
    return distance, np.stack([*away, along_height], axis=-1)


def lengths_alone(
    propagation: str, receivers: tuple[Array, Array, Array], latitude: Array, longitude: Array, height_m: Array
) -> Array:
    """The same lengths, without their gradient."""
    if propagation == "line_of_sight":
        transmitter = geodesy.ecef(latitude, longitude, height_m)
        return geodesy.length(geodesy.ecef(*receivers) - transmitter[..., None, :])
    distance, _ = geodesy.geodesic(latitude[..., None], longitude[..., None], *receivers[:2])
    return sky_wave.hop(distance, np.asarray(height_m)[..., None])[0] if propagation == "sky_wave" else distance
