"""Ground waves: by how much they are later than light along the geodesic."""

import numpy as np
import scipy.special

from heimdall_lab.core.arrays import Array
from heimdall_lab.core.units import EARTH_RADIUS_KM, SPEED_OF_LIGHT

# Conductivity, S/m, and relative permittivity: ITU-R P.368-10, ground types of its figures.
SEA = (5.0, 70.0)
LAND = ((3e-2, 40.0), (1e-2, 30.0), (3e-3, 22.0), (1e-3, 15.0))
_REFRACTIVITY = 315e-6  # of air at the ground: ITU-R P.453-14, annex 1, on the reference atmosphere
_EFFECTIVE_RADIUS_M = 4 / 3 * EARTH_RADIUS_KM * 1e3  # of the Earth under such air: ITU-R P.310-10, definition B1
_VACUUM_PERMITTIVITY = 8.8541878188e-12  # F/m, CODATA 2022
_SHADOW_ROOT = 1.0188 * np.cos(np.pi / 3)  # real part of the first root t₀ over a perfect conductor
_FREQUENCY_STEP = 1e-3  # of the frequency, over which a phase is differentiated


def group_delay_s(distance_m: Array, frequency_hz: float, ground: tuple[float, float] = SEA) -> Array:
    """By how much a signal's envelope (...) is later than light in vacuum along a geodesic (...).

    Three causes add up: air, the surface impedance of the ground (the secondary factor of flat ground) and the bulge of
    the Earth. On mixed paths it lies between those of the best and the worst ground.

    Parameters
    ----------
    distance_m : (...)
    frequency_hz : float
    ground : (conductivity in S/m, relative permittivity)
        ``SEA`` or one of ``LAND``.

    Source: Wait, "The ancient and modern history of EM ground-wave propagation", IEEE Antennas Propag. Mag. 40 (1998),
    for vertical polarisation: the attenuation function W of flat ground, and the first term of the residue series.
    """
    distance_m = np.asarray(distance_m, dtype=float)
    below, above = (frequency_hz * (1 + sign * _FREQUENCY_STEP) for sign in (-1, 1))
    ratio = attenuation(distance_m, above, ground) / attenuation(distance_m, below, ground)
    by_ground = -np.angle(ratio) / (2 * np.pi * (above - below))
    angular = 2 * np.pi * frequency_hz
    # The phase of exp(−j t₀ x), x = (k a / 2)^(1/3) d / a, grows by the third root of the frequency.
    bulge = (angular / SPEED_OF_LIGHT * _EFFECTIVE_RADIUS_M / 2) ** (1 / 3) * distance_m / _EFFECTIVE_RADIUS_M
    by_bulge = _SHADOW_ROOT * bulge / (3 * angular)
    delay_s: Array = _REFRACTIVITY * distance_m / SPEED_OF_LIGHT + by_ground + by_bulge
    return delay_s


def attenuation(distance_m: Array, frequency_hz: float, ground: tuple[float, float]) -> Array:
    """Field (...) over flat ground, over that on a perfect conductor: W = 1 − j √(π p) exp(−p) erfc(j √p)."""
    conductivity, permittivity = ground
    angular = 2 * np.pi * frequency_hz
    squared_index = permittivity - 1j * conductivity / (angular * _VACUUM_PERMITTIVITY)
    squared_impedance = (1 - 1 / squared_index) / squared_index
    numerical_distance = -0.5j * angular / SPEED_OF_LIGHT * np.asarray(distance_m) * squared_impedance
    root = np.sqrt(numerical_distance)
    field: Array = 1 - 1j * np.sqrt(np.pi) * root * scipy.special.wofz(-root)  # w(z) = exp(−z²) erfc(−j z)
    return field
