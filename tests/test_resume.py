"""Runs that go on: on the scenes they began with, from files that are whole, told as they ended."""

import pytest

import heimdall_lab as hl
from heimdall_lab import loading
from heimdall_lab.models import build


@pytest.fixture(scope="module")
def signals(small, tmp_path_factory):
    """A dataset of IQ in shards of 4; do not change it."""
    out = tmp_path_factory.mktemp("signals") / "dataset"
    hl.generate(small.model_copy(update={"num_samples": 24}), out, progress=False)
    return out


def scenes_of(dataset, folder, **options):
    model = build("iq_vggnet")
    model.window = 256
    given = {"batch_size": 4, "seed": 3, "receiver_dropout": 0.0, **options}
    scenes = loading.Scenes(loading.open_source(dataset), model, folder, **given)
    scenes.measure(lambda *_: None)
    return scenes


def test_signals_of_a_changed_dataset_are_its_own(signals, tmp_path):
    """Of one that was only opened, they are read from its folder."""
    dataset = hl.open_dataset(signals)
    assert loading.open_source(dataset).folder == signals
    assert loading.open_source(dataset.assign(iq=0 * dataset.iq)).folder is None
    batches = []
    for each in (dataset, dataset.isel(sample=slice(None, None, -1))):
        scenes = scenes_of(each, tmp_path)
        batches.append(scenes._batches("train", augmented=False, batch_size=100)[0, 0])
    for name in ("iq", "target"):
        assert batches[0][name].equal(batches[1][name].flip(0))
