"""How pages look: ink that can be read on dark paper, sections, and failures told where they happen."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import holoviews as hv
import panel as pn
import panel_material_ui as pmui
from bokeh.models import Toolbar
from pydantic import ValidationError

from heimdall_lab.plots.style import INK, TRUTH

# Text, truth, lines of the grid; and what is filled with paper, or is written on a halo of it.
_ON_DARK = {INK: "#c8c8c8", TRUTH: "#ffffff", "#e8e8e8": "#3a3a3a", "white": "#1e1e1e"}


def inked(picture: Any, dark: bool) -> Any:
    """Fit a picture to a page: on a dark one dark ink is redrawn in light colours, and no page shows Bokeh's logo.

    Parameters
    ----------
    picture : holoviews object
        Of `heimdall_lab.plots`; it is not changed.
    dark : bool
    """
    hooks = [_without_logo, *([_lighten] if dark else [])]
    if isinstance(picture, hv.Layout):  # which takes no hooks itself
        return picture.map(lambda part: part.opts(hooks=hooks, clone=True, backend="bokeh"), [hv.Overlay, hv.Element])
    return picture.opts(hooks=hooks, clone=True, backend="bokeh")


def section(title: str, *objects: Any, **options: Any) -> pmui.Card:
    """Frame what belongs together under a title."""
    return pmui.Card(*objects, title=title, collapsible=False, **{"sizing_mode": "stretch_width", **options})


def spread(*objects: Any) -> pn.Row:
    """Lay out in a row that is as wide as the page, the first at its left and the others at its right."""
    first, *others = objects
    return pn.Row(first, pn.Spacer(sizing_mode="stretch_width"), *others, sizing_mode="stretch_width")


def failure() -> pmui.Alert:
    """Make the place where a viewer tells what went wrong; it is hidden until then."""
    return pmui.Alert(severity="error", visible=False, sizing_mode="stretch_width")


@contextmanager
def told(alert: pmui.Alert) -> Iterator[None]:
    """Show what is refused inside the block, in its own words, where the reader looks."""
    alert.visible = False
    try:
        yield
    except (ValueError, OSError) as error:
        alert.param.update(object=refusal(error), visible=True)


def refusal(error: Exception) -> str:
    """Say in one line what is refused and why."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg'][:1].lower()}{first['msg'][1:]}; change it"
    return str(error)


def _without_logo(plot: Any, _element: Any) -> None:
    for toolbar in plot.state.select({"type": Toolbar}):
        toolbar.logo = None


def _lighten(plot: Any, _element: Any) -> None:
    for model in plot.state.references():
        for name in model.properties():
            if name.endswith("_color"):
                value = getattr(model, name)
                value = value.get("value") if isinstance(value, dict) else value
                if isinstance(value, str) and value.lower() in _ON_DARK:
                    setattr(model, name, _ON_DARK[value.lower()])
