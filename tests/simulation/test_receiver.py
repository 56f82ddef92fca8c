"""The compiled receiver against its definition in double precision, sample by sample.

The test waveforms are sums of complex exponentials within a quarter of the sample rate, as every waveform's in its
channel is, so that their value at any instant is known in closed form. Seeds are fixed; statistical thresholds are
those that a correct receiver misses for one seed in 10⁴, or 5 standard deviations.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reception import (
    EDGE,
    HEADROOM_DB,
    P_VALUE,
    ROUNDING,
    difference,
    evaluate,
    guard_of,
    in_codes,
    lines,
    links,
    planar,
    random_links,
    receive,
    streams,
)
from scipy import stats

from heimdall_lab.core.philox import Streams
from heimdall_lab.simulation import receiver
from heimdall_lab.simulation.propagation import fading


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


@pytest.mark.parametrize("block", [2, 6, 64, 254, 256])
@pytest.mark.parametrize("num_time", [1, 7, 256, 1001, 4096])
def test_received_samples_are_those_of_the_definition(num_time, block):
    """Paths, gains, carrier: off by the rounding of the converter and no more than −90 dB of the level besides."""
    rng = np.random.Generator(np.random.Philox([num_time, block]))
    cycles = rng.uniform(-EDGE, EDGE, 50)
    link = random_links(rng, num_time, block, num_paths=3)
    error = difference(lines(rng, 2, cycles), cycles, link, num_time)
    # The largest of a component is 6 times its rms level of 32767 / 10^(16 / 20) / √2 = 3700: −90 dB of it is 0.7.
    assert np.abs(error).max() < 0.5 + 0.7
    if len(error) > 1000:
        besides = 3700 * 10 ** (-90 / 20)
        assert np.sqrt((error**2).mean()) < np.hypot(ROUNDING * (1 + 5 / len(error) ** 0.5), besides)
        assert abs(error.mean()) < 5 * ROUNDING / len(error) ** 0.5


@pytest.mark.parametrize("phase", [0.0, 0.25, 0.5, -0.3])
def test_one_steady_carrier_has_its_phase_in_the_middle(phase):
    """At 0 Hz every delay gives the same, and the sample at the middle of the window has the oscillator's phase."""
    link = links(np.array([[[17.3]]]), 1000, phase=np.array([[phase]]), frequency=np.array([[0.13]]))
    code = receive(np.ones((1, 1)), np.zeros(1), link, 1000)[0, 0]
    level = 32767 / 10 ** (HEADROOM_DB / 20)
    assert code[500] == pytest.approx(level * np.exp(2j * np.pi * phase), abs=0.75)
    assert code[501] == pytest.approx(level * np.exp(2j * np.pi * (phase + 0.13)), abs=0.75)


def test_delays_of_any_fraction_are_exact():
    """A path at 60 delays, whole, at rows of the table and between them, in one scene."""
    rng = np.random.Generator(np.random.Philox(6))
    cycles = rng.uniform(-EDGE, EDGE, 60)
    fractions = np.concatenate([[0, 1 / 1024, 0.5, 1 - 1e-9, 1023.5 / 1024, 1e-12], rng.uniform(0, 1, 54)])
    link = links((np.floor(rng.uniform(0, 500, 60)) + fractions)[None, :, None], 700, 32)
    error = difference(lines(rng, 1, cycles), cycles, link, 700).reshape(2, 60, 700)
    assert np.sqrt((error**2).mean(axis=(0, 2))).max() < ROUNDING * 1.1
    assert np.abs(error).max() < 1.0


@pytest.mark.parametrize("rate", [1e-7, -1e-7, 1e-6, -1e-6])
@pytest.mark.parametrize("block", [2, 256])
def test_motion_stretches_the_signal(rate, block):
    """The delay is that of the middle of each block: the rest of it is a phase of at most π f · rate · block.

    At either end of the window the delay is 0.0015 or 0.015 samples from that in its middle.
    """
    rng = np.random.Generator(np.random.Philox(8))
    cycles, num_time = rng.uniform(-EDGE, EDGE, 50), 30_001
    doppler = -rate * 145e6 / 50e3  # cycles per sample at 50 kHz, of a carrier at 145 MHz
    link = links(
        rng.uniform(0, 100, (1, 2, 1)),
        num_time,
        block,
        arrival_rate=np.full((1, 2), rate),
        frequency=np.full((1, 2), doppler),
    )
    error = difference(lines(rng, 1, cycles), cycles, link, num_time)
    level = 32767 / 10 ** (HEADROOM_DB / 20) / 2**0.5
    within = 2 * np.pi * EDGE / 3**0.5 * abs(rate) * block / 12**0.5  # rms of both frequency and time uniform
    assert np.sqrt((error**2).mean()) < np.hypot(ROUNDING * 1.01, 1.1 * level * within)


@pytest.mark.parametrize("drift_hz_per_s", [0.1, -0.1, 100.0])
def test_drift_bends_the_carrier_as_little_within_blocks_as_stated(drift_hz_per_s):
    rate_hz, num_time = 50e3, 50_001
    block = receiver.block_length(rate_hz, 0.0, abs(drift_hz_per_s))
    rng = np.random.Generator(np.random.Philox(11))
    cycles = rng.uniform(-EDGE, EDGE, 50)
    link = random_links(rng, num_time, block, 1, drift=np.full((2, 3), drift_hz_per_s / rate_hz**2))
    error = difference(lines(rng, 2, cycles), cycles, link, num_time)
    # 1e-5 turns of the largest sample, and the arithmetic's −90 dB.
    assert np.abs(error).max() < 0.5 + 2 * np.pi * 1e-5 * 32767 + 0.7
    assert np.sqrt((error**2).mean()) < np.hypot(ROUNDING, 3700 * 2 * np.pi * 1e-5 * (8 / 15) ** 0.5) * 1.05


def test_blocks_follow_fading_as_closely_as_stated():
    """Gains in straight lines over a block are −66 dB from the fading at its fastest, and use that room."""
    rate_hz, num_time, doppler_hz = 50e3, 20_000, 84.6
    block = receiver.block_length(rate_hz, doppler_hz, 0.0)
    shape = (4, 2, 1)
    paths = fading.Multipath(np.zeros(shape), np.ones(shape), np.zeros(shape), np.full(shape[:2], doppler_hz))
    full_scale = np.full(shape[:2], 10**1.0)
    codes = {}
    for step in (2, block):
        gain = fading.gains(paths, streams(4), step / rate_hz, -(-num_time // step) + 1)
        link = links(np.zeros(shape), num_time, step, gain=gain, full_scale=full_scale)
        codes[step] = receive(np.ones((4, 1)), np.zeros(1), link, num_time)
    level = 32767 / 10**1.0  # of the fading's mean power
    error = np.sqrt((np.abs(codes[block] - codes[2]) ** 2).mean()) / level
    assert block == 4  # 5.9 samples are a hundredth of a period
    fine = fading.gains(paths, streams(4), 1 / rate_hz, num_time)
    exact = np.sqrt((np.abs(codes[block] - level * fine[:, :, 0]) ** 2).mean()) / level
    assert max(error, exact) < 10 ** (-66 / 20)
    # At a hundredth of a period exactly: (2π / 100)² / 8 in the middle of a block, for waves at the largest shift.
    steps = np.arange(101)
    at_limit = fading.gains(paths, streams(4), 0.01 / doppler_hz, 101)
    dense = fading.gains(paths, streams(4), 0.0005 / doppler_hz, 2001).astype(complex)[:, :, 0]
    straight = np.array([np.interp(np.arange(2001) / 20, steps, row) for row in at_limit.reshape(8, 101)])
    off = np.sqrt((np.abs(straight - dense.reshape(8, 2001)) ** 2).mean())
    assert 10 ** (-80 / 20) < off < 10 ** (-66 / 20)


@given(st.floats(1e3, 5e7), st.floats(0, 450), st.floats(0, 100))
def test_block_lengths_keep_to_their_limits(rate_hz, fading_hz, drift_hz_per_s):
    block = receiver.block_length(rate_hz, fading_hz, drift_hz_per_s)
    assert block % 2 == 0
    assert 2 <= block <= 256
    assert block == 2 or block * fading_hz <= 0.01 * rate_hz * (1 + 1e-12)
    assert block == 2 or drift_hz_per_s * (block / rate_hz) ** 2 / 8 <= 1e-5 * (1 + 1e-12)
    longer = block + 2
    at_limit = longer * fading_hz > 0.01 * rate_hz or drift_hz_per_s * (longer / rate_hz) ** 2 / 8 > 1e-5
    assert block == 256 or at_limit


def test_fractional_delay_is_right_to_a_thousandth_of_a_sample_at_40_db():
    """The bound at 40 dB and 20 of 50 kHz is 1.5e-4 samples, so that 1e-3 is six standard deviations."""
    rng, num_time = np.random.Generator(np.random.Philox(12)), 10_000
    cycles = np.arange(-2000, 2000, 10) / num_time  # ±10 kHz of 50 kHz, orthogonal over the window
    amplitude = lines(rng, 4, cycles)
    arrival = rng.uniform(0, 500, (4, 3, 1))
    noise_amplitude = np.full((4, 3), (1e-4 / 0.4) ** 0.5)  # 40 dB in 20 of 50 kHz
    link = links(arrival, num_time, 256, noise_amplitude=noise_amplitude)
    found = receive(amplitude, cycles, link, num_time)
    error = np.array(
        [matched_delay(found[i], amplitude[i[0]], cycles, arrival[i][0]) - arrival[i][0] for i in np.ndindex(4, 3)]
    )
    assert np.abs(error).max() < 1e-3
    # Kay, eq. (3.40), with the rms frequency of each scene's own lines.
    power = np.abs(amplitude) ** 2
    rms = np.sqrt((power * cycles**2).sum(axis=1) - (power * cycles).sum(axis=1) ** 2)
    sigma = 1 / np.sqrt(8 * np.pi**2 * rms**2 * 1e4 * 0.4 * num_time)
    chi_squared = ((error.reshape(4, 3) / sigma[:, None]) ** 2).sum()
    assert stats.chi2(12).ppf(P_VALUE) < chi_squared < stats.chi2(12).ppf(1 - P_VALUE)


def test_where_no_receiver_is_there_are_zeros_and_the_others_do_not_change():
    rng, num_time = np.random.Generator(np.random.Philox(5)), 500
    cycles = rng.uniform(-EDGE, EDGE, 20)
    amplitude = lines(rng, 2, cycles)
    link = random_links(rng, num_time, 16, 2, noise_amplitude=np.full((2, 3), 0.1))
    everyone = receive(amplitude, cycles, link, num_time)
    full_scale = link.full_scale.copy()
    full_scale[0, 1], full_scale[1, 2] = np.nan, 0.0
    absent = receiver.Links(**{**vars(link), "full_scale": full_scale})
    found = receive(amplitude, cycles, absent, num_time)
    there = full_scale > 0
    assert (found[~there] == 0).all()
    assert np.array_equal(found[there], everyone[there])
    assert (np.abs(everyone).max(axis=-1) > 0).all()


def test_a_path_without_gain_is_not_there():
    rng, num_time = np.random.Generator(np.random.Philox(2)), 300
    cycles = rng.uniform(-EDGE, EDGE, 20)
    amplitude = lines(rng, 2, cycles)
    link = random_links(rng, num_time, 16, 3)
    gain = link.gain.copy()
    gain[:, :, 1:] = 0
    arrival = link.arrival.copy()
    one = receiver.Links(**{**vars(link), "gain": np.ascontiguousarray(gain[:, :, :1]), "arrival": arrival[:, :, :1]})
    three = receiver.Links(**{**vars(link), "gain": gain})
    assert np.array_equal(
        receive(amplitude, cycles, one, num_time).real, receive(amplitude, cycles, three, num_time).real
    )


def test_a_path_may_start_or_end_within_the_window():
    """Gains that are 0 at one end of a block only are straight lines all the same."""
    num_time = 64
    gain = np.array([0, 1, 0, 0, 1], dtype=np.complex64)[None, None, None]
    link = links(np.zeros((1, 1, 1)), num_time, 16, gain=gain)
    code = receive(np.ones((1, 1)), np.zeros(1), link, num_time)[0, 0] / in_codes(np.ones((1, 1, 1)), link)[0, 0]
    expected = np.interp(np.arange(num_time), 16 * np.arange(5), gain[0, 0, 0].real)
    assert np.abs(code - expected).max() < 1e-4


@pytest.mark.parametrize("poison", [np.nan, np.inf, 1e30])
@pytest.mark.parametrize("num_time", [1, 5, 256, 511, 1024])
def test_nothing_is_read_beyond_the_margin(poison, num_time):
    """Neither before the latest arrival nor after the window of the earliest, at either block length."""
    rng = np.random.Generator(np.random.Philox(num_time))
    for block in (2, 256):
        gain = np.ones((1, 2, 2, -(-num_time // block) + 1), dtype=np.complex64)
        arrival = np.array([[[0.0, 0.25], [99.0, 100.0]]])
        link = links(arrival, num_time, block, gain=gain)
        guard, extra = 100 + receiver.MARGIN, 50
        clean = rng.standard_normal((1, 2, extra + guard + num_time + receiver.MARGIN + extra)).astype(np.float32)
        dirty = np.full_like(clean, poison)
        dirty[..., extra:-extra] = clean[..., extra:-extra]
        codes = [np.zeros((1, 2, 2, num_time), dtype=np.int16) for _ in range(3)]
        receiver.receive(clean, link, streams(1), codes[0], guard + extra)
        receiver.receive(dirty, link, streams(1), codes[1], guard + extra)
        receiver.receive(np.ascontiguousarray(clean[..., extra:-extra]), link, streams(1), codes[2], guard)
        assert np.array_equal(codes[0], codes[1])
        assert np.array_equal(codes[0], codes[2])


def test_a_scene_alone_is_the_same_to_the_last_bit():
    rng, num_time = np.random.Generator(np.random.Philox(15)), 2000
    cycles = rng.uniform(-EDGE, EDGE, 30)
    amplitude = lines(rng, 2, cycles)
    link = random_links(rng, num_time, 30, 3, noise_amplitude=np.full((2, 3), 0.2), drift=np.full((2, 3), 1e-9))
    guard = guard_of(link, num_time)
    waveform = planar(evaluate(amplitude, cycles, np.arange(guard + num_time + receiver.MARGIN) - guard))
    together = np.empty((2, 3, 2, num_time), dtype=np.int16)
    receiver.receive(waveform, link, streams(2), together, guard)
    for row in range(2):
        rows = slice(row, row + 1)
        part = {name: value if name == "block" else value[rows] for name, value in vars(link).items()}
        alone = np.empty((1, 3, 2, num_time), dtype=np.int16)
        receiver.receive(waveform[rows], receiver.Links(**part), streams(2).select(rows), alone, guard)
        assert np.array_equal(alone[0], together[row])
    assert not np.array_equal(together[0], together[1])


@pytest.mark.parametrize(("arrival", "length"), [(240.0, 2000), (0.0, 1500), (-300.0, 1600)])
def test_a_waveform_too_short_is_refused_not_read_beyond(arrival, length):
    zero = np.zeros((1, 1))
    gain = np.ones((1, 1, 1, 11), dtype=np.complex64)
    links = receiver.Links(np.full((1, 1, 1), arrival), zero, gain, 100, zero, zero, zero, zero, zero + 1.0)
    streams = Streams(0, np.zeros(1, np.uint64), np.zeros(1, np.uint64))
    waveform, iq = np.zeros((1, 2, length), np.float32), np.zeros((1, 1, 2, 1000), np.int16)
    with pytest.raises(ValueError, match=r"arrival: .* make the waveform longer"):
        receiver.receive(waveform, links, streams, iq, 250)
