"""Emissions of recordings: references are in no statistic, and the bounds of the others are joint."""

from pathlib import Path
from types import SimpleNamespace

import holoviews as hv
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from pictures import axis_labels, columns, layers

import heimdall_lab as hl
from heimdall_lab import plots
from heimdall_lab.datasets import schema
from heimdall_lab.localization import bounds, errors, leaderboard, learned, sentences, tables
from heimdall_lab.report.page import write_report

METHODS = ["centroid", "rss_ml", "tdoa_ls"]
REPORTED = ["reported_latitude", "reported_longitude", "reported_altitude"]


def generate(preset: str, **changes: object) -> xr.Dataset:
    fields = {"data_type": "feature_based", "signal": {"duration_s": 0.02}, "seed": 3, **changes}
    return hl.generate(hl.preset(preset, **fields), progress=False)


@pytest.fixture(scope="module")
def dataset() -> xr.Dataset:
    """Six recordings of four emissions, of which the first is a reference."""
    return generate("websdr_reference", num_samples=24)


@pytest.fixture(scope="module")
def late() -> xr.Dataset:
    """One recording with late links."""
    return generate("nlos_blind", num_samples=10)


@pytest.fixture(scope="module")
def board(dataset: xr.Dataset) -> xr.Dataset:
    return hl.compare(dataset, METHODS)


def test_references_are_located_and_in_no_statistic(dataset: xr.Dataset, board: xr.Dataset) -> None:
    """The statistics are those of the other emissions alone."""
    reference = schema.references(dataset)
    assert reference.sum() == 6
    assert np.isfinite(board.latitude).all()
    assert board.reference.values.tolist() == reference.tolist()
    for name in ("error", "error_vector", "level", "log_density", "mahalanobis_squared"):
        unknown = board[name].isnull()
        unknown = unknown.all("axis") if "axis" in unknown.dims else unknown
        assert (unknown.values == reference).all(), name
    alone = hl.compare(dataset.isel(sample=~reference).drop_vars(REPORTED), METHODS)
    table, expected = (leaderboard.table(each).drop(columns="latency") for each in (board, alone))
    others = [name for name in table if "crlb" not in name]  # references tell clocks, and so make bounds lower
    pd.testing.assert_frame_equal(table[others], expected[others], rtol=1e-3)
    assert (table.rmse_over_crlb[:3] > expected.rmse_over_crlb[:3]).all()


def test_references_are_said(board: xr.Dataset) -> None:
    assert leaderboard.notes(board)[0] == "Left out: 6 references, whose positions are known beforehand."
    assert leaderboard.notes(board)[0] in leaderboard.leaderboard_text(board)
    one = board.isel(sample=slice(4))
    assert leaderboard.notes(one)[0] == "Left out: 1 reference, whose position is known beforehand."
    assert not any("reference" in note for note in leaderboard.notes(board.isel(sample=slice(1, 4))))


def test_references_alone_are_no_comparison(dataset: xr.Dataset) -> None:
    with pytest.raises(
        ValueError, match=r"^reported_latitude: all samples .* are references, .* give some that are none$"
    ):
        hl.compare(dataset.isel(sample=schema.references(dataset)), METHODS)


def test_locate_has_a_row_for_every_emission_and_marks_references(dataset: xr.Dataset) -> None:
    fixes, reference = hl.locate(dataset, "rss_ml"), schema.references(dataset)
    table = tables.fix_table(dataset, fixes)
    assert len(table) == 24
    assert table.reference.tolist() == reference.tolist()
    assert table.error_m.isna().tolist() == reference.tolist()
    said = sentences.references_sentence(dataset)
    assert said == "6 of 24 scenes are references, whose positions are known beforehand: no errors are given of them."
    assert "It is a reference" in sentences.fix_text(dataset, fixes, 0)
    assert "from the true position" not in sentences.fix_text(dataset, fixes, 0)
    assert "It is a reference" not in sentences.fix_text(dataset, fixes, 1)
    unknown = dataset.drop_vars(REPORTED)
    assert "reference" not in tables.fix_table(unknown, fixes)
    assert sentences.references_sentence(unknown) == ""


def test_references_are_said_in_grammar_and_of_errors_where_there_are_some(dataset: xr.Dataset) -> None:
    said = {
        1: "The one scene is a reference, whose position is known beforehand: no error is given of it.",
        4: "1 of 4 scenes is a reference, whose position is known beforehand: no error is given of it.",
    }
    for count, expected in said.items():
        assert sentences.references_sentence(dataset.isel(sample=slice(count))) == expected
    both = dataset.isel(sample=schema.references(dataset)).isel(sample=slice(2))
    said_of_both = "All 2 scenes are references, whose positions are known beforehand"
    assert sentences.references_sentence(both) == f"{said_of_both}: no errors are given of them."
    unknown = both.assign(transmitter_latitude=both.transmitter_latitude * np.nan)
    assert sentences.references_sentence(unknown) == f"{said_of_both}."


def test_pictures_of_errors_leave_references_out(dataset: xr.Dataset, board: xr.Dataset) -> None:
    for picture in (plots.error_cdf(board), plots.calibration(board), plots.error_by_bin(board, "receivers")):
        assert "18 " in picture.opts.get("plot").kwargs["title"]
    drawn = np.concatenate(
        [columns(each) for each in plots.error_map(dataset, board, "rss_ml") if "error_m" in each.vdims]
    )
    tested = ~schema.references(dataset)
    at = np.stack([dataset.transmitter_longitude.values, dataset.transmitter_latitude.values], axis=-1)
    assert sorted(drawn.tolist()) == sorted(at[tested].tolist())
    drawn_off = {sample: [" off" in each.label for each in plots.fix_map(dataset, sample, board)] for sample in (0, 1)}
    assert any(drawn_off[1])
    assert not any(drawn_off[0])
    assert errors.nearest_sample(dataset, at[0, 1], at[0, 0]) in dataset.sample.values[tested]


def test_references_do_not_count_as_trained_on(dataset: xr.Dataset) -> None:
    trained, reference = SimpleNamespace(about={"dataset_seed": 3}), schema.references(dataset)
    share = learned.share_in_training(trained, dataset)
    assert share == learned.share_in_training(trained, dataset.isel(sample=~reference)) > 0
    assert learned.share_in_training(trained, dataset.isel(sample=reference)) == 0


def test_emissions_that_share_clocks_have_joint_bounds(dataset: xr.Dataset, late: xr.Dataset) -> None:
    """Those of the emissions that are there: fewer tell less, and one alone little more than levels do."""
    for recorded in (dataset, late):
        assert bounds.emissions_share_clocks(recorded.attrs)
        truth, tested = recorded.drop_vars(["features", "spectrogram"]), ~schema.references(recorded)
        found = bounds.scene_crlb(truth)
        assert recorded.crlb_rmse.isnull().all()  # it depends on how many emissions there are, and samples do not
        np.testing.assert_allclose(found.gdop, recorded.gdop, rtol=1e-6)
        assert (found.crlb_rmse.notnull().values == tested).all()
        last = len(tested) - 1
        assert tested[last]
        fewer, alone = (
            float(bounds.scene_crlb(truth.isel(sample=rows)).crlb_rmse[-1]) for rows in (slice(last - 2, None), [last])
        )
        assert float(found.crlb_rmse[last]) < fewer < alone
        assert alone > 5e3
    assert len(bounds.crlb_by_law(late.drop_vars(["features", "spectrogram"]))) == 6


def test_who_knows_the_law_of_late_links_has_lower_joint_bounds(late: xr.Dataset) -> None:
    found = bounds.crlb_by_law(late.drop_vars(["features", "spectrogram"]))
    assert (found.crlb_rmse_mixture <= found.crlb_rmse * 1.001).all()


def test_a_table_that_numbers_its_recording_keeps_its_bounds() -> None:
    """Emissions that were received, or simulated each by itself, with synchronised clocks."""
    alone = generate("los_sync", num_samples=4).drop_vars(["features", "spectrogram"])
    numbered = alone.assign(
        recording=("sample", [0, 0, 0, 0], {"units": "1"}),
        recording_time=("sample", np.arange(4.0), {"units": "s"}),
    )
    received = numbered.assign_attrs(sigma_freedom=np.inf)
    del received.attrs["config"]
    for each in (numbered, received):
        assert not bounds.emissions_share_clocks(each.attrs)
        np.testing.assert_allclose(bounds.scene_crlb(each).crlb_rmse, alone.crlb_rmse, rtol=1e-5)
        assert "joint_bounds" not in hl.compare(each, ["centroid"]).attrs


@pytest.mark.parametrize("kind", ["dataset", "late"])
def test_leaderboards_say_that_bounds_are_joint(kind: str, request: pytest.FixtureRequest) -> None:
    recorded = request.getfixturevalue(kind)
    board = hl.compare(recorded, METHODS)
    cells = leaderboard.leaderboard_cells(leaderboard.leaderboard_table(board))
    ratios = [name for name in cells if name.startswith("RMSE/")]
    assert ratios
    assert (cells[ratios] != "–").all(axis=None)
    assert bounds.JOINT_BOUNDS in leaderboard.notes(board)
    text = leaderboard.leaderboard_text(board)
    assert bounds.JOINT_BOUNDS in text
    assert "nan" not in text
    table = tables.fix_table(recorded, hl.locate(recorded, "rss_ml"))
    (bound,) = [name for name in table if "crlb" in name]
    assert table[bound].notna().tolist() == (~schema.references(recorded)).tolist()


@pytest.mark.parametrize("kind", ["dataset", "late"])
def test_pictures_draw_joint_bounds(kind: str, request: pytest.FixtureRequest) -> None:
    recorded = request.getfixturevalue(kind)
    board, sample = hl.compare(recorded, METHODS), int(recorded.sample[1])
    for picture in (plots.error_cdf(board), plots.error_by_bin(board, "snr"), plots.fix_map(recorded, sample, board)):
        assert layers(picture, hv.Curve, "bound")
        assert len(axis_labels(picture)) == 2  # it can be drawn


@pytest.mark.slow
def test_a_report_says_that_bounds_are_joint_and_counts_what_is_tested(
    dataset: xr.Dataset, board: xr.Dataset, tmp_path: Path
) -> None:
    write_report(dataset, board, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    body = page.split("</style>")[1]
    for said in (bounds.JOINT_BOUNDS, leaderboard.notes(board)[0], "the same\n  18 samples", "one crystal"):
        assert said in body, said
    assert "6, of 4 emissions each, 1 of them from a known place" in body
    shown = int(body.split("in detail: sample ")[1].split("<")[0])
    assert not schema.references(dataset.sel(sample=[shown]))[0]
