"""Configuration of a simulated dataset: frozen pydantic models with bounds and units."""

import math
from functools import partial
from operator import eq, not_
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from heimdall_lab.core.checked import NAME, CheckedModel
from heimdall_lab.core.receivers import Receiver, italian_network, longitudes_deg, read_receivers
from heimdall_lab.core.text import listed, quoted
from heimdall_lab.core.transmission import Signal
from heimdall_lab.core.units import METRES_PER_DEGREE, SPEED_OF_LIGHT

MAX_RECEIVERS = 15
MAX_TAPS = 5
MAX_SHARD_SAMPLES = 2**28  # 1 GiB of IQ
MAX_POSITION_STD_M = 10e3  # of simulated receivers: beyond, they stand in another network
CLOCK_SIGMA_S = {
    "gpsdo": 50e-9,  # normal
    "gps_stamped": 200e-9,  # normal, of every window anew
    "ntp": 1e-3,  # normal
    "none": 20e-3 / 12**0.5,  # uniform within ±10 ms
}
CLOCK_ADEV = {"tcxo": 1e-9, "ocxo": 1e-11}  # Allan deviation at 1 s, typical

MAX_NORMAL = 6.8  # sqrt(2 · 33 · ln 2) = 6.76: no normal drawn from 32-bit uniforms is larger
MAX_EXPONENTIAL = 23.0  # -ln(1 / 2³³) = 22.9: no exponential drawn from 32-bit uniforms is larger
DOPPLER_BY_COHERENCE = (9 / (16 * math.pi)) ** 0.5  # Rappaport, Wireless Communications, 2nd ed., eq. (5.40.c)


def _allan_deviation(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return CLOCK_ADEV[value.lower()] if value.lower() in CLOCK_ADEV else float(value)
    except ValueError:
        raise ValueError(
            f"{quoted(value)} is no kind of oscillator; give {' or '.join(CLOCK_ADEV)}, or a number"
        ) from None


def _receivers_or_path(value: Any) -> Any:
    return read_receivers(value) if isinstance(value, str | Path) else value


class Geometry(CheckedModel):
    """Where receivers and transmitters stand."""

    placement: Literal["fixed", "random", "hexagonal"] = Field(
        "fixed",
        description="fixed: the listed receivers; random: drawn for each scene, uniform in the area; hexagonal: drawn "
        "for each scene from a hexagonal lattice of random orientation over the area",
    )
    receivers: Annotated[tuple[Receiver, ...], BeforeValidator(_receivers_or_path)] = Field(
        default_factory=italian_network,
        min_length=3,
        max_length=MAX_RECEIVERS,
        description="the receivers of a fixed placement, or the path of a CSV file that lists them; where one states "
        "position_std_m, it stands as far off in every scene",
    )
    num_receivers_min: int = Field(
        5, ge=3, le=MAX_RECEIVERS, description="fewest receivers of a random or hexagonal placement"
    )
    num_receivers_max: int = Field(
        10, ge=3, le=MAX_RECEIVERS, description="most receivers of a random or hexagonal placement"
    )
    centre_latitude_deg: float = Field(
        45.0, ge=-80, le=80, description="centre of the area of a random or hexagonal placement, degrees north"
    )
    centre_longitude_deg: float = Field(
        8.1, ge=-180, le=180, description="centre of the area of a random or hexagonal placement, degrees east"
    )
    extent_km: float = Field(
        120.0, ge=1, le=500, description="side of the square area of a random or hexagonal placement, km"
    )
    receiver_altitude_min_m: float = Field(
        100.0, ge=-500, le=9000, description="lowest receiver altitude of a random or hexagonal placement, m"
    )
    receiver_altitude_max_m: float = Field(
        600.0, ge=-500, le=9000, description="highest receiver altitude of a random or hexagonal placement, m"
    )
    receiver_height_m: float = Field(
        10.0, ge=1, le=500, description="over terrain: least height of receiving antennas above the ground, m"
    )
    transmitter_height_m: float = Field(
        2.0, ge=1, le=500, description="over terrain: height of the transmitting antenna above the ground, m"
    )
    transmitter_speed_max_m_s: float = Field(
        0.0, ge=0, le=300, description="transmitters move horizontally, at a speed uniform between 0 and this, m/s"
    )
    inside_ratio: float = Field(0.7, ge=0, le=1, description="share of transmitters inside the receivers' box")
    margin_deg: float = Field(
        0.2, ge=0, le=10, description="widening of the box for the other transmitters, degrees on every side"
    )
    transmitter_altitude_min_m: float = Field(100.0, ge=-500, le=9000, description="lowest transmitter altitude, m")
    transmitter_altitude_max_m: float = Field(600.0, ge=-500, le=9000, description="highest transmitter altitude, m")

    @property
    def transmitter_altitude_sigma_m(self) -> float:
        """Standard deviation of the transmitters' altitudes, uniform between lowest and highest."""
        return (self.transmitter_altitude_max_m - self.transmitter_altitude_min_m) / math.sqrt(12)

    @property
    def num_receivers(self) -> tuple[int, int]:
        """Fewest and most receivers of a scene."""
        if self.placement == "fixed":
            return len(self.receivers), len(self.receivers)
        return self.num_receivers_min, self.num_receivers_max

    @property
    def longitudes_deg(self) -> tuple[float, ...]:
        """Longitudes of the listed receivers, counted on beyond 180 where the network lies across that meridian."""
        return longitudes_deg(self.receivers)

    @property
    def position_std_m(self) -> tuple[float, ...]:
        """Standard deviation of the listed receivers' positions, along east and along north: 0 where none is stated."""
        return tuple(receiver.position_std_m or 0.0 for receiver in self.receivers)

    @property
    def states_positions(self) -> bool:
        """Whether a fixed network says how well any of its receivers' positions is known."""
        return self.placement == "fixed" and any(receiver.position_std_m is not None for receiver in self.receivers)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for name, unit in (("transmitter_altitude", "_m"), ("receiver_altitude", "_m"), ("num_receivers", "")):
            self._require_order(f"{name}_min{unit}", f"{name}_max{unit}")
        names = [receiver.name for receiver in self.receivers]
        self._require(
            len(set(names)) == len(names), f"receivers: two have the same name in {listed(names)}; rename one"
        )
        latitudes = [receiver.latitude_deg for receiver in self.receivers]
        longitudes = self.longitudes_deg
        self._require(
            max(longitudes) - min(longitudes) <= 10 and max(latitudes) - min(latitudes) <= 10,
            "receivers: latitudes or longitudes span more than 10 degrees; line-of-sight links need receivers closer "
            "together",
        )
        self._require(
            max(map(abs, latitudes)) + self.margin_deg <= 85,
            "receivers: latitudes plus margin_deg reach beyond 85 degrees; move the network off the pole",
        )
        for receiver, std_m in zip(self.receivers, self.position_std_m, strict=True):
            self._require(
                std_m <= MAX_POSITION_STD_M,
                f"receivers: {receiver.name} states a position_std_m of {std_m:g}, more than {MAX_POSITION_STD_M:g} m, "
                "which no simulated network can; lower it",
            )
        places = set(zip(latitudes, longitudes, strict=True))
        self._require(
            len(places) >= 3,
            f"receivers: the {len(self.receivers)} listed stand at {len(places)} places; spread them over at least 3",
        )
        farthest_deg = abs(self.centre_latitude_deg) + self.extent_km * 1e3 / METRES_PER_DEGREE + self.margin_deg
        self._require(
            self.placement == "fixed" or farthest_deg <= 85,
            f"centre_latitude_deg {self.centre_latitude_deg:g} with extent_km {self.extent_km:g} and margin_deg "
            f"{self.margin_deg:g} reaches beyond 85 degrees; move the area off the pole or make it smaller",
        )
        return self


class Channel(CheckedModel):
    """What happens between the transmitter's antenna and the stored samples."""

    clock: Literal["gpsdo", "gps_stamped", "ntp", "none"] = Field(
        "gpsdo",
        description="receiver synchronisation: gpsdo (50 ns), gps_stamped (200 ns, of every window anew), ntp (1 ms) "
        "or none (uniform ±10 ms)",
    )
    clock_rate_max_ppm: float = Field(
        0.0,
        ge=0,
        le=200,
        exclude_if=not_,
        description="rates of the receivers' sample clocks are uniform within plus or minus this, ppm",
    )
    clock_adev: Annotated[float, BeforeValidator(_allan_deviation)] = Field(
        0.0,
        ge=0,
        le=1e-6,
        exclude_if=not_,
        description="Allan deviation of the receivers' clocks at 1 s: 1e-9 as of a tcxo, 1e-11 as of an ocxo; either "
        "name is taken too",
    )
    clock_walk_time_s: float = Field(
        100.0,
        gt=0,
        le=1e6,
        exclude_if=partial(eq, 100.0),
        description="averaging time, long against 1 s, from which the random walk of the clocks' rates, and no longer "
        "their white noise, makes most of the Allan deviation, s",
    )
    one_crystal: bool = Field(
        False,
        exclude_if=not_,
        description="one crystal drives tuner and sample clock of a receiver: its frequency offset is minus its "
        "rate times the carrier; the rate is then within plus or minus frequency_offset_max_hz of the carrier where "
        "clock_rate_max_ppm is 0",
    )
    stamp_resolution_s: float = Field(
        0.0,
        ge=0,
        le=1e-2,
        exclude_if=not_,
        description="step of the windows' time stamps, to which they are rounded, s",
    )
    stamp_jitter_s: float = Field(
        0.0,
        ge=0,
        le=1e-2,
        exclude_if=not_,
        description="standard deviation of the windows' time stamps, of every window anew, s",
    )
    frequency_offset_max_hz: float = Field(
        50.0, ge=0, le=5e3, description="oscillator errors are uniform within plus or minus this, Hz"
    )
    frequency_drift_max_hz_per_s: float = Field(
        0.1, ge=0, le=100, description="oscillator drifts are uniform within plus or minus this, Hz/s"
    )
    diffraction: Literal["none", "smooth_earth", "terrain"] = Field(
        "smooth_earth",
        description="loss beyond free space: none, over a smooth Earth of 4/3 radius, or over terrain profiles too",
    )
    terrain_folder: str = Field("", description="folder of SRTM .hgt or GeoTIFF tiles, for diffraction over terrain")
    shadowing_sigma_db: float = Field(4.0, ge=0, le=20, description="standard deviation of log-normal shadowing, dB")
    shadowing_distance_km: float = Field(
        1.0, ge=0, le=100, description="distance of two receivers at which their shadowing correlates by 1/e, km"
    )
    environment_loss_min_db: float = Field(5.0, ge=0, le=60, description="lowest environment loss of a link, dB")
    environment_loss_max_db: float = Field(15.0, ge=0, le=60, description="highest environment loss of a link, dB")
    fading: Literal["none", "rayleigh", "rician"] = Field(
        "none",
        description="small-scale fading: none, rayleigh, or rician in line of sight (rayleigh elsewhere)",
    )
    rician_k_db: float = Field(10.0, ge=-20, le=40, description="power of the steady over the scattered part, dB")
    coherence_time_min_s: float = Field(0.05, ge=1e-3, le=100, description="shortest coherence time of a link, s")
    coherence_time_max_s: float = Field(0.2, ge=1e-3, le=100, description="longest coherence time of a link, s")
    multipath_taps_min: int = Field(0, ge=0, le=MAX_TAPS, description="fewest echoes of a link after the first path")
    multipath_taps_max: int = Field(0, ge=0, le=MAX_TAPS, description="most echoes of a link after the first path")
    multipath_delay_min_s: float = Field(0.5e-6, ge=0, le=1e-3, description="least delay of an echo, s")
    multipath_delay_max_s: float = Field(5e-6, ge=0, le=1e-3, description="greatest delay of an echo, s")
    multipath_power_min_db: float = Field(-25.0, ge=-60, le=-3, description="weakest echo over the first path, dB")
    multipath_power_max_db: float = Field(-10.0, ge=-60, le=-3, description="strongest echo over the first path, dB")
    nlos_ratio: float = Field(0.0, ge=0, le=1, description="share of links without line of sight")
    nlos_excess_mean_s: float = Field(
        2e-6, gt=0, le=1e-4, description="mean of the exponential excess delay of links without line of sight, s"
    )
    noise_figure_db: float = Field(
        12.0, ge=0, le=60, description="receiver noise figure, external noise included, dB over k·290 K·B"
    )
    agc_headroom_db: float = Field(
        12.0, ge=9, le=60, description="full scale of the converter over the rms level in the window, dB"
    )

    @property
    def clock_sigma_s(self) -> float:
        """Standard deviation of one receiver's clock error, s."""
        return CLOCK_SIGMA_S[self.clock]

    @property
    def excess_delay_sigma_s(self) -> float:
        """Standard deviation of a link's excess delay, over links with and without line of sight, s.

        Of a share p of exponential delays of mean m: the variance is 2 p m² − (p m)².
        """
        return float(self.nlos_excess_mean_s * (self.nlos_ratio * (2 - self.nlos_ratio)) ** 0.5)

    @property
    def max_excess_delay_s(self) -> float:
        """Largest excess delay that can be drawn, s."""
        return MAX_EXPONENTIAL * self.nlos_excess_mean_s if self.nlos_ratio > 0 else 0.0

    @property
    def rate_walk_density(self) -> float:
        """Growth of the variance of a clock's rate by random walk, 1/s.

        It is that whose Allan deviation, sqrt(density · τ / 3), is that of the white noise, clock_adev · sqrt(1 s / τ),
        at τ of clock_walk_time_s.
        """
        return 3 * self.clock_adev**2 / self.clock_walk_time_s**2

    @property
    def max_fading_hz(self) -> float:
        """Largest Doppler shift of scattered waves, 0 without fading, Hz."""
        return 0.0 if self.fading == "none" else DOPPLER_BY_COHERENCE / self.coherence_time_min_s

    @property
    def link_sigma_db(self) -> float:
        """Standard deviation of a link's loss about its law of distance, shadowing and environment together, dB."""
        spread = self.environment_loss_max_db - self.environment_loss_min_db
        return float((self.shadowing_sigma_db**2 + spread**2 / 12) ** 0.5)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for name, unit in (
            ("environment_loss", "db"),
            ("coherence_time", "s"),
            ("multipath_delay", "s"),
            ("multipath_power", "db"),
        ):
            self._require_order(f"{name}_min_{unit}", f"{name}_max_{unit}")
        self._require_order("multipath_taps_min", "multipath_taps_max")
        self._require(
            (self.diffraction == "terrain") == bool(self.terrain_folder),
            f"terrain_folder: is {quoted(self.terrain_folder)} with diffraction {self.diffraction!r}; diffraction "
            "'terrain' needs a folder of height tiles, and only it takes one",
        )
        return self


class Recording(CheckedModel):
    """How many emissions are heard with the same receivers, oscillators and clocks, one after the other."""

    emissions: int = Field(1, ge=1, le=1000, description="emissions in a recording; each is a scene")
    references: int = Field(
        0, ge=0, le=1000, description="how many of a recording's emissions come from places that are known beforehand"
    )
    gap_s: float = Field(1.0, ge=0, le=3600, description="time between the windows of two emissions, s")
    frequency_span_hz: float = Field(
        0.0,
        ge=0,
        le=100e6,
        description="carriers of a recording's emissions are uniform within plus or minus half of this, Hz",
    )

    @property
    def reference_numbers(self) -> tuple[int, ...]:
        """Which emissions of a recording are references: spread from the first one to the last."""
        last, count = self.emissions - 1, self.references
        return tuple(round(k * last / max(count - 1, 1)) for k in range(count))

    @model_validator(mode="after")
    def _fewer_references(self) -> Self:
        self._require(
            self.references == 0 or self.references < self.emissions,
            f"references is {self.references} of {self.emissions} emissions, which leaves none to locate; lower it or "
            "raise emissions",
        )
        self._require(
            self.frequency_span_hz == 0 or self.emissions > 1,
            f"frequency_span_hz is {self.frequency_span_hz:g}, but a recording has 1 emission; raise emissions, or set "
            "signal.frequency_hz",
        )
        return self


class Gate(CheckedModel):
    """Which drawn scenes are kept."""

    min_snr_db: float = Field(
        3.0, ge=-30, le=60, description="SNR in the occupied bandwidth from which a receiver has signal, dB"
    )
    min_receivers: int = Field(4, ge=3, le=MAX_RECEIVERS, description="fewest receivers with signal")
    min_mean_snr_db: float = Field(
        5.0, ge=-30, le=90, description="lowest mean SNR, in the channel bandwidth, of the receivers heard in it, dB"
    )
    max_gdop: float = Field(
        200.0, gt=0, description="highest horizontal TDOA dilution of precision; 100 by default for feature_based"
    )
    min_emissions: float = Field(
        1.0,
        gt=0,
        le=1,
        exclude_if=partial(eq, 1.0),
        description="least share of a recording's emissions that pass; else none of them is kept",
    )


class Config(CheckedModel):
    """Everything that, with the package version and the files in the folders it names, determines a dataset."""

    name: str = Field("custom", pattern=NAME, description="name of the dataset")
    data_type: Literal["iq_raw", "feature_based"] = Field(
        "iq_raw",
        description="what is stored of the signals: iq_raw (IQ samples and features) or feature_based (features, "
        "spectrograms and time differences, no IQ)",
    )
    seed: int = Field(0, ge=0, lt=2**64, description="seed of every random draw")
    num_samples: int = Field(96, ge=1, lt=2**32, description="number of scenes kept")
    shard_size: int = Field(64, ge=1, le=100_000, description="scenes in one netCDF file")
    max_receivers: int = Field(
        7, ge=3, le=MAX_RECEIVERS, description="length of the receiver dimension; missing receivers are padded"
    )
    geometry: Geometry = Field(default_factory=Geometry, description="where receivers and transmitters stand")
    signal: Signal = Field(default_factory=Signal, description="what is transmitted and how it is sampled")
    channel: Channel = Field(default_factory=Channel, description="what happens on the way")
    recording: Recording = Field(
        default_factory=Recording,
        exclude_if=partial(eq, Recording()),
        description="which scenes are heard with the same oscillators and clocks",
    )
    gate: Gate = Field(default_factory=Gate, description="which scenes are kept")

    @model_validator(mode="before")
    @classmethod
    def _stricter_without_iq(cls, fields: Any) -> Any:
        """Scenes of feature_based datasets have a GDOP of 100 at most, unless the gate says otherwise."""
        if not isinstance(fields, dict) or fields.get("data_type") != "feature_based":
            return fields
        gate = fields.get("gate", {})
        return {**fields, "gate": {"max_gdop": 100.0, **gate}} if isinstance(gate, dict) else fields

    @property
    def has_recordings(self) -> bool:
        """Whether scenes share recordings."""
        return self.recording.emissions > 1

    @property
    def scenes_per_shard(self) -> int:
        """Scenes in one netCDF file but the last: ``shard_size``, rounded up to whole recordings."""
        return -(-self.shard_size // self.recording.emissions) * self.recording.emissions

    @property
    def num_shards(self) -> int:
        """Number of netCDF files."""
        return -(-self.num_samples // self.scenes_per_shard)

    @property
    def emission_period_s(self) -> float:
        """Time from the beginning of a recording's window to that of the next one, s."""
        return self.signal.duration_s + self.recording.gap_s

    @property
    def last_emission_s(self) -> float:
        """Time from the beginning of a recording's first window to that of its last one, s."""
        return (self.recording.emissions - 1) * self.emission_period_s

    @property
    def max_frequency_hz(self) -> float:
        """Highest carrier of an emission, Hz."""
        return self.signal.frequency_hz + self.recording.frequency_span_hz / 2

    @property
    def first_rate_max(self) -> float:
        """Largest rate of a receiver's sample clock in a recording's first window."""
        if self.channel.one_crystal and self.channel.clock_rate_max_ppm == 0:
            return self.channel.frequency_offset_max_hz / self.signal.frequency_hz
        return self.channel.clock_rate_max_ppm * 1e-6

    @property
    def rate_walk_sigma(self) -> float:
        """Standard deviation of what random walk adds to the rate of a clock in a recording."""
        return (self.channel.rate_walk_density * self.last_emission_s) ** 0.5

    @property
    def clock_rate_max(self) -> float:
        """Largest rate of a receiver's sample clock."""
        drift_hz_per_s = self.channel.frequency_drift_max_hz_per_s if self.channel.one_crystal else 0.0
        drift = drift_hz_per_s / self.signal.frequency_hz * self.last_emission_s
        return self.first_rate_max + drift + MAX_NORMAL * self.rate_walk_sigma

    @property
    def folders(self) -> dict[str, str]:
        """Folders whose files take part in the simulation, by the field that names them."""
        named = {
            "channel.terrain_folder": self.channel.terrain_folder,
            "signal.voice_folder": self.signal.voice_folder,
        }
        return {field: folder for field, folder in named.items() if folder}

    @property
    def has_clock_rates(self) -> bool:
        """Whether the receivers' sample clocks run at other rates than nominal."""
        return self.clock_rate_max > 0

    @property
    def max_frequency_offset_hz(self) -> float:
        """Largest magnitude of a link's frequency error: oscillator, drift, motion and fading together, Hz."""
        highest = self.max_frequency_hz / self.signal.frequency_hz
        drift_hz_per_s = self.channel.frequency_drift_max_hz_per_s * highest
        if self.channel.one_crystal:
            oscillator_hz = self.clock_rate_max * self.max_frequency_hz
        else:
            oscillator_hz = self.channel.frequency_offset_max_hz * highest + drift_hz_per_s * self.last_emission_s
        drift_hz = drift_hz_per_s * self.signal.duration_s / 2
        doppler_hz = self.geometry.transmitter_speed_max_m_s / SPEED_OF_LIGHT * self.max_frequency_hz
        return oscillator_hz + drift_hz + doppler_hz + self.channel.max_fading_hz

    @model_validator(mode="after")
    def _fits(self) -> Self:
        band_hz = self.signal.channel_bandwidth_hz + 2 * self.max_frequency_offset_hz
        self._require(
            2 * band_hz <= self.signal.sample_rate_hz,
            f"signal.sample_rate_hz {self.signal.sample_rate_hz:g} is below {2 * band_hz:g}, twice the channel with "
            "frequency errors on both sides; half of the band must show noise alone, so raise it",
        )
        _, most = self.geometry.num_receivers
        source = "geometry.receivers lists" if self.geometry.placement == "fixed" else "geometry.num_receivers_max is"
        self._require(
            most <= self.max_receivers,
            f"max_receivers is {self.max_receivers} but {source} {most}; set max_receivers to at least {most}",
        )
        samples = self.signal.num_time * self.max_receivers
        self._require(
            samples <= MAX_SHARD_SAMPLES,
            f"signal.duration_s {self.signal.duration_s:g} makes {samples:.3g} samples of max_receivers "
            f"{self.max_receivers}, more than the {MAX_SHARD_SAMPLES:.3g} that memory must hold; shorten it",
        )
        in_shard = min(self.scenes_per_shard, self.num_samples) * samples
        self._require(
            in_shard <= MAX_SHARD_SAMPLES,
            f"shard_size {self.shard_size}, in whole recordings, makes {in_shard:.3g} samples in a shard, more than "
            f"the {MAX_SHARD_SAMPLES:.3g} that memory must hold; lower it to {MAX_SHARD_SAMPLES // samples} or less",
        )
        self._require(
            self.channel.clock_adev == 0 or self.has_recordings,
            f"channel.clock_adev is {self.channel.clock_adev:g}, but clocks walk in recordings of several emissions; "
            "raise recording.emissions, or set it to 0",
        )
        gained_s = self.clock_rate_max * self.last_emission_s
        self._require(
            gained_s <= self.signal.duration_s / 2,
            f"recording.gap_s {self.recording.gap_s:g} lets clocks gain {gained_s:g} s in a recording, more than "
            "half a window, so that these no longer overlap; lower it, .emissions or channel.clock_rate_max_ppm",
        )
        drift_hz = self.channel.frequency_drift_max_hz_per_s * self.last_emission_s
        self._require(
            drift_hz <= max(self.channel.frequency_offset_max_hz, self.first_rate_max * self.signal.frequency_hz),
            f"channel.frequency_drift_max_hz_per_s {self.channel.frequency_drift_max_hz_per_s:g} makes oscillators "
            f"drift by {drift_hz:g} Hz in a recording of {self.last_emission_s:g} s, further than they are off at its "
            "beginning; lower it, or recording.gap_s or .emissions",
        )
        shortest_s = 40 / self.signal.sample_rate_hz
        self._require(
            self.channel.fading == "none" or self.channel.coherence_time_min_s >= shortest_s,
            f"channel.coherence_time_min_s {self.channel.coherence_time_min_s:g} is shorter than 40 samples, too fast "
            f"for gains that follow it every second sample; make it at least {shortest_s:g}",
        )
        longest_s = 0.1 / self.signal.channel_bandwidth_hz
        self._require(
            self.channel.multipath_taps_max == 0 or self.channel.multipath_delay_max_s <= longest_s,
            f"channel.multipath_delay_max_s {self.channel.multipath_delay_max_s:g} is longer than a tenth of the "
            f"inverse of signal.channel_bandwidth_hz, so that powers would not be those of paths added at the "
            f"carrier; make it at most {longest_s:g}",
        )
        self._require(
            self.gate.min_receivers <= most,
            f"gate.min_receivers is {self.gate.min_receivers} but {source} only {most}; lower it",
        )
        return self
