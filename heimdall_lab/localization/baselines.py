"""The simplest fixes, which every other method must beat: the centroid and the strongest receiver."""

import numpy as np

from heimdall_lab.core import geodesy
from heimdall_lab.core.arrays import Array
from heimdall_lab.localization.observations import Fix, Observations

_LEAST_FOR_SCATTER = 3  # receivers whose scatter bounds how far the transmitter may be


def centroid(observed: Observations) -> Fix:
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
    return Fix(latitude, longitude, _with_least_spread(covariance), observed.heard.any(axis=1))


def strongest(observed: Observations) -> Fix:
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
    fix = Fix(
        observed.latitude_deg[rows, best],
        observed.longitude_deg[rows, best],
        _with_least_spread(covariance),
        measured.any(axis=1),
    )
    return centroid_where_failed(fix, observed)


def centroid_where_failed(fix: Fix, observed: Observations) -> Fix:
    """Put the centroid where a method failed, still marked as not converged."""
    fallback = centroid(observed)
    converged = fix.converged
    return Fix(
        np.where(converged, fix.latitude_deg, fallback.latitude_deg),
        np.where(converged, fix.longitude_deg, fallback.longitude_deg),
        np.where(converged[:, None, None], fix.covariance, fallback.covariance),
        converged,
    )


def _with_least_spread(covariance: Array) -> Array:
    """Add 1 km of standard deviation to either axis, for receivers on a line or a single one."""
    return covariance + 1e6 * np.eye(2)
