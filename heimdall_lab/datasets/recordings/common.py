"""What readers of recordings share."""

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from heimdall_lab.core.arrays import batch_slices
from heimdall_lab.core.checked import near, question
from heimdall_lab.core.receivers import LARGEST_POSITION_STD_M, Receiver
from heimdall_lab.core.text import quoted
from heimdall_lab.core.units import ADC_MAX
from heimdall_lab.datasets import schema

ATTRIBUTES = schema.ATTRIBUTES | schema.OPTIONAL_ATTRIBUTES  # that a caller of a reader can state

_BATCH_SAMPLES = 2**20  # quantised at a time

_log = logging.getLogger(__name__)


def transmitter_position(transmitter: Sequence[float] | None) -> tuple[float, float, float]:
    """Complete and check a position given by the user; NaN where there is none."""
    if transmitter is None:
        return np.nan, np.nan, np.nan
    if len(transmitter) not in (2, 3):
        raise ValueError(
            f"transmitter is {tuple(transmitter)}; give (latitude, longitude) or (latitude, longitude, altitude)"
        )
    latitude, longitude, altitude = (*map(float, transmitter), 0.0)[:3]
    if not (abs(latitude) <= 90 and abs(longitude) <= 180 and np.isfinite(altitude)):
        raise ValueError(
            f"transmitter is at ({latitude}, {longitude}, {altitude}); "
            "give latitude within ±90°, longitude within ±180° and a finite altitude in metres"
        )
    return latitude, longitude, altitude


def quantise(windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scale each window of complex (W, N) to the int16 range: (W, 2, N) int16 and the full scale (W,), its peak.

    The caller decides what 1 √mW is; windows of zeros have a full scale of 1.
    """
    peak = np.array([max(np.abs(window.real).max(), np.abs(window.imag).max()) for window in windows])
    full_scale = np.where(peak > 0.0, peak, 1.0)
    iq = np.empty((len(windows), 2, windows.shape[1]), dtype=np.int16)
    for component, parts in enumerate((windows.real, windows.imag)):
        for rows in batch_slices(len(windows), _BATCH_SAMPLES // windows.shape[1]):
            iq[rows, component] = np.rint(parts[rows] / full_scale[rows, None] * ADC_MAX)
    return iq, full_scale


def as_numbers(name: str, values: object) -> np.ndarray:
    """Return numbers of JSON, where null is NaN and infinity is text, as an array.

    Raises
    ------
    ValueError
        Where there is anything else, or the shapes differ.
    """
    try:
        return np.array(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{name}: does not hold numbers of one shape, but {quoted(values)}; correct it") from error


def check_names(attributes: Iterable[str], told: Collection[str] = ()) -> None:
    """Raise ValueError if attributes that a caller states are none of the contract, or ``told`` by the files."""
    if unknown := sorted(set(attributes) - set(ATTRIBUTES)):
        meant = question(near(unknown[0], ATTRIBUTES))
        raise ValueError(f"{unknown[0]}: is no attribute of the contract; {meant}give any of {', '.join(ATTRIBUTES)}")
    if stated := sorted(set(attributes) & set(told)):
        raise ValueError(f"{stated[0]}: is what the recordings tell; leave it out")


def contract_numbers(attributes: Mapping[str, Any], receivers: int) -> dict[str, Any]:
    """Attributes with those of the contract as numbers, of clocks as one or one a receiver.

    Raises
    ------
    ValueError
        If one of them is no number, or of another count.
    """
    numbers = {
        name: _contract_number(name, value, receivers)
        for name, value in attributes.items()
        if name in ATTRIBUTES and name not in ("propagation", "level_law")
    }
    return {**attributes, **numbers}


def _contract_number(name: str, value: object, receivers: int) -> float | list[float]:
    array = as_numbers(name, value)
    if array.shape and not (name == "clock_sigma_s" and array.shape == (receivers,)):
        raise ValueError(f"{name}: holds {array.size} numbers; give one, or for clock_sigma_s one a receiver")
    if name == "sample_rate_hz" and not 1e-6 <= array <= 1e12:
        raise ValueError(f"{name}: is {array}; give 1e-6 to 1e12 samples per second")
    return array.tolist()


def position_std_m(stations: Sequence[Receiver | None]) -> np.ndarray | None:
    """Standard deviations (R,) of stated positions, NaN of a station that states none; None where no station does."""
    stated = [np.nan if station is None or station.position_std_m is None else station.position_std_m
              for station in stations]  # fmt: skip
    return np.array(stated) if np.isfinite(stated).any() else None


def with_position_std(dataset: xr.Dataset, unstated_m: float | None) -> xr.Dataset:
    """State how well the positions are known of receivers of which nothing else says it; None states nothing.

    Raises
    ------
    ValueError
        If it is no standard deviation.
    """
    if unstated_m is None:
        return dataset
    (number,) = as_numbers("receiver_position_std_m", [unstated_m])
    if not 0 <= number <= LARGEST_POSITION_STD_M:
        raise ValueError(f"receiver_position_std_m: is {number:g}; give 0 to {LARGEST_POSITION_STD_M:,.0f} m")
    name = "receiver_position_std"
    known = dataset[name].values if name in dataset else np.nan
    stated = np.where(np.isfinite(known), known, np.full(dataset.receiver_present.shape, number))
    return dataset.assign(schema.label({name: stated}, {}, {}).data_vars)


def of_kept(attributes: dict[str, Any], kept: Sequence[int], count: int) -> dict[str, Any]:
    """Stated attributes of ``count`` receivers with the values of those kept alone, where there is one a receiver."""
    clocks = attributes.get("clock_sigma_s")
    if not isinstance(clocks, Sequence) or len(clocks) != count:
        return attributes
    return attributes | {"clock_sigma_s": [clocks[index] for index in kept]}


def warn_of_positions(dataset: xr.Dataset) -> xr.Dataset:
    """Say in the log what is suspicious of the receivers' positions, and return the dataset unchanged."""
    for caution in schema.position_cautions(dataset):
        _log.warning(caution)
    return dataset
