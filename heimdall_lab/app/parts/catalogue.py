"""The datasets that a page offers."""

import asyncio
from pathlib import Path
from typing import Any

import pandas as pd
import panel as pn
import panel_material_ui as pmui

from heimdall_lab.app.parts import look
from heimdall_lab.app.service import watch


def complete(root: Path) -> dict[str, str]:
    """Folders of the complete datasets below a folder, by their place in it.

    Raises
    ------
    ValueError
        If there is none, or no such folder.
    """
    found = watch.datasets(root)
    folders = _by_place(root, found)
    if not folders:
        unfinished = f" ({len(found)} are unfinished or unreadable)" if len(found) else ""
        raise ValueError(f"dataset: {str(root)!r} holds no complete one{unfinished}; generate a dataset first")
    return folders


async def renew(viewer: Any, root: Path, alert: pmui.Alert) -> None:
    """Offer the datasets that are complete by now; what is chosen stays, and one is chosen where none was.

    Parameters
    ----------
    viewer : param.Parameterized
        Its parameter ``dataset`` is a Selector of folders, by their place in the data folder.
    root : Path
        The data folder.
    alert : Alert
        Where what is refused is told.
    """
    seen = await asyncio.to_thread(watch.watch, root)
    folders = _by_place(root, seen.datasets)
    chosen = viewer.dataset
    if chosen is not None and chosen not in folders.values():
        folders[str(Path(chosen).relative_to(root))] = chosen
    if folders == viewer.param.dataset.get_range():
        return
    viewer.param.dataset.objects = folders
    if chosen is None:
        with look.told(alert):
            viewer.dataset = asked(folders)


def _by_place(root: Path, found: pd.DataFrame) -> dict[str, str]:
    """Folders of the complete ones of listed datasets."""
    folders = [Path(path) for path in found[found.state == "complete"].path]
    return {str(folder.relative_to(root)): str(folder) for folder in folders}


def asked(offered: dict[str, str]) -> str:
    """Choose the dataset that the page's address names (``?dataset=NAME``), or the first.

    Raises
    ------
    ValueError
        If the address names one that is not offered.
    """
    location = pn.state.location
    name = location.query_params.get("dataset") if location else None
    if name is None:
        return next(iter(offered.values()))
    if str(name) not in offered:
        raise ValueError(f"dataset: {str(name)!r} is not a complete one; choose one of {', '.join(offered)}")
    return offered[str(name)]
