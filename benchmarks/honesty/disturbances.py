"""Ways in which the world differs from what a dataset says of itself, each a function from a dataset to another.

What is returned holds the truth of the disturbed world, and says of itself what the undisturbed one said: attributes,
stated positions and configuration are what estimators believe. The variable ``disturbed`` (sample, receiver) marks
links that contradict this. A new disturbance goes to `DISTURBANCES`.
"""

import json
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import scipy.fft
import xarray as xr

import heimdall_lab as hl
from heimdall_lab.core import geodesy
from heimdall_lab.core.presets import build
from heimdall_lab.core.transmission import Signal
from heimdall_lab.core.units import ADC_MAX
from heimdall_lab.datasets import schema
from heimdall_lab.signals import features

DISTURBED = "disturbed"
BAND_EDGE_HZ = 6.25e3  # of a channel of 12.5 kHz, from its centre
FILTER_EDGE_HZ, FILTER_FALL_HZ = 9e3, 1e3
HIGH_M = 9000.0
_SILENCE = {name: 0.0 for name in Signal.model_fields if name.endswith("_ratio")}
EXACT_OSCILLATORS = {  # windows in which half a hertz turns the phase twice, of no more samples than others
    "channel": {"frequency_offset_max_hz": 0.0, "frequency_drift_max_hz_per_s": 0.0},
    "signal": {
        **_SILENCE,
        "noise_ratio": 1.0,
        "noise_bandwidth_hz": 1e3,
        "channel_bandwidth_hz": 1.25e3,
        "sample_rate_hz": 3e3,
        "duration_s": 4.0,
    },
}
_CONTINENT = (  # 1,000 km from south to north, and 990 km from west to east
    ("South-west", 20.5, 5.1),
    ("South", 20.6, 10.2),
    ("South-east", 20.9, 14.9),
    ("Middle", 24.8, 9.7),
    ("North-west", 29.3, 5.3),
    ("North", 29.5, 9.5),
    ("North-east", 29.0, 14.8),
)
_MERIDIAN_LATITUDES_DEG = (44.5, 44.7, 44.95, 45.2, 45.5)


class Disturbance(NamedTuple):
    """What differs, in a few words and in a sentence, and the function that makes it so."""

    title: str
    about: str
    disturb: Callable[[xr.Dataset], xr.Dataset]


def late_clock(dataset: xr.Dataset, delay_s: float) -> xr.Dataset:
    """Set one receiver's clock of each scene so that signals arrive later by a delay.

    Of a dataset with IQ, its samples are delayed around the ends of the window; else the measured delays are.
    """
    receiver = _one_receiver(dataset)
    late = _mark(dataset, receiver)
    late = _with_truth(late, "clock_offset", delay_s * late[DISTURBED])
    if "iq" in dataset:
        return _filtered(late, receiver, lambda frequency_hz: np.exp(-2j * np.pi * frequency_hz * delay_s))
    arrival_s = late.tdoa_s + delay_s * late[DISTURBED]
    of_reference = arrival_s.isel(receiver=late.reference_receiver).drop_vars(["receiver", "receiver_name"])
    return late.assign(tdoa_s=(arrival_s - of_reference).assign_attrs(late.tdoa_s.attrs))


def unequal_filter(dataset: xr.Dataset, delay_s: float) -> xr.Dataset:
    """Give one receiver of each scene an all-pass filter whose group delay grows with the frequency's square.

    It is 0 at the centre of the channel, ``delay_s`` at its edge, and no more beyond.
    """
    receiver = _one_receiver(dataset)

    def response(frequency_hz: np.ndarray) -> np.ndarray:
        share = np.abs(frequency_hz) / BAND_EDGE_HZ
        # Turns: the integral of the group delay from 0 to the frequency, negative.
        turns = BAND_EDGE_HZ * delay_s * np.where(share < 1, share**3 / 3, share - 2 / 3)
        return np.exp(-2j * np.pi * np.sign(frequency_hz) * turns)

    return _filtered(_mark(dataset, receiver), receiver, response)


def channel_filters(dataset: xr.Dataset) -> xr.Dataset:
    """Give all receivers one linear-phase filter of a channel, 80 dB down beyond it, before samples are converted."""
    frequency_hz = scipy.fft.fftfreq(dataset.sizes["time"], 1 / dataset.attrs["sample_rate_hz"])
    share = ((np.abs(frequency_hz) - FILTER_EDGE_HZ) / FILTER_FALL_HZ + 0.5).clip(0, 1)
    gain = np.maximum(np.cos(np.pi / 2 * share), 1e-4).astype(np.float32)
    filtered = dataset
    for receiver in range(dataset.sizes["receiver"]):
        each = np.full(dataset.sizes["sample"], receiver)
        filtered = _resampled(filtered, each, lambda samples: scipy.fft.ifft(scipy.fft.fft(samples) * gain))
    return _measured_again(filtered)


def oscillator_off(dataset: xr.Dataset, offset_hz: float) -> xr.Dataset:
    """Detune one receiver's oscillator in scenes of `EXACT_OSCILLATORS`: long windows of a narrow signal."""
    exact = _generated_with(dataset, EXACT_OSCILLATORS)
    receiver = _one_receiver(exact)
    exact = _mark(exact, receiver)
    time_s = exact.time.values - exact.attrs["duration_s"] / 2
    turning = np.exp(2j * np.pi * offset_hz * time_s)
    detuned = _with_samples(exact, receiver, lambda samples: samples * turning)
    return _with_truth(detuned, "frequency_offset", offset_hz * detuned[DISTURBED])


def misplaced_receiver(dataset: xr.Dataset, distance_m: float) -> xr.Dataset:
    """State the position of one receiver of each scene wrongly, by a distance in a random direction."""
    receiver = _one_receiver(dataset)
    moved = _mark(dataset, receiver)
    turn = 2 * np.pi * _generator(dataset, "direction").random(len(receiver))[:, None]
    latitude, longitude = geodesy.displace(
        moved.receiver_latitude.values,
        moved.receiver_longitude.values,
        distance_m * np.sin(turn),
        distance_m * np.cos(turn),
    )
    stated = {"receiver_latitude": latitude, "receiver_longitude": longitude}
    return _unmeasured(
        moved.assign({name: moved[name].where(~moved[DISTURBED], values) for name, values in stated.items()})
    )


def high_transmitter(dataset: xr.Dataset, said_within_m: float | None = None) -> xr.Dataset:
    """Lift all transmitters to 9 km, while the attributes go on saying that they are near the ground.

    Where it is said how high they are, that is a number with a normal error of this standard deviation.
    """
    altitude = {"geometry.transmitter_altitude_min_m": HIGH_M, "geometry.transmitter_altitude_max_m": HIGH_M}
    lifted = _generated_with(dataset, altitude).assign_attrs(dataset.attrs)
    if said_within_m is None:
        return lifted
    count = lifted.sizes["sample"]
    error_m = said_within_m * _generator(dataset, "altitude").standard_normal(count)
    said = {
        "reported_altitude": lifted.transmitter_altitude.values + error_m,
        "reported_altitude_std": np.full(count, said_within_m),
    }
    return lifted.merge(schema.label(said, {}, {}), combine_attrs="override")


def mirrored_geometry(dataset: xr.Dataset) -> xr.Dataset:
    """Put the receivers on one meridian: what they measure is the same of a place and of its mirror image."""
    receivers = [_receiver(f"R{n}", latitude, 8.0) for n, latitude in enumerate(_MERIDIAN_LATITUDES_DEG, 1)]
    geometry = {"placement": "fixed", "receivers": receivers, "inside_ratio": 0.0, "margin_deg": 0.6}
    return _generated_with(dataset, {"geometry": geometry})


def continental_network(dataset: xr.Dataset) -> xr.Dataset:
    """Spread the receivers over 1,000 km; links stay lines of sight. No tones, which would be ambiguous there."""
    geometry = {"placement": "fixed", "receivers": [_receiver(*station) for station in _CONTINENT]}
    signal = {**_SILENCE, "voice_ratio": 1.0, "transmitter_power_min_dbm": 40.0, "transmitter_power_max_dbm": 60.0}
    return _generated_with(dataset, {"geometry": geometry, "signal": signal})


def tone(dataset: xr.Dataset) -> xr.Dataset:
    """Have all transmitters send one FM tone."""
    return _generated_with(dataset, {"signal": {**_SILENCE, "tone_ratio": 1.0}})


def carrier(dataset: xr.Dataset) -> xr.Dataset:
    """Have all transmitters send a carrier without modulation: a tone with a deviation of 1 mHz."""
    return _generated_with(dataset, {"signal": {**_SILENCE, "tone_ratio": 1.0, "deviation_hz": 1e-3}})


DISTURBANCES = {
    "none": Disturbance("undisturbed", "The world is what the dataset says.", lambda dataset: dataset),
    "clock_2us": Disturbance(
        "one clock 2 µs late",
        "One receiver's clock is 2 µs late, 40 times what is said of it.",
        partial(late_clock, delay_s=2e-6),
    ),
    "clock_10us": Disturbance(
        "one clock 10 µs late", "One receiver's clock is 10 µs late.", partial(late_clock, delay_s=10e-6)
    ),
    "clock_60us": Disturbance(
        "one clock 60 µs late", "One receiver's clock is 60 µs late.", partial(late_clock, delay_s=60e-6)
    ),
    "misplaced_1km": Disturbance(
        "one receiver 1 km off",
        "One receiver stands 1 km from where it is said to stand, in a random direction.",
        partial(misplaced_receiver, distance_m=1e3),
    ),
    "misplaced_5km": Disturbance(
        "one receiver 5 km off",
        "One receiver stands 5 km from where it is said to stand.",
        partial(misplaced_receiver, distance_m=5e3),
    ),
    "half_hertz": Disturbance(
        "one oscillator 0.5 Hz off",
        "Windows of 4 s of noise 1 kHz wide, in which all oscillators are said to be exact, and one is 0.5 Hz off.",
        partial(oscillator_off, offset_hz=0.5),
    ),
    "altitude_unsaid": Disturbance(
        "transmitters at 9 km, unsaid",
        "Transmitters are 9 km high, where the dataset says 100 to 600 m.",
        high_transmitter,
    ),
    "altitude_said": Disturbance(
        "transmitters at 9 km, said within 100 m",
        "The same, and their altitude is reported, with a normal error of 100 m that is stated.",
        partial(high_transmitter, said_within_m=100.0),
    ),
    "altitude_roughly": Disturbance(
        "transmitters at 9 km, said within 3 km",
        "The same with a stated error of 3 km.",
        partial(high_transmitter, said_within_m=3e3),
    ),
    "mirror": Disturbance(
        "all receivers on one meridian",
        "Five receivers stand on one meridian, so that all delays and levels are those of two places.",
        mirrored_geometry,
    ),
    "continental": Disturbance(
        "receivers over 1,000 km",
        "Seven receivers stand 1,000 km from south to north and from west to east, and all links are lines of sight.",
        continental_network,
    ),
    "carrier": Disturbance(
        "a carrier without modulation",
        "Transmitters send nothing but a carrier, whose delays no bandwidth tells.",
        carrier,
    ),
    "tone": Disturbance("one FM tone", "Transmitters send one FM tone of 300 to 700 Hz.", tone),
    "channel": Disturbance(
        "a channel filter at all receivers",
        "All receivers have one linear-phase filter of ±9 kHz, beyond which no noise is left.",
        channel_filters,
    ),
    "filter": Disturbance(
        "one filter unlike the others",
        "One receiver's channel filter has 40 µs more group delay at the edge of the channel than in its middle.",
        partial(unequal_filter, delay_s=40e-6),
    ),
}


def _generated_with(dataset: xr.Dataset, overrides: dict[str, Any]) -> xr.Dataset:
    """Generate a simulated dataset again, as many scenes of the same seed, with some fields changed."""
    config = build(json.loads(dataset.attrs["config"]), {**overrides, "num_samples": dataset.sizes["sample"]})
    return hl.generate(config, progress=False)


def _receiver(name: str, latitude_deg: float, longitude_deg: float) -> dict[str, Any]:
    return {"name": name, "latitude_deg": latitude_deg, "longitude_deg": longitude_deg, "altitude_m": 300.0}


def _generator(dataset: xr.Dataset, purpose: str) -> np.random.Generator:
    """Random numbers of a dataset's seed, others for each purpose."""
    return np.random.default_rng([int(dataset.attrs.get("seed", 0)), *purpose.encode()])


def _one_receiver(dataset: xr.Dataset) -> np.ndarray:
    """Choose one of the receivers with signal in each scene, (S,)."""
    with_signal = dataset.get("signal_present", dataset.receiver_present).values
    draws = _generator(dataset, "receiver").random(with_signal.shape)
    return np.where(with_signal, draws, -1.0).argmax(axis=1)


def _mark(dataset: xr.Dataset, receiver: np.ndarray) -> xr.Dataset:
    marked = np.arange(dataset.sizes["receiver"]) == receiver[:, None]
    return dataset.assign({DISTURBED: (("sample", "receiver"), marked)})


def _with_truth(dataset: xr.Dataset, name: str, added: Any) -> xr.Dataset:
    """Add something to a variable."""
    return dataset.assign({name: (dataset[name] + added).assign_attrs(dataset[name].attrs)})


def _filtered(dataset: xr.Dataset, receiver: np.ndarray, response: Callable[[np.ndarray], np.ndarray]) -> xr.Dataset:
    """Filter one receiver's samples of each scene by a response over frequency in Hz."""
    frequency_hz = scipy.fft.fftfreq(dataset.sizes["time"], 1 / dataset.attrs["sample_rate_hz"])
    gain = response(frequency_hz)
    return _with_samples(dataset, receiver, lambda samples: scipy.fft.ifft(scipy.fft.fft(samples) * gain))


def _with_samples(dataset: xr.Dataset, receiver: np.ndarray, change: Callable[[np.ndarray], np.ndarray]) -> xr.Dataset:
    """Change one receiver's samples (S, N) of each scene, convert them again, and drop what was measured of all."""
    return _measured_again(_resampled(dataset, receiver, change))


def _resampled(dataset: xr.Dataset, receiver: np.ndarray, change: Callable[[np.ndarray], np.ndarray]) -> xr.Dataset:
    """Change one receiver's samples (S, N) of each scene, and convert them again."""
    iq = dataset.iq.transpose("sample", "receiver", "component", "time").copy(deep=True)
    scene = np.arange(len(receiver))
    changed = change(schema.complex_samples(iq.values[scene, receiver]))
    for component, values in enumerate((changed.real, changed.imag)):
        iq.values[scene, receiver, component] = np.clip(np.rint(values), -ADC_MAX, ADC_MAX)
    return dataset.assign(iq=iq)


def _measured_again(dataset: xr.Dataset) -> xr.Dataset:
    """Drop what was measured of other samples, and measure the features of these."""
    disturbed = _unmeasured(dataset)
    return disturbed.assign(
        features=features.of_each_receiver(disturbed)["features"].assign_attrs(dataset.features.attrs)
    )


def _unmeasured(dataset: xr.Dataset) -> xr.Dataset:
    """Drop measured delays and levels where there is IQ to measure them of again."""
    measured = [*schema.MEASURED, *schema.MEASURED_BESIDE, schema.MEASURED_OF]
    return dataset.drop_vars(measured, errors="ignore") if "iq" in dataset else dataset
