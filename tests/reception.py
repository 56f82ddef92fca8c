"""A receiver's samples by their definition, in double precision, for test waveforms known in closed form."""

import numpy as np

from heimdall_lab.core.philox import Streams
from heimdall_lab.simulation import receiver

P_VALUE = 1e-4
HEADROOM_DB = 13.0
ROUNDING = 12**-0.5  # rms error of rounding to whole numbers
EDGE = 0.25  # cycles per sample: the largest frequency of a waveform at its own rate


def streams(count: int, seed: int = 4) -> Streams:
    samples = np.arange(count, dtype=np.uint64)
    return Streams(seed, samples, np.zeros_like(samples))


def lines(rng: np.random.Generator, num_scenes: int, cycles: np.ndarray) -> np.ndarray:
    """Amplitudes of band-limited noise of unit power, one for each frequency: (S, K)."""
    amplitude = rng.standard_normal((num_scenes, len(cycles))) + 1j * rng.standard_normal((num_scenes, len(cycles)))
    return amplitude / np.sqrt((np.abs(amplitude) ** 2).sum(axis=1, keepdims=True))


def evaluate(amplitude: np.ndarray, cycles: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Σ_k a_k exp(2πj f_k t) at times in samples: (..., K), (K,), (N,) -> (..., N)."""
    return amplitude @ np.exp(2j * np.pi * np.multiply.outer(cycles, time))


def planar(waveform: np.ndarray) -> np.ndarray:
    return np.stack([waveform.real, waveform.imag], axis=1).astype(np.float32)


def links(arrival: np.ndarray, num_time: int, block: int = 64, **changes) -> receiver.Links:
    """Noiseless links (S, R, P) at 0 dBm of each path, on frequency, unless told otherwise."""
    zeros = np.zeros(arrival.shape[:2])
    settings = {
        "arrival_rate": zeros,
        "gain": np.ones((*arrival.shape, -(-num_time // block) + 1), dtype=np.complex64),
        "phase": zeros,
        "frequency": zeros,
        "drift": zeros,
        "noise_amplitude": zeros,
        "full_scale": zeros + 10 ** (HEADROOM_DB / 20),
    }
    return receiver.Links(arrival=arrival, block=block, **(settings | changes))


def guard_of(link: receiver.Links, num_time: int) -> int:
    """The least that is documented, with the way that motion takes."""
    motion = np.abs(link.arrival_rate).max() * (num_time / 2 + link.block)
    return int(np.ceil(link.arrival.max() + motion)) + receiver.MARGIN


def receive(
    amplitude: np.ndarray, cycles: np.ndarray, link: receiver.Links, num_time: int, seed: int = 4
) -> np.ndarray:
    """Codes (S, R, N), complex, of signals (S, K) that are as long as they must be and no longer."""
    guard = guard_of(link, num_time)
    waveform = evaluate(amplitude, cycles, np.arange(guard + num_time + receiver.MARGIN) - guard)
    iq = np.full((*link.phase.shape, 2, num_time), 12345, dtype=np.int16)
    receiver.receive(planar(waveform), link, streams(len(amplitude), seed), iq, guard)
    return iq[:, :, 0] + 1j * iq[:, :, 1]


def by_definition(amplitude: np.ndarray, cycles: np.ndarray, link: receiver.Links, num_time: int) -> np.ndarray:
    """Σ_p g_p(t) s(t − a_p − v (t − t₀)) exp(2πj (φ + f (t − t₀) + d (t − t₀)² / 2)), t₀ the middle: (S, R, N)."""
    time = np.arange(num_time)
    from_middle = time - num_time / 2
    expected = np.zeros((*link.phase.shape, num_time), dtype=complex)
    for s, r in np.ndindex(link.phase.shape):
        for p in range(link.arrival.shape[2]):
            steps = link.block * np.arange(link.gain.shape[3])
            gain = np.interp(time, steps, link.gain[s, r, p].astype(complex))
            late = link.arrival[s, r, p] + link.arrival_rate[s, r] * from_middle
            expected[s, r] += gain * evaluate(amplitude[s], cycles, time - late)
        turns = link.phase[s, r] + link.frequency[s, r] * from_middle + link.drift[s, r] * from_middle**2 / 2
        expected[s, r] *= np.exp(2j * np.pi * turns)
    return expected


def in_codes(voltage: np.ndarray, link: receiver.Links) -> np.ndarray:
    return voltage * (32767 / link.full_scale)[..., None]


def difference(amplitude: np.ndarray, cycles: np.ndarray, link: receiver.Links, num_time: int) -> np.ndarray:
    """Received minus expected codes of both components, after a look that nothing is clipped."""
    expected = in_codes(by_definition(amplitude, cycles, link, num_time), link)
    assert max(np.abs(expected.real).max(), np.abs(expected.imag).max()) < 32767
    error = receive(amplitude, cycles, link, num_time) - expected
    return np.concatenate([error.real.ravel(), error.imag.ravel()])


def random_links(rng: np.random.Generator, num_time: int, block: int, num_paths: int, **changes) -> receiver.Links:
    """Two scenes of three receivers with everything at work; echoes within 30 samples, 12 dB down."""
    arrival = rng.uniform(0, 250, (2, 3, 1)) + rng.uniform(0, 30, (2, 3, num_paths)) * (np.arange(num_paths) > 0)
    shape = (*arrival.shape, -(-num_time // block) + 1)
    gain = 1 + 0.2 * (rng.standard_normal(shape) + 1j * rng.standard_normal(shape))
    gain *= np.where(np.arange(num_paths) > 0, 0.25, 0.9)[:, None]
    settings = {
        "gain": gain.astype(np.complex64),
        "phase": rng.uniform(0, 1, (2, 3)),
        "frequency": rng.uniform(-0.2, 0.2, (2, 3)),
        "full_scale": 10 ** ((HEADROOM_DB + 3) / 20) * rng.uniform(1, 1.1, (2, 3)),
    }
    return links(arrival, num_time, block, **(settings | changes))
