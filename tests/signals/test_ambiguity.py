"""Delays of signals that repeat themselves: flagged, and not used."""

import numpy as np
import pytest
import xarray as xr

import heimdall_lab as hl
from heimdall_lab.localization import estimators
from heimdall_lab.signals import pairs
from heimdall_lab.signals.ambiguity import peak_and_rival
from heimdall_lab.signals.correlation import ambiguity_peak

RATE_HZ = 20e3
NUM_TIME = 4000
TIME_S = np.arange(-400, NUM_TIME + 400) / RATE_HZ
PERIOD = 40  # samples of a tone of 500 Hz


def noise_like(rng: np.random.Generator) -> np.ndarray:
    return np.convolve(rng.standard_normal(len(TIME_S)), np.ones(8) / 8, "same").astype(complex)


def bursts(rng: np.random.Generator) -> np.ndarray:
    """One burst of 2 ms again and again, every 5 ms."""
    return np.resize(np.concatenate([noise_like(rng)[:40], np.zeros(60)]), len(TIME_S))


KINDS = {
    "fm tone": lambda _: np.exp(2j * np.sin(2 * np.pi * 500 * TIME_S)),
    "am tone": lambda _: (1 + 0.8 * np.sin(2 * np.pi * 500 * TIME_S)).astype(complex),
    "bursts": bursts,
    "noise": noise_like,
}


def peak_of(waveform: np.ndarray, delay: int, reach: float, snr_db: float = 20.0):
    rng = np.random.default_rng(8)
    pair = np.stack([waveform[400 : 400 + NUM_TIME], waveform[400 - delay : 400 - delay + NUM_TIME]])
    power = (np.abs(pair) ** 2).mean() * 10 ** (-snr_db / 10)
    noise = (rng.standard_normal((2, *pair.shape)) * np.sqrt(power / 2)).astype(np.float32)
    iq = (pair + noise[0] + 1j * noise[1]).astype(np.complex64)[None]
    return ambiguity_peak(
        iq,
        np.zeros(1, dtype=int),
        np.where(np.abs(np.linspace(-0.5, 0.5, 200)) < 0.1, 1.0, 0.0)[None],
        max_delay_samples=np.full((1, 2), reach),
        max_frequency_cycles=1e-4,
    )


@pytest.mark.parametrize("kind", ["fm tone", "am tone", "bursts"])
def test_a_signal_that_repeats_itself_has_a_rival(kind):
    peak = peak_of(KINDS[kind](np.random.default_rng(1)), delay=30, reach=300.0)
    apart = peak.rival_samples[0, 1] - peak.delay_samples[0, 1]
    period = 100 if kind == "bursts" else PERIOD
    assert np.abs(apart) > period / 2
    assert apart / period == pytest.approx(np.rint(apart / period), abs=0.05)
    assert np.isnan(peak.rival_samples[0, 0])  # of the reference there is no delay to mistake


@pytest.mark.parametrize(("kind", "reach"), [("noise", 300.0), ("fm tone", 15.0)])
def test_one_that_does_not_repeat_within_the_delays_allowed_has_none(kind, reach):
    peak = peak_of(KINDS[kind](np.random.default_rng(2)), delay=10, reach=reach)
    assert peak.delay_samples[0, 1] == pytest.approx(10, abs=0.5)
    assert np.isnan(peak.rival_samples[0, 1])


def test_what_noise_could_exchange_is_a_rival():
    """Of 1,000 samples, likelihoods are e^14 apart where 1 − ρ² differs by 1.4 %."""
    coherence = np.array([[[0.5, 0.4955, 0.3]], [[0.5, 0.45, 0.3]], [[0.4955, 0.5, 0.3]], [[0.45, 0.5, 0.3]]])
    chosen, rival = peak_and_rival(coherence, np.full(coherence.shape, True), np.full(coherence.shape, 1000.0))
    assert chosen.tolist() == [[0], [0], [0], [1]]
    assert rival.tolist() == [[1], [-1], [1], [-1]]


def websdr(**ratios: float) -> xr.Dataset:
    kinds = dict.fromkeys(("voice_ratio", "tone_ratio", "dual_tone_ratio"), 0.0)
    return hl.generate(hl.preset("websdr", num_samples=12, seed=7, signal=kinds | ratios), progress=False)


@pytest.fixture(scope="module")
def tones() -> xr.Dataset:
    return websdr(tone_ratio=1.0)


def test_tones_are_flagged_where_clocks_are_unknown_and_voice_is_not(tones):
    for scenes, least, most in ((tones, 0.95, 1.0), (websdr(voice_ratio=1.0), 0.0, 0.01)):
        measured = pairs.pair_features(scenes)
        other = measured.heard.values & (
            np.arange(measured.sizes["receiver"]) != measured.reference_receiver.values[:, None]
        )
        flagged = np.isfinite(measured.rival_delay_s.values[other])
        assert least <= flagged.mean() <= most
        np.testing.assert_array_equal(np.isnan(measured.toa_std_s.values[other]), flagged)


def test_a_fix_is_refused_where_all_delays_are_ambiguous_and_levels_still_serve(tones):
    fixes = estimators.locate(tones, "tdoa_ls")
    assert (fixes.status == "repeating").mean() > 0.8
    assert estimators.locate(tones, "rss_ml").converged.mean() > 0.8
