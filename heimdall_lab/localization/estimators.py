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
from heimdall_lab.core.arrays import Array
from heimdall_lab.core.text import quoted
from heimdall_lab.datasets.terrain.tiles import open_terrain
from heimdall_lab.localization import altitude, ground, integrity, learned, observations, stations
from heimdall_lab.localization.integrity import Evidence, Integrity
from heimdall_lab.localization.learned import HasTrained, Predictor
from heimdall_lab.localization.methods import METHODS, TAKING_DATASET
from heimdall_lab.localization.observations import CAUSES, Fix, Observations
from heimdall_lab.localization.paths import HEIGHTS
from heimdall_lab.signals.measurements import with_measurements

Method = str | Path | Predictor | HasTrained  # a name, the path of an ONNX file, or what is trained
# Name of a method, what it does, and the degrees of freedom of its errors.
Estimator = tuple[str, Callable[[Observations, xr.Dataset], tuple[Fix, Evidence | None]], float]


def locate(
    dataset: xr.Dataset,
    method: Method,
    *,
    altitude_m: float | None = None,
    altitude_sigma_m: float = 0.0,
    terrain: str | Path | None = None,
    strict: bool = False,
) -> xr.Dataset:
    """Estimate the transmitter's position in every sample, from the IQ or what was measured of it.

    Parameters
    ----------
    dataset : xr.Dataset
        Of the contract; truth variables are not read.
    method : str, path or predictor
        One of `methods.METHODS`; or a trained localizer: the path of an ONNX file, for which onnxruntime does, or what
        holds one in memory.
    altitude_m, altitude_sigma_m : float, m
        Altitude of all transmitters above the ellipsoid, and its standard deviation, in the place of what the dataset
        says of them; else a transmitter of which it says nothing is near the ground (`altitude.altitude_prior`).
    terrain : path, optional
        Folder of SRTM or GeoTIFF tiles, which say how high the ground is at the fix.
    strict : bool
        Whether stations of recordings that contradict the others stay in (`stations.without_bad_stations`).

    Returns
    -------
    xr.Dataset
        Dim ``sample``: ``latitude``, ``longitude`` (degrees) and ``altitude_m`` with ``altitude_sigma_m``;
        ``reflection_height_m`` with ``reflection_height_sigma_m``, of sky waves, else NaN; ``east``, ``north`` (m, on
        the tangent plane at the centroid of the present receivers); ``covariance`` (sample, axis, other_axis) m², and
        ``freedom``, degrees of freedom of the law of errors (`error_law`), infinite for a normal one; ``budget``
        (sample, cause), rms error by each cause, m, and ``receiver_budget`` (sample, receiver, cause), what of that is
        each receiver's, NaN of causes that are no receiver's: squares add up; ``status``, "ok" or why it is no fix
        (`observations.STATUS`), and ``converged``, whether it is "ok"; ``rival_latitude``, ``rival_longitude`` (sample,
        rival), other places that fit as well; ``misfit``, χ² of the measurements per degree of freedom; ``suspect``,
        the receiver whose measurement agrees least with the others, −1 where it cannot be told; ``checked``: "yes",
        "weakly" or "no"; ``undetected_m``, how far a fault of one measurement just below notice would move the fix
        (`integrity`). What is no fix keeps its best candidate; only where nothing is observable the centroid of the
        receivers that hear the signal stands in for it. The attribute ``left_out`` holds the names of stations that are
        left out, and why, as JSON.

    Raises
    ------
    ValueError
        If the method is unknown, needs what the dataset lacks, the dataset breaks the contract, or the terrain holds
        no tile of the network's area or cannot be read.
    """
    estimator = _estimator(method)  # before anything is measured
    if altitude_m is None and altitude_sigma_m != 0:
        raise ValueError(f"altitude_sigma_m: {altitude_sigma_m} is given without altitude_m; give both")
    if altitude_m is not None:
        dataset = altitude.with_altitude(dataset, altitude_m, altitude_sigma_m)
    dataset = with_measurements(dataset)
    dataset = dataset if strict else stations.without_bad_stations(dataset)
    return _locate(dataset if terrain is None else _with_ground(dataset, estimator, terrain), estimator)


def with_ground(dataset: xr.Dataset, method: Method, terrain: str | Path) -> xr.Dataset:
    """State how high the ground is at the fixes that a method finds over terrain, as `locate` uses it; raises as that.

    The dataset is as `with_measurements` returns it.
    """
    return _with_ground(dataset, _estimator(method), terrain)


def _with_ground(dataset: xr.Dataset, estimator: Estimator, terrain: str | Path) -> xr.Dataset:
    if not altitude.is_near_ground(dataset).any():
        return dataset
    heights = open_terrain(terrain)
    dataset = ground.with_ground(dataset, heights)
    return ground.with_ground(dataset, heights, _locate(dataset, estimator))


def locate_measured(dataset: xr.Dataset, method: Method) -> xr.Dataset:
    """What `locate` does with a dataset as `with_measurements` returns it."""
    return _locate(dataset, _estimator(method))


def _locate(dataset: xr.Dataset, estimator: Estimator) -> xr.Dataset:
    if dataset.sizes["sample"] == 0:
        raise ValueError("dataset: holds no samples; give at least one")
    name, estimate, freedom = estimator
    observed = observations.from_dataset(dataset)
    fix, evidence = estimate(observed, dataset)
    judged = integrity.assess(fix, evidence, freedom)
    status: Array = np.where(fix.converged, judged.status, fix.status)
    heights = _heights(observed, fix, judged)
    east, north = observations.tangent_plane(observed, fix.latitude_deg, fix.longitude_deg).T
    variables = {
        "latitude": (fix.latitude_deg, "degrees_north", "WGS84 latitude of the fix"),
        "longitude": (geodesy.wrapped(fix.longitude_deg), "degrees_east", "WGS84 longitude of the fix"),
        **heights,
        "east": (east, "m", "east of the receivers' centroid"),
        "north": (north, "m", "north of the receivers' centroid"),
        "freedom": (judged.freedom, "1", "degrees of freedom of the law of errors"),
        "misfit": (judged.misfit, "1", "χ² of the measurements per degree of freedom"),
        "undetected_m": (judged.undetected_m, "m", "shift by a fault of one measurement just below notice"),
    }
    axes, causes = ["east", "north"], [*CAUSES, HEIGHTS[observed.propagation]]
    fixes = xr.Dataset(
        {
            name: ("sample", values, {"units": units, "long_name": long_name})
            for name, (values, units, long_name) in variables.items()
        },
        coords={
            "sample": dataset.sample,
            "axis": axes,
            "other_axis": axes,
            "cause": causes,
        },
        attrs={"method": name} | {key: dataset.attrs[key] for key in [stations.LEFT_OUT] if key in dataset.attrs},
    )
    by_receiver = np.full((*observed.heard.shape, len(integrity.BUDGET)), np.nan)
    if evidence is not None:
        by_receiver[..., : len(observations.CAUSES)] = judged.receiver_budget_m
    return fixes.assign(
        covariance=(("sample", "axis", "other_axis"), judged.covariance, {"units": "m2"}),
        budget=(("sample", "cause"), judged.budget_m, {"units": "m", "long_name": "rms error by cause"}),
        receiver_budget=(("sample", "receiver", "cause"), by_receiver, {"units": "m", "long_name": "its part of that"}),
        rival_latitude=(("sample", "rival"), fix.rivals[..., 0], {"units": "degrees_north"}),
        rival_longitude=(("sample", "rival"), geodesy.wrapped(fix.rivals[..., 1]), {"units": "degrees_east"}),
        suspect=("sample", judged.suspect, {"long_name": "receiver whose measurement agrees least with the others"}),
        checked=("sample", judged.checked, {"long_name": "whether a fault of one measurement would be noticed"}),
        status=("sample", status, {"long_name": "why it is no fix"}),
        converged=("sample", status == "ok", {"long_name": "the method found this fix itself"}),
    )


def _heights(observed: Observations, fix: Fix, judged: Integrity) -> dict[str, tuple[Array, str, str]]:
    """Altitude of the transmitters, and height of reflection where the ionosphere reflects: of these one is fitted."""
    fitted = fix.height_m + judged.height_m, judged.height_sigma_m
    unknown = np.full(len(fix.status), np.nan)
    of_transmitter, of_reflection = fitted, (unknown, unknown)
    if observed.propagation == "sky_wave":
        of_transmitter = observed.transmitter_altitude_m, observed.transmitter_altitude_sigma_m
        of_reflection = fitted
    return {
        "altitude_m": (of_transmitter[0], "m", "altitude above the ellipsoid"),
        "altitude_sigma_m": (of_transmitter[1], "m", "standard deviation of the altitude"),
        "reflection_height_m": (of_reflection[0], "m", "virtual height at which the ionosphere reflects"),
        "reflection_height_sigma_m": (of_reflection[1], "m", "standard deviation of that height"),
    }


def _estimator(method: Method) -> Estimator:
    if not isinstance(method, str) or learned.is_path(method):
        predictor = learned.predictor(method)
        return predictor.name, partial(learned.fix, predictor), predictor.freedom
    if method not in METHODS:
        raise ValueError(f"method: {quoted(method)} is unknown; choose one of {', '.join(METHODS)}, or an .onnx file")
    estimate = getattr(import_module(f"heimdall_lab.localization.{METHODS[method]}"), method)
    return method, estimate if method in TAKING_DATASET else lambda observed, _: estimate(observed), np.inf
