"""How long jobs tell that they advance: a callback, and the display that the package gives by default."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Report = Callable[[int, str], None]  # scenes finished so far, and a note such as the rate


@contextmanager
def display(title: str, total: int, enabled: bool = True) -> Iterator[Report]:
    """Show a bar on a terminal, and one plain line per report elsewhere; both on standard error."""
    if not enabled:
        yield lambda *_: None
        return
    console = Console(stderr=True, force_jupyter=False)
    if not console.is_terminal:
        yield lambda done, note: console.print(f"{title}: {done}/{total} {note}", highlight=False, soft_wrap=True)
        return
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
    with Progress(*columns, TextColumn("{task.fields[note]}"), console=console) as bar:
        task = bar.add_task(title, total=total, note="")
        yield lambda done, note: bar.update(task, completed=done, note=note)
