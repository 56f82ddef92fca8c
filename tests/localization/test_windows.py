"""Windows of one recording as one: less noise, and nothing else less."""

import numpy as np
import pytest
from measured_delays import NOISE_S, measured, ring

import heimdall_lab as hl
from heimdall_lab.datasets import schema
from heimdall_lab.localization import errors


def windows_of(rng, count, clocks_s, **attrs):
    """Windows of one transmitter: noise of each window, and clocks that all have in common."""
    receivers, transmitter = ring(rng, 1, len(clocks_s))
    noise_s = NOISE_S * rng.standard_normal((count, len(clocks_s)))
    places = np.repeat(receivers, count, axis=0), np.repeat(transmitter, count, axis=0)
    return measured(*places, noise_s + clocks_s, clock_sigma_s=50e-9, **attrs)


def against(dataset, references):
    """The same measurements with another reference in each window."""
    rows = np.arange(len(references))
    late = dataset.tdoa_s.values[rows, references][:, None]
    return dataset.assign(
        tdoa_s=dataset.tdoa_s - late, reference_receiver=dataset.reference_receiver.copy(data=references)
    )


def test_noise_averages_and_what_windows_share_does_not():
    rng = np.random.default_rng(1)
    dataset = windows_of(rng, 25, 50e-9 * rng.standard_normal(6))
    joined = hl.join_windows(dataset)
    assert dict(joined.sizes)["sample"] == 1
    joint, each = (hl.locate(one, "tdoa_ls").budget for one in (joined, dataset))
    ratio = joint.isel(sample=0) / each.mean("sample")
    # Weights change with the noise, so that the share of clocks may, too, by some percent.
    assert float(ratio.sel(cause="noise")) == pytest.approx(1 / 5, rel=0.3)
    assert float(ratio.sel(cause="clocks")) == pytest.approx(1, rel=0.1)
    np.testing.assert_array_equal(joined.toa_std_s.values.round(12), NOISE_S / 5 * np.ones((1, 6)))


@pytest.mark.slow
def test_joint_errors_are_those_that_are_stated():
    rng = np.random.default_rng(2)
    recordings = [windows_of(rng, 10, 50e-9 * rng.standard_normal(6)) for _ in range(60)]
    joined = [hl.join_windows(recording) for recording in recordings]
    squared = [float(errors.position_errors(one, hl.locate(one, "tdoa_ls")).mahalanobis_squared[0]) for one in joined]
    assert 1.4 < np.mean(squared) < 2.7  # of a normal law 2, ± 2 / √60 and some


def test_the_reference_of_a_window_does_not_matter():
    rng = np.random.default_rng(3)
    dataset = windows_of(rng, 12, np.zeros(5))
    changed = hl.join_windows(against(dataset, rng.integers(0, 5, 12)))
    first = int(changed.reference_receiver[0])
    same = hl.join_windows(against(dataset, np.full(12, first)))
    np.testing.assert_allclose(changed.tdoa_s, same.tdoa_s, atol=1e-12)


def test_recordings_are_joined_apart_and_wild_delays_left_out():
    rng = np.random.default_rng(4)
    dataset = windows_of(rng, 12, np.zeros(5))
    truth_s = dataset.tdoa_s.values.mean(axis=0)
    dataset["tdoa_s"][2, 3] += 1e-3
    number = ("sample", np.repeat([4, 7], 6), {"units": "1"})
    joined = hl.join_windows(dataset.assign(recording=number))
    assert joined["sample"].values.tolist() == [4, 7]
    assert np.abs(joined.tdoa_s.values - truth_s).max() < 5 * NOISE_S * np.sqrt(2 / 6)
    assert joined.heard.all()


def test_windows_that_scatter_by_more_than_they_state_say_so_together():
    dataset = windows_of(np.random.default_rng(5), 40, np.zeros(6))
    bold = dataset.assign(toa_std_s=dataset.toa_std_s / 3)
    assert hl.join_windows(bold).toa_std_s.values == pytest.approx(NOISE_S / np.sqrt(40), rel=0.2)


def test_a_delay_that_some_window_tells_has_no_rival_in_all_of_them_together():
    dataset = windows_of(np.random.default_rng(6), 3, np.zeros(5))
    rival_s = np.full((3, 5), np.nan)
    rival_s[0, 2], rival_s[1:, 3], rival_s[:, 4] = 1e-3, 2e-3, 3e-3
    ambiguous = dataset.assign(
        rival_delay_s=dataset.tdoa_s.copy(data=rival_s), toa_std_s=dataset.toa_std_s.where(np.isnan(rival_s))
    )
    noise_known = dataset.heard.copy(data=np.arange(15).reshape(3, 5) != 6)
    joined = hl.join_windows(ambiguous.assign(noise_known=noise_known))
    np.testing.assert_array_equal(joined.rival_delay_s, [[np.nan, np.nan, np.nan, np.nan, 3e-3]])
    np.testing.assert_array_equal(joined.noise_known, [[True, False, True, True, True]])


def emissions(windows, **known):
    """Windows with what is known of them beforehand, one value a window."""
    return windows.assign(schema.label({name: np.array(values) for name, values in known.items()}, {}, {}).data_vars)


def test_windows_of_one_emission_alone_are_joined():
    dataset = windows_of(np.random.default_rng(7), 8, np.zeros(5), duration_s=1.0)
    tuned_hz = [98e6, 98e6, 145e6, 145e6, 145e6, 98e6, 98e6, 145e6]
    named = emissions(
        dataset, recording=[0] * 7 + [1], centre_frequency=tuned_hz, recording_time=[0.0, 1, 10, 11, 12, 20, 21, 0]
    )
    joined = hl.join_windows(named)
    assert joined["sample"].values.tolist() == [0, 1, 2, 3]
    assert joined.recording.values.tolist() == [0, 0, 0, 1]
    assert joined.recording_time.values.tolist() == [0.5, 11, 20.5, 0]
    assert joined.centre_frequency.values.tolist() == [98e6, 145e6, 98e6, 145e6]
    first = hl.join_windows(dataset.isel(sample=slice(0, 2)))
    np.testing.assert_allclose(joined.tdoa_s[0], first.tdoa_s[0], atol=1e-15)


def test_references_are_not_joined_with_others_of_their_frequency():
    dataset = windows_of(np.random.default_rng(8), 4, np.zeros(5), duration_s=1.0)
    reported = {"reported_latitude": [45.0, 45.0, np.nan, np.nan], "reported_longitude": [8.0, 8.0, np.nan, np.nan]}
    named = emissions(dataset, recording=[3] * 4, centre_frequency=[145e6] * 4, **reported)
    assert hl.join_windows(named).sizes["sample"] == 2


def test_simulated_emissions_are_no_windows_of_each_other():
    dataset = windows_of(np.random.default_rng(9), 3, np.zeros(5), duration_s=1.0)
    simulated = emissions(dataset, recording=[0, 0, 0], centre_frequency=[145e6] * 3).assign_attrs(config="{}")
    assert hl.join_windows(simulated, strict=True).sizes["sample"] == 3
