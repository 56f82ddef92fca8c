"""Path loss and receiver noise: free space, diffraction over a smooth Earth and over terrain, correlated shadowing.

Diffraction and shadowing are compiled for the CPU (NumPy arrays only), and computed for each link and scene by itself.
"""

import math

import numpy as np

from heimdall_lab.core.arrays import Array
from heimdall_lab.core.compiled import njit
from heimdall_lab.core.diffraction import delta_bullington_links, smooth_earth_links
from heimdall_lab.core.text import quoted
from heimdall_lab.core.units import BOLTZMANN, SPEED_OF_LIGHT, STANDARD_TEMPERATURE_K, linear_to_db

POLARIZATIONS = ("horizontal", "vertical")

_LEAST_PIVOT = 1e-12  # below it a receiver stands where another one does, to rounding


def free_space_loss_db(distance_m: Array, frequency_hz: Array) -> Array:
    """Loss between isotropic antennas in free space, in dB; distances and frequencies broadcast.

    Source: ITU-R P.525-4 eq. (3).

    >>> import numpy as np
    >>> float(np.round(free_space_loss_db(np.array(1000.0), 100e6), 2))
    72.45
    """
    return 20 * np.log10(4 * np.pi * distance_m * frequency_hz / SPEED_OF_LIGHT)


def path_loss_db(
    distance_m: Array, frequency_hz: Array, shadowing_db: Array, environment_db: Array, diffraction_db: Array = 0.0
) -> Array:
    """Total loss of each link in dB: free space, diffraction, log-normal shadowing (either sign) and environment."""
    return free_space_loss_db(distance_m, frequency_hz) + diffraction_db + shadowing_db + environment_db


def noise_power_dbm(bandwidth_hz: float, noise_figure_db: float) -> float:
    """Thermal noise power k·T0·B raised by the noise figure, in dBm.

    Source: ITU-R P.372-16, section 2.

    >>> round(noise_power_dbm(1.0, 0.0), 2)
    -173.98
    """
    return float(linear_to_db(BOLTZMANN * STANDARD_TEMPERATURE_K * bandwidth_hz * 1e3)) + noise_figure_db


def smooth_earth_loss_db(
    distance_m: Array,
    tx_altitude_m: Array,
    rx_altitude_m: Array,
    frequency_hz: Array,
    *,
    polarization: str = "vertical",
) -> Array:
    """Diffraction loss over a smooth Earth of average land and 4/3 radius, beyond that of free space.

    Parameters
    ----------
    distance_m, tx_altitude_m, rx_altitude_m, frequency_hz : (...) broadcast
        Path lengths, and altitudes of the antennas above the smooth Earth; those below 1 m are taken as 1 m.
    polarization : str
        ``vertical`` or ``horizontal``.

    Returns
    -------
    (...) dB, 0 where the path is clear, NaN where an argument is NaN

    Raises
    ------
    ValueError
        If the polarization is unknown.

    Source
    ------
    ITU-R P.1812-6 section 4.3.2 (the same as ITU-R P.526-15 section 3.2), recommended from 30 MHz.

    >>> import numpy as np
    >>> smooth_earth_loss_db(np.array([20e3, 100e3]), 300.0, 100.0, 145e6).round(1)
    array([ 0., 11.])
    """
    vertical = _is_vertical(polarization)
    arguments = (distance_m, tx_altitude_m, rx_altitude_m, frequency_hz)
    links = np.broadcast_arrays(*(np.asarray(argument, dtype=float) for argument in arguments))
    distance, tx_altitude, rx_altitude, frequency = (np.ravel(a) for a in links)
    loss: Array = smooth_earth_links(distance, tx_altitude, rx_altitude, frequency / 1e9, vertical)
    return loss.reshape(links[0].shape)


def delta_bullington(
    distance_km: Array,
    terrain_m: Array,
    tx_height_m: Array,
    rx_height_m: Array,
    frequency_mhz: Array,
    *,
    clutter_m: Array = 0.0,
    effective_earth_radius_km: Array,
    sea_fraction: Array = 0.0,
    polarization: str = "vertical",
) -> Array:
    """Diffraction loss over terrain profiles, beyond that of free space.

    Interior points stand as high as terrain and clutter together; the smooth Earth is fitted to the bare terrain, and
    the antennas stand on the bare ends.

    Parameters
    ----------
    distance_km : (..., P)
        Distances of the profile's points from the transmitter: 0 first, then ascending, the last at the receiver. A
        profile with fewer points than P ends in NaN.
    terrain_m : (..., P)
        Heights of the bare ground above sea level.
    tx_height_m, rx_height_m : (...)
        Heights of the antennas above the ground.
    frequency_mhz : (...)
    clutter_m : (..., P)
        Representative heights of clutter above the ground.
    effective_earth_radius_km : (...)
    sea_fraction : (...)
        Share of the path over sea, 0 … 1.
    polarization : str
        ``vertical`` or ``horizontal``.

    Returns
    -------
    (...) dB, NaN where an antenna's height, the whole profile or the height of one of its points is NaN

    Raises
    ------
    ValueError
        If distances do not ascend from 0, an antenna stands below the ground, the frequency, the radius or the share
        of sea is out of its range, or the polarization is unknown.

    Source
    ------
    ITU-R P.1812-6 section 4.3, and attachment 1 section 5.6 for the smooth Earth.

    >>> import numpy as np
    >>> ridge_m = np.array([[0.0, 0.0, 200.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, 0.0]])
    >>> delta_bullington(np.linspace(0, 20, 5), ridge_m, 30.0, 30.0, 145.0, effective_earth_radius_km=8495.0).round(1)
    array([30.8, 12.5])
    """
    parts = _delta_bullington_parts(
        distance_km,
        terrain_m,
        tx_height_m,
        rx_height_m,
        frequency_mhz,
        clutter_m,
        effective_earth_radius_km,
        sea_fraction,
        polarization,
    )
    actual_db, smooth_db, spherical_db = parts[..., 0], parts[..., 1], parts[..., 2]
    return actual_db + np.maximum(spherical_db - smooth_db, 0)  # ITU-R P.1812-6 eq. (39)


def correlated_shadowing(normals: Array, distance_m: Array, correlation_distance_m: float) -> Array:
    """Give independent standard normal numbers of a scene's receivers the correlation exp(−d / d_corr).

    Parameters
    ----------
    normals : (S, R)
        Independent standard normal numbers.
    distance_m : (S, R, R) or (R, R)
        Distances between the receivers; NaN to those that are absent, which stay as they are and change no other.
        Straight-line distances make a valid correlation; what others lack to one is taken from the later receivers.
    correlation_distance_m : float
        Distance at which the correlation has fallen to 1/e; 0 leaves the numbers independent.

    Returns
    -------
    (S, R) standard normal numbers; receivers at one place have equal ones

    Raises
    ------
    ValueError
        If the correlation distance is negative, or the distances are not shaped like the receivers.

    Source
    ------
    Gudmundson, "Correlation model for shadow fading in mobile radio systems", Electronics Letters 27 (1991), eq. (3).
    """
    if not correlation_distance_m >= 0:
        raise ValueError(f"correlation_distance_m: {quoted(correlation_distance_m)} is not a distance; give 0 or more")
    normals = np.ascontiguousarray(normals, dtype=float)
    count, size = normals.shape
    distance = np.ascontiguousarray(distance_m, dtype=float)
    if distance.shape not in ((size, size), (count, size, size)):
        raise ValueError(
            f"distance_m: has the shape {distance.shape}, which is neither {(size, size)} nor {(count, size, size)}; "
            "give the distances between all pairs of receivers"
        )
    if correlation_distance_m == 0:
        return normals.copy()
    return _correlate(normals, distance.reshape(-1, size, size), correlation_distance_m)


def _is_vertical(polarization: str) -> bool:
    if polarization not in POLARIZATIONS:
        raise ValueError(f"polarization: {quoted(polarization)} is unknown; choose one of {', '.join(POLARIZATIONS)}")
    return polarization == "vertical"


def _delta_bullington_parts(
    distance_km: Array,
    terrain_m: Array,
    tx_height_m: Array,
    rx_height_m: Array,
    frequency_mhz: Array,
    clutter_m: Array,
    effective_earth_radius_km: Array,
    sea_fraction: Array,
    polarization: str,
) -> Array:
    """Return the losses of ``delta_bullington`` (..., 3): actual path, smooth path, spherical Earth, in dB."""
    vertical = _is_vertical(polarization)
    profile = np.broadcast_arrays(distance_km, terrain_m, np.add(terrain_m, clutter_m))  # each (..., P)
    of_link = {
        "tx_height_m": tx_height_m,
        "rx_height_m": rx_height_m,
        "frequency_mhz": frequency_mhz,
        "effective_earth_radius_km": effective_earth_radius_km,
        "sea_fraction": sea_fraction,
    }
    points = profile[0].shape[-1]
    shape = np.broadcast_shapes(profile[0].shape[:-1], *(np.shape(value) for value in of_link.values()))
    distance, terrain, ground = (
        np.ascontiguousarray(np.broadcast_to(values, (*shape, points)).reshape(-1, points), dtype=float)
        for values in profile
    )
    tx_height, rx_height, frequency, radius, sea = (
        np.broadcast_to(np.asarray(value, dtype=float), shape).ravel() for value in of_link.values()
    )
    for name, value, accepted, range_ in (
        ("tx_height_m", tx_height, ~(tx_height < 0), "0 or more (NaN where there is no antenna)"),
        ("rx_height_m", rx_height, ~(rx_height < 0), "0 or more (NaN where there is no antenna)"),
        ("frequency_mhz", frequency, frequency > 0, "more than 0"),
        ("effective_earth_radius_km", radius, radius > 0, "more than 0"),
        ("sea_fraction", sea, (sea >= 0) & (sea <= 1), "0 … 1"),
    ):
        if not accepted.all():
            raise ValueError(f"{name}: {value[~accepted][0]:g} is refused; give {range_}")
    parts = np.empty((len(distance), 3))
    refused = delta_bullington_links(
        distance, terrain, ground, tx_height, rx_height, frequency / 1e3, radius, sea, vertical, parts
    )
    if refused >= 0:
        raise ValueError(
            f"distance_km: that of link {refused} does not ascend from 0 to a receiver; "
            "sort the points of each profile, and end those with fewer points in NaN"
        )
    return parts.reshape(*shape, 3)


@njit(cache=True, error_model="numpy")
def _correlate(normals: Array, distance_m: Array, correlation_distance_m: float) -> Array:
    """Multiply the normal numbers (S, R) by the Cholesky factors of (1 or S, R, R) exponential correlations."""
    count, size = normals.shape
    correlated = np.empty((count, size))
    factor = np.zeros((size, size))
    for scene in range(count):
        if scene < len(distance_m):
            _cholesky(distance_m[scene], correlation_distance_m, factor)
        for i in range(size):
            total = 0.0
            for j in range(i + 1):
                if factor[i, j] != 0:  # an absent receiver's number may be NaN
                    total += factor[i, j] * normals[scene, j]
            correlated[scene, i] = total
    return correlated


@njit(cache=True, error_model="numpy")
def _cholesky(distance_m: Array, correlation_distance_m: float, factor: Array) -> None:
    """Factor exp(−d / d_corr) into L Lᵀ, written to the lower triangle (R, R).

    Source: Golub and Van Loan, Matrix Computations, 4th ed., section 4.2.5. A pivot of 0, that of a receiver where
    another one stands, is left out of what follows (section 4.2.8).
    """
    for i in range(len(factor)):
        remainder = 1.0
        for j in range(i):
            separation_m = distance_m[i, j]
            value = 0.0 if math.isnan(separation_m) else math.exp(-separation_m / correlation_distance_m)
            for k in range(j):
                value -= factor[i, k] * factor[j, k]
            factor[i, j] = value / factor[j, j] if factor[j, j] > 0 else 0.0
            remainder -= factor[i, j] * factor[i, j]
        factor[i, i] = math.sqrt(remainder) if remainder > _LEAST_PIVOT else 0.0
