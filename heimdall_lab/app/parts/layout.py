"""Layout that pages share: the theme of pictures, sections, rows, notes, and alerts that show errors."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import holoviews as hv
import panel as pn
import panel_material_ui as pmui
from bokeh.models import Toolbar
from pydantic import ValidationError

import heimdall_lab.app.parts.early_changes
import heimdall_lab.app.parts.echoes  # noqa: F401  # whatever is laid out keeps what the server set
from heimdall_lab.app.parts.texts import Alert, Note
from heimdall_lab.core.checked import first_error
from heimdall_lab.core.text import literal
from heimdall_lab.plots.style import COAST, INK, PLACE_NAME, TRUTH

# Text, truth, lines of the grid; what is filled with paper, or is written on a halo of it; and the ground of maps.
_DARK_COLOURS = {INK: "#c8c8c8", TRUTH: "#ffffff", "#e8e8e8": "#3a3a3a", "white": "#1e1e1e"}
_DARK_COLOURS |= {COAST: "#5d7284", PLACE_NAME: "#9a9a9a"}


def apply_theme(picture: Any, dark: bool) -> Any:
    """Return a HoloViews picture for a light or dark page: dark colours become light ones, without Bokeh's logo."""
    hooks = [_remove_logo, *([_lighten] if dark else [])]
    if isinstance(picture, hv.Layout):  # which takes no hooks itself
        return picture.map(lambda part: part.opts(hooks=hooks, clone=True, backend="bokeh"), [hv.Overlay, hv.Element])
    return picture.opts(hooks=hooks, clone=True, backend="bokeh")


def section(title: str, *objects: Any, **options: Any) -> pmui.Card:
    """Make a card with a title, which may hold HTML: `literal` makes text of what came from outside."""
    return pmui.Card(*objects, title=title, collapsible=False, **{"sizing_mode": "stretch_width", **options})


def spaced_row(*objects: Any) -> pn.Row:
    """Make a row as wide as the page: the first object at its left, the others at its right."""
    first, *others = objects
    return pn.Row(first, pn.Spacer(sizing_mode="stretch_width"), *others, sizing_mode="stretch_width")


def note(text: str = "", **options: Any) -> Note:
    """Make a text with little space around its paragraphs."""
    return Note(text, stylesheets=["p { margin: 2px 0; }"], sizing_mode="stretch_width", **options)


def swatch(name: str, colour: str) -> str:
    """Write a name behind a dot of its colour, as HTML."""
    dot = f"display:inline-block;width:10px;height:10px;border-radius:5px;background:{colour};margin-right:7px"
    return f"<span style='white-space:nowrap;margin-right:12px'><span style='{dot}'></span>{literal(name)}</span>"


def error_alert() -> Alert:
    """Make a hidden alert, which `show_errors` shows."""
    return Alert(severity="error", visible=False, sizing_mode="stretch_width")


@contextmanager
def show_errors(alert: Alert, keep: bool = False) -> Iterator[None]:
    """Show the ValueError or OSError of the block in an alert, which is hidden before unless ``keep``."""
    if not keep:
        alert.visible = False
    try:
        yield
    except (ValueError, OSError) as error:
        show_error(alert, error_text(error))


def show_error(alert: Alert, message: str) -> None:
    """Show a message in an alert."""
    alert.param.update(object=message, visible=True)


def error_text(error: Exception) -> str:
    """Write an error in one line."""
    return first_error(error) if isinstance(error, ValidationError) else str(error)


def _remove_logo(plot: Any, _element: Any) -> None:
    for toolbar in plot.state.select({"type": Toolbar}):
        toolbar.logo = None


def _lighten(plot: Any, _element: Any) -> None:
    for model in plot.state.references():
        for name in model.properties():
            if name.endswith("_color"):
                value = getattr(model, name)
                value = value.get("value") if isinstance(value, dict) else value
                if isinstance(value, str) and value.lower() in _DARK_COLOURS:
                    setattr(model, name, _DARK_COLOURS[value.lower()])
