"""Heights of the ground, at points and along great circles."""

import functools
from collections.abc import Sequence

import numpy as np

from heimdall_lab.core import geodesy
from heimdall_lab.core.arrays import Array
from heimdall_lab.core.compiled import njit
from heimdall_lab.core.text import position_text, quoted
from heimdall_lab.datasets.terrain.tiles import Heights, MissingTilesError, interpolate_tile, padded_tile, tile_name

SPACING_M = 90.0  # that of SRTM3
MAX_POINTS = 2000  # reaches 180 km at that spacing


def height_m(heights: Heights, latitude_deg: Array, longitude_deg: Array) -> Array:
    """Interpolate the height of the ground bilinearly between the samples around each point.

    Parameters
    ----------
    heights : Heights
        Of ``open_terrain``.
    latitude_deg, longitude_deg : (...) broadcast

    Returns
    -------
    (...) m, NaN where a coordinate is NaN and in large voids, which the log names

    Raises
    ------
    MissingTilesError
        If a point lies in no tile.
    ValueError
        If a tile cannot be read.
    """
    latitude, longitude = broadcast_floats(latitude_deg, longitude_deg)
    height, missing = _heights_at(heights, latitude.ravel(), longitude.ravel())
    require_tiles(missing, heights)
    return height.reshape(latitude.shape)


def known_height_m(heights: Heights, latitude_deg: Array, longitude_deg: Array) -> Array:
    """Heights as `height_m` has them, NaN where a point lies in no tile, too; ValueError if a tile cannot be read."""
    latitude, longitude = broadcast_floats(latitude_deg, longitude_deg)
    return _heights_at(heights, latitude.ravel(), longitude.ravel())[0].reshape(latitude.shape)


def profiles(
    heights: Heights,
    tx_latitude_deg: Array,
    tx_longitude_deg: Array,
    rx_latitude_deg: Array,
    rx_longitude_deg: Array,
    *,
    spacing_m: float = SPACING_M,
    max_points: int = MAX_POINTS,
) -> tuple[Array, Array]:
    """Read the height of the ground along the great circle from each transmitter to its receiver.

    Points are equally spaced, ``spacing_m`` apart at most, unless that takes more than ``max_points``; there are at
    least three. Distances are those on the ellipsoid.

    Parameters
    ----------
    heights : Heights
        Of ``open_terrain``.
    tx_latitude_deg, tx_longitude_deg, rx_latitude_deg, rx_longitude_deg : (L,)
    spacing_m : float
    max_points : int

    Returns
    -------
    distance_km : (L, P)
        From the transmitter. A profile with fewer points than the longest one ends in NaN; one with a NaN coordinate
        is all NaN.
    height_m : (L, P)
        NaN in large voids of the tiles too.

    Raises
    ------
    MissingTilesError
        If a profile leaves the tiles.
    ValueError
        If a tile cannot be read.
    """
    ends = broadcast_floats(tx_latitude_deg, tx_longitude_deg, rx_latitude_deg, rx_longitude_deg)
    distance_km, _, _, height, missing = sampled_profiles(heights, ends, spacing_m, max_points)
    require_tiles(missing, heights)
    return distance_km, height


def require_tiles(missing: set[str], heights: Heights) -> None:
    """Raise an error that names the missing tiles, if there are any, and how to get them."""
    if missing:
        names = sorted(missing)
        raise MissingTilesError(
            f"terrain tiles: {', '.join(names)} missing from {heights.folder}; fetch them by "
            f"heimdall_lab.fetch_terrain({names}, {quoted(heights.folder)}), or put SRTM .hgt files of these names, or "
            "GeoTIFF files that cover them, there"
        )


def require_heights(height: Array, latitude: Array, longitude: Array, heights: Heights) -> None:
    """Raise a ValueError that names the first of points (...) whose height is NaN, though they are known."""
    void = np.isnan(height) & np.isfinite(latitude) & np.isfinite(longitude)
    if void.any():
        place = position_text(float(latitude[void][0]), float(longitude[void][0]))
        raise ValueError(
            f"terrain folder: {quoted(heights.folder)} has no height at {place}, in a void of its tiles; put a tile "
            "there too that has it, or move the network"
        )


def broadcast_floats(*arrays: Array) -> list[Array]:
    """Broadcast arrays against each other, as copies in float64."""
    return [np.array(array, dtype=float) for array in np.broadcast_arrays(*arrays)]


@functools.lru_cache(maxsize=8)
def _bounds(heights: Heights) -> tuple[Array, Array]:
    """Grids and reaches of the tiles, (T, 4) each: south, west, north, east."""
    return np.array([tile.grid for tile in heights.tiles]), np.array([tile.reach for tile in heights.tiles])


def _heights_at(heights: Heights, latitude: Array, longitude: Array) -> tuple[Array, set[str]]:
    """Height of the ground at points (N,), NaN where there is no tile, and the names of the tiles that are missing."""
    height = np.full(latitude.size, np.nan)
    if np.nanmax(np.abs(longitude), initial=0) > 180:
        longitude = geodesy.wrapped(longitude)
    known = np.isfinite(latitude) & np.isfinite(longitude)
    if not known.any():
        return height, set()
    owner = _tile_of_each(heights, latitude, longitude)
    lost = known & (owner < 0)
    cells = np.unique(np.floor(np.stack([latitude[lost], longitude[lost]])), axis=1)
    for number in np.unique(owner[owner >= 0]):
        grid = heights.tiles[number].grid
        interpolate_tile(padded_tile(heights, int(number)), grid, owner, int(number), latitude, longitude, height)
    if np.isnan(height[owner >= 0]).any():
        _read_from_others(heights, latitude, longitude, owner, height)
    return height, {tile_name(south, west) for south, west in cells.T}


def _tile_of_each(heights: Heights, latitude: Array, longitude: Array) -> Array:
    """Number of the tile that each point (N,) is read from, −1 where there is none."""
    grids, reaches = _bounds(heights)
    south, west, north, east = reaches.T
    low, high = np.nanmin(longitude), np.nanmax(longitude)
    around = [(west <= high + turn) & (east >= low + turn) for turn in (-360, 0, 360)]
    near = np.flatnonzero((south <= np.nanmax(latitude)) & (north >= np.nanmin(latitude)) & np.any(around, axis=0))
    owner = np.full(latitude.size, -1)
    _assign_tiles(latitude, longitude, grids[near], reaches[near], near, owner)
    return owner


def _read_from_others(heights: Heights, latitude: Array, longitude: Array, owner: Array, height: Array) -> None:
    """Write the heights of points (N,) in voids of their tiles by the first other tile that holds them."""
    for number, tile in enumerate(heights.tiles):
        south, west, north, east = tile.reach
        inside = (latitude >= south) & (latitude <= north) & ((longitude - west) % 360 <= east - west)
        here = (owner >= 0) & (owner != number) & np.isnan(height) & inside
        if here.any():
            samples, other = padded_tile(heights, number), np.where(here, number, -1)
            interpolate_tile(samples, tile.grid, other, number, latitude, longitude, height)


@njit(cache=True)
def _assign_tiles(
    latitude: Array, longitude: Array, grids: Array, reaches: Array, numbers: Array, owner: Array
) -> None:
    """Write the number of the first tile whose grid holds each point, or else whose reach does."""
    for bounds in (grids, reaches):
        for point in range(latitude.size):
            if owner[point] < 0:
                for tile in range(len(bounds)):
                    south, west, north, east = bounds[tile]
                    degrees = longitude[point]
                    if degrees < west:
                        degrees += 360.0
                    elif degrees > east:
                        degrees -= 360.0
                    if south <= latitude[point] <= north and west <= degrees <= east:
                        owner[point] = numbers[tile]
                        break


def sampled_profiles(
    heights: Heights, ends: Sequence[Array], spacing_m: float, max_points: int
) -> tuple[Array, Array, Array, Array, set[str]]:
    """Distances (km), latitudes, longitudes and heights (m) of profiles, (L, P) each, and names of missing tiles."""
    known = np.isfinite(ends[0]) & np.isfinite(ends[1]) & np.isfinite(ends[2]) & np.isfinite(ends[3])
    tx_latitude, tx_longitude, rx_latitude, rx_longitude = (np.where(known, end, 0.0) for end in ends)
    length_m, _ = geodesy.geodesic(tx_latitude, tx_longitude, rx_latitude, rx_longitude)
    points = np.clip(np.ceil(length_m / spacing_m).astype(np.int64) + 1, 3, max_points)
    points[~known] = 0
    shape = (points.size, int(points.max(initial=0)))
    distance_km, latitude, longitude = (np.full(shape, np.nan) for _ in range(3))
    _great_circle(
        tx_latitude, tx_longitude, rx_latitude, rx_longitude, length_m / 1e3, points, distance_km, latitude, longitude
    )
    height, missing = _heights_at(heights, latitude.ravel(), longitude.ravel())
    return distance_km, latitude, longitude, height.reshape(shape), missing


@njit(cache=True)
def _great_circle(
    tx_latitude: Array,
    tx_longitude: Array,
    rx_latitude: Array,
    rx_longitude: Array,
    length_km: Array,
    points: Array,
    distance_km: Array,
    latitude: Array,
    longitude: Array,
) -> None:
    """Write equally spaced points (L, P) of the great circles between two ends (L,).

    A point is a cos θ + b sin θ of the unit vectors a to the transmitter and b along the path; θ advances by the
    addition theorems.
    """
    for link in range(points.size):
        last = points[link] - 1
        if last < 0:
            continue
        a, end = _unit(tx_latitude[link], tx_longitude[link]), _unit(rx_latitude[link], rx_longitude[link])
        normal = _cross(a, end)
        sine = np.sqrt(normal[0] ** 2 + normal[1] ** 2 + normal[2] ** 2)
        angle = np.arctan2(sine, a[0] * end[0] + a[1] * end[1] + a[2] * end[2])
        b = _cross(normal, a)
        scale = 1 / sine if sine > 0 else 0.0
        step_cos, step_sin = np.cos(angle / last), np.sin(angle / last)
        cos, sin = 1.0, 0.0
        for k in range(last + 1):
            x, y, z = (
                cos * a[0] + sin * scale * b[0],
                cos * a[1] + sin * scale * b[1],
                cos * a[2] + sin * scale * b[2],
            )
            distance_km[link, k] = length_km[link] * k / last
            latitude[link, k] = np.degrees(np.arctan2(z, np.sqrt(x * x + y * y)))
            longitude[link, k] = np.degrees(np.arctan2(y, x))
            cos, sin = cos * step_cos - sin * step_sin, sin * step_cos + cos * step_sin
        latitude[link, 0], longitude[link, 0] = tx_latitude[link], tx_longitude[link]
        latitude[link, last], longitude[link, last] = rx_latitude[link], rx_longitude[link]


@njit(cache=True)
def _unit(latitude_deg: float, longitude_deg: float) -> tuple[float, float, float]:
    latitude, longitude = np.radians(latitude_deg), np.radians(longitude_deg)
    return np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)


@njit(cache=True)
def _cross(a: tuple[float, float, float], b: tuple[float, float, float]) -> tuple[float, float, float]:
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]
