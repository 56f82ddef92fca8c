"""Tasks of jobs: what to generate or to train, where it is written, and why a task is refused."""

import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from heimdall_lab.app.service import side_process
from heimdall_lab.core.checked import NAME
from heimdall_lab.core.config import Config
from heimdall_lab.core.files import check_regular, path_below
from heimdall_lab.core.presets import differing_fields
from heimdall_lab.core.text import quoted, si_text
from heimdall_lab.datasets import size
from heimdall_lab.datasets.manifest import MANIFEST, is_complete, read_manifest
from heimdall_lab.learning import experiments, options, registry

_MAX_INPUT_BYTES = 2_000_000_000  # of a recorded voice, or a tile of terrain
_MAX_WEIGHTS = 10**9
RESERVED = ("jobs", "mlruns", "models", "networks", "runs", "screenshots", "uploads")  # folders beside the datasets


class JobError(ValueError):
    """A job that cannot be taken, or is not there; the message names the field and the remedy."""


class Generation(BaseModel):
    """Simulate a dataset, or go on with it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["generate"] = "generate"
    folder: str = Field(pattern=NAME, max_length=64, description="name of the dataset's folder in the data folder")
    config: Config = Field(description="what to simulate")
    workers: int = Field(1, ge=1, le=256, description="processes side by side")


class Training(BaseModel):
    """Train a localizer, or go on with it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["train"] = "train"
    folder: str = Field(pattern=NAME, max_length=64, description="name of the run's folder in data/runs")
    dataset: str = Field(description="path of the dataset in the data folder")
    architecture: str = Field(description="as the list of architectures names them")
    parameters: dict[str, bool | int | float | str] = Field({}, description="of the architecture, not its defaults")
    options: dict[str, bool | int | float | str] = Field({}, description="of training, not the defaults")


Task = Annotated[Generation | Training, Field(discriminator="kind")]


def output_folder(root: Path, task: Generation | Training) -> Path:
    """Folder that a task writes to."""
    return root / task.folder if isinstance(task, Generation) else root / "runs" / task.folder


def dataset_folder(root: Path, name: str) -> Path:
    """Folder of a dataset by its path in the data folder; JobError if there is none of that path below it."""
    parts = Path(name).parts
    inside = bool(parts) and not Path(name).is_absolute() and ".." not in parts
    try:
        found = inside and (root / name / MANIFEST).is_file()
    except OSError:  # of names that are too long
        found = False
    if not found:
        raise JobError(f"dataset: {quoted(name)} is none of those in {quoted(root)}; choose one that is listed")
    return root / name


def check(root: Path, task: Task, earlier: list[Task]) -> None:
    """Refuse a task that cannot be done, as far as that is known before it starts; ValueError names the field.

    Only a run that one of the ``earlier`` tasks, of all jobs, wrote can be resumed.
    """
    if isinstance(task, Generation):
        _check_generation(root, task)
    else:
        _check_training(root, task, earlier)


def check_folders(root: Path, config: Config) -> None:
    """Refuse a configuration whose folders are outside of the data folder, or hold what is no regular file of 2 GB.

    JobError names the field. Nothing is opened.
    """
    try:
        for field, name in config.folders.items():
            for path in path_below(root, name, field).glob("*"):
                if not path.is_dir():
                    check_regular(path_below(root, path, field), field, _MAX_INPUT_BYTES)
    except ValueError as error:
        raise JobError(str(error)) from error


def _check_generation(root: Path, task: Generation) -> None:
    check_folders(root, task.config)
    if task.folder in RESERVED:
        raise JobError(f"folder: {quoted(task.folder)} is where the dashboard keeps other things; choose another name")
    folder = root / task.folder
    if (folder / MANIFEST).exists():
        manifest = read_manifest(folder)
        if fields := differing_fields(manifest.config, task.config):
            raise JobError(
                f"folder: {quoted(task.folder)} holds a dataset with another {', '.join(fields)}; choose another name"
            )
        if is_complete(folder, task.config, version("heimdall_lab")):
            raise JobError(f"folder: {quoted(task.folder)} holds this dataset, whole, already; choose another name")
    elif folder.exists():
        raise JobError(f"folder: {quoted(task.folder)} is there and holds no dataset; choose another name")
    root.mkdir(parents=True, exist_ok=True)
    there = sum(path.stat().st_size for path in folder.glob("shard-*.nc"))
    needed, free = size.expected_bytes(task.config) - there, shutil.disk_usage(root).free
    if needed > free:
        raise JobError(
            f"num_samples: {task.config.num_samples} scenes take {si_text(needed)}B and {si_text(free)}B are free; ask "
            "for fewer or shorter ones, or make room"
        )


def _check_training(root: Path, task: Training, earlier: list[Task]) -> None:
    manifest = read_manifest(dataset_folder(root, task.dataset))
    if manifest.num_samples < manifest.config.num_samples:
        raise JobError(f"dataset: {quoted(task.dataset)} is unfinished; resume it before training on it")
    if (output_folder(root, task) / experiments.RUN).exists() and task not in earlier:
        raise JobError(f"folder: {quoted(task.folder)} holds another run; choose another name")
    registry.check_compatible(task.architecture, manifest.config.data_type)
    if (weights := _num_weights(task)) > _MAX_WEIGHTS:
        raise JobError(f"parameters: make {weights:,} weights, more than {_MAX_WEIGHTS:,}; make the network smaller")
    training_options(task)


def _num_weights(task: Training) -> int:
    known = registry.architecture(task.architecture)
    registry.check_parameters(task.architecture, task.parameters)
    if known.parameters | task.parameters == known.parameters:
        return known.num_parameters
    return side_process.call(_count_weights, task.architecture, task.parameters)


def _count_weights(architecture: str, parameters: dict[str, bool | int | float | str]) -> int:
    from heimdall_lab.learning import architectures  # imports torch

    return architectures.num_parameters(architecture, parameters)


def training_options(task: Training) -> options.Options:
    """All options of training, with the architecture's own defaults."""
    return options.options_for(task.architecture, dict(task.options))
