"""The leaderboard's bins against the same statistics of the samples in them, its files, and datasets that lack much."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import heimdall_lab as hl
from heimdall_lab.datasets import schema
from heimdall_lab.localization import bounds, errors, leaderboard, tables

METHODS = ["centroid", "tdoa_ls"]


@pytest.fixture(scope="module")
def dataset():
    config = hl.preset("nlos_sync", num_samples=40, seed=2, data_type="feature_based")
    return hl.generate(config, backend="numpy", progress=False)


@pytest.fixture(scope="module")
def board(dataset):
    return hl.compare(dataset, METHODS)


@pytest.mark.parametrize("by", errors.BINS)
@pytest.mark.slow
def test_bins_hold_the_statistics_of_their_samples(dataset, board, by):
    lower = errors.BINS[by]
    value = board[f"scene_{by}"].values
    assert int(board[f"samples_by_{by}"].sum()) == dataset.sizes["sample"]
    filled = 0
    for number, (low, high) in enumerate(zip(lower, [*lower[1:], np.inf], strict=True)):
        rows = np.flatnonzero((value >= low) & (value < high))
        here = board.isel({f"{by}_bin": number})
        assert int(here[f"samples_by_{by}"]) == len(rows)
        if not len(rows):
            assert here[f"median_error_by_{by}"].isnull().all()
            continue
        filled += 1
        alone = hl.compare(dataset.isel(sample=rows), METHODS)
        for name in ("median_error", "p95_error", "rmse_over_crlb", "coverage_68", "nll", "failures"):
            assert here[f"{name}_by_{by}"].values == pytest.approx(alone[name].values, rel=1e-3), name
    assert filled > 1


def test_conditions_are_those_of_the_truth(dataset, board):
    present = dataset.signal_present
    assert board.scene_receivers.equals(present.sum("receiver"))
    assert board.scene_snr.values == pytest.approx(dataset.snr.where(present).mean("receiver").values)
    assert board.scene_gdop.equals(dataset.gdop)


def test_files_hold_the_board(board, tmp_path):
    leaderboard.save(board, tmp_path / "new" / "folder")
    with xr.open_dataset(tmp_path / "new" / "folder" / "leaderboard.nc") as stored:
        xr.testing.assert_equal(stored.load(), board)
    table = pd.read_csv(tmp_path / "new" / "folder" / "leaderboard.csv")
    assert list(table.columns[:4]) == ["method", "by", "bin", "samples"]
    bins = sum(len(lower) for lower in errors.BINS.values())
    assert len(table) == len(METHODS) * (1 + bins)
    whole = table[table["by"] == "all"].set_index("method")
    assert whole.median_error.to_dict() == pytest.approx(board.median_error.to_series().to_dict())
    assert set(whole.samples) == {40}
    snr = table[(table["by"] == "snr") & (table["method"] == "tdoa_ls")]
    assert snr.rmse_over_crlb.values == pytest.approx(
        board.rmse_over_crlb_by_snr.sel({"method": "tdoa_ls"}).values, nan_ok=True
    )


def test_every_method_that_a_dataset_allows_is_compared(dataset):
    assert list(hl.compare(dataset.isel(sample=slice(3))).method) == [
        name for name in hl.methods() if name not in ("dpd", "tdoa_joint")
    ]
    with pytest.raises(ValueError, match="iq"):
        hl.compare(dataset.isel(sample=slice(3)), ["dpd"])


def test_recordings_without_bound_or_snr_have_a_board(dataset):
    """What a table of pseudo-ranges lacks is NaN, not an error and not a number."""
    scenes = dataset.isel(sample=slice(4))
    unknown = {name: scenes[name].copy(data=np.full(scenes[name].shape, np.nan)) for name in ("snr", "gdop")}
    bare = scenes.drop_vars(["signal_present"]).assign(unknown).assign_attrs(duration_s=np.nan, link_sigma_db=np.nan)
    board = hl.compare(bare, ["tdoa_ls"])
    assert np.isfinite(board.median_error).all()
    assert board.rmse_over_crlb.isnull().all()
    assert int(board.samples_by_snr.sum()) == int(board.samples_by_gdop.sum()) == 0
    assert set(schema.MEASURED) <= set(bare)


@pytest.mark.parametrize("axis", ["latitude", "longitude"])
def test_samples_of_unknown_truth_are_in_no_statistic(dataset, board, axis):
    """Every third, and those with six receivers, so that one bin holds nothing else; but for the last step of fixes."""
    unknown = (board.scene_receivers == 6).values | (np.arange(dataset.sizes["sample"]) % 3 == 0)
    assert (board.scene_receivers == 6).any()
    truth = dataset[f"transmitter_{axis}"]
    partly = hl.compare(dataset.assign({f"transmitter_{axis}": truth.where(~unknown)}), METHODS)
    alone = hl.compare(dataset.isel(sample=~unknown), METHODS)
    assert partly.sizes["sample"] == dataset.sizes["sample"]
    table, expected = (leaderboard.table(each).drop(columns="latency") for each in (partly, alone))
    pd.testing.assert_frame_equal(table, expected, rtol=1e-3)


def test_leaderboard_table_holds_the_statistics(board):
    table = leaderboard.leaderboard_table(board)
    assert list(table.median_error_m) == sorted(table.median_error_m)
    row = board.sel({"method": "tdoa_ls"})
    assert table.rmse_m["tdoa_ls"] == row.rmse.item()
    assert table.coverage_68_percent["tdoa_ls"] == 100 * row.coverage_68.item()
    assert table.latency_ms["tdoa_ls"] == 1e3 * row.latency.item()
    assert isinstance(table, pd.DataFrame)


def test_leaderboard_text_is_aligned(board):
    *lines, note = leaderboard.leaderboard_text(board).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert len(lines[0]) <= 120 - len("tdoa_unrolled_nlos_sync") + len("tdoa_robust")
    assert set(lines[2]) == {"-"}
    assert {line.split()[0] for line in lines[3:]} == set(board.method.values)
    above, below = lines[0].split(), lines[1].split()
    assert above == ["RMSE/", "when", "RMSE/", "in", "in", "ms/"]
    assert " ".join(below) == "method median p68 p95 RMSE genie found mix 68 % 95 % wrong failed fix weights"
    assert note == "With a prior of where transmitters are, so that errors may be below the bounds: centroid."


def test_bounds_are_named_by_the_laws_of_the_delays(dataset, board):
    """Where links are late, errors are not shown over the bound of normal ones, and methods with a prior are said."""
    table = leaderboard.leaderboard_table(board)
    cells = leaderboard.leaderboard_cells(table)
    assert [name for name in cells if "RMSE/" in name] == ["RMSE/genie", "RMSE/mix"]
    truth = dataset.drop_vars("features")
    for law in ("genie", "mixture"):
        bound = bounds.scene_crlb(truth, law).crlb_rmse.values
        ratio = np.sqrt(((board.error / bound) ** 2).mean("sample")).sel({"method": "tdoa_ls"})
        assert table.loc["tdoa_ls", f"rmse_over_crlb_{law}"] == pytest.approx(float(ratio))
    normal = board.drop_vars([name for name in board if "genie" in str(name) or "mixture" in str(name)])
    cells = leaderboard.leaderboard_cells(leaderboard.leaderboard_table(normal))
    assert [name for name in cells if "RMSE/" in name] == ["RMSE/normal"]
    assert board.prior.to_series().to_dict() == {"centroid": True, "tdoa_ls": False}
    assert leaderboard.notes(board.sel({"method": ["tdoa_ls"]})) == []
    fixes = hl.locate(dataset, "tdoa_ls")
    rows = tables.fix_table(dataset, fixes)
    assert "crlb_rmse_m" not in rows
    assert rows.crlb_rmse_genie_m.values == pytest.approx(board.crlb_rmse_genie.values, abs=0.06)


def test_leaderboard_text_shows_unknown_as_a_dash(board):
    text = leaderboard.leaderboard_text(board.assign(rmse_over_crlb_genie=board.rmse_over_crlb_genie * np.nan))
    assert all(line.count("–") == 2 for line in text.splitlines()[3:5])  # no method has weights
