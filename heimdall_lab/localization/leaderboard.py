"""The leaderboard of methods: `compare` makes it, tables and text show it."""

import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from heimdall_lab.core.files import Write, make_folder, write_files
from heimdall_lab.core.progress import ProgressCallback
from heimdall_lab.core.text import length_text
from heimdall_lab.datasets import integrity, schema
from heimdall_lab.datasets.netcdf import write_netcdf
from heimdall_lab.localization import bounds, estimators, learned
from heimdall_lab.localization.compared_methods import failure_attribute, named_methods
from heimdall_lab.localization.delay_law import laws_of
from heimdall_lab.localization.errors import (
    BINS,
    bin_names,
    bin_of,
    bound_ratios,
    error_statistics,
    position_errors,
)
from heimdall_lab.localization.estimators import Method
from heimdall_lab.localization.learned import Predictor
from heimdall_lab.localization.methods import WITH_PRIOR
from heimdall_lab.localization.methods import methods as methods_for
from heimdall_lab.signals import pairs
from heimdall_lab.signals.measurements import with_measurements

_JOINT_BOUNDS = "joint_bounds"  # attribute of a leaderboard
_TIMED_SCENES = 4  # that are measured for their time alone


def compare(
    dataset: xr.Dataset,
    methods: Method | Iterable[Method] | None = None,
    progress: ProgressCallback | None = None,
    verify: bool = True,
) -> xr.Dataset:
    """Locate with several methods and rank them: the leaderboard.

    What is no fix stays in every statistic, at its best candidate; samples whose true position is not
    known, and references, whose position is known beforehand, are located, and in none.

    Parameters
    ----------
    dataset : xr.Dataset
        With truth, and IQ or what was measured of it.
    methods : method or iterable of methods, optional
        As `estimators.locate` takes them; by default all of `methods` that the dataset allows. Trained
        ones are named as `learned.labels` says.
    progress : callable, optional
        Called before each method with the number of those that are done and the name of the next, and while delays
        are measured; what it raises ends the comparison.
    verify : bool
        Check the shards that a lazy dataset is read from against their checksums first.

    Returns
    -------
    xr.Dataset
        Dim ``method``: ``median_error``, ``mean_error``, ``p68_error``, ``p90_error``, ``p95_error``, ``rmse`` (m);
        ``rmse_over_crlb``, the root mean square of each error over its own scene's bound, taking delays as normal, and
        where links are late ``rmse_over_crlb_genie`` and ``rmse_over_crlb_mixture`` too (`delay_law`);
        ``coverage_68`` and ``coverage_95``, shares of truths inside the ellipses; ``nll``, mean negative log likelihood
        of the truth (position in m); ``failures``, share of fixes that did not converge; over those that converged
        ``median_error_converged`` (m), ``rmse_over_crlb_converged`` and so on, ``coverage_68_converged``,
        ``coverage_95_converged``, and ``silently_wrong``, the share with the truth outside their 99 % ellipses, 1 % of
        a perfect method (NaN where none converged); ``latency`` s per fix, measurement from
        the IQ included; ``parameters``, number of trained weights, 0 of classical methods; ``seen``, share of the
        samples that a method was trained with or chosen by, on which its errors mean nothing; ``prior``, whether it
        takes anything for known of where transmitters are, which the bounds do not. Dims (method, sample):
        the fixes and their ``error``, ``error_vector``, ``mahalanobis_squared``, ``level`` and ``log_density``, judged
        with the error of the true positions themselves, where the dataset says it. Dim ``sample``: ``reference``,
        whether it is one; the bounds as `bounds.crlb_by_law` gives them, joint where emissions share clocks, as the
        attribute ``joint_bounds`` then says; ``scene_snr`` dB, ``scene_gdop`` and ``scene_receivers``, by which every
        statistic is given again as ``…_by_snr`` (method, snr_bin), ``…_by_gdop`` (method, gdop_bin) and
        ``…_by_receivers`` (method, receivers_bin) with the number of samples as ``samples_by_…``; NaN in bins without
        samples. Methods that fail are left off the board, if others do not: the log and the attribute ``failed``, JSON
        of names and reasons, say why.

    Raises
    ------
    ValueError
        If a method is unknown, all of them fail, the dataset lacks the true positions, holds references alone or
        breaks the contract, or a shard is damaged.
    """
    with integrity.kept(dataset):
        return _compare(dataset, methods, progress, verify)


def _compare(dataset: xr.Dataset, methods: Any, progress: ProgressCallback | None, verify: bool) -> xr.Dataset:
    chosen, failed = named_methods(methods_for(dataset) if methods is None else methods)
    known = _tested(dataset)
    report = progress or (lambda *_: None)
    if verify:
        report(0, "verifying checksums")
        integrity.check_origin(dataset)
    report(0, "measuring delays")
    dataset = with_measurements(dataset, progress and (lambda done, note: report(0, f"{done or ''} {note}".strip())))
    measuring_s = _measuring_s(dataset)
    fixes: dict[str, xr.Dataset] = {}
    latencies = []
    for done, (name, method) in enumerate(chosen.items()):
        report(done, name)
        began = time.perf_counter()
        try:
            fixes[name] = estimators.locate_measured(dataset, method).drop_attrs(deep=False)
        except ValueError as error:
            failed[name] = error
            continue
        latencies.append(measuring_s + (time.perf_counter() - began) / dataset.sizes["sample"])
    reasons = failure_attribute(failed, fixes)
    if joint_bounds := bounds.joint_bounds_sentence(dataset.attrs):
        reasons |= {_JOINT_BOUNDS: joint_bounds}
    each = xr.concat(fixes.values(), dim="method").assign_coords(method=list(fixes)).assign_attrs(reasons)
    each = each.merge(position_errors(dataset, each)).transpose("method", "sample", ...)
    truth = dataset.drop_vars(["iq", "features", "spectrogram"], errors="ignore").compute()
    bound = bounds.crlb_by_law(truth)
    with_truth = each.merge(bound).isel(sample=known)
    overall = _statistics(with_truth)
    board = each.merge(bound).merge(overall)
    board["reference"] = ("sample", schema.references(dataset), {"long_name": "position is known beforehand"})
    board["latency"] = ("method", latencies, {"units": "s", "long_name": "time per fix"})
    board = board.assign(_method_properties(dataset, [chosen[name] for name in fixes])).assign_attrs(reasons)
    for name, values in _scene_conditions(truth).items():
        board[f"scene_{name}"] = values
        board = board.merge(_binned_statistics(with_truth, name, values.isel(sample=known), overall))
    return board


def _tested(dataset: xr.Dataset) -> np.ndarray:
    """Positions along ``sample`` of those that count: whose true position is known, and not beforehand."""
    known = (dataset.transmitter_latitude + dataset.transmitter_longitude).notnull().values
    if not known.any():
        raise ValueError("transmitter_latitude: is unknown in every sample; compare needs the true positions")
    tested = np.flatnonzero(known & ~schema.references(dataset))
    if not len(tested):
        raise ValueError(
            "reported_latitude: all samples of known true positions are references, which are no tests; give some that "
            "are none"
        )
    return tested


def _measuring_s(dataset: xr.Dataset) -> float:
    """Time to measure one scene of a dataset that is measured here, which counts where that was done before, too."""
    if schema.MEASURED_OF not in dataset:
        return 0.0
    few = dataset.isel(sample=slice(_TIMED_SCENES)).load()
    for _ in range(2):  # the first time loads what is needed
        began = time.perf_counter()
        pairs.pair_features(few)
    return (time.perf_counter() - began) / few.sizes["sample"]


def save(board: xr.Dataset, folder: str | Path) -> None:
    """Write a leaderboard to ``leaderboard.nc``, and its statistics as `table` gives them to ``leaderboard.csv``.

    Both files appear together.

    Parameters
    ----------
    board : xr.Dataset
        Result of `compare`.
    folder : path
        Made if it is missing; files of these names in it are replaced.

    Raises
    ------
    UnwritableError
        If they cannot be written.
    """
    make_folder(Path(folder))
    write_files(output(board, folder), needed_bytes=board.nbytes)


def output(board: xr.Dataset, folder: str | Path) -> dict[Path, Write]:
    """The files of `save`, and how each is made, for `files.write_files` to write them together with others."""
    text = table(board).to_csv(index=False).encode()
    return {
        Path(folder) / "leaderboard.nc": lambda path: write_netcdf(board, path),
        Path(folder) / "leaderboard.csv": lambda path: path.write_bytes(text),
    }


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


def _method_properties(dataset: xr.Dataset, methods: Iterable[str | Predictor]) -> xr.Dataset:
    """Number of weights, the share of samples that are not new, and whether there is a prior, of each method."""
    methods = list(methods)
    prior = [not isinstance(method, str) or method in WITH_PRIOR for method in methods]
    trained = [None if isinstance(method, str) else method for method in methods]
    weights = [0 if each is None else each.num_parameters for each in trained]
    seen = [0.0 if each is None else learned.share_in_training(each, dataset) for each in trained]
    return xr.Dataset(
        {
            "parameters": ("method", weights, {"units": "1", "long_name": "trained weights"}),
            "seen": ("method", seen, {"units": "1", "long_name": "share of samples that training used"}),
            "prior": ("method", prior, {"long_name": "takes anything for known of where transmitters are"}),
        }
    )


def _scene_conditions(truth: xr.Dataset) -> dict[str, xr.DataArray]:
    """Conditions of each scene that the bins are made by, each (sample)."""
    with_signal = truth.receiver_present & truth.get("signal_present", truth.receiver_present)
    snr = truth.snr.where(with_signal)
    return {
        "snr": snr.mean("receiver").assign_attrs(units="dB", long_name="mean SNR of the receivers with signal"),
        "gdop": truth.gdop,
        "receivers": with_signal.sum("receiver").assign_attrs(units="1", long_name="receivers with signal"),
    }


def _statistics(each: xr.Dataset) -> xr.Dataset:
    """Statistics of errors, over the bounds of all laws that there are."""
    of_laws = {
        name: values
        for law, suffix in laws_of(each).items()
        if law != "normal"
        for name, values in bound_ratios(each, each[f"crlb_rmse{suffix}"], f"rmse_over_crlb{suffix}").items()
    }
    return error_statistics(each, each.crlb_rmse).assign(of_laws)


def _binned_statistics(each: xr.Dataset, by: str, values: xr.DataArray, overall: xr.Dataset) -> xr.Dataset:
    """Divide the samples into bins and take the statistics of each, named and labelled as those of all samples."""
    member = bin_of(values.values, by)
    parts = []
    for number in range(len(BINS[by])):
        rows = np.flatnonzero(member == number)
        part = _statistics(each.isel(sample=rows)) if len(rows) else overall * np.nan
        parts.append(part.assign(samples=len(rows)))
    binned = xr.concat(parts, dim=f"{by}_bin", data_vars="all", combine_attrs="override")
    names = {name: f"{name}_by_{by}" for name in binned.data_vars}
    return binned.assign_coords({f"{by}_bin": bin_names(by)}).rename(names).transpose("method", ...)


_COLUMNS = {  # of the table: variable of the board and factor
    "median_error_m": ("median_error", 1.0),
    "p68_error_m": ("p68_error", 1.0),
    "p95_error_m": ("p95_error", 1.0),
    "rmse_m": ("rmse", 1.0),
    "rmse_over_crlb": ("rmse_over_crlb", 1.0),
    "rmse_over_crlb_converged": ("rmse_over_crlb_converged", 1.0),
    "rmse_over_crlb_genie": ("rmse_over_crlb_genie", 1.0),
    "rmse_over_crlb_genie_converged": ("rmse_over_crlb_genie_converged", 1.0),
    "rmse_over_crlb_mixture": ("rmse_over_crlb_mixture", 1.0),
    "prior": ("prior", 1),
    "coverage_68_percent": ("coverage_68", 100.0),
    "coverage_95_percent": ("coverage_95", 100.0),
    "silently_wrong_percent": ("silently_wrong", 100.0),
    "failures_percent": ("failures", 100.0),
    "latency_ms": ("latency", 1e3),
    "parameters": ("parameters", 1),
    "seen_percent": ("seen", 100.0),
}
_WHEN_FOUND = "The ratio to the left over those samples alone in which the method itself found a position."
_HEADERS = {  # as they are displayed, and what they mean
    "median_error_m": ("median", "Half of the fixes are closer to the true position than this."),
    "p68_error_m": ("p68", "68 % of the fixes are closer than this."),
    "p95_error_m": ("p95", "95 % of the fixes are closer than this; it shows the bad cases."),
    "rmse_m": ("RMSE", "Root mean square error; single wild fixes dominate it."),
    "rmse_over_crlb": (
        "RMSE/normal",
        "Root mean square, over the samples, of each error as a multiple of its own Cramér-Rao bound for normal "
        "errors: the least that geometry, noise and clocks allow a method without prior knowledge of the position (by "
        "levels alone, where clocks are not set). Values below 1 come from few samples, from methods with a prior, or "
        "from the receivers' middle, which stands in where a method observes nothing.",
    ),
    "rmse_over_crlb_converged": ("when found", _WHEN_FOUND),
    "rmse_over_crlb_genie": (
        "RMSE/genie",
        "Root mean square, over the samples, of each error as a multiple of its own Cramér-Rao bound for a genie that "
        "is told which links are late. No method without prior knowledge of the position is below 1 but by few "
        "samples, or by the receivers' middle, which stands in where it observes nothing.",
    ),
    "rmse_over_crlb_genie_converged": ("when found", _WHEN_FOUND),
    "rmse_over_crlb_mixture": (
        "RMSE/mix",
        "The same for the bound of the mixture's law, of who is not told, but knows how many links are late and by how "
        "much: it holds for methods by delays and levels alone, not for those that see by fading which are late.",
    ),
    "coverage_68_percent": (
        "in 68 %",
        "Share of true positions inside the method's own 68 % ellipse. Honest uncertainty gives 68 %; less is "
        "overconfident, more is too cautious.",
    ),
    "coverage_95_percent": ("in 95 %", "The same for the 95 % ellipse; honest is 95 %."),
    "silently_wrong_percent": (
        "wrong",
        "Silently wrong: of the samples in which the method itself found a position, the share whose true position is "
        "outside its 99 % ellipse. Honest is 1 %; more are errors that nothing warns of.",
    ),
    "failures_percent": (
        "failed",
        "Share of samples in which the method says that it has no fix. Its best candidate counts in the other columns, "
        "and where it observes nothing the middle of the receivers that hear the signal.",
    ),
    "latency_ms": ("ms/fix", "Time for one fix on the machine of this run, measuring the delays included."),
    "parameters": ("weights", "Numbers that training set; classical methods have none."),
}
MEANINGS = dict(_HEADERS.values())  # of each displayed column of the leaderboard


def leaderboard_table(board: xr.Dataset) -> pd.DataFrame:
    """Put the statistics of `compare` in a table of numbers, best median first.

    Returns
    -------
    pd.DataFrame
        One row per method (the index): ``median_error_m``, ``p68_error_m``, ``p95_error_m``, ``rmse_m``,
        ``rmse_over_crlb``, ``rmse_over_crlb_converged``, where links are late ``rmse_over_crlb_genie``,
        ``rmse_over_crlb_genie_converged`` and ``rmse_over_crlb_mixture``, ``prior`` (0 or 1), ``coverage_68_percent``,
        ``coverage_95_percent``, ``silently_wrong_percent``, ``failures_percent``, ``latency_ms``, ``parameters``,
        ``seen_percent``.
    """
    table = pd.DataFrame(
        {column: board[name].values * factor for column, (name, factor) in _COLUMNS.items() if name in board},
        index=pd.Index([str(name) for name in board.method.values], name="method"),
    )
    return table.sort_values("median_error_m", kind="stable")


def leaderboard_text(board: xr.Dataset) -> str:
    """Write the leaderboard as an aligned table for a terminal, best median first, with notes and cautions below it."""
    table = leaderboard_table(board)
    text = leaderboard_cells(table)
    header = [_two_lines(name) for name in ("method", *text.columns)]
    rows = [*zip(*header, strict=True), *([str(method), *cells] for method, *cells in text.itertuples())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for method, *cells in rows:
        right = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        lines.append("  ".join([method.ljust(widths[0]), *right]))
    return "\n".join([*lines[:2], "-" * len(lines[0]), *lines[2:], *notes(board), *cautions(table)])


def _two_lines(header: str) -> tuple[str, str]:
    """Break a header at a space or behind a slash, where its longer line is shortest; one word goes below."""
    breaks = [each.end() for each in re.finditer("[ /]", header)]
    return min(
        ((header[:end].rstrip(), header[end:]) for end in breaks),
        key=lambda lines: max(map(len, lines)),
        default=("", header),
    )


def leaderboard_cells(table: pd.DataFrame) -> pd.DataFrame:
    """Write the numbers of a leaderboard as text for display.

    Parameters
    ----------
    table : pd.DataFrame
        Result of `leaderboard_table`.

    Returns
    -------
    pd.DataFrame
        Of text, a row for each of the table's; columns are those of `MEANINGS`, with the bounds of one or two laws:
        the genie's and the mixture's where links are late, else the normal one.
    """

    def text(column: str, value: float) -> str:
        if not np.isfinite(value) or (column == "parameters" and not value):
            return "–"
        if column == "parameters":
            return f"{value:,.0f}"
        if column.endswith("_m"):
            return length_text(value)
        if column.endswith("_percent"):
            return f"{value:.0f} %"
        if column == "latency_ms":
            return f"{value:,.1f}"
        return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"

    of_other_laws = {"rmse_over_crlb", "rmse_over_crlb_converged"} if "normal" not in laws_of(table) else set()
    shown = [column for column in _HEADERS if column in table and column not in of_other_laws]
    columns = {_HEADERS[column][0]: [text(column, value) for value in table[column]] for column in shown}
    return pd.DataFrame(columns, index=table.index)


def notes(board: xr.Dataset) -> list[str]:
    """Say what a leaderboard leaves out, whether its bounds are joint, and which methods they do not hold for."""
    references = int(board["reference"].sum()) if "reference" in board else 0
    noun = "reference, whose position is" if references == 1 else "references, whose positions are"
    left_out = [f"Left out: {references} {noun} known beforehand."] if references else []
    joint = [board.attrs[_JOINT_BOUNDS]] if _JOINT_BOUNDS in board.attrs else []
    return [*left_out, *joint, *_with_prior(board)]


def _with_prior(board: xr.Dataset) -> list[str]:
    """Say which methods the bounds do not hold for, best median first."""
    table = leaderboard_table(board)
    trained = table.parameters > 0
    named = [str(name) for name in table.index[table.prior.astype(bool) & ~trained]]
    names = ", ".join([*named, *(["trained localizers"] if trained.any() else [])])
    return (
        [f"With a prior of where transmitters are, so that errors may be below the bounds: {names}."] if names else []
    )


def cautions(table: pd.DataFrame) -> list[str]:
    """Say which methods of a `leaderboard_table` were trained on samples that they are ranked by."""
    return [
        f"Beware: {method} was trained with or chosen by {share:.2g} % of these samples; compare on the test split."
        for method, share in table.seen_percent.items()
        if share > 0
    ]
