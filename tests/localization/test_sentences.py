"""What is said of a fix in plain sentences, of every status, and in tables and JSON."""

import json

import numpy as np
import pytest
import xarray as xr
from stated_fixes import LATITUDE, LONGITUDE, stated, valley

import heimdall_lab as hl
from heimdall_lab.localization import sentences
from heimdall_lab.localization.altitude import parse_altitude, with_altitude
from heimdall_lab.localization.observations import STATUS
from heimdall_lab.localization.remedies import Remedy
from heimdall_lab.localization.sentences import (
    budget_sentence,
    fix_text,
    remedy_sentence,
    status_sentence,
    summary_sentence,
)
from heimdall_lab.localization.tables import budget_table, detail_table, fix_record, fix_table

MIRROR = (45.05, 8.25)  # 47 km east of the fix


@pytest.mark.parametrize(
    ("checked", "undetected_m", "said"),
    [
        ("yes", 45.04, "checked: a fault of one receiver just below notice would move it by up to 45.0 m"),
        ("weakly", 1200.0, "checked weakly: a fault of one receiver just below notice would move it by up to 1.20 km"),
        ("weakly", np.inf, "checked weakly: a fault of one receiver would go unnoticed, however far it moves it"),
        ("no", np.inf, "unchecked: no measurement is left over that would tell a faulty one"),
    ],
)
def test_a_fix_says_how_far_it_is_checked(checked, undetected_m, said):
    fixes = stated(checked=checked, undetected_m=undetected_m)
    assert status_sentence(valley(), fixes, 0) == f"tdoa_ls found this place, {said}."


@pytest.mark.parametrize("status", [status for status in STATUS if status not in ("ok", "uncalibrated")])
def test_what_is_no_fix_says_why_and_names_its_best_candidate(status):
    said = status_sentence(valley(), stated(status, suspect=-1), 0)
    assert said == f"No fix by tdoa_ls: {STATUS[status]}; the best candidate is 45.0500° N 7.6500° E."
    assert sentences.SHORT_STATUS.keys() == STATUS.keys() - {"ok"}


@pytest.mark.parametrize(
    ("status", "method", "reason"),
    [
        ("link", "tdoa_ls", "the delay of Torino contradicts the others"),
        ("link", "rss_ml", "the level of Torino contradicts the others"),
        ("misfit", "tdoa_ls", "the measurements contradict each other, the delay of Torino most"),
    ],
)
def test_the_receiver_that_contradicts_the_others_is_named(status, method, reason):
    fixes = stated(status, suspect=0).assign_attrs(method=method)
    assert f"No fix by {method}: {reason};" in status_sentence(valley(), fixes, 0)


def test_other_places_that_fit_are_told_with_their_distance():
    one = status_sentence(valley(), stated("ambiguous", rivals=(MIRROR,)), 0)
    assert "another place fits as well, 45.0500° N 8.2500° E, 47.3 km away; the best candidate" in one
    two = status_sentence(valley(), stated("ambiguous", rivals=((45.05, 9.0), MIRROR)), 0)
    assert "2 other places fit as well, the nearest 45.0500° N 8.2500° E, 47.3 km away; the best" in two


def test_the_middle_of_the_receivers_is_no_candidate():
    middle = stated("unobserved", suspect=-1)
    middle = middle.assign(latitude=("sample", [LATITUDE.mean()]), longitude=("sample", [LONGITUDE.mean()]))
    said = status_sentence(valley(), middle, 0)
    assert said.endswith("; the middle of the receivers, 45.0500° N 7.5000° E, stands in for it.")
    assert budget_sentence(valley(), middle, 0) == "How far the transmitter is from there cannot be told."
    heard = valley().assign(heard=valley().heard & (valley().receiver < 2))
    two = middle.assign(latitude=("sample", [LATITUDE[:2].mean()]), longitude=("sample", [LONGITUDE[:2].mean()]))
    assert "stands in for it" in status_sentence(heard, two, 0)
    assert "the best candidate" in status_sentence(heard, middle, 0)


@pytest.mark.parametrize("noise", [1e6, np.nan])
def test_an_uncertainty_beyond_what_receivers_hear_is_none(noise):
    said = budget_sentence(valley(), stated("clocks", noise=noise), 0)
    assert said == "How far the transmitter is from there cannot be told."


def test_causes_of_the_uncertainty_are_told_in_their_order_without_the_small_ones():
    said = budget_sentence(valley(), stated(), 0)
    assert said == (
        "Uncertainty 126 m: altitude 125 m, noise 15.0 m, receiver positions 10.0 m; assuming near the ground "
        "(2,100 ± 1,900 m)."
    )
    assert "Uncertainty 126 m if that is right: altitude" in budget_sentence(valley(), stated("link"), 0)
    unknown = stated().assign(budget=stated().budget * np.nan)
    assert budget_sentence(valley(), unknown, 0) == "Uncertainty 126 m, by the scatter of the receivers."


def test_an_altitude_that_is_said_or_does_not_matter_is_not_assumed():
    for dataset in (with_altitude(valley(), 9000.0, 3000.0), valley(propagation="ground_wave")):
        assert budget_sentence(dataset, stated(), 0).endswith("receiver positions 10.0 m.")
        assert "assuming" not in summary_sentence(dataset, stated())


def test_scenes_are_counted_by_status_and_check():
    kinds = [
        *[("ok", "yes")] * 3,
        ("ok", "weakly"),
        ("ok", "no"),
        *[("link", "yes")] * 2,
        ("ambiguous", "no"),
    ]
    fixes = xr.concat([stated(*kind) for kind in kinds], "sample", data_vars="all").assign_coords(sample=range(8))
    dataset = xr.concat([valley()] * 8, "sample", data_vars="all").assign_coords(sample=range(8))
    assert summary_sentence(dataset, fixes) == (
        "5 of 8 scenes have a fix (3 checked, 1 checked weakly, 1 unchecked), assuming near the ground; "
        "2 none: the measurement of one receiver contradicts the others; 1 none: another place fits as well."
    )


def test_the_text_of_a_fix_has_place_status_and_uncertainty():
    truth = {"transmitter_latitude": 45.06, "transmitter_longitude": 7.65}
    known = valley()
    known = known.assign({name: known[name].fillna(degrees) for name, degrees in truth.items()})
    place, status, budget = fix_text(known, stated(), 0).split("\n\n")
    assert place.startswith("**45.0500° N 7.6500° E** by tdoa_ls; 95 % ellipse 437 m × 437 m")
    assert place.endswith("; **1.11 km** from the true position.")
    assert status == status_sentence(known, stated(), 0)
    assert budget == f"{budget_sentence(known, stated(), 0)} {remedy_sentence(known, stated(), 0)}"
    status, budget = fix_text(known, stated("link"), 0).split("\n\n")
    assert status.startswith("**No fix** by tdoa_ls: the delay of Torino contradicts the others; the best candidate is")
    assert status.endswith(" That is **1.11 km** from the true position.")


def test_records_are_json_with_null_for_what_is_infinite_or_unknown():
    fixes = stated("ambiguous", "no", suspect=-1, undetected_m=np.inf, misfit=np.nan)
    record = fix_record(valley(), fixes.isel(sample=0))
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert (record["status"], record["checked"]) == ("ambiguous", "no")
    assert record["undetected_m"] is record["misfit"] is record["suspect"] is record["freedom"] is None
    assert (record["altitude_m"], record["altitude_sigma_m"]) == (1100.0, 1234.0)
    assert record["budget_m"]["altitude"] == 125.0
    assert record["receiver_budget_m"]["Monviso"] == {
        "noise": 7.5,
        "clocks": 1.5,
        "paths": 0.0,
        "receiver_positions": 5.0,
    }
    assert fix_record(valley(), stated(suspect=2).isel(sample=0))["suspect"] == "Rocciamelone"


def test_tables_have_status_and_details():
    row = fix_table(valley(), stated("link", "weakly", misfit=7.125)).iloc[0]
    assert (row.converged, row.status, row.checked, row.misfit) == (False, "link", "weakly", 7.12)
    details = detail_table(valley(), stated(rivals=(MIRROR,)), 0).set_index("quantity").value
    assert details["error by receiver positions"] == "10.0 m"
    assert details["altitude"] == "1,100 ± 1,234 m"
    assert details["receiver that agrees least"] == "Torino"
    assert details["other place 1"] == "45.0500° N 8.2500° E, 47.3 km away"


def test_the_table_of_causes_adds_up_and_names_receivers():
    table = budget_table(valley(), stated(), 0).set_index("cause")
    assert list(table.index) == ["altitude", "noise", "receiver positions", "clocks", "paths", "in all"]
    assert table.rms_error_m["noise"] == 15.0
    assert table.share_percent[:-1].sum() == pytest.approx(table.share_percent["in all"], abs=0.3)
    assert table.rms_error_m["in all"] == pytest.approx((table.rms_error_m[:-1] ** 2).sum() ** 0.5, abs=0.1)
    assert (table.most_by["noise"], table.most_by["altitude"]) == ("Torino, 7.50 m", "–")
    unknown = stated().assign(budget=stated().budget * np.nan)
    assert budget_table(valley(), unknown, 0).empty


def said_to_help(found: Remedy | None, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(sentences, "remedies", lambda *_: [found])
    return remedy_sentence(valley(), stated(), 0)


def test_what_would_help_most_is_said_with_what_would_remain(monkeypatch):
    assert said_to_help(Remedy("a GPS clock at Torino", 0.52), monkeypatch) == (
        "A GPS clock at Torino would halve it, to 65.7 m."
    )
    assert "would make it 25 % smaller, to " in said_to_help(Remedy("a GPS clock at Torino", 0.75), monkeypatch)
    assert "would make it 4 times smaller, to 31.6 m" in said_to_help(Remedy("x", 0.25), monkeypatch)
    nothing = said_to_help(Remedy("a GPS clock at Torino", 0.91), monkeypatch)
    assert nothing.endswith("would make it smaller by more than a tenth.")
    assert "Torino" not in nothing
    assert said_to_help(None, monkeypatch) == ""


def test_a_clock_that_is_worse_than_the_others_is_said_to_be_what_would_help():
    scene = with_altitude(valley(clock_sigma_s=[50e-9, 50e-9, 50e-9, 3e-6], sigma_freedom=np.inf), 300.0, 1.0)
    three = scene.assign(heard=scene.heard & (scene.receiver != 1), toa_std_s=scene.toa_std_s * 0.1)
    fixes = hl.locate(three, "tdoa_ls")
    assert remedy_sentence(three, fixes, 0).startswith("A GPS clock at Monviso would make it ")
    middle = fixes.assign(status=("sample", ["far"]), covariance=fixes.covariance * 1e12)
    assert remedy_sentence(three, middle, 0) == ""


def test_a_late_clock_is_told_of_a_fix_that_was_made():
    late = valley(late_s=60e-6)
    assert status_sentence(late, hl.locate(late, "tdoa_ls"), 0).startswith("No fix by tdoa_ls: ")
    fixes = hl.locate(valley(), "tdoa_ls")
    assert status_sentence(valley(), fixes, 0).startswith("tdoa_ls found this place, checked weakly")
    assert budget_sentence(valley(), fixes, 0).endswith("; assuming near the ground (2,100 ± 1,900 m).")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("9000", (9000.0, 0.0)),
        ("9000+-3000", (9000.0, 3000.0)),
        ("9000±3000", (9000.0, 3000.0)),
        (" 9000.5 +/- 30. ", (9000.5, 30.0)),
        ("-28+-5", (-28.0, 5.0)),
    ],
)
def test_altitudes_are_read_as_people_write_them(text, value):
    assert parse_altitude(text) == value


@pytest.mark.parametrize("text", ["", "high", "9 km", "9000+-", "+-3000", "9000+--3", "9000-3000", "nan", "inf", "1,2"])
def test_what_is_no_altitude_is_refused_by_its_value_and_form(text):
    with pytest.raises(ValueError, match=r"is no altitude in metres, as 9000, or 9000\+-3000") as refusal:
        parse_altitude(text)
    assert repr(text) in str(refusal.value)
