"""Text that a page shows as it is: names and messages from outside are neither HTML nor Markdown.

Panel and panel-material-ui take texts, alerts and titles of cards for Markdown that may hold HTML. What a page shows of
files, names, requests and errors goes through `core.text.literal`, by itself or in one of these components.
"""

from typing import Any

import panel as pn
import panel_material_ui as pmui

from heimdall_lab.core.text import literal

_BOLD = "**"


class Text(pmui.Typography):
    """Words that are shown as they are."""

    def _transform_object(self, obj: Any) -> dict[str, Any]:
        return super()._transform_object(literal(obj or ""))


class Alert(pmui.Alert):
    """A message that is shown as it is."""

    def _process_param_change(self, params: dict[str, Any]) -> dict[str, Any]:
        if "object" in params:
            params = {**params, "object": literal(params["object"] or "")}
        return super()._process_param_change(params)


class Note(pn.pane.Markdown):
    """Paragraphs that are shown as they are but for ``**``, between which words are bold."""

    def _transform_object(self, obj: Any) -> dict[str, Any]:
        return super()._transform_object(_BOLD.join(map(literal, str(obj or "").split(_BOLD))))


class Lines(pn.pane.Str):
    """Lines of a file, which are shown as they are, in a font of one width."""

    def _transform_object(self, obj: Any) -> dict[str, Any]:
        return super()._transform_object(literal(obj or ""))
