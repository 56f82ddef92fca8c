"""Heights of the ground from SRTM and GeoTIFF tiles, profiles between points, and the diffraction loss over them.

Heights and altitudes are in the system of the tiles (above sea level for SRTM), in metres; angles are in degrees.
"""

import functools
import gzip
import os
import re
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pooch
import xarray as xr
from numba import njit
from scipy import ndimage
from scipy.interpolate import LinearNDInterpolator, NearestNDInterpolator

from heimdall_lab.core import geodesy
from heimdall_lab.core.arrays import Array
from heimdall_lab.simulation.propagation import losses
from heimdall_lab.simulation.propagation.diffraction import EFFECTIVE_EARTH_RADIUS_KM

PUBLIC_URL = "https://s3.amazonaws.com/elevation-tiles-prod/skadi/"  # Terrain Tiles, registry.opendata.aws
SPACING_M = 90.0  # that of SRTM3
MAX_POINTS = 2000  # reaches 180 km at that spacing

_VOID = -32768
_SIZES = (1201, 3601)  # SRTM3 and SRTM1
_TILE_NAME = re.compile(r"[NS]\d{2}[EW]\d{3}")
_SRTM_FILE = re.compile(r"[NS]\d{2}[EW]\d{3}\b.*\.hgt(\.zip|\.gz)?", re.IGNORECASE)
_CACHED_TILES = 32  # 0.8 GB of SRTM1
_CHUNK_LINKS = 256  # 20 MB of profile points
_LEAST_HEIGHT_M = 1.0
_LOWEST_M, _HIGHEST_M = -500.0, 9000.0  # the Dead Sea's shore, Mount Everest


class MissingTilesError(ValueError):
    """Points lie where a folder has no tile; the message names every missing tile, the folder and the remedy."""


@dataclass(frozen=True)
class Tile:
    """One file of heights, by the outermost samples of its grid and by how far around them it answers."""

    path: Path
    modified_ns: int
    grid: tuple[float, float, float, float]  # south, west, north, east
    reach: tuple[float, float, float, float]


@dataclass(frozen=True)
class Heights:
    """The tiles of a folder; where several hold a point, the first is read."""

    folder: Path
    tiles: tuple[Tile, ...]


def tile_name(latitude_deg: float, longitude_deg: float) -> str:
    """Return the name of the SRTM tile north-east of whose south-west corner a point lies.

    >>> tile_name(43.7, 7.4), tile_name(-0.5, -0.5), tile_name(44.0, 180.0)
    ('N43E007', 'S01W001', 'N44W180')
    """
    south = min(int(np.floor(latitude_deg)), 89)
    west = int(np.floor((longitude_deg + 180) % 360 - 180))
    return f"{'S' if south < 0 else 'N'}{abs(south):02d}{'W' if west < 0 else 'E'}{abs(west):03d}"


def open_folder(folder: str | Path) -> Heights:
    """Find the tiles of a folder: SRTM ``.hgt`` (plain, ``.zip`` or ``.gz``), and GeoTIFF in latitude and longitude.

    Heights are read when they are first asked for, and the latest 32 tiles stay in memory. Voids are filled as a tile
    is read.

    Raises
    ------
    ValueError
        If the folder cannot be read or holds no tile, or a GeoTIFF is not in latitude and longitude.
    """
    root = Path(folder)
    try:
        paths = sorted(path for path in root.iterdir() if path.is_file())
    except OSError as error:
        raise ValueError(f"terrain folder: cannot read {str(root)!r} ({error.strerror}); name another") from error
    tiles = [_srtm_tile(path) for path in paths if _SRTM_FILE.fullmatch(path.name)]
    tiles += [_geotiff_tile(path) for path in paths if path.suffix.lower() in (".tif", ".tiff")]
    if not tiles:
        raise ValueError(
            f"terrain folder: {str(root)!r} holds no tile; put SRTM .hgt or GeoTIFF files there, or fetch some by "
            "heimdall_lab.fetch_terrain"
        )
    return Heights(root, tuple(tiles))


def height_m(heights: Heights, latitude_deg: Array, longitude_deg: Array) -> Array:
    """Interpolate the height of the ground bilinearly between the samples around each point.

    Parameters
    ----------
    heights : Heights
        Of ``open_folder``.
    latitude_deg, longitude_deg : (...) broadcast

    Returns
    -------
    (...) m, NaN where a coordinate is NaN

    Raises
    ------
    MissingTilesError
        If a point lies in no tile.
    ValueError
        If a tile cannot be read.
    """
    latitude, longitude = _broadcast(latitude_deg, longitude_deg)
    height, missing = _ground(heights, latitude.ravel(), longitude.ravel())
    _require_none(missing, heights)
    return height.reshape(latitude.shape)


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
        Of ``open_folder``.
    tx_latitude_deg, tx_longitude_deg, rx_latitude_deg, rx_longitude_deg : (L,)
    spacing_m : float
    max_points : int

    Returns
    -------
    distance_km : (L, P)
        From the transmitter. A profile with fewer points than the longest one ends in NaN; one with a NaN coordinate
        is all NaN.
    height_m : (L, P)

    Raises
    ------
    MissingTilesError
        If a profile leaves the tiles.
    ValueError
        If a tile cannot be read.
    """
    ends = _broadcast(tx_latitude_deg, tx_longitude_deg, rx_latitude_deg, rx_longitude_deg)
    distance_km, height, missing = _profiles(heights, ends, spacing_m, max_points)
    _require_none(missing, heights)
    return distance_km, height


def diffraction_loss_db(
    heights: Heights,
    tx_latitude_deg: Array,
    tx_longitude_deg: Array,
    tx_altitude_m: Array,
    rx_latitude_deg: Array,
    rx_longitude_deg: Array,
    rx_altitude_m: Array,
    frequency_hz: float,
    *,
    polarization: str = "vertical",
) -> Array:
    """Diffraction loss of links over terrain and an Earth of 4/3 radius, beyond that of free space.

    Profiles are those of ``profiles``. Antennas that stand less than 1 m above the ground are taken at 1 m. A link's
    loss does not depend on the links it is computed with.

    Parameters
    ----------
    heights : Heights
        Of ``open_folder``.
    tx_latitude_deg, tx_longitude_deg, tx_altitude_m : (...) broadcast, as (S, 1)
    rx_latitude_deg, rx_longitude_deg, rx_altitude_m : (...) broadcast, as (S, R)
    frequency_hz : float
    polarization : str
        ``vertical`` or ``horizontal``.

    Returns
    -------
    (...) dB, NaN where an argument is NaN

    Raises
    ------
    MissingTilesError
        If a profile leaves the tiles; all missing tiles of all links are named.
    ValueError
        If a tile cannot be read, or the polarization is unknown.

    Source
    ------
    ITU-R P.1812-6 section 4.3.
    """
    arguments = (tx_latitude_deg, tx_longitude_deg, tx_altitude_m, rx_latitude_deg, rx_longitude_deg, rx_altitude_m)
    links = _broadcast(*arguments)
    shape = links[0].shape
    links = [argument.ravel() for argument in links]
    loss_db, missing = np.empty(links[0].size), set[str]()
    for start in range(0, loss_db.size, _CHUNK_LINKS):
        chunk = slice(start, start + _CHUNK_LINKS)
        tx_latitude, tx_longitude, tx_altitude, rx_latitude, rx_longitude, rx_altitude = (a[chunk] for a in links)
        ends = [tx_latitude, tx_longitude, rx_latitude, rx_longitude]
        distance_km, ground, missing_here = _profiles(heights, ends, SPACING_M, MAX_POINTS)
        missing |= missing_here
        if missing:
            continue
        last = np.maximum(np.isfinite(distance_km).sum(axis=1) - 1, 0)
        loss_db[chunk] = losses.delta_bullington(
            distance_km,
            ground,
            np.maximum(tx_altitude - ground[:, 0], _LEAST_HEIGHT_M),
            np.maximum(rx_altitude - ground[np.arange(len(last)), last], _LEAST_HEIGHT_M),
            frequency_hz / 1e6,
            effective_earth_radius_km=EFFECTIVE_EARTH_RADIUS_KM,
            polarization=polarization,
        )
    _require_none(missing, heights)
    return loss_db.reshape(shape)


def fetch_terrain(tiles: Sequence[str], folder: str | Path, url: str = PUBLIC_URL) -> list[Path]:
    """Fetch SRTM tiles that a folder lacks, and return the files of all of them.

    A tile is checked and complete, or not there at all. The public tiles carry the sea floor: heights below sea level
    are stored as 0, so land that lies lower is flattened too.

    Parameters
    ----------
    tiles : sequence of str
        Names such as ``N43E007``.
    folder : path
        Made where it does not exist.
    url : str
        Where to fetch from; below it, tiles are at ``N43/N43E007.hgt.gz``.

    Returns
    -------
    list of Path, one ``.hgt`` a tile

    Raises
    ------
    ValueError
        If a name is not that of a tile, or a tile cannot be fetched or is not one.

    Source
    ------
    Terrain Tiles of the AWS open data registry (SRTM and others), 1 arc second, public.
    """
    for name in tiles:
        if not _TILE_NAME.fullmatch(name):
            raise ValueError(f"terrain tile: {name!r} is no name of a tile; give names such as N43E007")
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    return [_fetched(name, root, f"{url.rstrip('/')}/{name[:3]}/{name}.hgt.gz") for name in tiles]


def _fetched(name: str, folder: Path, address: str) -> Path:
    path = folder / f"{name}.hgt"
    if path.exists():
        return path
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as scratch:
        archive, part = Path(scratch) / f"{name}.hgt.gz", Path(scratch) / path.name
        try:
            pooch.HTTPDownloader(timeout=60)(address, str(archive), None)
            samples = _srtm_samples(archive)
        except (OSError, ValueError) as error:
            if (response := getattr(error, "response", None)) is not None:
                response.close()
            raise ValueError(
                f"terrain tile {name}: cannot be fetched from {address} ({error}); connect to the network, or put "
                f"{name}.hgt into {folder}"
            ) from error
        samples[(samples < 0) & (samples != _VOID)] = 0
        with part.open("wb") as file:
            file.write(samples.astype(">i2").tobytes())
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    return path


def _require_none(missing: set[str], heights: Heights) -> None:
    if missing:
        names = sorted(missing)
        raise MissingTilesError(
            f"terrain tiles: {', '.join(names)} missing from {heights.folder}; fetch them by "
            f"heimdall_lab.fetch_terrain({names}, {str(heights.folder)!r}), or put SRTM .hgt files of these names, or "
            "GeoTIFF files that cover them, there"
        )


def _broadcast(*arrays: Array) -> list[Array]:
    return [np.array(array, dtype=float) for array in np.broadcast_arrays(*arrays)]


def _srtm_tile(path: Path) -> Tile:
    name = path.name[:7].upper()
    south = float(name[1:3]) * (-1 if name[0] == "S" else 1)
    west = float(name[4:7]) * (-1 if name[3] == "W" else 1)
    grid = (south, west, south + 1, west + 1)
    return Tile(path, path.stat().st_mtime_ns, grid, grid)


def _geotiff_tile(path: Path) -> Tile:
    with _raster(path) as raster:
        latitude, longitude = raster["y"].values, raster["x"].values
    south, north, west, east = latitude.min(), latitude.max(), longitude.min(), longitude.max()
    half_lat, half_lon = (north - south) / (latitude.size - 1) / 2, (east - west) / (longitude.size - 1) / 2
    grid = (float(south), float(west), float(north), float(east))
    reach = (float(south - half_lat), float(west - half_lon), float(north + half_lat), float(east + half_lon))
    return Tile(path, path.stat().st_mtime_ns, grid, reach)


def _raster(path: Path) -> xr.DataArray:
    """Open a GeoTIFF of one band in latitude and longitude; nodata is NaN in it."""
    import rioxarray  # takes longer to import than all else here, and few folders hold GeoTIFFs

    try:
        raster = rioxarray.open_rasterio(path, mask_and_scale=True)
    except (OSError, ValueError) as error:
        raise ValueError(f"terrain tile {path}: cannot be read ({error}); fetch it again or remove it") from error
    if not isinstance(raster, xr.DataArray) or raster.sizes["band"] != 1:
        raise ValueError(f"terrain tile {path}: has several bands; keep the one of heights alone")
    if raster.rio.crs is None or not raster.rio.crs.is_geographic or min(raster.shape[1:]) < 2:
        raise ValueError(
            f"terrain tile {path}: is no grid in latitude and longitude (CRS {raster.rio.crs}); reproject it to "
            "EPSG:4326"
        )
    return raster[0]


def _srtm_samples(path: Path) -> Array:
    """Read an SRTM tile (rows from the north, columns), int16, voids and all."""
    try:
        if path.suffix.lower() == ".zip":
            with zipfile.ZipFile(path) as archive:
                members = [name for name in archive.namelist() if name.lower().endswith(".hgt")]
                content = archive.read(members[0]) if len(members) == 1 else b""
        else:
            with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
                content = file.read()
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"terrain tile {path}: cannot be read ({error}); fetch it again") from error
    size = next((size for size in _SIZES if len(content) == 2 * size**2), None)
    if size is None:
        raise ValueError(
            f"terrain tile {path}: holds {len(content)} bytes of heights, neither 1201² nor 3601² of two bytes; "
            "fetch it again"
        )
    return np.frombuffer(content, ">i2").reshape(size, size).astype(np.int16)


def _own_samples(tile: Tile) -> Array:
    """Read the heights of a tile (rows from the north, columns from the west), voids filled."""
    if _SRTM_FILE.fullmatch(tile.path.name):
        samples = _srtm_samples(tile.path)
        void = samples == _VOID
    else:
        with _raster(tile.path) as raster:
            samples = raster.sortby("y", ascending=False).sortby("x").values.astype(np.float32)
        void = ~np.isfinite(samples) | (samples == _VOID)
    if void.all():
        raise ValueError(f"terrain tile {tile.path}: holds voids alone; fetch another version of it")
    filled = _filled(samples, void)
    lowest, highest = float(filled.min()), float(filled.max())
    if not (lowest >= _LOWEST_M and highest <= _HIGHEST_M):
        raise ValueError(
            f"terrain tile {tile.path}: holds heights of {lowest:g} … {highest:g} m, which no ground has; "
            "mark its voids as nodata or fetch it again"
        )
    return filled


def _filled(samples: Array, void: Array) -> Array:
    """Replace voids by linear interpolation between the samples around them; beyond these, by the nearest."""
    if not void.any():
        return samples
    rim = ndimage.binary_dilation(void, np.ones((3, 3))) & ~void
    known, wanted = np.argwhere(rim), np.argwhere(void)
    values = samples[rim].astype(float)
    estimate = NearestNDInterpolator(known, values)(wanted)
    if len(known) >= 3 and (np.ptp(known, axis=0) > 0).all():
        linear = LinearNDInterpolator(known, values)(wanted)
        estimate = np.where(np.isnan(linear), estimate, linear)
    filled = samples.copy()
    filled[void] = np.rint(estimate) if samples.dtype == np.int16 else estimate
    return filled


@functools.lru_cache(maxsize=_CACHED_TILES)
def _samples(heights: Heights, number: int) -> Array:
    """Heights of a tile with one more sample all around: a neighbour's where it answers there, else the nearest.

    Tiles whose samples are centres of pixels leave a gap of one step to their neighbours, which is bridged so.
    """
    tile = heights.tiles[number]
    own = _own_samples(tile)
    padded: Array = np.pad(own, 1, mode="edge")
    if tile.grid == tile.reach:
        return padded
    south, west, north, east = tile.grid
    lat_step, lon_step = (north - south) / (own.shape[0] - 1), (east - west) / (own.shape[1] - 1)
    around = np.ones(padded.shape, dtype=bool)
    around[1:-1, 1:-1] = False
    row, column = np.nonzero(around)
    latitude, longitude = north - (row - 1) * lat_step, west + (column - 1) * lon_step
    slack_lat, slack_lon = lat_step * 1e-6, lon_step * 1e-6
    for other in heights.tiles:
        s, w, n, e = other.grid
        inside = (latitude >= s - slack_lat) & (latitude <= n + slack_lat)
        inside &= (longitude >= w - slack_lon) & (longitude <= e + slack_lon)
        if inside.any() and other is not tile:
            value = np.full(row.size, np.nan)
            owner = np.where(inside, 0, -1)
            _interpolate(np.pad(_own_samples(other), 1, mode="edge"), other.grid, owner, 0, latitude, longitude, value)
            padded[row[inside], column[inside]] = value[inside]
    return padded


@functools.lru_cache(maxsize=8)
def _bounds(heights: Heights) -> tuple[Array, Array]:
    """Grids and reaches of the tiles, (T, 4) each: south, west, north, east."""
    return np.array([tile.grid for tile in heights.tiles]), np.array([tile.reach for tile in heights.tiles])


def _ground(heights: Heights, latitude: Array, longitude: Array) -> tuple[Array, set[str]]:
    """Height of the ground at points (N,), and the names of the tiles that are missing there."""
    height = np.full(latitude.size, np.nan)
    if np.nanmax(np.abs(longitude), initial=0) > 180:
        longitude = geodesy.wrapped(longitude)
    known = np.isfinite(latitude) & np.isfinite(longitude)
    if not known.any():
        return height, set()
    owner = _owners(heights, latitude, longitude)
    lost = known & (owner < 0)
    if lost.any():  # the meridian of 180 degrees bounds tiles on both sides
        longitude = np.where(lost & (np.abs(longitude) == 180), -longitude, longitude)
        owner = _owners(heights, latitude, longitude)
        lost = known & (owner < 0)
    if lost.any():
        cells = np.unique(np.floor(np.stack([latitude[lost], longitude[lost]])), axis=1)
        return height, {tile_name(south, west) for south, west in cells.T}
    for number in np.flatnonzero(np.bincount(owner[known])):
        grid = heights.tiles[number].grid
        _interpolate(_samples(heights, int(number)), grid, owner, int(number), latitude, longitude, height)
    return height, set()


def _owners(heights: Heights, latitude: Array, longitude: Array) -> Array:
    """Number of the tile that each point (N,) is read from, −1 where there is none."""
    grids, reaches = _bounds(heights)
    near = np.flatnonzero(
        (reaches[:, 0] <= np.nanmax(latitude))
        & (reaches[:, 2] >= np.nanmin(latitude))
        & (reaches[:, 1] <= np.nanmax(longitude))
        & (reaches[:, 3] >= np.nanmin(longitude))
    )
    owner = np.full(latitude.size, -1)
    _find(latitude, longitude, grids[near], reaches[near], near, owner)
    return owner


@njit(cache=True)
def _find(latitude: Array, longitude: Array, grids: Array, reaches: Array, numbers: Array, owner: Array) -> None:
    """Write the number of the first tile whose grid holds each point, or else whose reach does."""
    for bounds in (grids, reaches):
        for point in range(latitude.size):
            if owner[point] < 0:
                for tile in range(len(bounds)):
                    south, west, north, east = bounds[tile]
                    if south <= latitude[point] <= north and west <= longitude[point] <= east:
                        owner[point] = numbers[tile]
                        break


@njit(cache=True)
def _interpolate(
    samples: Array,
    grid: tuple[float, float, float, float],
    owner: Array,
    number: int,
    latitude: Array,
    longitude: Array,
    height: Array,
) -> None:
    """Write the bilinear interpolation at the points of one tile, whose samples have one more all around."""
    south, west, north, east = grid
    rows, columns = samples.shape
    rows_per_deg, columns_per_deg = (rows - 3) / (north - south), (columns - 3) / (east - west)
    for point in range(latitude.size):
        if owner[point] == number:
            row = max(1 + (north - latitude[point]) * rows_per_deg, 0.0)
            column = max(1 + (longitude[point] - west) * columns_per_deg, 0.0)
            i, j = min(int(row), rows - 2), min(int(column), columns - 2)
            v, u = row - i, column - j
            upper = (1 - u) * samples[i, j] + u * samples[i, j + 1]
            lower = (1 - u) * samples[i + 1, j] + u * samples[i + 1, j + 1]
            height[point] = (1 - v) * upper + v * lower


def _profiles(
    heights: Heights, ends: Sequence[Array], spacing_m: float, max_points: int
) -> tuple[Array, Array, set[str]]:
    """Distances (km) and heights (m) of profiles, (L, P) each, and the names of the tiles that are missing."""
    known = np.isfinite(ends[0]) & np.isfinite(ends[1]) & np.isfinite(ends[2]) & np.isfinite(ends[3])
    tx_latitude, tx_longitude, rx_latitude, rx_longitude = (np.where(known, end, 0.0) for end in ends)
    length_m, _ = geodesy.geodesic(tx_latitude, tx_longitude, rx_latitude, rx_longitude)
    points = np.clip(np.ceil(length_m / spacing_m).astype(np.int64) + 1, 3, max_points)
    points[~known] = 0
    shape = (points.size, int(points.max(initial=0)))
    distance_km, latitude, longitude = (np.full(shape, np.nan) for _ in range(3))
    _great_circle(
        tx_latitude,
        tx_longitude,
        rx_latitude,
        rx_longitude,
        length_m / 1e3,
        points,
        distance_km,
        latitude,
        longitude,
    )
    height, missing = _ground(heights, latitude.ravel(), longitude.ravel())
    return distance_km, height.reshape(shape), missing


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
