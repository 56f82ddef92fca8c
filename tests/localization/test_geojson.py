"""GeoJSON of fixes, against the rules of RFC 7946."""

import json

import numpy as np
import pytest
from stated_fixes import stated, valley

import heimdall_lab as hl
from heimdall_lab.core import geodesy
from heimdall_lab.localization.geojson import geojson


@pytest.fixture(scope="module")
def fixes(small_dataset):
    return hl.locate(small_dataset, "tdoa_ls")


def of_kind(collection, kind):
    return [feature for feature in collection["features"] if feature["properties"]["kind"] == kind]


def area_deg2(ring):
    """Signed area by the shoelace formula: positive counterclockwise."""
    x, y = np.array(ring).T
    return float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2)


def test_points_are_longitude_before_latitude(small_dataset, fixes):
    points = of_kind(geojson(small_dataset, fixes), "fix")
    for point, longitude, latitude in zip(points, fixes.longitude.values, fixes.latitude.values, strict=True):
        np.testing.assert_allclose(point["geometry"]["coordinates"], [longitude, latitude], atol=1e-7)


def test_members_are_those_of_the_standard_and_of_json(small_dataset, fixes):
    collection = geojson(small_dataset, fixes)
    assert json.loads(json.dumps(collection, allow_nan=False)) == collection
    assert collection["type"] == "FeatureCollection"
    for feature in collection["features"]:
        assert set(feature) == {"type", "geometry", "properties"}
        assert feature["type"] == "Feature"
        assert "crs" not in feature


def test_what_is_no_fix_says_why_and_where_else_it_fits():
    fixes = stated("ambiguous", "no", suspect=2, rivals=((45.05, 8.25), (44.0, 8.0)), undetected_m=np.inf)
    collection = geojson(valley(), fixes)
    assert json.loads(json.dumps(collection, allow_nan=False)) == collection
    for kind in ("fix", "ellipse"):
        (feature,) = of_kind(collection, kind)
        said = feature["properties"]
        assert (said["converged"], said["status"], said["checked"]) == (False, "ambiguous", "no")
        assert (said["suspect"], said["undetected_m"], said["misfit"]) == ("Rocciamelone", None, 0.875)
        assert (said["altitude_m"], said["altitude_sigma_m"]) == (1100.0, 1234.0)
        assert said["budget_m"]["receiver_positions"] == 10.0
    rivals = of_kind(collection, "rival")
    assert [rival["geometry"]["coordinates"] for rival in rivals] == [[8.25, 45.05], [8.0, 44.0]]
    assert rivals[0]["properties"] == {"kind": "rival", "sample": 0, "method": "tdoa_ls"}
    assert not of_kind(geojson(valley(), stated()), "rival")


def test_rings_close_and_run_counterclockwise(small_dataset, fixes):
    polygons = of_kind(geojson(small_dataset, fixes), "ellipse")
    assert len(polygons) == fixes.sizes["sample"]
    for polygon in polygons:
        (ring,) = polygon["geometry"]["coordinates"]
        assert polygon["geometry"]["type"] == "Polygon"
        assert ring[0] == ring[-1]
        assert len(ring) >= 4
        assert area_deg2(ring) > 0


def test_ellipses_hold_the_area_of_95_percent(small_dataset, fixes):
    collection = geojson(small_dataset, fixes)
    for index, polygon in enumerate(of_kind(collection, "ellipse")):
        longitude, latitude = np.array(polygon["geometry"]["coordinates"][0]).T
        fix = fixes.isel(sample=index)
        distance_m, azimuth = geodesy.geodesic(fix.latitude.values, fix.longitude.values, latitude, longitude)
        north, east = distance_m * np.cos(np.radians(azimuth)), distance_m * np.sin(np.radians(azimuth))
        corners = len(longitude) - 1
        share = corners / (2 * np.pi) * np.sin(2 * np.pi / corners)  # of the circle that a polygon in it fills
        expected = np.pi * -2 * np.log(0.05) * np.sqrt(np.linalg.det(fix.covariance.values)) * share
        assert area_deg2(np.stack([east, north], axis=-1)) == pytest.approx(expected, rel=1e-3)


def test_receivers_that_stand_still_are_listed_once_with_their_altitude(small_dataset, fixes):
    receivers = of_kind(geojson(small_dataset, fixes), "receiver")
    assert [each["properties"]["name"] for each in receivers] == list(small_dataset.receiver_name.values)
    assert receivers[0]["geometry"]["coordinates"] == [7.27, 45.03, 600.0]


def test_the_truth_is_there_where_it_is_known(small_dataset, fixes):
    unknown = small_dataset.assign(transmitter_latitude=small_dataset.transmitter_latitude * np.nan)
    assert len(of_kind(geojson(small_dataset, fixes), "transmitter")) == small_dataset.sizes["sample"]
    assert of_kind(geojson(unknown, fixes), "transmitter") == []


def test_an_unknown_covariance_is_null_and_has_no_ellipse(small_dataset, fixes):
    collection = geojson(small_dataset, fixes.assign(covariance=fixes.covariance * np.nan))
    assert of_kind(collection, "ellipse") == []
    assert of_kind(collection, "fix")[0]["properties"]["covariance_m2"] == [[None, None], [None, None]]


@pytest.mark.parametrize("longitude_deg", [179.999, -179.999])
def test_an_ellipse_across_the_antimeridian_is_cut(small_dataset, fixes, longitude_deg):
    covariance = fixes.covariance.isel(sample=[0]) * 0 + np.diag([1e6, 1e6])
    moved = fixes.isel(sample=[0]).assign(longitude=("sample", [longitude_deg]), covariance=covariance)
    (polygon,) = of_kind(geojson(small_dataset, moved), "ellipse")
    assert polygon["geometry"]["type"] == "MultiPolygon"
    rings = [ring for (ring,) in polygon["geometry"]["coordinates"]]
    assert len(rings) == 2
    whole = of_kind(geojson(small_dataset, moved.assign(longitude=("sample", [8.0]))), "ellipse")[0]
    for ring in rings:
        assert ring[0] == ring[-1]
        assert area_deg2(ring) > 0
        assert np.abs(np.array(ring)[:, 0]).max() == 180
        assert np.ptp(np.array(ring)[:, 0]) < 1
    total = sum(map(area_deg2, rings))
    assert total == pytest.approx(area_deg2(whole["geometry"]["coordinates"][0]), rel=1e-4)
