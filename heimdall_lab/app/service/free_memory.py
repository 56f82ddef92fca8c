"""Memory that is free again is given back to the system."""

import ctypes
import sys
from contextlib import suppress


def give_back_free_memory() -> None:
    """Give back what is free within the heap, where the C library can do so; takes milliseconds.

    By itself it gives back what is free at the heap's end only, and pages come and go among what stays.

    Source: malloc_trim(3), of the GNU C library.
    """
    if sys.platform == "linux":
        with suppress(AttributeError):  # of other C libraries
            ctypes.CDLL(None).malloc_trim(0)
