"""Every command and function that writes, on a disk that is full or may only be read: one line, and nothing half."""

import logging
import re

import numpy as np
import pytest
from wav_recordings import wav_bytes

import heimdall_lab as hl
from heimdall_lab.core.files import UnwritableError
from heimdall_lab.learning import callbacks, experiments, training
from heimdall_lab.learning import trained as trained_files
from heimdall_lab.localization import leaderboard
from heimdall_lab.report import write_report

REMEDY = "choose a folder that you may write to and that has room, or make room and run the same command again"


def tree(folder):
    """Every file below a folder, with its content."""
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def assert_told(done, file, field="out"):
    """Check that a command ended with one line that names the file, what it takes, and the remedy."""
    lines = done.stderr.splitlines()
    assert done.returncode == 1
    assert not any("Traceback" in line for line in lines)
    assert re.search(rf"^heimdall-lab: {field}: cannot write to '.*' \(.*; {file} takes .*B, .*B are free", lines[-1])
    assert lines[-1].endswith(REMEDY)
    assert len([line for line in lines if line.startswith("heimdall-lab:")]) == 1


@pytest.fixture(scope="module")
def board(small_dataset):
    return hl.compare(small_dataset, ["centroid", "tdoa_ls"])


@pytest.fixture
def wav(tmp_path):
    file = tmp_path / "torino.wav"
    values = np.random.Generator(np.random.Philox(4)).uniform(-1, 1, (20_000, 2))
    file.write_bytes(wav_bytes(values, 48_000, "i2"))
    return file


def test_features(folder, attempt, full_disk, tmp_path):
    out = tmp_path / "features.nc"
    out.write_text("earlier")
    with full_disk(100_000):
        assert_told(attempt("features", folder, "--out", out), "features.nc")
    assert [path.name for path in tmp_path.glob("*features*")] == ["features.nc"]
    assert out.read_text() == "earlier"


@pytest.mark.slow
@pytest.mark.parametrize(("limit", "file"), [(20_000, "leaderboard.nc"), (600_000, "page.html")])
def test_leaderboard_and_report_appear_together(folder, attempt, full_disk, tmp_path, limit, file):
    out = tmp_path / "board"
    arguments = ["compare", folder, "--methods", "centroid", "--out", out, "--report", out / "page.html"]
    attempt("measure", folder)
    with full_disk(limit):
        assert_told(attempt(*arguments), file, "out, report")
    assert tree(out) == {}
    assert attempt(*arguments).returncode == 0
    whole = tree(out)
    assert {path.name for path in whole} == {"leaderboard.nc", "leaderboard.csv", "page.html"}
    with full_disk(limit):
        assert_told(attempt(*arguments), file, "out, report")
    assert tree(out) == whole


def test_measurements(folder, attempt, full_disk):
    before = tree(folder)
    with full_disk(1000):
        assert_told(attempt("measure", folder), "measured-00000.nc", "folder")
    assert tree(folder) == before


def test_exported_models(trained, attempt, full_disk, tmp_path):
    trained_files.save(trained, tmp_path / "model.pt")
    before = tree(tmp_path)
    with full_disk(1000):
        assert_told(attempt("export", tmp_path / "model.pt"), "model.onnx", "path")
    with full_disk(1000), pytest.raises(UnwritableError, match=r"other\.pt takes"):
        trained_files.save(trained, tmp_path / "other.pt")
    assert tree(tmp_path) == before


def test_imported_recordings(wav, attempt, full_disk, tmp_path):
    out = tmp_path / "sigmf"
    for limit in (10_000, 0):
        with full_disk(limit):
            assert_told(attempt("import", wav, "--out", out), "torino.sigmf-data")
        assert tree(out) == {}
    assert attempt("import", wav, "--out", out)[0] == 0
    whole = tree(out)
    assert {path.suffix for path in whole} == {".sigmf-data", ".sigmf-meta"}
    with full_disk(10_000):
        assert_told(attempt("import", wav, "--out", out, "--overwrite"), "torino.sigmf-data")
    assert tree(out) == whole


def test_sigmf_collections(small_dataset, full_disk, tmp_path):
    for limit in (1000, 20_000):
        with full_disk(limit), pytest.raises(UnwritableError, match=rf"cannot write to .*takes .* free.*{REMEDY}"):
            hl.write_sigmf(small_dataset, tmp_path / "new")
        assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    """A dataset of features to train on; do not change it."""
    out = tmp_path_factory.mktemp("trainable") / "features"
    config = hl.preset("los_sync", num_samples=64, seed=5, signal={"duration_s": 0.02}, data_type="feature_based")
    hl.generate(config, out, progress=False)
    return out


@pytest.mark.parametrize("file", ["last.ckpt", "errors.nc"])
def test_training_goes_on_when_there_is_room(features, attempt, full_disk, tmp_path, file, monkeypatch):
    arguments = ["train", features, "--architecture", "triangulation", "--no-tracking", "--epochs", 1]
    assert attempt(*arguments, "--out", tmp_path / "whole")[0] == 0
    module, out = {"last.ckpt": callbacks, "errors.nc": training}[file], tmp_path / "run"
    write = module.write_files

    def write_on_full_disk(*given, **sizes):
        with full_disk(1000):
            write(*given, **sizes)

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_files", write_on_full_disk)
        assert_told(attempt(*arguments, "--out", out), file)
    assert {path.name for path in tree(out)} == {"run.json"} | ({"last.ckpt"} if file == "errors.nc" else set())
    assert attempt(*arguments, "--out", out)[0] == 0
    whole, resumed = tree(tmp_path / "whole"), tree(out)
    assert set(resumed) == set(whole)
    assert [path.name for path in whole if resumed[path] != whole[path] and path.name != "last.ckpt"] == []


@pytest.mark.slow
def test_training_says_once_that_mlflow_is_full(features, attempt, full_disk, tmp_path, monkeypatch):
    monkeypatch.setenv("HEIMDALL_LAB_DATA", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    log = experiments.TrackedRun.log_metrics

    def log_on_full_disk(*given):
        with full_disk(1000):
            log(*given)

    monkeypatch.setattr(experiments.TrackedRun, "log_metrics", log_on_full_disk)
    monkeypatch.setattr(logging.getLogger("mlflow.store.db.utils"), "propagate", True)
    arguments = ["train", features, "--architecture", "triangulation", "--epochs", 3, "--out", tmp_path / "run"]
    done = attempt(*arguments)
    assert done.returncode == 0
    told = [line for line in done.stderr.splitlines() if not re.match("verify|measure|train", line)]
    assert len(told) == 2, done.stderr
    assert re.match(
        r"warning: tracking: 'sqlite:.*mlflow\.db' cannot be written to \(.*; training goes on without", told[0]
    )
    assert "the run is not whole" in told[1]
    assert (tmp_path / "run" / "model.onnx").exists()


def test_training_whose_mlflow_cannot_begin_says_so_in_one_line(features, attempt, full_disk, tmp_path, monkeypatch):
    monkeypatch.setenv("HEIMDALL_LAB_DATA", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    experiments.client()
    create = experiments.TrackedRun._create

    def create_on_full_disk(*given):
        with full_disk(1000):
            return create(*given)

    monkeypatch.setattr(experiments.TrackedRun, "_create", create_on_full_disk)
    done = attempt("train", features, "--architecture", "triangulation", "--out", tmp_path / "run")
    told = [line for line in done.stderr.splitlines() if not line.startswith("verify")]
    assert (done.returncode, len(told)) == (1, 1), done.stderr
    assert re.match(r"heimdall-lab: MLFLOW_TRACKING_URI: 'sqlite:.*make room, or train without tracking", told[0])


WRITERS = {
    "leaderboard": lambda folder, made: leaderboard.save(made["board"], folder),
    "report": lambda folder, made: write_report(made["dataset"], made["board"], folder / "page.html"),
    "sigmf": lambda folder, made: hl.write_sigmf(made["dataset"], folder / "new"),
    "model": lambda folder, made: trained_files.save(made["trained"], folder / "model.pt"),
    "onnx": lambda folder, made: hl.export_onnx(made["trained"], folder / "model.onnx"),
    "dataset": lambda folder, made: hl.generate(made["config"], folder, progress=False),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_read_only_folder(writer, read_only, small, small_dataset, board, trained):
    folder, forbid = read_only
    made = {"config": small, "dataset": small_dataset, "board": board, "trained": trained}
    forbid(folder)
    with pytest.raises(UnwritableError, match=rf"cannot write to '.*' \(Permission denied.*{REMEDY}"):
        WRITERS[writer](folder, made)
    assert list(folder.iterdir()) == []


def test_a_recording_is_not_imported_into_a_read_only_folder(read_only):
    folder, forbid = read_only
    raw = folder.parent / "torino.cu8"
    raw.write_bytes(bytes(200))
    raw.chmod(0o644)
    forbid(folder)
    with pytest.raises(UnwritableError, match="Permission denied"):
        hl.import_recording(raw, folder, sample_rate_hz=1e6)
