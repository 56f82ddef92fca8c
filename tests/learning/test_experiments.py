"""Runs in MLflow: what is logged, how each way of ending is told, and who is the champion."""

import subprocess
import sys
from pathlib import Path

import mlflow
import pytest

import heimdall_lab as hl
from heimdall_lab.learning import experiments, lightning_module
from heimdall_lab.learning.callbacks import StopRequested


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a dataset and a tracking store: making a store takes seconds."""
    folder = tmp_path_factory.mktemp("tracked")
    config = hl.preset("los_sync", num_samples=64, seed=5, signal={"duration_s": 0.02}, data_type="feature_based")
    hl.generate(config, folder / "dataset", progress=False)
    return folder


@pytest.fixture
def store(place, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(place)
    return experiments.client()


def quick(out, **options):
    return hl.train("dataset", "triangulation", out=out, progress=False, **{"epochs": 2, "batch_size": 16, **options})


def tracked(store, out):
    (experiment,) = [e for e in store.search_experiments() if e.name == experiments.EXPERIMENT]
    runs = store.search_runs([experiment.experiment_id])
    return [run for run in runs if run.data.tags["folder"].endswith(f"/{out}")]


def test_a_run_is_logged_whole_and_its_model_registered(store, place):
    run = quick("whole")
    (found,) = tracked(store, "whole")
    assert found.info.status == "FINISHED"
    assert found.data.params["dataset.checksum"] == run.trained.about["dataset_checksum"]
    assert found.data.params["batch_size"] == "16"
    steps = [metric.step for metric in store.get_metric_history(found.info.run_id, "validation_loss")]
    assert steps == [1, 2]
    assert found.data.metrics["final_test_rmse_km"] == run.metrics["test_rmse_km"]
    pictures = {file.path for file in store.list_artifacts(found.info.run_id, "pictures")}
    assert pictures == {f"pictures/{name}.html" for name in ("calibration", "error_cdf", "losses")}
    version = store.get_model_version_by_alias("triangulation", experiments.NEWEST)
    assert version.run_id == found.info.run_id
    assert (place / "data" / "mlflow.db").exists()
    model = mlflow.artifacts.download_artifacts(version.source, tracking_uri=experiments.tracking_uri())
    assert any(path.suffix == ".onnx" for path in Path(model).iterdir())


@pytest.mark.slow
def test_the_champion_has_the_lowest_loss_on_its_dataset(store):
    first = quick("long", epochs=4)
    worse = quick("worse", epochs=1, learning_rate=1e-6)
    assert worse.metrics["validation_nll"] > first.metrics["validation_nll"]
    champion = store.get_model_version_by_alias("triangulation", experiments.CHAMPION)
    newest = store.get_model_version_by_alias("triangulation", experiments.NEWEST)
    assert newest.run_id == tracked(store, "worse")[0].info.run_id != champion.run_id


@pytest.fixture
def finished(store, onnx_file):  # noqa: ARG001  the store is used by its address
    """Function that makes a finished run with a model on a dataset, and returns its identifier."""

    def finish(name, dataset, loss):
        log = experiments.TrackedRun(name, {"folder": f"/{name}"})
        log.register_model(onnx_file, name, dataset, loss)
        log.end("FINISHED")
        assert log.failures == 0
        return log.run_id

    return finish


def test_only_a_better_run_on_its_dataset_displaces_a_champion_and_none_a_promoted_one(store, finished):
    def champion():
        return store.get_model_version_by_alias("ranked", experiments.CHAMPION).run_id

    first = finished("ranked", "one", 2.0)
    finished("ranked", "another", 1.0)
    assert champion() == first
    finished("ranked", "one", 2.0)
    assert champion() == first
    better = finished("ranked", "one", 1.5)
    assert champion() == better
    assert experiments.promote(first) == "ranked"
    finished("ranked", "one", 0.1)
    last = finished("ranked", "a third", 0.1)
    assert champion() == first
    experiments.promote(last)
    finished("ranked", "a third", 0.01)
    assert champion() == last
    store.set_registered_model_alias("ranked", experiments.CHAMPION, 1)  # as on MLflow's own pages
    finished("ranked", "one", 0.01)
    assert champion() == first
    experiments.promote(last)
    table = experiments.runs().set_index("run_id")
    assert table.index[table.champion & (table.architecture == "")].tolist() == [last]


def test_a_champion_is_not_taken_for_promoted_where_a_process_was_killed_as_it_moved(store, finished, monkeypatch):
    from mlflow import MlflowClient

    first, move = finished("moved", "one", 3.0), MlflowClient.set_registered_model_alias

    def killed(self, name, alias, number):
        if alias == experiments.CHAMPION:
            raise KeyboardInterrupt
        move(self, name, alias, number)

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "set_registered_model_alias", killed)
        with pytest.raises(KeyboardInterrupt):
            finished("moved", "one", 2.0)
    assert store.get_model_version_by_alias("moved", experiments.CHAMPION).run_id == first
    last = finished("moved", "one", 1.0)
    assert store.get_model_version_by_alias("moved", experiments.CHAMPION).run_id == last


@pytest.mark.parametrize("text", ["[1]", '{"tracking": 3}', '{"tracking": {}}', "{"])
def test_a_damaged_record_names_no_run(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    assert experiments.run_id_of(tmp_path) is None
    assert experiments.run_id_of(tmp_path / "run.json") is None  # a file where a folder should be


def test_a_run_that_goes_on_registers_its_model_once(store, onnx_file):
    """As one does that was killed after it had registered it."""
    log = experiments.TrackedRun("once", {"folder": "/once"})
    for _ in range(2):
        log.register_model(onnx_file, "once", "one", 1.0)
    log.end("FINISHED")
    assert log.failures == 0
    assert [each.version for each in store.search_model_versions("name = 'once'")] == [1]
    assert bool(experiments.runs().set_index("run_id").champion[log.run_id])


def test_every_run_and_model_is_listed_however_few_a_page_holds(store, finished, monkeypatch):
    models = [finished(f"paged{number}", "one", 1.0) for number in range(3)]
    dead = [experiments.TrackedRun(f"paged{number}", {"folder": "/paged"}).run_id for number in range(5)]
    for run_id in dead:
        store.set_tag(run_id, "heimdall_lab.process_began", "0")

    def in_pages_of_two(search):
        def limited(self, *arguments, max_results, **options):
            return search(self, *arguments, max_results=min(2, max_results), **options)

        return limited

    for name in ("search_runs", "search_model_versions", "search_registered_models"):
        monkeypatch.setattr(mlflow.MlflowClient, name, in_pages_of_two(getattr(mlflow.MlflowClient, name)))
    table = experiments.runs().set_index("run_id")
    assert table.index.is_unique
    assert set(models) | set(dead) <= set(table.index)
    assert (table.version[models] == 1).all()
    assert table.champion[models].all()
    assert (table.status[dead] == "FAILED").all()


@pytest.mark.slow
def test_failed_and_stopped_runs_are_told_and_the_same_one_goes_on(store, monkeypatch):
    def failing(error):
        def step(*_):
            raise error

        return step

    whole = lightning_module.Learner.training_step
    for error, status in ((lightning_module.DivergedError("loss: is nan"), "FAILED"), (StopRequested(), "KILLED")):
        monkeypatch.setattr(lightning_module.Learner, "training_step", failing(error))
        with pytest.raises((ValueError, KeyboardInterrupt)):
            quick("broken")
        assert [run.info.status for run in tracked(store, "broken")] == [status]
    monkeypatch.setattr(lightning_module.Learner, "training_step", whole)
    quick("broken")
    assert [run.info.status for run in tracked(store, "broken")] == ["FINISHED"]


@pytest.mark.slow
def test_a_run_whose_process_was_killed_is_marked_failed(store):
    script = """
import os, signal
from heimdall_lab.learning import experiments
experiments.TrackedRun("dead", {"folder": "/killed"})
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", script], timeout=300, check=False)
    alive = experiments.TrackedRun("alive", {"folder": "/alive"})
    assert [run.info.status for run in tracked(store, "killed")] == ["FAILED"]
    assert experiments.mark_dead_runs() == []
    assert [run.info.status for run in tracked(store, "alive")] == ["RUNNING"]
    alive.end("FINISHED")


def test_a_store_that_fails_meanwhile_is_told_and_stops_nothing(store, capsys):
    log = experiments.TrackedRun("away", {"folder": "/away"})
    store.delete_run(log.run_id)  # deleted runs take no figures
    log.log_metrics({"loss": 1.0}, 1)
    log.log_metrics({"loss": 1.0}, 2)
    told = capsys.readouterr().err
    assert told.count("warning: tracking: 'sqlite:") == 1
    assert "cannot be written to (MlflowException: The run" in told
    log.end("FINISHED")
    assert "attempts to write to it failed" in capsys.readouterr().err


def test_a_store_that_cannot_be_opened_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"nothing://{tmp_path}")
    with pytest.raises(experiments.TrackingError, match=r"MLFLOW_TRACKING_URI: 'nothing://.*train without tracking"):
        experiments.client()


@pytest.mark.usefixtures("store")
def test_a_run_that_mlflow_no_longer_has_is_told():
    with pytest.raises(experiments.TrackingError, match="cannot be used"):
        experiments.curves("0" * 32)


@pytest.mark.usefixtures("store")
def test_the_store_of_a_data_folder_is_used_unless_a_server_is_named(monkeypatch, place, tmp_path):
    log = experiments.TrackedRun("here", {"folder": "/here"})
    log.log_metrics({"loss": 1.0}, 1)
    log.end("FINISHED")
    monkeypatch.chdir(tmp_path)
    root = place / "data"
    assert log.run_id in set(experiments.runs(root).run_id)
    assert experiments.curves(log.run_id, root).loss.tolist() == [1.0]
    assert not (tmp_path / "data").exists()
    monkeypatch.setenv("HEIMDALL_LAB_DATA", str(root))
    assert experiments.tracking_uri() == experiments.tracking_uri(root) == log.uri
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    assert experiments.tracking_uri(root) == "http://server:5000"
