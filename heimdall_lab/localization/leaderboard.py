"""Errors of fixes against the truth and the Cramér-Rao bound, and the leaderboard of methods."""

import time
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from heimdall_lab.core import geodesy
from heimdall_lab.core.progress import Report
from heimdall_lab.datasets import store
from heimdall_lab.localization import bounds, error_law, estimators, learned
from heimdall_lab.localization.estimators import Method
from heimdall_lab.localization.learned import Predictor
from heimdall_lab.signals import pairs

_AXES = {"axis": ["east", "north"]}

BINS = {  # lower edges of what the leaderboard is divided by; each bin ends where the next begins
    "snr": (-np.inf, 10.0, 20.0, 30.0, 40.0),  # mean of the receivers with signal, dB
    "gdop": (0.0, 1.5, 2.0, 3.0, 5.0, 10.0),
    "receivers": (0, 3, 4, 5, 6, 7, 8, 10, 13),  # with signal
}


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
        ``mahalanobis_squared``, of the error under the fix's own covariance; ``level``, of the ellipse through the
        truth: the share of errors that the fix itself expects to be smaller.
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
    level = xr.apply_ufunc(error_law.level, squared, fixes.freedom)
    return xr.Dataset(
        {
            "error": distance.assign_attrs(units="m", long_name="distance from the true position"),
            "error_vector": vector.assign_attrs(units="m", long_name="fix minus truth"),
            "mahalanobis_squared": squared.assign_attrs(units="1", long_name="squared error over covariance"),
            "level": level.assign_attrs(units="1", long_name="level of the ellipse through the truth"),
        }
    )


def compare(
    dataset: xr.Dataset, methods: Method | Iterable[Method] | None = None, progress: Report | None = None
) -> xr.Dataset:
    """Locate with several methods and rank them: the leaderboard.

    Failed fixes stay in every statistic, at the position that stands in for them; samples whose true position is not
    known are located, and in none.

    Parameters
    ----------
    dataset : xr.Dataset
        With truth, and IQ or what was measured of it.
    methods : method or iterable of methods, optional
        As `estimators.locate` takes them; by default all of `estimators.methods` that the dataset allows. Trained
        ones are named as `learned.labels` says.
    progress : callable, optional
        Called before each method with the number of those that are done and the name of the next, and before the
        delays are measured; what it raises ends the comparison.

    Returns
    -------
    xr.Dataset
        Dim ``method``: ``median_error``, ``mean_error``, ``p68_error``, ``p90_error``, ``p95_error``, ``rmse`` (m);
        ``rmse_over_crlb``, the root mean square of each error over its own scene's bound; ``coverage_68`` and
        ``coverage_95``, shares of truths inside the ellipses; ``nll``, mean negative log likelihood of the truth
        (position in m); ``failures``, share of fixes that did not converge; ``latency`` s per fix, measurement from
        the IQ included; ``parameters``, number of trained weights, 0 of classical methods; ``seen``, share of the
        samples that a method was trained with or chosen by, on which its errors tell nothing. Dims (method, sample):
        the fixes and their ``error``, ``error_vector``, ``mahalanobis_squared`` and ``level``. Dim ``sample``:
        ``crlb_rmse`` m, and ``crlb_covariance``; ``scene_snr`` dB, ``scene_gdop`` and ``scene_receivers``, by which
        every statistic is given again as ``…_by_snr`` (method, snr_bin), ``…_by_gdop`` (method, gdop_bin) and
        ``…_by_receivers`` (method, receivers_bin) with the number of samples as ``samples_by_…``; NaN in bins without
        samples.

    Raises
    ------
    ValueError
        If a method is unknown, or the dataset lacks the true positions or breaks the contract.
    """
    chosen = _chosen(estimators.methods(dataset) if methods is None else methods)
    known = np.flatnonzero((dataset.transmitter_latitude + dataset.transmitter_longitude).notnull())
    if not len(known):
        raise ValueError("transmitter_latitude: is unknown in every sample; compare needs the true positions")
    report = progress or (lambda *_: None)
    report(0, "measuring delays")
    began = time.perf_counter()
    measured = pairs.pair_features(dataset)
    measuring_s = time.perf_counter() - began
    fixes, latencies = [], []
    for done, (name, method) in enumerate(chosen.items()):
        report(done, name)
        began = time.perf_counter()
        fixes.append(estimators.locate(dataset, method, measured).drop_attrs(deep=False))
        latencies.append((measuring_s + time.perf_counter() - began) / dataset.sizes["sample"])
    each = xr.concat(fixes, dim="method").assign_coords(method=list(chosen))
    each = each.merge(errors(dataset, each)).transpose("method", "sample", ...)
    truth = dataset.drop_vars(["iq", "features", "spectrogram"], errors="ignore").compute()
    bound = bounds.scene_crlb(truth)
    placed, placed_rmse = each.isel(sample=known), bound.crlb_rmse.isel(sample=known)
    overall = _statistics(placed, placed_rmse)
    board = each.merge(bound[["crlb_covariance", "crlb_rmse"]]).merge(overall)
    board["latency"] = ("method", latencies, {"units": "s", "long_name": "time per fix"})
    board = board.assign(_of_training(dataset, chosen.values()))
    for name, values in _conditions(truth).items():
        board[f"scene_{name}"] = values
        board = board.merge(_by_bin(placed, placed_rmse, name, values.isel(sample=known), overall))
    return board


def save(board: xr.Dataset, folder: str | Path) -> None:
    """Write a leaderboard to ``leaderboard.nc``, whole, and ``leaderboard.csv``, the statistics as `table` gives them.

    Parameters
    ----------
    board : xr.Dataset
        Result of `compare`.
    folder : path
        Made if it is missing; files of these names in it are replaced.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    store.write_atomically(Path(folder) / "leaderboard.nc", lambda path: board.to_netcdf(path))
    text = table(board).to_csv(index=False)
    store.write_atomically(Path(folder) / "leaderboard.csv", lambda path: store.write_text(path, text))


def table(board: xr.Dataset) -> pd.DataFrame:
    """List the statistics of a leaderboard: a row for each method and bin, ``all`` samples first.

    Returns
    -------
    pandas.DataFrame
        Columns ``method``, ``by`` (all, snr, gdop, receivers), ``bin``, ``samples``, and each statistic of `compare`.
    """
    whole = [str(name) for name in board if board[name].dims == ("method",)]
    samples = int(board.samples_by_receivers.sum())  # these bins leave no number out
    parts = [board[whole].to_dataframe().reset_index().assign(by="all", bin="all", samples=samples)]
    for by in BINS:
        names = {name: name.removesuffix(f"_by_{by}") for name in map(str, board) if name.endswith(f"_by_{by}")}
        part = board[list(names)].rename(names).to_dataframe().reset_index()
        parts.append(part.rename(columns={f"{by}_bin": "bin"}).assign(by=by))
    rows = pd.concat(parts, ignore_index=True)
    return rows[["method", "by", "bin", "samples", *whole]]


def nearest_sample(dataset: xr.Dataset, latitude_deg: float, longitude_deg: float) -> int:
    """Label of the sample whose transmitter is nearest to a position.

    Raises
    ------
    ValueError
        If no true position is known.
    """
    latitude, longitude = (dataset[f"transmitter_{name}"].values for name in ("latitude", "longitude"))
    distance_m, _ = geodesy.geodesic(latitude, longitude, np.full(len(latitude), latitude_deg), longitude_deg)
    if not np.isfinite(distance_m).any():
        raise ValueError("transmitter_latitude: is unknown in every sample; none is nearest")
    return int(dataset.sample.values[np.nanargmin(distance_m)])


def bin_of(values: np.ndarray, by: str) -> np.ndarray:
    """Place values, of scenes, in the bins of a leaderboard: positions along ``…_bin``, one beyond the last for NaN.

    >>> bin_of(np.array([9.9, 10.0, 99.0, np.nan]), "snr").tolist()
    [0, 1, 4, 5]
    """
    return np.digitize(values, (*BINS[by], np.inf)) - 1


def _chosen(methods: Any) -> dict[str, str | Predictor]:
    """Give each method its name on the board, and read those that are files."""
    one = isinstance(methods, str | Path) or not isinstance(methods, Iterable)
    given: list[Any] = [methods] if one else list(methods)
    distinct = {str(each) if isinstance(each, str | Path) else id(each): each for each in given}
    classical = estimators.methods()
    names = [key for key in distinct if isinstance(key, str) and not learned.is_path(key)]
    if unknown := [name for name in names if name not in classical]:
        raise ValueError(
            f"methods: {unknown[0]!r} is unknown; choose from {', '.join(classical)}, or give an .onnx file"
        )
    if not distinct:
        raise ValueError(f"methods: none is given; choose from {', '.join(classical)}, or give an .onnx file")
    trained = {key: learned.predictor(each) for key, each in distinct.items() if key not in names}
    labels = learned.labels([distinct[key] for key in trained], list(trained.values()))
    named = dict(zip(trained, labels, strict=True))
    return {named.get(key, str(key)): trained.get(key, str(key)) for key in distinct}


def _of_training(dataset: xr.Dataset, methods: Iterable[str | Predictor]) -> xr.Dataset:
    """Number of weights, and the share of samples that are not new, of each method."""
    trained = [None if isinstance(method, str) else method for method in methods]
    weights = [0 if each is None else each.num_parameters for each in trained]
    seen = [0.0 if each is None else learned.seen(each, dataset) for each in trained]
    return xr.Dataset(
        {
            "parameters": ("method", weights, {"units": "1", "long_name": "trained weights"}),
            "seen": ("method", seen, {"units": "1", "long_name": "share of samples that training used"}),
        }
    )


def _conditions(truth: xr.Dataset) -> dict[str, xr.DataArray]:
    """What a scene's difficulty is told by, each (sample)."""
    with_signal = truth.receiver_present & truth.get("signal_present", truth.receiver_present)
    snr = truth.snr.where(with_signal)
    return {
        "snr": snr.mean("receiver").assign_attrs(units="dB", long_name="mean SNR of the receivers with signal"),
        "gdop": truth.gdop,
        "receivers": with_signal.sum("receiver").assign_attrs(units="1", long_name="receivers with signal"),
    }


def _by_bin(
    each: xr.Dataset, crlb_rmse: xr.DataArray, by: str, values: xr.DataArray, overall: xr.Dataset
) -> xr.Dataset:
    """Divide the samples into bins and take the statistics of each, named and labelled as those of all samples."""
    member = bin_of(values.values, by)
    parts = []
    for number in range(len(BINS[by])):
        rows = np.flatnonzero(member == number)
        part = _statistics(each.isel(sample=rows), crlb_rmse.isel(sample=rows)) if len(rows) else overall * np.nan
        parts.append(part.assign(samples=len(rows)))
    binned = xr.concat(parts, dim=f"{by}_bin", data_vars="all", combine_attrs="override")
    names = {name: f"{name}_by_{by}" for name in binned.data_vars}
    return binned.assign_coords({f"{by}_bin": _bin_names(by)}).rename(names).transpose("method", ...)


def _bin_names(by: str) -> list[str]:
    """Name each bin by its edges, as ``10 … 20``.

    >>> _bin_names("snr")
    ['< 10', '10 … 20', '20 … 30', '30 … 40', '≥ 40']
    """
    edges = BINS[by]
    if by == "receivers":
        names = [f"{low:g}" if low == above - 1 else f"{low:g} … {above - 1:g}" for low, above in pairwise(edges)]
    else:
        names = [f"{low:g} … {high:g}" for low, high in pairwise(edges)]
    names[0] = f"< {edges[1]:g}"
    return [*names, f"≥ {edges[-1]:g}"]


def _statistics(each: xr.Dataset, crlb_rmse: xr.DataArray) -> xr.Dataset:
    error = each.error
    in_metres = {
        "median_error": error.median("sample"),
        "mean_error": error.mean("sample"),
        **{f"p{p}_error": error.quantile(p / 100, "sample").drop_vars("quantile") for p in (68, 90, 95)},
        "rmse": np.sqrt((error**2).mean("sample")),
    }
    determinant = np.log(_determinant(each.covariance))
    density = xr.apply_ufunc(error_law.log_density, each.mahalanobis_squared, determinant, each.freedom)
    shares = {
        "rmse_over_crlb": np.sqrt(((error / crlb_rmse) ** 2).mean("sample")),
        **{f"coverage_{level}": (each.level <= level / 100).mean("sample") for level in (68, 95)},
        "nll": -density.mean("sample"),
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
