"""What estimators know of a scene, what they return, and the distances and coordinates that they share."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Self

import numpy as np
import xarray as xr

from heimdall_lab.core import geodesy, sky_wave
from heimdall_lab.core.arrays import Array, batch_slices
from heimdall_lab.core.units import SPEED_OF_LIGHT
from heimdall_lab.datasets import schema
from heimdall_lab.localization import bounds, delay_law, paths
from heimdall_lab.localization.altitude import altitude_prior

MAX_RANGE_M = {  # a fix further than this from the receivers, or less certain, is a failure: beyond what they can hear
    "line_of_sight": 500e3,
    "ground_wave": 5000e3,
    "sky_wave": sky_wave.LONGEST_HOP_M,
}
MAX_RIVALS = 3
STATUS = {  # of a fix: why it is none
    "ok": "the method found this place",
    "silent": "no receiver hears the signal",
    "unobserved": "too few measurements, or none that tells one direction",
    "far": "the place is further away, or less certain, than receivers can hear",
    "misfit": "the measurements contradict each other",
    "link": "the measurement of one receiver contradicts the others",
    "ambiguous": "another place fits as well",
    "noise": "no three receivers agree better than by chance",
    "clocks": "clocks or paths err by more than the signal's correlation is wide",
    "uncalibrated": "receivers without common time cannot calibrate themselves by what they hear",
    "repeating": "the signal repeats itself, so that too many delays could as well be others",
    "carrier": "the signal is a carrier, of which no delay can be seen",
    "untrained": "the scene is unlike those that the model learned from",
}
CAUSES = ("noise", "clocks", "paths", "receiver_positions")  # of the errors of a delay
_LEAST_LEVEL_SIGMA_DB = 0.1  # as well as levels are measured
_LEAST_NOISE_M = 1e-3  # of a pseudo-range, as well as numbers hold it


class Fix(NamedTuple):
    """Positions of S scenes."""

    latitude_deg: Array  # (S,)
    longitude_deg: Array  # (S,)
    height_m: Array  # (S,), that of `Observations`
    covariance: Array  # (S, 2, 2) m², of east and north
    status: Array  # (S,) of STATUS
    rivals: Array  # (S, MAX_RIVALS, 2) latitude and longitude of other places that fit as well, NaN beyond their number

    @property
    def converged(self) -> Array:
        """Whether the method found a position, (S,) bool."""
        converged: Array = self.status == "ok"
        return converged

    def select(self, rows: slice | Array) -> Self:
        """Take the fixes of some scenes."""
        return self._replace(**{name: values[rows] for name, values in self._asdict().items()})

    @classmethod
    def concatenate(cls, parts: Iterable[Self]) -> Self:
        """Join the fixes of several batches of scenes."""
        return cls._make(np.concatenate(values) for values in zip(*parts, strict=True))


class Observations(NamedTuple):
    """What is known of the receivers of S scenes and measured by them."""

    latitude_deg: Array  # (S, R), of the receivers
    longitude_deg: Array  # (S, R)
    altitude_m: Array  # (S, R)
    transmitter_altitude_m: Array  # (S,), known beforehand (`altitude.altitude_prior`)
    transmitter_altitude_sigma_m: Array  # (S,), standard deviation of that
    height_m: Array  # (S,), of the transmitter, or where the ionosphere reflects, known beforehand
    height_sigma_m: Array  # (S,), standard deviation of that
    heard: Array  # (S, R) bool
    rssi_dbm: Array  # (S, R)
    silent_dbm: Array  # (S, R), level that the signal must be below where a receiver does not hear it; else NaN
    pseudorange_m: Array  # (S, R), time difference against the reference times the speed of light
    sigma_m: Array  # (S, R), standard deviation of a pseudo-range by all causes
    variance_m2: Array  # (S, R, CAUSES), variance of a pseudo-range by each of them
    reference: Array  # (S,) int
    propagation: str
    nlos_ratio: float  # share of links that are late, included in ``sigma_m``
    nlos_excess_m: float  # by how much in the mean, included in ``sigma_m``
    link_sigma_db: float  # standard deviation of a level about its law of distance; NaN where levels cannot be compared
    sigma_freedom: float  # degrees of freedom of what is known of the scale of ``sigma_m``; infinite in simulations
    level_law: str = "free_space"  # one of `schema.LEVEL_LAWS`
    frequency_hz: float = np.nan  # of the carrier
    is_ambiguous: Array | None = None  # (S, R) bool, the delay has a rival, and no standard deviation
    expects_late: bool = False  # whether a share of the links is late (`delay_law.has_late_links`)

    def select(self, rows: slice | Array) -> Self:
        """Take some scenes."""
        return self._each_array(lambda values: values[rows])

    def batches(self, per_batch: int) -> Iterator[tuple[slice, Self]]:
        """Take the scenes some at a time: the rows of each batch, and their observations."""
        return ((rows, self.select(rows)) for rows in batch_slices(len(self.reference), per_batch))

    def repeat(self, count: int) -> Self:
        """Every scene several times over, one after the other."""
        return self._each_array(lambda values: np.repeat(values, count, axis=0))

    def order_receivers(self, rank: Array, needed: Array) -> Self:
        """Sort each scene's receivers by rank (S, R), and drop as many of the last as no scene needs, (S, R) bool.

        ``reference`` is left as it is.
        """
        order = np.argsort(rank, axis=1, kind="stable")[:, : max(1, int(needed.sum(axis=1).max()))]
        rows = np.arange(len(order))[:, None]
        return self._each_array(lambda values: values[rows, order] if values.ndim > 1 else values)

    def _each_array(self, change: Callable[[Array], Array]) -> Self:
        """Change every array alike, and leave what is common to all scenes."""
        arrays: dict[str, Any] = {
            name: change(values) for name, values in self._asdict().items() if isinstance(values, np.ndarray)
        }
        return self._replace(**arrays)


def from_dataset(dataset: xr.Dataset) -> Observations:
    """Gather what is known of a dataset's receivers and what was measured of its signals."""
    latitude, longitude, altitude = (
        dataset[f"receiver_{name}"].values for name in ("latitude", "longitude", "altitude")
    )
    # Longitudes count on from that of one present receiver, so that means hold across the 180 degrees meridian.
    origin = np.nanmin(longitude, axis=1, keepdims=True)
    longitude = origin + (longitude - origin + 180) % 360 - 180
    transmitter_altitude_m, transmitter_altitude_sigma_m = altitude_prior(dataset)
    height_m, height_sigma_m = paths.height_prior(dataset)
    variance_m2 = _delay_variance_m2(dataset)
    return Observations(
        latitude_deg=latitude,
        longitude_deg=longitude,
        altitude_m=altitude,
        transmitter_altitude_m=transmitter_altitude_m,
        transmitter_altitude_sigma_m=transmitter_altitude_sigma_m,
        height_m=height_m,
        height_sigma_m=height_sigma_m,
        heard=dataset.heard.values,
        rssi_dbm=dataset.rssi_dbm.values,
        silent_dbm=_silent_dbm(dataset),
        pseudorange_m=dataset.tdoa_s.values * SPEED_OF_LIGHT,
        sigma_m=np.sqrt(variance_m2.sum(axis=-1)),
        variance_m2=variance_m2,
        reference=dataset.reference_receiver.values,
        propagation=dataset.attrs["propagation"],
        nlos_ratio=dataset.attrs["nlos_ratio"],
        nlos_excess_m=dataset.attrs["nlos_excess_mean_s"] * SPEED_OF_LIGHT,
        link_sigma_db=float(np.maximum(dataset.attrs["link_sigma_db"], _LEAST_LEVEL_SIGMA_DB)),
        sigma_freedom=bounds.sigma_freedom(dataset),
        level_law=dataset.attrs.get("level_law", schema.LEVEL_LAWS[0]),
        frequency_hz=float(dataset.attrs["centre_frequency_hz"]),
        is_ambiguous=np.isfinite(dataset.rival_delay_s.values) if "rival_delay_s" in dataset else None,
        expects_late=delay_law.has_late_links(dataset.attrs),
    )


def _delay_variance_m2(dataset: xr.Dataset) -> Array:
    """Variances (S, R, CAUSES) of pseudo-ranges."""
    sigmas_s = dataset.toa_std_s.values, bounds.clock_sigma_s(dataset), dataset.attrs["path_delay_sigma_s"]
    noise, clocks, delays = (np.square(np.asarray(sigma_s) * SPEED_OF_LIGHT) for sigma_s in sigmas_s)
    noise = np.maximum(noise, _LEAST_NOISE_M**2)
    return np.stack(np.broadcast_arrays(noise, clocks, delays, np.square(bounds.position_sigma_m(dataset))), axis=-1)


def _silent_dbm(dataset: xr.Dataset) -> Array:
    """Level of min_snr_db where the SNR is lower; without any signal, over the noise that the reference has."""
    noise_dbm = (dataset.rssi_dbm - dataset.snr_db).values
    of_reference = np.take_along_axis(noise_dbm, dataset.reference_receiver.values[:, None], axis=1)
    silent = dataset.receiver_present.values & ~(dataset.snr_db.values >= dataset.attrs["min_snr_db"])
    level_dbm = np.where(np.isfinite(noise_dbm), noise_dbm, of_reference) + dataset.attrs["min_snr_db"]
    return np.where(silent, level_dbm, np.nan)


def distances(
    observed: Observations, latitude: Array, longitude: Array, height_m: Array | None = None
) -> tuple[Array, Array]:
    """Length of the path to each receiver (S, R) and its gradient along east, north and height (S, R, 3) at a position.

    The height (S,) is by default that known beforehand. Ground waves follow the ellipsoid at any.
    """
    receivers = observed.latitude_deg, observed.longitude_deg, observed.altitude_m
    height = observed.height_m if height_m is None else height_m
    return paths.lengths(observed.propagation, receivers, latitude, longitude, height)


def normal_matrix(gradient: Array, influence: Array, used: Array, sigma: Array) -> tuple[Array, Array]:
    """Information of position along the gradient's K axes and of the offset, (S, K + 1, K + 1), and its Jacobian.

    The Jacobian (S, R, K + 1) is normalised by the standard deviations.
    """
    columns = np.concatenate([gradient, np.ones_like(gradient[..., :1])], axis=-1)
    jacobian = np.where(used[..., None], columns, 0.0) / sigma[..., None]
    return jacobian.swapaxes(1, 2) @ (influence[..., None] * jacobian), jacobian


def grid_distances(observed: Observations, plane: Array) -> Array:
    """Distances (S, G, R) m from positions (S, G, 2) m on the tangent plane of `tangent_plane` to each receiver."""
    latitude, longitude = from_tangent_plane(observed, plane)
    degrees_and_m = observed.latitude_deg, observed.longitude_deg, observed.altitude_m
    receivers = tuple(values[:, None] for values in degrees_and_m)  # (S, 1, R)
    return paths.lengths_alone(observed.propagation, receivers, latitude, longitude, observed.height_m[:, None])


def tangent_plane(observed: Observations, latitude_deg: Array, longitude_deg: Array) -> Array:
    """East and north of positions (S,) on the plane at the centroid of the present receivers, (S, 2) m."""
    latitude, longitude = geodesy.tangent_plane_origin(observed.latitude_deg, observed.longitude_deg)
    position = geodesy.ecef(latitude_deg, longitude_deg, observed.transmitter_altitude_m)
    return geodesy.enu(position[:, None], latitude, longitude)[:, 0, :2]


def from_tangent_plane(observed: Observations, plane: Array) -> tuple[Array, Array]:
    """Latitude and longitude (S, G), degrees, of positions (S, G, 2) m: the inverse of `tangent_plane`.

    Positions beyond the edge of the Earth as seen from above the plane, 6,400 km from its middle, come out at the edge.
    """
    latitude, longitude = geodesy.tangent_plane_origin(observed.latitude_deg, observed.longitude_deg)
    origin, axes = geodesy.ecef(latitude, longitude, np.zeros_like(latitude)), geodesy.enu_axes(latitude, longitude)
    # Where the normal of the plane, q + t u, meets the surface at the transmitter's altitude, in coordinates in which
    # that surface is the unit sphere. An ellipsoid of axes longer by the altitude h is it to some f² h, centimetres.
    equatorial = geodesy.SEMI_MAJOR_M + observed.transmitter_altitude_m
    polar = geodesy.SEMI_MAJOR_M * (1 - geodesy.FLATTENING) + observed.transmitter_altitude_m
    scale = 1 / np.stack([equatorial, equatorial, polar], axis=-1)[:, None]  # (S, 1, 3)
    position = origin[:, None] + plane @ axes[:, :2]  # (S, G, 3)
    up = axes[:, 2:]
    q, u = position * scale, up * scale
    qu, uu = (q * u).sum(axis=-1, keepdims=True), (u**2).sum(axis=-1, keepdims=True)
    discriminant = qu**2 - uu * ((q**2).sum(axis=-1, keepdims=True) - 1)
    latitude, longitude, _ = geodesy.geodetic(position + (np.sqrt(np.maximum(discriminant, 0)) - qu) / uu * up)
    return latitude, longitude
