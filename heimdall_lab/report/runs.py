"""Training with pictures of the result: `hl.train` and the command, one layer above training, which draws nothing."""

from pathlib import Path
from typing import Any

import holoviews as hv
import xarray as xr

from heimdall_lab import plots
from heimdall_lab.learning import training
from heimdall_lab.learning.training import Run


def train(dataset: xr.Dataset | str | Path, architecture: str, **options: Any) -> Run:
    """Train a localizer, or go on with training, and log pictures of the result.

    Parameters
    ----------
    dataset : xr.Dataset or path
        Simulated.
    architecture : str
        Of `registry.ARCHITECTURES`.
    **options
        ``out``, the folder of the run; ``parameters`` of the architecture; ``tracking`` in MLflow, True by default;
        ``progress``; ``verify``, whether the dataset's checksums are checked first; and the fields of
        `options.Options`: ``epochs``, ``batch_size``, ``learning_rate``, ``patience``, ``seed``, …

    Returns
    -------
    training.Run

    Raises
    ------
    ValueError, KeyboardInterrupt
        As `training.train`.
    """
    return training.train(dataset, architecture, **{"pictures": pictures, **options})


def pictures(run: Run) -> dict[str, str]:
    """Draw the losses of a run, the errors of its fixes and the calibration of their ellipses, as HTML by file name."""
    drawn = {
        "losses.html": plots.learning_curves(run.history.set_index("epoch")),
        "error_cdf.html": plots.error_cdf(run.errors),
        "calibration.html": plots.calibration(run.errors),
    }
    return {name: hv.renderer("bokeh").static_html(picture) for name, picture in drawn.items()}
