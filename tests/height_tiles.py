"""Tiles of heights: those of the real Riviera, and planes that bilinear interpolation reproduces."""

import zipfile

import numpy as np
import pytest
import rioxarray  # noqa: F401  (adds the .rio accessor)
import xarray as xr

from heimdall_lab.datasets.terrain.tiles import open_terrain

SIZE = 1201


def corner(name):
    south, west = int(name[1:3]), int(name[4:7])
    return (-south if name[0] == "S" else south), (-west if name[3] == "W" else west)


def plane_m(latitude_deg, longitude_deg, south, west):
    """A plane of whole metres at SRTM3 samples that is 0 at one corner."""
    return 2 * 1200 * (latitude_deg - south) + 1200 * (longitude_deg - west)


def write_hgt(folder, name, samples):
    (folder / f"{name}.hgt").write_bytes(np.asarray(samples).astype(">i2").tobytes())


def write_geotiff(path, samples, latitude, longitude, nodata=None, crs="EPSG:4326"):
    """Write samples (y, x) on axes of latitude or northing, and of longitude or easting."""
    raster = xr.DataArray(samples[None], dims=("band", "y", "x"), coords={"band": [1], "y": latitude, "x": longitude})
    raster = raster.rio.write_crs(crs) if crs else raster
    (raster if nodata is None else raster.rio.write_nodata(nodata)).rio.to_raster(path)


def grid(name):
    south, west = corner(name)
    steps = np.arange(SIZE) / 1200
    return south + 1 - steps[:, None], west + steps[None, :]


@pytest.fixture(scope="module")
def riviera(real):
    return open_terrain(real / "srtm")


def raw_riviera(real):
    with zipfile.ZipFile(real / "srtm" / "N43E007.hgt.zip") as archive:
        return np.frombuffer(archive.read("N43E007.hgt"), ">i2").reshape(SIZE, SIZE)


def points(count, seed=0, south=43.0, west=7.0, span=1.0):
    generator = np.random.default_rng(seed)
    return south + generator.uniform(0, span, count), west + generator.uniform(0, span, count)


@pytest.fixture
def plane_folder(tmp_path):
    """Write tiles of one plane, 0 at the south-west corner of the first; return the plane."""

    def write(*names):
        south, west = corner(names[0])
        for name in names:
            write_hgt(tmp_path, name, np.rint(plane_m(*grid(name), south, west)))
        return open_terrain(tmp_path), lambda latitude, longitude: plane_m(latitude, longitude, south, west)

    return write
