"""Delay, oscillator, noise and converter, measured with code that shares nothing with the package's estimators.

The test waveforms are sums of complex exponentials, so their value at any instant is known in closed form. Seeds are
fixed; statistical thresholds are those that a correct channel misses for one seed in 10⁴.
"""

import numpy as np
import pytest
from scipy import stats

from heimdall_lab import channel
from heimdall_lab.philox import Streams

P_VALUE = 1e-4
NUM_TIME, GUARD = 10_000, 600
LENGTH = GUARD + NUM_TIME + channel.TAPER + 2  # even
SILENT_DBM = -300.0
# A complex64 FFT pair of N points is wrong by a few times 6e-8 · log2 N of the rms level (Higham, ch. 24).
SINGLE_FFT = 10 * 2.0**-24 * np.log2(LENGTH)


def streams(count: int, seed: int = 4) -> Streams:
    samples = np.arange(count, dtype=np.uint64)
    return Streams(seed, samples, np.zeros_like(samples))


def lines(rng: np.random.Generator, num_scenes: int, cycles: np.ndarray) -> np.ndarray:
    """Amplitudes of band-limited noise of unit power, one for each frequency: (S, K)."""
    amplitude = rng.standard_normal((num_scenes, len(cycles))) + 1j * rng.standard_normal((num_scenes, len(cycles)))
    return amplitude / np.sqrt((np.abs(amplitude) ** 2).sum(axis=1, keepdims=True))


def evaluate(amplitude: np.ndarray, cycles: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Σ_k a_k exp(2πj f_k t) at times in samples: (S, K), (K,), (N,) -> (S, N)."""
    return amplitude @ np.exp(2j * np.pi * np.multiply.outer(cycles, time))


def receive(waveform: np.ndarray, arrival: np.ndarray, **changes) -> np.ndarray:
    """`channel.receive` of one or more scenes, noiseless, at 0 dBm and on frequency unless told otherwise."""
    settings = {
        "frequency_offset_cycles": np.zeros(arrival.shape),
        "received_power_dbm": np.zeros(arrival.shape),
        "noise_power_dbm": SILENT_DBM,
        "streams": streams(len(waveform)),
        "num_time": NUM_TIME,
        "guard": GUARD,
    }
    return channel.receive(waveform.astype(np.complex64), arrival_samples=arrival, **(settings | changes))


def matched_delay(received: np.ndarray, amplitude: np.ndarray, cycles: np.ndarray, near: float) -> float:
    """Maximum likelihood delay of one signal of orthogonal lines: the maximum of |Σ_k a_k* X(f_k) exp(2πj f_k τ)|."""
    spectrum = np.exp(-2j * np.pi * np.multiply.outer(cycles, np.arange(len(received)))) @ received
    centre, width = near, 2.0
    for _ in range(6):
        delays = centre + np.linspace(-width, width, 41)
        level = np.abs((amplitude.conj() * spectrum) @ np.exp(2j * np.pi * np.multiply.outer(cycles, delays)))
        best = int(level.argmax())
        assert 0 < best < 40
        centre, width = delays[best], width / 10
    return float(centre)


@pytest.mark.parametrize("num_time", [512, 4098, LENGTH])
def test_delay_is_exact_on_a_band_limited_signal(num_time):
    rng = np.random.Generator(np.random.Philox(num_time))
    bins = np.arange(-num_time // 3, num_time // 3, max(1, num_time // 300))
    amplitude, cycles = lines(rng, 2, bins / num_time), bins / num_time
    delays = np.array([[0.0, 0.3, 17.503, -4.25, 123.999], [1e-4, -0.5, 0.5, 40.0, 63.1]])
    found = channel.delay(evaluate(amplitude, cycles, np.arange(num_time)).astype(np.complex64), delays)
    assert found.shape == (2, 5, num_time)
    assert found.dtype == np.complex64
    for scene in range(2):
        for receiver, shift in enumerate(delays[scene]):
            expected = evaluate(amplitude[[scene]], cycles, np.arange(num_time) - shift)[0]
            assert np.abs(found[scene, receiver] - expected).max() < SINGLE_FFT * 5  # rms 1; maxima are 5 times rms


def test_delays_add_and_whole_delays_are_rotations():
    rng = np.random.Generator(np.random.Philox(6))
    noise = (rng.standard_normal((3, 4000)) + 1j * rng.standard_normal((3, 4000))).astype(np.complex64)
    assert np.abs(channel.delay(noise, np.zeros((3, 1)))[:, 0] - noise).max() < 10 * SINGLE_FFT
    whole = channel.delay(noise, np.array([[5.0], [-7.0], [1999.0]]))[:, 0]
    for row, steps in enumerate((5, -7, 1999)):
        assert np.abs(whole[row] - np.roll(noise[row], steps)).max() < 10 * SINGLE_FFT
    first, second = np.array([[1.3], [20.77], [-3.1]]), np.array([[2.45], [-8.8], [0.05]])
    twice = channel.delay(channel.delay(noise, first)[:, 0], second)
    assert np.abs(twice - channel.delay(noise, first + second)).max() < 20 * SINGLE_FFT
    both = channel.delay(noise[:1] + noise[1:2], first[:1])
    alone = channel.delay(noise[:1], first[:1]) + channel.delay(noise[1:2], first[:1])
    assert np.abs(both - alone).max() < 20 * SINGLE_FFT


def test_received_signal_is_the_analytic_shifted_signal():
    """y(t) = s(t - arrival) exp(2πj ν t) times a constant: delay, oscillator, window and sign, all at once."""
    rng = np.random.Generator(np.random.Philox(9))
    cycles = np.sort(rng.uniform(-0.2, 0.2, 60))  # not periodic in any window
    amplitude = lines(rng, 2, cycles)
    arrival = np.array([[0.0, 3.25, 250.625], [0.5, 17.123, GUARD - channel.TAPER]])
    offset = np.array([[0.0, 1e-3, -1e-3], [2e-5, -4.4e-4, 3e-3]])
    waveform = evaluate(amplitude, cycles, np.arange(LENGTH) - GUARD)
    found = receive(waveform, arrival, frequency_offset_cycles=offset)
    time = np.arange(NUM_TIME)
    for scene, receiver in np.ndindex(2, 3):
        expected = evaluate(amplitude[[scene]], cycles, time - arrival[scene, receiver])[0]
        expected = expected * np.exp(2j * np.pi * offset[scene, receiver] * time)
        gain = np.vdot(expected, found[scene, receiver]) / np.vdot(expected, expected)
        assert abs(gain) == pytest.approx(1, abs=1e-4)
        # The taper is smooth but not band-limited: its spectrum falls as 1 / f³, so the interpolation error at the
        # least distance, TAPER / 2 samples from the middle of the fade, is below (1 / (π 64 / 2))³ = 1e-6.
        error = np.abs(found[scene, receiver] - gain * expected)
        assert error.max() < 5 * SINGLE_FFT + 1e-5


def test_fractional_delay_is_right_to_a_thousandth_of_a_sample_at_40_db():
    """The bound at 40 dB and 20 of 50 kHz is 1.5e-4 samples, so that 1e-3 is six standard deviations."""
    rng = np.random.Generator(np.random.Philox(12))
    cycles = np.arange(-2000, 2000, 10) / NUM_TIME  # ±10 kHz of 50 kHz, orthogonal over the window
    amplitude = lines(rng, 4, cycles)
    arrival = rng.uniform(0, GUARD - channel.TAPER, (4, 3))
    waveform = evaluate(amplitude, cycles, np.arange(LENGTH) - GUARD)
    noise_dbm = -100 - 40 + 10 * np.log10(1 / 0.4)  # 40 dB in 20 of 50 kHz
    found = receive(waveform, arrival, received_power_dbm=np.full((4, 3), -100.0), noise_power_dbm=noise_dbm)
    error = np.array(
        [
            matched_delay(found[scene, receiver], amplitude[scene], cycles, arrival[scene, receiver])
            - arrival[scene, receiver]
            for scene, receiver in np.ndindex(4, 3)
        ]
    )
    assert np.abs(error).max() < 1e-3
    # Kay, eq. (3.40), with the rms frequency of each scene's own lines.
    power = np.abs(amplitude) ** 2
    rms = np.sqrt((power * cycles**2).sum(axis=1) - (power * cycles).sum(axis=1) ** 2)
    sigma = 1 / np.sqrt(8 * np.pi**2 * rms**2 * 1e4 * 0.4 * NUM_TIME)
    chi_squared = ((error.reshape(4, 3) / sigma[:, None]) ** 2).sum()
    assert stats.chi2(12).ppf(P_VALUE) < chi_squared < stats.chi2(12).ppf(1 - P_VALUE)


def test_frequency_offset_turns_the_phase_evenly():
    cycles = np.array([[0.0, 1e-3, -1e-3, 0.02, 7.3e-6]])
    found = receive(np.ones((1, LENGTH)), np.zeros((1, 5)), frequency_offset_cycles=cycles)[0].astype(complex)
    turned = found * np.exp(-2j * np.pi * cycles[0][:, None] * np.arange(NUM_TIME))
    drift = np.angle(turned * turned[:, NUM_TIME // 2, None].conj())
    assert np.abs(drift).max() < 1e-5  # roundings of complex64 and of the FFT, at any distance from the start


def test_no_receiver_sees_the_taper():
    """A carrier keeps its level from the first to the last sample at either extreme of the arrival."""
    found = receive(np.ones((1, LENGTH)), np.array([[0.0, (GUARD - channel.TAPER) / 2, GUARD - channel.TAPER]]))
    assert np.abs(np.abs(found) - 1).max() < 1e-5
    faded = channel.taper(np.ones((1, LENGTH), dtype=np.complex64))[0]
    assert np.array_equal(faded[channel.TAPER : -channel.TAPER], np.ones(LENGTH - 2 * channel.TAPER))
    assert np.abs(faded[[0, -1]]).max() < 1e-3
    assert (np.diff(np.abs(faded[: channel.TAPER])) > 0).all()
    assert np.array_equal(faded, faded[::-1])


def test_power_is_in_milliwatts():
    level_dbm = np.array([[-140.0, -100.0, -60.0, 0.0, 20.0, -np.inf]])
    carrier = receive(np.ones((1, LENGTH)), np.zeros((1, 6)), received_power_dbm=level_dbm)
    power = (np.abs(carrier[0].astype(complex)) ** 2).mean(axis=-1)
    assert 10 * np.log10(power[:5]) == pytest.approx(level_dbm[0, :5], abs=1e-4)
    assert power[5] < 1e-29  # silence: nothing but noise of -300 dBm
    absent = np.full((2, 3), -np.inf)
    noise = receive(np.ones((2, LENGTH)), np.zeros((2, 3)), received_power_dbm=absent, noise_power_dbm=-115.0)
    # The mean of N exponential powers has the relative standard deviation 1 / sqrt(N): 5 of them are 0.22 dB.
    relative = (np.abs(noise.astype(complex)) ** 2).mean(axis=-1) / 10**-11.5
    assert relative == pytest.approx(np.ones((2, 3)), abs=5 / NUM_TIME**0.5)
    # In both, powers add: the cross term of carrier and noise has the standard deviation sqrt(2 / N) at 0 dB.
    level_dbm = np.full((2, 3), -115.0)
    both = receive(np.ones((2, LENGTH)), np.zeros((2, 3)), received_power_dbm=level_dbm, noise_power_dbm=-115.0)
    relative = (np.abs(both.astype(complex)) ** 2).mean(axis=-1) / 10**-11.5
    assert relative == pytest.approx(np.full((2, 3), 2.0), abs=5 * (3 / NUM_TIME) ** 0.5)


def test_carrier_phases_are_uniform_and_different():
    phase = np.angle(receive(np.ones((60, LENGTH)), np.zeros((60, 5)), num_time=4)[..., 0])
    assert stats.kstest(phase.ravel() / (2 * np.pi) + 0.5, stats.uniform.cdf).pvalue > P_VALUE
    assert len(np.unique(phase)) == 300


def test_noise_is_white_gaussian_and_independent_between_receivers():
    settings = {"received_power_dbm": np.full((3, 4), -np.inf), "noise_power_dbm": 0.0}
    noise = receive(np.ones((3, LENGTH)), np.zeros((3, 4)), **settings).astype(complex)
    for component in (noise.real, noise.imag):
        assert stats.kstest(component.ravel(), stats.norm(scale=0.5**0.5).cdf).pvalue > P_VALUE
    rows = noise.reshape(12, NUM_TIME)
    # Whiteness: periodogram ordinates of white noise are independent and exponential, at every frequency.
    periodogram = np.abs(np.fft.fft(rows, axis=1)) ** 2 / NUM_TIME
    assert stats.kstest(periodogram.ravel(), stats.expon.cdf).pvalue > P_VALUE
    bands = periodogram.reshape(12, 50, 200).mean(axis=(0, 2))  # 2400 ordinates each
    chi_squared = (2400 * (bands - 1) ** 2).sum()
    assert stats.chi2(50).ppf(P_VALUE) < chi_squared < stats.chi2(50).ppf(1 - P_VALUE)
    # Box and Pierce: 2 N |ρ_k|² of complex white noise is χ² with 2 degrees of freedom for each lag and row.
    lags = range(1, 41)
    ljung = sum((2 * NUM_TIME * np.abs((rows[:, k:] * rows[:, :-k].conj()).mean(axis=1)) ** 2).sum() for k in lags)
    assert stats.chi2(2 * 40 * 12).ppf(P_VALUE) < ljung < stats.chi2(2 * 40 * 12).ppf(1 - P_VALUE)
    correlation = np.abs(rows @ rows.conj().T) / NUM_TIME
    assert (correlation - np.diag(np.diag(correlation))).max() < 5 / NUM_TIME**0.5
    assert np.abs((rows**2).mean(axis=1)).max() < 5 * (2 / NUM_TIME) ** 0.5  # I and Q are alike and independent


def test_conversion_rounds_to_the_nearest_step_and_decodes():
    rng = np.random.Generator(np.random.Philox(3))
    level = np.array([1e-7, 1e-3, 20.0])[:, None]
    voltage = level * (rng.standard_normal((2, 3, 20_000)) + 1j * rng.standard_normal((2, 3, 20_000)))
    voltage = voltage.astype(np.complex64)
    iq, full_scale = channel.convert(voltage, 12.0)
    assert iq.dtype == np.int16
    assert iq.shape == (2, 3, 2, 20_000)
    rms = np.sqrt((np.abs(voltage.astype(complex)) ** 2).mean(axis=-1))
    assert full_scale == pytest.approx(rms * 10 ** (12 / 20), rel=1e-6)
    decoded = (iq[..., 0, :] + 1j * iq[..., 1, :]) * (full_scale / 32767)[..., None]
    error = (decoded - voltage) * (32767 / full_scale)[..., None]
    unclipped = (np.abs(iq) < 32767).all(axis=-2)
    assert unclipped.mean() > 0.999
    error = np.concatenate([error.real[unclipped], error.imag[unclipped]])
    # Numbers up to 2¹⁵ in float32 are multiples of 2⁻⁹, wrong by up to 2 · 2⁻¹⁰ after scale and product.
    assert np.abs(error).max() < 0.5 + 2.0**-8
    assert stats.kstest(error.clip(-0.5, 0.5), stats.uniform(-0.5, 1).cdf).pvalue > P_VALUE
    assert error.var() == pytest.approx(1 / 12, rel=0.02)


@pytest.mark.parametrize("headroom_db", [0.0, 9.0])
def test_clipping_is_that_of_a_gaussian(headroom_db):
    rng = np.random.Generator(np.random.Philox(5))
    voltage = (rng.standard_normal((4, 5, 50_000)) + 1j * rng.standard_normal((4, 5, 50_000))).astype(np.complex64)
    iq, full_scale = channel.convert(voltage, headroom_db)
    assert iq.min() == -32767  # never -32768, which has no positive counterpart
    assert iq.max() == 32767
    clipped = int((np.abs(iq.astype(int)) == 32767).sum())
    # Full scale over the standard deviation of one component; values that round to full scale count as well.
    limit = 10 ** (headroom_db / 20) * 2**0.5 * (1 - 0.5 / 32767)
    assert stats.binomtest(clipped, iq.size, 2 * stats.norm.sf(limit)).pvalue > P_VALUE
    beyond = np.stack([voltage.real, voltage.imag], axis=-2) > full_scale[..., None, None]
    assert (iq[beyond] == 32767).all()


def test_default_headroom_clips_nothing_that_matters():
    """12 dB over the rms level is 5.6 standard deviations of one component: 2e-8 of the samples."""
    rng = np.random.Generator(np.random.Philox(6))
    voltage = (rng.standard_normal((1, 5, 200_000)) + 1j * rng.standard_normal((1, 5, 200_000))).astype(np.complex64)
    iq, _ = channel.convert(voltage, 12.0)
    assert (np.abs(iq.astype(int)) == 32767).mean() < 1e-5


@pytest.mark.parametrize(
    ("clock", "sigma_s", "distribution"),
    [
        ("gpsdo", 50e-9, stats.norm(scale=50e-9)),
        ("ntp", 1e-3, stats.norm(scale=1e-3)),
        ("none", 20e-3 / 12**0.5, stats.uniform(-10e-3, 20e-3)),
    ],
)
def test_clock_errors_have_the_distribution_of_their_class(clock, sigma_s, distribution):
    offset = channel.clock_offset(clock, sigma_s, streams(3000), 7)
    assert offset.shape == (3000, 7)
    assert stats.kstest(offset.ravel(), distribution.cdf).pvalue > P_VALUE
    assert offset.std() == pytest.approx(sigma_s, rel=5 / (2 * offset.size) ** 0.5)
    bound_s = channel.clock_bound_s(clock, sigma_s)
    assert np.abs(offset).max() <= bound_s
    assert bound_s == pytest.approx(10e-3 if clock == "none" else 6.8 * sigma_s)
    correlation = np.corrcoef(offset.T)
    assert np.abs(correlation - np.eye(7)).max() < 5 / 3000**0.5
