"""Training runs in MLflow: in a SQLite file of the data folder, or on the server that MLFLOW_TRACKING_URI names.

Every store is read and written by a client of its own address. `mlflow.search_runs`, `mlflow.onnx.log_model` and
Lightning's logger use one address for the whole process, and write it to MLFLOW_TRACKING_URI, which would then hide the
stores of other data folders.
"""

import json
import logging
import math
import os
import socket
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pandas as pd
import psutil

from heimdall_lab.core.files import data_folder
from heimdall_lab.core.progress import quiet_loggers, warn
from heimdall_lab.core.text import quoted

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
_DATASET, _LOSS = f"{_TAG}.dataset", f"{_TAG}.validation_loss"  # of model versions
_BY_LOSS = f"{_TAG}.champion_by_loss"  # of models: versions that may be champion by their loss, not by a person
_SQLITE = "sqlite:///"
_PAGE_SIZE = 1000  # entries that the store is asked for at a time
_START_TOLERANCE_S = 5.0  # clocks are set while processes run


class TrackingError(ValueError):
    """A tracking store that cannot be used; the message names it and the remedy."""


def tracking_uri(root: str | Path | None = None) -> str:
    """Address of the tracking store: ``MLFLOW_TRACKING_URI``, else ``mlflow.db`` in the data folder (`data_folder`)."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"{_SQLITE}{(data_folder(root) / 'mlflow.db').absolute()}"


def store_files(root: str | Path | None = None) -> dict[str, int] | None:
    """Files of the tracking store and when each was written to, in ns; None if the store is no SQLite file.

    As long as they stay the same, so does what the store holds. There are none before the first run.
    """
    uri = tracking_uri(root)
    if not uri.startswith(_SQLITE):
        return None
    path = Path(uri.removeprefix(_SQLITE))
    return {file.name: file.stat().st_mtime_ns for file in (path, Path(f"{path}-wal")) if file.exists()}


class TrackedRun:
    """One run in the tracking store: the one that ``run_id`` names, or a new one where the store has none of that name.

    Writes that fail while it is under way are reported once and stop nothing.

    Raises
    ------
    TrackingError
        If the store cannot be opened.
    """

    def __init__(self, name: str, tags: Mapping[str, str], run_id: str | None = None) -> None:
        self.uri, self.failures, self.client = tracking_uri(), 0, client()
        try:
            with _quiet_mlflow():
                mark_dead_runs(self.client)
                self.run_id = self._continue(run_id, tags) or self._create(name, tags)
        except Exception as error:  # SQLAlchemy's, the network's and MLflow's own have no common ancestor
            raise _unusable(self.uri, error) from error

    def log_parameters(self, values: Mapping[str, Any]) -> None:
        """Log parameters; a run that continues has the same ones."""
        from mlflow.entities import Param

        parameters = [Param(name, str(value)) for name, value in values.items()]
        self._try(self.client.log_batch, self.run_id, params=parameters)

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log metrics of an epoch."""
        from mlflow.entities import Metric

        now_ms = int(1e3 * time.time())
        metrics = [Metric(name, value, now_ms, step) for name, value in values.items()]
        self._try(self.client.log_batch, self.run_id, metrics=metrics)

    def log_json(self, values: Mapping[str, Any], file: str) -> None:
        """Log JSON values as a file."""
        self._try(self.client.log_text, self.run_id, json.dumps(values, indent=1, default=str), file)

    def log_pictures(self, make: Callable[[], Mapping[str, str | Path]]) -> None:
        """Make and log pictures: the text of each HTML page by its file's name, or the path of a file."""
        self._try(self._log_pictures, make)

    def _log_pictures(self, make: Callable[[], Mapping[str, str | Path]]) -> None:
        for name, picture in make().items():
            if isinstance(picture, Path):
                self._try(self.client.log_artifact, self.run_id, str(picture), "pictures")
            else:
                self._try(self.client.log_text, self.run_id, picture, f"pictures/{name}")

    def register_model(self, onnx_path: Path, name: str, dataset_checksum: str, validation_loss: float) -> None:
        """Log an ONNX model and register it, once for a run.

        It becomes the champion if there is none, or if its loss is lower than the champion's on the same dataset and
        nobody promoted that one.
        """
        self._try(self._register_model, onnx_path, name, dataset_checksum, validation_loss)

    def end(self, status: str) -> None:
        """Close the run as FINISHED, FAILED or KILLED."""
        self._try(self.client.set_terminated, self.run_id, status)
        if self.failures:
            warn(
                f"tracking: the run is not whole in {quoted(self.uri)}: {self.failures} attempts to write to it failed"
            )

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
        from mlflow.exceptions import MlflowException

        made = _version_of(self.client, self.run_id)  # by a process that was killed before it recorded its end
        if made is None:
            source = self._log_model(onnx_path)
            with suppress(MlflowException):  # it is there already
                self.client.create_registered_model(name)
            tags = {_DATASET: dataset_checksum, _LOSS: repr(validation_loss)}
            made = self.client.create_model_version(name, source, self.run_id, tags=tags)
        self.client.set_registered_model_alias(name, NEWEST, made.version)
        registered = self.client.get_registered_model(name)
        if self._displaces_champion(registered, dataset_checksum, validation_loss):
            # Both, until the alias has moved: a process that is killed in between leaves no champion for promoted.
            both = f"{registered.aliases.get(CHAMPION)},{made.version}"
            self.client.set_registered_model_tag(name, _BY_LOSS, both)
            self.client.set_registered_model_alias(name, CHAMPION, made.version)
            self.client.set_registered_model_tag(name, _BY_LOSS, made.version)

    def _log_model(self, onnx_path: Path) -> str:
        """Log an ONNX model among the run's files; returns its address."""
        import onnx

        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*Any type hint is inferred as AnyType")  # of MLflow's own classes
            import mlflow.onnx

            mlflow.onnx.save_model(onnx.load(onnx_path), f"{folder}/model", pip_requirements=["onnxruntime"])
            self.client.log_artifacts(self.run_id, folder)
        return f"{self.client.get_run(self.run_id).info.artifact_uri}/model"

    def _displaces_champion(self, registered: Any, dataset_checksum: str, validation_loss: float) -> bool:
        champion, by_loss = registered.aliases.get(CHAMPION), registered.tags.get(_BY_LOSS)
        if champion is None:
            return True
        if by_loss is not None and str(champion) not in by_loss.split(","):
            return False  # somebody promoted it, here or on MLflow's own pages
        tags = self.client.get_model_version(registered.name, str(champion)).tags
        return tags.get(_DATASET) == dataset_checksum and validation_loss < float(tags[_LOSS])

    def _try(self, log: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        try:
            with _quiet_mlflow():
                log(*arguments, **options)
        except Exception as error:  # a server that is away for a while is no reason to lose hours of training
            self.failures += 1
            if self.failures == 1:
                warn(f"tracking: {quoted(self.uri)} cannot be written to ({_reason(error)}); training goes on without")


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
    try:
        if uri.startswith(_SQLITE):
            Path(uri.removeprefix(_SQLITE)).parent.mkdir(parents=True, exist_ok=True)
        with _quiet_mlflow(), quiet_loggers("alembic", level=logging.WARNING):
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
        with _quiet_mlflow():
            yield opened
    except MlflowException as error:
        raise _unusable(tracking_uri(root), error) from error


def runs(root: str | Path | None = None) -> pd.DataFrame:
    """List the tracked runs of a data folder (`tracking_uri`), the newest first.

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
        ordered = sorted(_all_pages(opened.search_model_versions), key=lambda each: int(each.version))
        versions = {version.run_id: version for version in ordered}  # the newest of each run
        champions = {(m.name, str(m.aliases.get(CHAMPION))) for m in _all_pages(opened.search_registered_models)}
        logged = {run.info.run_id: run for run in _search_runs(opened)}  # one that begins meanwhile shifts the pages
    rows = []
    for run_id, run in logged.items():
        began, ended = (pd.to_datetime(at, unit="ms", utc=True) for at in (run.info.start_time, run.info.end_time))
        metrics, version = run.data.metrics, versions.get(run_id)
        rows.append(
            {
                "run_id": run_id,
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
        tracking = dict(json.loads((Path(folder) / RUN).read_text(encoding="utf-8"))).get("tracking")
    except (OSError, TypeError, ValueError):
        return None
    if not isinstance(tracking, dict) or tracking.get("uri") != tracking_uri(root):
        return None
    return str(tracking["run_id"]) if "run_id" in tracking else None


def promote(run_id: str, root: str | Path | None = None) -> str:
    """Make a run's registered model the champion of its architecture; returns the architecture's name.

    It stays the champion until another one is promoted, as does one that was given the alias on MLflow's own pages.

    Raises
    ------
    TrackingError
        If the run registered none, or the store cannot be opened.
    """
    with _open_store(root) as opened:
        newest = _version_of(opened, run_id)
        if newest is None:
            raise TrackingError(f"run: {quoted(run_id)} registered no model; only a finished run can be promoted")
        opened.set_registered_model_tag(newest.name, _BY_LOSS, "")
        opened.set_registered_model_alias(newest.name, CHAMPION, newest.version)
    return str(newest.name)


def mark_dead_runs(opened: Any = None) -> list[str]:
    """Mark as FAILED the runs logged as running in a process of this machine that has ended; returns their run_ids."""
    opened = client() if opened is None else opened
    here = f"attributes.status = 'RUNNING' and tags.`{_TAG}.host` = '{socket.gethostname()}'"
    dead = [run.info.run_id for run in _search_runs(opened, here) if not _is_alive(run.data.tags)]
    for run_id in dead:
        opened.set_terminated(run_id, "FAILED")
    return dead


def _search_runs(opened: Any, condition: str = "") -> list[Any]:
    found = opened.get_experiment_by_name(EXPERIMENT)
    return _all_pages(opened.search_runs, [found.experiment_id], filter_string=condition) if found is not None else []


def _all_pages(search: Callable[..., Any], *arguments: Any, **options: Any) -> list[Any]:
    """Search the store, and fetch what is found page by page until there is no more."""
    found: list[Any] = []
    token = None
    while True:
        page = search(*arguments, max_results=_PAGE_SIZE, page_token=token, **options)
        found += page
        if not (token := page.token):
            return found


def _version_of(opened: Any, run_id: str) -> Any:
    """Newest version of a model that a run registered; None if it registered none."""
    found = _all_pages(opened.search_model_versions, filter_string=f"run_id = '{run_id}'")
    return max(found, key=lambda each: int(each.version), default=None)


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
        f"MLFLOW_TRACKING_URI: {quoted(uri)} cannot be used ({_reason(error)}); start the server, correct the address, "
        "make room, or train without tracking"
    )


def _quiet_mlflow() -> AbstractContextManager[None]:
    """Keep MLflow from logging with a traceback what it raises as well."""
    return quiet_loggers("mlflow.store.db.utils", level=logging.CRITICAL + 1)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
