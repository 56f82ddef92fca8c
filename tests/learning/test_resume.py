"""Runs that go on: on the scenes they began with, from files that are whole, told as they ended."""

import json
import os
import signal
from importlib.metadata import version

import numpy as np
import pytest

import heimdall_lab as hl
from heimdall_lab.learning import data, lightning_module
from heimdall_lab.learning.architectures import build
from heimdall_lab.learning.callbacks import read_checkpoint
from heimdall_lab.learning.sources import open_source
from heimdall_lab.learning.trained import load, save
from heimdall_lab.learning.training import train


@pytest.fixture(scope="module")
def signals(small, tmp_path_factory):
    """A dataset of IQ in shards of 4; do not change it."""
    out = tmp_path_factory.mktemp("signals") / "dataset"
    hl.generate(small.model_copy(update={"num_samples": 24}), out, progress=False)
    return out


def scenes_of(dataset, **options):
    model = build("iq_vggnet")
    model.window = 256
    given = {"batch_size": 4, "seed": 3, "receiver_dropout": 0.0, **options}
    scenes = data.SceneDataModule(open_source(dataset), model, **given)
    scenes.measure(lambda *_: None)
    return scenes


@pytest.mark.slow
def test_signals_of_a_changed_dataset_are_its_own(signals):
    """Of one that was only opened, they are read from its folder."""
    dataset = hl.open_dataset(signals)
    assert open_source(dataset).folder == signals
    assert open_source(dataset.assign(iq=0 * dataset.iq)).folder is None
    batches = []
    for each in (dataset, dataset.isel(sample=slice(None, None, -1))):
        scenes = scenes_of(each)
        batches.append(scenes._batches("train", augmented=False, batch_size=100)[0, 0])
    for name in ("iq", "target"):
        assert batches[0][name].equal(batches[1][name].flip(0))


def test_memory_does_not_change_the_order_of_scenes(signals):
    orders = [
        scenes_of(signals, memory_gb=memory_gb)._batches("train", augmented=True)._order(2) for memory_gb in (0.0, 1.0)
    ]
    assert np.array_equal(*orders)


def test_a_changed_bit_in_a_model_or_a_checkpoint_is_found(trained, tmp_path):
    path = tmp_path / "model.pt"
    save(trained, path)
    content = bytearray(path.read_bytes())
    weights = trained.model.state_dict()
    largest = max(weights.values(), key=lambda weight: weight.numel()).numpy().tobytes()
    content[content.index(largest) + len(largest) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"model: .* is damaged"):
        load(path)
    with pytest.raises(ValueError, match=r"checkpoint: .* is damaged"):
        read_checkpoint(path)


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    """A dataset of features; do not change it."""
    out = tmp_path_factory.mktemp("features") / "dataset"
    config = hl.preset("los_sync", num_samples=64, seed=5, signal={"duration_s": 0.02}, data_type="feature_based")
    hl.generate(config, out, progress=False)
    return out


def quick(dataset, out, **options):
    given = {"epochs": 1, "batch_size": 16, "tracking": False, "progress": False, **options}
    return train(dataset, "triangulation", out=out, **given)


def test_a_run_that_is_stopped_in_validation_says_so_and_goes_on(features, tmp_path, monkeypatch):
    step = lightning_module.Learner.validation_step

    def stopping(self, batch, number):
        os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batch, number)

    with monkeypatch.context() as patched:
        patched.setattr(lightning_module.Learner, "validation_step", stopping)
        with pytest.raises(KeyboardInterrupt, match="run the same command again to go on"):
            quick(features, tmp_path)
    run = quick(features, tmp_path)
    assert len(run.history) == 1
    assert json.loads((tmp_path / "run.json").read_text())["finished"]


def test_a_run_of_another_version_is_refused_by_both_versions_before_its_fields(features, tmp_path):
    quick(features, tmp_path)
    record = json.loads((tmp_path / "run.json").read_text())
    del record["options"]["weight_decay"]
    (tmp_path / "run.json").write_text(json.dumps(record | {"package_version": "9.0.0"}))
    message = rf"out: .*run\.json' was begun by version 9\.0\.0, this is {version('heimdall_lab')}; .*another folder"
    with pytest.raises(ValueError, match=message):
        quick(features, tmp_path)


@pytest.mark.parametrize("text", ["[1]", "3", "{"])
def test_a_damaged_record_of_a_run_is_named(features, tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ValueError, match=r"run: .*run\.json' is damaged .*choose another folder"):
        quick(features, tmp_path)


def test_a_folder_of_another_run_without_its_record_is_refused(features, tmp_path):
    (tmp_path / "last.ckpt").write_bytes(b"of another run")
    with pytest.raises(ValueError, match=r"out: .* holds last.ckpt and no run.json"):
        quick(features, tmp_path)
    assert (tmp_path / "last.ckpt").read_bytes() == b"of another run"
