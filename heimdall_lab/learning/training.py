"""Train a localizer on a dataset into a folder; an interrupted run continues from its last finished epoch."""

import json
import math
import threading
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
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
from heimdall_lab.core.files import locked, make_folder, write_files
from heimdall_lab.core.progress import display, stop_requests
from heimdall_lab.core.text import quoted, shortened
from heimdall_lab.datasets import integrity, netcdf
from heimdall_lab.learning import architectures, registry
from heimdall_lab.learning.architectures.layers import Localizer, mahalanobis_squared
from heimdall_lab.learning.augmentation import seed_of
from heimdall_lab.learning.callbacks import CHECKPOINT, EpochCheckpoint, StopRequested, read_checkpoint, stop_check
from heimdall_lab.learning.data import SceneDataModule
from heimdall_lab.learning.experiments import TrackedRun, tracking_uri
from heimdall_lab.learning.lightning_module import Learner, Metrics, error_metrics, quiet_lightning
from heimdall_lab.learning.options import Options, options_for
from heimdall_lab.learning.run_folder import (
    ERRORS,
    ONNX,
    check_identity,
    check_same_run,
    default_folder,
    is_rank_zero,
    read_record,
    run_identity,
    write_record,
)
from heimdall_lab.learning.signals_on_disk import SIGNAL_DIMS
from heimdall_lab.learning.sources import Source, open_source
from heimdall_lab.learning.trained import MODEL, Trained, load, to_bytes
from heimdall_lab.localization import bounds, error_law


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
        and ``coverage_95``; ``spread`` and ``freedom``, the law of errors (`error_law`) found on the validation split,
        ``freedom`` None for a normal one; ``epochs``.
    history : pandas.DataFrame
        A row for each epoch.
    errors : xr.Dataset
        Of the test split, as `leaderboard.compare` gives them: ``error`` m and ``level`` (method, sample);
        ``crlb_rmse`` m and ``crlb_covariance``, where links are late by every law (`bounds.crlb_by_law`).
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
    verify: bool = True,
    **options: Any,
) -> Run:
    """Train a localizer, or continue an interrupted training.

    After any interruption the same call continues from the last finished epoch and, on a CPU, ends with the same
    metrics as without the interruption. Ctrl-C or SIGTERM stops after the current batch. Of a finished run, the same
    call returns the result.

    Parameters
    ----------
    dataset : xr.Dataset or path
        Simulated; its splits are by `splits.split_of`.
    architecture : str
        Of `registry.ARCHITECTURES`.
    out : path, optional
        Folder of the run; by default one for each dataset and options below ``runs`` of the data folder, which is
        ``HEIMDALL_LAB_DATA`` or else ``data``.
    parameters : mapping, optional
        Of the architecture, instead of its defaults.
    tracking : bool
        Log the run in MLflow: see `experiments`.
    progress : bool
        Show progress on standard error.
    pictures : callable, optional
        Makes pictures of the finished run, to be logged: HTML by file name, or paths.
    verify : bool
        Check the dataset's shards against their checksums first.
    **options
        Fields of `Options`: ``epochs``, ``batch_size``, ``learning_rate``, ``patience``, ``seed``, …

    Returns
    -------
    Run

    Raises
    ------
    ValueError
        If the dataset does not fit the architecture, an option is refused, the folder holds another run or a damaged
        checkpoint, a shard is damaged, or the loss is NaN or infinite.
    KeyboardInterrupt
        After Ctrl-C; its message says how to continue.
    """
    chosen = options_for(architecture, options)
    source = open_source(dataset)
    try:
        registry.check_compatible(architecture, source.data_type)
        settings = {**registry.architecture(architecture).parameters, **(parameters or {})}
        identity = run_identity(source, architecture, settings, chosen)
        folder = Path(out) if out is not None else default_folder(architecture, identity)
        check_same_run(folder, identity)
        if (folder / MODEL).exists() and read_record(folder).get("finished"):
            return open_run(folder)
        with torch.random.fork_rng():
            torch.manual_seed(seed_of(chosen.seed))
            model = architectures.build(architecture, settings)
            loading = {"batch_size", "seed", "receiver_dropout", "num_workers", "memory_gb"}
            scenes = SceneDataModule(source, model, **chosen.model_dump(include=loading))
            if is_rank_zero():
                make_folder(folder)
            with locked(folder) if is_rank_zero() else nullcontext(), integrity.kept(source.dataset):
                check_same_run(folder, identity)
                if verify:
                    integrity.check_origin(source.dataset, progress and is_rank_zero())
                learner = Learner(model, chosen, identity, scenes.batches_per_epoch)
                job = _Job(folder, source, learner, scenes, settings, progress, pictures)
                return _run_tracked(job) if tracking and is_rank_zero() else _run(job, None)
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
    record = read_record(Path(folder))
    if not record.get("finished"):
        raise ValueError(f"run: {quoted(folder)} holds no finished run; train into it")
    errors = netcdf.load(Path(folder) / ERRORS)
    trained = load(Path(folder) / MODEL)
    return Run(Path(folder), trained, record["metrics"], pd.DataFrame(record["history"]), errors)


@dataclass(frozen=True)
class _Job:
    folder: Path
    source: Source
    learner: Learner
    scenes: SceneDataModule
    parameters: dict[str, Any]
    progress: bool
    pictures: Pictures | None

    @property
    def identity(self) -> dict[str, Any]:
        return self.learner.identity

    def record(self, entries: Mapping[str, Any]) -> None:
        write_record(self.folder, self.identity, entries)


def _run_tracked(job: _Job) -> Run:
    """Run a job, and log its progress and its end in MLflow."""
    earlier = read_record(job.folder).get("tracking", {})
    name, source = job.identity["architecture"], job.source
    run_id = earlier.get("run_id") if earlier.get("uri") == tracking_uri() else None
    title = f"{name} on {job.identity['dataset']['name']}"
    tracked = TrackedRun(title, {"folder": str(job.folder.absolute())}, run_id)
    status = "FAILED"
    try:
        job.record({"tracking": {"uri": tracked.uri, "run_id": tracked.run_id}})
        tracked.log_parameters({"architecture": name, **job.identity["options"]})
        tracked.log_parameters({f"model.{key}": value for key, value in job.parameters.items()})
        tracked.log_parameters({f"dataset.{key}": value for key, value in job.identity["dataset"].items()})
        tracked.log_json(json.loads(source.dataset.attrs.get("config", "{}")), "dataset_config.json")
        run = _run(job, tracked)
        if job.pictures is not None:
            tracked.log_pictures(partial(job.pictures, run))
        tracked.register_model(run.folder / ONNX, name, source.checksum, run.metrics["validation_nll"])
        job.record({"finished": True})  # last, so that a run killed before this is logged when it continues
        status = "FINISHED"
        return run
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        tracked.end(status)


def _run(job: _Job, tracked: TrackedRun | None) -> Run:
    """Measure, train, calibrate, export."""
    if tracked is None:
        job.record({})
    shown = job.progress and is_rank_zero()
    with stop_requests(terminate=True) as stop:
        try:
            _measure(job, stop, shown)
            history, best = _fit(job, tracked, stop, shown)
        except torch.OutOfMemoryError as error:
            size = job.learner.options.batch_size
            raise ValueError(
                f"batch_size: {size} scenes do not fit in the device's memory; train with {max(1, size // 2)} into "
                "another folder"
            ) from error
        except MisconfigurationException as error:
            raise ValueError(
                f"accelerator: {quoted(job.learner.options.accelerator)} cannot be used "
                f"({shortened(str(error).splitlines()[0])}); give one that this machine has, or auto"
            ) from error
        except (StopRequested, KeyboardInterrupt, SystemExit):  # Lightning exits at SIGTERM, and at a second Ctrl-C
            raise KeyboardInterrupt(
                f"interrupted: what was learned until the last finished epoch is in {quoted(job.folder)}; run the same "
                "command again to go on"
            ) from None
    run = _finish(job, tracked, history, best)
    if tracked is None:
        job.record({"finished": True})
    return run


def _measure(job: _Job, stop: threading.Event, shown: bool) -> None:
    samples = job.source.dataset.sizes["sample"]
    with display("measure", samples, shown) as report:
        raise_if_stopped = stop_check(job.folder, stop)

        def advance(done: int, note: str) -> None:
            report(done, note)
            raise_if_stopped()

        job.scenes.measure(advance)
    job.learner.model.fit(job.scenes.statistics())


def _fit(
    job: _Job, tracked: TrackedRun | None, stop: threading.Event, shown: bool
) -> tuple[list[Metrics], dict[str, Tensor]]:
    """Train to the end, from the last checkpoint if there is one; returns the history and the best weights."""
    options, path = job.learner.options, job.folder / CHECKPOINT
    earlier = read_checkpoint(path) if path.exists() else None
    name = job.identity["architecture"]
    about = f"{job.learner.model.__class__.__name__}, {len(job.scenes.rows['train'])} scenes"
    with display(f"train {name}", options.epochs, shown, about=about) as report:

        def report_epoch(epoch: Metrics) -> None:
            number = int(epoch["epoch"])
            report(number, "loss {validation_loss:.3f}, median {validation_median_error_km:.3g} km".format(**epoch))
            if tracked is not None:
                tracked.log_metrics({key: value for key, value in epoch.items() if key != "epoch"}, number)

        checkpoint = EpochCheckpoint(job.folder, job.learner.model, report_epoch, stop)
        early_stopping = EarlyStopping("validation_loss", patience=options.patience, verbose=False)
        ended = False  # True where only calibration and export are missing
        if earlier is not None:
            check_identity(path, earlier.get("run", {}), job.identity)
            saved = earlier["callbacks"]
            checkpoint.load_state_dict(saved[checkpoint.state_key])
            waited = saved[early_stopping.state_key]["wait_count"]
            ended = len(checkpoint.history) >= options.epochs or waited >= options.patience
        if not ended:
            with quiet_lightning():
                trainer = _trainer(job, [early_stopping, checkpoint])
                trainer.fit(
                    job.learner,
                    datamodule=job.scenes,
                    ckpt_path=path if earlier is not None else None,
                    weights_only=True,
                )
    return checkpoint.history, checkpoint.best


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
    """Choose half precision for convolutions of signals; distances in km among the features lose too much in it."""
    if options.precision != "auto":
        return options.precision
    on_gpu = options.accelerator != "cpu" and torch.cuda.is_available()
    return "bf16-mixed" if on_gpu and set(names) & set(SIGNAL_DIMS) else "32-true"


def _finish(job: _Job, tracked: TrackedRun | None, history: list[Metrics], best: dict[str, Tensor]) -> Run:
    """Calibrate the best weights on the validation split, evaluate them, and write the files of a finished run."""
    from heimdall_lab.learning.export import onnx_writer

    model = job.learner.model.cpu()
    model.load_state_dict(best)
    spread, freedom = error_law.fit(_scene_errors(model, job.scenes, "validation").squared)
    model.spread.fill_(spread)
    model.freedom.fill_(freedom)
    finite = freedom if math.isfinite(freedom) else None  # JSON has no infinity
    metrics: dict[str, Any] = {"spread": spread, "freedom": finite, "epochs": float(len(history))}
    for split in ("validation", "test"):
        found = _scene_errors(model, job.scenes, split)
        nll = -error_law.log_density(found.squared, found.log_determinant, freedom).mean()
        split_metrics = {"nll": float(nll), **error_metrics(found.error_km, found.squared, freedom)}
        metrics |= {f"{split}_{name}": value for name, value in split_metrics.items()}
    errors = _error_dataset(job, found, freedom)
    trained = Trained(job.identity["architecture"], job.parameters, model.eval(), _provenance(job))
    run = Run(job.folder, trained, metrics, pd.DataFrame(history), errors)
    if not is_rank_zero():
        return run
    content = to_bytes(trained)
    write_files(
        {
            job.folder / ERRORS: lambda path: netcdf.write_netcdf(errors, path),
            job.folder / MODEL: lambda path: path.write_bytes(content),
            job.folder / ONNX: onnx_writer(trained, job.folder / ONNX),
        }
    )
    if tracked is not None:
        final = {f"final_{name}": value for name, value in metrics.items() if value is not None}
        tracked.log_metrics(final, len(history))
    job.record({"metrics": metrics, "history": history})
    return run


class _SceneErrors(NamedTuple):
    """Errors of S scenes: km; squared Mahalanobis distance; logarithm of the covariance's determinant, km⁴."""

    error_km: Array
    squared: Array
    log_determinant: Array


def _scene_errors(model: Localizer, scenes: SceneDataModule, split: str) -> _SceneErrors:
    """Locate the scenes of a split, and compare with the truth."""
    model.eval()
    parts = []
    with torch.inference_mode():
        for batch in scenes.loader(split):
            position, cholesky = (part.double() for part in model({name: batch[name] for name in scenes.inputs}))
            target = batch["target"].double()
            error_km = torch.linalg.vector_norm(position - target, dim=-1)
            log_determinant = 2 * (cholesky[:, 0].log() + cholesky[:, 2].log())
            parts.append(torch.stack([error_km, mahalanobis_squared(position, cholesky, target), log_determinant]))
    return _SceneErrors(*torch.cat(parts, dim=1).numpy())


def _error_dataset(job: _Job, found: _SceneErrors, freedom: float) -> xr.Dataset:
    """Errors of the test split with their Cramér-Rao bound, as a labelled dataset."""
    small = job.source.dataset.drop_vars([*SIGNAL_DIMS, "features"], errors="ignore")
    truth = small.isel(sample=job.scenes.rows["test"])
    bound = bounds.crlb_by_law(truth.load())
    dims = ("method", "sample")
    return xr.Dataset(
        {
            "error": (dims, 1e3 * found.error_km[None], {"units": "m", "long_name": "distance from the true position"}),
            "level": (
                dims,
                error_law.level(found.squared, freedom)[None],
                {"units": "1", "long_name": "level of the ellipse through the truth"},
            ),
            **bound.data_vars,
        },
        coords={"method": [job.identity["architecture"]], "sample": truth.sample.values},
    )


def _provenance(job: _Job) -> dict[str, Any]:
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
