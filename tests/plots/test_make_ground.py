"""The file of coasts and borders is made of arcs as TopoJSON has them."""

import numpy as np
import pytest
from make_ground import city_columns, line_columns, significance

from heimdall_lab.plots.ground_data import LEVEL_M, STEPS_PER_DEGREE


def topology(*arcs: list[list[int]], countries: list[list[list[int]]]) -> dict:
    """Arcs in tenths of a degree, as steps; countries of rings of arcs."""
    shapes = [{"type": "Polygon", "arcs": rings} for rings in countries]
    return {
        "transform": {"scale": [0.1, 0.1], "translate": [0.0, 0.0]},
        "arcs": list(arcs),
        "objects": {"countries": {"type": "GeometryCollection", "geometries": shapes}},
    }


def points(columns: dict[str, np.ndarray], line: int) -> np.ndarray:
    """Longitudes and latitudes (P, 2) of a line."""
    steps = np.split(columns["step"], columns["start"][1:])[line]
    return (columns["origin"][line] + np.cumsum(steps, axis=0)) / STEPS_PER_DEGREE


def test_arcs_of_two_countries_are_borders() -> None:
    shared, west, east = [[100, 0], [0, 5]], [[100, 5], [-5, 0], [5, -5]], [[100, 5], [5, 0], [-5, -5]]
    columns = line_columns(topology(shared, west, east, countries=[[[0, 1]], [[~0, 2]]]))
    assert columns["border"].tolist() == [True, False, False]
    np.testing.assert_allclose(points(columns, 1), [[10, 0.5], [9.5, 0.5], [10, 0]], atol=1e-9)


def test_lines_end_at_the_180_degrees_meridian_and_long_segments_have_further_points() -> None:
    columns = line_columns(topology([[1790, 0], [5, 0], [-3590, 0], [60, 0]], countries=[[[0]]]))
    west, east = points(columns, 0), points(columns, 1)
    np.testing.assert_allclose(west, [[179, 0], [179.5, 0]], atol=1e-9)
    np.testing.assert_allclose(east, [[-179.5 + step, 0] for step in range(7)], atol=1e-9)


def test_cuts_of_countries_along_the_180_degrees_meridian_are_no_coasts() -> None:
    columns = line_columns(topology([[1790, 0], [10, 5], [0, 5], [0, 5], [-10, 5]], countries=[[[0]]]))
    assert [points(columns, line)[:, 1].tolist() for line in range(2)] == [[0, 0.5], [1.5, 2]]


def test_a_point_counts_as_much_as_the_line_would_be_off_without_it() -> None:
    line = np.array([[0.0, 0, 0], [1000, 10, 0], [2000, 700, 0], [3000, -5, 0], [4000, 0, 0]])
    found = significance(line)
    assert np.isinf(found[[0, 4]]).all()
    assert found[2] == 700
    assert found[1] == pytest.approx((1000 * 700 - 10 * 2000) / np.hypot(2000, 700))
    columns = line_columns(topology([[0, 0], [1, 1], [1, -1]], countries=[[[0]]]))
    assert columns["level"].tolist() == [len(LEVEL_M), 6, len(LEVEL_M)]  # 8 km < 11 km < 16 km


def test_the_largest_cities_come_first_and_their_quarters_are_left_out() -> None:
    places = {"Nowhere": (10.0, 50.0, 20_000), "Quarter": (8.05, 44.0, 90_000), "City": (8.0, 44.0, 500_000)}
    cities = [
        {"name": name, "longitude": east, "latitude": north, "population": population, "geonameid": number}
        for number, (name, (east, north, population)) in enumerate(places.items())
    ]
    columns = city_columns(cities)
    assert columns["city_name"].tobytes().decode().split("\n") == ["City", "Nowhere"]
    np.testing.assert_array_equal(columns["city_place"] / STEPS_PER_DEGREE, [[8, 44], [10, 50]])
