"""What is known of a transmitter's altitude before it is located: reported, or near the ground."""

import re

import numpy as np
import xarray as xr

from heimdall_lab.core.arrays import Array
from heimdall_lab.core.text import quoted

LEAST_GROUND_SIGMA_M = 100.0  # of a transmitter near the ground of which nothing else is known
_EXACT_M = 1e-3  # standard deviation of an altitude that is stated as exact
_WRITTEN = re.compile(r"\s*([+-]?\d+(?:\.\d*)?)\s*(?:(?:\+/?-|±)\s*(\d+(?:\.\d*)?))?\s*")


def altitude_prior(dataset: xr.Dataset) -> tuple[Array, Array]:
    """Mean and standard deviation, each (S,) m, of the transmitters' altitudes above the ellipsoid.

    Where the dataset has ``reported_altitude`` it is that, exact unless it has ``reported_altitude_std``, of which NaN
    is LEAST_GROUND_SIGMA_M. Else it is what the attributes ``transmitter_altitude_m`` and
    ``transmitter_altitude_sigma_m`` say of all; without them the transmitter is near the ground: ``ground_altitude``
    with ``ground_altitude_std`` where they are known (`ground.with_ground`), else about as high as the receivers, give
    or take their spread, at least LEAST_GROUND_SIGMA_M.

    Raises
    ------
    ValueError
        If a standard deviation is negative, or only one of the two attributes is there.
    """
    receivers_m = dataset["receiver_altitude"].values
    mean_m = np.nanmean(receivers_m, axis=1)
    sigma_m = np.maximum(np.nanstd(receivers_m, axis=1), LEAST_GROUND_SIGMA_M)
    if "ground_altitude" in dataset:
        ground_m, std_m = dataset["ground_altitude"].values, dataset["ground_altitude_std"].values
        known = np.isfinite(ground_m)
        mean_m, sigma_m = np.where(known, ground_m, mean_m), np.where(known, std_m, sigma_m)
    if (stated := _stated(dataset)) is not None:
        mean_m, sigma_m = (np.full_like(mean_m, value) for value in stated)
    reported = is_reported(dataset)
    if reported.any():
        std = dataset["reported_altitude_std"].values if "reported_altitude_std" in dataset else np.zeros_like(mean_m)
        if (std < 0).any():
            raise ValueError(f"reported_altitude_std: {np.nanmin(std)} is negative; give metres, 0 where it is exact")
        mean_m = np.where(reported, dataset["reported_altitude"].values, mean_m)
        sigma_m = np.where(reported, np.where(np.isfinite(std), std, LEAST_GROUND_SIGMA_M), sigma_m)
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
    """State the altitude of all transmitters, and its standard deviation, in the place of what they report.

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


def parse_altitude(text: str) -> tuple[float, float]:
    """Read an altitude and its standard deviation, 0 where none is given, as people write them, in m.

    >>> parse_altitude("9000+-3000"), parse_altitude("9000 ± 3000"), parse_altitude("-12.5")
    ((9000.0, 3000.0), (9000.0, 3000.0), (-12.5, 0.0))

    Raises
    ------
    ValueError
        If it is not of this form.
    """
    if (found := _WRITTEN.fullmatch(text)) is None:
        raise ValueError(f"{quoted(text)} is no altitude in metres, as 9000, or 9000+-3000 with its standard deviation")
    return float(found[1]), float(found[2] or 0.0)


def _stated(dataset: xr.Dataset) -> tuple[float, float] | None:
    """Mean and standard deviation of all transmitters' altitudes as the attributes have them, m."""
    names = "transmitter_altitude_m", "transmitter_altitude_sigma_m"
    given = [name for name in names if name in dataset.attrs]
    if len(given) == 1:
        raise ValueError(f"{given[0]}: is stated alone; give both of {' and '.join(names)}, or neither")
    mean_m, sigma_m = (float(dataset.attrs.get(name, np.nan)) for name in names)
    return (mean_m, sigma_m) if np.isfinite(mean_m + sigma_m) else None
