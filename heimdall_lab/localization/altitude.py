"""What is known of a transmitter's altitude before it is located: reported, or near the ground."""

import numpy as np
import xarray as xr

from heimdall_lab.core.arrays import Array

LEAST_GROUND_SIGMA_M = 100.0  # of a transmitter near the ground of which nothing else is known
_EXACT_M = 1e-3  # standard deviation of an altitude that is stated as exact


def altitude_prior(dataset: xr.Dataset) -> tuple[Array, Array]:
    """Mean and standard deviation, each (S,) m, of the transmitters' altitudes above the ellipsoid.

    Where the dataset has ``reported_altitude`` it is that, exact unless ``reported_altitude_std`` says otherwise. Else
    it is what the attributes ``transmitter_altitude_m`` and ``transmitter_altitude_sigma_m`` say of all; without them
    the transmitter is near the ground: about as high as the receivers, give or take their spread, at least
    LEAST_GROUND_SIGMA_M.
    """
    receivers_m = dataset["receiver_altitude"].values
    mean_m = np.nanmean(receivers_m, axis=1)
    sigma_m = np.maximum(np.nanstd(receivers_m, axis=1), LEAST_GROUND_SIGMA_M)
    if (stated := _stated(dataset)) is not None:
        mean_m, sigma_m = (np.full_like(mean_m, value) for value in stated)
    reported = is_reported(dataset)
    if reported.any():
        std = dataset["reported_altitude_std"].values if "reported_altitude_std" in dataset else np.zeros_like(mean_m)
        mean_m = np.where(reported, dataset["reported_altitude"].values, mean_m)
        sigma_m = np.where(reported, np.nan_to_num(std), sigma_m)
    return mean_m, np.maximum(sigma_m, _EXACT_M)


def is_reported(dataset: xr.Dataset) -> Array:
    """Whether each transmitter's altitude is known beforehand, (S,) bool."""
    if "reported_altitude" not in dataset:
        return np.zeros(dataset.sizes["sample"], dtype=bool)
    return np.isfinite(dataset["reported_altitude"].values)


def is_near_ground(dataset: xr.Dataset) -> Array:
    """Whether nothing but the ground says how high each transmitter is, (S,) bool."""
    return ~is_reported(dataset) & (_stated(dataset) is None)


def with_altitude(dataset: xr.Dataset, altitude_m: float, sigma_m: float = 0.0) -> xr.Dataset:
    """State the altitude of all transmitters, and its standard deviation.

    Raises
    ------
    ValueError
        If the altitude is not finite, or the standard deviation is negative.
    """
    if not np.isfinite(altitude_m):
        raise ValueError(f"altitude_m: {altitude_m} is no altitude; give metres above the ellipsoid")
    if not 0 <= sigma_m < np.inf:
        raise ValueError(f"altitude_sigma_m: {sigma_m} is no standard deviation; give metres, 0 where it is exact")
    count = dataset.sizes["sample"]
    return dataset.assign(
        reported_altitude=("sample", np.full(count, float(altitude_m)), {"units": "m"}),
        reported_altitude_std=("sample", np.full(count, float(sigma_m)), {"units": "m"}),
    )


def _stated(dataset: xr.Dataset) -> tuple[float, float] | None:
    """Mean and standard deviation of all transmitters' altitudes as the attributes have them, m."""
    names = "transmitter_altitude_m", "transmitter_altitude_sigma_m"
    mean_m, sigma_m = (float(dataset.attrs.get(name, np.nan)) for name in names)
    return (mean_m, sigma_m) if np.isfinite(mean_m + sigma_m) else None
