"""Training: the same figures however often it is interrupted, clear refusals, and scenes whose physics holds."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

import heimdall_lab as hl
from heimdall_lab.core.files import StoreError, locked, request_stop
from heimdall_lab.datasets import splits
from heimdall_lab.learning import augmentation, callbacks, data, lightning_module
from heimdall_lab.learning.architectures import build
from heimdall_lab.learning.callbacks import read_checkpoint
from heimdall_lab.learning.run_folder import default_folder
from heimdall_lab.learning.sources import open_source
from heimdall_lab.learning.training import open_run, train
from heimdall_lab.localization.learned import inputs

EPOCHS = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A dataset of features in two shards; do not change it."""
    out = tmp_path_factory.mktemp("scenes") / "dataset"
    config = hl.preset(
        "los_sync", num_samples=96, seed=5, shard_size=48, signal={"duration_s": 0.02}, data_type="feature_based"
    )
    hl.generate(config, out, progress=False)
    return out


def quick(dataset, out, **options):
    given = {"epochs": EPOCHS, "batch_size": 16, "tracking": False, "progress": False, **options}
    return train(dataset, "triangulation", out=out, **given)


@pytest.fixture(scope="module")
def uninterrupted(folder, tmp_path_factory):
    return quick(folder, tmp_path_factory.mktemp("runs") / "whole")


def test_training_lowers_the_loss_and_keeps_the_best_weights(uninterrupted):
    history = uninterrupted.history
    assert len(history) == EPOCHS
    assert history.train_loss.iloc[-1] < history.train_loss.iloc[0]
    freedom = uninterrupted.metrics["freedom"]
    assert freedom is None or freedom > 0  # None, where errors are normal
    assert np.isfinite([value for name, value in uninterrupted.metrics.items() if name != "freedom"]).all()
    assert uninterrupted.trained.about["dataset_seed"] == 5


@pytest.mark.slow
def test_a_run_killed_in_training_goes_on_to_the_same_figures(folder, uninterrupted, tmp_path):
    """Kill -9 in the third epoch, then the same call."""
    script = f"""
import os, signal
from heimdall_lab.learning import lightning_module
from heimdall_lab.learning.training import train
step = lightning_module.Learner.training_step
def deadly(self, batch, number):
    if self.current_epoch == 2 and number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, batch, number)
lightning_module.Learner.training_step = deadly
train({str(folder)!r}, "triangulation", out={str(tmp_path)!r}, epochs={EPOCHS}, batch_size=16, tracking=False)
"""
    died = subprocess.run([sys.executable, "-c", script], timeout=300, capture_output=True)
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    assert len(read_checkpoint(tmp_path / "last.ckpt")["callbacks"]["Keeper"]["history"]) == 2
    resumed = quick(folder, tmp_path)
    assert resumed.metrics == uninterrupted.metrics
    assert resumed.history.equals(uninterrupted.history)


def test_a_run_that_was_stopped_says_so_and_goes_on(folder, uninterrupted, tmp_path, monkeypatch):
    """SIGTERM to this process in the second epoch."""
    step, sent = lightning_module.Learner.training_step, []

    def stopping(self, batch, number):
        if self.current_epoch == 1 and not sent:
            sent.append(number)
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batch, number)

    monkeypatch.setattr(lightning_module.Learner, "training_step", stopping)
    with pytest.raises(KeyboardInterrupt, match="run the same command again to go on"):
        quick(folder, tmp_path)
    assert quick(folder, tmp_path).metrics == uninterrupted.metrics


def test_a_run_stops_where_its_folder_asks_for_it(folder, tmp_path, monkeypatch):
    """As another process does that was told of the folder only."""
    step = lightning_module.Learner.training_step

    def asked(self, batch, number):
        request_stop(tmp_path)
        return step(self, batch, number)

    monkeypatch.setattr(lightning_module.Learner, "training_step", asked)
    monkeypatch.setattr(callbacks, "_LOCK_INTERVAL_S", 0.0)
    with pytest.raises(KeyboardInterrupt, match="run the same command again to go on"):
        quick(folder, tmp_path)
    assert not (tmp_path / "last.ckpt").exists()


@pytest.mark.parametrize(("precision", "half"), [("32-true", False), ("bf16-mixed", True)])
def test_precision_is_that_of_the_arithmetic(folder, tmp_path, monkeypatch, precision, half):
    step, seen = lightning_module.Learner.training_step, set()

    def watching(self, batch, number):
        seen.add(torch.is_autocast_enabled("cpu"))
        return step(self, batch, number)

    monkeypatch.setattr(lightning_module.Learner, "training_step", watching)
    run = quick(folder, tmp_path, epochs=1, precision=precision, accelerator="cpu")
    assert seen == {half}
    assert np.isfinite(run.metrics["test_nll"])


def test_a_finished_run_is_returned_at_once(folder, uninterrupted):
    before = (uninterrupted.folder / "last.ckpt").stat().st_mtime_ns
    again = quick(folder, uninterrupted.folder)
    assert (uninterrupted.folder / "last.ckpt").stat().st_mtime_ns == before
    assert again.metrics == uninterrupted.metrics
    assert open_run(uninterrupted.folder).errors.identical(uninterrupted.errors)


def test_a_run_killed_after_its_last_epoch_is_only_finished(folder, uninterrupted, tmp_path):
    for name in ("run.json", "last.ckpt"):
        (tmp_path / name).write_bytes((uninterrupted.folder / name).read_bytes())
    record = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps(record | {"finished": False}))
    before = (tmp_path / "last.ckpt").stat().st_mtime_ns
    assert quick(folder, tmp_path).metrics == uninterrupted.metrics
    assert (tmp_path / "last.ckpt").stat().st_mtime_ns == before


def test_early_stopping_ends_after_epochs_without_gain(folder, tmp_path):
    run = quick(folder, tmp_path, epochs=40, learning_rate=0.3, patience=2)
    losses = run.history.validation_loss
    assert len(losses) == int(losses.idxmin()) + 1 + 2 < 40


def test_other_options_are_refused_and_nothing_is_overwritten(folder, uninterrupted):
    before = {path.name: path.read_bytes() for path in uninterrupted.folder.iterdir()}
    with pytest.raises(ValueError, match=r"options.batch_size: 8 differs from 16"):
        quick(folder, uninterrupted.folder, batch_size=8)
    assert before == {path.name: path.read_bytes() for path in uninterrupted.folder.iterdir()}


def test_runs_are_by_default_in_the_data_folder(monkeypatch):
    monkeypatch.setenv("HEIMDALL_LAB_DATA", "/scenes")
    folders = {default_folder("triangulation", {"options": {"seed": seed}}) for seed in (1, 2)}
    assert len(folders) == 2
    assert all(folder.match("/scenes/runs/triangulation-????????") for folder in folders)


def test_another_dataset_is_refused(uninterrupted, small_dataset):
    with pytest.raises(ValueError, match=r"dataset.name|dataset.checksum"):
        quick(small_dataset, uninterrupted.folder)


def test_a_dataset_is_no_place_for_a_run(folder):
    with pytest.raises(ValueError, match=r"out: .* is a dataset"):
        quick(folder, folder)


def test_a_folder_that_another_process_trains_in_is_refused(folder, tmp_path):
    with locked(tmp_path), pytest.raises(StoreError, match="is being written to by process"):
        quick(folder, tmp_path)


def test_a_loss_that_is_no_number_ends_training(folder, tmp_path, monkeypatch):
    def not_a_number(position, *_):
        return position.sum(dim=-1) * torch.tensor(float("nan"))

    monkeypatch.setattr(lightning_module, "negative_log_likelihood", not_a_number)
    with pytest.raises(lightning_module.DivergedError, match=r"loss: is nan in batch 0 of epoch 1; lower learning_r"):
        quick(folder, tmp_path)
    assert not (tmp_path / "model.pt").exists()


def test_a_damaged_checkpoint_is_named_and_kept(folder, uninterrupted, tmp_path):
    for name in ("run.json", "last.ckpt"):
        content = (uninterrupted.folder / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2] if name == "last.ckpt" else content)
    (tmp_path / "run.json").write_text((tmp_path / "run.json").read_text().replace('"finished": true', '"finished": 0'))
    size = (tmp_path / "last.ckpt").stat().st_size
    with pytest.raises(ValueError, match=r"last.ckpt' is damaged .* put a copy of it back, or train into an"):
        quick(folder, tmp_path)
    assert (tmp_path / "last.ckpt").stat().st_size == size


@pytest.mark.parametrize(
    ("architecture", "options", "message"),
    [
        ("iq_resnet18", {}, r"cannot learn from feature_based datasets; use triangulation"),
        ("triangulation", {"epochs": 0}, r"epochs: 0 is refused: .* greater than or equal to 1"),
        ("triangulation", {"rate": 1}, r"rate: unknown field; did you mean learning_rate"),
        ("triangulation", {"parameters": {"depth": 2}}, r"depth: is no parameter of triangulation"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(architecture, options, message, folder, tmp_path):
    with pytest.raises(ValueError, match=message):
        train(folder, architecture, out=tmp_path / "run", tracking=False, progress=False, **options)
    assert not (tmp_path / "run").exists()


def test_datasets_that_lack_something_are_refused(folder, tmp_path):
    dataset = hl.open_dataset(folder)
    with pytest.raises(ValueError, match=r"'tdoa_s'\); add either"):
        quick(dataset.drop_vars("tdoa_s"), tmp_path / "run")
    with pytest.raises(ValueError, match=r"of 3 scenes \d are in the \w+ split, at least 2 are needed"):
        quick(dataset.isel(sample=slice(3)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_damaged_shard_is_named(folder, tmp_path):
    copy = tmp_path / "dataset"
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    shard = bytearray((copy / "shard-00001.nc").read_bytes())
    shard[len(shard) // 2] ^= 1
    (copy / "shard-00001.nc").write_bytes(shard)
    with pytest.raises(StoreError, match=r"shard-00001.nc: has another checksum"):
        quick(copy, tmp_path / "run")


def test_one_seed_gives_the_batches_of_an_epoch_again_and_others_differ(folder):
    model = build("triangulation")
    source = open_source(folder)
    scenes = data.SceneDataModule(source, model, batch_size=16, seed=3, receiver_dropout=0.2)
    scenes.measure(lambda *_: None)
    first, again = (scenes._batches("train", augmented=True) for _ in range(2))
    for name, values in first[1, 0].items():
        assert values.equal(again[1, 0][name])
    assert not first[1, 0]["target"].equal(first[2, 0]["target"])
    counted = sorted(np.concatenate([first._order(4)]).tolist())
    seed = source.dataset.attrs["seed"]
    assert counted == np.flatnonzero(splits.split_of(seed, np.arange(96)) == "train").tolist()


@pytest.mark.slow
def test_signals_are_read_from_disk_as_from_memory_and_at_the_same_instants(tmp_path, small):
    """A window of each scene holds the same instants of all receivers: the dataset's own ones somewhere."""
    hl.generate(small.model_copy(update={"num_samples": 32}), tmp_path / "dataset", progress=False)
    parts = {}
    for memory_gb in (0.0, 1.0):
        model = build("iq_vggnet")
        model.window = 256
        scenes = data.SceneDataModule(
            open_source(tmp_path / "dataset"),
            model,
            batch_size=4,
            seed=3,
            receiver_dropout=0.0,
            memory_gb=memory_gb,
            num_workers=1,  # another process, where signals are on disk
        )
        scenes.measure(lambda *_: None)
        read = [batch["iq"] for batch in scenes.loader("train")]
        parts[memory_gb] = torch.cat(read), scenes
    assert parts[0.0][0].equal(parts[1.0][0])
    scenes = parts[0.0][1]
    drawn = scenes._batches("train", augmented=True)
    rows = np.sort(drawn._order(0)[:4])
    whole = inputs.voltage(scenes.source.dataset.isel(sample=rows))
    for scene, window in zip(whole, drawn[0, 0]["iq"].numpy(), strict=True):
        starts = [n for n in range(scene.shape[-1] - 255) if np.array_equal(scene[..., n : n + 256], window)]
        assert len(starts) == 1


@pytest.fixture
def batch():
    draw = torch.Generator().manual_seed(1)
    present = torch.ones(400, 8, dtype=torch.bool)
    present[:, 6:] = torch.rand(400, 2, generator=draw) < 0.5
    heard = present & (torch.rand(400, 8, generator=draw) < 0.7)
    heard[:, 0] = True
    reference = torch.zeros_like(present)
    reference[:, 0] = True
    position = 40 * torch.randn(400, 8, 2, generator=draw) * present[..., None]
    features = torch.randn(400, 8, len(inputs.FEATURES), generator=draw) * present[..., None]
    target = 30 * torch.randn(400, 2, generator=draw)
    names = ("present", "heard", "reference", "position", "features", "target")
    return dict(zip(names, (present, heard, reference, position, features, target), strict=True))


def ranges(batch):
    return torch.linalg.vector_norm(batch["position"] - batch["target"][:, None], dim=-1)


def test_losing_receivers_keeps_ranges_references_and_three_that_hear(batch):
    lost = augmentation.drop_receivers(batch, 0.5, torch.Generator().manual_seed(2))
    remaining = lost["present"]
    assert 0.3 < 1 - remaining.sum() / batch["present"].sum() < 0.5
    assert torch.allclose(ranges(lost)[remaining], ranges(batch)[remaining], atol=1e-3)
    assert (remaining & batch["reference"]).any(dim=1).all()
    before = batch["heard"].sum(dim=1)
    assert (lost["heard"].sum(dim=1) >= before.clamp(max=3)).all()
    assert not lost["features"][~remaining].any()
    assert not lost["position"][~remaining].any()
    level = lost["features"][..., inputs.FEATURES.index("level_db")]
    assert torch.allclose((level * lost["heard"]).sum(dim=1), torch.zeros(400), atol=1e-4)


def test_turning_keeps_ranges_and_mirrors_half_of_the_scenes(batch):
    turned = augmentation.rotate(batch, torch.Generator().manual_seed(2))
    assert torch.allclose(ranges(turned), ranges(batch), atol=1e-3)

    def area(of):
        return torch.linalg.det(of["position"][:, :2])

    mirrored = (area(turned) * area(batch) < 0).double().mean()
    assert 0.4 < mirrored < 0.6
    assert not torch.allclose(turned["target"], batch["target"], atol=1.0)


def test_the_command_trains_and_tells_figures(folder, tmp_path, attempt):
    command = ["train", folder, "--architecture", "triangulation", "--out", tmp_path / "run"]
    done = attempt(*command, "--epochs", 1, "--set", "width=16", "--no-tracking", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["metrics"] == open_run(tmp_path / "run").metrics
    assert open_run(tmp_path / "run").trained.parameters["width"] == 16
