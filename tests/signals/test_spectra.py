"""Bandwidths on analytic spectra, noise density, and the bound of delay.

Test signals are known in closed form at any instant, so that delays are exact. Seeds are fixed; statistical thresholds
are those that a correct estimator misses for one seed in 10⁴.
"""

import numpy as np
import pytest
from scipy import stats

from heimdall_lab.signals import spectra

RATE_HZ = 50e3


def generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


def complex_normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)) / 2**0.5


class Fm:
    """FM by forty audio tones: constant envelope, phase known at any time in s; rows are scenes."""

    def __init__(self, rng: np.random.Generator, scenes: int) -> None:
        self.tone_hz = rng.uniform(300, 3000, (scenes, 40, 1))
        self.start = rng.uniform(0, 2 * np.pi, (scenes, 40, 1))
        self.deviation_hz = rng.uniform(60, 240, (scenes, 40, 1))

    def __call__(self, time_s: np.ndarray) -> np.ndarray:
        audio = np.sin(2 * np.pi * self.tone_hz * time_s + self.start)
        return np.exp(1j * (self.deviation_hz / self.tone_hz * audio).sum(axis=1))

    def frequency_hz(self, time_s: np.ndarray) -> np.ndarray:
        return (self.deviation_hz * np.cos(2 * np.pi * self.tone_hz * time_s + self.start)).sum(axis=1)


@pytest.mark.parametrize("centre_hz", [0.0, 3210.0, -8000.0])
@pytest.mark.parametrize("width_hz", [1000.0, 8000.0])
def test_bandwidths_of_a_rectangular_spectrum(width_hz, centre_hz):
    frequency_hz = np.arange(-25e3, 25e3, 2.0)
    density = 7e-12 * (np.abs(frequency_hz - centre_hz) < width_hz / 2)
    lines = np.count_nonzero(density)
    assert spectra.occupied_bandwidth_hz(frequency_hz, density) == pytest.approx(0.99 * lines * 2, rel=1e-9)
    assert spectra.occupied_bandwidth_hz(frequency_hz, density, 0.5) == pytest.approx(0.5 * lines * 2, rel=1e-9)
    # n equal lines have the variance step² (n² - 1) / 12; in the limit, width / sqrt(12).
    exact = 2 * ((lines**2 - 1) / 12) ** 0.5
    assert spectra.rms_bandwidth_hz(frequency_hz, density) == pytest.approx(exact, rel=1e-9)
    assert exact == pytest.approx(width_hz / 12**0.5, rel=2 * 2 / width_hz)  # to one line


def test_bandwidths_of_gaussian_spectra():
    frequency_hz = np.arange(-25e3, 25e3, 5.0)
    sigma_hz, centre_hz = np.array([300.0, 1000.0, 2500.0])[:, None], np.array([[0.0], [1234.5], [-4000.0]])
    density = stats.norm.pdf(frequency_hz, centre_hz, sigma_hz)
    assert spectra.rms_bandwidth_hz(frequency_hz, density) == pytest.approx(sigma_hz[:, 0], rel=1e-6)
    # Linear interpolation of the distribution function is wrong by step² max|pdf'| / 8, 3e-6 at 300 Hz: 0.01 Hz.
    for fraction in (0.99, 0.9, 0.5):
        width_hz = 2 * stats.norm.ppf((1 + fraction) / 2) * sigma_hz[:, 0]
        assert spectra.occupied_bandwidth_hz(frequency_hz, density, fraction) == pytest.approx(width_hz, abs=0.1)


def test_bandwidths_of_two_lines_and_of_scaled_spectra():
    frequency_hz = np.arange(-10e3, 10e3, 10.0)
    density = np.zeros((2, len(frequency_hz)))
    density[0, [500, 1500]] = 0.5  # ±5 kHz
    density[1] = generator(1).exponential(size=len(frequency_hz))
    assert spectra.rms_bandwidth_hz(frequency_hz, density[0]) == pytest.approx(5000)
    assert spectra.occupied_bandwidth_hz(frequency_hz, density[0]) == pytest.approx(10e3, abs=10)
    for measure in (spectra.rms_bandwidth_hz, spectra.occupied_bandwidth_hz):
        assert measure(frequency_hz, 1e-15 * density) == pytest.approx(measure(frequency_hz, density), rel=1e-9)
        assert measure(3 * frequency_hz, density) == pytest.approx(3 * measure(frequency_hz, density), rel=1e-9)


def test_spectrum_holds_the_power():
    rng = generator(2)
    iq = 3e-6 * complex_normal(rng, (50, 10_000))
    spectrum = spectra.power_spectrum(iq, RATE_HZ)
    step_hz = spectrum.frequency_hz[1] - spectrum.frequency_hz[0]
    assert (np.diff(spectrum.frequency_hz) > 0).all()
    power = spectrum.density.sum(axis=-1) * step_hz
    assert power.mean() == pytest.approx(9e-12, rel=5 / (50 * 10_000) ** 0.5 * 1.1)  # windows weigh samples unevenly
    # The variance of each value is that of `averages` independent periodograms.
    scatter = spectrum.density.var(axis=0).mean() / (9e-12 / RATE_HZ) ** 2
    assert scatter == pytest.approx(1 / spectrum.averages, rel=5 * (2 / (50 * 512 / 2)) ** 0.5)
    tone = np.exp(2j * np.pi * -7031.25 / RATE_HZ * np.arange(10_000))  # the middle of a bin
    peak = spectra.power_spectrum(tone[None], RATE_HZ)
    assert peak.frequency_hz[peak.density[0].argmax()] == pytest.approx(-7031.25)


@pytest.mark.parametrize("num_time", [300, 1024, 2500, 10_000])
def test_noise_density_is_unbiased(num_time):
    rng = generator(num_time)
    density = []
    for _ in range(10):
        iq = complex_normal(rng, (60, num_time)) * RATE_HZ**0.5
        spectrum = spectra.power_spectrum(iq, RATE_HZ)
        density.append(spectra.noise_density(spectrum))
    found = np.concatenate(density).astype(float)  # 1 expected
    # Wilson and Hilferty's cube is itself wrong by 1.3 % for one periodogram, less than 0.1 % from three on.
    cube = (1 - 1 / (9 * spectrum.averages)) ** 3
    formula = stats.gamma(spectrum.averages, scale=1 / spectrum.averages).median() / cube
    assert found.mean() == pytest.approx(formula, abs=4 * found.std() / len(found) ** 0.5)


def test_noise_density_does_not_see_a_strong_signal():
    rng = generator(5)
    signal = Fm(rng, 40)(np.arange(10_000) / RATE_HZ)
    density_60_db = 1e-6 / 5000  # 60 dB below the signal in 5 kHz
    noise = complex_normal(rng, signal.shape) * (density_60_db * RATE_HZ) ** 0.5
    without, with_signal = (
        spectra.noise_density(spectra.power_spectrum(iq, RATE_HZ)).astype(float) / density_60_db
        for iq in (noise, noise + signal)
    )
    assert with_signal.mean() == pytest.approx(1, abs=4 * without.std() / 40**0.5)


def test_wiener_weight_is_the_share_of_signal():
    rng = generator(6)
    spectrum = spectra.power_spectrum(complex_normal(rng, (400, 10_000)), 1.0)
    weight = spectra.wiener_weight(spectrum, np.ones(400))
    inner = np.abs(spectrum.frequency_hz) <= 0.25
    # Noise alone exceeds the threshold as Gamma(averages) does: four of its standard deviations.
    averages = spectrum.averages
    false_alarm = stats.gamma(averages, scale=1 / averages).sf(1 + 4 / averages**0.5)
    count = weight[:, inner].size
    assert (weight > 0).sum() < count * false_alarm + 5 * (3 * count * false_alarm) ** 0.5  # neighbours correlate
    known = spectra.Spectrum(np.array([-0.4, -0.2, 0.0, 0.2, 0.4]), np.array([[9.0, 9.0, 100.0, 1.1, 9.0]]), 100.0)
    found = spectra.wiener_weight(known, np.array([1.0]))
    assert found == pytest.approx(np.array([[0, 8 / 9, 0.99, 0, 0]]))


def numerical_delay_sigma_s(signal, time_s: np.ndarray, variance: float) -> float:
    """Bound of the delay from the Fisher information of (τ, Re a, Im a) in a · s(t - τ) plus noise, by differences."""
    step_s = 1e-8

    def model(delay_s: float, real: float, imaginary: float) -> np.ndarray:
        return (real + 1j * imaginary) * signal(time_s - delay_s)

    point = np.array([0.0, 1.0, 0.0])
    steps = np.diag([step_s, 1e-3, 1e-3])
    jacobian = np.stack([(model(*(point + h)) - model(*(point - h))) / (2 * h.sum()) for h in steps])
    information = 2 / variance * (jacobian @ jacobian.conj().T).real  # Kay, eq. (15.52)
    return float(np.linalg.inv(information)[0, 0] ** 0.5)


@pytest.mark.parametrize("snr_db", [0.0, 23.0])
def test_delay_sigma_is_the_numerical_cramer_rao_bound(snr_db):
    num_time = 4000
    time_s = np.arange(num_time) / RATE_HZ
    rng = generator(7)
    fm = Fm(rng, 1)
    # Lines orthogonal over the window and off centre: an unknown phase takes the mean frequency out of the bound.
    line_hz = np.arange(-50, 400, 3) * RATE_HZ / num_time
    amplitude = complex_normal(rng, line_hz.shape)
    power = np.abs(amplitude) ** 2 / (np.abs(amplitude) ** 2).sum()
    amplitude = amplitude / (np.abs(amplitude) ** 2).sum() ** 0.5
    lines_rms_hz = (power @ line_hz**2 - (power @ line_hz) ** 2) ** 0.5
    cases = {
        "fm": (lambda t: fm(t)[0], fm.frequency_hz(time_s).std()),  # constant envelope: moments of the frequency
        "lines": (lambda t: np.exp(2j * np.pi * np.multiply.outer(t, line_hz)) @ amplitude, lines_rms_hz),
    }
    for signal, rms_hz in cases.values():
        occupied_hz = 4321.0  # any: SNR · bandwidth is power over noise density
        noise_density = 1 / (10 ** (snr_db / 10) * occupied_hz)
        expected_s = numerical_delay_sigma_s(signal, time_s, noise_density * RATE_HZ)
        found_s = spectra.delay_sigma_s(10 ** (snr_db / 10), occupied_hz, rms_hz, num_time / RATE_HZ)
        # Central differences of 10 ns: (2π · 5 kHz · 10 ns)² / 6 = 2e-8.
        assert found_s == pytest.approx(expected_s, rel=1e-6)
