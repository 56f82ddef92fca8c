"""What is transmitted and how it is sampled: the group ``signal`` of a configuration."""

from operator import not_
from typing import Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from heimdall_lab.core.checked import CheckedModel

VOICE_BAND_HZ = (300.0, 3000.0)  # audio band of a narrow-band FM transmitter
DTMF_LOW_HZ = (697.0, 770.0, 852.0, 941.0)  # ITU-T Q.23
DTMF_HIGH_HZ = (1209.0, 1336.0, 1477.0, 1633.0)
AFSK_HZ = (1200.0, 2200.0)  # mark and space of Bell 202
FSK4_BANDWIDTH_HZ = 12.5e3  # channel of DMR, ETSI TS 102 361-1


class Signal(CheckedModel):
    """What is transmitted and how it is sampled."""

    frequency_hz: float = Field(145e6, ge=30e6, le=3e9, description="carrier frequency, Hz")
    sample_rate_hz: float = Field(50e3, ge=1e3, le=50e6, description="complex samples per second, Hz")
    duration_s: float = Field(0.2, gt=0, le=60, description="length of each receiver's window, s")
    channel_bandwidth_hz: float = Field(12.5e3, gt=0, description="channel of the waveforms by Carson's rule, Hz")
    deviation_hz: float = Field(2.5e3, gt=0, description="peak frequency deviation of the FM waveforms, Hz")
    transmitter_power_min_dbm: float = Field(10.0, ge=-60, le=90, description="lowest transmitter power, dBm")
    transmitter_power_max_dbm: float = Field(37.0, ge=-60, le=90, description="highest transmitter power, dBm")
    voice_ratio: float = Field(0.9, ge=0, le=1, description="share of scenes with NBFM voice")
    tone_ratio: float = Field(0.05, ge=0, le=1, description="share of scenes with one FM tone")
    dual_tone_ratio: float = Field(0.05, ge=0, le=1, description="share of scenes with an FM dual tone (DTMF)")
    noise_ratio: float = Field(0.0, ge=0, le=1, description="share of scenes with band-limited noise")
    fsk4_ratio: float = Field(0.0, ge=0, le=1, description="share of scenes with 4-FSK data, as DMR sends")
    afsk1200_ratio: float = Field(0.0, ge=0, le=1, description="share of scenes with AFSK 1200 packets, as APRS sends")
    voice_folder: str = Field(
        "", description="folder of WAV files whose excerpts are the voices; without it they are synthesised"
    )
    pause_ratio: float = Field(
        0.0,
        ge=0,
        le=0.9,
        exclude_if=not_,
        description="share of the time for which synthesised voices pause between phrases",
    )
    limiter_reference: Literal["recording", "window"] = Field(
        "recording",
        description="what the limiter's amplifier brings to its level, of voices from WAV files: the speech of the "
        "whole recording, whose pauses stay quiet, or whatever each window holds",
    )
    tone_min_hz: float = Field(300.0, gt=0, description="lowest single tone, Hz")
    tone_max_hz: float = Field(
        700.0,
        gt=0,
        description="highest single tone, Hz; it repeats, so a period shorter than the delays makes them ambiguous",
    )
    noise_bandwidth_hz: float = Field(10e3, ge=1e3, description="bandwidth of the band-limited noise, Hz")

    @property
    def num_time(self) -> int:
        """Number of IQ samples in each window."""
        return round(self.sample_rate_hz * self.duration_s)

    @property
    def interpolation(self) -> int:
        """Samples per sample of the waveform, which is made at a rate of at least four times its channel."""
        return max(1, int(self.sample_rate_hz / (4 * self.channel_bandwidth_hz)))

    @property
    def waveform_rate_hz(self) -> float:
        """Complex samples per second at which waveforms are made, Hz."""
        return self.sample_rate_hz / self.interpolation

    @model_serializer(mode="wrap")
    def _used(self, fields_of: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what came later and is of WAV files alone, as fields do that say ``exclude_if``."""
        fields: dict[str, Any] = fields_of(self)
        return {name: value for name, value in fields.items() if name != "limiter_reference" or self.voice_folder}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self._require_order("transmitter_power_min_dbm", "transmitter_power_max_dbm")
        self._require_order("tone_min_hz", "tone_max_hz")
        ratios = [name for name in type(self).model_fields if name.endswith("_ratio") and name != "pause_ratio"]
        total = sum(getattr(self, name) for name in ratios)
        self._require(abs(total - 1) < 1e-9, f"{' + '.join(ratios)} is {total:g}; make them add up to 1")
        self._require(
            self.pause_ratio == 0 or not self.voice_folder,
            f"pause_ratio {self.pause_ratio:g} is of synthesised voices, and voice_folder names recordings, which have "
            "pauses of their own; set it to 0 or voice_folder to ''",
        )
        self._require(
            self.noise_ratio == 0 or self.noise_bandwidth_hz <= self.channel_bandwidth_hz,
            f"noise_bandwidth_hz {self.noise_bandwidth_hz:g} exceeds channel_bandwidth_hz "
            f"{self.channel_bandwidth_hz:g}; make it narrower",
        )
        highest_hz = {
            VOICE_BAND_HZ[1]: self.voice_ratio,
            self.tone_max_hz: self.tone_ratio,
            DTMF_HIGH_HZ[-1]: self.dual_tone_ratio,
            AFSK_HZ[-1]: self.afsk1200_ratio,
        }
        modulation_hz = max((highest for highest, ratio in highest_hz.items() if ratio > 0), default=0.0)
        carson = 2 * (self.deviation_hz + modulation_hz)  # Carson's rule
        self._require(
            modulation_hz == 0 or carson <= self.channel_bandwidth_hz,
            f"deviation_hz {self.deviation_hz:g} with modulation up to {modulation_hz:g} Hz occupies {carson:g} Hz, "
            f"more than channel_bandwidth_hz {self.channel_bandwidth_hz:g}; lower deviation_hz or widen the channel",
        )
        self._require(
            self.fsk4_ratio == 0 or self.channel_bandwidth_hz >= FSK4_BANDWIDTH_HZ,
            f"channel_bandwidth_hz {self.channel_bandwidth_hz:g} is narrower than the {FSK4_BANDWIDTH_HZ:g} Hz of "
            "4-FSK; widen it or set fsk4_ratio to 0",
        )
        self._require(
            self.num_time >= 256,
            f"duration_s {self.duration_s:g} holds {self.num_time} samples; at least 256 are needed, so lengthen it",
        )
        return self
