"""The frame of every page: title, navigation, light and dark theme."""

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import panel as pn
import panel_material_ui as pmui
from panel.io.resources import LOCAL_DIST
from panel.util.parameters import edit_readonly
from panel.viewable import Viewer
from panel_material_ui.template.base import Page

from heimdall_lab.app.pages.compare import Compare
from heimdall_lab.app.pages.datasets import Datasets
from heimdall_lab.app.pages.features import Features
from heimdall_lab.app.pages.geometry import Geometry
from heimdall_lab.app.pages.locate import Locate
from heimdall_lab.app.pages.train import Train

PAGES: dict[str, tuple[str, type[Viewer]]] = {
    "datasets": ("storage", Datasets),
    "geometry": ("map", Geometry),
    "features": ("scatter_plot", Features),
    "train": ("model_training", Train),
    "compare": ("leaderboard", Compare),
    "locate": ("my_location", Locate),
}
_TITLE = "heimdall_lab"
_REFRESH_MS = 1000


def page(name: str, root: Path, *, has_logout: bool = False) -> Callable[[], Page]:
    """Return the function that makes a page of ``PAGES`` over a data folder, for each visitor anew.

    ``has_logout`` is whether visitors are logged in, and may log out.
    """
    return lambda: _page(name, root, has_logout)


def _page(name: str, root: Path, has_logout: bool) -> Page:
    _, viewer_class = PAGES[name]
    if pn.state.curdoc is not None:
        # Where styles are, which Panel says as it writes the HTML: a browser that comes back later, as from a busy
        # machine, gets a page without that, and would look for them at another server.
        pn.state.curdoc.template_variables.setdefault("dist_url", LOCAL_DIST)
    frame = Page(
        title=f"{_TITLE}: {name}",
        sidebar=[_navigation(name), *([_logout()] if has_logout else [])],
        sidebar_width=200,
        site_url="./",
        busy_indicator=None,
        main=[],
    )
    with edit_readonly(frame):
        # It follows the state of the whole server, which would hold every page that there was for ever.
        frame.busy = frame.param.loading
    viewer = viewer_class(root=root, dark=frame.dark_theme)
    frame.param.watch(lambda event: viewer.param.update(dark=event.new), "dark_theme")
    frame.main = [pn.Column(viewer, sizing_mode="stretch_width", margin=(10, 20))]
    if hasattr(viewer, "refresh"):
        # Not before the page has loaded: it has no session yet.
        pn.state.onload(partial(_refresh_regularly, viewer.refresh))
    return frame


def _refresh_regularly(refresh: Callable[[], Awaitable[None]]) -> None:
    """Refresh the page that is being made, each second in which a browser shows it."""
    document: Any = pn.state.curdoc
    session = document.session_context.session

    async def refresh_if_open() -> None:
        if session.connection_count:
            await refresh()

    # In the background: else each refresh of any page would tell all browsers that the server is busy, and then not.
    pn.io.PeriodicCallback(callback=refresh_if_open, period=_REFRESH_MS, background=True, log=False).start()


def _navigation(here: str) -> pmui.MenuList:
    items = [{"label": name.capitalize(), "icon": icon, "href": name} for name, (icon, _) in PAGES.items()]
    return pmui.MenuList(items=items, active=list(PAGES).index(here), sizing_mode="stretch_width")


def _logout() -> pmui.Button:
    return pmui.Button(label="Log out", icon="logout", href="logout", variant="text", sizing_mode="stretch_width")
