"""Estimators of the transmitter's position, vectorised over samples: the classical ones by name, and trained ones.

Each classical one takes what was measured of the signals, some the IQ too, and returns a fix with its covariance.
Positions are solved on the ellipsoid, for networks of any size; covariances are along east and
north at the fix. Trained ones are of `learned`.
"""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np
import xarray as xr

from heimdall_lab.core import geodesy
from heimdall_lab.localization import learned, observations
from heimdall_lab.localization.learned import HasTrained, Predictor
from heimdall_lab.localization.methods import METHODS, NEEDING_IQ
from heimdall_lab.localization.observations import Fix, Observations
from heimdall_lab.signals.measurements import with_measurements

Method = str | Path | Predictor | HasTrained  # a name, the path of an ONNX file, or what is trained
# Name of a method, what it does, and the degrees of freedom of its errors.
Estimator = tuple[str, Callable[[Observations, xr.Dataset], Fix], float]


def locate(dataset: xr.Dataset, method: Method) -> xr.Dataset:
    """Estimate the transmitter's position in every sample, from the IQ or what was measured of it.

    Parameters
    ----------
    dataset : xr.Dataset
        Of the contract; truth variables are not read.
    method : str, path or predictor
        One of `methods.METHODS`; or a trained localizer: the path of an ONNX file, for which onnxruntime does, or what
        holds one in memory.

    Returns
    -------
    xr.Dataset
        Dim ``sample``: ``latitude``, ``longitude`` (degrees); ``east``, ``north`` (m, on the tangent plane at the
        centroid of the present receivers); ``covariance`` (sample, axis, other_axis) m²; ``freedom``, degrees of
        freedom of the law of errors (`error_law`), infinite for a normal one; ``converged``, False where the method
        failed and the centroid of the receivers that hear the signal stands in for its fix.

    Raises
    ------
    ValueError
        If the method is unknown, needs what the dataset lacks, or the dataset breaks the contract.
    """
    estimator = _estimator(method)  # before anything is measured
    return _locate(with_measurements(dataset), estimator)


def locate_measured(dataset: xr.Dataset, method: Method) -> xr.Dataset:
    """What `locate` does with a dataset as `with_measurements` returns it."""
    return _locate(dataset, _estimator(method))


def _locate(dataset: xr.Dataset, estimator: Estimator) -> xr.Dataset:
    if dataset.sizes["sample"] == 0:
        raise ValueError("dataset: holds no samples; give at least one")
    name, estimate, freedom = estimator
    observed = observations.from_dataset(dataset)
    fix = estimate(observed, dataset)
    east, north = observations.tangent_plane(observed, fix).T
    axes = ["east", "north"]
    long_names = {"latitude": "WGS84 latitude of the fix", "longitude": "WGS84 longitude of the fix"}
    return xr.Dataset(
        {
            "latitude": ("sample", fix.latitude_deg, {"units": "degrees_north", "long_name": long_names["latitude"]}),
            "longitude": (
                "sample",
                geodesy.wrapped(fix.longitude_deg),
                {"units": "degrees_east", "long_name": long_names["longitude"]},
            ),
            "east": ("sample", east, {"units": "m", "long_name": "east of the receivers' centroid"}),
            "north": ("sample", north, {"units": "m", "long_name": "north of the receivers' centroid"}),
            "covariance": (("sample", "axis", "other_axis"), fix.covariance, {"units": "m2"}),
            "freedom": (
                "sample",
                np.where(fix.converged, freedom, np.inf),
                {"units": "1", "long_name": "degrees of freedom of the law of errors"},
            ),
            "converged": ("sample", fix.converged, {"long_name": "the method found this fix itself"}),
        },
        coords={"sample": dataset.sample, "axis": axes, "other_axis": axes},
        attrs={"method": name},
    )


def _estimator(method: Method) -> Estimator:
    if not isinstance(method, str) or learned.is_path(method):
        predictor = learned.predictor(method)
        return predictor.name, partial(learned.fix, predictor), predictor.freedom
    if method not in METHODS:
        raise ValueError(f"method: {method!r} is unknown; choose one of {', '.join(METHODS)}, or an .onnx file")
    estimate = getattr(import_module(f"heimdall_lab.localization.{METHODS[method]}"), method)
    return method, estimate if method in NEEDING_IQ else lambda observed, _: estimate(observed), np.inf
