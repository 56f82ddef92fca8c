"""Noise behind filters, coloured noise, and skirts of signals that could be taken for either."""

import numpy as np
import pytest
import xarray as xr
from scipy import signal

import heimdall_lab as hl
from heimdall_lab.datasets import schema
from heimdall_lab.localization import estimators
from heimdall_lab.localization.sentences import noise_sentence
from heimdall_lab.signals import features, pairs, spectra
from heimdall_lab.signals.noise_floor import noise_floor

RATE_HZ = 50e3
NUM_TIME = 10_000
SNR_DB = np.array([45.0, 30.0, 20.0, 12.0, 6.0])


def fm_signals(seed: int = 3) -> np.ndarray:
    """Two waveforms at five receivers of unlike SNR over white noise of 1 per Hz, (2, 5, N): FM of filtered noise."""
    rng = np.random.default_rng(seed)
    audio = signal.lfilter(*signal.butter(2, [300, 2500], "band", fs=RATE_HZ), rng.standard_normal((2, NUM_TIME)))
    phase = 2 * np.pi * 2500 / RATE_HZ * np.cumsum(audio / audio.std(axis=1, keepdims=True) / 2, axis=1)
    amplitude = np.sqrt(10 ** (SNR_DB / 10) * 8e3)
    return amplitude[:, None] * np.exp(1j * phase)[:, None]


def white_noise(seed: int = 4) -> np.ndarray:
    parts = np.random.default_rng(seed).standard_normal((2, 2, 5, NUM_TIME)) * np.sqrt(RATE_HZ / 2)
    return parts[0] + 1j * parts[1]


def through(voltage: np.ndarray, gain_of_hz) -> np.ndarray:
    frequency_hz = np.fft.fftfreq(voltage.shape[-1], 1 / RATE_HZ)
    return np.fft.ifft(np.fft.fft(voltage, axis=-1) * gain_of_hz(frequency_hz), axis=-1)


def channel(frequency_hz: np.ndarray, half_hz: float = 9e3) -> np.ndarray:
    """Linear-phase filter: 1 up to half_hz, 80 dB down from 1 kHz further."""
    share = ((np.abs(frequency_hz) - half_hz) / 1e3 + 0.5).clip(0, 1)
    return np.maximum(np.cos(np.pi / 2 * share), 1e-4)


def found(voltage: np.ndarray):
    present = np.full(voltage.shape[:2], True)
    return noise_floor(spectra.power_spectrum(voltage.astype(np.complex64), RATE_HZ), present)


def error_db(density: np.ndarray, expected: float = 1.0) -> np.ndarray:
    return 10 * np.log10(density / expected)


def test_white_noise_is_that_of_the_outer_band():
    voltage = (fm_signals() + white_noise()).astype(np.complex64)
    floor = found(voltage)
    assert floor.is_white.all()
    assert floor.known.all()
    np.testing.assert_array_equal(floor.density, spectra.noise_density(spectra.power_spectrum(voltage, RATE_HZ)))


@pytest.mark.parametrize("half_hz", [8e3, 9e3, 11e3])
def test_noise_behind_a_filter_is_that_of_its_passband(half_hz):
    voltage = through(fm_signals() + white_noise(), lambda frequency_hz: channel(frequency_hz, half_hz))
    floor = found(voltage)
    assert not floor.is_white.any()
    assert np.abs(error_db(floor.density[:, 2:])).max() < 1.5
    # The strongest receivers' noise is told at most: the signal's skirts may lie over it.
    assert (error_db(floor.density[:, :2]) > -1.5).all()


def test_a_receiver_that_recorded_nothing_says_nothing_of_the_others_noise():
    voltage = through(fm_signals() + white_noise(), channel)
    without = found(voltage[:, 1:])
    voltage[:, 0] = 0
    floor = found(voltage)
    np.testing.assert_array_equal(floor.density[:, 1:], without.density)
    np.testing.assert_array_equal(floor.known[:, 1:], without.known)


def test_coloured_noise_is_that_at_the_signal():
    """5 dB more at the centre than far from it."""
    hump = np.sqrt(10**0.5 - 1)
    coloured = white_noise() + hump * through(white_noise(5), lambda f: np.exp(-((f / 12e3) ** 2) / 4))
    floor = found(fm_signals() + coloured)
    assert np.abs(error_db(floor.density[:, 1:], 10**0.5)).max() < 2.5
    assert (
        np.abs(error_db(spectra.noise_density(spectra.power_spectrum(coloured.astype(np.complex64), 1.0)))) > 0
    ).all()


def test_a_signal_that_fills_the_passband_at_one_level_hides_the_noise():
    """Receivers of equal SNR: nothing tells the signal's flat spectrum from noise."""
    flat = through(np.repeat(white_noise()[:, :1], 5, axis=1), channel) + 1e-4 * white_noise(6)
    assert not found(flat).known.any()


@pytest.fixture(scope="module")
def scenes() -> xr.Dataset:
    return hl.generate(hl.preset("los_sync", num_samples=12, seed=31), progress=False)


@pytest.fixture(scope="module")
def filtered(scenes) -> xr.Dataset:
    """The same behind one filter of ±9 kHz at all receivers, converted again."""
    voltage = through(schema.voltage(scenes), channel)
    scale = 1.1 * np.maximum(np.abs(voltage.real), np.abs(voltage.imag)).max(axis=-1)
    code = np.rint(voltage * (32767 / np.where(scale > 0, scale, 1))[..., None])
    iq = np.stack([code.real, code.imag], axis=-2).astype(np.int16)
    changed = scenes.assign(
        iq=scenes.iq.copy(data=iq), iq_full_scale=scenes.iq_full_scale.copy(data=np.where(scale > 0, scale, 1))
    )
    return changed.assign(features=features.of_each_receiver(changed)["features"])


def test_levels_and_sigmas_behind_a_filter_are_those_without_it(scenes, filtered):
    without, behind = (pairs.pair_features(each) for each in (scenes, filtered))
    both = (without.heard & behind.heard).values
    assert both.sum() >= 0.98 * without.heard.values.sum()
    for name, most_db in (("snr_db", 2.5), ("rssi_dbm", 0.5)):
        assert np.abs((behind[name] - without[name]).values[both]).max() < most_db
        mean = [each.features.sel(feature=name, statistic="mean").values for each in (scenes, filtered)]
        assert np.abs(mean[1] - mean[0])[both].max() < most_db
    assert np.abs(np.log((behind.toa_std_s / without.toa_std_s).values[both])).max() < 0.3


def test_dpd_behind_a_filter_converges_as_without_it(scenes, filtered):
    few = [each.isel(sample=slice(3)) for each in (scenes, filtered)]
    without, behind = (estimators.locate(each, "dpd") for each in few)
    assert behind.converged.values.tolist() == without.converged.values.tolist()


def test_integers_behind_a_filter_are_no_noise_of_a_receiver(scenes):
    """A filter as narrow as the signal leaves the rounding of the file beside it; that is said."""
    assert pairs.pair_features(scenes).noise_known.all()
    voltage = through(schema.voltage(scenes), lambda frequency_hz: np.abs(frequency_hz) < 1500)
    scale = np.abs(voltage).max(axis=-1)
    iq = np.rint(np.stack([voltage.real, voltage.imag], axis=2) / scale[..., None, None] * 32767).astype(np.int16)
    narrow = scenes.assign(iq=scenes.iq.copy(data=iq), iq_full_scale=scenes.iq_full_scale.copy(data=scale))
    measured = pairs.pair_features(narrow)
    assert not measured.noise_known.any()
    said = noise_sentence(narrow.assign(measured))
    assert all(str(name) in said for name in scenes.receiver_name.values)
    silent = narrow.assign(measured).assign(heard=measured.heard & (measured.receiver != measured.receiver[2]))
    assert str(scenes.receiver_name.values[2]) not in noise_sentence(silent)
    assert noise_sentence(scenes) == ""
