"""KiwiSDR channels of other sample rates, of several in one network, and tuned apart."""

import numpy as np
import pytest
from datasets.recordings.test_kiwisdr import complex_windows
from kiwi_recordings import FIRST_SECOND, RECEIVERS, file_name, kiwi_bytes, noise, tone

from heimdall_lab.datasets import recordings
from heimdall_lab.signals import pairs

DELAYS_S = {"alpha": 0.0, "bravo_2": 123.456e-6, "charlie": -82.1e-6}
# Oscillators are off by some 1e-4, each by its own, as those of real receivers are.
TRUE_RATES_HZ = {12_000: 12_001.0834, 20_250: 20_251.9, 48_000: 48_004.3}


@pytest.fixture
def read(tmp_path):
    """Write recordings, (nominal rate, signal, frequency) by station, and read them."""

    def write(stations, seconds=3, **options):
        table = tmp_path / "receivers.csv"
        rows = [f"{name},{latitude},{longitude}" for name, (latitude, longitude) in RECEIVERS.items()]
        table.write_text("\n".join(["name,latitude_deg,longitude_deg", *rows]))
        files = []
        for name, (rate_hz, signal, frequency_hz) in stations.items():
            blocks = round(seconds * rate_hz / 512)
            files.append(tmp_path / file_name(name, frequency_hz=frequency_hz))
            files[-1].write_bytes(
                kiwi_bytes(signal, TRUE_RATES_HZ[rate_hz], blocks=blocks, fix_every=12, header_rate_hz=rate_hz + 1)
            )
        return recordings.read_kiwi(files, table, **options)

    return write


def instants(dataset):
    """GPS second of every output sample of a dataset of one window."""
    return dataset.attrs["gps_seconds_of_week"] + dataset.time.values


def with_tone_at(frequency_hz, signal):
    return lambda t: signal(t) + tone(frequency_hz, amplitude=0.1)(t)


@pytest.mark.parametrize("rate_hz", [20_250, 48_000])
def test_channels_of_other_rates_are_read_at_their_rate(read, rate_hz):
    dataset = read({name: (rate_hz, noise(delay_s), 77_500) for name, delay_s in DELAYS_S.items()}, seconds=1.7)
    assert dataset.attrs["sample_rate_hz"] == rate_hz
    assert dataset.attrs["receiver_sample_rate_hz"] == pytest.approx([TRUE_RATES_HZ[rate_hz]] * 3, abs=1e-3)
    expected = np.stack([noise(delay_s)(instants(dataset)) for delay_s in DELAYS_S.values()])
    error = complex_windows(dataset)[0] - expected
    assert 10 * np.log10(np.mean(np.abs(error) ** 2) / np.mean(np.abs(expected) ** 2)) < -75.0


def test_mixed_rates_keep_delays_and_only_the_common_band(read):
    """Tones beyond the narrowest channel, which two of three receive, would fold to −4 and −2 kHz."""
    signals = {name: noise(delay_s) for name, delay_s in DELAYS_S.items()}
    dataset = read(
        {
            "alpha": (12_000, signals["alpha"], 77_500),
            "bravo_2": (20_250, with_tone_at(8_000.0, signals["bravo_2"]), 77_500),
            "charlie": (48_000, with_tone_at(-14_000.0, signals["charlie"]), 77_500),
        }
    )
    assert dataset.attrs["sample_rate_hz"] == 12_000
    expected = np.stack([signal(instants(dataset)) for signal in signals.values()])
    error = complex_windows(dataset)[0] - expected
    assert (10 * np.log10(np.mean(np.abs(error) ** 2, axis=1) / np.mean(np.abs(expected) ** 2)) < -70.0).all()
    measured = pairs.pair_features(dataset).tdoa_s[0]
    late_s = (measured - measured[0]).values
    assert late_s == pytest.approx(list(DELAYS_S.values()), abs=20e-9)


def test_a_lower_rate_keeps_the_density_of_noise(read):
    """White noise of variance 2 σ² at 20.25 kHz has 12 / 20.25 of it in a channel of 12 kHz."""
    rng = np.random.Generator(np.random.Philox(5))

    def white(t):
        return 0.05 * (rng.standard_normal(t.shape) + 1j * rng.standard_normal(t.shape))

    dataset = read(
        {
            "alpha": (12_000, white, 77_500),
            "bravo_2": (20_250, white, 77_500),
            "charlie": (48_000, white, 77_500),
        }
    )
    voltage = complex_windows(dataset)[0]
    power = np.abs(np.fft.fft(voltage, axis=1)) ** 2 / (voltage.shape[1] * 12_000)  # W/Hz
    inside = np.abs(np.fft.fftfreq(voltage.shape[1], 1 / 12_000)) < 0.4 * 12_000
    density = power[:, inside].mean(axis=1)
    expected = 2 * 0.05**2 / np.array([12_000, 20_250, 48_000])
    scatter = 1 / np.sqrt(inside.sum())  # of the mean of exponential powers
    assert density / expected == pytest.approx(np.ones(3), abs=5 * scatter)


def test_recordings_tuned_apart_are_shifted_to_the_band_that_they_share(read):
    offsets_hz = {"alpha": 0, "bravo_2": 1_000, "charlie": 600}
    carrier_hz = 77_900
    stations = {
        name: (12_000, tone(carrier_hz - 77_500 - offset_hz, delay_s=DELAYS_S[name]), 77_500 + offset_hz)
        for name, offset_hz in offsets_hz.items()
    }
    dataset = read(stations)
    assert dataset.attrs["centre_frequency_hz"] == 78_000
    assert dataset.attrs["sample_rate_hz"] == 11_000
    found = complex_windows(dataset)[0]
    expected = np.exp(2j * np.pi * (carrier_hz - 78_000) * (instants(dataset) - FIRST_SECOND))
    turned = found / expected
    assert np.abs(turned / turned[:, :1] - 1).max() < 1e-3
    assert np.abs(turned).mean(axis=1) == pytest.approx([0.5] * 3, abs=1e-3)
