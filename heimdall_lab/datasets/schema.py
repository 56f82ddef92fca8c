"""The dataset contract: every variable's dimensions, type, units and meaning, and the check that all readers call."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from heimdall_lab.core.arrays import Array, array_namespace
from heimdall_lab.core.text import quoted
from heimdall_lab.core.units import ADC_MAX

PROPAGATION = ("line_of_sight", "ground_wave", "sky_wave")
LEVEL_LAWS = ("free_space", "smooth_earth")
MEL_BANDS, FRAMES = 128, 32  # of a spectrogram

_ONE_STEP = np.float32(1)  # leaves samples in units of the converter

_LINK = ("sample", "receiver")
_ECHO = ("sample", "receiver", "echo")
_SCENE = ("sample",)


class Variable(NamedTuple):
    """Contract of one variable.

    Attributes
    ----------
    dims : tuple of str
    kinds : str
        Accepted NumPy dtype kinds.
    units : str
        Value of the ``units`` attribute; empty for bool and text, which carry none.
    long_name : str
    required : bool
        False for truth that a recording may lack and for which NaN is no placeholder.
    or_dims : tuple of str
        Dimensions that it may have instead of ``dims``.
    """

    dims: tuple[str, ...]
    kinds: str
    units: str
    long_name: str
    required: bool = True
    or_dims: tuple[str, ...] | None = None


MEASUREMENT = 4  # version of how these are measured: a change of any of their values takes the next number
_WITHOUT_RATES = 3  # the version that measured the same where no rates of clocks are known of

# What a network measures of the signals against the strongest receiver; in the place of IQ, or beside it.
MEASURED = {
    "rssi_dbm": Variable(_LINK, "f", "dBm", "power of the signal", required=False),
    "snr_db": Variable(_LINK, "f", "dB", "signal to noise ratio in the occupied bandwidth", required=False),
    "tdoa_s": Variable(_LINK, "f", "s", "arrival later than at the reference", required=False),
    "fdoa_hz": Variable(_LINK, "f", "Hz", "received higher than at the reference", required=False),
    "toa_std_s": Variable(_LINK, "f", "s", "predicted standard deviation of the arrival by noise", required=False),
    "tdoa_std_s": Variable(_LINK, "f", "s", "predicted standard deviation of tdoa_s by noise", required=False),
    "coherence": Variable(_LINK, "f", "1", "squared coherence with the reference at the peak", required=False),
    "heard": Variable(_LINK, "b", "", "SNR is at least min_snr_db, and the delay was found", required=False),
    "reference_receiver": Variable(_SCENE, "i", "", "position of the reference along the receivers", required=False),
}

# What is measured of IQ beside that, and why of some delays the standard deviation is not known.
MEASURED_BESIDE = {
    "rival_delay_s": Variable(
        _LINK, "f", "s", "another arrival that noise does not tell from tdoa_s; NaN where there is none", required=False
    ),
    "noise_known": Variable(_LINK, "b", "", "noise can be told from the signal", required=False),
}

MEASURED_OF = "measured_of"

# What is known beforehand of emissions and receivers, in recordings and tables. Estimators may use it, but for
# transmitter_position_std; numbers that are not known are NaN.
KNOWN = {
    "recording": Variable(_SCENE, "i", "1", "number of the recording: its samples share oscillators", required=False),
    "recording_time": Variable(_SCENE, "f", "s", "start of the window in its recording", required=False),
    "centre_frequency": Variable(
        _SCENE, "f", "Hz", "carrier frequency that 0 Hz of this IQ stands for", required=False
    ),
    "reported_latitude": Variable(_SCENE, "f", "degrees_north", "latitude that is known beforehand", required=False),
    "reported_longitude": Variable(_SCENE, "f", "degrees_east", "longitude that is known beforehand", required=False),
    "reported_altitude": Variable(_SCENE, "f", "m", "altitude above the ellipsoid, known beforehand", required=False),
    "reported_altitude_std": Variable(_SCENE, "f", "m", "standard deviation of reported_altitude", required=False),
    "ground_altitude": Variable(
        _SCENE, "f", "m", "altitude of the ground where the transmitter may stand", required=False
    ),
    "ground_altitude_std": Variable(_SCENE, "f", "m", "standard deviation of ground_altitude", required=False),
    "transmitter_position_std": Variable(
        _SCENE, "f", "m", "standard deviation of the transmitter's stated position", required=False
    ),
    "receiver_position_std": Variable(
        _LINK,
        "f",
        "m",
        "standard deviation of the receivers' stated positions",
        required=False,
        or_dims=("receiver",),
    ),
}

FEATURES = {  # units and meaning of each of the features, in their order
    "rssi_dbm": ("dBm", "power of the signal"),
    "snr_db": ("dB", "signal to noise ratio in the band that the scene's strongest signal occupies"),
    "noise_floor_dbm": ("dBm", "noise power over the full sample rate"),
    "frequency_offset_hz": ("Hz", "mean frequency of the signal's power"),
    "bandwidth_hz": ("Hz", "band that holds 99 % of the signal's power"),
    "psd_dbm_per_hz": ("dBm Hz-1", "largest power spectral density"),
    "spectral_centroid_hz": ("Hz", "mean distance of the signal's power from the centre frequency"),
    "spectral_rolloff_hz": ("Hz", "distance from the centre frequency within which 85 % of the signal's power lies"),
    "envelope_mean": ("mW^0.5", "mean magnitude of the samples"),
    "envelope_std": ("mW^0.5", "standard deviation of the magnitude"),
    "envelope_max": ("mW^0.5", "largest magnitude"),
    "peak_to_avg_ratio_db": ("dB", "largest over mean squared magnitude"),
    "zero_crossing_rate": ("1", "share of steps in which the in-phase part changes its sign"),
    "multipath_delay_spread_us": (
        "us",
        "rms delay spread that the slope of the channel's gain over frequency suggests",
    ),
    "coherence_bandwidth_khz": ("kHz", "band over which the gain of such a channel correlates by one half"),
    "delay_spread_confidence": ("1", "share of the squared slope that its standard error does not explain"),
    "confidence_score": ("1", "share of the power in the band that is signal"),
    "signal_present": ("1", "1 where the signal is significant and its SNR at least min_snr_db, else 0"),
}
STATISTICS = ("mean", "std", "min", "max")

VARIABLES = {
    "iq": Variable(
        ("sample", "receiver", "component", "time"),
        "i",
        "1",
        "IQ samples as the converter gives them; times iq_full_scale / 32767 they are in √mW",
        required=False,
    ),
    "iq_full_scale": Variable(
        _LINK, "f", "mW^0.5", "amplitude that the largest sample value stands for", required=False
    ),
    "receiver_present": Variable(_LINK, "b", "", "False where the receiver dimension is padded"),
    "signal_present": Variable(_LINK, "b", "", "SNR is at least min_snr_db", required=False),
    "receiver_latitude": Variable(_LINK, "f", "degrees_north", "WGS84 latitude of the receiver"),
    "receiver_longitude": Variable(_LINK, "f", "degrees_east", "WGS84 longitude of the receiver"),
    "receiver_altitude": Variable(_LINK, "f", "m", "altitude of the receiver above the ellipsoid"),
    "transmitter_latitude": Variable(_SCENE, "f", "degrees_north", "WGS84 latitude of the transmitter"),
    "transmitter_longitude": Variable(_SCENE, "f", "degrees_east", "WGS84 longitude of the transmitter"),
    "transmitter_altitude": Variable(_SCENE, "f", "m", "altitude of the transmitter above the ellipsoid"),
    "transmitter_power": Variable(_SCENE, "f", "dBm", "radiated power"),
    "transmitter_velocity_east": Variable(_SCENE, "f", "m s-1", "speed of the transmitter eastward", required=False),
    "transmitter_velocity_north": Variable(_SCENE, "f", "m s-1", "speed of the transmitter northward", required=False),
    "emission_time": Variable(_SCENE, "f", "s", "common offset subtracted from every arrival of the scene"),
    "propagation_delay": Variable(_LINK, "f", "s", "straight-line distance over the speed of light"),
    "excess_delay": Variable(_LINK, "f", "s", "extra delay of the first path, 0 in line of sight"),
    "clock_offset": Variable(_LINK, "f", "s", "error of the receiver's clock"),
    "clock_rate": Variable(_LINK, "f", "1", "growth of clock_offset in the window", required=False),
    "frequency_offset": Variable(
        _LINK, "f", "Hz", "shift of the IQ by the receiver's oscillator, at the middle of the window"
    ),
    "frequency_drift": Variable(_LINK, "f", "Hz s-1", "growth of the shift by the oscillator", required=False),
    "doppler": Variable(_LINK, "f", "Hz", "Doppler shift by motion"),
    "diffraction_loss": Variable(_LINK, "f", "dB", "loss by diffraction, a part of path_loss", required=False),
    "shadowing": Variable(_LINK, "f", "dB", "log-normal shadowing, a part of path_loss", required=False),
    "environment_loss": Variable(_LINK, "f", "dB", "loss by surroundings, a part of path_loss", required=False),
    "path_loss": Variable(_LINK, "f", "dB", "total loss between the antennas, without fading"),
    "fading": Variable(
        _LINK, "f", "dB", "power of all paths over that of a steady first path, mean of the window", required=False
    ),
    "fading_doppler": Variable(_LINK, "f", "Hz", "largest Doppler shift of scattered waves", required=False),
    "echo_delay": Variable(_ECHO, "f", "s", "delay of each echo after the first path", required=False),
    "echo_power": Variable(_ECHO, "f", "dB", "mean power of each echo over the first path's", required=False),
    "receiver_offset_east": Variable(
        _LINK, "f", "m", "how far east of its stated position a receiver stands", required=False
    ),
    "receiver_offset_north": Variable(
        _LINK, "f", "m", "how far north of its stated position a receiver stands", required=False
    ),
    "received_power": Variable(
        _LINK, "f", "dBm", "signal power at the receiver, mean of the window; of noise waveforms the expected mean"
    ),
    "noise_power": Variable(_LINK, "f", "dBm", "noise power over the full sample rate"),
    "snr": Variable(_LINK, "f", "dB", "signal to noise ratio in the occupied bandwidth"),
    "line_of_sight": Variable(_LINK, "b", "", "the first path is the straight line", required=False),
    "waveform": Variable(_SCENE, "TUO", "", "kind of waveform"),
    "rms_bandwidth": Variable(_SCENE, "f", "Hz", "standard deviation of frequency under the waveform's spectrum"),
    "occupied_bandwidth": Variable(_SCENE, "f", "Hz", "band that holds 99 % of the waveform's power"),
    "gdop": Variable(_SCENE, "f", "1", "horizontal TDOA dilution of precision, receivers with signal"),
    "crlb_rmse": Variable(_SCENE, "f", "m", "Cramér-Rao bound of the horizontal rms error"),
    "features": Variable(
        ("sample", "receiver", "feature", "statistic"),
        "f",
        "",
        "features over five chunks of the window; units as feature_units says",
        required=False,
    ),
    "spectrogram": Variable(
        ("sample", "receiver", "frequency", "frame"),
        "f",
        "dB",
        "power density over 1 mW/Hz in mel bands of the distance from the centre frequency",
        required=False,
    ),
    **MEASURED,
    **MEASURED_BESIDE,
    MEASURED_OF: Variable(_SCENE, "i", "", "digest of the IQ, receivers and attributes measured of", required=False),
    **KNOWN,
}

# What is stored of the signals, by type of dataset; the truth and the positions always are.
SIGNALS = {
    "iq_raw": ("iq", "iq_full_scale", "features"),
    "feature_based": ("features", "spectrogram", *MEASURED, *MEASURED_BESIDE),
}
# What is stored besides where a network says how well its receivers' positions are known.
STATED_POSITIONS = ("receiver_position_std", "receiver_offset_east", "receiver_offset_north")
_NO_TRUTH = {MEASURED_OF, *KNOWN, *STATED_POSITIONS, *SIGNALS["iq_raw"], *SIGNALS["feature_based"]}
TRUTH = tuple(name for name in VARIABLES if name not in _NO_TRUTH)

# What a user of the receivers knows of them; the estimators use it, never the truth variables. NaN: not known.
ATTRIBUTES = {
    "centre_frequency_hz": "carrier frequency that 0 Hz of the IQ stands for, Hz",
    "sample_rate_hz": "complex samples per second, Hz",
    "duration_s": "length of a window, s",
    "propagation": "line_of_sight (straight links), ground_wave (geodesics) or sky_wave (one hop by the ionosphere)",
    "clock_sigma_s": "standard deviation of one receiver's clock error, s; one number, or one a receiver",
    "path_delay_sigma_s": "standard deviation of one link's delay about the propagation model, s",
    "nlos_ratio": "share of links without line of sight, late by exponential delays, which path_delay_sigma_s includes",
    "nlos_excess_mean_s": "mean of these delays, s",
    "max_clock_offset_s": "largest magnitude of one receiver's clock error, s",
    "max_frequency_offset_hz": "largest magnitude of one link's frequency shift, by oscillator, motion and fading, Hz",
    "link_sigma_db": "standard deviation of one link's level about its law of distance, dB",
    "min_snr_db": "SNR from which a receiver has signal, dB",
}

# What may be stated of a dataset besides, and what is assumed where it is not.
OPTIONAL_ATTRIBUTES = {
    "sigma_freedom": "degrees of freedom that the scale of the standard deviations of noise and clocks is known with; "
    "4, and infinite in simulations, where all that is stated is true",
    "transmitter_altitude_m": "altitude of transmitters above the ellipsoid that no report says, m; near the ground",
    "transmitter_altitude_sigma_m": "standard deviation of that, m",
    "one_crystal": "1 where one crystal drives tuner and sample clock of each receiver, so that a clock's rate is "
    "minus its frequency offset over the carrier; 0",
    "clock_rate_sigma": "standard deviation of the rate of one receiver's sample clock; 0",
    "window_clock_sigma_s": "standard deviation of one receiver's clock error in one window alone, as of time stamps, "
    "which clock_sigma_s includes, s; 0: all windows of a recording have the same error, but for the clock's rate",
    "steered_clocks": "1 where clocks keep their offset whatever the rate of the sample clock, as GPS makes them; 0",
    "level_law": "how levels fall with distance, free_space, or smooth_earth with diffraction beyond it; free_space",
    "reflection_height_m": "virtual height at which the ionosphere reflects sky waves, common to all links, m; 300 km",
    "reflection_height_sigma_m": "standard deviation of that, m; 58 km, as of anything from 200 to 400 km",
}


_RANGES = {  # of attributes that estimators would take in any
    "reflection_height_m": (50e3, 1000e3, "m"),
    "reflection_height_sigma_m": (0.0, 1000e3, "m"),
}


class SchemaError(ValueError):
    """A dataset that breaks the contract; the message names the variable, what is wrong and what is expected."""


def measurement(attributes: Mapping[Any, Any]) -> int:
    """Version of the measurer whose values a dataset of these attributes has: the earliest that gives the same."""
    return MEASUREMENT if has_clock_rates(attributes) else _WITHOUT_RATES


def has_clock_rates(attributes: Mapping[Any, Any]) -> bool:
    """Whether attributes say that sample clocks run at rates of their own."""
    return bool(attributes.get("one_crystal", 0) or attributes.get("clock_rate_sigma", 0))


def label(variables: dict[str, np.ndarray], coords: dict[str, object], attrs: dict[str, object]) -> xr.Dataset:
    """Give arrays the names, dimensions, units and long names of the contract."""
    dataset = xr.Dataset(
        {name: (VARIABLES[name].dims, values, _cf_attributes(VARIABLES[name])) for name, values in variables.items()},
        coords=coords,
        attrs={"Conventions": "CF-1.11", **attrs},
    )
    if "time" in dataset.coords:
        dataset["time"].attrs.update(units="s", long_name="local time since the first sample")
    return dataset


def unknown(samples: int, receivers: int) -> dict[str, np.ndarray]:
    """Arrays of NaN of every number that the contract requires, for readers to fill with what they know."""
    shapes = {_SCENE: (samples,), _LINK: (samples, receivers)}
    return {
        name: np.full(shapes[variable.dims], np.nan)
        for name, variable in VARIABLES.items()
        if variable.kinds == "f" and variable.required
    }


def check(dataset: xr.Dataset) -> xr.Dataset:
    """Validate a dataset against the contract and return it unchanged.

    Raises
    ------
    SchemaError
        Naming the first variable or attribute that is missing or wrong.
    """
    for name in ATTRIBUTES:
        if name not in dataset.attrs:
            raise SchemaError(f"attribute {name!r} is missing ({ATTRIBUTES[name]}); set it in the dataset's attrs")
    if not dataset.attrs.get("sigma_freedom", 1.0) > 0:
        raise SchemaError(f"sigma_freedom: is {dataset.attrs['sigma_freedom']}; give a positive number or none")
    if dataset.attrs["propagation"] not in PROPAGATION:
        raise SchemaError(
            f"propagation: {quoted(dataset.attrs['propagation'])} is unknown; use {', '.join(PROPAGATION)}"
        )
    if dataset.attrs["path_delay_sigma_s"] < 0:
        raise SchemaError(f"path_delay_sigma_s: is {dataset.attrs['path_delay_sigma_s']}; give 0 s or more, or NaN")
    for name, (low, high, unit) in _RANGES.items():
        if not low <= dataset.attrs.get(name, low) <= high:
            raise SchemaError(f"{name}: is {dataset.attrs[name]}; give {low:g} to {high:g} {unit}")
    if dataset.attrs.get("level_law", LEVEL_LAWS[0]) not in LEVEL_LAWS:
        raise SchemaError(f"level_law: {quoted(dataset.attrs['level_law'])} is unknown; use {' or '.join(LEVEL_LAWS)}")
    for name, variable in VARIABLES.items():
        if name not in dataset:
            if variable.required:
                raise SchemaError(f"variable {name!r} is missing ({variable.long_name}); add it, NaN where unknown")
            continue
        found = dataset[name]
        if found.dims not in (variable.dims, variable.or_dims):
            wanted = f"{variable.dims}{f' or {variable.or_dims}' if variable.or_dims else ''}"
            raise SchemaError(f"{name}: dimensions are {found.dims}, expected {wanted}; transpose or rename")
        if found.dtype.kind not in variable.kinds:
            raise SchemaError(f"{name}: dtype is {found.dtype}, expected kind {variable.kinds!r}; convert it")
        if variable.units and found.attrs.get("units") != variable.units:
            raise SchemaError(
                f"{name}: units are {quoted(found.attrs.get('units'))}, expected {variable.units!r}; convert it"
            )
    if "iq" not in dataset and "tdoa_s" not in dataset:
        raise SchemaError("variable 'iq' is missing, and so is what is measured of it ('tdoa_s'); add either")
    if "iq" in dataset and "iq_full_scale" not in dataset:
        raise SchemaError("variable 'iq_full_scale' is missing (amplitude of the largest sample value); add it to 'iq'")
    if "iq" in dataset and list(dataset.component.values) != ["i", "q"]:
        raise SchemaError(f"component: is {list(dataset.component.values)}, expected ['i', 'q']")
    if "receiver_name" not in dataset.coords:
        raise SchemaError("coordinate 'receiver_name' is missing (along receiver); add it")
    _check_receivers(dataset)
    return dataset


def references(dataset: xr.Dataset) -> np.ndarray:
    """Which samples (S,) are references: emissions whose horizontal position is known beforehand."""
    if "reported_latitude" not in dataset or "reported_longitude" not in dataset:
        return np.zeros(dataset.sizes["sample"], dtype=bool)
    reported: np.ndarray = np.isfinite(dataset["reported_latitude"].values + dataset["reported_longitude"].values)
    return reported


def iq(dataset: xr.Dataset) -> xr.DataArray:
    """Decode the IQ samples: complex64 in √mW, dims (sample, receiver, time); |x|² averages to power in mW."""
    if "iq" not in dataset:
        raise ValueError("iq: is not in the dataset; generate one with data_type iq_raw, which keeps the samples")
    scale = converter_step(dataset.iq_full_scale)
    in_phase, quadrature = (dataset.iq.sel(component=c, drop=True) for c in ("i", "q"))
    voltage = (in_phase + np.complex64(1j) * quadrature) * scale
    return voltage.assign_attrs(units="mW^0.5", long_name="complex baseband voltage").rename("voltage")


def voltage(dataset: xr.Dataset) -> np.ndarray:
    """Decode the IQ samples as `iq` does, (S, R, N) complex64 √mW, with fewer copies; 0 where no receiver is."""
    code = dataset["iq"].transpose("sample", "receiver", "component", "time").values
    return complex_samples(code, converter_step(np.nan_to_num(dataset["iq_full_scale"].values))[..., None])


def converter_step(full_scale: Any) -> Any:
    """Amplitude of one step of the converter for an array of full scales, float32 √mW."""
    return (full_scale / ADC_MAX).astype(np.float32)


def complex_samples(code: Array, step: Any = _ONE_STEP) -> Array:
    """Complex64 samples (..., N) of integers (..., 2, N), in-phase and quadrature, times a float32 step (..., 1)."""
    xp = array_namespace(code)
    samples = xp.empty((*code.shape[:-2], code.shape[-1]), dtype=np.complex64)
    xp.multiply(code[..., 0, :], step, out=samples.real)
    xp.multiply(code[..., 1, :], step, out=samples.imag)
    return samples


def _cf_attributes(variable: Variable) -> dict[str, str]:
    units = {"units": variable.units} if variable.units else {}
    return {**units, "long_name": variable.long_name}


def _check_receivers(dataset: xr.Dataset) -> None:
    present = dataset.receiver_present.values
    if not present.any(axis=1).all():
        sample = dataset["sample"].values[~present.any(axis=1)][0]
        raise SchemaError(f"receiver_present: is False for all receivers of sample {sample}; leave it out")
    for name in ("receiver_altitude", "iq_full_scale"):
        if name in dataset and not np.isfinite(dataset[name].values[present]).all():
            raise SchemaError(f"{name}: is not finite at a receiver that is present; set it")
    for name, limit in (("latitude", 90), ("longitude", 180)):
        values = dataset[f"receiver_{name}"].values[present]
        if not (np.abs(values) <= limit).all():
            wrong = values[~(np.abs(values) <= limit)][0]
            raise SchemaError(f"receiver_{name}: {wrong} is outside ±{limit} degrees; correct it")
    nowhere = present & (dataset.receiver_latitude.values == 0) & (dataset.receiver_longitude.values == 0)
    if nowhere.any():
        name = dataset.receiver_name.values[nowhere.any(axis=0)][0]
        raise SchemaError(
            f"receiver_latitude, receiver_longitude: {name} is at (0, 0), as unknown positions are; correct it, or "
            "leave the receiver out"
        )


def position_cautions(dataset: xr.Dataset) -> list[str]:
    """Name receivers of recordings that stand at one place, or whose position is given coarsely, in a sentence each."""
    if "config" in dataset.attrs:
        return []  # simulated receivers stand where they are said to
    present = dataset.receiver_present.values
    rows, receivers = present.argmax(axis=0), np.flatnonzero(present.any(axis=0))
    latitude, longitude = (
        dataset[f"receiver_{name}"].values[rows[receivers], receivers] for name in ("latitude", "longitude")
    )
    names, cautions = dataset.receiver_name.values[receivers], []
    for place in sorted(set(zip(latitude.tolist(), longitude.tolist(), strict=True))):
        there = names[(latitude == place[0]) & (longitude == place[1])]
        if len(there) > 1:
            cautions.append(f"{' and '.join(there)} stand at one place, and tell no direction together; check it")
    coarse = (latitude == latitude.round(2)) & (longitude == longitude.round(2))
    if "receiver_position_std" in dataset:
        stated = np.broadcast_to(np.isfinite(dataset["receiver_position_std"].values), present.shape)
        coarse &= ~stated[rows[receivers], receivers]
    if coarse.any():
        cautions.append(
            f"{', '.join(names[coarse])}: fewer than three decimals of a degree place a receiver to 1 km at best; "
            "give more, or say how far off it is in position_std_m"
        )
    return cautions
