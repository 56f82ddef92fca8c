"""Clocks and oscillators of receivers: their errors at the middle of each window of a recording.

Clocks of class ``ntp`` and ``none`` run freely in a recording: their offset is what the first window has of it, what
their rate makes of it since, and a random walk. Those that GPS steers, ``gpsdo``, or stamps, ``gps_stamped``, keep
their offset whatever the rate, which moves the samples of a window alone.

The walk has two states, white noise of the rate and a random walk of it, as of C. Zucca and P. Tavella, "The clock
model and its relationship with the Allan and related variances", IEEE Trans. UFFC 52 (2005) 289; within a window, where
it makes a clock of 1e-9 at 1 s wander by 1 ns in 1 s, it is left out.
"""

import math

import numpy as np

from heimdall_lab.core.config import MAX_NORMAL, Config
from heimdall_lab.core.philox import Stage, Streams

_STEERED = ("gpsdo", "gps_stamped")
_STEERING_PER_S = 0.01  # inverse time constant of the loop by which a gpsdo follows GPS


def draw_clocks(config: Config, streams: Streams, carrier_hz: np.ndarray | float) -> dict[str, np.ndarray]:
    """Draw clocks and oscillators of the receivers of scenes, by contract name, (S, R) each.

    ``clock_rate`` is among them where rates are simulated. ``carrier_hz`` is (S, 1), or one for all scenes.
    """
    channel, size = config.channel, config.max_receivers
    recordings = streams.of_recordings(config.recording.emissions)
    emission = (streams.sample % np.uint64(config.recording.emissions)).astype(int)
    elapsed_s = (emission * config.emission_period_s)[:, None]
    oscillator_hz = recordings.uniform(
        Stage.OSCILLATOR, size, -channel.frequency_offset_max_hz, channel.frequency_offset_max_hz
    )
    drift_hz_per_s = recordings.uniform(
        Stage.DRIFT, size, -channel.frequency_drift_max_hz_per_s, channel.frequency_drift_max_hz_per_s
    )
    of_centre = carrier_hz / config.signal.frequency_hz
    clocks = {
        "clock_offset": _first_offset_s(config, streams, recordings, emission) + _stamp_error_s(config, streams),
        "frequency_offset": (oscillator_hz + drift_hz_per_s * elapsed_s) * of_centre,
        "frequency_drift": drift_hz_per_s * of_centre,
    }
    if not config.has_clock_rates:
        return clocks
    most = config.first_rate_max
    if channel.one_crystal and channel.clock_rate_max_ppm == 0:
        first_rate = -oscillator_hz / config.signal.frequency_hz
    else:
        first_rate = recordings.uniform(Stage.CLOCK_RATE, size, -most, most)
    rate_drift = -drift_hz_per_s / config.signal.frequency_hz * channel.one_crystal
    walked_s, walked_rate = _random_walk(config, recordings, emission)
    rate = first_rate + rate_drift * elapsed_s + walked_rate
    if channel.clock not in _STEERED:
        clocks["clock_offset"] += (first_rate + rate_drift * elapsed_s / 2) * elapsed_s + walked_s
    if channel.one_crystal:
        clocks["frequency_offset"] = -rate * carrier_hz
    return clocks | {"clock_rate": rate}


def largest_offset_s(config: Config) -> float:
    """Largest magnitude of a clock's offset that `draw_clocks` can draw, s."""
    channel, last_s = config.channel, config.last_emission_s
    class_s = channel.clock_sigma_s * (3**0.5 if channel.clock == "none" else MAX_NORMAL)
    stamps_s = MAX_NORMAL * channel.stamp_jitter_s + channel.stamp_resolution_s / 2
    if channel.clock in _STEERED:
        return class_s + stamps_s
    walk_s = (channel.clock_adev**2 * last_s + channel.rate_walk_density * last_s**3 / 3) ** 0.5
    return class_s + stamps_s + config.clock_rate_max * last_s + MAX_NORMAL * walk_s


def offset_sigma_s(config: Config) -> float:
    """Standard deviation of a clock's offset by its class and the time stamps, s."""
    channel = config.channel
    return math.hypot(channel.clock_sigma_s, channel.stamp_jitter_s, channel.stamp_resolution_s / 12**0.5)


def clock_attributes(config: Config) -> dict[str, float]:
    """What a user of the receivers knows of their clocks beside their offsets, by attribute of the contract."""
    known: dict[str, float] = {"one_crystal": 1} if config.channel.one_crystal else {}
    if config.has_clock_rates:
        known["clock_rate_sigma"] = math.hypot(config.first_rate_max / 3**0.5, config.rate_walk_sigma)
    if not config.has_recordings:
        return known
    if (window_s := _window_sigma_s(config)) > 0:
        known["window_clock_sigma_s"] = window_s
    if config.channel.clock in _STEERED:
        known["steered_clocks"] = 1
    return known


def _window_sigma_s(config: Config) -> float:
    """Standard deviation of what clocks err by in one window of a recording alone, s."""
    channel = config.channel
    of_class_s = channel.clock_sigma_s if channel.clock == "gps_stamped" else 0.0
    return math.hypot(of_class_s, channel.stamp_jitter_s, channel.stamp_resolution_s / 12**0.5)


def _first_offset_s(config: Config, streams: Streams, recordings: Streams, emission: np.ndarray) -> np.ndarray:
    """Offset by class, as if the rate were 0, (S, R): uniform for class ``none``, else normal."""
    clock, sigma_s, size = config.channel.clock, config.channel.clock_sigma_s, config.max_receivers
    if clock == "none":
        half_width_s = sigma_s * 3**0.5
        return recordings.uniform(Stage.CLOCK, size, -half_width_s, half_width_s)
    if clock == "gps_stamped":
        return sigma_s * streams.normal(Stage.CLOCK, size)
    if clock == "gpsdo":
        return sigma_s * _steered(recordings, emission, size, config.emission_period_s)
    return sigma_s * recordings.normal(Stage.CLOCK, size)


def _steered(recordings: Streams, emission: np.ndarray, size: int, step_s: float) -> np.ndarray:
    """Offset of oscillators that a loop steers, over its standard deviation, (S, R).

    Noise of the rate, through a critically damped loop of second order: offset and rate are independent at any time,
    and the offset correlates over t by (1 + λ t) exp(−λ t), with λ the inverse time constant. At short times it is the
    random walk of a free oscillator's rate, with an Allan deviation of 2 λ^1.5 sqrt(τ / 3) times the offset's standard
    deviation: 6e-11 at 1 s.

    Source: Särkkä and Solin, Applied Stochastic Differential Equations (2019), section 12.3 (Matérn, ν = 3/2).
    """
    offset, rate = np.split(recordings.normal(Stage.CLOCK, 2 * size), 2, axis=1)
    d = _STEERING_PER_S * step_s
    kept = np.exp(-d)
    # Covariance of what a step adds, as its own Cholesky factor, second state first.
    of_rate = (1 - kept**2 * (1 - 2 * d + 2 * d**2)) ** 0.5
    common = 2 * d**2 * kept**2 / of_rate
    of_offset = max(1 - kept**2 * (1 + 2 * d + 2 * d**2) - common**2, 0.0) ** 0.5
    for step in range(1, int(emission.max(initial=0)) + 1):
        rows = emission >= step
        new, new_rate = np.split(recordings.select(rows).normal(Stage.CLOCK, 2 * size, lane=step), 2, axis=1)
        before = offset[rows]
        offset[rows] = kept * ((1 + d) * before + d * rate[rows]) + of_offset * new + common * new_rate
        rate[rows] = kept * ((1 - d) * rate[rows] - d * before) + of_rate * new_rate
    return offset


def _random_walk(config: Config, recordings: Streams, emission: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What random walk adds to offset, s, and rate since the recording's first window, (S, R) each."""
    size, step_s = config.max_receivers, config.emission_period_s
    offset_s, rate = np.zeros((len(emission), size)), np.zeros((len(emission), size))
    if config.channel.clock_adev == 0:
        return offset_s, rate
    rate_sigma = (config.channel.rate_walk_density * step_s) ** 0.5
    offset_sigma_s = (config.channel.clock_adev**2 * step_s + (rate_sigma * step_s) ** 2 / 12) ** 0.5
    for step in range(1, config.recording.emissions):
        rows = emission >= step
        normals = recordings.select(rows).normal(Stage.CLOCK_WALK, 2 * size, lane=step)
        grown = rate_sigma * normals[:, size:]
        offset_s[rows] += (rate[rows] + grown / 2) * step_s + offset_sigma_s * normals[:, :size]
        rate[rows] += grown
    return offset_s, rate


def _stamp_error_s(config: Config, streams: Streams) -> np.ndarray | float:
    """Error of the windows' time stamps, (S, R) s: jitter, and rounding of what may be anywhere between two steps."""
    channel, size = config.channel, config.max_receivers
    error_s: np.ndarray | float = 0.0
    if channel.stamp_jitter_s > 0:
        error_s = channel.stamp_jitter_s * streams.normal(Stage.TIME_STAMP, size)
    if channel.stamp_resolution_s > 0:
        half_s = channel.stamp_resolution_s / 2
        error_s = error_s + streams.uniform(Stage.TIME_STAMP, size, -half_s, half_s, lane=1)
    return error_s
