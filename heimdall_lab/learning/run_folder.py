"""The folder of a training run: its record ``run.json``, the identity of the run, and who writes to it."""

import json
import os
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from heimdall_lab.core.files import data_folder, write_text
from heimdall_lab.core.text import quoted
from heimdall_lab.datasets import manifest
from heimdall_lab.learning import experiments
from heimdall_lab.learning.augmentation import seed_of
from heimdall_lab.learning.callbacks import CHECKPOINT
from heimdall_lab.learning.options import OF_MACHINE, Options
from heimdall_lab.learning.sources import Source
from heimdall_lab.learning.trained import MODEL

RUN, ONNX, ERRORS = experiments.RUN, experiments.ONNX, "errors.nc"


def run_identity(source: Source, architecture: str, parameters: dict[str, Any], options: Options) -> dict[str, Any]:
    """Identity of a run, as JSON values: two calls with the same identity are the same run."""
    attributes = source.dataset.attrs
    config = json.loads(attributes.get("config", "{}"))
    return {
        "architecture": architecture,
        "parameters": parameters,
        "options": options.model_dump(mode="json", exclude=set(OF_MACHINE)),
        "dataset": {
            "name": config.get("name", ""),
            "checksum": source.checksum,
            "seed": int(attributes.get("seed", -1)),
            "samples": source.dataset.sizes["sample"],
        },
        "package_version": version("heimdall_lab"),
    }


def default_folder(architecture: str, identity: dict[str, Any]) -> Path:
    """Name a folder below ``runs`` of the data folder that only this identity has."""
    digest = f"{seed_of(*json.dumps(identity, sort_keys=True).encode()):016x}"[:8]
    return data_folder() / "runs" / f"{architecture}-{digest}"


def check_same_run(folder: Path, identity: dict[str, Any]) -> None:
    """Refuse a folder that holds another run, a dataset, or files of a run without its record."""
    if (folder / manifest.MANIFEST).exists() or (folder.exists() and not folder.is_dir()):
        kind = "a dataset" if folder.is_dir() else "a file"
        raise ValueError(f"out: {quoted(folder)} is {kind}; choose another folder for the run")
    if (folder / RUN).exists():
        check_identity(folder / RUN, read_record(folder), identity)
    elif found := [name for name in (CHECKPOINT, MODEL, ONNX, ERRORS) if (folder / name).exists()]:
        raise ValueError(f"out: {quoted(folder)} holds {found[0]} and no {RUN}; choose another folder for the run")


def check_identity(path: Path, found: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    """Refuse a file of another version or identity; the message names the versions or the first field that differs."""
    writer, reader = found.get("package_version"), identity["package_version"]
    if writer != reader:
        raise ValueError(
            f"out: {quoted(path)} was begun by version {writer or 'unknown'}, this is {reader}; finish it with that "
            "version or choose another folder"
        )
    before, now = _flat(found, identity), _flat(identity, identity)
    for name, value in now.items():
        if before.get(name) != value:
            raise ValueError(
                f"{name}: {quoted(value)} differs from {quoted(before.get(name))}, with which {quoted(path)} was "
                "begun; choose another folder, or give what it was begun with"
            )


def _flat(values: Mapping[str, Any], like: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten the groups that ``like`` has into dotted names."""
    flat: dict[str, Any] = {}
    for group in like:
        content = values.get(group)
        flat |= {f"{group}.{name}": value for name, value in content.items()} if isinstance(content, dict) else {}
        flat |= {} if isinstance(content, dict) else {group: content}
    return flat


def read_record(folder: Path) -> dict[str, Any]:
    """Read ``run.json``; empty where there is none."""
    path = folder / RUN
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except (TypeError, ValueError) as error:
        raise ValueError(f"run: {quoted(path)} is damaged ({error}); choose another folder for the run") from error


def write_record(folder: Path, identity: Mapping[str, Any], further: Mapping[str, Any]) -> None:
    """Write ``run.json``: the identity of the run, what is recorded already, and further entries."""
    if is_rank_zero():
        text = json.dumps({**identity, **read_record(folder), **further}, indent=1, allow_nan=False) + "\n"
        write_text(folder / RUN, text)


def is_rank_zero() -> bool:
    """Whether this is the process of rank 0, the only one that writes."""
    return all(
        int(os.environ.get(name, "0")) == 0 for name in ("LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID")
    )
