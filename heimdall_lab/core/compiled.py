"""Compiled functions, kept between runs in a folder that belongs to the sources they were compiled from.

Numba compiles a function anew when its own file has changed, but not when a function that it calls has, in another
file. A folder for each state of all sources leaves nothing out.
"""

import functools
import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numba
import pooch

_log = logging.getLogger(__name__)

_Function = TypeVar("_Function", bound=Callable[..., Any])


def njit(**options: Any) -> Callable[[_Function], _Function]:
    """Compile a function as ``numba.njit`` does, and with ``cache=True`` keep it in the folder of these sources.

    It lets other threads run meanwhile, so it may write to no array that another thread could have.
    """

    def compiled(function: _Function) -> _Function:
        settings: Any = numba.config  # a module whose options are made as it is loaded; read when a function is wrapped
        before, settings.CACHE_DIR = settings.CACHE_DIR, str(_kernels_folder())
        try:
            # A page is answered while another computes, and two threads do a quarter more than one, or better.
            dispatcher = numba.njit(**options, nogil=True)(function)
        finally:
            settings.CACHE_DIR = before
        dispatcher._cache.save_overload = _saving_if_possible(dispatcher._cache.save_overload)
        return dispatcher

    return compiled


def _saving_if_possible(save: Callable[..., None]) -> Callable[..., None]:
    """Keep compiled functions where that is possible; elsewhere, as on a full disk, they are used all the same."""

    def save_or_say(*arguments: Any) -> None:
        try:
            save(*arguments)
        except OSError as error:
            _say_not_kept(error.strerror or str(error))

    return save_or_say


@functools.cache
def _say_not_kept(reason: str) -> None:
    _log.warning(
        "kernels: cannot be kept in %s (%s), so that every start compiles them anew; make room there",
        _kernels_folder(),
        reason,
    )


def sources_digest(package: Path) -> str:
    """Digest of all Python files of a package, by path and content."""
    digest = hashlib.sha256(numba.__version__.encode())
    for path in sorted(package.rglob("*.py")):
        digest.update(str(path.relative_to(package)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


@functools.cache
def _kernels_folder() -> Path:
    """Folder of this package's compiled functions: beside its sources or, where that is read-only, the user's cache."""
    package = Path(__file__).parents[1]
    beside = package / "__pycache__"
    root = beside if os.access(beside if beside.is_dir() else package, os.W_OK) else pooch.os_cache("heimdall_lab")
    return Path(root) / f"kernels-{sources_digest(package)}"
