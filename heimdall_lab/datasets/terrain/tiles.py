"""Tiles of heights, SRTM and GeoTIFF: found in a folder, read, fetched."""

import functools
import gzip
import os
import re
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import IO

import numpy as np
import pooch

from heimdall_lab.core.arrays import Array
from heimdall_lab.core.compiled import njit
from heimdall_lab.core.sparing import OversizedError, SparingFile
from heimdall_lab.core.text import quoted, shortened
from heimdall_lab.datasets.terrain import geotiff
from heimdall_lab.datasets.terrain.cleaning import Grid, at_sea_level, can_be_sea, check_range, fill_voids

PUBLIC_URL = "https://s3.amazonaws.com/elevation-tiles-prod/skadi/"  # Terrain Tiles, registry.opendata.aws
_VOID = -32768
_SIZES = (1201, 3601)  # SRTM3 and SRTM1
_PIECE_BYTES = 2**16
_LARGEST_BYTES = 2 * max(_SIZES) ** 2  # beyond which nothing is unpacked
_UNREADABLE = (OSError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError, OversizedError)
_TILE_NAME = re.compile(r"[NS]\d{2}[EW]\d{3}")
# NASADEM_HGT_n43e007.zip holds one .hgt beside masks.
_SRTM_FILE = re.compile(rf"(?:NASADEM_HGT_)?({_TILE_NAME.pattern})(?:\b.*\.hgt(?:\.zip|\.gz)?|\.zip)", re.IGNORECASE)
_CACHED_TILES = 32  # 0.8 GB of SRTM1


class MissingTilesError(ValueError):
    """Points lie where a folder has no tile; the message names every missing tile, the folder and the remedy."""


@dataclass(frozen=True)
class Tile:
    """One file of heights: the outermost samples of its grid, and the area for which it gives heights."""

    path: Path
    modified_ns: int
    grid: Grid
    reach: Grid


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


def open_terrain(folder: str | Path) -> Heights:
    """Find the tiles of a folder: SRTM ``.hgt`` (plain, ``.zip`` or ``.gz``), NASADEM's archives, and GeoTIFF.

    Heights are read when they are first asked for, and the latest 32 tiles stay in memory. As a tile is read, the sea
    is put at its level where the tile holds its floor, and voids are filled, except for large ones. GeoTIFFs may be of
    any projection, rotated, in feet if they say so, and in longitudes of −180 … 180, 0 … 360 or across either.

    Raises
    ------
    ValueError
        If the folder cannot be read or holds no tile, or a GeoTIFF has no place on Earth or unknown units.
    """
    root = Path(folder)
    try:
        paths = sorted(path for path in root.iterdir() if path.is_file())
    except OSError as error:
        raise ValueError(f"terrain folder: cannot read {quoted(root)} ({error.strerror}); name another") from error
    tiles = [_srtm_tile(path, match[1].upper()) for path in paths if (match := _SRTM_FILE.fullmatch(path.name))]
    tiles += [
        Tile(path, path.stat().st_mtime_ns, *geotiff.extent(path))
        for path in paths
        if path.suffix.lower() in geotiff.SUFFIXES
    ]
    if not tiles:
        raise ValueError(
            f"terrain folder: {quoted(root)} holds no tile; put SRTM .hgt or GeoTIFF files there, or fetch some by "
            "heimdall_lab.fetch_terrain"
        )
    return Heights(root, tuple(tiles))


def fetch_terrain(tiles: Sequence[str], folder: str | Path, url: str = PUBLIC_URL) -> list[Path]:
    """Fetch SRTM tiles that a folder lacks, and return the files of all of them.

    A tile is checked and complete, or not there at all. The public tiles carry the sea floor: heights below sea level
    are stored as 0, so land that lies lower is flattened too, but for the depressions that `cleaning` knows.

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
            raise ValueError(f"terrain tile: {quoted(name)} is no name of a tile; give names such as N43E007")
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    return [_fetch_tile(name, root, f"{url.rstrip('/')}/{name[:3]}/{name}.hgt.gz") for name in tiles]


def _fetch_tile(name: str, folder: Path, address: str) -> Path:
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
        below = (samples < 0) & (samples != _VOID)
        samples[below & can_be_sea(samples.shape, _srtm_tile(archive, name).grid)] = 0
        with part.open("wb") as file:
            file.write(samples.astype(">i2").tobytes())
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    return path


def _srtm_tile(path: Path, name: str) -> Tile:
    south = float(name[1:3]) * (-1 if name[0] == "S" else 1)
    west = float(name[4:7]) * (-1 if name[3] == "W" else 1)
    grid = (south, west, south + 1, west + 1)
    return Tile(path, path.stat().st_mtime_ns, grid, grid)


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    """Yield what a member of an archive holds, and of one that is too large a little more than a tile may have."""
    size = 0
    while size <= _LARGEST_BYTES and (piece := file.read(_PIECE_BYTES)):
        size += len(piece)
        yield piece


def _srtm_samples(path: Path) -> Array:
    """Read an SRTM tile (rows from the north, columns), int16, voids and all."""
    try:
        if path.suffix.lower() == ".zip":
            with SparingFile(path) as opened, zipfile.ZipFile(opened) as archive:
                members = [name for name in archive.namelist() if name.lower().endswith(".hgt")]
                content = b""
                if len(members) == 1:
                    with archive.open(members[0]) as file:
                        content = b"".join(_pieces(file))
        else:
            with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
                content = file.read(_LARGEST_BYTES + 1)
    except _UNREADABLE as error:
        raise ValueError(f"terrain tile {path}: cannot be read ({shortened(error)}); fetch it again") from error
    size = next((size for size in _SIZES if len(content) == 2 * size**2), None)
    if size is None:
        count = f"more than {_LARGEST_BYTES}" if len(content) > _LARGEST_BYTES else f"{len(content)}"
        raise ValueError(
            f"terrain tile {path}: holds {count} bytes of heights, neither 1201² nor 3601² of two bytes; fetch it again"
        )
    return np.frombuffer(content, ">i2").reshape(size, size).astype(np.int16)


def _read_tile(tile: Tile) -> Array:
    """Read the heights of a tile (rows from the north, columns from the west), cleaned; NaN in large voids."""
    if tile.path.suffix.lower() in geotiff.SUFFIXES:
        heights = geotiff.read_geotiff(tile.path, tile.grid)
    else:
        samples = _srtm_samples(tile.path)
        void = samples == _VOID
        heights = fill_voids(tile.path, at_sea_level(samples, void, tile.grid), void)
    check_range(tile.path, heights)
    return heights


@functools.lru_cache(maxsize=_CACHED_TILES)
def padded_tile(heights: Heights, number: int) -> Array:
    """Heights of a tile with one more sample all around: a neighbour's where it has one there, else the nearest.

    This bridges the gap of one step that tiles whose samples are centres of pixels leave to their neighbours.
    """
    tile = heights.tiles[number]
    own = _read_tile(tile)
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
    for other, turn in product(heights.tiles, (0.0, 360.0, -360.0)):
        s, w, n, e = other.grid
        inside = (latitude >= s - slack_lat) & (latitude <= n + slack_lat)
        inside &= (longitude + turn >= w - slack_lon) & (longitude + turn <= e + slack_lon)
        if inside.any() and (other is not tile or turn):  # a tile around the Earth is its own neighbour
            value = np.full(row.size, np.nan)
            owner = np.where(inside, 0, -1)
            neighbour = np.pad(_read_tile(other), 1, mode="edge")
            interpolate_tile(neighbour, other.grid, owner, 0, latitude, longitude + turn, value)
            inside &= np.isfinite(value)
            padded[row[inside], column[inside]] = value[inside]
    return padded


@njit(cache=True)
def interpolate_tile(
    samples: Array,
    grid: Grid,
    owner: Array,
    number: int,
    latitude: Array,
    longitude: Array,
    height: Array,
) -> None:
    """Write the bilinear interpolation at the points of one tile, whose samples have one more all around.

    Where some of the four samples are unknown, of the others if the nearest is one of them; else NaN. Longitudes may be
    a full turn away.
    """
    south, west, north, east = grid
    rows, columns = samples.shape
    rows_per_deg, columns_per_deg = (rows - 3) / (north - south), (columns - 3) / (east - west)
    for point in range(latitude.size):
        if owner[point] == number:
            row = max(1 + (north - latitude[point]) * rows_per_deg, 0.0)
            offset = longitude[point] - west
            if offset * columns_per_deg < -1:
                offset += 360.0
            elif offset * columns_per_deg > columns - 2:
                offset -= 360.0
            column = max(1 + offset * columns_per_deg, 0.0)
            i, j = min(int(row), rows - 2), min(int(column), columns - 2)
            v, u = row - i, column - j
            upper = (1 - u) * samples[i, j] + u * samples[i, j + 1]
            lower = (1 - u) * samples[i + 1, j] + u * samples[i + 1, j + 1]
            height[point] = (1 - v) * upper + v * lower
            if np.isnan(height[point]) and not np.isnan(samples[i + round(v), j + round(u)]):
                total, weights = 0.0, 0.0
                for a, b in ((i, j), (i, j + 1), (i + 1, j), (i + 1, j + 1)):
                    if not np.isnan(samples[a, b]):
                        weight = (1 - abs(row - a)) * (1 - abs(column - b))
                        total, weights = total + weight * samples[a, b], weights + weight
                height[point] = total / weights
