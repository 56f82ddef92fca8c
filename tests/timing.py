"""How long a step takes."""

import time
from collections.abc import Callable


def seconds(step: Callable[[], None]) -> float:
    """Wall-clock time of one run of a step."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start
