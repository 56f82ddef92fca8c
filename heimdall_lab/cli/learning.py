"""Commands that train localizers, list their architectures and export them."""

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

import heimdall_lab as hl
from heimdall_lab.cli.arguments import (
    Folder,
    Json,
    Verify,
    fail,
    known_name,
    print_table,
    settings_of,
)
from heimdall_lab.core.checked import ConfigError
from heimdall_lab.core.files import check_writable
from heimdall_lab.core.text import quoted
from heimdall_lab.learning.options import Options


def _with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command that takes ``**options`` an option for each field of `Options`."""
    signature = inspect.signature(command)
    known = [each for each in signature.parameters.values() if each.kind is not each.VAR_KEYWORD]
    for name, field in Options.model_fields.items():
        text = str(field.description)
        kind: Any = field.annotation if field.annotation in (int, float) else str
        option: Any = Annotated[kind | None, typer.Option(help=f"{text[:1].upper()}{text[1:]}.")]
        known.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=option))
    vars(command)["__signature__"] = signature.replace(parameters=known)
    return command


@_with_options
def train(
    dataset: Folder,
    architecture: Annotated[str, typer.Option(help="As 'heimdall-lab architectures' lists them.")],
    out: Annotated[Path, typer.Option(help="Folder of the run; the same command again resumes.", metavar="DIR")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Parameter of the architecture, as width=64; repeatable.")
    ] = None,
    tracking: Annotated[bool, typer.Option("--tracking/--no-tracking", help="Log the run in MLflow.")] = True,
    verify: Verify = True,
    as_json: Json = False,
    **options: Any,
) -> None:
    """Train a localizer on a dataset; Ctrl-C stops after the batch under way, twice at once."""
    from heimdall_lab.learning.run_folder import is_rank_zero

    parameters = settings_of(settings or [], "width=64")
    try:
        run = hl.train(
            dataset, architecture, out=out, parameters=parameters, tracking=tracking, verify=verify, **options
        )
    except KeyboardInterrupt as interrupt:
        fail(str(interrupt) or "interrupted: run the same command again to go on", 130)
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


def architectures(
    data_type: Annotated[
        str | None, typer.Option(help="Only those that learn from iq_raw or feature_based datasets.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the localizers that can be trained."""
    if data_type is not None:
        data_type = known_name("data-type", data_type, ("iq_raw", "feature_based"))
    table = hl.architectures(data_type)
    if as_json:
        print_table(table, as_json)
        return
    counts = table.num_parameters.map("{:,}".format)
    print_table(table.drop(columns="defaults").assign(num_parameters=counts), as_json)
    print("\nParameters and their defaults, which 'train --set NAME=VALUE' changes:")
    for name, defaults in zip(table.architecture, table.defaults, strict=True):
        print(f"{name}: " + " ".join(f"{parameter}={value}" for parameter, value in defaults.items()))


def export(
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
    from heimdall_lab.datasets import splits
    from heimdall_lab.learning import export, trained
    from heimdall_lab.localization import learned
    from heimdall_lab.localization.learned import onnx_model

    file = model / trained.MODEL if model.is_dir() else model
    target = out or file.with_suffix(learned.SUFFIX)
    if target.suffix != learned.SUFFIX:
        raise ConfigError(f"out: {quoted(target)} does not end in {learned.SUFFIX}; rename it")
    check_writable(target, "out")
    loaded = trained.load(file)
    scenes = None if dataset is None else learned.arrays(loaded, splits.select(hl.open_dataset(dataset), "test"))
    about = onnx_model.open_model(export.export_onnx(loaded, target, scenes)).about
    print(
        f"{target}: {about['architecture']} with {about['num_parameters']:,} weights; "
        f"differs from PyTorch by at most {about['parity']:.1g} of the network's size"
    )
