"""How maps lay the Earth out: longitude and latitude, or a plane that touches it."""

from collections.abc import Callable
from typing import NamedTuple

import holoviews as hv
import numpy as np

from heimdall_lab.core import geodesy


class Projection(NamedTuple):
    """Axes of a map, and how positions come onto it and back."""

    project: Callable[[np.ndarray], np.ndarray]  # ECEF (P, 3), m, to map coordinates (P, 2)
    unproject: Callable[[np.ndarray], np.ndarray]  # map coordinates (P, 2) to longitude and latitude (P, 2), degrees
    axes: list[hv.Dimension]
    turn: float = np.inf  # map units around the Earth, by which x leaps at the edge of the map
    up: np.ndarray | None = None  # (3,), ECEF direction that has the far side of the Earth below it, if that is unseen


def map_axes() -> list[hv.Dimension]:
    """Axes of a map in degrees: longitude, latitude."""
    return [hv.Dimension(f"{name}_deg", label=name, unit="°") for name in ("longitude", "latitude")]


def degrees(middle_deg: float) -> Projection:
    """Longitude and latitude; longitudes count on beyond 180 where a map around this one lies across that meridian."""

    def project(ecef: np.ndarray) -> np.ndarray:
        latitude, longitude, _ = geodesy.geodetic(ecef)
        return np.stack([middle_deg + geodesy.wrapped(longitude - middle_deg), latitude], axis=-1)

    def unproject(place: np.ndarray) -> np.ndarray:
        return np.stack([geodesy.wrapped(place[:, 0]), np.clip(place[:, 1], -90, 90)], axis=-1)

    return Projection(project, unproject, map_axes(), turn=360.0)


def tangent_plane(latitude_deg: float, longitude_deg: float, unit: str = "km") -> Projection:
    """Kilometres or metres (``unit``) east and north of a point, on the plane that touches the ellipsoid there."""
    unit_m = {"m": 1.0, "km": 1e3}[unit]

    def project(ecef: np.ndarray) -> np.ndarray:
        return geodesy.enu(ecef, latitude_deg, longitude_deg)[:, :2] / unit_m

    def unproject(place: np.ndarray) -> np.ndarray:
        # Of a sphere: what lies beyond its edge is taken to be close to it.
        share = np.clip(np.hypot(*place.T) * unit_m / geodesy.SEMI_MAJOR_M, 0, 0.999)
        azimuth_deg = np.degrees(np.arctan2(place[:, 0], place[:, 1]))
        distance_m = np.arcsin(share) * geodesy.SEMI_MAJOR_M
        latitude, longitude = geodesy.destination(latitude_deg, longitude_deg, azimuth_deg, distance_m)
        return np.stack([longitude, latitude], axis=-1)

    axes = [hv.Dimension(f"{axis}_{unit}", label=axis, unit=unit) for axis in ("east", "north")]
    up = geodesy.enu_axes(np.asarray(latitude_deg), np.asarray(longitude_deg))[2]
    return Projection(project, unproject, axes, up=up)
