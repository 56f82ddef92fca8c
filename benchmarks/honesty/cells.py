"""Judge the fixes of one method in one dataset: a cell of the table."""

from typing import NamedTuple

import numpy as np
import scipy.stats
import xarray as xr

from heimdall_lab.localization import estimators, learned
from heimdall_lab.localization.errors import position_errors
from heimdall_lab.localization.methods import NEEDING_IQ
from heimdall_lab.localization.methods import methods as methods_for
from heimdall_lab.signals.measurements import with_measurements
from honesty import rows
from honesty.rows import Row

CHECKED = ("yes", "weakly", "no")
SILENT_LEVEL = 0.99  # a truth outside of the ellipse of this level is a fix that is wrong
_CONFIDENCE = 0.95
MOST_SILENT_SHARE = 0.02


class Share(NamedTuple):
    """How many of how many."""

    number: int
    of: int

    @property
    def value(self) -> float:
        """The share, NaN of none."""
        return self.number / self.of if self.of else np.nan

    @property
    def lower_limit(self) -> float:
        """What the share of a larger number exceeds with 95 % confidence (Clopper and Pearson, one-sided)."""
        if not self.of:
            return np.nan
        test = scipy.stats.binomtest(self.number, self.of, alternative="greater")
        return float(test.proportion_ci(_CONFIDENCE, method="exact").low)


class Cell(NamedTuple):
    """How honest the fixes of one method in one dataset are."""

    method: str
    converged: Share  # of all scenes
    checked: dict[str, Share]  # of the converged, by CHECKED
    coverage_68: Share  # of the converged: truths in their ellipses
    coverage_95: Share
    silent: Share  # of the converged: truths outside of the 99 % ellipse
    silent_checked: Share  # of the converged that are checked: the same
    median_m: float  # error of all scenes
    relative_rmse: float  # root mean square of errors over bounds, of all scenes
    relative_rmse_converged: float

    @property
    def exceeds(self) -> bool:
        """Whether more of the checked fixes are silently wrong than may be."""
        return self.silent_checked.lower_limit > MOST_SILENT_SHARE


def judge(row: Row, scenes: int, few: int) -> list[Cell]:
    """Make the cells of a row, of every method that the dataset allows.

    Parameters
    ----------
    row : Row
    scenes : int
        To simulate.
    few : int
        Of them for methods on IQ, which are slow.
    """
    dataset = with_measurements(rows.disturbed_dataset(row, scenes))
    methods = {name: name for name in methods_for(dataset)}
    predictors = {name: learned.predictor(path) for name, path in learned.pretrained().items()}
    unfit = learned.incompatibilities(predictors, dataset)
    fitting = {name: each for name, each in predictors.items() if name not in unfit}
    slow = {*NEEDING_IQ, *(name for name, each in fitting.items() if each.window is not None)}
    bound_m = rows.bound_m(dataset.drop_vars(["iq", "features"], errors="ignore"))
    cells = []
    for name, method in (methods | fitting).items():
        count = few if name in slow else dataset.sizes["sample"]
        part = dataset.isel(sample=slice(count))
        cells.append(cell(name, part, estimators.locate_measured(part, method), bound_m[:count]))
    return cells


def cell(method: str, dataset: xr.Dataset, fixes: xr.Dataset, bound_m: np.ndarray) -> Cell:
    """Judge fixes against a dataset's truth and bounds (S,) m."""
    errors = position_errors(dataset, fixes)
    level, converged = errors.level.values, fixes.converged.values
    checked = fixes.checked.values
    wrong = converged & ~(level <= SILENT_LEVEL)  # an ellipse that is unknown holds nothing
    fully = converged & (checked == "yes")
    relative = errors.error.values / bound_m
    number = int(converged.sum())
    return Cell(
        method=method,
        converged=Share(number, len(converged)),
        checked={value: Share(int((converged & (checked == value)).sum()), number) for value in CHECKED},
        coverage_68=Share(int((converged & (level <= 0.68)).sum()), number),
        coverage_95=Share(int((converged & (level <= 0.95)).sum()), number),
        silent=Share(int(wrong.sum()), number),
        silent_checked=Share(int((wrong & fully).sum()), int(fully.sum())),
        median_m=float(np.nanmedian(errors.error.values)),
        relative_rmse=_root_mean_square(relative),
        relative_rmse_converged=_root_mean_square(relative[converged]),
    )


def _root_mean_square(values: np.ndarray) -> float:
    """Of those that are known; NaN of none."""
    known = values[np.isfinite(values)]
    return float(np.sqrt((known**2).mean())) if len(known) else np.nan
