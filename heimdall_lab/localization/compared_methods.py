"""The methods of a comparison: named as its leaderboard names them, and those that fail."""

import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import xarray as xr

from heimdall_lab.core.text import quoted
from heimdall_lab.localization import learned
from heimdall_lab.localization.learned import Predictor
from heimdall_lab.localization.methods import METHODS

_FAILED = "failed"  # attribute of a leaderboard

_log = logging.getLogger(__name__)


def failures(board: xr.Dataset) -> dict[str, str]:
    """Methods that failed in a comparison, and why."""
    return dict(json.loads(board.attrs.get(_FAILED, "{}")))


def failure_attribute(failed: dict[str, ValueError], fixes: Mapping[str, xr.Dataset]) -> dict[str, str]:
    """Attribute of the methods that failed, each of which the log names; where no other has fixes, the first raises."""
    if not fixes:
        raise next(iter(failed.values()))
    for name, error in failed.items():
        _log.warning("%s: is left off the leaderboard; %s", name, error)
    return {_FAILED: json.dumps({name: str(error) for name, error in failed.items()})} if failed else {}


def named_methods(methods: Any) -> tuple[dict[str, str | Predictor], dict[str, ValueError]]:
    """Name the methods as the board does, and read those that are files; name those of them that are refused."""
    one = isinstance(methods, str | Path) or not isinstance(methods, Iterable)
    given: list[Any] = [methods] if one else list(methods)
    distinct = {str(each) if isinstance(each, str | Path) else id(each): each for each in given}
    names = [key for key in distinct if isinstance(key, str) and not learned.is_path(key)]
    if unknown := [name for name in names if name not in METHODS]:
        raise ValueError(
            f"methods: {quoted(unknown[0])} is unknown; choose from {', '.join(METHODS)}, or give an .onnx file"
        )
    if not distinct:
        raise ValueError(f"methods: none is given; choose from {', '.join(METHODS)}, or give an .onnx file")
    trained: dict[Any, Predictor] = {}
    failed: dict[str, ValueError] = {}
    for key in [key for key in distinct if key not in names]:
        try:
            trained[key] = learned.predictor(distinct[key])
        except ValueError as error:
            if not learned.is_path(distinct[key]):
                raise
            failed[str(key)] = error
    labels = learned.labels([distinct[key] for key in trained], list(trained.values()))
    named = dict(zip(trained, labels, strict=True))
    chosen = {named.get(key, str(key)): trained.get(key, str(key)) for key in distinct if str(key) not in failed}
    return chosen, failed
