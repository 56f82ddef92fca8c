"""The command ``heimdall-lab``: generate, list, verify, locate, compare, train, export and serve from a shell."""

import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import pandas as pd
import typer
import xarray as xr

from heimdall_lab.core.arrays import BACKENDS
from heimdall_lab.core.checked import ConfigError
from heimdall_lab.core.files import StoreError, check_target, write_atomically
from heimdall_lab.core.presets import PRESETS, preset, read_config
from heimdall_lab.datasets import catalogue, recordings, splits, store
from heimdall_lab.datasets.manifest import MANIFEST, read_manifest
from heimdall_lab.localization import estimators, leaderboard, learned, tables
from heimdall_lab.localization.leaderboard import leaderboard_table, leaderboard_text
from heimdall_lab.report import write_report
from heimdall_lab.signals import pairs
from heimdall_lab.signals.features import features, summary
from heimdall_lab.simulation import speed
from heimdall_lab.simulation.generate import generate

app = typer.Typer(
    help="Locate radio transmitters with a network of distributed SDR receivers.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


_Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
_Folder = Annotated[Path, typer.Argument(help="Folder of the dataset.", metavar="DIR")]


@app.command("generate")
def generate_command(
    out: Annotated[Path, typer.Option(help="Folder to write; the same command again resumes.", metavar="DIR")],
    preset_name: Annotated[str, typer.Option("--preset", help=f"One of {', '.join(PRESETS)}.")] = "",
    config_file: Annotated[Path | None, typer.Option("--config", help="YAML file of the configuration.")] = None,
    num_samples: Annotated[int | None, typer.Option(help="Number of scenes kept.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of every random draw.")] = None,
    shard_size: Annotated[int | None, typer.Option(help="Scenes in one netCDF file.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Any field, as path.to.field=value; repeatable.")
    ] = None,
    backend: Annotated[str, typer.Option(help=f"One of {', '.join(BACKENDS)}.")] = "auto",
    workers: Annotated[int, typer.Option(help="Processes side by side.", min=1)] = 1,
    scheduler: Annotated[
        str | None, typer.Option(help="Dask scheduler whose workers generate instead.", metavar="tcp://HOST:PORT")
    ] = None,
) -> None:
    """Simulate a dataset of multi-receiver IQ; Ctrl-C stops after the shards being written, twice at once."""
    if bool(preset_name) == (config_file is not None):
        raise ConfigError("preset: give either --preset NAME or --config FILE.yaml")
    given = {"num_samples": num_samples, "seed": seed, "shard_size": shard_size}
    overrides = {name: value for name, value in given.items() if value is not None} | _settings(settings or [])
    config = read_config(config_file, overrides) if config_file else preset(preset_name, **overrides)
    if scheduler is not None and workers != 1:
        raise ConfigError(f"workers: {workers} are of no use with --scheduler, which has its own; leave one out")
    try:
        dataset = generate(config, out, _known("backend", backend, BACKENDS), workers=workers, scheduler=scheduler)
    except KeyboardInterrupt as interrupt:
        _fail(str(interrupt) or "interrupted: run the same command again to go on", 130)
    manifest = read_manifest(out)
    rejected = [f"{count} by gate.{reason}" for reason, count in manifest.rejections.items() if count]
    shards = f"{len(manifest.shards)} shard{'s' if len(manifest.shards) > 1 else ''}"
    kept = f"{manifest.acceptance:.2%} of the drawn ones kept (rejected: {', '.join(rejected) or 'none'})"
    print(f"{out}: {dataset.sizes['sample']} scenes in {shards}, {kept}")


@app.command("bench")
def bench_command(
    preset_name: Annotated[str, typer.Option("--preset", help=f"One of {', '.join(PRESETS)}.")] = "iq_test",
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Any field, as path.to.field=value; repeatable.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Where to write a shard for a moment; by default the folder for such files.")
    ] = None,
    as_json: _Json = False,
) -> None:
    """Measure how fast this machine draws, synthesizes, measures, writes and reads one shard; one thread."""
    config, machine = preset(preset_name, **_settings(settings or [])), speed.machine()
    rates = speed.measure(config, folder)
    if as_json:
        print(json.dumps({"machine": machine, "preset": preset_name, "rates": _records(rates)}, indent=1))
        return
    versions = ", ".join(f"{name} {machine[name]}" for name in speed.VERSIONS)
    print(f"{machine['processor']}, {machine['cores']} cores, GPU: {machine['gpu'] or 'none'}; {versions}")
    print(f"{preset_name}: {config.max_receivers} receivers × {config.signal.num_time} IQ samples a scene\n")
    _print_table(speed.text_table(rates), as_json)


@app.command("datasets")
def datasets_command(
    root: Annotated[Path, typer.Argument(help="Folder that holds datasets.", metavar="ROOT")] = Path("data"),
    as_json: _Json = False,
) -> None:
    """List the datasets below a folder."""
    _print_table(catalogue.datasets(root), as_json)


@app.command("verify")
def verify_command(folder: _Folder, as_json: _Json = False) -> None:
    """Check every shard against its checksum; exit status 1 if one is missing or damaged."""
    table = store.verify(folder)
    _print_table(table, as_json)
    faulty = table[table.state != "ok"]
    if len(faulty):
        first = faulty.iloc[0]
        raise StoreError(
            f"{folder / str(first.file)}: {first.state} ({len(faulty)} of {len(table)} shards are not whole); "
            "run the same 'generate' command to write them again"
        )


@app.command("locate")
def locate_command(
    paths: Annotated[
        list[Path],
        typer.Argument(help="Folder of a dataset, SigMF collection or recordings, or with --kiwi WAV files."),
    ],
    kiwi: Annotated[bool, typer.Option("--kiwi", help="The paths are KiwiSDR recordings of one transmitter.")] = False,
    receivers: Annotated[
        Path | None, typer.Option(help="Of recordings: CSV of name, latitude_deg, longitude_deg.", metavar="CSV")
    ] = None,
    transmitter: Annotated[
        str | None, typer.Option(help="Of recordings: the true position, to show the error.", metavar="LAT,LON")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Of SigMF: what the files do not tell, as clock_sigma_s=1e-3; repeatable."),
    ] = None,
    method: Annotated[
        str, typer.Option(help=f"One of {', '.join(estimators.methods())}, or the path of an .onnx file.")
    ] = "tdoa_ls",
    as_json: _Json = False,
) -> None:
    """Locate the transmitter of every scene, or of SigMF or KiwiSDR recordings."""
    method = _method("method", method)
    sigmf = not kiwi and any(path.suffix.startswith(".sigmf") for path in paths)
    if settings and not sigmf:
        raise ConfigError("set: only SigMF recordings take it; leave it out")
    if kiwi:
        if receivers is None:
            raise ConfigError("receivers: is missing; give the stations' positions with --receivers FILE.csv")
        dataset = recordings.read_kiwi(paths, receivers, transmitter=_position(transmitter))
    elif sigmf:
        known = _settings(settings or [])
        dataset = recordings.read_sigmf(paths, receivers=receivers, transmitter=_position(transmitter), **known)
    else:
        if len(paths) != 1:
            raise ConfigError(f"paths: {len(paths)} are given; locate one dataset at a time, or add --kiwi")
        if receivers is not None or transmitter is not None:
            raise ConfigError("receivers, transmitter: a dataset holds its own; leave them out, or add --kiwi")
        dataset = store.open_dataset(paths[0])
    measured = pairs.pair_features(dataset)
    fixes = estimators.locate(dataset, method, measured)
    table = tables.fix_table(dataset, fixes)
    differences = tables.difference_table(dataset, measured)
    if as_json:
        differences = differences.set_index("sample")
        rows = [
            row | {"covariance_m2": covariance, "time_differences": _records(differences.loc[[row["sample"]]])}
            for row, covariance in zip(_records(table), fixes.covariance.values.tolist(), strict=True)
        ]
        print(json.dumps(rows, indent=1))
        return
    _print_table(table, as_json)
    if kiwi or sigmf:
        print("\nMeasured time differences, with the standard deviation by noise, and with clock and path besides:")
        _print_table(differences, as_json)


@app.command("features")
def features_command(
    folder: _Folder,
    out: Annotated[
        Path | None, typer.Option(help="Also write features, spectrograms and differences.", metavar="NC")
    ] = None,
    as_json: _Json = False,
) -> None:
    """Measure the features of every receiver's signal, and show how each is spread."""
    if out is not None:
        check_target(out, "out")
    measured = features(store.open_dataset(folder))
    if out is not None:
        write_atomically(out, measured.to_netcdf)
    table = summary(measured)
    if not as_json:
        table = table.map(lambda value: f"{value:.4g}" if isinstance(value, float) else value)
    _print_table(table, as_json)
    if out is not None and not as_json:
        print(f"Features, spectrograms and differences: {out}")


@app.command("compare")
def compare_command(
    folder: _Folder,
    methods: Annotated[
        str | None,
        typer.Option(
            help=f"Comma-separated, by default all of {', '.join(estimators.methods())}; paths of .onnx files too."
        ),
    ] = None,
    pretrained: Annotated[
        bool,
        typer.Option("--pretrained", help="Add the trained localizers of this package, where they fit."),
    ] = False,
    split: Annotated[
        str | None, typer.Option(help=f"Only scenes of one of {', '.join(splits.SHARES)}; by default all.")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Also write an HTML report.", metavar="HTML")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Also write leaderboard.nc and leaderboard.csv, with bins.", metavar="DIR")
    ] = None,
    as_json: _Json = False,
) -> None:
    """Rank methods on a dataset, against the truth and the Cramér-Rao bound."""
    names = None if methods is None else [_method("methods", name) for name in methods.split(",")]
    if split is not None:
        split = _known("split", split, list(splits.SHARES))
    if report is not None:
        check_target(report, "report")
    if out is not None:
        _check_folder(out)
    dataset = store.open_dataset(folder)
    dataset = dataset if split is None else splits.select(dataset, split)
    classical = estimators.methods(dataset)
    added, unfit = _pretrained(dataset) if pretrained else ([], {})
    board = leaderboard.compare(dataset, [*(classical if names is None else names), *added])
    if out is not None:
        leaderboard.save(board, out)
    if report is not None:
        write_report(dataset, board, report)
    if as_json:
        _print_table(leaderboard_table(board).reset_index(), as_json)
        return
    print(leaderboard_text(board))
    if names is None and (lacking := set(estimators.methods()) - set(classical)):
        print(f"Left out: {', '.join(lacking)}, for lack of IQ in the dataset")
    for name, reason in unfit.items():
        print(f"Left out: {name}; {reason}")
    if report is not None:
        print(f"Report: {report}")
    if out is not None:
        print(f"Leaderboard with bins of SNR, GDOP and receivers: {out / 'leaderboard.nc'}, {out / 'leaderboard.csv'}")


@app.command("serve")
def serve_command(
    port: Annotated[int, typer.Option(help="Where to listen.", min=1, max=65535)] = 5006,
    address: Annotated[str, typer.Option(help="Of this machine; 0.0.0.0 for all of its networks.")] = "127.0.0.1",
    root: Annotated[Path, typer.Option(help="Folder of datasets, runs and networks.", metavar="DIR")] = Path("data"),
    prefix: Annotated[str, typer.Option(help="Path before all others, as a reverse proxy passes it on.")] = "",
    allow_origin: Annotated[
        list[str] | None, typer.Option(help="HOST[:PORT] by which browsers come, as of a proxy; repeatable.")
    ] = None,
    basic_auth: Annotated[
        str, typer.Option(help="A password, or a JSON file of names and passwords.", envvar="PANEL_BASIC_AUTH")
    ] = "",
    oauth_provider: Annotated[
        str, typer.Option(help="As Panel names it: github, generic, …", envvar="PANEL_OAUTH_PROVIDER")
    ] = "",
    oauth_key: Annotated[str, typer.Option(help="Client of the provider.", envvar="PANEL_OAUTH_KEY")] = "",
    oauth_secret: Annotated[str, typer.Option(help="Of that client.", envvar="PANEL_OAUTH_SECRET")] = "",
    oauth_redirect_uri: Annotated[
        str, typer.Option(help="Where the provider sends users back to.", envvar="PANEL_OAUTH_REDIRECT_URI")
    ] = "",
    cookie_secret: Annotated[
        str, typer.Option(help="Signs cookies; keep it, and logins outlive a restart.", envvar="PANEL_COOKIE_SECRET")
    ] = "",
) -> None:
    """Serve the dashboard, and its interface for scripts, until Ctrl-C; jobs go on without it."""
    from heimdall_lab.app.service.server import Access, make_server  # imports Panel, which takes seconds

    oauth = {
        "oauth_provider": oauth_provider,
        "oauth_key": oauth_key,
        "oauth_secret": oauth_secret,
        "oauth_redirect_uri": oauth_redirect_uri,
    }
    oauth = {name: value for name, value in oauth.items() if value}
    if oauth and not oauth_provider:
        raise ConfigError(f"oauth_provider: is missing beside {', '.join(oauth)}; give it, as --oauth-provider generic")
    if oauth and basic_auth:
        raise ConfigError("basic_auth: is of no use with --oauth-provider; leave one of them out")
    try:
        server = make_server(
            root,
            port=port,
            address=address,
            prefix=prefix,
            origins=tuple(allow_origin or ()),
            access=Access(basic_auth, oauth, cookie_secret),
        )
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"port: cannot listen at {address}:{port} ({reason}); choose another --port") from error
    server.start()
    print(f"heimdall_lab: http://{address}:{port}{server.prefix}/ (Ctrl-C stops the server; jobs go on)", flush=True)
    server.io_loop.start()


@app.command("train")
def train_command(
    dataset: _Folder,
    architecture: Annotated[str, typer.Option(help="As 'heimdall-lab architectures' lists them.")],
    out: Annotated[Path, typer.Option(help="Folder of the run; the same command again resumes.", metavar="DIR")],
    epochs: Annotated[int | None, typer.Option(help="Most passes over the training scenes.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Scenes in a batch.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Largest rate of the optimiser.")] = None,
    patience: Annotated[int | None, typer.Option(help="Epochs without a gain after which training ends.")] = None,
    receiver_dropout: Annotated[float | None, typer.Option(help="Chance that a scene lacks a receiver.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of every random draw.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Parameter of the architecture, as width=64; repeatable.")
    ] = None,
    precision: Annotated[str | None, typer.Option(help="auto, 32-true, bf16-mixed or 16-mixed.")] = None,
    accelerator: Annotated[str | None, typer.Option(help="Of Lightning: auto, cpu or gpu.")] = None,
    devices: Annotated[int | None, typer.Option(help="Accelerators of each machine.")] = None,
    num_nodes: Annotated[int | None, typer.Option(help="Machines.")] = None,
    strategy: Annotated[str | None, typer.Option(help="Of Lightning, for several devices: auto or ddp.")] = None,
    num_workers: Annotated[int | None, typer.Option(help="Processes that read signals from disk.")] = None,
    memory_gb: Annotated[float | None, typer.Option(help="Hold signals in memory up to so many GB.")] = None,
    tracking: Annotated[bool, typer.Option("--tracking/--no-tracking", help="Log the run in MLflow.")] = True,
    as_json: _Json = False,
) -> None:
    """Train a localizer on a dataset; Ctrl-C stops after the batch under way, twice at once."""
    from heimdall_lab.learning.run_folder import is_rank_zero
    from heimdall_lab.report.runs import train  # imports torch, which takes seconds

    given = {
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "patience": patience,
        "receiver_dropout": receiver_dropout,
        "seed": seed,
        "precision": precision,
        "accelerator": accelerator,
        "devices": devices,
        "num_nodes": num_nodes,
        "strategy": strategy,
        "num_workers": num_workers,
        "memory_gb": memory_gb,
    }
    parameters = _settings(settings or [], "width=64")
    try:
        run = train(dataset, architecture, out=out, parameters=parameters, tracking=tracking, **given)
    except KeyboardInterrupt as interrupt:
        _fail(str(interrupt) or "interrupted: run the same command again to go on", 130)
    if not is_rank_zero():
        return
    if as_json:
        print(json.dumps({"folder": str(run.folder), "metrics": run.metrics}, indent=1, allow_nan=False))
        return
    print(f"{out}: {run.trained.num_parameters} parameters, {len(run.history)} epochs")
    for split in ("validation", "test"):
        text = "median error {median_error_km:.3g} km, rmse {rmse_km:.3g} km, ellipses of 68 % hold {coverage_68:.1%}"
        figures = {name.removeprefix(f"{split}_"): value for name, value in run.metrics.items()}
        print(f"{split}: " + text.format(**figures) + f", of 95 % {figures['coverage_95']:.1%}")


@app.command("architectures")
def architectures_command(
    data_type: Annotated[
        str | None, typer.Option(help="Only those that learn from iq_raw or feature_based datasets.")
    ] = None,
    as_json: _Json = False,
) -> None:
    """List the localizers that can be trained."""
    from heimdall_lab.learning.architectures import architectures  # imports torch, which takes seconds

    if data_type is not None:
        data_type = _known("data-type", data_type, ("iq_raw", "feature_based"))
    table = architectures(data_type)
    if as_json:
        _print_table(table, as_json)
        return
    counts = table.num_parameters.map("{:,}".format)
    _print_table(table.drop(columns="defaults").assign(num_parameters=counts), as_json)
    print("\nParameters and their defaults, which 'train --set NAME=VALUE' changes:")
    for name, defaults in zip(table.architecture, table.defaults, strict=True):
        print(f"{name}: " + " ".join(f"{parameter}={value}" for parameter, value in defaults.items()))


@app.command("export")
def export_command(
    model: Annotated[
        Path, typer.Argument(help="Folder of a training, or its file model.pt.", metavar="RUN_FOLDER|model.pt")
    ],
    out: Annotated[
        Path | None, typer.Option(help="By default model.onnx in the same folder.", metavar="model.onnx")
    ] = None,
    dataset: Annotated[
        Path | None, typer.Option(help="Compare with PyTorch on the test scenes of this dataset too.", metavar="DIR")
    ] = None,
) -> None:
    """Write a trained localizer to an ONNX file, if it finds there what it finds in PyTorch."""
    from heimdall_lab.learning import export, trained
    from heimdall_lab.localization.learned import onnx_model  # here, for PyTorch takes seconds

    file = model / trained.MODEL if model.is_dir() else model
    target = out or file.with_suffix(learned.SUFFIX)
    if target.suffix != learned.SUFFIX:
        raise ConfigError(f"out: {str(target)!r} does not end in {learned.SUFFIX}; rename it")
    check_target(target, "out")
    loaded = trained.load(file)
    scenes = None if dataset is None else learned.arrays(loaded, splits.select(store.open_dataset(dataset), "test"))
    about = onnx_model.open_model(export.export_onnx(loaded, target, scenes)).about
    print(
        f"{target}: {about['architecture']} with {about['num_parameters']:,} weights; "
        f"differs from PyTorch by at most {about['parity']:.1g} of the network's size"
    )


def main() -> None:
    """Run the command; a failure prints one line and exits with status 2 (usage), 130 (Ctrl-C) or 1."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # names of stations on a terminal that lacks their letters
    try:
        app()
    except MemoryError as error:
        remedy = "memory: there is not enough; lower signal.duration_s, signal.sample_rate_hz or shard_size"
        _fail(str(error) if str(error).startswith("backend:") else remedy, 1)
    except (ValueError, OSError) as error:
        _fail(str(error), 2 if isinstance(error, ConfigError) else 1)


def _fail(message: str, status: int) -> NoReturn:
    print(f"heimdall-lab: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(status)


def _settings(settings: list[str], form: str = "path.to.field=value") -> dict[str, Any]:
    """Split ``name=value`` settings, which look like ``form``; a value that is not JSON is text."""
    pairs = {}
    for setting in settings:
        path, equals, value = setting.partition("=")
        if not (path and equals):
            raise ConfigError(f"set: {setting!r} is not of the form {form}")
        try:
            pairs[path] = json.loads(value)
        except json.JSONDecodeError:
            pairs[path] = value
    return pairs


def _check_folder(out: Path) -> None:
    """Make a folder for results, before the work that they are of."""
    if (out / MANIFEST).exists() or (out.exists() and not out.is_dir()):
        kind = "a dataset" if out.is_dir() else "a file"
        raise ConfigError(f"out: {str(out)!r} is {kind}; name another folder for the leaderboard")
    out.mkdir(parents=True, exist_ok=True)
    check_target(out / "leaderboard.nc", "out")


def _known(option: str, name: str, names: Sequence[str]) -> str:
    """Return a name without its blanks if it is one of those known."""
    if name.strip() not in names:
        raise ConfigError(f"{option}: {name.strip()!r} is unknown; choose one of {', '.join(names)}")
    return name.strip()


def _pretrained(dataset: xr.Dataset) -> tuple[list[Path], dict[str, str]]:
    """Files of the localizers of this package that can locate in a dataset, and why others cannot, by name."""
    files, reasons = learned.pretrained(), {}
    if not files:
        raise ConfigError("pretrained: no trained localizers came with this package; install it again, or leave it out")
    for name, path in files.items():
        if reason := learned.incompatibility(learned.predictor(path), dataset):
            reasons[name] = reason
    return [path for name, path in files.items() if name not in reasons], reasons


def _method(option: str, name: str) -> str:
    """Return a name or a path without its blanks if it can be a method."""
    if not learned.is_path(name.strip()) and name.strip() not in estimators.methods():
        known = ", ".join(estimators.methods())
        raise ConfigError(f"{option}: {name.strip()!r} is unknown; choose one of {known}, or the path of an .onnx file")
    return name.strip()


def _position(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        latitude, longitude = (float(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"transmitter: {text!r} is not of the form LAT,LON in degrees") from error
    return latitude, longitude


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as JSON values: numbers that are not finite become null."""
    return list(json.loads(table.to_json(orient="records", double_precision=15, date_format="iso")))


def _print_table(table: pd.DataFrame, as_json: bool) -> None:
    if as_json:
        print(json.dumps(_records(table), indent=1))
    else:
        print(table.to_string(index=False))


if __name__ == "__main__":
    main()
