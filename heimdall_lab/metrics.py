"""Errors of fixes against the truth and the Cramér-Rao bound, and the leaderboard of methods."""

import time
from collections.abc import Iterable

import numpy as np
import xarray as xr

from heimdall_lab import bounds, estimators, geodesy, pairs

_AXES = {"axis": ["east", "north"]}


def errors(dataset: xr.Dataset, fixes: xr.Dataset) -> xr.Dataset:
    """Compare fixes with the true positions.

    Parameters
    ----------
    dataset : xr.Dataset
        With the true transmitter positions.
    fixes : xr.Dataset
        As `estimators.locate` returns them; further dims such as ``method`` are kept.

    Returns
    -------
    xr.Dataset
        ``error`` m, the geodesic distance; ``error_vector`` (…, axis) m, fix minus truth along east and north;
        ``mahalanobis_squared``, of the error under the fix's own covariance.
    """
    truth = dataset[["transmitter_latitude", "transmitter_longitude"]].compute()
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
    squared = xr.apply_ufunc(
        _mahalanobis_squared,
        vector,
        fixes.covariance,
        input_core_dims=[["axis"], ["axis", "other_axis"]],
    )
    return xr.Dataset(
        {
            "error": distance.assign_attrs(units="m", long_name="distance from the true position"),
            "error_vector": vector.assign_attrs(units="m", long_name="fix minus truth"),
            "mahalanobis_squared": squared.assign_attrs(units="1", long_name="squared error over covariance"),
        }
    )


def compare(dataset: xr.Dataset, methods: Iterable[str] | None = None) -> xr.Dataset:
    """Locate with several methods and rank them: the leaderboard.

    Failed fixes stay in every statistic, at the position that stands in for them.

    Parameters
    ----------
    dataset : xr.Dataset
        With IQ and truth.
    methods : iterable of str, optional
        By default all of `estimators.methods`.

    Returns
    -------
    xr.Dataset
        Dim ``method``: ``median_error``, ``mean_error``, ``p68_error``, ``p90_error``, ``p95_error``, ``rmse`` (m);
        ``rmse_over_crlb``, the root mean square of each error over its own scene's bound; ``coverage_68`` and
        ``coverage_95``, shares of truths inside the ellipses; ``nll``, mean negative log likelihood of the truth
        (position in m); ``failures``, share of fixes that did not converge; ``latency`` s per fix, measurement from
        the IQ included. Dims (method, sample): the fixes and their ``error``, ``error_vector`` and
        ``mahalanobis_squared``. Dim ``sample``: ``crlb_rmse`` m, and ``crlb_covariance``.

    Raises
    ------
    ValueError
        If a method is unknown, or the dataset lacks the true positions or breaks the contract.
    """
    names = list(dict.fromkeys(estimators.methods() if methods is None else methods))
    if unknown := [name for name in names if name not in estimators.methods()]:
        raise ValueError(f"methods: {unknown[0]!r} is unknown; choose from {', '.join(estimators.methods())}")
    if bool(dataset.transmitter_latitude.isnull().all()):
        raise ValueError("transmitter_latitude: is unknown in every sample; compare needs the true positions")
    began = time.perf_counter()
    measured = pairs.pair_features(dataset)
    measuring_s = time.perf_counter() - began
    fixes, latencies = [], []
    for name in names:
        began = time.perf_counter()
        fixes.append(estimators.locate(dataset, name, measured).drop_attrs(deep=False))
        latencies.append((measuring_s + time.perf_counter() - began) / dataset.sizes["sample"])
    each = xr.concat(fixes, dim="method").assign_coords(method=names)
    each = each.merge(errors(dataset, each)).transpose("method", "sample", ...)
    bound = bounds.scene_crlb(dataset.drop_vars("iq").compute())
    board = each.merge(bound[["crlb_covariance", "crlb_rmse"]]).merge(_statistics(each, bound.crlb_rmse))
    board["latency"] = ("method", latencies, {"units": "s", "long_name": "time per fix"})
    return board


def _statistics(each: xr.Dataset, crlb_rmse: xr.DataArray) -> xr.Dataset:
    error = each.error
    in_metres = {
        "median_error": error.median("sample"),
        "mean_error": error.mean("sample"),
        **{f"p{p}_error": error.quantile(p / 100, "sample").drop_vars("quantile") for p in (68, 90, 95)},
        "rmse": np.sqrt((error**2).mean("sample")),
    }
    determinant = np.log(_determinant(each.covariance))
    shares = {
        "rmse_over_crlb": np.sqrt(((error / crlb_rmse) ** 2).mean("sample")),
        **{
            f"coverage_{level}": (each.mahalanobis_squared <= -2 * np.log1p(-level / 100)).mean("sample")
            for level in (68, 95)
        },
        "nll": (each.mahalanobis_squared / 2 + determinant / 2 + np.log(2 * np.pi)).mean("sample"),
        "failures": 1 - each.converged.mean("sample"),
    }
    return xr.Dataset(
        {name: values.drop_attrs().assign_attrs(units="m") for name, values in in_metres.items()}
        | {name: values.drop_attrs().assign_attrs(units="1") for name, values in shares.items()}
    )


def _determinant(covariance: xr.DataArray) -> xr.DataArray:
    return xr.apply_ufunc(np.linalg.det, covariance, input_core_dims=[["axis", "other_axis"]])


def _mahalanobis_squared(vector: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    return (vector * np.linalg.solve(covariance, vector[..., None])[..., 0]).sum(axis=-1)
