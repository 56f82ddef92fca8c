"""Positions on the WGS84 ellipsoid: geodetic, Earth-centred (ECEF) and local east-north-up (ENU) coordinates.

Angles are in degrees, lengths in metres; altitudes are above the ellipsoid.
"""

import numpy as np
import pyproj

from heimdall_lab.core.arrays import Array, array_namespace

SEMI_MAJOR_M = 6_378_137.0  # WGS84 (NIMA TR8350.2, table 3.1)
FLATTENING = 1 / 298.257223563
ECCENTRICITY_SQUARED = FLATTENING * (2 - FLATTENING)

_WGS84 = pyproj.Geod(ellps="WGS84")


def radii_of_curvature(latitude_deg: Array) -> tuple[Array, Array]:
    """Return the meridian and prime-vertical radii of curvature in metres, shaped like the latitude.

    Source: Torge, Geodesy, 3rd ed., section 4.1.
    """
    w_squared = 1 - ECCENTRICITY_SQUARED * np.sin(np.radians(latitude_deg)) ** 2
    prime_vertical = SEMI_MAJOR_M / np.sqrt(w_squared)
    return prime_vertical * (1 - ECCENTRICITY_SQUARED) / w_squared, prime_vertical


def ecef(latitude_deg: Array, longitude_deg: Array, altitude_m: Array) -> Array:
    """Convert geodetic coordinates (...) to ECEF coordinates (..., 3) in metres.

    Source: Torge, Geodesy, 3rd ed., section 4.1.
    """
    latitude, longitude = np.radians(latitude_deg), np.radians(longitude_deg)
    _, prime_vertical = radii_of_curvature(latitude_deg)
    horizontal = (prime_vertical + altitude_m) * np.cos(latitude)
    vertical = (prime_vertical * (1 - ECCENTRICITY_SQUARED) + altitude_m) * np.sin(latitude)
    xp = array_namespace(horizontal)
    return xp.stack(
        xp.broadcast_arrays(horizontal * np.cos(longitude), horizontal * np.sin(longitude), vertical), axis=-1
    )


def geodetic(position_ecef: Array) -> tuple[Array, Array, Array]:
    """Convert ECEF coordinates (..., 3) in metres to latitude, longitude (degrees) and altitude (m), each (...).

    Source: Bowring, "Transformation from spatial to geographical coordinates", Survey Review 23 (1976), two steps,
    which is exact to a micrometre from the sea floor to low orbits.
    """
    x, y, z = position_ecef[..., 0], position_ecef[..., 1], position_ecef[..., 2]
    horizontal = np.hypot(x, y)
    semi_minor = SEMI_MAJOR_M * (1 - FLATTENING)
    second_eccentricity_squared = ECCENTRICITY_SQUARED / (1 - ECCENTRICITY_SQUARED)
    reduced = np.arctan2(z * SEMI_MAJOR_M, horizontal * semi_minor)
    for _ in range(2):
        latitude = np.arctan2(
            z + second_eccentricity_squared * semi_minor * np.sin(reduced) ** 3,
            horizontal - ECCENTRICITY_SQUARED * SEMI_MAJOR_M * np.cos(reduced) ** 3,
        )
        reduced = np.arctan2((1 - FLATTENING) * np.sin(latitude), np.cos(latitude))
    latitude_deg = np.degrees(latitude)
    _, prime_vertical = radii_of_curvature(latitude_deg)
    altitude = (
        horizontal * np.cos(latitude) + z * np.sin(latitude) - SEMI_MAJOR_M**2 / prime_vertical
    )  # regular at the poles
    return latitude_deg, np.degrees(np.arctan2(y, x)), altitude


def enu_axes(latitude_deg: Array, longitude_deg: Array) -> Array:
    """Return the unit vectors east, north and up at a point as the rows of a (..., 3, 3) rotation from ECEF."""
    latitude, longitude = np.radians(latitude_deg), np.radians(longitude_deg)
    sin_lat, cos_lat, sin_lon, cos_lon = np.sin(latitude), np.cos(latitude), np.sin(longitude), np.cos(longitude)
    xp = array_namespace(sin_lat)
    east = xp.stack([-sin_lon, cos_lon, xp.zeros_like(sin_lon)], axis=-1)
    north = xp.stack([-sin_lat * cos_lon, -sin_lat * sin_lon, cos_lat], axis=-1)
    up = xp.stack([cos_lat * cos_lon, cos_lat * sin_lon, sin_lat], axis=-1)
    return xp.stack([east, north, up], axis=-2)


def enu(position_ecef: Array, latitude_deg: Array, longitude_deg: Array) -> Array:
    """Express ECEF positions in the ENU frame of an origin on the ellipsoid.

    Parameters
    ----------
    position_ecef : (..., P, 3) m
    latitude_deg, longitude_deg : (...)
        Origin, at altitude 0.

    Returns
    -------
    (..., P, 3) m, east, north and up
    """
    origin = ecef(latitude_deg, longitude_deg, np.zeros_like(latitude_deg))
    offset = position_ecef - origin[..., None, :]
    axes = enu_axes(latitude_deg, longitude_deg)[..., None, :, :]
    x, y, z = offset[..., 0:1], offset[..., 1:2], offset[..., 2:3]
    return x * axes[..., 0] + y * axes[..., 1] + z * axes[..., 2]


def tangent_plane_origin(latitude_deg: Array, longitude_deg: Array) -> tuple[Array, Array]:
    """Mean latitude and longitude (...), degrees, of the receivers (..., R) that are present, NaN where none is."""
    xp = array_namespace(longitude_deg)
    first = np.nanmin(longitude_deg, axis=-1, keepdims=True)
    across = xp.where(longitude_deg - first > 180, longitude_deg - 360, longitude_deg)
    return np.nanmean(latitude_deg, axis=-1), wrapped(np.nanmean(across, axis=-1))


def length(vector: Array) -> Array:
    """Length of vectors (..., 3), (...)."""
    x, y, z = vector[..., 0], vector[..., 1], vector[..., 2]
    return np.sqrt(x * x + y * y + z * z)


def displace(latitude_deg: Array, longitude_deg: Array, east_m: Array, north_m: Array) -> tuple[Array, Array]:
    """Move points on the ellipsoid by small steps east and north; returns latitude and longitude in degrees."""
    meridian, prime_vertical = radii_of_curvature(latitude_deg)
    latitude = latitude_deg + np.degrees(north_m / meridian)
    longitude = longitude_deg + np.degrees(east_m / (prime_vertical * np.cos(np.radians(latitude_deg))))
    return latitude, wrapped(longitude)


def wrapped(longitude_deg: Array) -> Array:
    """Bring longitudes into −180 … 180 degrees; those inside are returned to the last bit."""
    xp = array_namespace(longitude_deg)
    return xp.where(np.abs(longitude_deg) <= 180, longitude_deg, (longitude_deg + 180) % 360 - 180)


def geodesic(
    latitude_deg: Array, longitude_deg: Array, other_latitude_deg: Array, other_longitude_deg: Array
) -> tuple[Array, Array]:
    """Return the geodesic distance (m) and the azimuth (degrees from north) at the first point towards the other.

    The arguments broadcast; NumPy only (Karney's algorithm, in PROJ).
    """
    points = np.broadcast_arrays(longitude_deg, latitude_deg, other_longitude_deg, other_latitude_deg)
    start_longitude, start_latitude, longitude, latitude = (np.array(p, dtype=float) for p in points)
    azimuth, _, distance = _WGS84.inv(start_longitude, start_latitude, longitude, latitude)
    return np.asarray(distance), np.asarray(azimuth)


def destination(
    latitude_deg: Array, longitude_deg: Array, azimuth_deg: Array, distance_m: Array
) -> tuple[Array, Array]:
    """Latitude and longitude in degrees at the end of geodesics that leave points by azimuths, degrees from north.

    The arguments broadcast; NumPy only (Karney's algorithm, in PROJ).

    >>> [round(float(degrees), 3) for degrees in destination(45.0, 9.0, 0.0, 111_137.0)]
    [46.0, 9.0]
    """
    points = np.broadcast_arrays(longitude_deg, latitude_deg, azimuth_deg, distance_m)
    start_longitude, start_latitude, azimuth, distance = (np.array(p, dtype=float) for p in points)
    longitude, latitude, _ = _WGS84.fwd(start_longitude, start_latitude, azimuth, distance)
    return np.asarray(latitude), np.asarray(longitude)
