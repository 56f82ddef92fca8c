"""Heavy work beside the pages: in threads of its own, so that short looks at the data folder need not wait for it."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

Result = TypeVar("Result")

_MOST = 2  # at a time, of all pages together

_threads = ThreadPoolExecutor(_MOST, thread_name_prefix="heavy")


async def run(function: Callable[..., Result], *arguments: Any) -> Result:
    """Call a function in one of few threads, as soon as one of them is free."""
    return await asyncio.get_running_loop().run_in_executor(_threads, function, *arguments)
