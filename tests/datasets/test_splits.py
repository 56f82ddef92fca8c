"""Splits by the seed of each scene: disjoint, in their shares, and the same wherever a scene is met."""

import numpy as np
import pytest

from heimdall_lab.datasets import splits


def test_shares_are_as_stated():
    """Of 20,000 scenes, within three standard deviations of chance."""
    split = splits.split_of(5, np.arange(20_000))
    assert sum(splits.SHARES.values()) == pytest.approx(1)
    for name, share in splits.SHARES.items():
        assert abs((split == name).mean() - share) < 3 * np.sqrt(share * (1 - share) / len(split))


def test_splits_stay_as_models_were_trained():
    """Pinned: another hash would put scenes that trained models know into the test."""
    assert "".join(name[1] for name in splits.split_of(2026, np.arange(20))) == "rrerrrrrrrrrrerrarre"
    assert splits.split_of(0, np.array([2**31])).tolist() == ["train"]


def test_a_scene_is_where_it_is_in_any_dataset():
    """Longer datasets, parts of them, and other orders put no scene elsewhere."""
    whole = splits.split_of(9, np.arange(500))
    assert (splits.split_of(9, np.arange(60)) == whole[:60]).all()
    order = np.random.Generator(np.random.Philox(1)).permutation(500)
    assert (splits.split_of(9, order) == whole[order]).all()
    assert (splits.split_of(10, np.arange(500)) != whole).any()


def test_no_scene_is_in_two_splits(small_dataset):
    parts = [splits.select(small_dataset.assign_attrs(seed=7), name) for name in splits.SHARES]
    scenes = np.concatenate([part["sample"].values for part in parts])
    assert sorted(scenes) == sorted(small_dataset["sample"].values)
    for part, name in zip(parts, splits.SHARES, strict=True):
        assert (splits.split_of(7, part["sample"].values) == name).all()


def test_selected_scenes_keep_what_belongs_to_them(small_dataset):
    chosen = splits.select(small_dataset.assign_attrs(seed=7), "validation")
    assert chosen.identical(small_dataset.assign_attrs(seed=7).sel(sample=chosen["sample"]))


def test_what_has_no_split_is_refused(small_dataset):
    with pytest.raises(ValueError, match=r"^split: 'holdout' is unknown; choose one of train, validation, test$"):
        splits.select(small_dataset, "holdout")
    recorded = small_dataset.copy()
    del recorded.attrs["seed"]
    with pytest.raises(ValueError, match=r"^seed: is not among .*; only simulated datasets have splits$"):
        splits.select(recorded, "test")
    one = splits.select(small_dataset.assign_attrs(seed=7), "train").isel(sample=[0])
    with pytest.raises(ValueError, match=r"^split: 1 scenes are too few for one in 'test'; generate more$"):
        splits.select(one, "test")


def test_evenly_spaced_scenes_are_of_whole_recordings(small_dataset):
    """Where one fits; a longer one is thinned out, and scenes without recordings as before."""
    count = small_dataset.sizes["sample"]
    numbers = np.arange(count) // 4
    recorded = small_dataset.assign(recording=("sample", numbers))
    for most in (4, 7, count // 2, count - 1):
        kept = splits.evenly_spaced(recorded, most)
        number, emissions = np.unique(kept.recording, return_counts=True)
        assert len(number) == most // 4
        assert emissions.tolist() == np.unique(numbers, return_counts=True)[1][number].tolist()
    assert splits.evenly_spaced(recorded, count) is recorded
    for dataset in (small_dataset, small_dataset.assign(recording=("sample", 0 * numbers)), recorded):
        kept = splits.evenly_spaced(dataset, 3)
        assert kept.sample.values.tolist() == small_dataset.sample.values[np.arange(3) * count // 3].tolist()
    with pytest.raises(ValueError, match=r"^most: is 0; keep at least 1 scene$"):
        splits.evenly_spaced(recorded, 0)
