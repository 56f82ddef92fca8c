"""Heights, profiles and losses, against planes that bilinear interpolation reproduces and the real Riviera."""

import gzip
import shutil
import zipfile

import numpy as np
import pyproj
import pytest
import rioxarray  # noqa: F401  (adds the .rio accessor)
import xarray as xr
from scipy.interpolate import RegularGridInterpolator

from heimdall_lab.datasets.terrain.heights import _great_circle, height_m, profiles
from heimdall_lab.datasets.terrain.tiles import MissingTilesError, fetch_terrain, open_folder, tile_name
from heimdall_lab.simulation.propagation import losses, terrain

pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")  # rioxarray, of affine 3

SIZE = 1201


def corner(name):
    south, west = int(name[1:3]), int(name[4:7])
    return (-south if name[0] == "S" else south), (-west if name[3] == "W" else west)


def plane_m(latitude_deg, longitude_deg, south, west):
    """A plane of whole metres at SRTM3 samples that is 0 at one corner."""
    return 2 * 1200 * (latitude_deg - south) + 1200 * (longitude_deg - west)


def write_hgt(folder, name, samples):
    (folder / f"{name}.hgt").write_bytes(np.asarray(samples).astype(">i2").tobytes())


def grid(name):
    south, west = corner(name)
    steps = np.arange(SIZE) / 1200
    return south + 1 - steps[:, None], west + steps[None, :]


@pytest.fixture
def plane_folder(tmp_path):
    """Write tiles of one plane, 0 at the south-west corner of the first; return the plane."""

    def write(*names):
        south, west = corner(names[0])
        for name in names:
            write_hgt(tmp_path, name, np.rint(plane_m(*grid(name), south, west)))
        return open_folder(tmp_path), lambda latitude, longitude: plane_m(latitude, longitude, south, west)

    return write


@pytest.fixture(scope="module")
def riviera(real):
    return open_folder(real / "srtm")


def raw_riviera(real):
    with zipfile.ZipFile(real / "srtm" / "N43E007.hgt.zip") as archive:
        return np.frombuffer(archive.read("N43E007.hgt"), ">i2").reshape(SIZE, SIZE)


def points(count, seed=0, south=43.0, west=7.0, span=1.0):
    generator = np.random.default_rng(seed)
    return south + generator.uniform(0, span, count), west + generator.uniform(0, span, count)


def test_the_riviera_has_its_mountain_its_sea_and_no_voids(real, riviera):
    latitude, longitude = np.meshgrid(np.linspace(43.76, 43.79, 361), np.linspace(7.41, 7.44, 361))
    assert height_m(riviera, latitude, longitude).max() == pytest.approx(1138)  # Mont Agel, published as 1148
    open_sea = height_m(riviera, np.linspace(43.05, 43.3, 50)[:, None], np.linspace(7.3, 7.9, 50))
    assert (open_sea == 0).all()
    raw = raw_riviera(real)
    assert (raw == -32768).sum() == 1595
    everywhere = height_m(riviera, *np.broadcast_arrays(*grid("N43E007")))
    assert everywhere.min() > -50
    assert everywhere.max() < 3000
    assert np.abs(everywhere - raw)[raw != -32768].max() < 1e-6


def test_interpolation_is_that_of_scipy(real, riviera):
    raw = raw_riviera(real)
    ascending = np.arange(SIZE) / 1200
    samples = np.where(raw == -32768, np.nan, raw.astype(float))
    reference = RegularGridInterpolator((43 + ascending, 7 + ascending), samples[::-1])
    latitude, longitude = points(200_000)
    expected = reference((latitude, longitude))
    known = np.isfinite(expected)
    assert known.mean() > 0.99
    assert height_m(riviera, latitude, longitude)[known] == pytest.approx(expected[known], abs=1e-6)


def test_heights_continue_over_borders_and_at_whole_degrees(plane_folder):
    heights, plane = plane_folder("N43E007", "N43E008", "N44E007", "N44E008")
    latitude, longitude = points(10_000, span=2.0)
    assert height_m(heights, latitude, longitude) == pytest.approx(plane(latitude, longitude), abs=1e-6)
    whole_latitude, whole_longitude = (a.ravel() for a in np.meshgrid([43.0, 44.0, 45.0], [7.0, 8.0, 9.0]))
    assert height_m(heights, whole_latitude, whole_longitude) == pytest.approx(
        plane(whole_latitude, whole_longitude), abs=1e-9
    )
    across = 8 + np.linspace(-1e-3, 1e-3, 41)
    assert height_m(heights, 43.5, across) == pytest.approx(plane(43.5, across), abs=1e-6)


def test_names_south_and_west_of_the_origin(plane_folder):
    heights, plane = plane_folder("S01W001", "S01E000", "N00W001", "N00E000")
    latitude, longitude = points(5000, south=-1, west=-1, span=2.0)
    assert height_m(heights, latitude, longitude) == pytest.approx(plane(latitude, longitude), abs=1e-6)
    assert height_m(heights, np.array([-1.0, 0.0, 1.0]), np.array([-1.0, 0.0, 1.0])) == pytest.approx([0, 3600, 7200])
    assert tile_name(-0.0001, -0.0001) == "S01W001"
    assert tile_name(-33.0, -71.0) == "S33W071"
    assert tile_name(90.0, -180.0) == "N89W180"


@pytest.mark.parametrize("name", ["N10E179", "N10W180"])
def test_the_meridian_of_180_degrees_is_on_both_sides(plane_folder, name):
    heights, plane = plane_folder(name)
    edge = 180.0 if name[3] == "E" else -180.0
    expected = plane(10.25, edge)
    assert height_m(heights, 10.25, np.array([180.0, -180.0, 540.0])) == pytest.approx([expected] * 3)


def test_a_border_needs_one_of_its_tiles_only(plane_folder):
    heights, plane = plane_folder("N43E007")
    latitude, longitude = np.array([44.0, 43.5, 44.0, 43.0]), np.array([7.5, 8.0, 8.0, 7.0])
    assert height_m(heights, latitude, longitude) == pytest.approx(plane(latitude, longitude))


def test_missing_tiles_are_all_named_with_the_remedy(plane_folder, tmp_path):
    heights, _ = plane_folder("N43E007")
    with pytest.raises(MissingTilesError) as caught:
        height_m(heights, np.array([43.5, 44.5, -0.5, 44.5]), np.array([7.5, 8.5, -0.5, 7.5]))
    message = str(caught.value)
    assert "N44E007, N44E008, S01W001 missing from" in message
    assert "N43E007" not in message
    assert str(tmp_path) in message
    assert "heimdall_lab.fetch_terrain(['N44E007', 'N44E008', 'S01W001']" in message
    assert "\n" not in message
    with pytest.raises(MissingTilesError, match="N43E008, N43E009, N43E010 missing"):
        profiles(heights, np.array([43.5]), np.array([7.5]), np.array([43.5]), np.array([10.5]))


def test_missing_tiles_of_all_links_are_named_at_once(plane_folder):
    heights, _ = plane_folder("N43E007")
    rx_longitude = np.full(terrain._CHUNK_LINKS + 2, 7.6)
    rx_longitude[0], rx_longitude[-1] = 8.5, 6.5
    with pytest.raises(MissingTilesError, match="N43E006, N43E008 missing"):
        terrain.diffraction_loss_db(heights, 43.5, 7.5, 10.0, 43.5, rx_longitude, 10.0, 145e6)


def test_unknown_positions_have_no_height(plane_folder):
    heights, _ = plane_folder("N43E007")
    height = height_m(heights, np.array([np.nan, 43.5, 43.5]), np.array([7.5, np.nan, 7.5]))
    assert np.isnan(height).tolist() == [True, True, False]
    assert np.isnan(height_m(heights, np.nan, np.nan))


def test_tiles_may_be_plain_zipped_or_gzipped(real, riviera, tmp_path):
    content = raw_riviera(real).tobytes()
    latitude, longitude = points(1000)
    expected = height_m(riviera, latitude, longitude)
    for name in ("N43E007.hgt", "n43e007.HGT", "N43E007.SRTMGL3.hgt.gz"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
        assert (height_m(open_folder(folder), latitude, longitude) == expected).all()


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
        height_m(open_folder(tmp_path), 43.5, 7.5)


def test_folders_without_tiles_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds no tile; put SRTM .hgt or GeoTIFF files there"):
        open_folder(tmp_path)
    with pytest.raises(ValueError, match=r"cannot read .*nowhere.*No such file"):
        open_folder(tmp_path / "nowhere")


def test_a_tile_that_was_replaced_is_read_again(plane_folder, tmp_path):
    heights, _ = plane_folder("N43E007")
    before = height_m(heights, 43.5, 7.5)
    write_hgt(tmp_path, "N43E007", np.full((SIZE, SIZE), 7))
    assert height_m(open_folder(tmp_path), 43.5, 7.5) == 7 != before


def test_voids_in_a_plane_are_filled_to_the_plane(tmp_path):
    samples = np.rint(plane_m(*grid("N43E007"), 43, 7))
    row, column = np.indices(samples.shape)
    void = np.hypot(row - 600, column - 500) < 40
    void |= np.hypot(row - 300, column - 900) < 1.5
    write_hgt(tmp_path, "N43E007", np.where(void, -32768, samples))
    height = height_m(open_folder(tmp_path), *np.broadcast_arrays(*grid("N43E007")))
    assert np.abs(height - samples).max() < 1e-6


def test_voids_at_an_edge_stay_between_their_neighbours(tmp_path):
    samples = np.rint(plane_m(*grid("N43E007"), 43, 7))
    holed = samples.copy()
    holed[:, :3] = holed[0, :] = holed[-30:, -30:] = -32768
    write_hgt(tmp_path, "N43E007", holed)
    height = height_m(open_folder(tmp_path), *np.broadcast_arrays(*grid("N43E007")))
    known = holed != -32768
    assert height.min() >= holed[known].min() - 1e-6
    assert height.max() <= holed[known].max() + 1e-6
    assert np.abs(height - samples).max() <= 3 * 31  # metres by which the plane rises over the 30 samples


def write_geotiff(path, samples, latitude, longitude, nodata=None, crs="EPSG:4326"):
    raster = xr.DataArray(samples[None], dims=("band", "y", "x"), coords={"band": [1], "y": latitude, "x": longitude})
    raster = raster.rio.write_crs(crs) if crs else raster
    (raster if nodata is None else raster.rio.write_nodata(nodata)).rio.to_raster(path)


def test_geotiff_agrees_with_srtm(real, riviera, tmp_path):
    raw = raw_riviera(real).astype(np.int16)
    latitude, longitude = (axis.ravel() for axis in grid("N43E007"))
    write_geotiff(tmp_path / "riviera.tif", raw, latitude, longitude, nodata=-32768)
    at = points(50_000)
    found = height_m(open_folder(tmp_path), *at)
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
    height = height_m(open_folder(tmp_path), *np.meshgrid(latitude, longitude, indexing="ij"))
    assert np.abs(height - samples).max() < 0.01


def test_geotiffs_of_pixels_meet_without_a_step(tmp_path):
    """Between the outermost pixel centres of two tiles heights are interpolated from both."""
    steps = (np.arange(300) + 0.5) / 300
    for south in (43, 44):
        for west in (7, 8):
            latitude, longitude = south + 1 - steps, west + steps
            samples = plane_m(latitude[:, None], longitude[None], 43, 7).astype(np.float32)
            write_geotiff(tmp_path / f"{south}_{west}.tif", samples, latitude, longitude)
    heights = open_folder(tmp_path)
    latitude, longitude = points(20_000, south=43.002, west=7.002, span=1.996)
    assert height_m(heights, latitude, longitude) == pytest.approx(plane_m(latitude, longitude, 43, 7), abs=0.01)
    near = np.linspace(-0.003, 0.003, 61)
    for latitude, longitude in ((44 + near, 7.5 + near), (43.5 + near, 8 + near), (44 + near, 8 - near)):
        assert height_m(heights, latitude, longitude) == pytest.approx(plane_m(latitude, longitude, 43, 7), abs=0.01)
    # At the outer rim the nearest sample answers for half a pixel, and nothing beyond.
    assert height_m(heights, 43.5, 7.0) == pytest.approx(plane_m(43.5, 7 + 0.5 / 300, 43, 7), abs=0.01)
    with pytest.raises(MissingTilesError, match="N43E006"):
        height_m(heights, 43.5, 6.999)


def test_geotiffs_that_are_no_heights_in_latitude_and_longitude_are_refused(tmp_path):
    axis = np.arange(10.0)
    write_geotiff(tmp_path / "a.tif", np.zeros((10, 10), np.float32), 5e6 - axis, 3e5 + axis, crs="EPSG:32632")
    with pytest.raises(ValueError, match=r"a.tif: is no grid in latitude and longitude \(CRS EPSG:32632\)"):
        open_folder(tmp_path)
    (tmp_path / "a.tif").write_bytes(b"II*\0 nothing")
    with pytest.raises(ValueError, match=r"a.tif: cannot be read"):
        open_folder(tmp_path)


def test_profiles_follow_the_geodesic():
    """Between stations as far apart as here, the great circle stays within metres of the ellipsoid's geodesic."""
    geod = pyproj.Geod(ellps="WGS84")
    ends = np.array([[43.1, 7.1, 45.9, 9.9], [46.0, 7.0, 46.0, 10.0], [45.0, 9.0, 45.001, 9.001], [-0.5, -0.5, 1, 1]])
    counts = np.array([1000, 500, 3, 100])
    length_m = geod.inv(ends[:, 1], ends[:, 0], ends[:, 3], ends[:, 2])[2]
    distance_km, latitude, longitude = (np.full((4, 1000), np.nan) for _ in range(3))
    _great_circle(*ends.T.copy(), length_m / 1e3, counts, distance_km, latitude, longitude)
    for link, count in enumerate(counts):
        lon_a, lat_a = np.array(geod.npts(*ends[link, [1, 0, 3, 2]], count, initial_idx=0, terminus_idx=0)).T
        offset_m = geod.inv(lon_a, lat_a, longitude[link, :count].copy(), latitude[link, :count].copy())[2]
        assert offset_m.max() < 2e-4 * length_m[link] + 1e-3
        assert distance_km[link, :count] == pytest.approx(np.linspace(0, length_m[link] / 1e3, count))
        assert np.isnan(distance_km[link, count:]).all()
        assert (latitude[link, 0], longitude[link, count - 1]) == (ends[link, 0], ends[link, 3])


def test_profiles_across_two_tiles_are_continuous(plane_folder):
    heights, plane = plane_folder("N43E007", "N43E008")
    tx, rx = (np.array([43.3, 43.9]), np.array([7.6, 7.999])), (np.array([43.7, 43.1]), np.array([8.5, 8.0]))
    distance_km, height = profiles(heights, *tx, *rx)
    count = np.isfinite(distance_km).sum(axis=1)
    assert (np.isfinite(height) == np.isfinite(distance_km)).all()
    for link in range(2):
        profile_km, profile_m = distance_km[link, : count[link]], height[link, : count[link]]
        assert profile_m[[0, -1]] == pytest.approx(
            [plane(tx[0][link], tx[1][link]), plane(rx[0][link], rx[1][link])], abs=1e-6
        )
        assert 80 < np.diff(profile_km).max() * 1e3 <= 90
        assert np.abs(np.diff(profile_m)).max() < 5  # the plane rises by 3 m a sample at most
        assert np.abs(np.diff(profile_m, 2)).max() < 0.01  # and has no step


def test_profiles_have_three_points_to_the_most_allowed(plane_folder):
    heights, _ = plane_folder("N43E007")
    tx, rx_longitude = np.array([43.5] * 4), np.array([7.1, 7.1001, np.nan, 7.9])
    distance_km, height = profiles(heights, tx, np.full(4, 7.1), tx, rx_longitude, max_points=50)
    assert np.isfinite(distance_km).sum(axis=1).tolist() == [3, 3, 0, 50]
    assert distance_km.shape == height.shape == (4, 50)
    assert (distance_km[0, :3] == 0).all()
    absent_km, absent_m = profiles(heights, *(np.full(2, np.nan) for _ in range(4)))
    assert absent_km.shape == absent_m.shape == (2, 0)


def test_loss_over_the_riviera_is_delta_bullington_over_independent_profiles(riviera):
    samples = height_m(riviera, *np.broadcast_arrays(*grid("N43E007")))
    ascending = np.arange(SIZE) / 1200
    reference = RegularGridInterpolator((43 + ascending, 7 + ascending), samples[::-1])
    geod = pyproj.Geod(ellps="WGS84")
    tx_latitude, tx_longitude = points(30, seed=1)
    rx_latitude, rx_longitude = points(30, seed=2)
    tx_altitude, rx_altitude = 300.0, np.linspace(0, 2500, 30)
    found_db = terrain.diffraction_loss_db(
        riviera, tx_latitude, tx_longitude, tx_altitude, rx_latitude, rx_longitude, rx_altitude, 145e6
    )
    for link in range(30):
        ends = (tx_longitude[link], tx_latitude[link], rx_longitude[link], rx_latitude[link])
        length_m = geod.inv(*ends)[2]
        count = int(np.ceil(length_m / 90)) + 1
        along = np.array(geod.npts(*ends, count - 2))
        along = np.concatenate([[ends[:2]], along, [ends[2:]]])
        ground = reference(along[:, ::-1])
        expected_db = losses.delta_bullington(
            np.linspace(0, length_m / 1e3, count),
            ground,
            max(tx_altitude - ground[0], 1.0),
            max(rx_altitude[link] - ground[-1], 1.0),
            145.0,
            effective_earth_radius_km=4 / 3 * 6371,
        )
        assert found_db[link] == pytest.approx(expected_db, abs=0.3)  # ridges a few metres beside each other
    assert found_db.max() > 30


def test_loss_does_not_depend_on_the_batch(riviera):
    size = (60, 7)
    rx = [angle.reshape(size) for angle in points(420, seed=3)]
    tx = [angle[:, None] for angle in points(60, seed=4)]
    rx[0][5, 2] = np.nan
    rx_altitude = np.random.default_rng(5).uniform(0, 2000, size)
    loss_db = terrain.diffraction_loss_db(riviera, *tx, 200.0, *rx, rx_altitude, 145e6)
    assert loss_db.shape == size
    assert np.argwhere(np.isnan(loss_db)).tolist() == [[5, 2]]
    assert loss_db.size > terrain._CHUNK_LINKS
    for scenes in (slice(3, 4), slice(5, 20), slice(10, 60)):
        part_db = terrain.diffraction_loss_db(
            riviera,
            tx[0][scenes],
            tx[1][scenes],
            200.0,
            rx[0][scenes],
            rx[1][scenes],
            rx_altitude[scenes],
            145e6,
        )
        assert part_db.tobytes() == loss_db[scenes].tobytes()


def test_loss_over_the_open_sea_is_that_of_a_smooth_earth(tmp_path):
    write_hgt(tmp_path, "N43E007", np.zeros((SIZE, SIZE)))
    heights = open_folder(tmp_path)
    loss_db = terrain.diffraction_loss_db(heights, 43.05, 7.1, 30.0, 43.95, 7.5, np.array([5.0, 20.0, -3.0]), 145e6)
    distance_m = pyproj.Geod(ellps="WGS84").inv(7.1, 43.05, 7.5, 43.95)[2]
    smooth_db = losses.smooth_earth_loss_db(distance_m, 30.0, np.array([5.0, 20.0, 1.0]), 145e6)
    assert loss_db == pytest.approx(smooth_db, abs=1e-6)
    assert (smooth_db > 20).all()


def test_a_ridge_between_stations_costs_what_it_hides(tmp_path):
    samples = np.zeros((SIZE, SIZE))
    samples[:, 600:603] = 800
    write_hgt(tmp_path, "N43E007", samples)
    heights = open_folder(tmp_path)
    rx_altitude = np.array([10.0, 300.0, 800.0, 3000.0])
    loss_db = terrain.diffraction_loss_db(heights, 43.5, 7.3, 10.0, 43.5, 7.7, rx_altitude, 145e6)
    assert (np.diff(loss_db) < 0).all()
    # A knife edge 800 m high half way on 32 km, J(ν) with ν = h √(2/λ (1/d1 + 1/d2)): ITU-R P.526-15 eqs. (26), (31).
    half_m = pyproj.Geod(ellps="WGS84").inv(7.3, 43.5, 7.7, 43.5)[2] / 2
    nu = (790 + half_m**2 / (2 * 4 / 3 * 6371e3)) * (2 / (299_792_458 / 145e6) * 2 / half_m) ** 0.5
    knife_db = 6.9 + 20 * np.log10(np.hypot(nu - 0.1, 1) + nu - 0.1)
    assert 0 < loss_db[0] - knife_db < 13  # Bullington adds up to 10 + 0.02 d, the spherical Earth some more


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
    heights = open_folder(cache)
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
