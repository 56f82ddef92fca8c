"""Fixtures of the tests of recordings."""

import shutil

import numpy as np
import pytest

import heimdall_lab as hl


@pytest.fixture(scope="module")
def simulated():
    """Three scenes with padded receivers and echoes, and every kind of value that JSON has no word for."""
    config = hl.preset("nlos_sync", num_samples=3, seed=5, max_receivers=8, signal={"duration_s": 0.02})
    dataset = hl.generate(config, progress=False)
    dataset["crlb_rmse"][0], dataset["snr"][1, 2], dataset["snr"][1, 3] = np.nan, -np.inf, np.inf
    return dataset.isel(receiver=[0, 2, 4, 6, 7]).assign_attrs(
        clock_sigma_s=[1e-9, 2e-9, 0.1, 1 / 3, np.nan],
        max_clock_offset_s=np.inf,
        note="√mW",
        odd=[1, 2],
        mixed=[1, "a", 2.5, True, "b"],
    )


@pytest.fixture(scope="module")
def collection(simulated, tmp_path_factory):
    return hl.write_sigmf(simulated, tmp_path_factory.mktemp("sigmf") / "nlos")


@pytest.fixture
def copied(collection, tmp_path):
    """A collection to spoil."""
    return shutil.copytree(collection.parent, tmp_path / "nlos") / collection.name
