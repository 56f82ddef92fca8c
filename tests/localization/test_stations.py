"""One bad station of several: left out by name, whatever is wrong with it, and the others have a fix."""

import re

import numpy as np
import pytest

import heimdall_lab as hl
from heimdall_lab.localization import errors, sentences, stations
from heimdall_lab.signals.measurements import with_measurements

BAD = 2


@pytest.fixture(scope="module")
def recorded():
    """A simulated network that is taken for a recording, three windows of which all receivers hear one transmitter."""
    dataset = hl.generate(hl.preset("los_sync", num_samples=6, seed=5, signal={"duration_s": 0.1}), progress=False)
    dataset = dataset.isel(sample=np.flatnonzero(dataset.signal_present.all("receiver"))[:2])
    del dataset.attrs["config"]
    return dataset.drop_vars("features")


def roll(dataset, duration_s):
    dataset.iq[:, BAD] = np.roll(
        dataset.iq.values[:, BAD], round(duration_s * dataset.attrs["sample_rate_hz"]), axis=-1
    )


def unrelated(dataset):
    """It hears what was sent at another time."""
    dataset.iq[:, BAD] = dataset.iq.values[::-1, BAD]


def elsewhere(name, value):
    def change(dataset):
        dataset[f"receiver_{name}"][:, BAD] = value

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda dataset: roll(dataset, 1e-3), "later than the others'"),
        (unrelated, "no more in common"),
        (elsewhere("longitude", -70.0), "km from the middle of the stations"),
        (elsewhere("latitude", 47.9), "delays contradict the others'"),
    ],
)
def test_a_bad_station_is_left_out_with_its_reason(recorded, change, reason):
    dataset = recorded.copy(deep=True)
    change(dataset)
    name = str(dataset.receiver_name.values[BAD])
    without = hl.locate(recorded.isel(receiver=np.arange(recorded.sizes["receiver"]) != BAD), "tdoa_ls")
    fixes = hl.locate(dataset, "tdoa_ls")
    assert fixes.converged.all()
    assert re.search(reason, stations.left_out(fixes)[name])
    np.testing.assert_allclose(fixes.latitude, without.latitude, atol=1e-6)
    assert name not in stations.left_out(hl.locate(dataset, "tdoa_ls", strict=True))
    measured = stations.without_bad_stations(with_measurements(dataset))
    assert f"{name}: " in sentences.left_out_sentence(measured)
    assert not measured.receiver_present[:, BAD].any()


def test_the_reference_is_left_out_where_it_is_the_bad_one(recorded):
    dataset = recorded.isel(sample=[0]).copy(deep=True)
    reference = int(with_measurements(dataset).reference_receiver[0])
    dataset.iq[:, reference] = np.roll(dataset.iq.values[:, reference], 2500, axis=-1)
    fixes = hl.locate(dataset, "tdoa_ls")
    assert set(stations.left_out(fixes)) == {str(dataset.receiver_name.values[reference])}
    assert fixes.converged.all()
    error_m = errors.position_errors(dataset, fixes).mahalanobis_squared
    assert (error_m < 18).all()


def test_a_station_is_left_out_of_the_window_in_which_it_hears_something_else(recorded):
    """The reference of that window, which would make the others' delays wrong; the other window keeps it."""
    dataset = recorded.copy(deep=True)
    reference = int(with_measurements(dataset).reference_receiver[1])
    dataset.iq[1, reference] = recorded.iq.values[0, reference]
    left = stations.without_bad_stations(with_measurements(dataset))
    assert left.receiver_present[:, reference].values.tolist() == [True, False]
    assert left.receiver_present.values.sum() == left.receiver_present.size - 1
    name = str(dataset.receiver_name.values[reference])
    assert list(stations.left_out(left)) == [name]
    assert stations.left_out(left)[name].startswith("in 1 of 2 windows its signal has no more in common")
    fixes = hl.locate(dataset, "tdoa_ls")
    assert fixes.converged.all()
    assert (errors.position_errors(dataset, fixes).mahalanobis_squared < 18).all()
    joined = hl.join_windows(dataset)
    assert joined.receiver_present.all()
    np.testing.assert_array_equal(joined.receiver_latitude[0], recorded.receiver_latitude[0])


@pytest.mark.parametrize("late_s", [2e-3, -2e-3])
def test_a_clock_that_is_wrong_by_more_than_allowed_is_told_by_how_much(recorded, late_s):
    dataset = recorded.copy(deep=True)
    roll(dataset, late_s)
    reason = stations.left_out(hl.locate(dataset, "tdoa_ls"))[str(dataset.receiver_name.values[BAD])]
    told = re.fullmatch(r"its signal is ([\d.]+) ms (later|earlier) than the others', more than .*", reason)
    assert told[2] == ("later" if late_s > 0 else "earlier")
    assert float(told[1]) == pytest.approx(2, abs=0.5)  # paths differ by as much


def test_where_too_few_would_remain_what_is_by_chance_is_named_and_not_used(recorded):
    dataset = recorded.isel(sample=[0], receiver=[0, 1, BAD]).copy(deep=True)
    dataset.iq[0, 2] = recorded.iq.values[1, BAD]
    fixes = hl.locate(dataset, "tdoa_ls")
    assert not fixes.converged.any()
    assert "no more in common" in str(stations.left_out(fixes))


def test_good_stations_and_simulated_ones_stay(recorded):
    measured = with_measurements(recorded)
    assert stations.without_bad_stations(measured) is measured
    spoilt = measured.assign_attrs(config="{}")
    spoilt = spoilt.assign(receiver_longitude=spoilt.receiver_longitude - 90)
    assert stations.without_bad_stations(spoilt) is spoilt


def test_of_three_stations_none_is_left_out(recorded):
    dataset = recorded.isel(receiver=[0, 1, BAD]).copy(deep=True)
    dataset.receiver_longitude[:, 2] = -70.0
    assert "its place" not in str(stations.left_out(hl.locate(dataset, "tdoa_ls")))


def test_a_delay_with_rivals_is_named_with_its_window(recorded):
    measured = with_measurements(recorded)
    rival_s = measured.rival_delay_s.values.copy()
    rival_s[0, BAD] = 1e-4
    named = stations.without_bad_stations(measured.assign(rival_delay_s=measured.rival_delay_s.copy(data=rival_s)))
    name = str(recorded.receiver_name.values[BAD])
    assert stations.left_out(named) == {name: "in 1 of 2 windows its delay has rivals that fit as well"}
    assert named.receiver_present.values.all()
