"""Long computations of pages run in threads of their own, so that short reads of the data folder need not wait."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

Result = TypeVar("Result")

_MAX_THREADS = 2  # of all pages together

_pool = ThreadPoolExecutor(_MAX_THREADS, thread_name_prefix="background")


def start(function: Callable[[], object]) -> None:
    """Have a function called in one of these threads; nobody waits for it."""
    _pool.submit(function)


async def run(function: Callable[..., Result], *arguments: Any) -> Result:
    """Call a function in one of these threads, as soon as one is free."""
    return await asyncio.get_running_loop().run_in_executor(_pool, function, *arguments)
