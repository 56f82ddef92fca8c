"""Small-scale fading: the gain of every path of every link as a function of time.

The scattered part of a path is a sum of waves from all around a receiver with Gaussian amplitudes, so that at any
time its envelope is exactly a Rayleigh variable, and its autocorrelation exactly J0: Clarke, Bell Syst. Tech. J. 47
(1968), eq. (19); Jakes, Microwave Mobile Communications (1974), section 1.1.
"""

from dataclasses import dataclass

import numpy as np
import scipy.special

from heimdall_lab.core.compiled import njit
from heimdall_lab.core.config import DOPPLER_BY_COHERENCE, MAX_TAPS, Channel
from heimdall_lab.core.philox import Stage, Streams, complex_normal, lane_word, philox4x32
from heimdall_lab.core.units import db_to_linear

_WAVES = 16
_PATHS = MAX_TAPS + 1  # lanes of random numbers for each receiver
_STEPS_PER_PERIOD = 8  # of the fastest fading: twice what |gain|², of twice its bandwidth, needs
_BATCH_GAINS = 2**22  # gains in memory at a time, or those of one scene


@dataclass(frozen=True)
class Multipath:
    """The first path of every link and its echoes, float64; the ensemble's mean power of the first path is 1."""

    delay_s: np.ndarray  # (S, R, P) after the first path
    power: np.ndarray  # (S, R, P) in the mean, 0 for an echo that is not there
    steady: np.ndarray  # (S, R, P) share of the power that does not fade
    doppler_hz: np.ndarray  # (S, R) largest Doppler shift of scattered waves


def doppler_spread_hz(coherence_time_s: np.ndarray) -> np.ndarray:
    """Largest Doppler shift of scattered waves whose sum decorrelates within a coherence time."""
    return DOPPLER_BY_COHERENCE / coherence_time_s


def level_sigma_db(channel: Channel, duration_s: float) -> float:
    """Standard deviation of a first path's level by fading, mean of a window, with and without line of sight, dB.

    The power's autocovariance is (J0² + 2 K J0) / (1 + K)², with K the steady over the scattered power; its mean over
    the window is taken as a gamma variable, which it is for short windows without a steady part, and tends to.
    """
    if channel.fading == "none":
        return 0.0
    coherence_s = np.linspace(channel.coherence_time_min_s, channel.coherence_time_max_s, 9)
    lag = (np.arange(2048) + 0.5) / 2048  # over the duration
    j0 = scipy.special.j0(2 * np.pi * doppler_spread_hz(coherence_s)[:, None] * duration_s * lag)
    rician_k = db_to_linear(channel.rician_k_db) if channel.fading == "rician" else 0.0
    variances = []
    for k, share in ((0.0, channel.nlos_ratio), (rician_k, 1 - channel.nlos_ratio)):
        covariance = (2 * (1 - lag) * (j0**2 + 2 * k * j0) / (1 + k) ** 2).mean(axis=1)
        variances.append(share * scipy.special.polygamma(1, 1 / covariance).mean())
    return float(10 / np.log(10) * sum(variances) ** 0.5)


def echo_delay_sigma_s(channel: Channel) -> float:
    """Standard deviation by which the echoes of a link shift its arrival where the band does not resolve them, s.

    To first order, an echo of amplitude a, phase φ and delay d after a steady first path shifts the group delay by
    a d cos φ: the phase of 1 + a exp(j φ − j 2π f d), differentiated. Of K echoes, that makes a variance of
    E[K] E[a²] E[d²] / 2.
    """
    taps = (channel.multipath_taps_min + channel.multipath_taps_max) / 2
    low, high = channel.multipath_delay_min_s, channel.multipath_delay_max_s
    weak_db, strong_db = channel.multipath_power_min_db, channel.multipath_power_max_db
    # The mean of exp(x) for x uniform within ±h about a middle is its value there times sinh(h) / h.
    half = (strong_db - weak_db) / 2 * np.log(10) / 10
    power = db_to_linear((strong_db + weak_db) / 2) * (np.sinh(half) / half if half > 0 else 1.0)
    return float(np.sqrt(taps * power * (low**2 + low * high + high**2) / 3 / 2))


def path_delay_sigma_s(channel: Channel) -> float:
    """Standard deviation of a link's delay about the straight line, by excess delay and echoes together, s."""
    return float(np.hypot(channel.excess_delay_sigma_s, echo_delay_sigma_s(channel)))


def draw_multipath(channel: Channel, streams: Streams, line_of_sight: np.ndarray) -> Multipath:
    """Draw the first path of every link and its echoes, of links (S, R) in line of sight or not.

    The number of echoes, their delays and their levels (dB) are uniform between the bounds of ``channel``. A path fades
    if ``channel.fading`` says so: by Rice on the first path of links in line of sight with ``rician``, by Rayleigh on
    all other paths.
    """
    num_scenes, num_receivers = line_of_sight.shape
    taps = channel.multipath_taps_max
    shape = (num_scenes, num_receivers, taps)
    draws = streams.uniform(Stage.ECHO, num_receivers * (1 + 2 * taps)).reshape(num_scenes, num_receivers, -1)
    number = channel.multipath_taps_min + (draws[..., 0] * (taps - channel.multipath_taps_min + 1)).astype(int)
    low_s, high_s = channel.multipath_delay_min_s, channel.multipath_delay_max_s
    low_db, high_db = channel.multipath_power_min_db, channel.multipath_power_max_db
    level_db = low_db + (high_db - low_db) * draws[..., 1 + taps :]
    exists = np.arange(taps) < number[..., None]
    first = np.ones((*shape[:2], 1))
    scattered = 1 / (1 + db_to_linear(channel.rician_k_db)) if channel.fading == "rician" else 1.0
    first_steady = np.where(line_of_sight, 1 - scattered, 0.0)[..., None]
    steady = np.concatenate([first_steady, np.zeros(shape)], axis=-1)
    coherence_s = streams.uniform(
        Stage.COHERENCE_TIME, num_receivers, channel.coherence_time_min_s, channel.coherence_time_max_s
    )
    return Multipath(
        delay_s=np.concatenate(
            [0 * first, np.where(exists, low_s + (high_s - low_s) * draws[..., 1 : 1 + taps], 0.0)], -1
        ),
        power=np.concatenate([first, np.where(exists, db_to_linear(level_db), 0.0)], axis=-1),
        steady=steady if channel.fading != "none" else np.ones_like(steady),
        doppler_hz=np.zeros(coherence_s.shape) if channel.fading == "none" else doppler_spread_hz(coherence_s),
    )


def gains(paths: Multipath, streams: Streams, step_s: float, count: int) -> np.ndarray:
    """Gain of every path at the times 0, step_s, …: (S, R, P, count) complex64; steady parts have random phases."""
    filled = np.empty((*paths.power.shape, count), np.complex64)
    _gains(
        paths.power,
        paths.steady,
        paths.doppler_hz,
        streams.sample,
        streams.attempt,
        np.array([lane_word(Stage.SCATTERERS, lane) for lane in range(_PATHS * paths.power.shape[1])], np.uint32),
        streams.key,
        step_s,
        filled,
    )
    return filled


def mean_power(paths: Multipath, streams: Streams, duration_s: float, fastest_hz: float) -> np.ndarray:
    """Mean over a window of the power of all paths together, (S, R), by Simpson's rule: to 0.02 dB even in fades.

    Paths add as at the carrier: echoes come within a tenth of the channel's inverse bandwidth.
    """
    count = 3 + 2 * int(np.ceil(_STEPS_PER_PERIOD / 2 * fastest_hz * duration_s)) if fastest_hz > 0 else 1
    weight = np.ones(count)
    weight[1:-1:2], weight[2:-1:2] = 4, 2
    num_scenes, num_receivers, num_paths = paths.power.shape
    mean = np.empty((num_scenes, num_receivers))
    per_batch = max(1, _BATCH_GAINS // (num_receivers * num_paths * count))
    for first in range(0, num_scenes, per_batch):
        rows = slice(first, first + per_batch)
        part = Multipath(paths.delay_s[rows], paths.power[rows], paths.steady[rows], paths.doppler_hz[rows])
        total = gains(part, streams.select(rows), duration_s / max(count - 1, 1), count).sum(axis=2)  # (S, R, count)
        power = total.real.astype(float) ** 2 + total.imag.astype(float) ** 2
        mean[rows] = (power * weight).sum(axis=-1) / weight.sum()
    return mean


@njit(cache=True)
def _gains(
    power: np.ndarray,
    steady: np.ndarray,
    doppler_hz: np.ndarray,
    sample: np.ndarray,
    attempt: np.ndarray,
    lanes: np.ndarray,
    key: np.ndarray,
    step_s: float,
    filled: np.ndarray,
) -> None:
    num_scenes, num_receivers, num_paths, count = filled.shape
    total = np.empty(count, np.complex128)
    for s in range(num_scenes):
        sample_word, attempt_word = np.uint32(sample[s]), np.uint32(attempt[s])
        for r in range(num_receivers):
            for p in range(num_paths):
                if power[s, r, p] == 0:
                    filled[s, r, p] = 0
                    continue
                lane = lanes[_PATHS * r + p]
                words = philox4x32(np.uint32(0), attempt_word, sample_word, lane, key[0], key[1])
                total[:] = np.sqrt(steady[s, r, p] * power[s, r, p]) * np.exp(2j * np.pi * words[0] / 2.0**32)
                if steady[s, r, p] < 1:
                    amplitude = np.sqrt((1 - steady[s, r, p]) * power[s, r, p] / _WAVES)
                    for wave in range(_WAVES):
                        words = philox4x32(np.uint32(1 + wave), attempt_word, sample_word, lane, key[0], key[1])
                        real, imaginary = complex_normal(words[0], words[1])
                        angle = 2 * np.pi * (wave + (words[2] + 0.5) / 2.0**32) / _WAVES
                        turn = np.exp(2j * np.pi * doppler_hz[s, r] * np.cos(angle) * step_s)
                        value = amplitude * (real + 1j * imaginary)
                        for n in range(count):
                            total[n] += value
                            value *= turn
                filled[s, r, p] = total
