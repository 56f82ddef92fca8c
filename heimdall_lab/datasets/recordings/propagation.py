"""What is assumed of paths in recordings where nobody says it: how signals travel, and how well their delay is known.

Both follow from the frequency and from how far receivers are apart, by what is published of paths; nothing is fitted to
recordings.
"""

from typing import Any

import numpy as np
import xarray as xr

from heimdall_lab.core import geodesy, ground_wave, sky_wave
from heimdall_lab.core.arrays import Array
from heimdall_lab.core.text import quoted
from heimdall_lab.core.units import SPEED_OF_LIGHT
from heimdall_lab.datasets import schema

# Bands of ITU-R V.431-8: ground waves carry low and medium frequencies (P.368), the ionosphere high ones (P.533).
_HIGHEST_GROUND_WAVE_HZ, _HIGHEST_SKY_WAVE_HZ = 3e6, 30e6
# Standard deviation of heights of reflection about what paths of one moment have in common. By the mirror-reflection
# heights of ITU-R P.533-14, section 5.1, eq. (14) to (16), hops of 300 to 1,500 km under one ionosphere differ by 31 km
# rms, those of 200 to 1,000 km by 25 km, those of 200 to 3,000 km by 36 km: over frequencies of 0.5 to 2.5 foF2, foF2
# of 2 to 8 foE and M(3000)F2 of 2.5 to 3.5, any as likely. Tilts and waves, which these medians lack, come on top.
_HEIGHT_DIFFERENCE_M = 30e3
_LATEST_GROUND_WAVE_HZ = 60e3
_SKY_WAVE_DOPPLER_HZ = 1.0  # largest that moving layers cause at HF: Davies, Ionospheric Radio (1990)


def propagation_at(frequency_hz: float) -> str:
    """Say how signals travel where nobody says it: of `schema.PROPAGATION`; lines of sight where no frequency is known.

    >>> [propagation_at(frequency_hz) for frequency_hz in (77.5e3, 9.4e6, 433e6)]
    ['ground_wave', 'sky_wave', 'line_of_sight']
    """
    if 0 < frequency_hz < _HIGHEST_GROUND_WAVE_HZ:
        return "ground_wave"
    return "sky_wave" if 0 < frequency_hz < _HIGHEST_SKY_WAVE_HZ else "line_of_sight"


def path_delay_sigma_s(propagation: str, frequency_hz: float, distance_m: float) -> float:
    """Standard deviation of one path's delay about the model of its kind, over a distance.

    Ground waves: the root mean square of what sea and four kinds of land add, any of them as likely, with air and the
    bulge of the Earth (`ground_wave`). Sky waves: what the height of reflection differs between paths; what is common
    to all is an unknown of the fix. Straight paths have none.

    >>> [f"{path_delay_sigma_s('ground_wave', 100e3, distance_m) * 1e6:.1f} µs" for distance_m in (100e3, 1000e3)]
    ['1.2 µs', '3.2 µs']
    >>> [f"{path_delay_sigma_s('sky_wave', 10e6, distance_m) * 1e6:.0f} µs" for distance_m in (300e3, 2000e3)]
    ['179 µs', '71 µs']
    """
    if propagation == "ground_wave":
        grounds = ground_wave.SEA, *ground_wave.LAND
        late_s = [ground_wave.group_delay_s(distance_m, frequency_hz, ground) for ground in grounds]
        return float(np.sqrt(np.mean(np.square(late_s))))
    if propagation == "sky_wave":
        _, _, along_height = sky_wave.hop(distance_m, sky_wave.MEAN_HEIGHT_M)
        return float(along_height * _HEIGHT_DIFFERENCE_M / SPEED_OF_LIGHT)
    return 0.0


def with_paths(attributes: dict[str, Any], latitude_deg: Array, longitude_deg: Array) -> dict[str, Any]:
    """Complete attributes of a recording with what is assumed of the paths to receivers (..., R).

    Transmitters count as far from receivers as these are from each other in the mean. Where the frequency of a ground
    wave is not known, or 0 as of a baseband, it counts as 60 kHz, where delays are long. A stated share of late links
    is in the standard deviation.

    Raises
    ------
    ValueError
        If the stated propagation is unknown.
    """
    frequency_hz = float(attributes["centre_frequency_hz"])
    propagation = attributes.get("propagation", propagation_at(frequency_hz))
    if propagation not in schema.PROPAGATION:
        raise ValueError(f"propagation: {quoted(propagation)} is unknown; use {', '.join(schema.PROPAGATION)}")
    of_wave = frequency_hz if frequency_hz > 0 else _LATEST_GROUND_WAVE_HZ
    sigma_s = path_delay_sigma_s(propagation, of_wave, mean_separation_m(latitude_deg, longitude_deg))
    late, excess_s = (float(attributes.get(name, 0.0)) for name in ("nlos_ratio", "nlos_excess_mean_s"))
    sigma_s = float(np.hypot(sigma_s, excess_s * np.sqrt(late * (2 - late))))
    return {"propagation": propagation, "path_delay_sigma_s": sigma_s} | attributes


def largest_shift_hz(propagation: str) -> float:
    """Largest frequency shift that paths cause."""
    return _SKY_WAVE_DOPPLER_HZ if propagation == "sky_wave" else 0.0


def restated(dataset: xr.Dataset, propagation: str | None, sigma_s: float | None) -> xr.Dataset:
    """State the propagation of a dataset of recordings, or its standard deviation of path delays, anew.

    Where another propagation is given alone, the standard deviation is what is assumed of that; None leaves either as
    it is.
    """
    before = dataset.attrs["propagation"]
    if propagation not in (None, before):
        kept = {name: value for name, value in dataset.attrs.items() if name != "path_delay_sigma_s"}
        kept["max_frequency_offset_hz"] += largest_shift_hz(propagation) - largest_shift_hz(before)
        places = (dataset[f"receiver_{name}"].values for name in ("latitude", "longitude"))
        dataset = dataset.assign_attrs(with_paths(kept | {"propagation": propagation}, *places))
    return dataset if sigma_s is None else dataset.assign_attrs(path_delay_sigma_s=sigma_s)


def mean_separation_m(latitude_deg: Array, longitude_deg: Array) -> float:
    """Mean geodesic distance of two receivers (..., R); 0 of fewer than two."""
    first, second = np.triu_indices(latitude_deg.shape[-1], 1)
    ends = [degrees[..., one] for one in (first, second) for degrees in (latitude_deg, longitude_deg)]
    known = np.all(np.isfinite(ends), axis=0)
    if not known.any():
        return 0.0
    return float(np.mean(geodesy.geodesic(*(degrees[known] for degrees in ends))[0]))
