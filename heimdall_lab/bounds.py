"""What geometry and noise allow: dilution of precision and the Cramér-Rao bound of position."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from heimdall_lab import geodesy
from heimdall_lab.spectra import delay_sigma_s
from heimdall_lab.units import SPEED_OF_LIGHT, db_to_linear

GDOP_KINDS = ("tdoa", "toa")


def gdop(receivers_enu: np.ndarray, transmitter_enu: np.ndarray, kind: str = "tdoa") -> np.ndarray:
    """Horizontal dilution of precision: rms position error over the range error of one receiver.

    Parameters
    ----------
    receivers_enu : (..., R, 2 or 3) m
        NaN rows are absent receivers.
    transmitter_enu : (..., 2 or 3) m
    kind : str
        ``tdoa`` (emission time unknown) or ``toa`` (emission time known).

    Returns
    -------
    (...) float64, NaN where the position is not observable

    Raises
    ------
    ValueError
        If the kind is unknown.

    Source: Torrieri, "Statistical theory of passive location systems", IEEE Trans. AES 20 (1984).
    It does not depend on a reference receiver, because the unknown emission time is eliminated from all of them alike.
    """
    if kind not in GDOP_KINDS:
        raise ValueError(f"kind: {kind!r} is unknown; choose one of {', '.join(GDOP_KINDS)}")
    direction, distance = _directions(receivers_enu, transmitter_enu)
    weight = np.isfinite(distance).astype(float)
    information = _information(direction, weight, nuisance=kind == "tdoa")
    return np.sqrt(np.trace(_inverse(information), axis1=-2, axis2=-1))


def crlb(
    receivers_enu: np.ndarray,
    transmitter_enu: np.ndarray,
    *,
    toa_sigma_s: np.ndarray | None = None,
    rss_sigma_db: np.ndarray | None = None,
) -> np.ndarray:
    """Cramér-Rao bound of the horizontal position from independent measurements, whose information adds.

    Parameters
    ----------
    receivers_enu : (..., R, 2 or 3) m
    transmitter_enu : (..., 2 or 3) m
        A third coordinate is taken as known.
    toa_sigma_s : (..., R) s, optional
        Standard deviation of each receiver's arrival time; the emission time is unknown. Infinite or NaN: no
        measurement.
    rss_sigma_db : (..., R) dB, optional
        Standard deviation of each received level about free space; the transmitted power is unknown.

    Returns
    -------
    (..., 2, 2) m², NaN where the position is not observable or the transmitter stands on a receiver

    Raises
    ------
    ValueError
        If no measurement is given, or a standard deviation is not positive.

    Source: Torrieri, IEEE Trans. AES 20 (1984); RSS after Patwari et al., IEEE Trans. Signal Process. 51 (2003).
    """
    direction, distance = _directions(receivers_enu, transmitter_enu)
    informations = []
    if toa_sigma_s is not None:
        informations.append(_information(direction / SPEED_OF_LIGHT, _weight(toa_sigma_s, distance)))
    if rss_sigma_db is not None:
        slope = 20 / np.log(10) / np.where(distance > 0, distance, np.nan)  # dB per metre of range
        informations.append(_information(direction * slope[..., None], _weight(rss_sigma_db, slope)))
    if not informations:
        raise ValueError("crlb: no measurement is given; pass toa_sigma_s, rss_sigma_db or both")
    return _inverse(sum(informations[1:], start=informations[0]))


def scene_crlb(dataset: xr.Dataset) -> xr.Dataset:
    """Cramér-Rao bound of each scene from its own truth.

    Time differences are bounded by SNR, rms bandwidth, duration and the errors of clocks and path delays (as normal,
    with the standard deviations that are known of them), levels by shadowing, environment loss and fading (as
    independent from receiver to receiver); both are used.

    Parameters
    ----------
    dataset : xr.Dataset
        With the truth variables of the contract.

    Returns
    -------
    xr.Dataset
        ``gdop`` (sample), ``crlb_covariance`` (sample, axis, other_axis) m² along east and north at the transmitter,
        ``crlb_rmse`` (sample) m. NaN where not observable.
    """
    used = dataset.receiver_present.values & dataset.get("signal_present", dataset.receiver_present).values
    receivers, transmitter = transmitter_frame(dataset)
    receivers = np.where(used[..., None], receivers, np.nan)
    duration_s = dataset.attrs["duration_s"]
    toa_sigma_s = delay_sigma_s(
        db_to_linear(dataset.snr.values),
        dataset.occupied_bandwidth.values[:, None],
        dataset.rms_bandwidth.values[:, None],
        duration_s,
    )
    covariance = crlb(
        receivers,
        transmitter,
        toa_sigma_s=np.sqrt(toa_sigma_s**2 + delay_model_variance(dataset)),
        rss_sigma_db=np.full(used.shape, dataset.attrs["link_sigma_db"]),
    )
    axes = ["east", "north"]
    return xr.Dataset(
        {
            "gdop": ("sample", gdop(receivers, transmitter), {"units": "1"}),
            "crlb_covariance": (("sample", "axis", "other_axis"), covariance, {"units": "m2"}),
            "crlb_rmse": ("sample", np.sqrt(np.trace(covariance, axis1=-2, axis2=-1)), {"units": "m"}),
        },
        coords={"sample": dataset.sample, "axis": axes, "other_axis": axes},
    )


def delay_model_variance(dataset: xr.Dataset) -> np.ndarray:
    """Variance of a receiver's arrival that no signal averages out, clock and path together: scalar or (R,), s²."""
    return np.square(dataset.attrs["clock_sigma_s"]) + np.square(dataset.attrs["path_delay_sigma_s"])


def transmitter_frame(variables: Mapping[Any, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Return receivers (S, R, 3) and transmitter (S, 3) in the ENU frame below each transmitter, m.

    Takes a dataset, or a dict of arrays, with the position variables of the contract.
    """
    receivers, transmitter = (
        [np.asarray(variables[f"{who}_{name}"]) for name in ("latitude", "longitude", "altitude")]
        for who in ("receiver", "transmitter")
    )
    latitude, longitude, altitude = transmitter
    zero = np.zeros_like(latitude)
    return geodesy.enu(geodesy.ecef(*receivers), latitude, longitude), np.stack([zero, zero, altitude], axis=-1)


def ellipse(covariance: np.ndarray, level: float = 0.95, points: int = 65) -> np.ndarray:
    """Outline of the ellipse that holds ``level`` of a normal distribution, (..., points, 2) in the covariance's root.

    The last point repeats the first. NaN covariance gives NaN outlines.
    """
    angle = np.linspace(0, 2 * np.pi, points)
    circle = np.sqrt(-2 * np.log1p(-level)) * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    east = np.sqrt(covariance[..., 0, 0])
    slope = covariance[..., 0, 1] / east
    rest = np.sqrt(np.maximum(covariance[..., 1, 1] - slope**2, 0))  # Cholesky factor, by hand: it lets NaN pass
    north = slope[..., None] * circle[:, 0] + rest[..., None] * circle[:, 1]
    return np.stack([east[..., None] * circle[:, 0], north], axis=-1)


def _directions(receivers_enu: np.ndarray, transmitter_enu: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Horizontal part of the unit vectors from transmitter to receivers (..., R, 2), and the distances (..., R)."""
    offset = receivers_enu - transmitter_enu[..., None, :]
    distance = np.sqrt((offset**2).sum(axis=-1))
    return offset[..., :2] / np.where(distance > 0, distance, np.nan)[..., None], distance


def _weight(sigma: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Inverse variance, 0 where there is no measurement."""
    if (sigma <= 0).any():
        raise ValueError(f"sigma: {np.min(sigma)} is not positive; a measurement without error bounds nothing")
    measured = np.isfinite(sigma) & np.isfinite(valid)
    return np.where(measured, 1 / np.where(measured, sigma, 1.0) ** 2, 0.0)


def _information(gradient: np.ndarray, weight: np.ndarray, nuisance: bool = True) -> np.ndarray:
    """Fisher information (..., 2, 2) of gradients (..., R, 2); a nuisance common to all receivers is eliminated.

    Eliminating it leaves Σ w (g − ḡ)(g − ḡ)ᵀ with ḡ the weighted mean: the Schur complement of the full information.
    """
    gradient = np.where(weight[..., None] > 0, gradient, 0.0)
    if nuisance:
        total = weight.sum(axis=-1)[..., None]
        mean = (weight[..., None] * gradient).sum(axis=-2) / np.where(total > 0, total, np.nan)
        gradient = gradient - mean[..., None, :]
    east, north = gradient[..., 0], gradient[..., 1]
    entries = [(weight * first * second).sum(axis=-1) for first in (east, north) for second in (east, north)]
    return np.stack(entries, axis=-1).reshape(*entries[0].shape, 2, 2)


def _inverse(information: np.ndarray) -> np.ndarray:
    """Inverse of (..., 2, 2) matrices, NaN where singular to rounding."""
    a, b, d = information[..., 0, 0], information[..., 0, 1], information[..., 1, 1]
    determinant = a * d - b**2
    regular = determinant > 1e-12 * (a + d) ** 2
    scale = np.where(regular, 1 / np.where(regular, determinant, 1.0), np.nan)
    return np.stack([d * scale, -b * scale, -b * scale, a * scale], axis=-1).reshape(information.shape)
