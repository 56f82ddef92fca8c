"""Constants and the conversions between decibels and linear power."""

from typing import Any

import numpy as np

EARTH_RADIUS_KM = 6371.0  # mean
METRES_PER_DEGREE = EARTH_RADIUS_KM * 1e3 * np.pi / 180  # of a great circle on the mean sphere
SPEED_OF_LIGHT = 299_792_458.0  # m/s, exact (SI)
BOLTZMANN = 1.380649e-23  # J/K, exact (SI)
STANDARD_TEMPERATURE_K = 290.0  # IEEE standard noise temperature T0
ADC_MAX = 32_767  # largest value of a 16-bit converter


def db_to_linear(level_db: Any) -> Any:
    """Power ratio of a level in dB (or power in mW of a level in dBm), element by element.

    >>> float(db_to_linear(30.0))
    1000.0
    """
    return np.power(10.0, np.divide(level_db, 10.0))


def linear_to_db(power: Any) -> Any:
    """Level in dB of a power ratio (or in dBm of a power in mW), element by element.

    >>> float(linear_to_db(100.0))
    20.0
    """
    return 10.0 * np.log10(power)
