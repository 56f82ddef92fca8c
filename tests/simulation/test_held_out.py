"""Scenes that models are judged on: apart from those they learn from, and on receivers that they have not seen."""

import numpy as np
import pytest
import xarray as xr

import heimdall_lab as hl
from heimdall_lab.datasets import splits
from heimdall_lab.simulation import scenes

PRESETS = ("los_sync", "nlos_sync", "websdr")
TRAINING = {"geometry.placement": "random", "max_receivers": 10}
COUNT = 400


def receivers(config):
    """Of each scene the set of its receivers' coordinates."""
    truth = scenes.draw_scenes(config, np.arange(COUNT)).variables
    names = [f"receiver_{name}" for name in ("present", "latitude", "longitude", "altitude")]
    present, *place = (np.broadcast_to(truth[name], (COUNT, config.max_receivers)) for name in names)
    place = np.stack(place, axis=-1)
    return [frozenset(map(tuple, place[scene, present[scene]])) for scene in range(COUNT)]


@pytest.fixture(scope="module", params=PRESETS)
def training(request):
    return hl.preset(request.param, seed=3, **TRAINING)


def test_no_network_is_in_two_splits(training):
    """Nor when datasets of one seed are put together whose gates keep other candidates."""
    other = hl.preset("los_sync", seed=3, gate={"max_gdop": 3.0}, **TRAINING)
    split = splits.split_of(3, np.arange(COUNT))
    found: dict = {}
    for networks in (receivers(training), receivers(other)):
        for network, name in zip(networks, split, strict=True):
            found.setdefault(network, set()).add(name)
    assert COUNT < len(found) <= 2 * COUNT
    assert {len(names) for names in found.values()} == {1}
    assert {len(network) for network in found} == {5, 6, 7, 8, 9, 10}


def test_no_receiver_of_the_leaderboard_is_in_a_training_scene(training):
    judged = receivers(hl.preset(training.name, seed=7))
    assert len(set(judged)) == 1
    (italian,) = set(judged)
    assert len(italian) == 7
    assert not any(italian & network for network in receivers(training))


@pytest.mark.parametrize("seed", [0, 7, 2**63 - 1])
def test_every_scene_is_in_one_split(seed):
    number = np.random.default_rng(1).permutation(COUNT)
    dataset = xr.Dataset({"place": ("sample", number)}, {"sample": number}, {"seed": seed})
    parts = [splits.select(dataset, name) for name in splits.SHARES]
    assert sorted(np.concatenate([part.sample.values for part in parts])) == list(range(COUNT))
    for part in parts:
        assert (part.place == part.sample).all()
        assert 0 < part.sizes["sample"] < COUNT
