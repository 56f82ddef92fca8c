"""Train a localizer on a dataset into a folder, so that what was interrupted goes on as if it had not been."""

import json
import math
import os
import threading
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import pandas as pd
import torch
import xarray as xr
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import EarlyStopping
from torch import Tensor

from heimdall_lab.core.arrays import Array
from heimdall_lab.core.files import locked, write_atomically, write_text
from heimdall_lab.core.progress import display, stop_requests
from heimdall_lab.datasets import manifest
from heimdall_lab.learning import architectures
from heimdall_lab.learning.architectures.layers import Localizer, mahalanobis_squared
from heimdall_lab.learning.augmentation import seed_of
from heimdall_lab.learning.data import Scenes, Source, open_source
from heimdall_lab.learning.experiments import Tracked, tracking_uri
from heimdall_lab.learning.module import (
    CHECKPOINT,
    Epoch,
    Keeper,
    Learner,
    Stopped,
    error_figures,
    heeding,
    quiet,
    read_checkpoint,
)
from heimdall_lab.learning.options import OF_MACHINE, Options, options_for
from heimdall_lab.learning.signals_on_disk import HEAVY
from heimdall_lab.learning.trained import Trained, load, save
from heimdall_lab.localization import bounds, error_law

RUN, MODEL, ONNX, ERRORS = "run.json", "model.pt", "model.onnx", "errors.nc"


@dataclass(frozen=True)
class Run:
    """A finished training run.

    Attributes
    ----------
    folder : Path
        Holds ``run.json``, ``last.ckpt``, ``model.pt``, ``model.onnx`` and ``errors.nc``.
    trained : Trained
        With the best weights, calibrated.
    metrics : dict of str to float or None
        ``validation_…`` and ``test_…`` of ``nll`` (position in km), ``median_error_km``, ``rmse_km``, ``coverage_68``
        and ``coverage_95``; ``spread`` and ``freedom``, the law of errors (`student`) found on the validation split,
        ``freedom`` None for a normal one; ``epochs``.
    history : pandas.DataFrame
        A row for each epoch.
    errors : xr.Dataset
        Of the test split, as `metrics.compare` gives them: ``error`` m and ``level`` (method, sample);
        ``crlb_rmse`` m and ``crlb_covariance``.
    """

    folder: Path
    trained: Trained
    metrics: dict[str, Any]
    history: pd.DataFrame
    errors: xr.Dataset


Pictures = Callable[[Run], Mapping[str, str | Path]]


def train(
    dataset: xr.Dataset | str | Path,
    architecture: str,
    *,
    out: str | Path | None = None,
    parameters: Mapping[str, Any] | None = None,
    tracking: bool = True,
    progress: bool = True,
    pictures: Pictures | None = None,
    **options: Any,
) -> Run:
    """Train a localizer, or go on with training.

    After any interruption the same call goes on from the last finished epoch and, on a CPU, ends with the same figures
    as if it had not been interrupted. Ctrl-C or SIGTERM stops after the batch under way. Called again after the end,
    it returns what was found.

    Parameters
    ----------
    dataset : xr.Dataset or path
        Simulated; its splits are by `splits.split_of`.
    architecture : str
        Of `models.ARCHITECTURES`.
    out : path, optional
        Folder of the run; by default one below ``data/runs`` of its own for each dataset and options.
    parameters : mapping, optional
        Of the architecture, in the place of its defaults.
    tracking : bool
        Log the run in MLflow: see `tracking`.
    progress : bool
        Show progress on standard error.
    pictures : callable, optional
        Makes pictures of the finished run, to be logged: HTML by file name, or paths.
    **options
        Fields of `Options`: ``epochs``, ``batch_size``, ``learning_rate``, ``patience``, ``seed``, …

    Returns
    -------
    Run

    Raises
    ------
    ValueError
        If the dataset does not fit the architecture, an option is refused, the folder holds another run or a damaged
        checkpoint, or the loss is no longer a number.
    KeyboardInterrupt
        After Ctrl-C; its message says how to go on.
    """
    chosen = options_for(architecture, options)
    source = open_source(dataset)
    try:
        architectures.check_compatible(architecture, source.data_type)
        settings = {**architectures.architecture(architecture).parameters, **(parameters or {})}
        identity = _identity(source, architecture, settings, chosen)
        folder = Path(out) if out is not None else _default_folder(architecture, identity)
        _check_same(folder, identity)
        if (folder / MODEL).exists() and _record(folder).get("finished"):
            return open_run(folder)
        with torch.random.fork_rng():
            torch.manual_seed(seed_of(chosen.seed))
            model = architectures.build(architecture, settings)
            scenes = _scenes(source, model, folder, chosen)
            with locked(folder) if is_first() else nullcontext():
                _check_same(folder, identity)
                learner = Learner(model, chosen, identity, scenes.batches_per_epoch)
                job = _Job(folder, source, learner, scenes, settings, progress, pictures)
                return _tracked(job) if tracking and is_first() else _run(job, None)
    finally:
        if not isinstance(dataset, xr.Dataset):
            source.dataset.close()  # not whenever the garbage is collected, in a thread that may be reading


def open_run(folder: str | Path) -> Run:
    """Open a finished run.

    Raises
    ------
    ValueError
        If the folder holds none.
    """
    record = _record(Path(folder))
    if not record.get("finished"):
        raise ValueError(f"run: {str(folder)!r} holds no finished run; train into it")
    with xr.open_dataset(Path(folder) / ERRORS) as kept:
        errors = kept.load()
    trained = load(Path(folder) / MODEL)
    return Run(Path(folder), trained, record["metrics"], pd.DataFrame(record["history"]), errors)


@dataclass(frozen=True)
class _Job:
    folder: Path
    source: Source
    learner: Learner
    scenes: Scenes
    parameters: dict[str, Any]
    progress: bool
    pictures: Pictures | None

    @property
    def identity(self) -> dict[str, Any]:
        return self.learner.identity


def _tracked(job: _Job) -> Run:
    """Run a job, and tell MLflow how it goes and ends."""
    earlier = _record(job.folder).get("tracking", {})
    name, source = job.identity["architecture"], job.source
    run_id = earlier.get("run_id") if earlier.get("uri") == tracking_uri() else None
    title = f"{name} on {job.identity['dataset']['name']}"
    log = Tracked(title, {"folder": str(job.folder.absolute())}, run_id)
    status = "FAILED"
    try:
        _write_record(job, {"tracking": {"uri": log.uri, "run_id": log.run_id}})
        log.parameters({"architecture": name, **job.identity["options"]})
        log.parameters({f"model.{key}": value for key, value in job.parameters.items()})
        log.parameters({f"dataset.{key}": value for key, value in job.identity["dataset"].items()})
        log.document(json.loads(source.dataset.attrs.get("config", "{}")), "dataset_config.json")
        run = _run(job, log)
        if job.pictures is not None:
            log.pictures(partial(job.pictures, run))
        log.register(run.folder / ONNX, name, source.checksum, run.metrics["validation_nll"])
        _write_record(job, {"finished": True})  # not before: what was killed till here is told when it goes on
        status = "FINISHED"
        return run
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        log.end(status)


def _run(job: _Job, log: Tracked | None) -> Run:
    """Measure, train, calibrate, export."""
    if log is None:
        _write_record(job, {})
    shown = job.progress and is_first()
    with stop_requests(terminate=True) as stop:
        try:
            _measure(job, stop, shown)
            history, best = _learn(job, log, stop, shown)
        except torch.OutOfMemoryError as error:
            size = job.learner.options.batch_size
            raise ValueError(
                f"batch_size: {size} scenes do not fit in the device's memory; train with {max(1, size // 2)} into "
                "another folder"
            ) from error
        except MisconfigurationException as error:
            raise ValueError(
                f"accelerator: {job.learner.options.accelerator!r} cannot be used ({str(error).splitlines()[0]}); give "
                "one that this machine has, or auto"
            ) from error
        except (Stopped, KeyboardInterrupt, SystemExit):  # Lightning exits at SIGTERM, and at a second Ctrl-C
            raise KeyboardInterrupt(
                f"interrupted: what was learned until the last finished epoch is in {str(job.folder)!r}; run the same "
                "command again to go on"
            ) from None
    run = _finish(job, log, history, best)
    if log is None:
        _write_record(job, {"finished": True})
    return run


def _measure(job: _Job, stop: threading.Event, shown: bool) -> None:
    samples = job.source.dataset.sizes["sample"]
    with display("measure", samples, shown) as report:
        heed = heeding(job.folder, stop)

        def advance(done: int, note: str) -> None:
            report(done, note)
            heed()

        job.scenes.measure(advance)
    job.learner.model.fit(job.scenes.statistics())


def _learn(job: _Job, log: Tracked | None, stop: threading.Event, shown: bool) -> tuple[list[Epoch], dict[str, Tensor]]:
    """Train until the end, from the last checkpoint if there is one; returns the history and the best weights."""
    options, path = job.learner.options, job.folder / CHECKPOINT
    earlier = read_checkpoint(path) if path.exists() else None
    name = job.identity["architecture"]
    about = f"{job.learner.model.__class__.__name__}, {len(job.scenes.rows['train'])} scenes"
    with display(f"train {name}", options.epochs, shown, about=about) as report:

        def tell(epoch: Epoch) -> None:
            number = int(epoch["epoch"])
            report(number, "loss {validation_loss:.3f}, median {validation_median_error_km:.3g} km".format(**epoch))
            if log is not None:
                log.figures({key: value for key, value in epoch.items() if key != "epoch"}, number)

        keeper = Keeper(job.folder, job.learner.model, tell, stop)
        patience = EarlyStopping("validation_loss", patience=options.patience, verbose=False)
        if earlier is not None:
            _check_identity(path, earlier.get("run", {}), job.identity)
            keeper.load_state_dict(earlier["callbacks"][keeper.state_key])
        if not _is_ended(earlier, keeper, patience, options):
            with quiet():
                trainer = _trainer(job, [patience, keeper])
                trainer.fit(
                    job.learner,
                    datamodule=job.scenes,
                    ckpt_path=path if earlier is not None else None,
                    weights_only=True,
                )
    return keeper.history, keeper.best


def _trainer(job: _Job, callbacks: list[pl.Callback]) -> pl.Trainer:
    options = job.learner.options
    return pl.Trainer(
        accelerator=options.accelerator,
        devices=options.devices,
        num_nodes=options.num_nodes,
        strategy=options.strategy,
        precision=_precision(options, job.learner.model.inputs),
        max_epochs=options.epochs,
        gradient_clip_val=options.gradient_clip,
        num_sanity_val_steps=0,
        callbacks=callbacks,
        default_root_dir=job.folder,
        use_distributed_sampler=False,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _precision(options: Options, names: tuple[str, ...]) -> Any:
    """Half precision pays where signals are convolved; kilometres of features alone lose too much in it."""
    if options.precision != "auto":
        return options.precision
    on_gpu = options.accelerator != "cpu" and torch.cuda.is_available()
    return "bf16-mixed" if on_gpu and set(names) & set(HEAVY) else "32-true"


def _is_ended(checkpoint: dict[str, Any] | None, keeper: Keeper, patience: EarlyStopping, options: Options) -> bool:
    """Say whether a checkpoint is of the last epoch, so that only what follows training is missing."""
    if checkpoint is None:
        return False
    callbacks = checkpoint["callbacks"]
    history = callbacks[keeper.state_key]["history"]
    return len(history) >= options.epochs or callbacks[patience.state_key]["wait_count"] >= options.patience


def _finish(job: _Job, log: Tracked | None, history: list[Epoch], best: dict[str, Tensor]) -> Run:
    """Calibrate the best weights, and write all that a finished run consists of."""
    from heimdall_lab.learning.export import export_onnx

    model = job.learner.model.cpu()
    model.load_state_dict(best)
    spread, freedom = error_law.fit(_located(model, job.scenes, "validation").squared)
    model.spread.fill_(spread)
    model.freedom.fill_(freedom)
    finite = freedom if math.isfinite(freedom) else None  # JSON has no infinity
    metrics: dict[str, Any] = {"spread": spread, "freedom": finite, "epochs": float(len(history))}
    for split in ("validation", "test"):
        found = _located(model, job.scenes, split)
        nll = -error_law.log_density(found.squared, found.log_determinant, freedom).mean()
        figures = {"nll": float(nll), **error_figures(found.error_km, found.squared, freedom)}
        metrics |= {f"{split}_{name}": value for name, value in figures.items()}
    errors = _errors(job, found, freedom)
    trained = Trained(job.identity["architecture"], job.parameters, model.eval(), _about(job))
    run = Run(job.folder, trained, metrics, pd.DataFrame(history), errors)
    if not is_first():
        return run
    write_atomically(job.folder / ERRORS, lambda path: errors.to_netcdf(path))
    save(trained, job.folder / MODEL)
    export_onnx(trained, job.folder / ONNX)
    if log is not None:
        log.figures({f"final_{name}": value for name, value in metrics.items() if value is not None}, len(history))
    _write_record(job, {"metrics": metrics, "history": history})
    return run


class _Located(NamedTuple):
    """Errors of S scenes: km; over the covariance, squared; and the logarithm of its determinant, km⁴."""

    error_km: Array
    squared: Array
    log_determinant: Array


def _located(model: Localizer, scenes: Scenes, split: str) -> _Located:
    """Locate the scenes of a split."""
    model.eval()
    parts = []
    with torch.inference_mode():
        for batch in scenes.loader(split):
            position, cholesky = (found.double() for found in model({name: batch[name] for name in scenes.inputs}))
            target = batch["target"].double()
            error_km = torch.linalg.vector_norm(position - target, dim=-1)
            log_determinant = 2 * (cholesky[:, 0].log() + cholesky[:, 2].log())
            parts.append(torch.stack([error_km, mahalanobis_squared(position, cholesky, target), log_determinant]))
    return _Located(*torch.cat(parts, dim=1).numpy())


def _errors(job: _Job, found: _Located, freedom: float) -> xr.Dataset:
    """Label the errors of the test split."""
    truth = job.source.dataset.drop_vars([*HEAVY, "features"], errors="ignore").isel(sample=job.scenes.rows["test"])
    bound = bounds.scene_crlb(truth.load())
    dims = ("method", "sample")
    return xr.Dataset(
        {
            "error": (dims, 1e3 * found.error_km[None], {"units": "m", "long_name": "distance from the true position"}),
            "level": (
                dims,
                error_law.level(found.squared, freedom)[None],
                {"units": "1", "long_name": "level of the ellipse through the truth"},
            ),
            "crlb_rmse": bound.crlb_rmse,
            "crlb_covariance": bound.crlb_covariance,
        },
        coords={"method": [job.identity["architecture"]], "sample": truth.sample.values},
    )


def _about(job: _Job) -> dict[str, Any]:
    attributes, dataset = job.source.dataset.attrs, job.identity["dataset"]
    return {
        "data_type": job.source.data_type,
        "dataset": dataset["name"],
        "dataset_checksum": dataset["checksum"],
        "dataset_seed": dataset["seed"],
        "dataset_samples": dataset["samples"],
        "split_sizes": {split: len(rows) for split, rows in job.scenes.rows.items()},
        "sample_rate_hz": float(attributes["sample_rate_hz"]),
        "config": json.loads(attributes.get("config", "{}")),
        "options": job.identity["options"],
        "package_version": job.identity["package_version"],
    }


def _scenes(source: Source, model: Localizer, folder: Path, options: Options) -> Scenes:
    return Scenes(
        source,
        model,
        folder,
        batch_size=options.batch_size,
        seed=options.seed,
        receiver_dropout=options.receiver_dropout,
        num_workers=options.num_workers,
        memory_gb=options.memory_gb,
    )


def _identity(source: Source, architecture: str, parameters: dict[str, Any], options: Options) -> dict[str, Any]:
    """What two calls must agree in to be the same run, as JSON values."""
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


def _default_folder(architecture: str, identity: dict[str, Any]) -> Path:
    digest = f"{seed_of(*json.dumps(identity, sort_keys=True).encode()):016x}"[:8]
    return Path("data") / "runs" / f"{architecture}-{digest}"


def _check_same(folder: Path, identity: dict[str, Any]) -> None:
    """Refuse a folder that holds another run, or anything else."""
    if (folder / manifest.MANIFEST).exists() or (folder.exists() and not folder.is_dir()):
        kind = "a dataset" if folder.is_dir() else "a file"
        raise ValueError(f"out: {str(folder)!r} is {kind}; choose another folder for the run")
    if (folder / RUN).exists():
        _check_identity(folder / RUN, _record(folder), identity)
    elif found := [name for name in (CHECKPOINT, MODEL, ONNX, ERRORS) if (folder / name).exists()]:
        raise ValueError(f"out: {str(folder)!r} holds {found[0]} and no {RUN}; choose another folder for the run")


def _check_identity(path: Path, found: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    before, now = _flat(found, identity), _flat(identity, identity)
    for name, value in now.items():
        if before.get(name) != value:
            raise ValueError(
                f"{name}: {value!r} differs from {before.get(name)!r}, with which {str(path)!r} was begun; choose "
                "another folder, or give what it was begun with"
            )


def _flat(values: Mapping[str, Any], like: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted names of all fields within the groups that ``like`` has."""
    flat: dict[str, Any] = {}
    for group in like:
        content = values.get(group)
        flat |= {f"{group}.{name}": value for name, value in content.items()} if isinstance(content, dict) else {}
        flat |= {} if isinstance(content, dict) else {group: content}
    return flat


def _record(folder: Path) -> dict[str, Any]:
    path = folder / RUN
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"run: {str(path)!r} is damaged ({error}); choose another folder for the run") from error


def _write_record(job: _Job, further: Mapping[str, Any]) -> None:
    if is_first():
        text = json.dumps({**job.identity, **_record(job.folder), **further}, indent=1, allow_nan=False) + "\n"
        write_text(job.folder / RUN, text)


def is_first() -> bool:
    """Say whether this is the first of the processes that Lightning trains with, the one that writes."""
    return all(
        int(os.environ.get(name, "0")) == 0 for name in ("LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID")
    )
