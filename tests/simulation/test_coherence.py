"""The IQ really contains the delays that the truth claims.

The time differences are measured here with nothing of the package: the true oscillator errors are taken out, one signal
is tapered, and its correlation with the other is evaluated on an ever finer grid of lags.
"""

import numpy as np
import pyproj
import pytest

import heimdall_lab as hl

SPEED_OF_LIGHT = 299_792_458.0
EDGE = 64  # samples of the first signal faded at either end, so that the other one always covers it
HALF_CHANNEL_HZ = 6250.0


@pytest.fixture(scope="module")
def los_sync():
    return hl.generate(hl.preset("los_sync", num_samples=60, seed=2024), backend="numpy", progress=False)


@pytest.fixture(scope="module")
def unsynchronised():
    """Voice at receivers whose clocks are up to 10 ms wrong."""
    signal = {"voice_ratio": 1.0, "tone_ratio": 0.0, "dual_tone_ratio": 0.0}
    config = hl.preset("websdr", num_samples=8, seed=2025, signal=signal)
    return hl.generate(config, backend="numpy", progress=False)


def on_frequency(dataset) -> np.ndarray:
    """Voltages (S, R, N) in √mW with the true oscillator errors taken out."""
    iq = dataset.iq.values.astype(float)
    voltage = (iq[:, :, 0] + 1j * iq[:, :, 1]) * (dataset.iq_full_scale.values / 32767)[..., None]
    time_s = np.arange(voltage.shape[-1]) / dataset.attrs["sample_rate_hz"]
    return voltage * np.exp(-2j * np.pi * dataset.frequency_offset.values[..., None] * time_s)


def lag_of_peak(first: np.ndarray, second: np.ndarray, widest: int, rate_hz: float) -> np.ndarray:
    """How many samples later rows of the second array show the signal, (P, N) each, at most ``widest``.

    Only the channel is used. The first one is tapered and the second one shifted by the nearest whole lag before the
    refinement, for a shrinking overlap would pull the peak towards 0.
    """
    pairs, num_time = first.shape
    length = 1 << int(np.ceil(np.log2(2 * num_time)))
    frequency = np.fft.fftfreq(length)
    band = np.flatnonzero(np.abs(frequency) * rate_hz <= HALF_CHANNEL_HZ)
    cycles = frequency[band]

    def spectrum(signal: np.ndarray) -> np.ndarray:
        return np.fft.fft(signal, length, axis=1)[:, band]

    cross = np.zeros((pairs, length), dtype=complex)
    cross[:, band] = spectrum(second) * spectrum(first).conj()
    correlation = np.abs(np.fft.ifft(cross, axis=1))
    lags = np.arange(-widest, widest + 1)
    whole = lags[correlation[:, lags].argmax(axis=1)]

    fade = np.sin(np.pi / 2 * np.minimum(1, (np.arange(num_time - 2 * widest) + 0.5) / EDGE)) ** 2
    fade = fade * fade[::-1]
    inner = slice(widest, num_time - widest)
    aligned = np.stack([np.roll(row, -lag) for row, lag in zip(second, whole, strict=True)])
    start = np.zeros((pairs, num_time), dtype=complex)
    start[:, inner] = first[:, inner] * fade
    cross = spectrum(aligned) * spectrum(start).conj()
    lag, width = np.zeros(pairs), 1.0
    for _ in range(4):
        offsets = np.linspace(-width, width, 21)
        turned = cross * np.exp(2j * np.pi * cycles * lag[:, None])
        level = np.abs(turned @ np.exp(2j * np.pi * np.multiply.outer(cycles, offsets)))
        lag, width = lag + offsets[level.argmax(axis=1)], width / 8
    return whole + lag


def differences(dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Measured minus true time differences of all pairs above 10 dB, their predicted sigma, and the pairs' scenes."""
    rate_hz = dataset.attrs["sample_rate_hz"]
    voltage = on_frequency(dataset)
    # Contract: the first path arrives at local time propagation + excess + clock error, minus a scene's common offset.
    arrival_s = (dataset.propagation_delay + dataset.excess_delay + dataset.clock_offset).values
    snr = 10 ** (dataset.snr.values / 10)
    duration_s = (voltage.shape[-1] - EDGE) / rate_hz
    energy = 2 * snr * (dataset.occupied_bandwidth.values * duration_s)[:, None]
    sigma_s = 1 / (2 * np.pi * dataset.rms_bandwidth.values[:, None] * np.sqrt(energy))  # Kay, eq. (3.40)
    widest = int(np.ceil((0.6e-3 + 2 * dataset.attrs["max_clock_offset_s"]) * rate_hz))  # 180 km
    errors, sigmas, scenes = [], [], []
    for scene in range(len(voltage)):
        strong = np.flatnonzero(dataset.snr.values[scene] > 10)
        first, second = strong[np.stack(np.triu_indices(len(strong), 1))]
        if len(first) == 0:
            continue
        measured = lag_of_peak(voltage[scene, first], voltage[scene, second], widest, rate_hz)
        truth = arrival_s[scene, second] - arrival_s[scene, first]
        errors.append(measured / rate_hz - truth)
        product = sigma_s[scene, first] ** 2 / snr[scene, second]  # noise times noise: Stein (1981), eq. (3)
        sigmas.append(np.sqrt(sigma_s[scene, first] ** 2 + sigma_s[scene, second] ** 2 + product))
        scenes.append(np.full(len(first), scene))
    return np.concatenate(errors), np.concatenate(sigmas), np.concatenate(scenes)


@pytest.mark.slow
def test_correlation_peaks_at_the_true_time_differences(los_sync):
    error_s, sigma_s, scene = differences(los_sync)
    assert len(error_s) > 900
    normalised = error_s / sigma_s
    assert (np.abs(normalised) < 4).mean() >= 0.99
    # As well as the bound says, neither worse nor better: 60 scenes of about 6 independent differences each give the
    # rms value a standard error of 1 / sqrt(2 · 360) = 4 %. Noise of the channel outside the occupied band, up to
    # 2.5 times as wide, enters only with the product of the two noises: less than 15 % at 10 dB.
    assert 1 - 5 * 0.04 < np.sqrt((normalised**2).mean()) < 1.15 + 5 * 0.04
    assert abs(normalised.mean()) < 5 / 60**0.5
    assert len(np.unique(scene)) > 50


def test_clock_errors_are_in_the_delays(unsynchronised):
    """The clock errors are 10⁴ times the precision of the delays, so that none of them can hide."""
    error_s, sigma_s, _ = differences(unsynchronised)
    clock_s = unsynchronised.clock_offset.values
    assert np.abs(clock_s).max() > 5e-3
    assert (np.abs(error_s) < 4 * sigma_s).mean() >= 0.99
    assert np.median(sigma_s) < 1e-4 * np.ptp(clock_s)


def test_oscillator_errors_are_in_the_signals(los_sync):
    """With the true errors taken out, what is left of the frequency differences is within the bound's reach."""
    voltage = on_frequency(los_sync)
    rate_hz, num_time = los_sync.attrs["sample_rate_hz"], los_sync.sizes["time"]
    arrival = ((los_sync.propagation_delay + los_sync.clock_offset).values) * rate_hz
    snr = 10 ** (los_sync.snr.values / 10)
    normalised = []
    for scene in range(0, 60, 4):
        strong = np.argsort(snr[scene])[-3:]
        cycles = np.fft.fftfreq(num_time)
        keep = np.abs(cycles) * rate_hz <= HALF_CHANNEL_HZ
        spectrum = np.fft.fft(voltage[scene, strong], axis=1) * keep
        turn = np.exp(2j * np.pi * cycles * (arrival[scene, strong] - arrival[scene, strong[0]])[:, None])
        aligned = np.fft.ifft(spectrum * turn, axis=1)[:, EDGE:-EDGE]
        duration_s = aligned.shape[1] / rate_hz
        for other in (1, 2):
            beat = aligned[other] * aligned[0].conj()
            halves = beat.reshape(2, -1).sum(axis=1)
            # Two half-window phases: 0.75 times the information of all of them.
            found_hz = np.angle(halves[1] * halves[0].conj()) / (np.pi * duration_s)
            energy = [
                snr[scene, strong[i]] * float(los_sync.occupied_bandwidth[scene]) * duration_s for i in (0, other)
            ]
            sigma_hz = np.sqrt(sum(1 / e for e in energy)) * np.sqrt(2 / np.pi**2) / duration_s
            normalised.append(found_hz / sigma_hz)
    assert np.abs(normalised).max() < 5
    assert np.ptp(los_sync.frequency_offset.values) > 90  # against errors that are there


def test_power_is_that_of_signal_and_noise(los_sync):
    iq = los_sync.iq.values.astype(float)
    power = ((iq**2).sum(axis=2) * (los_sync.iq_full_scale.values / 32767)[..., None] ** 2).mean(axis=-1)
    expected = 10 ** (los_sync.received_power.values / 10) + 10 ** (los_sync.noise_power.values / 10)
    assert np.abs(10 * np.log10(power / expected)).max() < 0.3
    # SNR is the same two powers, the noise in the occupied band only.
    share_db = 10 * np.log10(los_sync.occupied_bandwidth.values / los_sync.attrs["sample_rate_hz"])[:, None]
    snr_db = los_sync.received_power.values - los_sync.noise_power.values - share_db
    assert los_sync.snr.values == pytest.approx(snr_db)


def test_converter_clips_almost_nothing(los_sync):
    iq = los_sync.iq.values.astype(np.int32)
    assert (np.abs(iq) >= 32767).mean() < 1e-4
    # The rms level that the powers add up to is the headroom below full scale, whatever the receiver's level.
    power_mw = 10 ** (los_sync.received_power.values / 10) + 10 ** (los_sync.noise_power.values / 10)
    headroom_db = 20 * np.log10(los_sync.iq_full_scale.values) - 10 * np.log10(power_mw)
    assert headroom_db == pytest.approx(np.full(headroom_db.shape, 12.0), abs=1e-9)


def test_propagation_delay_is_the_straight_line(los_sync):
    to_ecef = pyproj.Transformer.from_crs("EPSG:4979", "EPSG:4978")
    receivers, transmitter = (
        np.stack(to_ecef.transform(*(los_sync[f"{who}_{n}"].values for n in ("latitude", "longitude", "altitude"))), -1)
        for who in ("receiver", "transmitter")
    )
    expected_s = np.linalg.norm(receivers - transmitter[:, None], axis=-1) / SPEED_OF_LIGHT
    assert np.abs(los_sync.propagation_delay.values - expected_s).max() < 1e-9
    assert (los_sync.excess_delay == 0).all()
    assert los_sync.line_of_sight.all()


@pytest.mark.parametrize("name", ["los_sync", "unsynchronised"])
def test_emission_time_makes_the_earliest_arrival_zero(name, request):
    dataset = request.getfixturevalue(name)
    arrival_s = dataset.propagation_delay + dataset.excess_delay + dataset.clock_offset - dataset.emission_time
    assert np.array_equal(arrival_s.min("receiver").values, np.zeros(dataset.sizes["sample"]))
