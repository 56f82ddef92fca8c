"""Commands that simulate, list and check datasets."""

import json
from pathlib import Path
from typing import Annotated

import typer

import heimdall_lab as hl
from heimdall_lab.cli.arguments import (
    DATA_FOLDER_HELP,
    Folder,
    Json,
    Settings,
    fail,
    known_name,
    print_table,
    settings_of,
)
from heimdall_lab.core.arrays import BACKENDS
from heimdall_lab.core.checked import ConfigError
from heimdall_lab.core.files import StoreError, data_folder
from heimdall_lab.core.presets import PRESETS, read_config
from heimdall_lab.core.progress import warn
from heimdall_lab.core.text import json_records
from heimdall_lab.datasets.manifest import read_manifest


def generate(
    out: Annotated[Path, typer.Option(help="Folder to write; the same command again resumes.", metavar="DIR")],
    preset_name: Annotated[str, typer.Option("--preset", help=f"One of {', '.join(PRESETS)}.")] = "",
    config_file: Annotated[Path | None, typer.Option("--config", help="YAML file of the configuration.")] = None,
    num_samples: Annotated[int | None, typer.Option(help="Number of scenes kept.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of every random draw.")] = None,
    shard_size: Annotated[int | None, typer.Option(help="Scenes in one netCDF file.")] = None,
    settings: Settings = None,
    backend: Annotated[str, typer.Option(help=f"One of {', '.join(BACKENDS)}.")] = "auto",
    workers: Annotated[int, typer.Option(help="Processes side by side.", min=1)] = 1,
    scheduler: Annotated[
        str | None, typer.Option(help="Dask scheduler whose workers generate instead.", metavar="tcp://HOST:PORT")
    ] = None,
) -> None:
    """Simulate a dataset of multi-receiver IQ; Ctrl-C stops after the shards being written, twice at once."""
    from heimdall_lab.simulation.generate import generate_folder

    if bool(preset_name) == (config_file is not None):
        raise ConfigError("preset: give either --preset NAME or --config FILE.yaml")
    given = {"num_samples": num_samples, "seed": seed, "shard_size": shard_size}
    overrides = {name: value for name, value in given.items() if value is not None} | settings_of(settings or [])
    config = read_config(config_file, overrides) if config_file else hl.preset(preset_name, **overrides)
    if scheduler is not None and workers != 1:
        raise ConfigError(f"workers: {workers} are of no use with --scheduler, which has its own; leave one out")
    try:
        generate_folder(config, out, known_name("backend", backend, BACKENDS), workers=workers, scheduler=scheduler)
    except KeyboardInterrupt as interrupt:
        fail(str(interrupt) or "interrupted: run the same command again to go on", 130)
    manifest = read_manifest(out)
    rejected = [f"{count} by gate.{reason}" for reason, count in manifest.rejections.items() if count]
    shards = f"{len(manifest.shards)} shard{'s' if len(manifest.shards) > 1 else ''}"
    kept = f"{manifest.acceptance:.2%} of the drawn ones kept (rejected: {', '.join(rejected) or 'none'})"
    print(f"{out}: {manifest.num_samples} scenes in {shards}, {kept}")


def measure(
    folder: Folder,
    workers: Annotated[int, typer.Option(help="Processes side by side.", min=1)] = 1,
) -> None:
    """Measure the time differences of a dataset with IQ ahead, which is otherwise done when they are first needed."""
    from heimdall_lab.datasets import store
    from heimdall_lab.signals.measurements import measure_folder

    dataset = store.open_dataset(folder)
    try:
        count = measure_folder(folder, workers)
    except KeyboardInterrupt:
        fail("interrupted: what is finished is kept; run the same command again to go on", 130)
    if "iq" not in dataset:
        print(f"{folder}: was measured when it was generated, and its IQ is not kept")
    else:
        print(f"{folder}: {count} of {dataset.sizes['sample']} scenes measured now, the others before")


def bench(
    preset_name: Annotated[str, typer.Option("--preset", help=f"One of {', '.join(PRESETS)}.")] = "iq_test",
    settings: Settings = None,
    folder: Annotated[
        Path | None, typer.Option(help="Where to write a shard for a moment; by default the folder for such files.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure how fast this machine draws, synthesizes, measures, writes and reads one shard; one thread."""
    from heimdall_lab.simulation import speed

    config, machine = hl.preset(preset_name, **settings_of(settings or [])), speed.machine()
    rates = speed.measure(config, folder)
    if as_json:
        print(json.dumps({"machine": machine, "preset": preset_name, "rates": json_records(rates)}, indent=1))
        return
    versions = ", ".join(f"{name} {machine[name]}" for name in speed.VERSIONS)
    print(f"{machine['processor']}, {machine['cores']} cores, GPU: {machine['gpu'] or 'none'}; {versions}")
    print(f"{preset_name}: {config.max_receivers} receivers × {config.signal.num_time} IQ samples a scene\n")
    print_table(speed.text_table(rates), as_json)


def datasets(
    root: Annotated[
        Path | None, typer.Argument(help=f"Folder that holds datasets; by default {DATA_FOLDER_HELP}.", metavar="ROOT")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the datasets below a folder, and say on standard error why one is unreadable."""
    table = hl.datasets(root)
    if table.empty and not as_json:
        print(f"{data_folder(root)}: holds no datasets; 'heimdall-lab generate' makes some")
    else:
        print_table(table, as_json)
    for path in table.path[table.state == "unreadable"]:
        try:
            read_manifest(Path(path))
        except StoreError as error:
            warn(str(error))


def verify(folder: Folder, as_json: Json = False) -> None:
    """Check every shard against its checksum; exit status 1 if one is missing or damaged."""
    from heimdall_lab.datasets import store

    table = store.verify(folder)
    print_table(table, as_json)
    faulty = table[table.state != "ok"]
    if len(faulty):
        first = faulty.iloc[0]
        raise StoreError(
            f"{folder / str(first.file)}: {first.state} ({len(faulty)} of {len(table)} shards are not whole); "
            "run the same 'generate' command to write them again"
        )
