"""Tones, noise and voice against the theory of frequency modulation and of speech."""

import numpy as np
import pytest
from scipy import signal as dsp
from scipy import special, stats
from waveform_signals import (
    DEVIATION_HZ,
    DUAL_TONE,
    NOISE,
    P_VALUE,
    RATE_HZ,
    TONE,
    instantaneous_frequency_hz,
    occupied_bandwidth_hz,
    power_outside,
    synthesize,
)

from heimdall_lab.signals import spectra

DTMF_HZ = (697, 770, 852, 941, 1209, 1336, 1477, 1633)  # ITU-T Q.23
PITCH_HZ = (90 * 0.88, 220 * 1.12)


def test_tone_has_the_peak_deviation():
    frequency_hz = np.abs(instantaneous_frequency_hz(synthesize(TONE, 50, 10_000))).max(axis=1)
    # A cosine of at most 700 Hz, sampled at 50 kHz, misses its crest by at most π · 700 / 50e3 rad.
    short_hz = DEVIATION_HZ * (1 - np.cos(np.pi * 700 / RATE_HZ))
    rounding_hz = 2.0**-23 * RATE_HZ  # two phases of complex64
    assert frequency_hz.max() <= DEVIATION_HZ + rounding_hz
    assert frequency_hz.min() >= DEVIATION_HZ - short_hz - rounding_hz


@pytest.mark.parametrize("tone_hz", [300.0, 425.0, 500.0, 700.0])
def test_tone_has_bessel_lines(tone_hz):
    """Carson 1922: the line n tones from the carrier has the amplitude J_n(β), β = deviation / tone."""
    num_time = 10_000  # 5 Hz a bin: a whole number of periods of every tone here
    waveform = synthesize(TONE, 5, num_time, tone_min_hz=tone_hz, tone_max_hz=tone_hz)
    lines = np.abs(np.fft.fft(waveform, axis=1)) / num_time
    order = np.arange(-30, 31)
    step = round(tone_hz * num_time / RATE_HZ)
    beta = DEVIATION_HZ / tone_hz
    expected = np.abs(special.jv(order, beta))
    # Summing a message is not integrating it: β grows by (π f / fs)² / 6; |J_n'| ≤ 0.6. FFT in double precision.
    tolerance = 0.6 * beta * (np.pi * tone_hz / RATE_HZ) ** 2 / 6 + 1e-6
    assert np.abs(lines[:, order * step] - expected).max() < tolerance
    between = np.delete(lines, (order * step) % num_time, axis=1)
    assert between.max() < 1e-6

    # The lines' powers give the occupied bandwidth: 0.5 % may be left beyond either outermost line.
    cumulative = np.cumsum(expected**2)
    edges = order[[np.argmax(cumulative >= 0.005), np.argmax(cumulative >= 0.995)]]
    bandwidth_hz = (edges[1] - edges[0]) * tone_hz
    assert occupied_bandwidth_hz(waveform) == pytest.approx(np.full(5, bandwidth_hz))
    frequency_hz = np.fft.fftshift(np.fft.fftfreq(num_time, 1 / RATE_HZ))
    density = np.fft.fftshift(lines**2, axes=1)
    found_hz = spectra.occupied_bandwidth_hz(frequency_hz, density)
    assert found_hz == pytest.approx(np.full(5, bandwidth_hz), abs=RATE_HZ / num_time)  # half a bin at either edge
    # Mean square frequency of FM is that of its message: deviation / sqrt(2), whatever the tone.
    rms_hz = spectra.rms_bandwidth_hz(frequency_hz, density)
    assert rms_hz == pytest.approx(np.full(5, DEVIATION_HZ / 2**0.5), rel=(np.pi * tone_hz / RATE_HZ) ** 2)


def test_tones_are_uniform_over_their_range():
    audio = instantaneous_frequency_hz(synthesize(TONE, 400, 2501))
    # Crossings of zero count half periods: ±1 in 0.05 s, 10 Hz; the phase of the first sample of a cosine is uniform.
    tone_hz = (np.diff(np.signbit(audio), axis=1) != 0).sum(axis=1) / (2 * 2500 / RATE_HZ)
    assert tone_hz.min() >= 290
    assert tone_hz.max() <= 710
    jitter = np.random.Generator(np.random.Philox(1)).uniform(-10, 10, 400)  # hides the steps of 10 Hz
    # The jitter moves the distribution function by at most 10 / 420; 2.2 / sqrt(n) is the statistic of p = 1e-4.
    assert stats.kstest(tone_hz + jitter, stats.uniform(290, 420).cdf).statistic < 10 / 420 + 2.2 / 400**0.5


def test_dual_tone_is_a_pair_of_dtmf_frequencies():
    num_scenes, num_time = 320, 5001
    audio = instantaneous_frequency_hz(synthesize(DUAL_TONE, num_scenes, num_time))  # samples 1 … 5000
    time = np.arange(1, num_time) / RATE_HZ
    turns = np.exp(2j * np.pi * np.multiply.outer(time, DTMF_HZ))
    fit, residual, *_ = np.linalg.lstsq(np.concatenate([turns.real, turns.imag], axis=1), audio.T)
    amplitude_hz = np.hypot(fit[:8], fit[8:]).T  # (scene, tone)
    rounding_hz = 2.0**-23 * RATE_HZ
    assert np.sqrt(residual / num_time).max() < rounding_hz  # nothing but DTMF tones
    sent = amplitude_hz > 1
    assert (sent[:, :4].sum(axis=1) == 1).all()  # one of the low group
    assert (sent[:, 4:].sum(axis=1) == 1).all()  # one of the high group
    assert amplitude_hz[sent] == pytest.approx(np.full(2 * num_scenes, DEVIATION_HZ / 2), abs=rounding_hz)
    pair = 4 * sent[:, :4].argmax(axis=1) + sent[:, 4:].argmax(axis=1)
    assert stats.chisquare(np.bincount(pair, minlength=16)).pvalue > P_VALUE


@pytest.mark.parametrize("bandwidth_hz", [6e3, 10e3])
def test_noise_is_flat_inside_its_band_and_absent_outside(bandwidth_hz):
    num_scenes, num_time = 400, 5000
    waveform = synthesize(NOISE, num_scenes, num_time, noise_bandwidth_hz=bandwidth_hz)
    assert power_outside(waveform[:, : num_time // 2], bandwidth_hz / 2 + 4 * RATE_HZ / (num_time / 2)).max() < 1e-6
    # 99 % of a flat band is 0.99 of it; each edge holds 0.5 % of 2 B T exponential powers, 10 % of itself at worst.
    assert occupied_bandwidth_hz(waveform) / bandwidth_hz == pytest.approx(np.ones(num_scenes), abs=0.05)
    density = (np.abs(np.fft.fft(waveform, axis=1)) ** 2).mean(axis=0)
    frequency_hz = np.fft.fftfreq(num_time, 1 / RATE_HZ)
    inside = density[np.abs(frequency_hz) < bandwidth_hz / 2 - RATE_HZ / num_time]
    # Each mean of 400 exponential powers is Gamma(400); all of them lie within its quantiles of 1e-4 / their number.
    level = P_VALUE / len(inside) / 2
    low, high = stats.gamma(num_scenes, scale=1 / num_scenes).ppf([level, 1 - level])
    assert low < (inside / inside.mean()).min()
    assert (inside / inside.mean()).max() < high


def test_noise_is_gaussian():
    waveform = synthesize(NOISE, 300, 5000)
    independent = waveform[:, ::5].ravel()  # samples 1 / B apart are uncorrelated for a flat band of 10 kHz
    count = len(independent)
    # E|x|⁴ = 2 (variance 20) and E|x|² = 1 for circular normal numbers.
    assert (np.abs(independent) ** 4).mean() == pytest.approx(2, abs=5 * 20**0.5 / count**0.5)
    for component in (independent.real, independent.imag):
        assert stats.kurtosis(component) == pytest.approx(0, abs=5 * (24 / count) ** 0.5)
        assert stats.kstest(component, stats.norm(scale=0.5**0.5).cdf).pvalue > P_VALUE
    assert abs((independent**2).mean()) < 5 * (2 / count) ** 0.5  # circular


def test_voice_stays_inside_deviation_and_channel(voice, voice_audio):
    peak_hz = np.abs(voice_audio).max(axis=1)
    assert peak_hz.max() <= DEVIATION_HZ + 2.0**-23 * RATE_HZ
    # The limiter brings every scene to full deviation; the first sample, which has no difference, may hold the peak.
    assert np.median(peak_hz) == pytest.approx(DEVIATION_HZ, abs=2.0**-23 * RATE_HZ)
    bandwidth_hz = occupied_bandwidth_hz(voice)
    carson_hz = 2 * (DEVIATION_HZ + 3000)
    assert bandwidth_hz.max() <= carson_hz <= 12.5e3
    assert power_outside(voice, 12.5e3 / 2).max() < 0.01


def test_rms_bandwidth_of_voice_is_the_spread_of_its_frequency(voice, voice_audio):
    """For FM the second moment of the spectrum is the mean square of the frequency (Cohen, Time-frequency analysis)."""
    window = dsp.windows.hann(voice.shape[1])  # adds π / (√3 T) = 2 Hz to it, in squares
    weight = (window[1:] + window[:-1]) ** 2
    mean_hz = np.average(voice_audio, axis=1, weights=weight)
    expected_hz = np.sqrt(np.average((voice_audio - mean_hz[:, None]) ** 2, axis=1, weights=weight))
    density = np.abs(np.fft.fftshift(np.fft.fft(voice * window, axis=1), axes=1)) ** 2
    frequency_hz = np.fft.fftshift(np.fft.fftfreq(voice.shape[1], 1 / RATE_HZ))
    # The difference of two samples averages the frequency between them: 1 - (π f / fs)² / 6, f up to 3 kHz, 0.6 %.
    assert spectra.rms_bandwidth_hz(frequency_hz, density) == pytest.approx(expected_hz, rel=0.006)


def test_voice_audio_is_confined_to_the_telephone_band(voice_audio):
    """Above 3 kHz below -60 dB; below 300 Hz only products of the limiter, -15 dB.

    The distortion of tanh(u / 1.5) on normal audio of unit power is 1 - E[u y]² / E[y²] = -15.0 dB of it altogether.
    """
    audio = voice_audio * dsp.windows.blackmanharris(voice_audio.shape[1])
    power = np.abs(np.fft.rfft(audio, axis=1)) ** 2
    frequency_hz = np.fft.rfftfreq(audio.shape[1], 1 / RATE_HZ)
    share = power / power.sum(axis=1, keepdims=True)
    assert share[:, frequency_hz > 3000].sum(axis=1).max() < 1e-6
    assert share[:, frequency_hz < 300].sum(axis=1).max() < 10**-1.5


def periodicity(audio: np.ndarray, segment: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    """Largest normalised autocorrelation at the lags of the pitch range in 40 ms segments, and that pitch in Hz."""
    shortest, longest = int(RATE_HZ / PITCH_HZ[1]), int(np.ceil(RATE_HZ / PITCH_HZ[0]))
    values, pitches = [], []
    for row in audio:
        for start in range(0, len(row) - segment - longest, segment):
            part = row[start : start + segment + longest]
            shifted = np.lib.stride_tricks.sliding_window_view(part, segment)[shortest : longest + 1]
            correlation = shifted @ part[:segment]
            correlation = correlation / np.sqrt((part[:segment] ** 2).sum() * (shifted**2).sum(axis=1))
            values.append(correlation.max())
            pitches.append(RATE_HZ / (shortest + correlation.argmax()))
    return np.array(values).reshape(len(audio), -1), np.array(pitches).reshape(len(audio), -1)


def test_voice_has_pitch(voice_audio):
    """Noise of the telephone band has 2 · 2700 Hz · 40 ms = 216 degrees of freedom: its correlation stays below 0.5.

    0.5 is 7 standard deviations, 1 / sqrt(216); periodic sound comes near 1.
    """
    audio = voice_audio[:40]
    values, pitch_hz = periodicity(audio)
    rng = np.random.Generator(np.random.Philox(2))
    frequency_hz = np.fft.rfftfreq(audio.shape[1], 1 / RATE_HZ)
    in_band = (frequency_hz > 300) & (frequency_hz < 3000)
    noise = np.fft.irfft(in_band * np.exp(2j * np.pi * rng.random((10, len(in_band)))), n=audio.shape[1], axis=1)
    assert periodicity(noise)[0].max() < 0.5
    assert np.median(values, axis=1).min() > 0.5
    # The pitch of a scene glides by ±12 % about its own base, and bases span 90 … 220 Hz evenly on a log scale.
    median_hz = np.median(pitch_hz, axis=1)
    steady = np.abs(np.log(pitch_hz / median_hz[:, None])) < np.log(1.12 / 0.88)
    assert np.median(steady.mean(axis=1)) > 0.8
    base = np.log(median_hz / 90) / np.log(220 / 90)
    # The median of 6 syllables strays from the base by about 0.12 / sqrt(3 · 6) = 3 %, 0.03 of the range.
    assert stats.kstest(base, stats.uniform.cdf).statistic < 0.03 + 2.2 / 40**0.5  # 2.2 / sqrt(n): p = 1e-4


def test_voice_has_formants_that_change(voice_audio):
    """Vowels differ in where the spectrum peaks below 1 kHz (F1) and in its centre of gravity above (F2).

    Were the resonances absent or always the same, pitch and level would still glide, but the centre of gravity
    would differ as much between neighbouring frames of 40 ms as between frames of different syllables. The ratio of the
    two variances is then F-distributed with at least 99 degrees of freedom on either side, one a scene.
    """
    segment = 2000  # 40 ms: a quarter of a syllable
    frames = voice_audio[:, : segment * 24].reshape(100, 24, segment) * np.hanning(segment)
    power = np.abs(np.fft.rfft(frames, 8000, axis=-1)) ** 2
    frequency_hz = np.fft.rfftfreq(8000, 1 / RATE_HZ)
    upper = (frequency_hz >= 1000) & (frequency_hz <= 2900)
    centre_hz = (power[..., upper] * frequency_hz[upper]).sum(axis=-1) / power[..., upper].sum(axis=-1)

    def structure(lag: int) -> float:
        return float(((centre_hz[:, lag:] - centre_hz[:, :-lag]) ** 2).mean())

    limit = stats.f(99, 99).ppf(1 - P_VALUE)
    assert structure(8) / structure(1) > limit
    between_scenes = 24 * centre_hz.mean(axis=1).var(ddof=1)
    assert between_scenes / (structure(1) / 2) > limit
    # F1 of Peterson and Barney's vowels goes from 270 to 730 Hz; the strongest harmonic is at most half a pitch off.
    lower = (frequency_hz >= 300) & (frequency_hz <= 1000)
    peak_hz = frequency_hz[lower][power[..., lower].argmax(axis=-1)]
    assert np.ptp(np.quantile(peak_hz, [0.05, 0.95])) > 730 - 270 - PITCH_HZ[1] / 2
