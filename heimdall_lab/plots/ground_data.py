"""Coasts, borders and cities of the Earth: reads ``ground.npz``, which comes with the package.

Lines are Natural Earth 4.1.0 at 1:10,000,000 (public domain), whose places are good to a kilometre or so; cities are
the places of GeoNames (https://www.geonames.org, CC BY 4.0) with more than 15,000 inhabitants.
``benchmarks/make_ground.py`` makes the file. It holds, all angles being integers of `STEPS_PER_DEGREE`:

================  ================  ==================================================================================
``start``         (L,) int32        index of the first point of each line
``origin``        (L, 2) int32      its longitude and latitude
``border``        (L,) bool         whether the line is a border on land, not a coast
``step``          (N, 2) int16      longitude and latitude of each point less those of the one before; 0 for the first
``level``         (N,) uint8        how many of the distances `LEVEL_M` the line would be off by without the point
``city_place``    (C, 2) int32      longitude and latitude, the city with most inhabitants first
``city_population``  (C,) int32     inhabitants
``city_name``     (bytes,) uint8    names in UTF-8, a line each
================  ================  ==================================================================================
"""

from functools import cache
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import numpy as np

from heimdall_lab.core import geodesy

STEPS_PER_DEGREE = 10_000
LEVEL_M = 250.0 * 2.0 ** np.arange(9)  # 250 m … 64 km

_CHUNK = 64  # points that are looked for together
_MOST_M_PER_STEP = 111_700 / STEPS_PER_DEGREE  # along a meridian at the poles; less elsewhere


class Lines(NamedTuple):
    """Points (N) of all lines, and chunks (K) of at most 64 points that follow each other on a line."""

    place: np.ndarray  # (N, 2), longitude and latitude in steps
    line: np.ndarray  # (N,), number of the line that the point is on
    level: np.ndarray  # (N,)
    border: np.ndarray  # (L,), whether a line is a border
    chunk_start: np.ndarray  # (K + 1,), index of the first point of each chunk, and N
    chunk_centre: np.ndarray  # (K, 3), ECEF of the point in the middle of each chunk, m
    chunk_radius_m: np.ndarray  # (K,), within which its others are, by the way along the line


class Cities(NamedTuple):
    """Names (C), places and inhabitants of cities, the largest first."""

    name: np.ndarray  # (C,)
    place: np.ndarray  # (C, 2), longitude and latitude, degrees
    population: np.ndarray  # (C,)
    position: np.ndarray  # (C, 3), ECEF, m


def ground_file() -> Path:
    """The file of an installed package, or of its source tree."""
    installed = Path(str(resources.files("heimdall_lab") / "ground.npz"))
    return installed if installed.is_file() else Path(__file__).parents[2] / "data" / "ground.npz"


@cache
def lines() -> Lines:
    """Read all lines, once in a process: 7 MB that stay in memory."""
    with np.load(ground_file()) as file:
        start, origin, border, step, level = (file[name] for name in ("start", "origin", "border", "step", "level"))
    count = np.diff(start, append=len(step))
    line = np.repeat(np.arange(len(start), dtype=np.int16), count)
    place = np.cumsum(step, axis=0, dtype=np.int32)
    place += (origin - place[start])[line]
    limits = np.append(np.flatnonzero((np.arange(len(step)) - start[line]) % _CHUNK == 0), len(step))
    middle = (limits[:-1] + limits[1:]) // 2
    way_m = np.cumsum(np.hypot(*step.T.astype(np.float32)), dtype=float) * _MOST_M_PER_STEP
    radius_m = np.maximum(way_m[middle] - way_m[limits[:-1]], way_m[limits[1:] - 1] - way_m[middle])
    return Lines(place, line, level, border, limits, _position(place[middle] / STEPS_PER_DEGREE), radius_m)


@cache
def cities() -> Cities:
    """Read all cities, once in a process: 5 MB that stay in memory."""
    with np.load(ground_file()) as file:
        place, population = file["city_place"] / STEPS_PER_DEGREE, file["city_population"]
        names = np.array(file["city_name"].tobytes().decode().split("\n"), dtype=object)
    return Cities(names, place, population, _position(place))


def near(centre: np.ndarray, radius_m: float, tolerance_m: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Segments of lines that may be within a distance of a centre (3,), an ECEF position.

    Lines are off by the tolerance at most, and what is smaller is left out.

    Returns
    -------
    position : (P, 3) m
        ECEF of points, in the order of their lines.
    joined : (P − 1,)
        Whether a line goes from a point to the next one.
    border : (P,)
        Whether the point is on a border, not on a coast.
    """
    everything = lines()
    close = np.linalg.norm(everything.chunk_centre - centre, axis=1) <= radius_m + everything.chunk_radius_m
    is_near = np.repeat(close, np.diff(everything.chunk_start))
    index = np.flatnonzero(is_near & (everything.level >= np.searchsorted(LEVEL_M, tolerance_m, side="right")))
    line, step = everything.line[index], np.diff(index)
    whole = np.cumsum(is_near, dtype=np.int32)[index]  # what lies between two points is near as well
    moves = (np.diff(everything.place[index], axis=0) != 0).any(axis=1)  # false where an island is but one point
    joined = (line[1:] == line[:-1]) & (np.diff(whole) == step) & moves
    return _position(everything.place[index] / STEPS_PER_DEGREE), joined, everything.border[line]


def _position(place: np.ndarray) -> np.ndarray:
    """ECEF positions (P, 3) m of longitudes and latitudes (P, 2), degrees."""
    return geodesy.ecef(place[:, 1], place[:, 0], np.zeros(len(place)))
