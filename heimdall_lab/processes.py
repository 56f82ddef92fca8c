"""Processes, told apart from later ones that were given the same number."""

import psutil

_CREATED_WITHIN_S = 5.0  # clocks are set while processes run


def began_s(pid: int | None = None) -> float:
    """When a process began, by default this one, in seconds since 1970.

    Raises
    ------
    psutil.NoSuchProcess
        If it has ended.
    """
    return psutil.Process(pid).create_time()


def is_alive(pid: int, began: float) -> bool:
    """Say whether the process of this number that began then still runs."""
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - began) < _CREATED_WITHIN_S
    except psutil.NoSuchProcess:
        return False
