"""Fixes are judged, and the page written, as the page says."""

import re
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from honesty import cells, page, rows
from honesty.cells import Cell, Share
from honesty.disturbances import DISTURBED, late_clock
from honesty.rows import ROWS, Row

import heimdall_lab as hl
from heimdall_lab.localization import bounds, error_law

SIGMA_M = 100.0


def fixes_off_by(error_m, converged, checked):
    """Fixes of a round normal law, north of transmitters on the 45th parallel, and these as a dataset."""
    count = len(error_m)
    at = ("sample", np.full(count, 45.0))
    covariance = np.broadcast_to(SIGMA_M**2 * np.eye(2), (count, 2, 2))
    dataset = xr.Dataset({"transmitter_latitude": at, "transmitter_longitude": at})
    fixes = xr.Dataset(
        {
            "latitude": ("sample", 45 + np.array(error_m) / 111_131.7),  # metres of a degree of latitude at 45°
            "longitude": at,
            "covariance": (("sample", "axis", "other_axis"), covariance),
            "freedom": ("sample", np.full(count, np.inf)),
            "converged": ("sample", np.array(converged)),
            "checked": ("sample", np.array(checked)),
        },
        coords={"axis": ["east", "north"], "other_axis": ["east", "north"]},
    )
    return dataset, fixes


def test_fixes_are_counted_by_their_ellipses_and_by_what_they_say():
    inside_68, inside_95, inside_99, outside = (
        SIGMA_M * np.sqrt(error_law.radius_squared(level)) for level in (0.6, 0.9, 0.98, 0.995)
    )
    error_m = [inside_68, inside_95, inside_99, outside, outside, 50 * outside]
    converged = [True, True, True, True, True, False]
    checked = ["yes", "yes", "weakly", "yes", "no", "yes"]
    found = cells.cell("method", *fixes_off_by(error_m, converged, checked), np.full(6, 2 * SIGMA_M))
    assert found.converged == Share(5, 6)
    assert found.checked == {"yes": Share(3, 5), "weakly": Share(1, 5), "no": Share(1, 5)}
    assert (found.coverage_68, found.coverage_95, found.silent) == (Share(1, 5), Share(2, 5), Share(2, 5))
    assert found.silent_checked == Share(1, 3)
    mean_square = np.square(error_m).mean(), np.square(error_m[:5]).mean()
    reached = found.relative_rmse, found.relative_rmse_converged
    np.testing.assert_allclose(reached, np.sqrt(mean_square) / (2 * SIGMA_M), rtol=1e-3)


def test_an_ellipse_that_is_unknown_holds_nothing():
    dataset, fixes = fixes_off_by([0.0], [True], ["yes"])
    with np.errstate(invalid="ignore"):
        found = cells.cell("method", dataset, fixes.assign(covariance=fixes.covariance * np.nan), np.ones(1))
    assert found.silent_checked == Share(1, 1)
    assert found.coverage_95 == Share(0, 1)


def test_limits_are_those_of_clopper_and_pearson():
    """In closed form at both ends; between them the probability of as many or more is 5 %."""
    assert Share(0, 50).lower_limit == 0
    assert Share(50, 50).lower_limit == pytest.approx(0.05 ** (1 / 50))
    limit, draws = Share(7, 60).lower_limit, np.random.default_rng(1).random((200_000, 60))
    assert ((draws < limit).sum(axis=1) >= 7).mean() == pytest.approx(0.05, abs=4 * np.sqrt(0.05 * 0.95 / 200_000))
    assert np.isnan(Share(0, 0).lower_limit)


def test_the_bound_leaves_the_disturbed_link_out(small_dataset):
    late = late_clock(small_dataset, 10e-6)
    without = small_dataset.assign(receiver_present=small_dataset.receiver_present & ~late[DISTURBED])
    np.testing.assert_allclose(rows.bound_m(late), bounds.scene_crlb(without).crlb_rmse)
    assert (rows.bound_m(late) > small_dataset.crlb_rmse).all()
    np.testing.assert_allclose(rows.bound_m(small_dataset), small_dataset.crlb_rmse)


def test_the_bound_is_the_genies_where_links_are_late(small_dataset):
    late = small_dataset.assign_attrs(nlos_ratio=0.3, nlos_excess_mean_s=1e-7, path_delay_sigma_s=1e-7)
    np.testing.assert_allclose(rows.bound_m(late), bounds.scene_crlb(late, "genie").crlb_rmse)
    assert (rows.bound_m(late) < bounds.scene_crlb(late).crlb_rmse).all()


def test_the_bound_of_measured_delays_is_that_of_their_stated_deviations(small_dataset):
    """Where levels say nothing, and the stated deviations are the true ones, both bounds are the same."""
    mute = small_dataset.assign_attrs(link_sigma_db=1e6)
    sigma_s = np.sqrt(mute.snr * 0 + 1e-14)
    stated = mute.assign(toa_std_s=sigma_s, heard=mute.signal_present).assign_attrs(
        clock_sigma_s=0.0, transmitter_altitude_sigma_m=0.0
    )
    measured = rows.bound_m(
        stated.drop_attrs(deep=False).assign_attrs({k: v for k, v in stated.attrs.items() if k != "config"})
    )
    receivers, transmitter = bounds.transmitter_frame(mute)
    dilution = bounds.gdop(np.where(mute.signal_present.values[..., None], receivers, np.nan), transmitter)
    np.testing.assert_allclose(measured, dilution * 1e-7 * 299792458.0, rtol=1e-6)


def a_cell(silent, of):
    share = Share(silent, of)
    return Cell(
        "tdoa_ls", Share(of, of), dict.fromkeys(cells.CHECKED, share), share, share, share, share, 50.0, 1.0, 123.4
    )


@pytest.mark.parametrize(
    ("disturbance", "silent", "bold"), [("clock_2us", 60, True), ("clock_2us", 20, False), ("filter", 60, True)]
)
def test_cells_above_the_limit_are_bold(disturbance, silent, bold):
    text = page.text({Row("los_sync", disturbance): [a_cell(silent, 1000)]}, [], 1000, 300)
    assert ("**6.0 % (4.8)**" in text, "| **6.0** |" in text) == (bold, bold)
    assert f"{int(bold)} of 1 cells" in text


def test_rows_without_data_are_named():
    text = page.text({Row("los_sync", "none"): [a_cell(0, 10)]}, [Row("dcf77_2020", "none")], 10, 10)
    assert "- DCF77, 2020: not at hand" in text
    assert "real measurements" not in text


def test_every_method_is_judged_on_every_scene_that_it_locates(monkeypatch):
    monkeypatch.setitem(rows.SIMULATED, "los_sync", ("los_sync", {"signal": {"duration_s": 0.02}}))
    rows._undisturbed.cache_clear()
    judged = {cell.method: cell for cell in cells.judge(Row("los_sync", "clock_60us"), 6, 2)}
    rows._undisturbed.cache_clear()
    of_recordings = {"tdoa_joint"}  # of which these rows have none
    assert {*hl.methods(), "tdoa_unrolled_los_sync"} - of_recordings <= set(judged)
    assert judged["tdoa_ls"].converged.of == 6
    assert judged["dpd"].converged.of == 2


def test_the_page_has_all_rows():
    """`make honesty` makes it."""
    written = (Path(__file__).parents[2] / "docs" / "honesty.md").read_text()
    headings = re.findall(r"^## (.*)$", written, flags=re.MULTILINE)
    assert [row.title for row in ROWS if row.title not in headings] == []
