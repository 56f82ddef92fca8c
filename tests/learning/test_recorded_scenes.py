"""Training with recordings: no recording is in two splits, and references are no targets."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import heimdall_lab as hl
from heimdall_lab.datasets import schema, splits
from heimdall_lab.learning import data
from heimdall_lab.localization import learned

SIZE = {"data_type": "feature_based", "signal": {"duration_s": 0.01}, "gate": {"min_emissions": 0.5}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty recordings of four emissions, of which one is a reference; do not change it."""
    out = tmp_path_factory.mktemp("recorded") / "dataset"
    hl.generate(hl.preset("websdr_reference", num_samples=80, seed=5, **SIZE), out, progress=False)
    return out


@pytest.fixture(scope="module")
def dataset(folder: Path) -> xr.Dataset:
    return hl.open_dataset(folder).load()


def test_no_recording_is_in_two_splits(dataset: xr.Dataset) -> None:
    parts = {name: splits.select(dataset, name) for name in splits.SHARES}
    recordings = [set(part.recording.values.tolist()) for part in parts.values()]
    assert all(recordings)
    assert sum(map(len, recordings)) == len(set().union(*recordings)) == 20
    assert sum(part.sizes["sample"] for part in parts.values()) == 80
    for part in parts.values():
        assert (np.unique(part.recording, return_counts=True)[1] == 4).all()


def test_references_are_no_targets(dataset: xr.Dataset) -> None:
    rows = data._split_rows(dataset)
    kept = np.sort(np.concatenate(list(rows.values())))
    assert kept.tolist() == np.flatnonzero(~schema.references(dataset)).tolist()
    for name, chosen in rows.items():
        numbers = dataset.recording.values[chosen]
        assert (splits.split_of(5, numbers) == name).all()


def test_networks_are_trained_tested_and_ranked_without_references(
    dataset: xr.Dataset, folder: Path, tmp_path: Path
) -> None:
    """Augmented too; errors are of the test split, and the training's share of a comparison is by recordings."""
    options = {"epochs": 2, "batch_size": 16, "tracking": False, "progress": False, "receiver_dropout": 0.2}
    run = hl.train(folder, "triangulation", out=tmp_path / "run", **options)
    tested = splits.select(dataset, "test")
    expected = tested.sample.values[~schema.references(tested)]
    assert run.errors.sample.values.tolist() == expected.tolist()
    assert np.isfinite(run.errors.error).all()
    assert run.errors.crlb_rmse.notnull().all()
    assert all(value is None or np.isfinite(value) for value in run.metrics.values())
    others = dataset.isel(sample=~schema.references(dataset))
    shared = (splits.split_of(5, others.recording.values) != "test").mean()
    assert learned.share_in_training(run.trained, dataset) == shared
    board = hl.compare(tested, [run, "centroid"])
    assert board.seen.values.tolist() == [0, 0]
    np.testing.assert_allclose(
        board.error.sel(sample=expected).isel(method=0), run.errors.error.isel(method=0), rtol=1e-3
    )


def test_too_few_recordings_are_told(dataset: xr.Dataset) -> None:
    part = dataset.isel(sample=slice(4))
    with pytest.raises(ValueError, match=r"^dataset: of 4 scenes in 1 recordings 0 are in the \w+ split"):
        data._split_rows(part)
    missing = ({*splits.SHARES} - set(splits.split_of(5, part.recording.values))).pop()
    with pytest.raises(ValueError, match=rf"^split: 4 scenes in 1 recordings are too few for one in '{missing}'"):
        splits.select(part, missing)
