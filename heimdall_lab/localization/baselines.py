"""The simplest fixes, which every other method must beat: the centroid and the strongest receiver."""

import numpy as np

from heimdall_lab.core import geodesy
from heimdall_lab.core.arrays import Array, where_rows
from heimdall_lab.localization.observations import MAX_RIVALS, Fix, Observations

_LEAST_FOR_SCATTER = 3  # receivers whose scatter bounds how far the transmitter may be


def centroid(observed: Observations) -> tuple[Fix, None]:
    """Mean position of the receivers that hear the signal."""
    return receivers_centroid(observed), None


def receivers_centroid(observed: Observations) -> Fix:
    """Mean position of the receivers that hear the signal; the covariance is their scatter.

    Of one or two it is the scatter of all receivers about that position.
    """
    present = np.isfinite(observed.latitude_deg)
    heard = observed.heard | ~observed.heard.any(axis=1, keepdims=True) & present
    count = heard.sum(axis=1)
    latitude, longitude = (
        np.where(heard, degrees, 0.0).sum(axis=1) / count for degrees in (observed.latitude_deg, observed.longitude_deg)
    )
    position = geodesy.ecef(observed.latitude_deg, observed.longitude_deg, observed.altitude_m)
    scattered: Array = np.where(count[:, None] >= _LEAST_FOR_SCATTER, heard, present)
    offset = np.where(scattered[..., None], geodesy.enu(position, latitude, longitude)[..., :2], 0.0)
    covariance = np.einsum("sri,srj->sij", offset, offset) / scattered.sum(axis=1)[:, None, None]
    status = np.where(observed.heard.any(axis=1), "ok", "silent")
    return fix_without_rivals(observed, latitude, longitude, _with_least_spread(covariance), status)


def strongest(observed: Observations) -> tuple[Fix, None]:
    """Position of the receiver with the highest level; its spread is half the rms distance to the others that hear it.

    Where fewer than three do, to all others.
    """
    measured = observed.heard & np.isfinite(observed.rssi_dbm)
    best = np.where(measured, observed.rssi_dbm, -np.inf).argmax(axis=1)
    position = geodesy.ecef(observed.latitude_deg, observed.longitude_deg, observed.altitude_m)
    rows = np.arange(len(best))
    few = observed.heard.sum(axis=1, keepdims=True) < _LEAST_FOR_SCATTER
    scattered: Array = np.where(few, np.isfinite(observed.latitude_deg), observed.heard)
    squared = np.where(scattered, ((position - position[rows, best][:, None]) ** 2).sum(axis=-1), 0.0).sum(axis=1)
    others = np.maximum(scattered.sum(axis=1) - 1, 1)
    covariance = (squared / others / 4)[:, None, None] * np.eye(2)
    latitude, longitude = (degrees[rows, best] for degrees in (observed.latitude_deg, observed.longitude_deg))
    status = np.where(measured.any(axis=1), "ok", "silent")
    fix = fix_without_rivals(observed, latitude, longitude, _with_least_spread(covariance), status)
    return centroid_where(status == "silent", fix, observed), None


def centroid_where(nothing: Array, fix: Fix, observed: Observations) -> Fix:
    """Put the centroid where nothing was observable, (S,) bool; the status says what it said."""
    return Fix(*where_rows(nothing, receivers_centroid(observed), fix))._replace(status=fix.status)


def fix_without_rivals(
    observed: Observations, latitude: Array, longitude: Array, covariance: Array, status: Array
) -> Fix:
    """Fixes at the altitude that is known beforehand, of which no other place is known that fits as well."""
    rivals = np.full((len(latitude), MAX_RIVALS, 2), np.nan)
    return Fix(latitude, longitude, observed.height_m, covariance, status, rivals)


def _with_least_spread(covariance: Array) -> Array:
    """Add 1 km of standard deviation to either axis, for receivers on a line or a single one."""
    return covariance + 1e6 * np.eye(2)
