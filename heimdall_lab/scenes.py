"""Draw scenes and keep those that pass the gate, before any IQ exists."""

from dataclasses import dataclass

import numpy as np

from heimdall_lab import bounds, geodesy, propagation
from heimdall_lab.channel import clock_offset
from heimdall_lab.config import Config, ConfigError
from heimdall_lab.philox import Stage, Streams
from heimdall_lab.units import SPEED_OF_LIGHT, linear_to_db

REASONS = ("min_receivers", "min_mean_snr_db", "max_gdop")
LEAST_ACCEPTANCE = 1e-4

_BLOCK = 8192  # candidate scenes gated at a time
_PATIENCE = 500_000  # candidates after which an acceptance below LEAST_ACCEPTANCE is an error


@dataclass(frozen=True)
class Scenes:
    """Kept scenes and what it took to find them.

    Attributes
    ----------
    variables : dict of str to array
        Truth that needs no waveform, by contract name: (S,) for a scene, (S, R) for a link.
    streams : Streams
        Random streams of the kept scenes.
    rejections : dict of str to int
        Candidates turned away before the kept ones, by the field of the gate that did it.
    """

    variables: dict[str, np.ndarray]
    streams: Streams
    rejections: dict[str, int]


def draw(config: Config, samples: np.ndarray) -> Scenes:
    """Draw the scenes of some samples.

    Sample k is the first of its own sequence of candidates that the gate accepts, so that it depends on nothing but
    the configuration and k. The waveform is not known yet, so the gate judges by the SNR in the channel bandwidth. No
    waveform occupies more: in its own bandwidth every receiver that passed has signal, perhaps a few more have, and
    the dilution of precision is no larger.

    Parameters
    ----------
    samples : (S,) int
        Indices of the samples.

    Raises
    ------
    ConfigError
        If fewer than 1 candidate in 10,000 is accepted; it names the field of the gate that rejects most.
    """
    accepted = np.full(len(samples), -1)
    counts = np.zeros(len(REASONS), dtype=int)
    attempt = 0
    while (pending := np.flatnonzero(accepted < 0)).size:
        width = max(1, min(_BLOCK // pending.size, 256))
        attempts = np.tile(np.arange(attempt, attempt + width), pending.size)
        verdict = _gate(config, _truth(config, _streams(config, np.repeat(samples[pending], width), attempts)))
        verdict = verdict.reshape(pending.size, width)
        kept = verdict == len(REASONS)
        first = np.where(kept.any(axis=1), kept.argmax(axis=1), width)
        accepted[pending] = np.where(first < width, attempt + first, -1)
        tried = np.arange(width) < first[:, None]
        counts += np.bincount(verdict[tried], minlength=len(REASONS))[: len(REASONS)]
        attempt += width
        _check_acceptance(config, kept=int((accepted >= 0).sum()), counts=counts)
    streams = _streams(config, samples, accepted)
    rejections = {reason: int(count) for reason, count in zip(REASONS, counts, strict=True)}
    variables = _truth(config, streams)
    return Scenes(variables | _receiver_errors(config, streams, variables), streams, rejections)


def box(config: Config, margin_deg: float) -> tuple[float, float, float, float]:
    """South, north, west and east edges of the receivers' bounding box, widened by a margin, in degrees."""
    latitudes = [receiver.latitude_deg for receiver in config.geometry.receivers]
    longitudes = [receiver.longitude_deg for receiver in config.geometry.receivers]
    return (
        min(latitudes) - margin_deg,
        max(latitudes) + margin_deg,
        min(longitudes) - margin_deg,
        max(longitudes) + margin_deg,
    )


def check_tones(config: Config) -> None:
    """Refuse tones that make the time differences of a synchronised network ambiguous.

    Raises
    ------
    ConfigError
        If the longest delay between two receivers, in both directions, exceeds the period of the highest tone.
    """
    signal = config.signal
    highest_hz = 1 / (2 * longest_delay_spread_s(config))
    if config.channel.clock == "gpsdo" and signal.tone_ratio > 0 and signal.tone_max_hz > highest_hz:
        raise ConfigError(
            f"signal.tone_max_hz: {signal.tone_max_hz:g} repeats within the longest delay of this network; "
            f"lower it to {highest_hz:.0f} or less, or set signal.tone_ratio to 0"
        )


def longest_delay_spread_s(config: Config) -> float:
    """Upper bound of the difference between two propagation delays of a scene, s.

    It is that of the two receivers furthest apart, whatever the transmitter (triangle inequality).
    """
    receivers = config.geometry.receivers
    position = geodesy.ecef(
        np.array([r.latitude_deg for r in receivers]),
        np.array([r.longitude_deg for r in receivers]),
        np.array([r.altitude_m for r in receivers]),
    )
    return float(np.linalg.norm(position[:, None] - position[None], axis=-1).max() / SPEED_OF_LIGHT)


def _streams(config: Config, samples: np.ndarray, attempts: np.ndarray) -> Streams:
    return Streams(config.seed, samples.astype(np.uint64), attempts.astype(np.uint64))


def _truth(config: Config, streams: Streams) -> dict[str, np.ndarray]:
    """Truth of candidate scenes that needs no waveform."""
    count, size = len(streams.sample), config.max_receivers
    variables = _receivers(config, count) | _transmitters(config, streams)
    position = geodesy.ecef(*(variables[f"receiver_{name}"] for name in ("latitude", "longitude", "altitude")))
    transmitter = geodesy.ecef(*(variables[f"transmitter_{name}"] for name in ("latitude", "longitude", "altitude")))
    distance_m = np.sqrt(((position - transmitter[:, None]) ** 2).sum(axis=-1))
    channel = config.channel
    environment_db = streams.uniform(
        Stage.ENVIRONMENT, size, channel.environment_loss_min_db, channel.environment_loss_max_db
    )
    path_loss = propagation.path_loss_db(
        distance_m,
        config.signal.frequency_hz,
        shadowing_db=channel.shadowing_sigma_db * streams.normal(Stage.SHADOWING, size),
        environment_db=environment_db,
    )
    present = variables["receiver_present"]
    noise_dbm = propagation.noise_power_dbm(config.signal.sample_rate_hz, channel.noise_figure_db)
    return variables | {
        "propagation_delay": distance_m / SPEED_OF_LIGHT,
        "path_loss": path_loss,
        "received_power": variables["transmitter_power"][:, None] - path_loss,
        "noise_power": np.where(present, noise_dbm, np.nan),
        "line_of_sight": present,
        "excess_delay": np.where(present, 0.0, np.nan),
        "doppler": np.where(present, 0.0, np.nan),
    }


def _receiver_errors(config: Config, streams: Streams, variables: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Clock and oscillator errors, and the common offset that makes the earliest arrival of a scene 0."""
    channel, present = config.channel, variables["receiver_present"]
    size = config.max_receivers
    clock = clock_offset(channel.clock, channel.clock_sigma_s, streams, size)
    limit_hz = channel.frequency_offset_max_hz
    arrival = variables["propagation_delay"] + variables["excess_delay"] + clock
    return {
        "clock_offset": np.where(present, clock, np.nan),
        "frequency_offset": np.where(present, streams.uniform(Stage.OSCILLATOR, size, -limit_hz, limit_hz), np.nan),
        "emission_time": np.nanmin(arrival, axis=1),
    }


def _receivers(config: Config, count: int) -> dict[str, np.ndarray]:
    """The fixed network, repeated for each scene and padded with NaN to max_receivers."""
    receivers = config.geometry.receivers

    def padded(values: list[float]) -> np.ndarray:
        row = np.array(values + [np.nan] * (config.max_receivers - len(receivers)))
        return np.tile(row, (count, 1))

    return {
        "receiver_present": np.tile(np.arange(config.max_receivers) < len(receivers), (count, 1)),
        "receiver_latitude": padded([receiver.latitude_deg for receiver in receivers]),
        "receiver_longitude": padded([receiver.longitude_deg for receiver in receivers]),
        "receiver_altitude": padded([receiver.altitude_m for receiver in receivers]),
    }


def _transmitters(config: Config, streams: Streams) -> dict[str, np.ndarray]:
    geometry, signal = config.geometry, config.signal
    draws = streams.uniform(Stage.TRANSMITTER, 4)
    inside = draws[:, 0] < geometry.inside_ratio
    edges = np.where(inside[:, None], box(config, 0.0), box(config, geometry.margin_deg))
    south, north, west, east = edges.T
    low, high = geometry.transmitter_altitude_min_m, geometry.transmitter_altitude_max_m
    power = streams.uniform(Stage.POWER, 1, signal.transmitter_power_min_dbm, signal.transmitter_power_max_dbm)
    return {
        "transmitter_latitude": south + (north - south) * draws[:, 1],
        "transmitter_longitude": geodesy.wrapped(west + (east - west) * draws[:, 2]),
        "transmitter_altitude": low + (high - low) * draws[:, 3],
        "transmitter_power": power[:, 0],
    }


def _gate(config: Config, variables: dict[str, np.ndarray]) -> np.ndarray:
    """Index into REASONS of the first condition that each scene fails, len(REASONS) where it passes all, (S,)."""
    gate, signal = config.gate, config.signal
    in_channel_db = linear_to_db(signal.sample_rate_hz / signal.channel_bandwidth_hz)
    snr_db = variables["received_power"] - variables["noise_power"] + in_channel_db
    heard = snr_db >= gate.min_snr_db  # False where padded, because the SNR is NaN there
    number = heard.sum(axis=1)
    mean_snr_db = np.where(heard, snr_db, 0.0).sum(axis=1) / np.maximum(number, 1)
    receivers, transmitter = bounds.transmitter_frame(variables)
    dilution = bounds.gdop(np.where(heard[..., None], receivers, np.nan), transmitter)
    passes = [
        number >= gate.min_receivers,
        mean_snr_db >= gate.min_mean_snr_db,
        dilution <= gate.max_gdop,  # False where NaN: not observable
    ]
    return np.where(passes, len(REASONS), np.arange(len(REASONS))[:, None]).min(axis=0)


def _check_acceptance(config: Config, kept: int, counts: np.ndarray) -> None:
    candidates = kept + int(counts.sum())
    wanted = LEAST_ACCEPTANCE * candidates
    if candidates < _PATIENCE or kept >= wanted - 4 * wanted**0.5:  # four standard deviations: no bad luck of one shard
        return
    reason = REASONS[int(counts.argmax())]
    raise ConfigError(
        f"gate.{reason}: {getattr(config.gate, reason)} rejects {counts.max()} of {candidates} scenes and "
        f"{kept} were kept, fewer than 1 in 10,000; relax it, raise the transmitter power or widen the network"
    )
