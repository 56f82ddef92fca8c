"""Waveforms against the theory of modulation and of speech, measured with NumPy and SciPy alone."""

import binascii
import re

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import interpolate, special, stats
from scipy import signal as dsp

from heimdall_lab.core.config import Signal
from heimdall_lab.core.philox import Streams
from heimdall_lab.signals import spectra
from heimdall_lab.simulation.waveforms import kinds, packets

RATE_HZ = 50e3
DEVIATION_HZ = 2500.0
VOICE, TONE, DUAL_TONE, NOISE, FSK4, AFSK1200 = range(6)
FM = [VOICE, TONE, DUAL_TONE, FSK4, AFSK1200]
SYMBOL_RATE_HZ, OUTER_HZ = 4800.0, 1944.0  # ETSI TS 102 361-1, 10.2.2
DTMF_HZ = (697, 770, 852, 941, 1209, 1336, 1477, 1633)  # ITU-T Q.23
PITCH_HZ = (90 * 0.88, 220 * 1.12)
P_VALUE = 1e-4  # seeds are fixed; a correct synthesizer fails for one seed in 10⁴


def streams(count: int, seed: int) -> Streams:
    samples = np.arange(count, dtype=np.uint64)
    return Streams(seed, samples, np.zeros_like(samples))


def synthesize(kind: int, count: int, num_time: int, seed: int = 3, **fields: float) -> np.ndarray:
    waveform = kinds.synthesize(Signal(**fields), np.full(count, kind), streams(count, seed), num_time)
    assert waveform.shape == (count, num_time)
    assert waveform.dtype == np.complex64
    return waveform.astype(complex)


def instantaneous_frequency_hz(waveform: np.ndarray) -> np.ndarray:
    """Phase advance up to each sample but the first, exact for FM by a cumulative sum: (S, N - 1)."""
    return np.angle(waveform[:, 1:] * waveform[:, :-1].conj()) * RATE_HZ / (2 * np.pi)


def power_outside(waveform: np.ndarray, limit_hz: float) -> np.ndarray:
    """Share of power beyond ±limit in each row, through a Blackman-Harris window (side lobes below -92 dB)."""
    power = np.abs(np.fft.fft(waveform * dsp.windows.blackmanharris(waveform.shape[1]), axis=1)) ** 2
    frequency_hz = np.abs(np.fft.fftfreq(waveform.shape[1], 1 / RATE_HZ))
    return power[:, frequency_hz > limit_hz].sum(axis=1) / power.sum(axis=1)


def occupied_bandwidth_hz(waveform: np.ndarray) -> np.ndarray:
    """99 % of the power, by sorting nothing: the 0.5 % and 99.5 % points of the cumulative periodogram."""
    power = np.abs(np.fft.fftshift(np.fft.fft(waveform, axis=1), axes=1)) ** 2
    frequency_hz = np.fft.fftshift(np.fft.fftfreq(waveform.shape[1], 1 / RATE_HZ))
    cumulative = power.cumsum(axis=1) / power.sum(axis=1, keepdims=True)
    edges = [frequency_hz[np.argmax(cumulative >= level, axis=1)] for level in (0.005, 0.995)]
    return edges[1] - edges[0]


@pytest.fixture(scope="module")
def voice():
    return synthesize(VOICE, 100, 50_000)


@pytest.fixture(scope="module")
def voice_audio(voice):
    return instantaneous_frequency_hz(voice)


def name_of(kind: int) -> str:
    return kinds.KINDS[kind]


@pytest.mark.parametrize("kind", FM, ids=name_of)
def test_fm_has_constant_envelope_and_unit_power(kind):
    magnitude = np.abs(synthesize(kind, 20, 7001))
    assert np.abs(magnitude - 1).max() < 2.0**-22  # two roundings of complex64
    assert np.abs((magnitude**2).mean(axis=1) - 1).max() < 1e-7


def test_noise_has_unit_power_in_expectation():
    """Powers of rows are Gamma(B T) / (B T): its mean is 1, its standard deviation 1 / sqrt(B T)."""
    degrees = 10e3 * 1000 / RATE_HZ  # 200
    power = (np.abs(synthesize(NOISE, 2000, 1000)) ** 2).mean(axis=1)
    assert power.mean() == pytest.approx(1, abs=4 / (2000 * degrees) ** 0.5)
    # The flat edge of the band makes a window hold B T degrees of freedom and a few more.
    assert power.std() == pytest.approx(degrees**-0.5, rel=4 / (2 * 2000) ** 0.5 + 0.05)


@pytest.mark.parametrize("kind", range(6), ids=kinds.KINDS)
def test_each_scene_has_its_own_waveform_whatever_is_made_with_it(kind):
    together = kinds.synthesize(Signal(), np.full(13, kind), streams(13, 3), 4096)
    for rows in ([0], [12], [4, 5], [7, 2, 9], [11, 1, 3, 6, 8]):
        part = kinds.synthesize(Signal(), np.full(len(rows), kind), streams(13, 3).select(np.array(rows)), 4096)
        assert np.array_equal(part, together[rows])
    correlation = np.abs(together @ together.conj().T) / 4096
    assert (correlation - np.diag(np.diag(correlation))).max() < 0.95


def test_kinds_do_not_touch_each_other():
    kind = np.tile(np.arange(6), 3)
    mixed = kinds.synthesize(Signal(), kind, streams(18, 3), 2048)
    for row in range(18):
        alone = kinds.synthesize(Signal(), kind[[row]], streams(18, 3).select(np.array([row])), 2048)
        assert np.array_equal(alone[0], mixed[row])


# Of AFSK, J_3(2500 / 2200)² twice lies outside while the tone is a space, -28.5 dB. The tones of DTMF and the 4-FSK of
# random dibits leave less, and of one tone of at most 700 Hz hardly anything is as far out as Carson's rule puts 1 %.
@pytest.mark.parametrize(
    ("kind", "level_db"), [(VOICE, -40), (TONE, -60), (DUAL_TONE, -45), (NOISE, -80), (FSK4, -38), (AFSK1200, -28.5)]
)
def test_channel_holds_every_waveform(kind, level_db):
    assert 10 * np.log10(power_outside(synthesize(kind, 60, 30_000), 12.5e3 / 2).max()) < level_db


@settings(max_examples=60, deadline=None)
@given(
    kind=st.integers(0, 5),
    num_time=st.integers(16, 700),
    sample_rate_hz=st.floats(25e3, 50e6),
    channel_share=st.floats(0, 1),
    seed=st.integers(0, 2**64 - 1),
)
@example(kind=VOICE, num_time=16, sample_rate_hz=50e6, channel_share=1, seed=0)
@example(kind=NOISE, num_time=16, sample_rate_hz=50e6, channel_share=0, seed=0)
@example(kind=FSK4, num_time=16, sample_rate_hz=25e3, channel_share=0, seed=0)
def test_any_window_and_rate_is_finite_and_has_power(kind, num_time, sample_rate_hz, channel_share, seed):
    channel_hz = 12.5e3 * (sample_rate_hz / 2 / 12.5e3) ** channel_share
    signal = Signal(
        sample_rate_hz=sample_rate_hz, channel_bandwidth_hz=channel_hz, duration_s=min(60, 300 / sample_rate_hz)
    )
    waveform = kinds.synthesize(signal, np.array([kind, kind]), streams(2, seed), num_time)
    assert waveform.shape == (2, num_time)
    assert np.isfinite(waveform).all()
    power = (np.abs(waveform.astype(complex)) ** 2).mean(axis=1)
    if kind == NOISE:
        assert (power > 0).all()
    else:
        assert np.abs(power - 1).max() < 1e-6


def test_rate_of_the_waveform_does_not_change_it():
    """The channel's four-fold rate samples the same signal as eight times it: every second sample of FM by its tone."""
    for kind in (VOICE, FSK4, AFSK1200, NOISE):
        slow = synthesize(kind, 10, 4000)
        fast = synthesize(kind, 10, 8000, sample_rate_hz=100e3, channel_bandwidth_hz=25e3)[:, ::2]
        if kind == NOISE:
            assert np.abs(slow - fast).max() < 1e-5
        else:  # a sum over half the step differs from the integral by half of it: compare the mean frequency of 1 ms
            turns = [np.unwrap(np.angle(w))[:, ::50] for w in (slow, fast)]
            difference_hz = np.diff(turns[0] - turns[1]) / (2 * np.pi * 1e-3)
            assert np.abs(difference_hz).max() < 0.02 * DEVIATION_HZ


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


@pytest.mark.parametrize(
    "ratios",
    [
        (0.9, 0.05, 0.05, 0.0, 0.0, 0.0),
        (0.4, 0.2, 0.1, 0.05, 0.15, 0.1),
        (0.0, 0.5, 0.0, 0.0, 0.0, 0.5),
        (0.0, 0.0, 0.0, 0.0, 1.0, 0.0),
    ],
    ids=str,
)
def test_ratios_of_kinds_are_honoured(ratios):
    names = ("voice_ratio", "tone_ratio", "dual_tone_ratio", "noise_ratio", "fsk4_ratio", "afsk1200_ratio")
    signal = Signal(**dict(zip(names, ratios, strict=True)))
    kind = kinds.kinds(signal, streams(20_000, 8))
    counts = np.bincount(kind, minlength=6)
    assert len(counts) == 6
    expected = 20_000 * np.array(ratios)
    assert (counts[expected == 0] == 0).all()
    drawn = expected > 0
    if drawn.sum() > 1:
        assert stats.chisquare(counts[drawn], expected[drawn]).pvalue > P_VALUE


def root_raised_cosine(symbols: np.ndarray, rolloff: float = 0.2) -> np.ndarray:
    """Impulse response whose gain at 0 Hz is one per symbol, in closed form (Proakis, Digital Communications)."""
    t = np.where(np.abs(symbols) < 1e-9, 1e-9, symbols)
    t = np.where(np.abs(np.abs(4 * rolloff * t) - 1) < 1e-9, t * (1 + 1e-7), t)
    above = np.sin(np.pi * t * (1 - rolloff)) + 4 * rolloff * t * np.cos(np.pi * t * (1 + rolloff))
    return above / (np.pi * t * (1 - (4 * rolloff * t) ** 2))


def received_symbols_hz(waveform: np.ndarray, rate_hz: float) -> tuple[np.ndarray, float]:
    """Frequency of one scene behind the matched filter at the symbol centres, and the timing that opens the eye."""
    frequency_hz = np.angle(waveform[1:] * waveform[:-1].conj()) * rate_hz / (2 * np.pi)  # of samples 1, 2, …
    step = SYMBOL_RATE_HZ / rate_hz
    reach = int(60 / step)
    matched = root_raised_cosine(np.arange(-reach, reach + 1) * step) * step
    filtered_hz = np.convolve(frequency_hz, matched, mode="valid")
    spline = interpolate.CubicSpline(1 + reach + np.arange(len(filtered_hz)), filtered_hz)
    levels_hz = OUTER_HZ / 3 * np.array([-3, -1, 1, 3])
    found = []
    for timing in np.arange(0, 1, 1 / 100):
        count = int((len(filtered_hz) - 2) * step)
        values = spline(1 + reach + (timing + np.arange(count)) / step)
        miss = np.abs(values[:, None] - levels_hz).min(axis=1)
        found.append((np.sqrt((miss**2).mean()), timing, values))
    _, timing, values = min(found, key=lambda item: item[0])
    return values, (timing + (1 + reach) * step) % 1


@pytest.mark.parametrize("rate_hz", [50e3, 61_234.5])
def test_fsk4_symbols_are_those_of_dmr(rate_hz):
    waveform = synthesize(FSK4, 40, 20_000, sample_rate_hz=rate_hz)
    parts = [received_symbols_hz(row, rate_hz) for row in waveform]
    values_hz = np.concatenate([part[0] for part in parts])
    levels_hz = OUTER_HZ / 3 * np.array([-3, -1, 1, 3])
    which = np.abs(values_hz[:, None] - levels_hz).argmin(axis=1)
    # The pulse is cut at 0.2 % rms of the outer deviation, the timing is found to 1 / 200 of a symbol, where the
    # slope of up to 1.5 outer deviations a symbol adds 0.4 % rms: 2 % holds four times both.
    assert np.abs(values_hz - levels_hz[which]).max() < 0.02 * OUTER_HZ
    mean_hz = [values_hz[which == level].mean() for level in range(4)]
    assert mean_hz == pytest.approx(levels_hz, abs=0.002 * OUTER_HZ)
    assert stats.chisquare(np.bincount(which, minlength=4)).pvalue > P_VALUE
    pairs = np.bincount(4 * which[:-1] + which[1:], minlength=16)  # the next symbol does not know this one
    assert stats.chisquare(pairs).pvalue > P_VALUE
    timing = np.array([part[1] for part in parts])
    assert stats.kstest(timing, stats.uniform.cdf).pvalue > P_VALUE


def test_fsk4_has_the_symbol_rate():
    """The excess bandwidth leaves a line of the symbol rate in the squared frequency, and nothing else nearby."""
    num_time = 50_001
    squared = instantaneous_frequency_hz(synthesize(FSK4, 20, num_time)) ** 2
    lines = np.abs(np.fft.rfft(squared * np.hanning(num_time - 1), axis=1))
    frequency_hz = np.fft.rfftfreq(num_time - 1, 1 / RATE_HZ)
    near = (frequency_hz > 4200) & (frequency_hz < 5400)
    assert frequency_hz[near][lines[:, near].argmax(axis=1)] == pytest.approx(np.full(20, SYMBOL_RATE_HZ), abs=1)
    assert (lines[:, near].max(axis=1) / np.median(lines[:, near], axis=1)).min() > 20


def test_fsk4_occupies_what_dmr_is_licensed_for():
    """The emission designator of DMR is 7K60FXE; the symbols of a second give the bandwidth to a percent."""
    waveform = synthesize(FSK4, 40, 50_000)
    bandwidth_hz = occupied_bandwidth_hz(waveform)
    assert bandwidth_hz.mean() == pytest.approx(7600, rel=0.05)
    assert bandwidth_hz.max() < 12.5e3
    # EN 300 113 allows -60 dB in the 8.5 kHz of either adjacent channel that a receiver lets in.
    assert power_outside(waveform, 12.5e3 - 8.5e3 / 2).mean() / 2 < 1e-6


def x25_check(octets: bytes) -> int:
    """CRC-16/X.25 by way of the CRC of CCITT, which takes the bits of an octet the other way round."""
    mirrored = bytes(int(f"{octet:08b}"[::-1], 2) for octet in octets)
    return int(f"{binascii.crc_hqx(mirrored, 0xFFFF):016b}"[::-1], 2) ^ 0xFFFF


def frames_on(line: np.ndarray) -> list[bytes]:
    """Every whole frame between flags of a sequence of levels: undo NRZI, find flags, unstuff, octets."""
    bits = "".join("1" if same else "0" for same in line[1:] == line[:-1])
    frames = []
    for part in bits.split("01111110")[1:-1]:
        content = re.sub("(1{5})0", r"\1", part)
        if content:
            frames.append(bytes(int(content[i : i + 8][::-1], 2) for i in range(0, len(content), 8)))
    return frames


@pytest.fixture(scope="module")
def afsk_audio():
    return instantaneous_frequency_hz(synthesize(AFSK1200, 12, 100_000)) / DEVIATION_HZ  # 2 s


def tone_energy(audio: np.ndarray, tone_hz: float) -> np.ndarray:
    """Energy of a tone in the bit that starts at each sample, (S, N)."""
    time = np.arange(audio.shape[1])
    sums = (audio * np.exp(-2j * np.pi * tone_hz / RATE_HZ * time)).cumsum(axis=1)
    width = round(RATE_HZ / 1200)
    return np.abs(sums[:, width:] - sums[:, :-width]) ** 2


def test_afsk_decodes_to_ax25_frames(afsk_audio):
    assert x25_check(b"123456789") == 0x906E  # the check value of CRC-16/X.25 in the catalogues
    mark = tone_energy(afsk_audio, 1200) > tone_energy(afsk_audio, 2200)
    texts, stations = [], []
    for row in mark:
        decoded = []
        for offset in range(0, 42, 3):
            at = np.round(offset + np.arange(0, len(row) - 42, RATE_HZ / 1200)).astype(int)
            frames = frames_on(row[at[at < len(row)]])
            good = [
                frame
                for frame in frames
                if len(frame) > 18 and x25_check(frame[:-2]).to_bytes(2, "little") == frame[-2:]
            ]
            decoded = max(decoded, good if len(good) == len(frames) else [], key=len)
        assert len(decoded) >= 2  # in 2 s, whatever the lengths: the longest packet lasts 0.71 s
        for frame in decoded:
            assert bytes(octet >> 1 for octet in frame[:6]) == b"APRS  "
            assert bytes(octet >> 1 for octet in frame[7:13]) == b"N0CALL"
            assert [octet & 1 for octet in frame[:14]] == [0] * 13 + [1]  # the address ends with its last octet
            assert frame[14:16] == b"\x03\xf0"
            assert 20 <= len(frame) - 18 <= 63
            assert frame[16:-2].isascii()
            assert frame[16:-2].decode().isprintable()
            texts.append(frame[16:-2])
            stations.append(frame[13] >> 1 & 15)
    assert len(set(texts)) == len(texts)
    assert len(set(stations)) > 6
    characters = np.frombuffer(b"".join(texts), np.uint8)
    assert stats.chisquare(np.bincount(characters - 0x20, minlength=95)).pvalue > P_VALUE


def test_afsk_has_the_tones_of_bell_202(afsk_audio):
    assert np.abs(afsk_audio).max() == pytest.approx(1, abs=0.01)  # a crest of 2200 Hz is missed by 0.5 %
    analytic = dsp.hilbert(afsk_audio, axis=1)
    tone_hz = np.angle(analytic[:, 1:] * analytic[:, :-1].conj()) * RATE_HZ / (2 * np.pi)
    share, edges_hz = np.histogram(tone_hz, bins=np.arange(600, 2900, 20))
    centre_hz = (edges_hz[1:] + edges_hz[:-1]) / 2
    below = centre_hz < 1700
    assert centre_hz[below][share[below].argmax()] == pytest.approx(1200, abs=20)
    assert centre_hz[~below][share[~below].argmax()] == pytest.approx(2200, abs=20)
    # Phase-continuous: no step larger than the highest tone makes in a sample.
    assert np.abs(np.diff(afsk_audio)).max() < 2 * np.pi * 2200 / RATE_HZ * 1.001


def test_afsk_starts_anywhere_in_the_first_packet():
    """Flags are 64 of some 500 bits, so that most windows open inside of a frame, and with any part of a bit gone."""
    levels, elapsed = packets.line_levels(streams(2000, 4), 64)
    assert stats.kstest(elapsed, stats.uniform.cdf).pvalue > P_VALUE
    flags = [line.tobytes() for line in np.diff(levels.astype(np.int8), axis=1) != 0]
    flag_line = (np.array(list("01111110" * 9), dtype=int) == 0).tobytes()
    inside_flags = np.mean([line[:24] in flag_line for line in flags])
    mean_bits = 64 + 8 * (16 + 41.5 + 2) * (1 + 1 / 62)
    assert inside_flags == pytest.approx((64 - 24) / mean_bits, abs=5 * (0.08 / 2000) ** 0.5)
