"""Errors of fixes against the truth, their statistics, and the bins of conditions that these are given by."""

from itertools import pairwise

import numpy as np
import xarray as xr

from heimdall_lab.core import geodesy
from heimdall_lab.datasets import schema
from heimdall_lab.localization import error_law

_AXES = {"axis": ["east", "north"]}
_SILENTLY_WRONG = 0.99  # level of the ellipse that a fix which converged is wrong outside of
BINS = {  # lower edges of the leaderboard's bins; each ends where the next begins
    "snr": (-np.inf, 10.0, 20.0, 30.0, 40.0),  # mean of the receivers with signal, dB
    "gdop": (0.0, 1.5, 2.0, 3.0, 5.0, 10.0),
    "receivers": (0, 3, 4, 5, 6, 7, 8, 10, 13),  # with signal
}


def position_errors(dataset: xr.Dataset, fixes: xr.Dataset) -> xr.Dataset:
    """Compare fixes with the true positions, but for references, which are no test cases.

    Parameters
    ----------
    dataset : xr.Dataset
        With the true transmitter positions, and ``transmitter_position_std`` (sample) m where these are not exact: a
        fix is then judged by its covariance and theirs together, the same along all directions.
    fixes : xr.Dataset
        As `estimators.locate` returns them; further dims such as ``method`` are kept.

    Returns
    -------
    xr.Dataset
        ``error`` m, the geodesic distance; ``error_vector`` (…, axis) m, fix minus truth along east and north;
        ``mahalanobis_squared``, of the error under the fix's own covariance; ``level``, of the ellipse through the
        truth: the share of errors that the fix itself expects to be smaller; ``log_density``, of the truth under the
        fix's law of errors, per m². NaN where the true position is not known, and of references (`schema.references`),
        whose positions are known beforehand.
    """
    tested = xr.DataArray(~schema.references(dataset), dims="sample")
    truth = dataset[["transmitter_latitude", "transmitter_longitude"]].compute().where(tested)
    distance, azimuth = xr.apply_ufunc(
        geodesy.geodesic,
        truth.transmitter_latitude,
        truth.transmitter_longitude,
        fixes.latitude,
        fixes.longitude,
        output_core_dims=[[], []],
    )
    direction = np.radians(azimuth)
    vector = xr.concat([distance * np.sin(direction), distance * np.cos(direction)], dim="axis").assign_coords(_AXES)
    vector = vector.transpose(..., "axis")
    covariance = _with_error_of_truth(dataset, fixes.covariance)
    squared = xr.apply_ufunc(
        _mahalanobis_squared,
        vector,
        covariance,
        input_core_dims=[["axis"], ["axis", "other_axis"]],
    )
    level = xr.apply_ufunc(error_law.level, squared, fixes.freedom)
    determinant = np.log(_determinant(covariance))
    density = xr.apply_ufunc(error_law.log_density, squared, determinant, fixes.freedom)
    return xr.Dataset(
        {
            "error": distance.assign_attrs(units="m", long_name="distance from the true position"),
            "error_vector": vector.assign_attrs(units="m", long_name="fix minus truth"),
            "mahalanobis_squared": squared.assign_attrs(units="1", long_name="squared error over covariance"),
            "level": level.assign_attrs(units="1", long_name="level of the ellipse through the truth"),
            "log_density": density.assign_attrs(units="1", long_name="log density of the truth, per square metre"),
        }
    )


def nearest_sample(dataset: xr.Dataset, latitude_deg: float, longitude_deg: float) -> int:
    """Label of the sample whose transmitter is nearest to a position, references left out.

    ValueError if no true position is known.
    """
    reference = schema.references(dataset)
    latitude, longitude = (
        np.where(reference, np.nan, dataset[f"transmitter_{name}"].values) for name in ("latitude", "longitude")
    )
    distance_m, _ = geodesy.geodesic(latitude, longitude, np.full(len(latitude), latitude_deg), longitude_deg)
    if not np.isfinite(distance_m).any():
        raise ValueError("transmitter_latitude: is unknown in every sample; none is nearest")
    return int(dataset.sample.values[np.nanargmin(distance_m)])


def bin_of(values: np.ndarray, by: str) -> np.ndarray:
    """Assign scenes to a leaderboard's bins by their values: positions along ``…_bin``, one beyond the last for NaN.

    >>> bin_of(np.array([9.9, 10.0, 99.0, np.nan]), "snr").tolist()
    [0, 1, 4, 5]
    """
    return np.digitize(values, (*BINS[by], np.inf)) - 1


def bin_names(by: str) -> list[str]:
    """Name each bin by its edges, as ``10 … 20``.

    >>> bin_names("snr")
    ['< 10', '10 … 20', '20 … 30', '30 … 40', '≥ 40']
    """
    edges = BINS[by]
    if by == "receivers":
        names = [f"{low:g}" if low == above - 1 else f"{low:g} … {above - 1:g}" for low, above in pairwise(edges)]
    else:
        names = [f"{low:g} … {high:g}" for low, high in pairwise(edges)]
    names[0] = f"< {edges[1]:g}"
    return [*names, f"≥ {edges[-1]:g}"]


def error_statistics(each: xr.Dataset, crlb_rmse: xr.DataArray) -> xr.Dataset:
    """Reduce errors over ``sample`` to the statistics of the leaderboard: of all fixes, and of those that converged."""
    error, converged = each.error, each.converged
    in_metres = {
        "median_error": error.median("sample"),
        "mean_error": error.mean("sample"),
        **{f"p{p}_error": error.quantile(p / 100, "sample").drop_vars("quantile") for p in (68, 90, 95)},
        "rmse": np.sqrt((error**2).mean("sample")),
        "median_error_converged": error.where(converged).median("sample"),
    }
    inside = {f"coverage_{level}": each.level <= level / 100 for level in (68, 95)}
    shares = {
        **bound_ratios(each, crlb_rmse, "rmse_over_crlb"),
        **{name: values.mean("sample") for name, values in inside.items()},
        **{f"{name}_converged": values.where(converged).mean("sample") for name, values in inside.items()},
        "silently_wrong": (each.level > _SILENTLY_WRONG).where(converged).mean("sample"),
        "nll": -each.log_density.mean("sample"),
        "failures": 1 - converged.mean("sample"),
    }
    return xr.Dataset(
        {name: values.drop_attrs().assign_attrs(units="m") for name, values in in_metres.items()}
        | {name: values.drop_attrs().assign_attrs(units="1") for name, values in shares.items()}
    )


def bound_ratios(each: xr.Dataset, crlb_rmse: xr.DataArray, name: str) -> dict[str, xr.DataArray]:
    """Root mean squares over ``sample`` of errors over bounds: of all fixes, and of those that converged."""
    squared = (each.error / crlb_rmse) ** 2
    converged = squared.where(each.converged)
    return {name: np.sqrt(squared.mean("sample")), f"{name}_converged": np.sqrt(converged.mean("sample"))}


def _with_error_of_truth(dataset: xr.Dataset, covariance: xr.DataArray) -> xr.DataArray:
    """Covariance of fixes against true positions that have errors of their own; those that are not known have none."""
    if "transmitter_position_std" not in dataset:
        return covariance
    identity = xr.DataArray(np.eye(2), {name: covariance[name] for name in ("axis", "other_axis")})
    variance = dataset["transmitter_position_std"].compute().fillna(0.0) ** 2
    return (covariance + variance * identity).transpose(*covariance.dims)


def _determinant(covariance: xr.DataArray) -> xr.DataArray:
    return xr.apply_ufunc(np.linalg.det, covariance, input_core_dims=[["axis", "other_axis"]])


def _mahalanobis_squared(vector: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    return (vector * np.linalg.solve(covariance, vector[..., None])[..., 0]).sum(axis=-1)
