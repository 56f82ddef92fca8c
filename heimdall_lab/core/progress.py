"""How long jobs report progress, how Ctrl-C stops them, and how the loggers of other libraries are silenced."""

import logging
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

ProgressCallback = Callable[[int, str], None]  # scenes finished so far, and a note such as the rate
_LINE_INTERVAL_S = 1.0
_SILENCE_S = 60.0  # longest time without a line


@contextmanager
def display(title: str, total: int, enabled: bool = True, *, about: str = "") -> Iterator[ProgressCallback]:
    """Show a bar on a terminal, and plain lines elsewhere; both on standard error.

    There is a line at the first and the last report, and in between about one for each hundredth of the total, at most
    one a second and at least one a minute, so that a log stays readable however many reports there are. ``about``, what
    is done and how, has a line of its own before the first report.
    """
    if not enabled:
        yield lambda *_: None
        return
    console = Console(stderr=True, force_jupyter=False)

    def write(text: str) -> None:
        console.print(f"{title}: {text}", highlight=False, markup=False, soft_wrap=True)

    in_notebook = type(sys.stderr).__module__.startswith("ipykernel")  # which calls itself a terminal
    if in_notebook or not console.is_terminal:
        yield _lines(write, total, about)
        return
    if about:
        write(about)
    columns = [TextColumn("{task.description}"), BarColumn(bar_width=10), MofNCompleteColumn()]  # fit in 80 columns
    with Progress(*columns, TextColumn("{task.fields[note]}"), console=console) as bar:
        task = bar.add_task(title, total=total, note="")
        yield lambda done, note: bar.update(task, completed=done, note=note)


def warn(text: str) -> None:
    """Tell what went wrong and does not stop the job, on standard error; a bar makes room for it."""
    sys.stderr.write(f"warning: {text}\n")


@contextmanager
def quiet_loggers(*names: str, level: int) -> Iterator[None]:
    """Let these loggers pass only messages of a level or above, inside the block."""
    loggers = [logging.getLogger(name) for name in names]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(level)
    try:
        yield
    finally:
        for logger, earlier in zip(loggers, before, strict=True):
            logger.setLevel(earlier)


def _lines(write: Callable[[str], None], total: int, about: str) -> ProgressCallback:
    last_s, last_done = -math.inf, 0

    def report(done: int, note: str) -> None:
        nonlocal last_s, last_done
        waited_s = time.monotonic() - last_s
        advanced = waited_s >= _LINE_INTERVAL_S and done - last_done >= total / 100
        if about and last_s == -math.inf:
            write(about)
        if done >= total or advanced or waited_s >= _SILENCE_S:
            last_s, last_done = time.monotonic(), done
            write(f"{done}/{total} {note}")

    return report


@contextmanager
def stop_requests(terminate: bool = False) -> Iterator[threading.Event]:
    """Turn the first Ctrl-C inside the block into a request to stop; a second one raises KeyboardInterrupt at once.

    Where Ctrl-C is ignored, or outside of the main thread, the request never comes. With ``terminate``, SIGTERM is such
    a request too.
    """
    requested = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield requested
        return
    heeded = [signal.SIGINT] if callable(signal.getsignal(signal.SIGINT)) else []
    heeded += [signal.SIGTERM] if terminate and signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN else []
    before = {number: signal.getsignal(number) for number in heeded}

    def on_interrupt(_number: int, _frame: FrameType | None) -> None:
        if requested.is_set():
            raise KeyboardInterrupt
        requested.set()
        sys.stderr.write("\nstopping when what is under way is finished; Ctrl-C again stops at once\n")

    for number in heeded:
        signal.signal(number, on_interrupt)
    try:
        yield requested
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
