"""Tables that are read, not edited: in pages where they are long, and with a row that stays selected."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import panel as pn

FIX_TITLES = {  # of fixes, receivers and time differences
    "sample": "window",
    "frequency_mhz": "frequency, MHz",
    "reference": "reference",
    "latitude_deg": "lat, °",
    "longitude_deg": "lon, °",
    "altitude_m": "altitude, m",
    "position_std_m": "σ of position, m",
    "sigma_east_m": "σ E, m",
    "sigma_north_m": "σ N, m",
    "status": "status",
    "checked": "checked",
    "error_m": "error, m",
    "crlb_rmse_m": "bound (normal law), m",
    "crlb_rmse_genie_m": "bound (genie's law), m",
    "later_than": "later than",
    "tdoa_us": "by, µs",
    "noise_std_us": "σ of noise, µs",
    "total_std_us": "σ in all, µs",
}
BUDGET_TITLES = {
    "cause": "cause",
    "rms_error_m": "rms error, m",
    "share_percent": "of the variance, %",
    "most_by": "most by",
}
DETAIL_TITLES = {"quantity": "quantity", "value": "value"}


def make_table(titles: Mapping[str, str], page_size: int, **options: Any) -> pn.widgets.Tabulator:
    """Make an empty table of columns, given as name and heading; ``options`` are Tabulator's."""
    return pn.widgets.Tabulator(
        pd.DataFrame(columns=list(titles)),
        titles=dict(titles),
        page_size=page_size,
        disabled=True,
        show_index=False,
        sizing_mode="stretch_width",
        **options,
    )


def show_rows(table: pn.widgets.Tabulator, rows: pd.DataFrame) -> None:
    """Show rows, in pages where there are many."""
    table.param.update(value=rows, pagination="local" if len(rows) > (table.page_size or 0) else None)


def select_row(table: pn.widgets.Tabulator, keys: Sequence[str], key: str) -> None:
    """Select the row whose key it is, of the keys of all rows; none where it is not among them."""
    table.selection = [list(keys).index(key)] if key in keys else []
