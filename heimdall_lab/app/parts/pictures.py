"""Pictures of which one is shown at a time."""

from collections.abc import Callable, Mapping
from typing import Any

import panel as pn
import panel_material_ui as pmui
from panel.viewable import Viewer

Draw = Callable[[], Any]


class PictureTabs(Viewer):
    """Buttons for pictures, and the chosen one; each is drawn when it is shown, and keeps its zoom."""

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        self._draw: Mapping[str, Draw] = {}
        self._panes: dict[str, pn.pane.HoloViews] = {}
        self._buttons = pmui.RadioButtonGroup(options=[], size="small")
        self._buttons.param.watch(lambda _: self._show(), "value")
        self._place = pn.Column(sizing_mode="stretch_width")

    def __panel__(self) -> pn.viewable.Viewable:
        """Lay the pictures out."""
        return pn.Column(self._buttons, self._place, sizing_mode="stretch_width")

    def set_pictures(self, draw: Mapping[str, Draw]) -> None:
        """Set what draws each picture, by title; the shown one is drawn at once, others when they are chosen."""
        self._draw = draw
        titles = list(draw)
        if self._buttons.options != titles:
            self._panes = {title: pn.pane.HoloViews(linked_axes=False) for title in titles}
            kept = self._buttons.value if self._buttons.value in titles else titles[0]
            self._buttons.param.update(options=titles, value=kept)
        self._show()

    def _show(self) -> None:
        title = self._buttons.value
        if title in self._draw:
            self._panes[title].object = self._draw[title]()
            if self._place.objects != [self._panes[title]]:
                self._place[:] = [self._panes[title]]
