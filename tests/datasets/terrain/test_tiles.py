"""Tiles as they are found, read, mended and fetched."""

import gzip
import shutil

import numpy as np
import pytest
import rasterio
from height_tiles import SIZE, grid, plane_m, points, raw_riviera, write_geotiff, write_hgt

from heimdall_lab.datasets.terrain.heights import height_m
from heimdall_lab.datasets.terrain.tiles import MissingTilesError, fetch_terrain, open_terrain

pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")  # rioxarray, of affine 3


def test_tiles_may_be_plain_zipped_or_gzipped(real, riviera, tmp_path):
    content = raw_riviera(real).tobytes()
    latitude, longitude = points(1000)
    expected = height_m(riviera, latitude, longitude)
    for name in ("N43E007.hgt", "n43e007.HGT", "N43E007.SRTMGL3.hgt.gz"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
        assert (height_m(open_terrain(folder), latitude, longitude) == expected).all()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("N43E007.hgt", b"\0" * 1000, r"N43E007.hgt: holds 1000 bytes of heights, neither 1201² nor 3601²"),
        ("N43E007.hgt", b"", "N43E007.hgt: holds 0 bytes"),
        ("N43E007.hgt.zip", b"no archive", r"N43E007.hgt.zip: cannot be read \(File is not a zip file\)"),
        ("N43E007.hgt.gz", gzip.compress(b"\0" * 5000)[:-20], r"N43E007.hgt.gz: cannot be read"),
        ("N43E007.hgt", b"\x80\0" * SIZE**2, "N43E007.hgt: holds voids alone"),
    ],
    ids=["short", "empty", "no zip", "cut off", "voids"],
)
def test_a_corrupt_tile_is_refused_by_name(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        height_m(open_terrain(tmp_path), 43.5, 7.5)


def test_folders_without_tiles_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds no tile; put SRTM .hgt or GeoTIFF files there"):
        open_terrain(tmp_path)
    with pytest.raises(ValueError, match=r"cannot read .*nowhere.*No such file"):
        open_terrain(tmp_path / "nowhere")


def test_a_tile_that_was_replaced_is_read_again(plane_folder, tmp_path):
    heights, _ = plane_folder("N43E007")
    before = height_m(heights, 43.5, 7.5)
    write_hgt(tmp_path, "N43E007", np.full((SIZE, SIZE), 7))
    assert height_m(open_terrain(tmp_path), 43.5, 7.5) == 7 != before


def test_voids_in_a_plane_are_filled_to_the_plane(tmp_path):
    samples = np.rint(plane_m(*grid("N43E007"), 43, 7))
    row, column = np.indices(samples.shape)
    void = np.hypot(row - 600, column - 500) < 40
    void |= np.hypot(row - 300, column - 900) < 1.5
    write_hgt(tmp_path, "N43E007", np.where(void, -32768, samples))
    height = height_m(open_terrain(tmp_path), *np.broadcast_arrays(*grid("N43E007")))
    assert np.abs(height - samples).max() < 1e-6


def test_voids_at_an_edge_stay_between_their_neighbours(tmp_path):
    samples = np.rint(plane_m(*grid("N43E007"), 43, 7))
    holed = samples.copy()
    holed[:, :3] = holed[0, :] = holed[-30:, -30:] = -32768
    write_hgt(tmp_path, "N43E007", holed)
    height = height_m(open_terrain(tmp_path), *np.broadcast_arrays(*grid("N43E007")))
    known = holed != -32768
    assert height.min() >= holed[known].min() - 1e-6
    assert height.max() <= holed[known].max() + 1e-6
    assert np.abs(height - samples).max() <= 3 * 31  # metres by which the plane rises over the 30 samples


def test_geotiff_agrees_with_srtm(real, riviera, tmp_path):
    raw = raw_riviera(real).astype(np.int16)
    latitude, longitude = (axis.ravel() for axis in grid("N43E007"))
    write_geotiff(tmp_path / "riviera.tif", raw, latitude, longitude, nodata=-32768)
    at = points(50_000)
    found = height_m(open_terrain(tmp_path), *at)
    # Voids are filled to whole metres in SRTM alone, and the raster's transform is rounded.
    assert found == pytest.approx(height_m(riviera, *at), abs=0.51)
    known = np.abs(found - height_m(riviera, *at)) < 1e-3
    assert known.mean() > 0.99


def test_geotiff_nodata_is_never_depth(tmp_path):
    latitude, longitude = 44 - (np.arange(300) + 0.5) / 300, 7 + (np.arange(300) + 0.5) / 300
    samples = plane_m(latitude[:, None], longitude[None], 43, 7).astype(np.float32)
    holed = samples.copy()
    holed[100:140, 50:90] = -9999
    write_geotiff(tmp_path / "a.tif", holed, latitude, longitude, nodata=-9999)
    height = height_m(open_terrain(tmp_path), *np.meshgrid(latitude, longitude, indexing="ij"))
    assert np.abs(height - samples).max() < 0.01


def test_geotiffs_of_pixels_meet_without_a_step(tmp_path):
    """Between the outermost pixel centres of two tiles heights are interpolated from both."""
    steps = (np.arange(300) + 0.5) / 300
    for south in (43, 44):
        for west in (7, 8):
            latitude, longitude = south + 1 - steps, west + steps
            samples = plane_m(latitude[:, None], longitude[None], 43, 7).astype(np.float32)
            write_geotiff(tmp_path / f"{south}_{west}.tif", samples, latitude, longitude)
    heights = open_terrain(tmp_path)
    latitude, longitude = points(20_000, south=43.002, west=7.002, span=1.996)
    assert height_m(heights, latitude, longitude) == pytest.approx(plane_m(latitude, longitude, 43, 7), abs=0.01)
    near = np.linspace(-0.003, 0.003, 61)
    for latitude, longitude in ((44 + near, 7.5 + near), (43.5 + near, 8 + near), (44 + near, 8 - near)):
        assert height_m(heights, latitude, longitude) == pytest.approx(plane_m(latitude, longitude, 43, 7), abs=0.01)
    # At the outer rim the nearest sample answers for half a pixel, and nothing beyond.
    assert height_m(heights, 43.5, 7.0) == pytest.approx(plane_m(43.5, 7 + 0.5 / 300, 43, 7), abs=0.01)
    with pytest.raises(MissingTilesError, match="N43E006"):
        height_m(heights, 43.5, 6.999)


def test_geotiffs_without_a_place_or_heights_are_refused(tmp_path):
    path, axis = tmp_path / "a.tif", np.arange(10.0)
    flat = np.zeros((10, 10), np.float32)
    write_geotiff(path, flat, 5e6 - axis, 3e5 + axis, crs=None)
    with pytest.raises(
        ValueError, match=r"a.tif: is no grid that has a place on Earth \(CRS None, 10 × 10 samples\); rep"
    ):
        open_terrain(tmp_path)
    write_geotiff(path, flat, 44 - axis / 10, 7 + axis / 10)
    with rasterio.open(path, "r+") as file:
        file.units = ["furlong"]
    with pytest.raises(ValueError, match=r"a.tif: has heights in 'furlong'; convert them to metres"):
        open_terrain(tmp_path)
    with rasterio.open(path, "w", driver="GTiff", width=9, height=9, count=2, dtype="int16", crs="EPSG:4326",
                       transform=rasterio.Affine.scale(0.1)):  # fmt: skip
        pass
    with pytest.raises(ValueError, match=r"a.tif: has several bands; keep the one of heights alone"):
        open_terrain(tmp_path)
    path.write_bytes(b"II*\0 nothing")
    with pytest.raises(ValueError, match=r"a.tif: cannot be read"):
        open_terrain(tmp_path)


def test_a_geotiff_that_is_cut_off_is_refused_and_read_again_when_it_is_replaced(tmp_path):
    path, steps = tmp_path / "a.tif", np.arange(300) / 300
    write_geotiff(path, np.random.default_rng(1).uniform(0, 9, (300, 300)), 44 - steps, 7 + steps)
    path.write_bytes(path.read_bytes()[:200_000])
    with pytest.raises(ValueError, match=r"a.tif: cannot be read .*; replace it by a whole one"):
        height_m(open_terrain(tmp_path), 43.5, 7.5)
    for replacement_m in (7.0, 8.0):
        write_geotiff(path, np.full((300, 300), replacement_m), 44 - steps, 7 + steps)
        assert height_m(open_terrain(tmp_path), 43.5, 7.5) == replacement_m


@pytest.fixture
def public(server, real):
    """A server laid out as the public one; yields its address, the folder, and the samples of its only tile."""
    url, folder = server
    samples = raw_riviera(real).astype(np.int16)
    samples[1150:, :] = -2000  # the public tiles carry the sea floor
    (folder / "N43").mkdir()
    (folder / "N43" / "N43E007.hgt.gz").write_bytes(gzip.compress(samples.astype(">i2").tobytes(), 1))
    return url, folder, samples


def test_fetched_tiles_are_read_with_the_sea_at_its_level(public, tmp_path):
    url, folder, samples = public
    cache = tmp_path / "new" / "tiles"
    paths = fetch_terrain(["N43E007"], cache, url)
    assert paths == [cache / "N43E007.hgt"]
    assert list(cache.iterdir()) == paths
    stored = np.frombuffer(paths[0].read_bytes(), ">i2").reshape(SIZE, SIZE)
    assert (stored == np.where((samples < 0) & (samples > -32768), 0, samples)).all()
    heights = open_terrain(cache)
    assert height_m(heights, 43.01, 7.5) == 0
    shutil.rmtree(folder)
    assert fetch_terrain(["N43E007"], cache, url.rstrip("/")) == paths  # what is there needs no network


@pytest.mark.parametrize(
    "content",
    [b"nothing of the kind", gzip.compress(b"\0" * 5000), gzip.compress(bytes(2 * SIZE**2))[:-100]],
    ids=["no gzip", "wrong size", "cut off"],
)
def test_a_broken_download_leaves_nothing(public, tmp_path, content):
    url, folder, _ = public
    (folder / "N43" / "N43E007.hgt.gz").write_bytes(content)
    with pytest.raises(ValueError, match="terrain tile N43E007: cannot be fetched from http://127") as caught:
        fetch_terrain(["N43E007"], tmp_path / "tiles", url)
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "tiles").iterdir()) == []


def test_tiles_that_cannot_be_reached_are_explained(public, tmp_path):
    url, _, _ = public
    for name, address in (("N43E007", "http://127.0.0.1:9/"), ("S33W071", url)):
        with pytest.raises(
            ValueError, match=rf"{name}: cannot be .*connect to the network, or put {name}.hgt"
        ) as caught:
            fetch_terrain([name], tmp_path / "tiles", address)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"'N43E7' is no name of a tile; give names such as N43E007"):
        fetch_terrain(["N43E007", "N43E7"], tmp_path / "tiles", url)
    assert not list((tmp_path / "tiles").iterdir())
