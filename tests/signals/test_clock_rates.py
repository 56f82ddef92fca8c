"""Delays where sample clocks run at rates of their own: taken out where frequencies tell them, else in the sigmas."""

from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr

import heimdall_lab as hl
from heimdall_lab.datasets import schema
from heimdall_lab.signals import measurements, pairs, voltages
from heimdall_lab.signals.frequency_drift import _bend, frequency_drift
from heimdall_lab.signals.pairs import pair_features

VOICE = {"signal.voice_ratio": 1.0} | {
    f"signal.{kind}_ratio": 0.0 for kind in ("tone", "dual_tone", "fsk4", "afsk1200", "noise")
}
LOW = {"signal.frequency_hz": 30e6, "channel.diffraction": "none"}  # a carrier whose frequency errors stay in the band
WINDOWS = {
    "1 s at 10 ppm": {"signal.duration_s": 1.0, "channel.clock_rate_max_ppm": 10.0, **LOW, "num_samples": 12},
    "0.2 s at 20 ppm": {"signal.duration_s": 0.2, "channel.clock_rate_max_ppm": 20.0, **LOW},
}


def generate(**changes) -> xr.Dataset:
    settings = {"num_samples": 24, "seed": 8, "channel.one_crystal": True, **VOICE, **changes}
    return hl.generate(hl.preset("los_sync", **settings), progress=False)


def normalised_errors(dataset: xr.Dataset, measured: xr.Dataset) -> np.ndarray:
    """Errors of the delays of heard receivers over their standard deviations."""
    arrival_s = (dataset.propagation_delay + dataset.excess_delay + dataset.clock_offset).values
    rows = np.arange(len(arrival_s))
    reference = measured.reference_receiver.values
    expected_s = arrival_s - arrival_s[rows, reference][:, None]
    used = measured.heard.values & np.isfinite(measured.tdoa_std_s.values)
    used[rows, reference] = False
    return (measured.tdoa_s.values - expected_s)[used] / measured.tdoa_std_s.values[used]


def without(dataset: xr.Dataset, *names: str) -> xr.Dataset:
    changed = dataset.copy()
    changed.attrs = {name: value for name, value in dataset.attrs.items() if name not in names}
    return changed


@pytest.mark.parametrize("growth", [-30e-6, 0.34e-6, 200e-6])
def test_a_delay_that_grows_is_taken_out_about_the_middle(growth):
    """A sum of lines within the inner half of the band, whose value at any instant is known."""
    rng = np.random.default_rng(5)
    cycles, amplitude = rng.uniform(-0.25, 0.25, 40), rng.normal(size=40) + 1j * rng.normal(size=40)
    time = np.arange(70_000)  # more than are interpolated at a time

    def value(at):
        return sum(a * np.exp(2j * np.pi * c * at) for a, c in zip(amplitude, cycles, strict=True)).astype(np.complex64)

    grown = value(time - 3.3 - growth * (time - len(time) / 2))
    steady = voltages.steadied(np.stack([grown, grown])[None], np.array([[growth, 0.0]]), np.zeros((1, 2)))[0]
    np.testing.assert_array_equal(steady[1], grown)
    error = (steady[0] - value(time - 3.3 - growth**2 * (time - len(time) / 2)))[40:-40]
    assert np.abs(error).max() < 1e-4 * np.abs(grown).max()


@pytest.mark.parametrize("window", WINDOWS)
def test_delays_are_those_of_mid_window_and_as_good_as_their_sigmas(window):
    dataset = generate(**WINDOWS[window])
    errors = normalised_errors(dataset, pair_features(dataset))
    assert errors.size > 50
    assert errors.std() < 1 + 4 / (2 * errors.size) ** 0.5
    assert abs(errors.mean()) < 0.5  # those of a scene share their reference's
    ignored = normalised_errors(dataset, pair_features(without(dataset, "one_crystal", "clock_rate_sigma")))
    assert ignored.std() > 1.5 * errors.std()


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.slow
def test_rates_that_nobody_tells_are_in_the_sigmas(window):
    dataset = generate(**WINDOWS[window], **{"channel.one_crystal": False})
    rate_sigma = WINDOWS[window]["channel.clock_rate_max_ppm"] * 1e-6 / 3**0.5
    assert dataset.attrs["clock_rate_sigma"] == pytest.approx(rate_sigma)
    errors = normalised_errors(dataset, pair_features(dataset))
    ignored = normalised_errors(dataset, pair_features(without(dataset, "clock_rate_sigma")))
    assert 0.5 < errors.std() < 1 + 4 / (2 * errors.size) ** 0.5 < ignored.std()


@pytest.mark.parametrize("drift_hz_per_s", [0.0, 0.05, -2.0])
def test_drifts_are_found_where_they_show(drift_hz_per_s):
    """Of frequency modulation by noise, at 30 dB and, where nothing can be said, at −30 dB."""
    rng, rate_hz = np.random.default_rng(3), 20e3
    time_s = (np.arange(20_000) - 10_000) / rate_hz
    smooth = np.convolve(rng.normal(size=20_063), np.hanning(64), "valid")
    signal = np.exp(2j * np.pi * np.cumsum(2e3 * smooth / smooth.std()) / rate_hz)
    turns = 0.2 + 3.0 * time_s + drift_hz_per_s * time_s**2 / 2

    def noise(level):
        return level * (rng.normal(size=20_000) + 1j * rng.normal(size=20_000)) / 2**0.5

    weak = noise(1.0) + noise(30.0)
    received = np.stack([signal + noise(0.03), signal * np.exp(2j * np.pi * turns) + noise(0.03), weak]).astype("c8")
    weight, zero = np.ones((1, 64), np.float32), np.zeros((1, 3))
    offset = np.array([[0.0, 3.0 / rate_hz, 0.0]])
    found = frequency_drift(lambda receiver: received[None, receiver], np.zeros(1, int), zero, offset, weight)
    assert found[0] * rate_hz**2 == pytest.approx([0.0, drift_hz_per_s, 0.0], abs=0.005)
    steady = voltages.steadied(received[None], zero, found)[0]
    left = frequency_drift(lambda receiver: steady[None, receiver], np.zeros(1, int), zero, offset, weight)
    assert np.abs(left * rate_hz**2).max() < 1e-4


def test_oscillators_that_drift_do_not_pass_for_filters():
    """Whose unlike group delays would be in the sigmas of such delays."""
    changes = {"signal.duration_s": 1.0, "num_samples": 5}
    steady, drifting = (
        pair_features(generate(**changes, **{"channel.frequency_drift_max_hz_per_s": most})) for most in (0.0, 0.5)
    )
    ratio = drifting.toa_std_s / steady.toa_std_s
    assert float(ratio.max()) < 1.2


@pytest.mark.slow
def test_frequencies_count_at_the_carrier_of_each_emission():
    recording = {"emissions": 4, "frequency_span_hz": 40e6}
    changes = {**WINDOWS["0.2 s at 20 ppm"], "recording": recording, "gate.min_emissions": 0.5}
    dataset = generate(**changes)
    assert np.ptp(dataset.centre_frequency.values) > 20e6
    errors = normalised_errors(dataset, pair_features(dataset))
    assert errors.std() < 1 + 4 / (2 * errors.size) ** 0.5
    assert normalised_errors(dataset, pair_features(dataset.drop_vars("centre_frequency"))).std() > 1.5 * errors.std()


@pytest.mark.slow
def test_delays_are_as_good_as_their_sigmas_where_clocks_are_milliseconds_apart():
    """The reference's own rate, which nobody tells, stretches such delays by nanoseconds."""
    changes = {**WINDOWS["0.2 s at 20 ppm"], "channel.clock_rate_max_ppm": 8.0, "channel.clock": "none"}
    dataset = generate(**changes, **{"signal.transmitter_power_min_dbm": 37.0, "channel.noise_figure_db": 2.0})
    measured = pair_features(dataset)
    errors = normalised_errors(dataset, measured)
    assert np.median(np.abs(errors)) < 0.9  # 0.67 of normal errors; they share their reference's rate
    told = float(np.nanmedian(measured.tdoa_std_s.values))
    untold = float(np.nanmedian(pair_features(without(dataset, "clock_rate_sigma")).tdoa_std_s.values))
    assert told > 1.5 * untold


@pytest.mark.parametrize(("rate_hz", "num_time"), [(50e3, 10_000), (2e6, 2_000_000)])
def test_the_lever_is_the_distance_of_the_signals_middle_from_that_of_the_window(rate_hz, num_time):
    """Of a narrow band that is there in the second half of the window alone."""
    rng = np.random.default_rng(2)
    time_s = (np.arange(num_time) - num_time / 2) / rate_hz
    spectrum = np.fft.fft(rng.normal(size=num_time) + 1j * rng.normal(size=num_time))
    narrow = np.fft.ifft(spectrum * (np.abs(np.fft.fftfreq(num_time, 1 / rate_hz)) < 2e3))
    signal = (narrow * (time_s > 0)).astype("c8")[None, None]
    weight = (np.abs(np.arange(4096) / 4096 - 0.5) * rate_hz < 3e3).astype(np.float32)[None]
    source = SimpleNamespace(of_scene=lambda scene, receiver: signal[scene, receiver])
    lever_s = pairs._lever_s(source, np.zeros(1, int), weight, rate_hz)
    assert lever_s == pytest.approx(num_time / rate_hz / 4, rel=0.1)


@pytest.mark.slow
def test_noise_has_no_drift_but_once_in_ten_thousand():
    rng = np.random.default_rng(4)
    place = (np.arange(32) - 15.5) / 16
    columns = np.stack([np.ones(32), place, place**2])
    for level in (0.01, 0.5, 2.0, 1e3):
        sums = 1 + level * (rng.normal(size=(20_000, 32)) + 1j * rng.normal(size=(20_000, 32)))
        assert (_bend(sums, columns) != 0).mean() < 4e-4


def test_long_windows_are_measured_alike(monkeypatch):
    dataset = generate(**WINDOWS["0.2 s at 20 ppm"]).isel(sample=slice(2))
    at_once = pair_features(dataset)
    monkeypatch.setattr(voltages, "_LONG_IQ_SAMPLES", 0)
    one_by_one = pair_features(dataset)
    assert np.nanmax(np.abs((one_by_one.tdoa_s - at_once.tdoa_s).values)) < 1e-10
    xr.testing.assert_allclose(one_by_one.tdoa_std_s, at_once.tdoa_std_s, rtol=1e-3)


def test_a_carrier_that_is_not_known_is_an_error_with_a_remedy():
    dataset = generate(num_samples=1, **{"signal.duration_s": 0.02})
    dataset.attrs["centre_frequency_hz"] = np.nan
    with pytest.raises(ValueError, match=r"centre_frequency_hz: is not known.*set it, or one_crystal to 0"):
        pair_features(dataset)


def test_measurements_have_the_earliest_version_that_gives_the_same(tmp_path, caplog):
    assert schema.measurement({}) == schema.measurement({"one_crystal": 0, "clock_rate_sigma": 0.0}) == 3
    assert schema.measurement({"one_crystal": 1}) == schema.measurement({"clock_rate_sigma": 1e-7}) == 4
    config = hl.preset("los_sync", num_samples=4, channel={"one_crystal": True}, **{"signal.duration_s": 0.05})
    dataset = hl.generate(config, tmp_path / "out", progress=False)
    found = measurements.with_measurements(dataset)
    assert found.attrs["measurement"] == 4
    again = measurements.with_measurements(hl.open_dataset(tmp_path / "out"))
    xr.testing.assert_identical(again.tdoa_s.load(), found.tdoa_s.load())
    other = measurements.with_measurements(without(dataset, "one_crystal"))
    assert not np.array_equal(other.tdoa_s, found.tdoa_s, equal_nan=True)
    assert caplog.text.count("measured by an earlier measurer") == 0
