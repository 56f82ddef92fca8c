"""The command ``heimdall-lab``: generate, list, verify, import, locate, compare, train, export and serve from a shell.

A command is a function of one of the modules here, and a line of `COMMANDS`. What takes long to import, pictures and
PyTorch above all, is imported inside the functions that need it.
"""

import io
import sys
from collections.abc import Callable

import typer

from heimdall_lab.cli import dashboard, datasets, importing, learning, localization
from heimdall_lab.cli.arguments import fail
from heimdall_lab.core.checked import ConfigError
from heimdall_lab.core.extras import missing_extra

COMMANDS: dict[str, Callable[..., None]] = {
    "generate": datasets.generate,
    "bench": datasets.bench,
    "datasets": datasets.datasets,
    "verify": datasets.verify,
    "measure": datasets.measure,
    "import": importing.import_recordings,
    "locate": localization.locate,
    "clocks": localization.clocks,
    "features": localization.features,
    "compare": localization.compare,
    "serve": dashboard.serve,
    "train": learning.train,
    "architectures": learning.architectures,
    "export": learning.export,
}

app = typer.Typer(
    help="Locate radio transmitters with a network of distributed SDR receivers.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for _name, _command in COMMANDS.items():
    app.command(_name)(_command)


def main() -> None:
    """Run the command; a failure prints one line and exits with status 2 (usage), 130 (Ctrl-C) or 1."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # names of stations on a terminal that lacks their letters
    try:
        app()
    except MemoryError as error:
        remedy = "memory: there is not enough; lower signal.duration_s, signal.sample_rate_hz or shard_size"
        fail(str(error) if str(error).startswith("backend:") else remedy, 1)
    except ModuleNotFoundError as error:
        if (text := missing_extra(error)) is None:
            raise
        fail(text, 1)
    except (ValueError, OSError) as error:
        fail(str(error), 2 if isinstance(error, ConfigError) else 1)
