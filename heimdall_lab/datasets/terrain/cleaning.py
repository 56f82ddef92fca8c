"""Heights as files have them, made heights of the ground: the sea at its level, small voids filled, large ones NaN."""

import logging
from pathlib import Path

import numpy as np
import scipy.ndimage

from heimdall_lab.core.arrays import Array
from heimdall_lab.core.units import METRES_PER_DEGREE

Grid = tuple[float, float, float, float]  # south, west, north, east of the outermost samples, degrees

_LOWEST_M, _HIGHEST_M = -500.0, 9000.0  # the Dead Sea's shore, Mount Everest
_DEEPEST_M = -9000.0  # of sea floors beside land; what lies lower is a mark of voids that nobody said to be one
_LEAST_SEA_KM2 = 1.0  # quarries and errors of the radar below sea level are smaller
_FARTHEST = 50  # samples from a known one to within which a void is filled
_AROUND = np.ones((3, 3))  # neighbours, diagonal ones too
# Land that lies lower than the sea by more than some metres, which no sample tells from the floor of a shallow sea, by
# the box around it (as a Grid). Source of what there is: CIA, The World Factbook, "Elevation", lowest points.
_LAND_BELOW_SEA_LEVEL: dict[str, Grid] = {
    "Jordan Rift": (30.3, 35.2, 33.0, 35.8),
    "Lake Assal": (11.58, 42.30, 11.75, 42.48),
    "Danakil Depression": (12.9, 39.9, 14.6, 40.75),
    "Turpan Depression": (42.2, 88.3, 43.3, 90.2),
    "Qattara Depression": (28.6, 26.2, 30.5, 29.0),
    "Karagiye Depression": (43.25, 51.5, 43.8, 52.2),
    "Laguna del Carbón": (-49.8, -68.6, -49.4, -68.1),
    "Death Valley": (35.5, -117.3, 37.0, -116.5),
    "Salton Trough": (32.4, -116.2, 33.8, -115.2),
    "Chott Melrhir": (33.8, 5.8, 34.8, 7.5),
    "Lake Eyre": (-29.5, 136.5, -27.5, 138.0),
    "Rhenish lignite mines": (50.8, 6.35, 51.1, 6.65),
}
_log = logging.getLogger(__name__)


def can_be_sea(shape: tuple[int, int], grid: Grid) -> Array:
    """Samples (rows from the north, columns from the west) that do not lie where land is lower than the sea."""
    south, west, north, east = grid
    latitude = np.linspace(north, south, shape[0])[:, None]
    longitude = (np.linspace(west, east, shape[1]) + 180) % 360 - 180
    land = np.zeros(shape, dtype=bool)
    for low, left, high, right in _LAND_BELOW_SEA_LEVEL.values():
        land |= (latitude >= low) & (latitude <= high) & (longitude >= left) & (longitude <= right)
    return ~land


def at_sea_level(samples: Array, void: Array, grid: Grid) -> Array:
    """Samples with the sea at 0: areas below it of a square kilometre and more, as tiles with the sea floor have.

    Land of that size that lies a few metres lower, as polders do, is flattened too; deeper land is not (`can_be_sea`).
    """
    below = ~void & (samples < 0) & (samples >= _DEEPEST_M)
    if not below.any():
        return samples
    south, west, north, east = grid
    cell_deg2 = (north - south) * (east - west) / ((samples.shape[0] - 1) * (samples.shape[1] - 1))
    cell_km2 = cell_deg2 * (METRES_PER_DEGREE / 1e3) ** 2 * np.cos(np.radians((south + north) / 2))
    area, count = scipy.ndimage.label(below & can_be_sea(samples.shape, grid), _AROUND)
    is_sea = np.bincount(area.ravel(), minlength=count + 1) * cell_km2 >= _LEAST_SEA_KM2
    is_sea[0] = False
    return np.where(is_sea[area], samples.dtype.type(0), samples)


def fill_voids(path: Path, samples: Array, void: Array) -> Array:
    """Samples with voids replaced by linear interpolation between the samples around, beyond these by the nearest.

    Voids that reach farther than 50 samples from any known one are NaN, in float32, and the log says so.

    Raises
    ------
    ValueError
        If there is nothing but voids.
    """
    if not void.any():
        return samples
    if void.all():
        raise ValueError(f"terrain tile {path}: holds voids alone; fetch another version of it")
    large = _large(void)
    if large.any():
        _log.warning(
            f"terrain tile {path}: has no heights in {large.mean():.0%} of its area, where the ground is unknown "
            "unless another tile of the folder holds it"
        )
        samples = samples.astype(np.float32)
        samples[large] = np.nan
    small = void & ~large
    return _filled(samples, small, void) if small.any() else samples


def _large(void: Array) -> Array:
    """Voids of which a sample is farther than so many from every known one."""
    distance = scipy.ndimage.distance_transform_cdt(void, "chessboard")
    if distance.max() <= _FARTHEST:
        return np.zeros_like(void)
    number, _ = scipy.ndimage.label(void, _AROUND)
    return np.isin(number, np.unique(number[distance > _FARTHEST]))


def _filled(samples: Array, small: Array, void: Array) -> Array:
    rim = scipy.ndimage.binary_dilation(small, _AROUND) & ~void
    known, unknown = np.argwhere(rim), np.argwhere(small)
    values = samples[rim].astype(float)
    # SciPy loads its folder interpolate here, not at every start of this package.
    estimate = scipy.interpolate.NearestNDInterpolator(known, values)(unknown)
    if len(known) >= 3 and (np.ptp(known, axis=0) > 0).all():
        linear = scipy.interpolate.LinearNDInterpolator(known, values)(unknown)
        estimate = np.where(np.isnan(linear), estimate, linear)
    filled = samples.copy()
    filled[small] = np.rint(estimate) if samples.dtype == np.int16 else estimate
    return filled


def check_range(path: Path, samples: Array) -> None:
    """Refuse heights that no ground has."""
    lowest, highest = float(np.nanmin(samples)), float(np.nanmax(samples))
    if not (lowest >= _LOWEST_M and highest <= _HIGHEST_M):
        raise ValueError(
            f"terrain tile {path}: holds heights of {lowest:g} … {highest:g} m, which no ground has; "
            "mark its voids as nodata or fetch it again"
        )
