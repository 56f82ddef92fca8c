"""Workbench for locating radio transmitters with distributed SDR receivers.

The public names stand in ``__init__.pyi``. Each is imported when it is first asked for, since most work needs few.
"""

from typing import Any

import lazy_loader

from heimdall_lab.core.extras import missing_extra

_import, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    """Import a public name (PEP 562); an error says which extra brings what it needs."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return _import(name)
    except ModuleNotFoundError as error:
        if (text := missing_extra(error)) is None:
            raise
        raise ModuleNotFoundError(f"{name}: {text}", name=error.name) from error
