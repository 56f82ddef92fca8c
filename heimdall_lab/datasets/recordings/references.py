"""References of recordings: emissions from places that are known beforehand, which the caller names by frequency."""

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from heimdall_lab.core.text import listed, quoted
from heimdall_lab.datasets import schema
from heimdall_lab.datasets.recordings.common import as_numbers

References = Mapping[
    float, Sequence[float]
]  # (latitude, longitude) or (latitude, longitude, altitude) by frequency, Hz
_SAME_HZ = 1.0  # within which frequencies count as one
_FORM = "give (latitude, longitude) or (latitude, longitude, altitude) in degrees and metres"


def with_references(dataset: xr.Dataset, references: References) -> xr.Dataset:
    """State where the transmitters of some frequencies are known to be, in the place of what files say of them.

    A frequency names the emissions whose band holds it, of several frequencies the nearest.

    Parameters
    ----------
    dataset
        Of recordings.
    references
        (latitude, longitude), degrees, or (latitude, longitude, altitude), m above the ellipsoid, by frequency, Hz.

    Raises
    ------
    ValueError
        If a position is none, no emission has a frequency or two have it, or none is left to locate.
    """
    if not references:
        return dataset
    if not isinstance(references, Mapping):
        raise ValueError(f"references: is {quoted(references)}; give a dict of positions by frequency in Hz")
    frequencies_hz = as_numbers("references", list(references)).tolist()
    places = {one: _position(one, place) for one, place in zip(frequencies_hz, references.values(), strict=True)}
    samples = dataset.sizes["sample"]
    centres_hz = np.full(samples, dataset.attrs["centre_frequency_hz"], dtype=float)
    if "centre_frequency" in dataset:
        centres_hz = dataset["centre_frequency"].values
    names = ("reported_latitude", "reported_longitude", "reported_altitude")
    known = {name: dataset[name].values.copy() if name in dataset else np.full(samples, np.nan) for name in names}
    named = np.full(samples, np.nan)
    for frequency_hz, place in places.items():
        rows = _emissions_at(centres_hz, frequency_hz, float(dataset.attrs["sample_rate_hz"]))
        if np.isfinite(named[rows]).any():
            raise ValueError(
                f"references: {named[rows][0]:.12g} and {frequency_hz:.12g} Hz name the same emission, at "
                f"{centres_hz[rows][0]:.12g} Hz; give one of them"
            )
        named[rows] = frequency_hz
        for name, value in zip(names, place, strict=True):
            known[name][rows] = value
    marked = dataset.assign(schema.label(known, {}, {}).data_vars)
    if schema.references(marked).all():
        named_text = listed(f"{frequency_hz:.12g}" for frequency_hz in places)
        raise ValueError(
            f"references: {named_text} Hz leaves none to locate: all {samples} samples are of transmitters at known "
            "places; give recordings of the one that is sought, too, or its true position as transmitter"
        )
    return marked


def _position(frequency_hz: float, place: Sequence[float]) -> tuple[float, float, float]:
    numbers = as_numbers("references", place)
    if numbers.shape not in ((2,), (3,)):
        raise ValueError(f"references: {frequency_hz:.12g} Hz is at {quoted(place)}; {_FORM}")
    latitude, longitude, altitude_m = (*numbers.tolist(), np.nan)[:3]
    if not (abs(latitude) <= 90 and abs(longitude) <= 180 and np.isfinite(numbers).all()):
        raise ValueError(
            f"references: {frequency_hz:.12g} Hz is at {tuple(numbers.tolist())}; "
            "give latitude within ±90°, longitude within ±180° and, if known, a finite altitude in metres"
        )
    return latitude, longitude, altitude_m


def _emissions_at(centres_hz: np.ndarray, frequency_hz: float, rate_hz: float) -> np.ndarray:
    """Which samples (S,) are of the emission whose band holds a frequency; ValueError if none is, or two are."""
    away_hz = np.where(np.isfinite(centres_hz), np.abs(centres_hz - frequency_hz), np.inf)
    held: np.ndarray = (away_hz <= rate_hz / 2) & (away_hz <= away_hz.min() + _SAME_HZ)
    if not held.any():
        known = sorted({float(centre_hz) for centre_hz in centres_hz[np.isfinite(centres_hz)]})
        there = f"there are {listed(f'{one:.12g}' for one in known)} Hz" if known else "the recordings tell none"
        raise ValueError(
            f"references: no emission has {frequency_hz:.12g} Hz, within {rate_hz / 2:g} Hz; {there}: correct it"
        )
    if np.ptp(centres_hz[held]) > _SAME_HZ:
        near = listed(f"{one:.12g}" for one in sorted(set(centres_hz[held].tolist())))
        raise ValueError(
            f"references: {frequency_hz:.12g} Hz is as near to one as to another of the emissions at {near} Hz; give "
            "the frequency of the one that is meant"
        )
    return held
