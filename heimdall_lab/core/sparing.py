"""Files from outside that state their own sizes: read by pieces, whatever their headers ask for."""

import io
from pathlib import Path

MOST_AT_ONCE = 2**20  # bytes


class OversizedError(ValueError):
    """A header that states more than it can need; the message goes on from the name of its file."""


class SparingFile(io.FileIO):
    """A file of which nobody reads more than `MOST_AT_ONCE` bytes in one piece.

    Readers of archives take whole headers, names and tables of contents into memory, of the size that these state.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)

    def read(self, size: int | None = -1, /) -> bytes:
        """Read so many bytes, or all that are left; OversizedError if those are too many."""
        wanted = MOST_AT_ONCE + 1 if size is None or size < 0 else size
        content = super().read(min(wanted, MOST_AT_ONCE + 1)) or b""
        if len(content) > MOST_AT_ONCE:
            raise OversizedError(f"has a header or table of contents of more than {MOST_AT_ONCE / 1e6:.2g} MB")
        return content
