"""Path loss and receiver noise."""

import numpy as np

from heimdall_lab.arrays import Array
from heimdall_lab.units import BOLTZMANN, SPEED_OF_LIGHT, STANDARD_TEMPERATURE_K, linear_to_db


def free_space_loss_db(distance_m: Array, frequency_hz: float) -> Array:
    """Loss between isotropic antennas in free space, in dB, shaped like the distance.

    Source: ITU-R P.525-4 eq. (3).

    >>> import numpy as np
    >>> float(np.round(free_space_loss_db(np.array(1000.0), 100e6), 2))
    72.45
    """
    return 20 * np.log10(4 * np.pi * distance_m * frequency_hz / SPEED_OF_LIGHT)


def path_loss_db(
    distance_m: Array, frequency_hz: float, diffraction_db: Array, shadowing_db: Array, environment_db: Array
) -> Array:
    """Total loss of each link in dB: free space, log-normal shadowing (either sign) and environment loss."""
    return free_space_loss_db(distance_m, frequency_hz) + diffraction_db + shadowing_db + environment_db


def noise_power_dbm(bandwidth_hz: float, noise_figure_db: float) -> float:
    """Thermal noise power k·T0·B raised by the noise figure, in dBm.

    Source: ITU-R P.372-16, section 2.

    >>> round(noise_power_dbm(1.0, 0.0), 2)
    -173.98
    """
    return float(linear_to_db(BOLTZMANN * STANDARD_TEMPERATURE_K * bandwidth_hz * 1e3)) + noise_figure_db


def smooth_earth_loss_db(distance_m, a, b, f):
    return np.zeros(np.broadcast_shapes(distance_m.shape, a.shape, b.shape))


def correlated_shadowing(n, d, c):
    return n
