"""Each disturbance is what it says, measured independently of how it is made."""

import numpy as np
import pytest
import xarray as xr
from honesty import disturbances
from honesty.disturbances import BAND_EDGE_HZ, DISTURBANCES, DISTURBED, EXACT_OSCILLATORS

import heimdall_lab as hl
from heimdall_lab.core import geodesy
from heimdall_lab.datasets import schema
from heimdall_lab.signals import pairs

SCENES = 8


@pytest.fixture(scope="module")
def simulated():
    return hl.generate(hl.preset("los_sync", num_samples=SCENES, seed=5), progress=False)


def at_disturbed(dataset, values):
    """Of each scene's disturbed link, (S, …)."""
    return values[dataset[DISTURBED].values]


@pytest.mark.parametrize("name", DISTURBANCES)
def test_a_disturbed_dataset_keeps_the_contract_and_leaves_the_original_alone(simulated, name):
    before = simulated.copy(deep=True)
    disturbed = DISTURBANCES[name].disturb(simulated)
    xr.testing.assert_identical(simulated, before)
    assert schema.check(disturbed).sizes["sample"] == SCENES
    assert disturbed.attrs["clock_sigma_s"] == simulated.attrs["clock_sigma_s"]
    assert DISTURBANCES[name].about.endswith(".")
    if DISTURBED in disturbed:
        assert (disturbed[DISTURBED].sum("receiver") == 1).all()
        assert simulated.signal_present.values[disturbed[DISTURBED].values].all()


def test_which_receiver_is_disturbed_changes_from_scene_to_scene_and_with_the_seed_alone(simulated):
    first, again = (disturbances.late_clock(simulated, delay)[DISTURBED].values for delay in (1e-6, 2e-6))
    other = disturbances.late_clock(simulated.assign_attrs(seed="6"), 1e-6)[DISTURBED].values
    assert len(set(first.argmax(axis=1))) > 2
    assert (first == again).all()
    assert (first != other).any()


@pytest.mark.parametrize("delay_s", [2e-6, 10e-6, 60e-6])
def test_a_late_clock_delays_one_arrival_by_exactly_so_much(simulated, delay_s):
    """To a tenth of what noise does to the difference; and the truth says it."""
    late = disturbances.late_clock(simulated, delay_s)
    wide = {"max_clock_offset_s": delay_s}  # or the delays of short baselines are not searched so far
    before, after = (pairs.pair_features(each.assign_attrs(wide)) for each in (simulated, late))
    assert (before.reference_receiver == after.reference_receiver).all()
    marked = late[DISTURBED].astype(float)
    expected_s = delay_s * (
        marked - marked.isel(receiver=before.reference_receiver).drop_vars(["receiver", "receiver_name"])
    )
    both = before.heard & after.heard
    error = ((after.tdoa_s - before.tdoa_s - expected_s) / before.tdoa_std_s).where(both & (before.tdoa_std_s > 0))
    assert both.sum() > 6 * SCENES
    assert np.nanmax(np.abs(error)) < 0.1
    np.testing.assert_allclose(late.clock_offset - simulated.clock_offset, delay_s * marked, rtol=0, atol=1e-15)


def test_measured_delays_are_shifted_where_there_is_no_iq(simulated):
    measured = hl.features(simulated)
    table = simulated.drop_dims(["component", "time"]).assign(measured[list(schema.MEASURED)].data_vars)
    late = disturbances.late_clock(table, 1e-3)
    marked = late[DISTURBED].values
    reference = np.arange(table.sizes["receiver"]) == table.reference_receiver.values[:, None]
    of_reference = (marked & reference).any(axis=1, keepdims=True)
    assert of_reference.any()
    expected_s = 1e-3 * (marked.astype(float) - of_reference)
    np.testing.assert_allclose((late.tdoa_s - table.tdoa_s).values, expected_s, rtol=0, atol=1e-15)


def test_a_filter_delays_the_edge_of_the_channel_and_leaves_levels_alone(simulated):
    """Group delay: slope of the cross-spectrum's phase, of all scenes, by a cubic over 2 kHz."""
    filtered = disturbances.unequal_filter(simulated, 40e-6)
    before, after = (np.fft.fft(at_disturbed(filtered, hl.iq(each).values)) for each in (simulated, filtered))
    frequency_hz = np.broadcast_to(np.fft.fftfreq(before.shape[1], 1 / simulated.attrs["sample_rate_hz"]), before.shape)
    cross = after * before.conj()
    for share, delay_s in ((0, 0.0), (0.5, 10e-6), (-0.5, 10e-6), (0.8, 25.6e-6), (1.5, 40e-6), (-2, 40e-6)):
        offset_hz = frequency_hz - share * BAND_EDGE_HZ
        near = np.abs(offset_hz) < 1e3
        phase = np.angle(cross[near] * np.exp(2j * np.pi * delay_s * frequency_hz[near]))
        slope = np.polynomial.Polynomial.fit(offset_hz[near], phase, 3, w=np.abs(before[near])).deriv()(0.0)
        assert abs(slope / (2 * np.pi)) < 0.1e-6, share
    np.testing.assert_allclose((np.abs(after) ** 2).mean(axis=1), (np.abs(before) ** 2).mean(axis=1), rtol=1e-3)


def test_samples_of_other_receivers_stay_and_features_are_measured_again(simulated):
    filtered = disturbances.unequal_filter(simulated, 40e-6)
    same = (filtered.iq == simulated.iq).all(["component", "time"]).values
    assert (same != filtered[DISTURBED].values).all()
    peak = filtered.features.sel(feature="envelope_max", statistic="mean").values
    untouched = np.isclose(peak, simulated.features.sel(feature="envelope_max", statistic="mean").values)
    assert (untouched != filtered[DISTURBED].values).all()


def test_a_channel_filter_leaves_no_noise_beyond_it_at_any_receiver(simulated):
    filtered = disturbances.channel_filters(simulated)
    rate_hz = simulated.attrs["sample_rate_hz"]
    before, after = (np.abs(np.fft.fft(hl.iq(each).values)) ** 2 for each in (simulated, filtered))
    distance_hz = np.abs(np.fft.fftfreq(before.shape[-1], 1 / rate_hz))
    present = simulated.receiver_present.values
    ratio = (after[..., distance_hz > 11e3].mean(axis=-1) / before[..., distance_hz > 11e3].mean(axis=-1))[present]
    assert ratio.max() < 0.1
    inside = after[..., distance_hz < 8e3].sum(axis=-1) / before[..., distance_hz < 8e3].sum(axis=-1)
    np.testing.assert_allclose(inside[present], 1.0, rtol=1e-2)


def test_one_oscillator_turns_half_a_hertz_faster(simulated):
    exact = disturbances._generated_with(simulated, EXACT_OSCILLATORS)
    off = disturbances.oscillator_off(simulated, 0.5)
    assert off.attrs["max_frequency_offset_hz"] == 0
    changed = (off.iq != exact.iq).any(["component", "time"]).values
    assert (changed == off[DISTURBED].values).all()
    phase = np.unwrap(np.angle(hl.iq(off).values[changed] * hl.iq(exact).values[changed].conj()))
    time_s = off.time.values
    slope_hz = np.polyfit(time_s, phase.T, 1)[0] / (2 * np.pi)
    np.testing.assert_allclose(slope_hz, 0.5, atol=1e-3)
    np.testing.assert_array_equal((off.frequency_offset - exact.frequency_offset).values, 0.5 * changed)


def test_a_receiver_is_said_to_stand_elsewhere(simulated):
    moved = disturbances.misplaced_receiver(simulated, 5e3)
    distance_m, azimuth_deg = geodesy.geodesic(
        *(simulated[f"receiver_{axis}"].values for axis in ("latitude", "longitude")),
        *(moved[f"receiver_{axis}"].values for axis in ("latitude", "longitude")),
    )
    np.testing.assert_allclose(distance_m, 5e3 * moved[DISTURBED].values, rtol=1e-3)
    assert np.ptp(at_disturbed(moved, azimuth_deg)) > 90
    assert (moved.iq == simulated.iq).all()
    assert (moved.propagation_delay == simulated.propagation_delay).all()


def test_high_transmitters_are_said_to_be_low_unless_they_report_their_altitude(simulated):
    unsaid, said = (disturbances.high_transmitter(simulated, within_m) for within_m in (None, 100.0))
    for high in (unsaid, said):
        assert (high.transmitter_altitude == 9000).all()
        assert high.attrs == simulated.attrs
        receivers, transmitter = (
            geodesy.ecef(*(high[f"{who}_{axis}"].values for axis in ("latitude", "longitude", "altitude")))
            for who in ("receiver", "transmitter")
        )
        distance_m = np.linalg.norm(receivers - transmitter[:, None], axis=-1)
        np.testing.assert_allclose(high.propagation_delay, distance_m / 299792458.0, rtol=1e-9)
    assert "reported_altitude" not in unsaid
    assert (said.reported_altitude_std == 100).all()
    error_m = said.reported_altitude.values - 9000
    assert 30 < error_m.std() < 200


def test_places_on_either_side_of_the_meridian_have_the_same_delays(simulated):
    mirrored = disturbances.mirrored_geometry(simulated)
    assert len(np.unique(mirrored.receiver_longitude.values[mirrored.receiver_present.values])) == 1
    image = mirrored.transmitter_longitude.values
    image = 2 * mirrored.receiver_longitude.values[:, 0] - image
    position = geodesy.ecef(mirrored.transmitter_latitude.values, image, mirrored.transmitter_altitude.values)
    receivers = geodesy.ecef(*(mirrored[f"receiver_{axis}"].values for axis in ("latitude", "longitude", "altitude")))
    delay_s = np.linalg.norm(receivers - position[:, None], axis=-1) / 299792458.0
    np.testing.assert_allclose(delay_s, mirrored.propagation_delay.values, rtol=1e-9)
    assert np.abs(image - mirrored.transmitter_longitude.values).min() > 0


def test_a_continental_network_spans_a_thousand_kilometres_in_line_of_sight(simulated):
    wide = disturbances.continental_network(simulated)
    latitude, longitude = (wide[f"receiver_{axis}"].values[0] for axis in ("latitude", "longitude"))
    middle = np.full(1, (latitude.min() + latitude.max()) / 2)
    height_m, _ = geodesy.geodesic(
        latitude.min(keepdims=True), longitude[:1], latitude.max(keepdims=True), longitude[:1]
    )
    width_m, _ = geodesy.geodesic(middle, longitude.min(keepdims=True), middle, longitude.max(keepdims=True))
    assert 950e3 < height_m < 1050e3
    assert 950e3 < width_m < 1050e3
    assert wide.line_of_sight.all()
    assert wide.attrs["propagation"] == "line_of_sight"
    assert (wide.signal_present.sum("receiver") >= 4).all()


def test_tones_have_lines_and_carriers_only_one(simulated):
    tone, carrier = disturbances.tone(simulated), disturbances.carrier(simulated)
    assert (tone.waveform == "tone").all()
    assert (tone.occupied_bandwidth > 1e3).all()
    strongest = carrier.snr.argmax("receiver")
    voltage = hl.iq(carrier).isel(receiver=strongest).values
    power = np.abs(np.fft.fft(voltage * np.hanning(voltage.shape[1]))) ** 2
    in_one_line = np.sort(power, axis=1)[:, -4:].sum(axis=1) / power.sum(axis=1)
    noise_share = 10 ** ((carrier.noise_power - carrier.received_power).isel(receiver=strongest).values / 10)
    assert (in_one_line > 1 - 2 * noise_share - 1e-3).all()
