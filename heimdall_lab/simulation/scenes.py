"""Draw scenes and keep those that pass the gate, before any IQ exists."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from heimdall_lab.core import geodesy
from heimdall_lab.core.checked import ConfigError
from heimdall_lab.core.config import Config
from heimdall_lab.core.philox import Stage, Streams
from heimdall_lab.core.text import quoted
from heimdall_lab.core.units import SPEED_OF_LIGHT, linear_to_db
from heimdall_lab.datasets.terrain.heights import height_m, require_heights
from heimdall_lab.datasets.terrain.tiles import Heights, open_terrain, tile_name
from heimdall_lab.localization import bounds
from heimdall_lab.simulation import placement
from heimdall_lab.simulation.clocks import draw_clocks
from heimdall_lab.simulation.propagation import fading, losses, terrain

REASONS = ("min_receivers", "min_mean_snr_db", "max_gdop")
MIN_ACCEPTANCE = 1e-4

_SCENES_OF_SPREAD = 32  # that tell how much losses over terrain differ between links
_BLOCK_CANDIDATES = 8192  # candidate scenes gated at a time
_MIN_CANDIDATES_JUDGED = 500_000  # candidates after which an acceptance below MIN_ACCEPTANCE is an error


@dataclass(frozen=True)
class Scenes:
    """Kept scenes, and how many candidates were rejected before them."""

    variables: dict[str, np.ndarray]  # truth that needs no waveform, by contract name: (S,) or (S, R)
    streams: Streams  # of the kept scenes
    rejections: dict[str, int]  # candidates rejected before the kept ones, by the field of the gate that did it


def draw_scenes(config: Config, samples: np.ndarray) -> Scenes:
    """Draw the scenes of samples, given by their indices (S,).

    A recording, of one sample or several, is the first of its own sequence of candidates that the gate accepts, so that
    its samples depend on nothing but the configuration and their indices. The waveform is not known yet, so the gate
    judges by the SNR in the channel bandwidth. Waveforms hardly ever occupy more: in its own bandwidth every receiver
    that passed has signal, perhaps a few more have, and the dilution of precision is no larger. ConfigError if tiles of
    the terrain are missing; or if fewer than 1 candidate in 10,000 is accepted: it names the field of the gate that
    rejects most.
    """
    if config.channel.diffraction == "terrain":
        _check_tiles(config)
    emissions = config.recording.emissions
    recordings, recording_of = np.unique(samples // emissions, return_inverse=True)
    accepted = np.full(len(recordings), -1)
    counts = np.zeros(len(REASONS), dtype=int)  # of recordings
    attempt = 0
    while (pending := np.flatnonzero(accepted < 0)).size:
        kept_before = len(recordings) - pending.size
        width = _attempts(pending.size * emissions, kept=kept_before, rejected=int(counts.sum()))
        attempts = np.tile(np.arange(attempt, attempt + width), pending.size)
        verdict = _recordings_outcome(config, np.repeat(recordings[pending], width), attempts)
        verdict = verdict.reshape(pending.size, width)
        kept = verdict == len(REASONS)
        first = np.where(kept.any(axis=1), kept.argmax(axis=1), width)
        accepted[pending] = np.where(first < width, attempt + first, -1)
        tried = np.arange(width) < first[:, None]
        counts += np.bincount(verdict[tried], minlength=len(REASONS))[: len(REASONS)]
        attempt += width
        _check_acceptance(config, kept=int((accepted >= 0).sum()), counts=counts)
    streams = candidate_streams(config, samples, accepted[recording_of])
    rejections = {reason: emissions * int(count) for reason, count in zip(REASONS, counts, strict=True)}
    return Scenes(_truth(config, streams), streams, rejections)


def check_tones(config: Config) -> None:
    """Refuse tones that make the time differences of a synchronised network ambiguous.

    ConfigError if the longest delay between two receivers, in both directions, exceeds the period of the highest tone.
    """
    signal = config.signal
    highest_hz = 1 / (2 * placement.longest_delay_spread_s(config))
    if config.channel.clock == "gpsdo" and signal.tone_ratio > 0 and signal.tone_max_hz > highest_hz:
        raise ConfigError(
            f"signal.tone_max_hz: {signal.tone_max_hz:g} repeats within the longest delay of this network; "
            f"lower it to {highest_hz:.0f} or less, or set signal.tone_ratio to 0"
        )


def unexplained_diffraction_db(config: Config) -> float:
    """Standard deviation of the diffraction loss over the links of a scene, where no law of levels has it.

    Over terrain: of the first scenes that the configuration draws.
    """
    return _spread_over_terrain_db(config.model_dump_json()) if config.channel.diffraction == "terrain" else 0.0


@lru_cache(maxsize=8)
def _spread_over_terrain_db(config_json: str) -> float:
    config = Config.model_validate_json(config_json)
    truth = draw_scenes(config, np.arange(_SCENES_OF_SPREAD)).variables
    noise_dbm = losses.noise_power_dbm(config.signal.channel_bandwidth_hz, config.channel.noise_figure_db)
    heard = truth["received_power"] - noise_dbm >= config.gate.min_snr_db
    loss_db = np.where(heard, truth["diffraction_loss"], np.nan)
    variance_db2 = np.nanvar(loss_db, axis=1, ddof=1)
    return float(np.sqrt(variance_db2.mean()))


def gate_outcome(config: Config, streams: Streams) -> np.ndarray:
    """Draw candidates: index into REASONS of the condition that each fails first, len(REASONS) where none, (S,)."""
    levels, offset = _link_budget(config, streams)
    if "receiver_position_std" in levels:  # dilution is that of the stated positions, as it is stored
        receivers, transmitter = bounds.transmitter_frame(levels)
        offset = receivers - transmitter[:, None]
    gate, signal = config.gate, config.signal
    noise_dbm = losses.noise_power_dbm(signal.channel_bandwidth_hz, config.channel.noise_figure_db)
    snr_db = levels["received_power"] - noise_dbm
    heard = snr_db >= gate.min_snr_db  # False where padded, because the SNR is NaN there
    number = heard.sum(axis=1)
    mean_snr_db = np.where(heard, snr_db, 0.0).sum(axis=1) / np.maximum(number, 1)
    dilution = bounds.gdop(np.where(heard[..., None], offset, np.nan), np.zeros(3))
    passes = [
        number >= gate.min_receivers,
        mean_snr_db >= gate.min_mean_snr_db,
        dilution <= gate.max_gdop,  # False where NaN: not observable
    ]
    return np.where(passes, len(REASONS), np.arange(len(REASONS))[:, None]).min(axis=0)


def _recordings_outcome(config: Config, recordings: np.ndarray, attempts: np.ndarray) -> np.ndarray:
    """Draw candidates for recordings (N,): index into REASONS of what most emissions fail, or len(REASONS)."""
    emissions = config.recording.emissions
    samples = recordings[:, None] * emissions + np.arange(emissions)
    streams = candidate_streams(config, samples.ravel(), np.repeat(attempts, emissions))
    verdict = gate_outcome(config, streams).reshape(samples.shape)
    passing = (verdict == len(REASONS)).sum(axis=1)
    failing = (verdict[..., None] == np.arange(len(REASONS))).sum(axis=1)
    return np.where(passing / emissions >= config.gate.min_emissions, len(REASONS), failing.argmax(axis=1))


def _attempts(pending: int, kept: int, rejected: int) -> int:
    """Number of attempts at each of the pending scenes, from the acceptance so far, within one block."""
    expected = (kept + rejected + 1) / (kept + 1)
    return max(1, min(int(1.5 * expected), _BLOCK_CANDIDATES // pending, 256))


def candidate_streams(config: Config, samples: np.ndarray, attempts: np.ndarray) -> Streams:
    """Random streams of candidate scenes: attempts (S,) at samples (S,)."""
    return Streams(config.seed, samples.astype(np.uint64), attempts.astype(np.uint64))


def _link_budget(config: Config, streams: Streams) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Positions, losses and received powers of candidate scenes, all that the gate needs, by contract name.

    Each is (S) for a scene, (S, R) for a link, or (1, R) for what a fixed network has in common; NaN where no receiver
    is. Positions of receivers are the stated ones. Beside them, the way from the transmitters to where the receivers
    stand, (S, R, 3) m: east, north and up at the transmitters.
    """
    size, channel = config.max_receivers, config.channel
    recordings = streams.of_recordings(config.recording.emissions)
    stated, errors = placement.draw_receivers(config, recordings), placement.draw_position_errors(config, recordings)
    network = placement.standing_network(stated, errors)
    places = network | placement.draw_transmitters(config, streams, stated)
    if channel.diffraction == "terrain":
        places |= _altitudes_over_terrain(config, places)
    receivers, transmitter = bounds.transmitter_frame(places)
    offset = receivers - transmitter[:, None]
    distance_m = geodesy.length(offset)
    shadowing_db = channel.shadowing_sigma_db * losses.correlated_shadowing(
        streams.normal(Stage.SHADOWING, size),
        _mutual_distance_m(network),
        1e3 * channel.shadowing_distance_km,
    )
    environment_db = streams.uniform(
        Stage.ENVIRONMENT, size, channel.environment_loss_min_db, channel.environment_loss_max_db
    )
    frequency_hz = carrier_hz(config, streams)
    diffraction_db = _diffraction_db(config, places, distance_m, frequency_hz)
    path_loss = losses.path_loss_db(
        distance_m,
        frequency_hz,
        shadowing_db=shadowing_db,
        environment_db=environment_db,
        diffraction_db=diffraction_db,
    )
    line_of_sight = places["receiver_present"] & (streams.uniform(Stage.LINE_OF_SIGHT, size) >= channel.nlos_ratio)
    fading_db = _fading_db(config, streams, line_of_sight)
    levels = {
        "line_of_sight": line_of_sight,
        "propagation_delay": distance_m / SPEED_OF_LIGHT,
        "diffraction_loss": diffraction_db,
        "shadowing": shadowing_db,
        "environment_loss": environment_db,
        "fading": fading_db,
        "path_loss": path_loss,
        "received_power": places["transmitter_power"][:, None] - path_loss + fading_db,
    }
    said = {name: stated[name] for name in ("receiver_latitude", "receiver_longitude")}
    return places | said | errors | levels, offset


def carrier_hz(config: Config, streams: Streams) -> np.ndarray | float:
    """Carriers of the emissions, (S, 1) Hz, or the one that all have."""
    half_span_hz, centre_hz = config.recording.frequency_span_hz / 2, config.signal.frequency_hz
    if half_span_hz == 0:
        return centre_hz
    return streams.uniform(Stage.CARRIER_FREQUENCY, 1, centre_hz - half_span_hz, centre_hz + half_span_hz)


def _mutual_distance_m(network: dict[str, np.ndarray]) -> np.ndarray:
    """Distances between the receivers of each scene, (S, R, R) m, or (R, R) of a fixed network."""
    position = geodesy.ecef(*(network[f"receiver_{name}"] for name in ("latitude", "longitude", "altitude")))
    distance_m = geodesy.length(position[:, :, None] - position[:, None])
    return distance_m[0] if len(distance_m) == 1 else distance_m


def _fading_db(config: Config, streams: Streams, line_of_sight: np.ndarray) -> np.ndarray:
    """Power of all paths together over that of a steady first path, mean of the window, (S, R) dB."""
    channel = config.channel
    if channel.fading == "none" and channel.multipath_taps_max == 0:
        return np.zeros(line_of_sight.shape)
    paths = fading.draw_multipath(channel, streams, line_of_sight)
    return linear_to_db(fading.mean_power(paths, streams, config.signal.duration_s, channel.max_fading_hz))


def _diffraction_db(
    config: Config, places: dict[str, np.ndarray], distance_m: np.ndarray, frequency_hz: np.ndarray | float
) -> np.ndarray:
    """Diffraction loss of each link, (S, R) dB."""
    altitude_m = places["transmitter_altitude"][:, None]
    match config.channel.diffraction:
        case "none":
            return np.zeros(distance_m.shape)
        case "smooth_earth":
            return losses.smooth_earth_loss_db(distance_m, altitude_m, places["receiver_altitude"], frequency_hz)
        case _:
            return terrain.diffraction_loss_db(
                _terrain_tiles(config.channel.terrain_folder),
                places["transmitter_latitude"][:, None],
                places["transmitter_longitude"][:, None],
                altitude_m,
                places["receiver_latitude"],
                places["receiver_longitude"],
                places["receiver_altitude"],
                frequency_hz,
            )


def _terrain_tiles(folder: str) -> Heights:
    """Tiles of a folder, opened once while its files stay the same."""
    path = Path(folder)
    files = sorted(path.iterdir()) if path.is_dir() else []
    return _cached_tiles(folder, tuple((file.name, file.stat().st_mtime_ns) for file in files))


@lru_cache(maxsize=4)
def _cached_tiles(folder: str, _: tuple[tuple[str, int], ...]) -> Heights:
    return open_terrain(folder)


def _truth(config: Config, streams: Streams) -> dict[str, np.ndarray]:
    """All truth of kept scenes that needs no waveform: (S) for a scene, (S, R) for a link, (S, R, P) for its echoes."""
    channel, size = config.channel, config.max_receivers
    levels, offset = _link_budget(config, streams)
    east, north = levels["transmitter_velocity_east"], levels["transmitter_velocity_north"]
    closing = (east[:, None] * offset[..., 0] + north[:, None] * offset[..., 1]) / geodesy.length(offset)
    present = np.broadcast_to(levels["receiver_present"], levels["path_loss"].shape)
    excess_s = -channel.nlos_excess_mean_s * np.log(streams.uniform(Stage.EXCESS_DELAY, size))
    frequency_hz = carrier_hz(config, streams)
    noise_dbm = losses.noise_power_dbm(config.signal.sample_rate_hz, channel.noise_figure_db)
    paths = fading.draw_multipath(channel, streams, levels["line_of_sight"])
    truth = levels | {
        "receiver_longitude": geodesy.wrapped(levels["receiver_longitude"]),
        "excess_delay": np.where(levels["line_of_sight"], 0.0, excess_s),
        **draw_clocks(config, streams, frequency_hz),
        "doppler": closing / SPEED_OF_LIGHT * frequency_hz,
        "noise_power": np.full(present.shape, noise_dbm),
        "fading_doppler": paths.doppler_hz,
    }
    if channel.multipath_taps_max > 0:
        truth |= {
            "echo_delay": np.where(paths.power > 0, paths.delay_s, np.nan)[..., 1:],
            "echo_power": linear_to_db(np.where(paths.power > 0, paths.power, np.nan))[..., 1:],
        }
    for name, values in truth.items():
        if values.ndim > 1:
            mask = present if values.ndim == 2 else present[..., None]
            kept = np.broadcast_to(values, np.broadcast_shapes(values.shape, mask.shape))
            truth[name] = kept & mask if kept.dtype == bool else np.where(mask, kept, np.nan)
    truth |= _recording_truth(config, streams, truth) if config.has_recordings else {}
    arrival = truth["propagation_delay"] + truth["excess_delay"] + truth["clock_offset"]
    return truth | {"emission_time": np.nanmin(arrival, axis=1)}


def _recording_truth(config: Config, streams: Streams, truth: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Which recording each scene belongs to, when it begins in it, its carrier, and where references are, (S,)."""
    recording, emission = np.divmod(streams.sample.astype(np.int64), config.recording.emissions)
    reference = np.isin(emission, config.recording.reference_numbers)
    reported = {
        f"reported_{name}": np.where(reference, truth[f"transmitter_{name}"], np.nan)
        for name in ("latitude", "longitude", "altitude")
    }
    return {
        "recording": recording,
        "recording_time": emission * config.emission_period_s,
        "centre_frequency": np.broadcast_to(carrier_hz(config, streams), (len(emission), 1))[:, 0],
        **reported,
    }


def _altitudes_over_terrain(config: Config, places: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Altitudes over terrain: transmitters and drawn receivers on it, listed receivers at least above it.

    Heights of terrain are taken as altitudes; the geoid's undulation, much the same over a network, is left out.
    """
    geometry, heights = config.geometry, _terrain_tiles(config.channel.terrain_folder)
    ground, transmitter_ground = (
        height_m(heights, places[f"{who}_latitude"], places[f"{who}_longitude"]) for who in ("receiver", "transmitter")
    )
    for who, height in (("receiver", ground), ("transmitter", transmitter_ground)):
        require_heights(height, places[f"{who}_latitude"], places[f"{who}_longitude"], heights)
    mast = ground + geometry.receiver_height_m
    fixed = geometry.placement == "fixed"
    return {
        "receiver_altitude": np.fmax(places["receiver_altitude"], mast) if fixed else mast,
        "transmitter_altitude": transmitter_ground + geometry.transmitter_height_m,
    }


def _check_tiles(config: Config) -> None:
    """Look up a height in every whole degree that a scene may lie in, so that missing tiles are named at once."""
    south, north, west, east = placement.area_deg(config)
    latitude, longitude = (
        (edges[1:] + edges[:-1]) / 2
        for low, high in ((south, north), (west, east))
        for edges in [np.unique([low, *np.arange(np.ceil(low), high), high])]
    )
    folder = config.channel.terrain_folder
    try:
        height_m(_terrain_tiles(folder), latitude[:, None], longitude)
    except ValueError as error:
        names = sorted({tile_name(low, left) for low in latitude for left in longitude})
        raise ConfigError(
            f"channel.terrain_folder: {error}; these scenes take the tiles {', '.join(names)}, which "
            f"heimdall_lab.fetch_terrain({names}, {quoted(Path(folder))}) fetches"
        ) from error


def _check_acceptance(config: Config, kept: int, counts: np.ndarray) -> None:
    candidates = kept + int(counts.sum())
    required = MIN_ACCEPTANCE * candidates
    if candidates < _MIN_CANDIDATES_JUDGED or kept >= required - 4 * required**0.5:  # four standard deviations
        return
    reason = REASONS[int(counts.argmax())]
    raise ConfigError(
        f"gate.{reason}: {getattr(config.gate, reason)} rejects {counts.max()} of {candidates} "
        f"{'recordings' if config.has_recordings else 'scenes'} and "
        f"{kept} were kept, fewer than 1 in 10,000; relax it, raise the transmitter power or widen the network"
    )
