"""Tiles as people have them: with the sea floor, large voids, other units, projections, turns and names of archives."""

import io
import logging
import zipfile

import numpy as np
import pyproj
import pytest
import rasterio
from height_tiles import SIZE, grid, plane_m, points, write_geotiff, write_hgt

import heimdall_lab as hl
from heimdall_lab.datasets.terrain.heights import height_m, known_height_m, profiles
from heimdall_lab.datasets.terrain.tiles import open_terrain

pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")  # rioxarray, of affine 3

SOUTH, WEST = 43.0, 7.0


def geotiff_plane(path, shape=(200, 200), west=WEST, height_per_m=1.0, span=1.0, **options):
    """A plane on pixels of a square of degrees, in some unit of heights."""
    latitude = SOUTH + span - (np.arange(shape[0]) + 0.5) * span / shape[0]
    longitude = west + (np.arange(shape[1]) + 0.5) * span / shape[1]
    samples = plane_m(latitude[:, None], longitude[None], SOUTH, west) * height_per_m
    write_geotiff(path, samples.astype(np.float32), latitude, longitude, **options)


@pytest.mark.parametrize("floor_m", [-3, -60, -1800])
def test_the_sea_floor_of_a_tile_is_sea_whoever_put_it_there(tmp_path, floor_m):
    samples = np.full((SIZE, SIZE), 300)
    samples[400:, 300:] = floor_m
    samples[100:104, 100:110] = -20  # 0.3 km²: a quarry
    write_hgt(tmp_path, "N44E007", samples)
    heights = open_terrain(tmp_path)
    assert height_m(heights, 44.3, 7.6) == 0
    assert height_m(heights, 44.9, 7.6) == 300
    assert height_m(heights, 45 - 102 / 1200, 7 + 105 / 1200) == -20
    steps = np.arange(301) / 300
    write_geotiff(tmp_path / "a.tif", np.full((301, 301), floor_m, np.float32) * (steps > 0.5), 46 - steps, 7 + steps)
    assert height_m(open_terrain(tmp_path), 45.5, 7.9) == 0


def test_land_below_the_sea_stays_below_it(tmp_path):
    samples = np.where(np.arange(SIZE) > 600, -400, 200) * np.ones((SIZE, 1))
    for name in ("N31E035", "N31E033"):  # the Dead Sea, and the Mediterranean
        write_hgt(tmp_path, name, samples)
    heights = open_terrain(tmp_path)
    assert height_m(heights, 31.5, np.array([35.1, 35.6, 33.1, 33.6])).tolist() == [200, -400, 200, 0]


def test_marks_of_voids_that_nobody_said_to_be_some_are_no_sea(tmp_path):
    samples = np.full((50, 50), 100, np.float32)
    samples[10:20, 10:20] = -9999
    write_geotiff(tmp_path / "a.tif", samples, 44 - np.arange(50) / 50, 7 + np.arange(50) / 50)
    with pytest.raises(ValueError, match=r"a.tif: holds heights of -9999 … 100 m, which no ground has; mark its voids"):
        height_m(open_terrain(tmp_path), 43.5, 7.5)


@pytest.fixture
def holed(tmp_path):
    """A plane with a void of 150 samples, and one of 20."""
    samples = np.rint(plane_m(*grid("N43E007"), SOUTH, WEST))
    samples[900:1050, 200:350] = samples[300:320, 300:320] = -32768
    write_hgt(tmp_path, "N43E007", samples)
    return tmp_path, (44 - 975 / 1200, 7 + 275 / 1200), (44 - 310 / 1200, 7 + 310 / 1200)


def test_nothing_is_invented_in_large_voids_and_that_is_said(holed, caplog):
    folder, large, small = holed
    heights = open_terrain(folder)
    with caplog.at_level(logging.WARNING):
        assert np.isnan(height_m(heights, *large))
    assert len(caplog.messages) == 1
    assert "N43E007.hgt: has no heights in 2% of its area, where the ground is unknown unless another" in caplog.text
    assert height_m(heights, *small) == pytest.approx(plane_m(*small, SOUTH, WEST), abs=1e-6)
    # Half a sample from the last one that is known its height still counts, as at the rim of a tile.
    beside = 44 - 899 / 1200, large[1]
    assert height_m(heights, *beside) == pytest.approx(plane_m(*beside, SOUTH, WEST), abs=1e-6)
    assert height_m(heights, beside[0] - 0.4 / 1200, beside[1]) == pytest.approx(
        plane_m(*beside, SOUTH, WEST), abs=1e-6
    )
    assert np.isnan(height_m(heights, beside[0] - 0.6 / 1200, beside[1]))
    assert np.isnan(known_height_m(heights, *large))
    distance_km, height = profiles(heights, *(np.array([value]) for value in (large[0], 7.1, large[0], 7.9)))
    assert np.isfinite(distance_km).all()
    assert 0.15 < np.isnan(height).mean() < 0.16  # 0.125 of 0.8 degrees


def test_another_tile_fills_the_void(holed):
    folder, large, _ = holed
    geotiff_plane(folder / "a.tif")
    assert height_m(open_terrain(folder), *large) == pytest.approx(plane_m(*large, SOUTH, WEST), abs=0.01)


def test_scenes_over_a_void_are_refused_by_its_place(holed):
    folder, large, _ = holed
    spread = [(0.02, 0.0), (-0.02, 0.02), (-0.02, -0.02), (0.0, 0.03)]
    receivers = [
        {"name": f"R{n}", "latitude_deg": large[0] + north, "longitude_deg": large[1] + east}
        for n, (north, east) in enumerate(spread)
    ]
    config = hl.preset(
        "los_sync",
        num_samples=2,
        geometry={"receivers": receivers, "margin_deg": 0.0},
        channel={"diffraction": "terrain", "terrain_folder": str(folder)},
    )
    with pytest.raises(
        ValueError, match=r"terrain folder: .* has no height at 43\.\d+° N 7\.\d+° E, in a void of its tile"
    ):
        hl.generate(config, progress=False)


@pytest.mark.parametrize(("west", "shift"), [(190.0, 0.0), (179.5, 0.0), (-180.5, 0.0), (187.0, 360.0)])
def test_longitudes_may_count_on_beyond_180(tmp_path, west, shift):
    geotiff_plane(tmp_path / "a.tif", west=west)
    heights = open_terrain(tmp_path)
    latitude, longitude = points(2000, south=SOUTH + 0.01, west=west + 0.01, span=0.98)
    expected = plane_m(latitude, longitude, SOUTH, west)
    for turn in (shift, -360.0, 360.0):
        assert height_m(heights, latitude, longitude + turn) == pytest.approx(expected, abs=0.01)
    assert np.isnan(known_height_m(heights, SOUTH + 0.5, west - 0.1))
    assert np.isnan(known_height_m(heights, SOUTH + 0.5, west + 1.1))


def test_a_map_of_the_earth_has_no_seam(tmp_path):
    """Of 0 … 360 degrees, heights that repeat after a turn."""
    longitude, latitude = (np.arange(360) + 0.5), 80 - np.arange(160.0)

    def waves(north, east):
        return 1000 + 500 * np.cos(np.radians(east)) + 3 * north

    write_geotiff(tmp_path / "a.tif", waves(latitude[:, None], longitude[None]).astype(np.float32), latitude, longitude)
    heights = open_terrain(tmp_path)
    for middle in (0.0, 180.0, -180.0):
        at = middle + np.linspace(-2, 2, 81)
        # Chords of a degree stay within 500 m · (1°)² / 8 of a cosine.
        assert height_m(heights, 10.3, at) == pytest.approx(waves(10.3, at), abs=0.03)


@pytest.mark.parametrize("angle_deg", [10, 90, -135])
def test_rotated_grids_are_right(tmp_path, angle_deg):
    path, size, step = tmp_path / "a.tif", 600, 1 / 600
    turned = rasterio.Affine.translation(7.5, 44) * rasterio.Affine.rotation(angle_deg)
    transform = turned * rasterio.Affine(step, 0, -0.5, 0, -step, 0.5)
    column, row = np.meshgrid(np.arange(size) + 0.5, np.arange(size) + 0.5)
    longitude, latitude = transform * (column, row)
    with rasterio.open(
        path, "w", driver="GTiff", width=size, height=size, count=1, dtype="float32", crs="EPSG:4326",
        transform=transform,
    ) as file:  # fmt: skip
        file.write((5000 + 300 * (latitude - 44) + 200 * (longitude - 7.5)).astype(np.float32), 1)
    heights = open_terrain(tmp_path)
    radius, angle = 0.48, np.linspace(0, 2 * np.pi, 200)
    latitude, longitude = 44 + radius * np.sin(angle), 7.5 + radius * np.cos(angle)
    expected = 5000 + 300 * (latitude - 44) + 200 * (longitude - 7.5)
    assert height_m(heights, latitude, longitude) == pytest.approx(expected, abs=0.01)
    if angle_deg == 10:  # a corner of the box around it, which the grid does not reach
        assert np.isnan(height_m(heights, 44.57, 6.93))


@pytest.mark.parametrize("crs", ["EPSG:32632", "EPSG:32632+6360", "EPSG:3035"])
def test_projected_grids_are_right(tmp_path, crs):
    """UTM in metres and in feet, and Lambert's equal-area projection of Europe, by PROJ."""
    to_degrees = pyproj.Transformer.from_crs(crs.split("+")[0], "EPSG:4326", always_xy=True)
    middle = to_degrees.transform(8.0, 45.0, direction="INVERSE")
    x, y = middle[0] + 100 * (np.arange(400) - 200), middle[1] - 100 * (np.arange(300) - 150)
    longitude, latitude = to_degrees.transform(*np.meshgrid(x, y))

    def ground_m(north, east):
        return 500 + 400 * (north - 45) + 300 * (east - 8)

    unit_m = 1200 / 3937 if "6360" in crs else 1.0
    write_geotiff(tmp_path / "a.tif", (ground_m(latitude, longitude) / unit_m).astype(np.float32), y, x, crs=crs)
    heights = open_terrain(tmp_path)
    longitude, latitude = to_degrees.transform(*np.random.default_rng(1).uniform(-0.9, 0.9, (2, 500)) * [[2e4], [1.5e4]]
                                               + np.array(middle)[:, None])  # fmt: skip
    # Samples are placed to an eighth of one, 12.5 m, over which the plane rises by 400 m in 111 km and 300 m in 79 km.
    steepest = np.hypot(400 / 111e3, 300 / 79e3)
    assert height_m(heights, latitude, longitude) == pytest.approx(ground_m(latitude, longitude), abs=12.5 * steepest)


@pytest.mark.parametrize(
    ("unit", "height_per_m"), [("ft", 1 / 0.3048), ("US survey foot", 3937 / 1200), ("Feet", 1 / 0.3048), ("metre", 1)]
)
def test_heights_in_feet_are_metres(tmp_path, unit, height_per_m):
    geotiff_plane(tmp_path / "a.tif", height_per_m=height_per_m)
    with rasterio.open(tmp_path / "a.tif", "r+") as file:
        file.units = [unit]
    latitude, longitude = points(500, south=SOUTH + 0.01, west=WEST + 0.01, span=0.98)
    assert height_m(open_terrain(tmp_path), latitude, longitude) == pytest.approx(
        plane_m(latitude, longitude, SOUTH, WEST), abs=0.01
    )


def test_a_vertical_system_in_feet_says_so(tmp_path):
    geotiff_plane(tmp_path / "a.tif", height_per_m=3937 / 1200, crs="EPSG:4326+6360")
    assert height_m(open_terrain(tmp_path), 43.5, 7.5) == pytest.approx(plane_m(43.5, 7.5, SOUTH, WEST), abs=0.01)


@pytest.mark.parametrize(("crs", "west_m", "north_m"), [("EPSG:32760", 800e3, 8.1e6), ("EPSG:3031", -50e3, 50e3)])
def test_projections_across_180_degrees_or_around_a_pole_are_refused_by_name(tmp_path, crs, west_m, north_m):
    steps_m = 1e3 * np.arange(100)
    write_geotiff(tmp_path / "a.tif", np.full((100, 100), 7, np.float32), north_m - steps_m, west_m + steps_m, crs=crs)
    with pytest.raises(
        ValueError, match=rf"a.tif: is no grid .* \(CRS {crs}, across the meridian of 180 degrees or aro"
    ):
        open_terrain(tmp_path)


def test_archives_of_nasadem_are_read(tmp_path):
    samples = np.rint(plane_m(*grid("N43E007"), SOUTH, WEST))
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as members:
        members.writestr("n43e007.num", bytes(SIZE**2))
        members.writestr("n43e007.hgt", samples.astype(">i2").tobytes())
        members.writestr("n43e007.swb", bytes(SIZE**2))
    for name in ("NASADEM_HGT_n43e007.zip", "N43E007.zip"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_bytes(archive.getvalue())
        assert height_m(open_terrain(folder), 43.25, 7.5) == pytest.approx(plane_m(43.25, 7.5, SOUTH, WEST))
