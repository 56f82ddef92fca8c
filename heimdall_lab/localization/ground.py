"""How high a transmitter near the ground is, by tiles of heights: over the network's area, then around its fix."""

import numpy as np
import xarray as xr

from heimdall_lab.core import geodesy
from heimdall_lab.core.arrays import Array
from heimdall_lab.datasets.terrain.heights import known_height_m, require_tiles
from heimdall_lab.datasets.terrain.tiles import Heights, tile_name
from heimdall_lab.localization import altitude

_SIDE = 24  # points along each side of the network's area
_MARGIN = 0.5  # of the receivers' extent, by which that area reaches beyond them
_RINGS, _SPOKES = 6, 12  # points around a fix, each as likely


def with_ground(dataset: xr.Dataset, heights: Heights, fixes: xr.Dataset | None = None) -> xr.Dataset:
    """State how high the ground is where the transmitters may stand: ``ground_altitude`` and its standard deviation.

    That is in the receivers' box widened by half on each side; or, given fixes of `estimators.locate`, in the ellipse
    of each. Points that no tile holds do not count; a scene of which none does is left as it is.

    Raises
    ------
    MissingTilesError
        If the tiles hold no point of any network's area.
    ValueError
        If a tile cannot be read.
    """
    mean_m, std_m = (
        dataset[name].values if name in dataset else np.full(dataset.sizes["sample"], np.nan)
        for name in ("ground_altitude", "ground_altitude_std")
    )
    latitude, longitude = _area(dataset) if fixes is None else _ellipses(fixes)
    height_m = known_height_m(heights, latitude, longitude)
    seen = np.isfinite(height_m).any(axis=1)
    if fixes is None and not seen.any():
        require_tiles({tile_name(*place) for place in zip(latitude.ravel(), longitude.ravel(), strict=True)}, heights)
    height_m = np.where(seen[:, None], height_m, 0.0)
    found = np.nanmean(height_m, axis=1), np.maximum(np.nanstd(height_m, axis=1), altitude.LEAST_GROUND_SIGMA_M)
    units = {"units": "m"}
    return dataset.assign(
        ground_altitude=("sample", np.where(seen, found[0], mean_m), units),
        ground_altitude_std=("sample", np.where(seen, found[1], std_m), units),
    )


def _area(dataset: xr.Dataset) -> tuple[Array, Array]:
    """Latitude and longitude (S, N) of points over the area of each network."""
    latitude, longitude = dataset.receiver_latitude.values, dataset.receiver_longitude.values
    origin = np.nanmin(longitude, axis=1, keepdims=True)
    steps = np.linspace(-_MARGIN, 1 + _MARGIN, _SIDE)
    low, extent = zip(*(_span(values) for values in (latitude, geodesy.wrapped(longitude - origin))), strict=True)
    north, east = (grid.ravel() for grid in np.meshgrid(steps, steps))
    return (low[0] + extent[0] * north).clip(-90, 90), geodesy.wrapped(origin + low[1] + extent[1] * east)


def _span(values: Array) -> tuple[Array, Array]:
    """Least of each row (S, R), and how far the largest is above it, (S, 1) each."""
    least = np.nanmin(values, axis=1, keepdims=True)
    return least, np.nanmax(values, axis=1, keepdims=True) - least


def _ellipses(fixes: xr.Dataset) -> tuple[Array, Array]:
    """Latitude and longitude (S, N) of points about each fix, as likely each; NaN of what is no fix."""
    share = (np.arange(_RINGS) + 0.5) / _RINGS
    radius, angle = np.meshgrid(np.sqrt(-2 * np.log1p(-share)), np.arange(_SPOKES) * 2 * np.pi / _SPOKES)
    standard = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1).reshape(-1, 2)
    usable = fixes.converged.values
    covariance = np.where(usable[:, None, None], fixes.covariance.values, np.eye(2))
    value, vector = np.linalg.eigh(covariance)
    root = vector * np.sqrt(np.maximum(value, 0.0))[:, None]
    east, north = (standard @ root.swapaxes(1, 2)).transpose(2, 0, 1)
    latitude, longitude = (np.where(usable, fixes[name].values, np.nan) for name in ("latitude", "longitude"))
    return geodesy.displace(latitude[:, None], longitude[:, None], east, north)
