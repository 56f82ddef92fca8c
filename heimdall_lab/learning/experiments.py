"""Training runs in MLflow: in a SQLite file of the data folder, or on the server that MLFLOW_TRACKING_URI names."""

import json
import logging
import math
import os
import socket
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import psutil

from heimdall_lab.core.files import data_folder
from heimdall_lab.core.progress import quiet_loggers, warn

EXPERIMENT = "heimdall_lab"
NEWEST, CHAMPION = "newest", "champion"  # aliases of registered models; MLflow reserves "latest" for itself
RUNS = [
    "run_id",
    "architecture",
    "dataset",
    "status",
    "began",
    "ended",
    "median_error_km",
    "validation_nll",
    "folder",
    "version",
    "champion",
]
RUN, ONNX = "run.json", "model.onnx"  # in the folder of a run: its record, and its model
_TAG = "heimdall_lab"  # first part of the names of this module's tags
_START_TOLERANCE_S = 5.0  # clocks are set while processes run


class TrackingError(ValueError):
    """A tracking store that cannot be used; the message names it and the remedy."""


def tracking_uri(root: str | Path | None = None) -> str:
    """Address of the tracking store: ``MLFLOW_TRACKING_URI``, else ``mlflow.db`` in the data folder (`data_folder`)."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(data_folder(root) / 'mlflow.db').absolute()}"


class TrackedRun:
    """One run in the tracking store; writes that fail while it is under way are reported once and stop nothing.

    Parameters
    ----------
    name : str
    tags : mapping
    run_id : str, optional
        Of a run to continue, if the store has it.

    Raises
    ------
    TrackingError
        If the store cannot be opened.
    """

    def __init__(self, name: str, tags: Mapping[str, str], run_id: str | None = None) -> None:
        self.uri, self.failures = tracking_uri(), 0
        try:
            self.client = client()
            mark_dead_runs(self.client)
            self.run_id = self._continue(run_id, tags) or self._create(name, tags)
        except TrackingError:
            raise
        except Exception as error:  # SQLAlchemy's, the network's and MLflow's own have no common ancestor
            raise _unusable(self.uri, error) from error

    def log_parameters(self, values: Mapping[str, Any]) -> None:
        """Log parameters; a run that continues has the same ones."""
        from mlflow.entities import Param

        self._try(self.client.log_batch, params=[Param(name, str(value)) for name, value in values.items()])

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log metrics of an epoch."""
        from mlflow.entities import Metric

        now_ms = int(1e3 * time.time())
        self._try(self.client.log_batch, metrics=[Metric(name, value, now_ms, step) for name, value in values.items()])

    def log_json(self, values: Mapping[str, Any], file: str) -> None:
        """Log JSON values as a file."""
        self._try(self.client.log_text, json.dumps(values, indent=1, default=str), file)

    def log_pictures(self, make: Callable[[], Mapping[str, str | Path]]) -> None:
        """Make and log pictures: the text of each HTML page by its file's name, or the path of a file."""
        self._try_all(lambda: self._log_pictures(make()))

    def _log_pictures(self, pictures: Mapping[str, str | Path]) -> None:
        for name, picture in pictures.items():
            if isinstance(picture, Path):
                self._try(self.client.log_artifact, str(picture), "pictures")
            else:
                self._try(self.client.log_text, picture, f"pictures/{name}")

    def register_model(self, onnx_path: Path, name: str, dataset_checksum: str, validation_loss: float) -> None:
        """Log an ONNX model and register it; it is the champion if none on this dataset has a lower loss."""
        self._try_all(lambda: self._register_model(onnx_path, name, dataset_checksum, validation_loss))

    def end(self, status: str) -> None:
        """Close the run as FINISHED, FAILED or KILLED."""
        self._try_all(lambda: self.client.set_terminated(self.run_id, status))
        if self.failures:
            warn(f"tracking: the run is not whole in {self.uri!r}: {self.failures} attempts to write to it failed")

    def _continue(self, run_id: str | None, tags: Mapping[str, str]) -> str | None:
        from mlflow.exceptions import MlflowException

        if run_id is None:
            return None
        try:
            # Before it counts as running, so that no other process marks it as dead.
            for key, value in {**tags, **_process_tags()}.items():
                self.client.set_tag(run_id, key, value)
            self.client.update_run(run_id, status="RUNNING")
        except MlflowException:  # of another store, or deleted there
            return None
        return run_id

    def _create(self, name: str, tags: Mapping[str, str]) -> str:
        found = self.client.get_experiment_by_name(EXPERIMENT)
        if found is None:
            folder = None if os.environ.get("MLFLOW_TRACKING_URI") else (data_folder() / "mlruns").absolute().as_uri()
            experiment = self.client.create_experiment(EXPERIMENT, artifact_location=folder)
        else:
            experiment = found.experiment_id
        all_tags = {**tags, **_process_tags()}
        return str(self.client.create_run(experiment, run_name=name, tags=all_tags).info.run_id)

    def _register_model(self, onnx_path: Path, name: str, dataset_checksum: str, validation_loss: float) -> None:
        import onnx
        from mlflow.exceptions import MlflowException

        with tempfile.TemporaryDirectory() as folder:
            saved = Path(folder) / "model"
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".*Any type hint is inferred as AnyType")  # of MLflow's own classes
                import mlflow.onnx

                mlflow.onnx.save_model(onnx.load(onnx_path), str(saved), pip_requirements=["onnxruntime"])
            self.client.log_artifacts(self.run_id, str(saved), "model")
        try:
            self.client.get_registered_model(name)
        except MlflowException:
            self.client.create_registered_model(name)
        source = f"{self.client.get_run(self.run_id).info.artifact_uri}/model"
        tags = {f"{_TAG}.dataset": dataset_checksum, f"{_TAG}.validation_loss": repr(validation_loss)}
        version = self.client.create_model_version(name, source, self.run_id, tags=tags).version
        self.client.set_registered_model_alias(name, NEWEST, version)
        if self._is_best(name, dataset_checksum, validation_loss):
            self.client.set_registered_model_alias(name, CHAMPION, version)

    def _is_best(self, name: str, dataset_checksum: str, validation_loss: float) -> bool:
        versions = self.client.search_model_versions(f"name = '{name}'")
        losses = [
            float(version.tags[f"{_TAG}.validation_loss"])
            for version in versions
            if version.tags.get(f"{_TAG}.dataset") == dataset_checksum
        ]
        return validation_loss <= min(losses)

    def _try(self, log: Any, *arguments: Any, **options: Any) -> None:
        self._try_all(lambda: log(self.run_id, *arguments, **options))

    def _try_all(self, log: Any) -> None:
        try:
            log()
        except Exception as error:  # a server that is away for a while is no reason to lose hours of training
            self.failures += 1
            if self.failures == 1:
                warn(f"tracking: {self.uri!r} cannot be written to ({_reason(error)}); training goes on without")


def client(root: str | Path | None = None) -> Any:
    """Open the tracking store (`tracking_uri`): an ``mlflow.MlflowClient``.

    Raises
    ------
    TrackingError
        If it cannot be opened.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient

    uri = tracking_uri(root)
    if uri.startswith("sqlite:///"):
        Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    try:
        with quiet_loggers("mlflow.store.db.utils", "alembic", level=logging.WARNING):
            opened = MlflowClient(tracking_uri=uri, registry_uri=uri)
            opened.search_experiments(max_results=1)
    except Exception as error:  # see above
        raise _unusable(uri, error) from error
    return opened


@contextmanager
def _open_store(root: str | Path | None) -> Iterator[Any]:
    """Open the tracking store for a block, in which MLflow's exceptions become a `TrackingError`."""
    opened = client(root)
    from mlflow.exceptions import MlflowException

    try:
        yield opened
    except MlflowException as error:
        raise _unusable(tracking_uri(root), error) from error


def runs(root: str | Path | None = None) -> pd.DataFrame:
    """List the tracked runs, the newest first.

    Parameters
    ----------
    root : path, optional
        Data folder, see `tracking_uri`.

    Returns
    -------
    pandas.DataFrame
        Columns of ``RUNS``: times as datetimes in UTC, errors in km; ``version`` of the registered model, 0 where there
        is none, and whether it is the ``champion`` of its architecture.

    Raises
    ------
    TrackingError
        If the store cannot be opened.
    """
    with _open_store(root) as opened:
        mark_dead_runs(opened)
        found = opened.get_experiment_by_name(EXPERIMENT)
        versions = {v.run_id: v for v in opened.search_model_versions(max_results=10_000)}
        champions = {(m.name, str(m.aliases.get(CHAMPION))) for m in opened.search_registered_models(max_results=1000)}
        logged = opened.search_runs([found.experiment_id], max_results=1000) if found is not None else []
    rows = []
    for run in logged:
        began, ended = (pd.to_datetime(at, unit="ms", utc=True) for at in (run.info.start_time, run.info.end_time))
        metrics, version = run.data.metrics, versions.get(run.info.run_id)
        rows.append(
            {
                "run_id": run.info.run_id,
                "architecture": run.data.params.get("architecture", ""),
                "dataset": run.data.params.get("dataset.name", ""),
                "status": run.info.status,
                "began": began,
                "ended": ended,
                "median_error_km": metrics.get("final_test_median_error_km", math.nan),
                "validation_nll": metrics.get("final_validation_nll", math.nan),
                "folder": run.data.tags.get("folder", ""),
                "version": int(version.version) if version else 0,
                "champion": version is not None and (version.name, str(version.version)) in champions,
            }
        )
    return pd.DataFrame(rows, columns=RUNS)


def curves(run_id: str, root: str | Path | None = None) -> pd.DataFrame:
    """Metrics of every epoch of a run: index ``epoch``, a column for each metric, and ``at``, seconds since 1970.

    Raises
    ------
    TrackingError
        If the store cannot be opened.
    """
    with _open_store(root) as opened:
        names = [name for name in opened.get_run(run_id).data.metrics if not name.startswith("final_")]
        logged = {name: opened.get_metric_history(run_id, name) for name in names}
    metrics = {name: pd.Series({each.step: each.value for each in history}) for name, history in logged.items()}
    at = pd.Series({each.step: each.timestamp / 1e3 for history in logged.values() for each in history}, dtype=float)
    return pd.DataFrame({**metrics, "at": at}).rename_axis("epoch").sort_index()


def run_id_of(folder: str | Path, root: str | Path | None = None) -> str | None:
    """Return the identifier in this store of the run that a folder holds; None if ``run.json`` names none."""
    try:
        record = json.loads((Path(folder) / RUN).read_text(encoding="utf-8")).get("tracking", {})
    except (FileNotFoundError, ValueError):
        return None
    return str(record["run_id"]) if record.get("uri") == tracking_uri(root) else None


def promote(run_id: str, root: str | Path | None = None) -> str:
    """Make a run's registered model the champion of its architecture; returns the architecture's name.

    Raises
    ------
    TrackingError
        If the run registered none, or the store cannot be opened.
    """
    with _open_store(root) as opened:
        found = opened.search_model_versions(f"run_id = '{run_id}'")
        if not found:
            raise TrackingError(f"run: {run_id!r} registered no model; only a finished run can be promoted")
        newest = max(found, key=lambda each: int(each.version))
        opened.set_registered_model_alias(newest.name, CHAMPION, newest.version)
    return str(newest.name)


def mark_dead_runs(opened: Any = None) -> list[str]:
    """Mark as FAILED the runs that are logged as running in a process of this machine that has ended.

    Returns
    -------
    list of str
        Their identifiers.
    """
    opened = client() if opened is None else opened
    found = opened.get_experiment_by_name(EXPERIMENT)
    if found is None:
        return []
    running = opened.search_runs(
        [found.experiment_id],
        f"attributes.status = 'RUNNING' and tags.`{_TAG}.host` = '{socket.gethostname()}'",
        max_results=1000,
    )
    dead = [run.info.run_id for run in running if not _is_alive(run.data.tags)]
    for run_id in dead:
        opened.set_terminated(run_id, "FAILED")
    return dead


def _process_tags() -> dict[str, str]:
    return {
        f"{_TAG}.host": socket.gethostname(),
        f"{_TAG}.process": str(os.getpid()),
        f"{_TAG}.process_began": str(psutil.Process().create_time()),
    }


def _is_alive(tags: Mapping[str, str]) -> bool:
    """Whether the process still runs; another one may have its number by now."""
    try:
        began_s = psutil.Process(int(tags[f"{_TAG}.process"])).create_time()
    except (psutil.NoSuchProcess, KeyError, ValueError):
        return False
    return abs(began_s - float(tags[f"{_TAG}.process_began"])) < _START_TOLERANCE_S


def _unusable(uri: str, error: Exception) -> TrackingError:
    return TrackingError(
        f"MLFLOW_TRACKING_URI: {uri!r} cannot be used ({_reason(error)}); start the server, correct the address, or "
        "train without tracking"
    )


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
