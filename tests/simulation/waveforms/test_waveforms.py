"""What all waveforms have in common: power, envelope, independence of each other, window, rate, share of the scenes."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats
from waveform_signals import (
    AFSK1200,
    DEVIATION_HZ,
    DUAL_TONE,
    FSK4,
    NOISE,
    P_VALUE,
    RATE_HZ,
    TONE,
    VOICE,
    power_outside,
    streams,
    synthesize,
)

from heimdall_lab.core.transmission import Signal
from heimdall_lab.simulation.waveforms import kinds

FM = [VOICE, TONE, DUAL_TONE, FSK4, AFSK1200]


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
    together = kinds.synthesize_waveforms(Signal(), np.full(13, kind), streams(13, 3), 4096)
    for rows in ([0], [12], [4, 5], [7, 2, 9], [11, 1, 3, 6, 8]):
        part = kinds.synthesize_waveforms(
            Signal(), np.full(len(rows), kind), streams(13, 3).select(np.array(rows)), 4096
        )
        assert np.array_equal(part, together[rows])
    correlation = np.abs(together @ together.conj().T) / 4096
    assert (correlation - np.diag(np.diag(correlation))).max() < 0.95


def test_kinds_do_not_touch_each_other():
    kind = np.tile(np.arange(6), 3)
    mixed = kinds.synthesize_waveforms(Signal(), kind, streams(18, 3), 2048)
    for row in range(18):
        alone = kinds.synthesize_waveforms(Signal(), kind[[row]], streams(18, 3).select(np.array([row])), 2048)
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
    waveform = kinds.synthesize_waveforms(signal, np.array([kind, kind]), streams(2, seed), num_time)
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
    kind = kinds.draw_kinds(signal, streams(20_000, 8))
    counts = np.bincount(kind, minlength=6)
    assert len(counts) == 6
    expected = 20_000 * np.array(ratios)
    assert (counts[expected == 0] == 0).all()
    drawn = expected > 0
    if drawn.sum() > 1:
        assert stats.chisquare(counts[drawn], expected[drawn]).pvalue > P_VALUE
