"""Clocks of recordings against formulas: their classes, rates, random walks and time stamps, and what IQ they give.

Seeds are fixed; statistical thresholds are those that right draws miss for one seed in 10⁴, or 5 standard deviations.
"""

import numpy as np
import pytest
from reception import P_VALUE
from scipy import stats

import heimdall_lab as hl
from heimdall_lab.core.philox import Streams
from heimdall_lab.datasets import schema
from heimdall_lab.simulation import clocks, synthesis

RECORDINGS = 1500
PERIOD_S = 2.0


def config(emissions=1, gap_s=1.5, channel=None, **changes):
    return hl.preset(
        "los_sync",
        **{"signal.duration_s": PERIOD_S - gap_s, **changes},
        channel=channel or {},
        recording={"emissions": emissions, "gap_s": gap_s},
    )


def streams(count: int) -> Streams:
    return Streams(11, np.arange(count, dtype=np.uint64), np.zeros(count, np.uint64))


def draw(settings, recordings=RECORDINGS, carrier_hz=None):
    """Clocks of recordings, (recordings, emissions, R) each."""
    emissions = settings.recording.emissions
    drawn = clocks.draw_clocks(settings, streams(recordings * emissions), carrier_hz or settings.signal.frequency_hz)
    return {name: values.reshape(recordings, emissions, -1) for name, values in drawn.items()}


@pytest.mark.parametrize(
    ("clock", "sigma_s", "distribution"),
    [
        ("gpsdo", 50e-9, stats.norm(scale=50e-9)),
        ("gps_stamped", 200e-9, stats.norm(scale=200e-9)),
        ("ntp", 1e-3, stats.norm(scale=1e-3)),
        ("none", 20e-3 / 12**0.5, stats.uniform(-10e-3, 20e-3)),
    ],
)
def test_clock_errors_have_the_distribution_of_their_class(clock, sigma_s, distribution):
    settings = config(channel={"clock": clock})
    offset = draw(settings, 15_000)["clock_offset"][:, 0]
    assert offset.shape == (15_000, 7)
    assert stats.kstest(offset.ravel(), distribution.cdf).pvalue > P_VALUE
    assert offset.std() == pytest.approx(sigma_s, rel=5 / (2 * offset.size) ** 0.5)
    bound_s = clocks.largest_offset_s(settings)
    assert np.abs(offset).max() <= bound_s
    assert bound_s == pytest.approx(10e-3 if clock == "none" else 6.8 * sigma_s)
    correlation = np.corrcoef(offset.T)
    assert np.abs(correlation - np.eye(7)).max() < 5 / 15_000**0.5


def test_free_running_clocks_without_rates_keep_their_offset_in_a_recording_and_steered_ones_forget_it():
    free = draw(config(5, channel={"clock": "none"}))["clock_offset"]
    assert (free == free[:, :1]).all()
    gpsdo = draw(config(60, channel={"clock": "gpsdo"}))["clock_offset"]
    assert gpsdo.std(axis=(0, 2)) == pytest.approx(np.full(60, 50e-9), rel=5 / (2 * RECORDINGS * 7) ** 0.5)
    for later in (1, 20, 50):
        likeness = (gpsdo[:, 0] * gpsdo[:, later]).mean() / 50e-9**2
        d = later * PERIOD_S / 100
        assert likeness == pytest.approx((1 + d) * np.exp(-d), abs=5 * (2 / (RECORDINGS * 7)) ** 0.5)
    bend = gpsdo[:, 2] - 2 * gpsdo[:, 1] + gpsdo[:, 0]
    variance = (bend**2).mean() / (2 * PERIOD_S**2)
    short = 4 / 3 * 50e-9**2 * 0.01**3 * PERIOD_S  # a random walk of the rate, but for 3 % that the loop takes back
    assert variance / short == pytest.approx(1, rel=0.03 + 5 * (2 / (RECORDINGS * 7)) ** 0.5)
    stamped = draw(config(3, channel={"clock": "gps_stamped"}))["clock_offset"]
    assert abs(np.corrcoef(stamped[:, 0].ravel(), stamped[:, 1].ravel())[0, 1]) < 5 / (RECORDINGS * 7) ** 0.5


@pytest.mark.parametrize("walk_time_s", [2.0, 20.0, 1e4])  # the first as short as a step
@pytest.mark.parametrize("later", [1, 5, 20])
def test_allan_deviation_of_ten_thousand_draws_is_that_of_the_formula(walk_time_s, later):
    """White noise of the rate and its random walk: σ²(τ) = adev² / τ + q τ / 3, equal at τ = clock_walk_time_s."""
    channel = {"clock": "none", "clock_adev": "tcxo", "clock_walk_time_s": walk_time_s}
    offset = draw(config(2 * later + 1, channel=channel))["clock_offset"]
    tau_s = later * PERIOD_S
    variance = np.mean((offset[:, 2 * later] - 2 * offset[:, later] + offset[:, 0]) ** 2) / (2 * tau_s**2)
    count = RECORDINGS * 7
    assert count > 10_000
    expected = 1e-9**2 / tau_s * (1 + (tau_s / walk_time_s) ** 2)
    assert variance / expected == pytest.approx(1, rel=5 * (2 / count) ** 0.5)


def test_offset_grows_by_the_rate_and_the_rate_is_minus_the_carriers_share_of_one_crystal():
    """Offset less that of the first window is the phase that the oscillator has lost since, over 2π of the carrier."""
    channel = {"clock": "none", "one_crystal": True, "frequency_drift_max_hz_per_s": 2.0}
    settings = config(9, channel=channel)
    drawn = draw(settings)
    carrier_hz, offset_hz = settings.signal.frequency_hz, drawn["frequency_offset"]
    assert stats.kstest(offset_hz[:, 0].ravel(), stats.uniform(-50, 100).cdf).pvalue > P_VALUE
    np.testing.assert_allclose(drawn["clock_rate"], -offset_hz / carrier_hz, rtol=1e-12)
    cycles = np.cumsum((offset_hz[:, 1:] + offset_hz[:, :-1]) / 2 * PERIOD_S, axis=1)  # exact for a steady drift
    grown_s = drawn["clock_offset"][:, 1:] - drawn["clock_offset"][:, :1]
    np.testing.assert_allclose(grown_s, -cycles / carrier_hz, rtol=1e-9, atol=1e-15)
    slope = np.diff(offset_hz, axis=1) / PERIOD_S
    np.testing.assert_allclose(slope, drawn["frequency_drift"][:, 1:], rtol=1e-6, atol=1e-9)
    assert np.abs(drawn["clock_rate"]).max() <= settings.clock_rate_max
    assert np.abs(drawn["clock_offset"]).max() <= clocks.largest_offset_s(settings)


@pytest.mark.parametrize("clock", ["gpsdo", "gps_stamped"])
def test_clocks_that_gps_steers_run_at_their_rate_within_windows_alone(clock):
    plain, fast = (draw(config(4, channel={"clock": clock, "clock_rate_max_ppm": ppm})) for ppm in (0.0, 20.0))
    np.testing.assert_array_equal(plain["clock_offset"], fast["clock_offset"])
    assert stats.kstest(fast["clock_rate"][:, 0].ravel(), stats.uniform(-20e-6, 40e-6).cdf).pvalue > P_VALUE


def test_a_rate_in_ppm_makes_the_frequency_offset_of_one_crystal_at_every_carrier():
    settings = config(3, channel={"clock_rate_max_ppm": 2.0, "one_crystal": True})
    carriers_hz = np.tile([[98.5e6], [145e6], [162e6]], (RECORDINGS, 1))
    emissions = streams(3 * RECORDINGS)
    drawn = clocks.draw_clocks(settings, emissions, carriers_hz)
    np.testing.assert_allclose(drawn["frequency_offset"], -drawn["clock_rate"] * carriers_hz, rtol=1e-12)
    apart = clocks.draw_clocks(config(3, channel={"clock_rate_max_ppm": 2.0}), emissions, carriers_hz)
    likeness = np.corrcoef(apart["frequency_offset"][::3].ravel(), apart["clock_rate"][::3].ravel())[0, 1]
    assert abs(likeness) < 5 / (RECORDINGS * 7) ** 0.5  # two crystals


def test_time_stamps_are_rounded_and_jitter_anew_at_every_window():
    plain = draw(config(3, channel={"clock": "ntp"}))["clock_offset"]
    rounded = config(3, channel={"clock": "ntp", "stamp_resolution_s": 1e-3})
    error = draw(rounded)["clock_offset"] - plain
    assert stats.kstest(error.ravel(), stats.uniform(-0.5e-3, 1e-3).cdf).pvalue > P_VALUE
    jittering = config(3, channel={"clock": "ntp", "stamp_resolution_s": 1e-3, "stamp_jitter_s": 4e-4})
    both = draw(jittering)["clock_offset"] - plain
    assert stats.kstest((both - error).ravel(), stats.norm(scale=4e-4).cdf).pvalue > P_VALUE
    assert abs(np.corrcoef(both[:, 0].ravel(), both[:, 1].ravel())[0, 1]) < 5 / (RECORDINGS * 7) ** 0.5
    assert clocks.offset_sigma_s(jittering) == pytest.approx((1e-6 + 1e-6 / 12 + 16e-8) ** 0.5)
    assert np.abs(draw(jittering)["clock_offset"]).max() <= clocks.largest_offset_s(jittering)


def test_the_sample_clock_runs_at_its_rate_in_the_iq():
    """Delays between receivers at the two ends of a window differ by their rates times the time between these."""
    signal = {"transmitter_power_min_dbm": 50.0, "transmitter_power_max_dbm": 52.0, "duration_s": 0.4}
    signal |= {"voice_ratio": 0.0, "noise_ratio": 1.0, "frequency_hz": 30e6}
    signal |= dict.fromkeys(("tone_ratio", "dual_tone_ratio", "fsk4_ratio", "afsk1200_ratio"), 0.0)
    channel = {"one_crystal": True, "clock_rate_max_ppm": 20.0, "frequency_drift_max_hz_per_s": 0.0}
    settings = hl.preset("los_sync", num_samples=4, signal=signal, channel=channel)
    dataset, _ = synthesis.synthesize(settings, np.arange(4))
    rate_hz, num_time = settings.signal.sample_rate_hz, settings.signal.num_time
    arrival_s = dataset.propagation_delay + dataset.clock_offset - dataset.emission_time
    cycles = np.fft.fftfreq(num_time, 1 / rate_hz)
    turns = dataset.frequency_offset.values[..., None] * (np.arange(num_time) - num_time / 2) / rate_hz
    spectra = np.fft.fft(schema.iq(dataset).values * np.exp(-2j * np.pi * turns))
    aligned = np.fft.ifft(spectra * np.exp(2j * np.pi * cycles * arrival_s.values[..., None]))
    length = num_time // 8
    frequency_hz = np.fft.fftfreq(length, 1 / rate_hz)
    inside = np.abs(frequency_hz) < 6e3
    searched_s = np.linspace(-16e-6, 16e-6, 3201)
    ramp = np.exp(2j * np.pi * frequency_hz[inside] * searched_s[:, None])
    delay_s = []
    for rows in (slice(length, 2 * length), slice(-2 * length, -length)):
        ends = np.fft.fft(aligned[..., rows] * np.hanning(length))[..., inside]
        cross = ends * ends[:, :1].conj()
        delay_s.append(searched_s[np.abs(np.einsum("srf,df->srd", cross, ramp)).argmax(axis=-1)])
    measured = (delay_s[1] - delay_s[0]) / ((num_time - 3 * length) / rate_hz)
    rates = dataset.clock_rate.values
    compared = dataset.snr.values > 35
    compared &= compared[:, :1]
    compared[:, 0] = False
    assert compared.sum() >= 6
    expected = (rates - rates[:, :1])[compared]
    assert np.abs(expected).max() > 15e-6
    np.testing.assert_allclose(measured[compared], expected, atol=0.5e-6)
