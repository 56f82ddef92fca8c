"""What estimators know of many scenes: taken apart, repeated and put together again."""

import numpy as np
import pytest

from heimdall_lab.localization import observations
from heimdall_lab.localization.observations import Fix
from heimdall_lab.signals import pairs


@pytest.fixture(scope="module")
def observed(small_dataset):
    return observations.from_dataset(small_dataset.assign(pairs.pair_features(small_dataset)))


def assert_equal(first, second):
    """Equal in every field, NaN where the other is NaN."""
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


def test_batches_hold_all_scenes_in_order(observed):
    scenes = len(observed.reference)
    batches = list(observed.batches(5))
    assert [(rows.start, rows.stop) for rows, _ in batches] == [(first, first + 5) for first in range(0, scenes, 5)]
    for name in ("latitude_deg", "heard", "pseudorange_m", "reference"):
        joined = np.concatenate([getattr(batch, name) for _, batch in batches])
        assert np.array_equal(joined, getattr(observed, name), equal_nan=True)
    assert all(batch.propagation == observed.propagation for _, batch in batches)
    assert len(list(observed.batches(0))) == scenes


def test_repeated_scenes_follow_each_other(observed):
    thrice = observed.repeat(3)
    assert_equal(thrice.select(slice(1, None, 3)), observed)
    assert thrice.link_sigma_db == observed.link_sigma_db


def test_receivers_are_ordered_by_rank_and_cut(observed):
    """Ranked by their levels, the strongest first; two are asked for."""
    rank = -np.nan_to_num(observed.rssi_dbm, nan=-np.inf)
    cut = observed.order_receivers(rank, np.broadcast_to(np.arange(rank.shape[1]) < 2, rank.shape))
    assert cut.rssi_dbm.shape == (len(rank), 2)
    assert np.array_equal(cut.rssi_dbm[:, 0], np.nanmax(observed.rssi_dbm, axis=1))
    assert np.array_equal(cut.reference, observed.reference)


def test_fixes_are_joined_as_they_were_taken_apart():
    rng = np.random.Generator(np.random.Philox(1))
    status = np.where(rng.random(7) < 0.5, "ok", "misfit")
    fix = Fix(rng.random(7), rng.random(7), rng.random(7), rng.random((7, 2, 2)), status, rng.random((7, 3, 2)))
    assert_equal(Fix.concatenate([fix.select(slice(3)), fix.select(slice(3, 7))]), fix)
