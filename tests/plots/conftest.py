"""A dataset that is drawn, what is measured of it, and its leaderboard; do not change them."""

import pytest
import xarray as xr

import heimdall_lab as hl
from heimdall_lab.signals import pairs


@pytest.fixture(scope="session")
def dataset() -> xr.Dataset:
    return hl.generate(hl.preset("iq_test", num_samples=5, seed=4), progress=False)


@pytest.fixture(scope="session")
def measured(dataset: xr.Dataset) -> xr.Dataset:
    return pairs.pair_features(dataset)


@pytest.fixture(scope="session")
def board(dataset: xr.Dataset) -> xr.Dataset:
    return hl.compare(dataset)
