"""Where compiled kernels are kept between runs: in a folder that belongs to the sources they were compiled from.

Numba compiles a function anew when its own file has changed, but not when a function that it calls has, in another
file. A folder for each state of all sources leaves nothing out.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numba
import pooch


def sources_digest(package: Path) -> str:
    """Digest of all Python files of a package, by path and content."""
    digest = hashlib.sha256(numba.__version__.encode())
    for path in sorted(package.rglob("*.py")):
        digest.update(str(path.relative_to(package)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


@contextmanager
def kernels_kept() -> Iterator[None]:
    """Have the kernels of modules that are imported inside the block kept in the folder of this package's sources."""
    package = Path(__file__).parents[1]
    beside = package / "__pycache__"
    root = beside if os.access(beside if beside.is_dir() else package, os.W_OK) else pooch.os_cache("heimdall_lab")
    options: Any = numba.config  # a module whose options are made as it is loaded
    before, options.CACHE_DIR = options.CACHE_DIR, str(Path(root) / f"kernels-{sources_digest(package)}")
    try:
        yield
    finally:
        options.CACHE_DIR = before
