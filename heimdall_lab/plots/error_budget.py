"""What the uncertainty of a fix is made of, as bars."""

import holoviews as hv
import numpy as np
import xarray as xr
from bokeh.models import NumeralTickFormatter

from heimdall_lab.core.text import length_text
from heimdall_lab.plots.style import FONT, INK

_BAR, _TOTAL = "#0072B2", "#999999"
_ROOM = 1.25  # of the axis for the longest bar, which its length is written beside


def error_budget(fixes: xr.Dataset, sample: int) -> hv.Overlay:
    """Draw the rms error of one scene's fix by each cause, the largest first, above that of all together.

    Squares add up, not bars. Without bars where the causes are not known.

    Parameters
    ----------
    fixes : xr.Dataset
        Of one method, as `estimators.locate` returns them.
    """
    budget = fixes.budget.sel(sample=sample).to_series().dropna().sort_values(ascending=False, kind="stable")
    names = [*(str(cause).replace("_", " ") for cause in budget.index), "in all"]
    lengths_m = [*budget, float(np.sqrt((budget**2).sum()))]
    error = hv.Dimension("rms_error", label="rms error of the position", unit="m")
    rows = list(zip(names, lengths_m, strict=True))[::-1] if len(budget) else []
    bars = hv.Bars([(*row, _TOTAL if row[0] == "in all" else _BAR) for row in rows], "cause", [error, "colour"])
    written = hv.Labels(
        [(name, length_m, f" {length_text(length_m)}") for name, length_m in rows], ["cause", error], "text"
    )
    return (
        bars.opts(color="colour", line_color=None, bar_width=0.7, default_tools=[], backend="bokeh")
        * written.opts(text_align="left", text_color=INK, text_font_size="10pt", default_tools=[], backend="bokeh")
    ).opts(
        invert_axes=True,
        frame_width=560,
        frame_height=230,
        xlabel="",
        ylim=(0, _ROOM * max(lengths_m) or 1.0),
        xformatter=NumeralTickFormatter(format="0,0.[00]"),
        title="What the uncertainty is made of: squares add up",
        fontsize=FONT,
        default_tools=["save"],
        toolbar="above",
        show_legend=False,
        backend="bokeh",
    )
