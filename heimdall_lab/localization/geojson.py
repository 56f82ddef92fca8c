"""Fixes as GeoJSON (RFC 7946), which map programs open."""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import xarray as xr

from heimdall_lab.core import geodesy
from heimdall_lab.core.text import json_number
from heimdall_lab.localization import ellipses
from heimdall_lab.localization.sentences import rivals
from heimdall_lab.localization.tables import fix_record

LEVEL = 0.95  # of the ellipses
_DECIMALS = 7  # of degrees: a centimetre


def geojson(dataset: xr.Dataset, fixes: xr.Dataset) -> dict[str, Any]:
    """Describe fixes, their ellipses and the receivers as a GeoJSON FeatureCollection, for ``json.dumps``.

    Of the dataset, receivers and known transmitters are taken; the fixes are as `estimators.locate` returns them for
    it. The property ``kind`` of a feature is one of

    - ``fix``, a Point with ``sample``, ``method``; ``converged``, false where it is no fix but the best candidate, and
      ``status``, "ok" or why that is so (`observations.STATUS`); ``sigma_east_m``, ``sigma_north_m``,
      ``covariance_m2`` (along east and north) and ``freedom`` of its law of errors, null for a normal one;
      ``budget_m``, rms error by each cause, and ``receiver_budget_m``, what of that is each receiver's; ``altitude_m``
      and ``altitude_sigma_m``; ``checked``, ``misfit``, ``suspect``, the name of the receiver that agrees least, and
      ``undetected_m``, null where it has no limit;
    - ``ellipse``, a Polygon with the same properties that holds the share ``level`` of the errors, left out where the
      covariance is unknown, in two parts where it crosses the 180° meridian;
    - ``rival``, a Point with ``sample`` and ``method``: another place that fits as well;
    - ``receiver``, a Point with its ``name`` and altitude, once where it stands still;
    - ``transmitter``, a Point, where the truth is known.

    Source: RFC 7946: longitude before latitude in degrees of WGS84 (section 4), rings that close and run
    counterclockwise (3.1.6), and geometries cut at the antimeridian (3.1.9).
    """
    features = []
    for fix in (fixes.isel(sample=index) for index in range(fixes.sizes["sample"])):
        features += _fix(dataset, fix, str(fixes.attrs.get("method", "fix")))
    return {"type": "FeatureCollection", "features": [*features, *_receivers(dataset), *_transmitters(dataset)]}


def _fix(dataset: xr.Dataset, fix: xr.Dataset, method: str) -> list[dict[str, Any]]:
    covariance = fix.covariance.values
    sigma_m = np.sqrt(np.diagonal(covariance))
    of_fix = {"sample": int(fix["sample"]), "method": method}
    properties = {
        **of_fix,
        "converged": bool(fix.converged),
        "sigma_east_m": json_number(sigma_m[0]),
        "sigma_north_m": json_number(sigma_m[1]),
        **fix_record(dataset, fix),
    }
    latitude, longitude = float(fix.latitude), float(fix.longitude)
    features = [_point("fix", [longitude, latitude], properties)]
    if np.isfinite(covariance).all():
        shape = _polygon(_ring(latitude, longitude, covariance, float(fix.freedom)))
        features.append(_feature("ellipse", shape, properties | {"level": LEVEL}))
    return features + [_point("rival", [rival.longitude_deg, rival.latitude_deg], of_fix) for rival in rivals(fix)]


def _ring(latitude_deg: float, longitude_deg: float, covariance: np.ndarray, freedom: float) -> np.ndarray:
    """Outline on the tangent plane at the fix as longitude and latitude (points, 2), without jumps at 180°."""
    outline_m = ellipses.ellipse(covariance, LEVEL, freedom=freedom)
    centre = geodesy.ecef(np.asarray(latitude_deg), np.asarray(longitude_deg), np.asarray(0.0))
    axes = geodesy.enu_axes(np.asarray(latitude_deg), np.asarray(longitude_deg))
    latitude, longitude, _ = geodesy.geodetic(centre + outline_m @ axes[:2])
    longitude = longitude_deg + geodesy.wrapped(longitude - longitude_deg)
    return np.stack([longitude, latitude], axis=-1)


def _polygon(ring: np.ndarray) -> dict[str, Any]:
    """Make a Polygon of a ring, or a MultiPolygon of its parts on either side of the 180° meridian."""
    if np.abs(ring[:, 0]).max() <= 180:
        return {"type": "Polygon", "coordinates": [_ring_coordinates(ring)]}
    full_turn = 360.0 if ring[:, 0].max() > 180 else -360.0
    edge = full_turn / 2
    inside = _clip_at_meridian(ring, edge, math.copysign(1, -full_turn))
    beyond = _clip_at_meridian(ring, edge, math.copysign(1, full_turn)) - [full_turn, 0.0]
    return {"type": "MultiPolygon", "coordinates": [[_ring_coordinates(inside)], [_ring_coordinates(beyond)]]}


def _clip_at_meridian(ring: np.ndarray, edge: float, side: float) -> np.ndarray:
    """Part of a closed ring whose longitudes less ``edge`` have the sign ``side`` (Sutherland and Hodgman, 1974)."""
    kept: list[np.ndarray] = []
    for start, end in pairwise(ring):
        if (start[0] - edge) * side >= 0:
            kept.append(start)
        if (start[0] - edge) * (end[0] - edge) < 0:
            share = (edge - start[0]) / (end[0] - start[0])
            kept.append(np.array([edge, start[1] + share * (end[1] - start[1])]))
    return np.stack([*kept, kept[0]])


def _ring_coordinates(ring: np.ndarray) -> list[list[float]]:
    """Coordinates of a ring whose last point is its first, digit for digit."""
    points = [[round(float(x), _DECIMALS), round(float(y), _DECIMALS)] for x, y in ring[:-1]]
    return [*points, points[0]]


def _receivers(dataset: xr.Dataset) -> list[dict[str, Any]]:
    """One Point for every place where a receiver stands."""
    features: dict[str, dict[str, Any]] = {}
    columns = [dataset[f"receiver_{name}"].values for name in ("longitude", "latitude", "altitude")]
    place = np.stack(columns, axis=-1)  # (S, R, 3)
    for scene, receiver in zip(*np.nonzero(dataset.receiver_present.values), strict=True):
        name = str(dataset.receiver_name.values[receiver])
        feature = _point("receiver", place[scene, receiver].tolist(), {"name": name})
        features.setdefault(str(feature), feature)
    return list(features.values())


def _transmitters(dataset: xr.Dataset) -> list[dict[str, Any]]:
    """One Point for every true position."""
    features: dict[str, dict[str, Any]] = {}
    place = np.stack([dataset[f"transmitter_{name}"].values for name in ("longitude", "latitude")], axis=-1)  # (S, 2)
    for position in place[np.isfinite(place).all(axis=-1)].tolist():
        feature = _point("transmitter", position, {})
        features.setdefault(str(feature), feature)
    return list(features.values())


def _point(kind: str, position: list[float], properties: dict[str, Any]) -> dict[str, Any]:
    coordinates = [round(value, _DECIMALS) for value in position if math.isfinite(value)]
    return _feature(kind, {"type": "Point", "coordinates": coordinates}, properties)


def _feature(kind: str, geometry: dict[str, Any], properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Feature", "geometry": geometry, "properties": {"kind": kind, **properties}}
