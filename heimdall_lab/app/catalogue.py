"""The datasets that a page offers."""

from pathlib import Path

import panel as pn

from heimdall_lab import store


def complete(root: Path) -> dict[str, str]:
    """Folders of the complete datasets below a folder, by their place in it.

    Raises
    ------
    ValueError
        If there is none, or no such folder.
    """
    found = store.datasets(root)
    folders = [Path(path) for path in found[found.state == "complete"].path]
    if not folders:
        unfinished = f" ({len(found)} are unfinished or unreadable)" if len(found) else ""
        raise ValueError(f"dataset: {str(root)!r} holds no complete one{unfinished}; generate a dataset first")
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
