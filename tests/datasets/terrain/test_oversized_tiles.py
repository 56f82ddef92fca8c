"""Tiles that hold more than any tile does are refused before they are unpacked; large archives of tiles are read."""

import gzip
import tracemalloc
import zipfile

import numpy as np
import pytest
import rasterio

from heimdall_lab.datasets.terrain.heights import height_m
from heimdall_lab.datasets.terrain.tiles import open_terrain

pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")  # rasterio's, of affine 3
ZEROS = bytes(60_000_000)


@pytest.fixture(params=["N43E007.hgt", "N43E007.hgt.gz", "N43E007.hgt.zip", "NASADEM_HGT_n43e007.zip"])
def bomb(request, tmp_path):
    path = tmp_path / request.param
    if path.suffix == ".hgt":
        path.write_bytes(ZEROS)
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(ZEROS, 1))
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            archive.writestr("n43e007.hgt", ZEROS)
    return path


def refusal(folder):
    with pytest.raises(ValueError, match="terrain tile"):
        height_m(open_terrain(folder), 43.5, 7.5)
    tracemalloc.start()  # after what is imported or compiled at the first call
    with pytest.raises(ValueError, match="terrain tile") as error:
        height_m(open_terrain(folder), 43.5, 7.5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return str(error.value), peak


def test_bombs_are_not_unpacked(bomb):
    message, peak = refusal(bomb.parent)
    assert "holds more than 25934402 bytes of heights, neither 1201² nor 3601²" in message
    assert peak < 59e6  # twice what the largest tile holds


def test_a_geotiff_of_too_many_samples_is_not_read(tmp_path):
    form = {"driver": "GTiff", "count": 1, "dtype": "int16", "crs": "EPSG:4326", "sparse_ok": True, "tiled": True}
    size = {"width": 200_000, "height": 200_000, "blockxsize": 4096, "blockysize": 4096, "BIGTIFF": "YES"}
    place = rasterio.transform.from_origin(5, 50, 1e-5, 1e-5)
    with rasterio.open(tmp_path / "large.tif", "w", transform=place, **form, **size):
        pass
    message, peak = refusal(tmp_path)
    assert "has 200,000 × 200,000 samples, more than 50,000,000 in all; cut it into tiles" in message
    assert peak < 10e6


def test_a_zip_with_a_table_of_contents_of_megabytes_is_not_read(tmp_path):
    with zipfile.ZipFile(tmp_path / "N43E007.hgt.zip", "w") as archive:
        for number in range(20):
            archive.writestr("m" * 60_000 + str(number), b"")
    message, peak = refusal(tmp_path)
    assert "header or table of contents of more than 1 MB" in message
    assert peak < 10e6


def test_archives_of_several_megabytes_are_read(tmp_path):
    """As those of SRTM1 are, which pack to some ten."""
    heights = np.random.default_rng(1).integers(1, 4000, (1201, 1201)).astype(">i2")
    with zipfile.ZipFile(tmp_path / "N43E007.hgt.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("N43E007.hgt", heights.tobytes())
    assert (tmp_path / "N43E007.hgt.zip").stat().st_size > 2e6
    assert float(height_m(open_terrain(tmp_path), 43.5, 7.5)) == heights[600, 600]
