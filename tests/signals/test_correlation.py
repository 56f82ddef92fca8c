"""Time and frequency differences by cross-ambiguity, against the bound and against what they must not depend on.

Test signals are known in closed form at any instant, so that delays are exact. Seeds are fixed; statistical thresholds
are those that a correct estimator misses for one seed in 10⁴.
"""

import functools
import sys
from types import ModuleType

import numpy as np
import pytest
from scipy import stats
from signals.test_spectra import RATE_HZ, Fm, complex_normal, generator

from heimdall_lab.signals import correlation, spectra

P_VALUE = 1e-4
BAND = 0.2  # cycles per sample, two-sided: ±5 kHz of 50 kHz
GRID = np.arange(512) / 512 - 0.5


def band_limited_noise(rng, scenes: int, num_time: int, delays) -> list[np.ndarray]:
    """The same scenes' flat Gaussian waveform of unit power at several delays in samples, each (S, N).

    A sum of lines of a period four times the window, which therefore is no period of it.
    """
    cycles = np.arange(-int(BAND * 2 * num_time), int(BAND * 2 * num_time) + 1) / (4 * num_time)
    amplitude = complex_normal(rng, (scenes, len(cycles))) / len(cycles) ** 0.5
    time = np.arange(num_time)
    return [amplitude @ np.exp(2j * np.pi * np.multiply.outer(cycles, time - delay)) for delay in delays]


def flat_weight(scenes: int, band: float = BAND) -> np.ndarray:
    return np.tile((np.abs(GRID) <= band / 2 + 1e-9).astype(float), (scenes, 1))


def peak_of_two(first, second, *, max_delay: float = 20.0, weight=None, max_frequency: float = 2e-4):
    """Delay of the second signals against the first ones, (S, N) each, as `ambiguity_peak` finds it."""
    iq = np.stack([first, second], axis=1).astype(np.complex64)
    return correlation.ambiguity_peak(
        iq,
        np.zeros(len(iq), dtype=int),
        flat_weight(len(iq)) if weight is None else weight,
        max_delay_samples=np.full(iq.shape[:2], max_delay),
        max_frequency_cycles=max_frequency,
    )


@pytest.mark.parametrize(
    ("first_db", "second_db", "offset_cycles", "delay"),
    [(20, 20, 0.0, 3.37), (20, 20, 1.234e-4, -7.9), (10, 3, -5.6e-5, 11.5), (40, 15, 1e-5, -2.5)],
)
def test_ambiguity_peak_reaches_the_bound(first_db, second_db, offset_cycles, delay):
    """Stein (1981), eqs. (1)-(3): σ(TDOA) = 1 / (β sqrt(BTγ)), σ(FDOA) = 1 / (Te sqrt(BTγ)).

    There 2/γ = 1/γ1 + 1/γ2 + 1/γ1γ2. With 300 scenes a ratio of variances is χ²(300) / 300. The window, 64 samples of
    fade at either end, loses 64 of 2,000 samples: the variance of delay grows as 1 / T, that of frequency as 1 / T³.
    """
    scenes, num_time = 300, 2000
    rng = generator(1000 + first_db * second_db)
    first, second = band_limited_noise(rng, scenes, num_time, [0.0, delay])
    second = second * np.exp(2j * np.pi * (offset_cycles * np.arange(num_time) + 0.123))
    snr = 10.0 ** (np.array([first_db, second_db]) / 10)
    first, second = (
        signal + complex_normal(rng, signal.shape) / (ratio * BAND) ** 0.5
        for signal, ratio in zip((first, second), snr, strict=True)
    )
    peak = peak_of_two(first, second)
    gamma = 2 / ((1 / snr).sum() + 1 / snr.prod())
    energy = (BAND * num_time * gamma) ** 0.5
    delay_sigma = 1 / (2 * np.pi * BAND / 12**0.5 * energy)
    frequency_sigma = 1 / (2 * np.pi * num_time / 12**0.5 * energy)
    low, high = stats.chi2(scenes).ppf([P_VALUE, 1 - P_VALUE]) / scenes
    lost = 1 / (1 - 64 / num_time)
    delay_error = (peak.delay_samples[:, 1] - delay) / delay_sigma
    assert low < (delay_error**2).mean() < high * lost
    assert abs(delay_error.mean()) < 5 / scenes**0.5
    frequency_error = (peak.frequency_cycles[:, 1] - offset_cycles) / frequency_sigma
    assert low < (frequency_error**2).mean() < high * lost**3
    assert abs(frequency_error.mean()) < 5 / scenes**0.5
    # Coherence of signals in noise, γ1 γ2 / (1 + γ1)(1 + γ2); Carter (1987): variance 2 C (1 - C)² / BT.
    coherence = snr.prod() / (1 + snr).prod()
    scatter = (2 * coherence / (BAND * num_time)) ** 0.5 * (1 - coherence)
    bias = (1 - coherence) ** 2 / (BAND * num_time)
    assert peak.coherence[:, 1].mean() == pytest.approx(coherence, abs=5 * scatter / scenes**0.5 + 5 * bias + 1e-4)
    assert peak.coherence.max() < 1 + 1e-5
    # A signal against itself: no delay but what the levels in the two fades differ by; half of it is the slope of the
    # ambiguity at 0, over its curvature N (2πβ)²; a sin² fade of 64 samples averages 52 of them, BAND independent each.
    fades = 0.5 * (2 / (52 * BAND)) ** 0.5 / (num_time * (2 * np.pi * BAND / 12**0.5) ** 2)
    assert np.abs(peak.delay_samples[:, 0]).max() < 5 * fades
    assert peak.coherence[:, 0] == pytest.approx(np.ones(scenes), abs=1e-4)


@pytest.mark.parametrize("growth", [0.0, 4.0])
@pytest.mark.parametrize("delay", [-180.3, -24.6, 0.0, 7.77, 180.3])
def test_ambiguity_peak_is_unbiased_at_any_lag(delay, growth):
    """A shrinking overlap would pull the peak by 1 / (4π² β² T), and so would one that moves to higher levels.

    The errors stay below the bound at 60 dB instead.
    """
    scenes, num_time = 20, 5000
    fm = Fm(generator(8), scenes)
    time_s = np.arange(num_time) / RATE_HZ
    first, second = ((1 + growth * late / time_s[-1]) * fm(late) for late in (time_s, time_s - delay / RATE_HZ))
    peak = peak_of_two(first, second, max_delay=200, weight=flat_weight(scenes, 0.4))
    rms_hz = fm.frequency_hz(time_s).std(axis=1)
    sigma_s = 1 / np.sqrt(8 * np.pi**2 * rms_hz**2 * 1e6 * 5000 * num_time / RATE_HZ)
    pull_s = 1 / (4 * np.pi**2 * rms_hz**2 * num_time / RATE_HZ)
    assert pull_s.min() > 5 * sigma_s.max()
    error_s = (peak.delay_samples[:, 1] - delay) / RATE_HZ
    assert np.sqrt((error_s**2).mean()) < sigma_s.min()


@pytest.mark.parametrize("offset_hz", [0.0, 95.0])
@pytest.mark.slow
def test_delays_of_strong_signals_with_a_frequency_offset_are_exact(offset_hz):
    """Without noise what is left is what the fades see of the envelope, 20 ns; the filter follows the shift."""
    scenes, num_time, delay = 300, 5000, 4.3
    fm, time_s = Fm(generator(8), scenes), np.arange(num_time) / RATE_HZ
    first, second = fm(time_s), fm(time_s - delay / RATE_HZ) * np.exp(2j * np.pi * offset_hz * time_s)
    spectrum = spectra.power_spectrum(first.astype(np.complex64), RATE_HZ)
    weight = spectra.wiener_weight(spectrum, 1e-4 * spectrum.density.max(axis=-1))
    peak = peak_of_two(first, second, weight=weight, max_frequency=100 / RATE_HZ)
    assert np.abs(peak.delay_samples[:, 1] - delay).max() < 1e-3
    assert np.abs(peak.frequency_cycles[:, 1] * RATE_HZ - offset_hz).max() < 1e-2
    assert peak.coherence.max() < 1 + 1e-6


@pytest.mark.parametrize("sweep_hz", [0.0, 2000.0])
@pytest.mark.slow
def test_efficiency_is_what_the_unknown_frequency_costs_a_delay(sweep_hz):
    """A sweep by B over T has delays and frequencies whose errors have a correlation; the curvature gives the same.

    Of a rectangular envelope with the phase π B t² / T, ρ² = B² / 12 / β², with β the rms bandwidth.
    """
    scenes, num_time, delay, snr_db = 300, 4000, 2.7, 30
    rng, fm, time_s = generator(31), Fm(generator(9), scenes), np.arange(num_time) / RATE_HZ
    duration_s = num_time / RATE_HZ

    def received(late_s):
        swept = np.exp(1j * np.pi * sweep_hz * ((time_s - late_s) ** 2 / duration_s - (time_s - late_s)))
        noise = complex_normal(rng, (scenes, num_time)) * 10 ** (-snr_db / 20)
        return fm(time_s - late_s) * swept + noise

    peak = peak_of_two(received(0.0), received(delay / RATE_HZ), weight=flat_weight(scenes, 0.4))
    frequency_hz = fm.frequency_hz(time_s) + sweep_hz * (time_s / duration_s - 0.5)
    rms_hz = frequency_hz.std(axis=1)
    coupling = np.array([np.corrcoef(row, time_s)[0, 1] ** 2 for row in frequency_hz])
    kept = (1 - 64 / num_time) ** 2 / (1 - 80 / num_time)  # sin² fades of 64 samples
    assert peak.efficiency[:, 1] == pytest.approx(kept * (1 - coupling), abs=0.03)
    # The bound of a pair of equal noise, which passes a band of 0.4 cycles per sample.
    sigma_s = 1 / np.sqrt(8 * np.pi**2 * rms_hz**2 * num_time * 10 ** (snr_db / 10) / 2)
    error = (peak.delay_samples[:, 1] - delay) / RATE_HZ / sigma_s
    low, high = stats.chi2(scenes).ppf([P_VALUE, 1 - P_VALUE]) / scenes
    assert low < (error**2 * peak.efficiency[:, 1]).mean() < high


def test_later_and_higher_are_positive():
    fm = Fm(generator(9), 3)
    time_s = np.arange(2000) / RATE_HZ
    later = fm(time_s - 5 / RATE_HZ)
    higher = fm(time_s) * np.exp(2j * np.pi * 1e-4 * np.arange(2000))
    assert (peak_of_two(fm(time_s), later).delay_samples[:, 1] > 4.9).all()
    assert (peak_of_two(fm(time_s), higher).frequency_cycles[:, 1] > 0.9e-4).all()


@pytest.mark.parametrize("beyond", [1.5, 3.0, 3.5, 8.0, 30.0])
@pytest.mark.parametrize("max_delay", [20.0, 21.0, 21.5])
def test_lags_beyond_the_allowed_window_are_not_returned(max_delay, beyond):
    first, second = band_limited_noise(generator(10), 8, 2000, [0.0, max_delay + beyond])
    found = peak_of_two(first, second, max_delay=max_delay).delay_samples[:, 1]
    assert (np.isnan(found) | (np.abs(found) <= max_delay)).all()


def test_a_stronger_signal_beyond_its_own_window_does_not_hide_a_receivers_signal():
    """Each receiver has a window of its own: the second one's ends at 20 samples, the third one's at 100."""
    first, near, far = band_limited_noise(generator(13), 8, 4000, [0.0, 5.25, 35.5])
    both = near + 3 * far
    peak = correlation.ambiguity_peak(
        np.stack([first, both, both], axis=1).astype(np.complex64),
        np.zeros(8, dtype=int),
        flat_weight(8),
        max_delay_samples=np.tile([20.0, 20.0, 100.0], (8, 1)),
        max_frequency_cycles=1e-4,
    )
    # To either signal the other one is noise, and the slope of its side lobe, its level over 30 samples, pulls the peak
    # by slope over curvature (2πβ)²: 0.76 samples for the weaker one, a ninth of it for the other.
    noise = 1 / np.sqrt(2 * BAND * 4000) / (2 * np.pi * BAND / 12**0.5)
    pull = 3 / 30 / (2 * np.pi * BAND / 12**0.5) ** 2
    assert np.abs(peak.delay_samples[:, 1] - 5.25).max() < pull + 5 * 3 * noise
    assert np.abs(peak.delay_samples[:, 2] - 35.5).max() < pull / 9 + 5 * noise / 3


def test_order_of_receivers_and_scenes_does_not_matter():
    rng = generator(11)
    delays = [0.0, 4.4, -9.1, 13.0]
    signals = band_limited_noise(rng, 6, 3000, delays)
    iq = np.stack([signal + 0.1 * complex_normal(rng, signal.shape) for signal in signals], axis=1)
    iq = iq.astype(np.complex64)
    reference = np.array([0, 1, 2, 3, 0, 1])
    window = np.array([20.0, 25.0, 30.0, 24.0]) * np.ones((6, 1))
    weight = flat_weight(6) * np.linspace(0.5, 1, 6)[:, None]

    def found(rows, order):
        position = np.argsort(order)
        return correlation.ambiguity_peak(
            iq[rows][:, order],
            position[reference[rows]],
            weight[rows],
            max_delay_samples=window[rows][:, order],
            max_frequency_cycles=1e-4,
        )

    plain = found(np.arange(6), np.arange(4))
    rows, order = np.array([5, 2, 0, 3]), np.array([3, 1, 0, 2])
    moved = found(rows, order)
    for before, after in zip(plain, moved, strict=True):
        # Rows are treated alike; at most the order of summation in complex64 may differ.
        assert after == pytest.approx(before[rows][:, order], abs=1e-5, nan_ok=True)
    expected = np.array(delays) - np.array(delays)[reference][:, None]
    assert plain.delay_samples == pytest.approx(expected, abs=0.1)


def test_signals_that_nearly_repeat_are_not_taken_for_their_repetitions():
    """Of a signal of a period of 500 samples, a lag of 225 overlaps 1 % more than one of -275."""
    scenes, num_time = 40, 5000
    fm = Fm(generator(14), scenes)
    fm.tone_hz = 100 * np.round(fm.tone_hz / 100)
    time_s = np.arange(num_time) / RATE_HZ
    delay = 220 + 10 * np.arange(scenes) / scenes
    later = fm(time_s - delay[:, None, None] / RATE_HZ)
    peak = peak_of_two(fm(time_s), later, max_delay=400)
    assert np.abs(peak.delay_samples[:, 1] - delay).max() < 1


@pytest.mark.parametrize("offset", [-2e-4, 1.99e-4])
@pytest.mark.parametrize("delay", [-17.6, 1.95])
def test_weak_signals_are_found_between_the_points_of_the_grid(delay, offset):
    """17 dB in the peak, of which sinc² of half a step takes at most 3.9 dB, and of quarter turns 0.9 dB each.

    Noise is exponential: the largest of 11 lags × 17 frequencies exceeds 11 dB in less than one scene of 1,000.
    """
    scenes, num_time = 40, 2000
    rng = generator(15)
    first, second = band_limited_noise(rng, scenes, num_time, [0.0, delay])
    second = second * np.exp(2j * np.pi * offset * np.arange(num_time))
    level = 50 / (BAND * num_time)  # 17 dB over noise once summed over the band and the time
    second = second + complex_normal(rng, second.shape) / (level * BAND) ** 0.5
    peak = peak_of_two(first, second)
    sigma = 1 / (2 * np.pi * BAND / 12**0.5 * (2 * 50) ** 0.5)
    assert (np.abs(peak.delay_samples[:, 1] - delay) < 5 * sigma).mean() > 0.9


class Device(np.ndarray):
    """An array of another library: functions of NumPy refuse it, only operators and methods take it."""

    def __array_function__(self, function, types, arguments, options):
        raise TypeError(f"numpy.{function.__name__} on an array of the device")


@pytest.fixture
def device(monkeypatch):
    """As much of CuPy as the estimator uses: a module of its own, whose functions take and return its own arrays."""

    def plain(value):
        if isinstance(value, (list, tuple)):
            return type(value)(map(plain, value))
        return value.view(np.ndarray) if isinstance(value, Device) else value

    def of_device(source, name):
        module = ModuleType(name)
        module.__getattr__ = functools.partial(wrapped, source, name)
        return module

    def wrapped(source, name, attribute):
        value = getattr(source, attribute)
        if isinstance(value, ModuleType):
            return of_device(value, f"{name}.{attribute}")
        if not callable(value) or isinstance(value, type):
            return value

        def function(*arguments, **options):
            result = value(*map(plain, arguments), **options)
            return result.view(Device) if isinstance(result, np.ndarray) else np.asarray(result).view(Device)

        return function

    monkeypatch.setitem(sys.modules, "device", of_device(np, "device"))
    monkeypatch.setattr(Device, "__module__", "device")
    for name in ("fft", "ifft"):
        monkeypatch.setattr(correlation.scipy.fft, name, None)


@pytest.mark.usefixtures("device")
def test_another_array_library_gives_the_same():
    rng = generator(16)
    first, second = band_limited_noise(rng, 3, 2000, [0.0, 4.4])
    iq = np.stack([first, second + complex_normal(rng, second.shape)], axis=1).astype(np.complex64)
    reference, weight, window = np.zeros(3, dtype=int), flat_weight(3), np.full((3, 2), 20.0)
    found = correlation.ambiguity_peak(
        *(values.view(Device) for values in (iq, reference, weight)),
        max_delay_samples=window.view(Device),
        max_frequency_cycles=1e-4,
    )
    assert all(isinstance(values, Device) for values in found)
    assert found.delay_samples.view(np.ndarray)[:, 1] == pytest.approx(np.full(3, 4.4), abs=0.2)
