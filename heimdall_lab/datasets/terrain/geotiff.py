"""GeoTIFFs of heights in any coordinate reference system: where they lie, and their heights by latitude, longitude."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyproj

from heimdall_lab.core.arrays import Array
from heimdall_lab.core.text import quoted
from heimdall_lab.datasets.terrain.cleaning import Grid, at_sea_level, fill_voids

SUFFIXES = (".tif", ".tiff")
_MOST_SAMPLES = 50_000_000  # four times those of SRTM1
_GEOGRAPHIC = "EPSG:4326"
_UNMARKED_VOID = -32768  # of tiles made of SRTM that do not say it
_INTERNATIONAL_FOOT_M, _SURVEY_FOOT_M = 0.3048, 1200 / 3937  # EPSG units of measure 9002 and 9003
_METRES = (
    dict.fromkeys(("m", "meter", "meters", "metre", "metres"), 1.0)
    | dict.fromkeys(("ft", "foot", "feet", "international foot", "international feet"), _INTERNATIONAL_FOOT_M)
    | dict.fromkeys(("us survey foot", "us survey feet", "us-ft", "ftus", "foot_us", "us_survey_foot"), _SURVEY_FOOT_M)
)


def extent(path: Path) -> tuple[Grid, Grid]:
    """Outermost samples of a file, and the area for which it gives heights: half a sample more on each side.

    Raises
    ------
    ValueError
        If the file cannot be read, or its heights cannot be placed or have an unknown unit.
    """
    with _opened(path) as raster:
        transform, width, height = _geographic_grid(path, raster)
    west, east = sorted(transform.c + transform.a * column for column in (0.5, width - 0.5))
    south, north = sorted(transform.f + transform.e * row for row in (0.5, height - 0.5))
    half_lat, half_lon = abs(transform.e) / 2, abs(transform.a) / 2
    return (south, west, north, east), (south - half_lat, west - half_lon, north + half_lat, east + half_lon)


def read_geotiff(path: Path, grid: Grid) -> Array:
    """Heights in m (rows from the north, columns from the west), float32, cleaned; those of `extent` are the samples.

    Grids that do not run along parallels and meridians, rotated or of a projection, are interpolated bilinearly, and
    NaN outside.
    """
    with _opened(path) as raster:
        masked = raster.read(1, masked=True) * raster.scales[0] + raster.offsets[0]
        samples = masked.filled(np.nan).astype(np.float32)
        void = ~np.isfinite(samples) | (samples == _UNMARKED_VOID)
        samples *= np.float32(_metres_per_unit(path, raster))
        if _is_regular(raster):
            flip = np.s_[:: -1 if raster.transform.e > 0 else 1, :: -1 if raster.transform.a < 0 else 1]
            samples, void = samples[flip], void[flip]
            return fill_voids(path, at_sea_level(samples, void, grid), void)
        warped = _warped(path, raster, fill_voids(path, samples, void))
    return at_sea_level(warped, np.isnan(warped), grid)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a GeoTIFF of one band of heights that can be placed."""
    import rasterio  # few folders hold GeoTIFFs

    try:
        with rasterio.open(path) as raster:
            if raster.count != 1 or raster.subdatasets:
                raise ValueError(f"terrain tile {path}: has several bands; keep the one of heights alone")
            if raster.crs is None or raster.transform.is_identity or min(raster.shape) < 2:
                raise _unplaced(path, f"CRS {raster.crs}, {raster.width} × {raster.height} samples")
            _metres_per_unit(path, raster)
            _check_size(path, raster.width, raster.height)
            yield raster
    except rasterio.errors.RasterioError as error:
        raise ValueError(f"terrain tile {path}: cannot be read ({error}); replace it by a whole one") from error


def _check_size(path: Path, width: int, height: int) -> None:
    if width * height > _MOST_SAMPLES:
        raise ValueError(
            f"terrain tile {path}: has {width:,} × {height:,} samples, more than {_MOST_SAMPLES:,} in all; cut it into "
            "tiles, or make it coarser"
        )


def _unplaced(path: Path, reason: object) -> ValueError:
    return ValueError(
        f"terrain tile {path}: is no grid that has a place on Earth ({reason}); reproject it to {_GEOGRAPHIC}"
    )


def _is_regular(raster: Any) -> bool:
    """Whether rows and columns run along parallels and meridians."""
    return bool(raster.crs.is_geographic and (raster.transform.b, raster.transform.d) == (0, 0))


def _geographic_grid(path: Path, raster: Any) -> tuple[Any, int, int]:
    """Affine transform, width and height of a file's samples in longitude and latitude."""
    from rasterio.vrt import WarpedVRT

    if _is_regular(raster):
        return raster.transform, raster.width, raster.height
    try:
        with WarpedVRT(raster, src_crs=_horizontal_crs(raster), crs=_GEOGRAPHIC) as warped:
            transform, width, height = warped.transform, warped.width, warped.height
    except ValueError as error:
        raise _unplaced(path, error) from error
    _check_size(path, width, height)  # of a strip across the parallels, the grid is many times as large
    if width * transform.a > 180:
        raise _unplaced(path, f"CRS {raster.crs}, across the meridian of 180 degrees or around a pole")
    return transform, width, height


def _warped(path: Path, raster: Any, samples: Array) -> Array:
    """Interpolate samples, NaN where unknown, on the grid in longitude and latitude, to an eighth of a sample."""
    from rasterio.warp import Resampling, reproject

    transform, width, height = _geographic_grid(path, raster)
    warped = np.full((height, width), np.nan, dtype=np.float32)
    reproject(
        samples.astype(np.float32),
        warped,
        src_transform=raster.transform,
        src_crs=_horizontal_crs(raster),
        src_nodata=np.nan,
        dst_transform=transform,
        dst_crs=_GEOGRAPHIC,
        dst_nodata=np.nan,
        resampling=Resampling.bilinear,
    )
    return warped


def _horizontal_crs(raster: Any) -> str:
    """WKT of a file's system without its heights, whose units are those of the samples."""
    crs = pyproj.CRS.from_wkt(raster.crs.to_wkt())
    return str((crs.sub_crs_list[0] if crs.is_compound else crs).to_wkt())


def _metres_per_unit(path: Path, raster: Any) -> float:
    """Length of what heights are counted in, by the band's unit or else the vertical axis of the system."""
    if name := raster.units[0] or raster.tags(1).get("units"):
        if (metres := _METRES.get(name.strip().lower())) is None:
            raise ValueError(f"terrain tile {path}: has heights in {quoted(name)}; convert them to metres")
        return metres
    upward = [axis for axis in pyproj.CRS.from_wkt(raster.crs.to_wkt()).axis_info if axis.direction == "up"]
    return float(upward[0].unit_conversion_factor) if upward else 1.0
