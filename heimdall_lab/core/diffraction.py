"""Diffraction over one link at a time, compiled: behind simulated losses, and the law of levels that locate.

Equation numbers are those of ITU-R P.1812-6, section 4.3, unless said otherwise. Lengths of paths are in km, heights in
m. Each link is computed by itself in double precision, so its loss is the same to the last bit whatever else is in the
batch.
"""

import math

import numpy as np

from heimdall_lab.core.arrays import Array
from heimdall_lab.core.compiled import njit
from heimdall_lab.core.units import EARTH_RADIUS_KM, SPEED_OF_LIGHT

EFFECTIVE_EARTH_RADIUS_KM = 4 / 3 * EARTH_RADIUS_KM  # standard atmosphere, ITU-R P.310-10 definition B1

_LAND = (22.0, 0.003)  # relative permittivity and conductivity (S/m) of average land, section 4.3.3
_SEA = (80.0, 5.0)
_LEAST_ALTITUDE_M = 1.0


@njit(cache=True, error_model="numpy")
def smooth_earth_links(
    distance_m: Array, tx_altitude_m: Array, rx_altitude_m: Array, frequency_ghz: Array, vertical: bool
) -> Array:
    """Loss of each link (L,) over a smooth Earth of land and 4/3 radius, in dB."""
    loss_db = np.empty(distance_m.size)
    for link in range(distance_m.size):
        tx_m, rx_m = tx_altitude_m[link], rx_altitude_m[link]  # comparisons that leave NaN as it is
        tx_m = _LEAST_ALTITUDE_M if tx_m < _LEAST_ALTITUDE_M else tx_m
        rx_m = _LEAST_ALTITUDE_M if rx_m < _LEAST_ALTITUDE_M else rx_m
        loss_db[link] = _spherical_earth_db(
            distance_m[link] / 1e3, tx_m, rx_m, EFFECTIVE_EARTH_RADIUS_KM, frequency_ghz[link], 0.0, vertical
        )
    return loss_db


@njit(cache=True, error_model="numpy")
def delta_bullington_links(
    distance_km: Array,
    terrain_m: Array,
    ground_m: Array,
    tx_height_m: Array,
    rx_height_m: Array,
    frequency_ghz: Array,
    radius_km: Array,
    sea_fraction: Array,
    vertical: bool,
    parts_db: Array,
) -> int:
    """Write the three losses of each link (L, 3); return the first link with a refused profile, or −1."""
    for link in range(len(distance_km)):
        count = _num_points(distance_km[link])
        if count < 0:
            return link
        tx_m, rx_m = tx_height_m[link], rx_height_m[link]
        profile_km, bare_m, obstacle_m = distance_km[link, :count], terrain_m[link, :count], ground_m[link, :count]
        if count == 0 or math.isnan(tx_m + rx_m + bare_m.sum() + obstacle_m.sum()):
            parts_db[link] = np.nan
        elif profile_km[-1] == 0:
            parts_db[link] = 0.0
        else:
            tx_m, rx_m = tx_m + bare_m[0], rx_m + bare_m[-1]  # above sea level
            tx_smooth_m, rx_smooth_m = _smooth_surface(profile_km, bare_m, tx_m, rx_m)
            tx_effective_m, rx_effective_m = tx_m - tx_smooth_m, rx_m - rx_smooth_m  # eqs. (37a), (37b)
            radius, frequency = radius_km[link], frequency_ghz[link]
            parts_db[link, 0] = _bullington_db(profile_km, obstacle_m, 1.0, tx_m, rx_m, radius, frequency)
            parts_db[link, 1] = _bullington_db(
                profile_km, obstacle_m, 0.0, tx_effective_m, rx_effective_m, radius, frequency
            )
            parts_db[link, 2] = _spherical_earth_db(
                profile_km[-1], tx_effective_m, rx_effective_m, radius, frequency, sea_fraction[link], vertical
            )
    return -1


@njit(cache=True, error_model="numpy")
def _num_points(distance_km: Array) -> int:
    """Count the points of a profile that ends in NaN, all at 0 without length; −1 if they do not ascend from 0."""
    count = 0
    while count < distance_km.size and not math.isnan(distance_km[count]):
        count += 1
    for point in range(count, distance_km.size):
        if not math.isnan(distance_km[point]):
            return -1
    if count == 0:
        return 0
    if count == 1 or distance_km[0] != 0 or math.isinf(distance_km[count - 1]):
        return -1
    for point in range(1, count):
        if not (distance_km[point] > distance_km[point - 1] or distance_km[count - 1] == distance_km[point] == 0):
            return -1
    return count


@njit(cache=True, error_model="numpy")
def _smooth_surface(distance_km: Array, terrain_m: Array, tx_m: float, rx_m: float) -> tuple[float, float]:
    """Heights in m above sea level of the smooth Earth under two antennas (P.1812-6 attachment 1, section 5.6)."""
    last = distance_km.size - 1
    length_km = distance_km[last]
    v1, v2 = 0.0, 0.0
    for i in range(1, last + 1):
        here_km, before_km, here_m, before_m = distance_km[i], distance_km[i - 1], terrain_m[i], terrain_m[i - 1]
        v1 += (here_km - before_km) * (here_m + before_m)  # eq. (85)
        v2 += (here_km - before_km) * (
            here_m * (2 * here_km + before_km) + before_m * (here_km + 2 * before_km)
        )  # eq. (86)
    tx_smooth_m = (2 * v1 * length_km - v2) / length_km**2  # eq. (87)
    rx_smooth_m = (v2 - v1 * length_km) / length_km**2  # eq. (88)
    obstruction_m, tx_slope, rx_slope = -np.inf, -np.inf, -np.inf
    for i in range(1, last):
        from_tx_km, to_rx_km = distance_km[i], length_km - distance_km[i]
        above_m = terrain_m[i] - (tx_m * to_rx_km + rx_m * from_tx_km) / length_km  # eq. (89d)
        obstruction_m = max(obstruction_m, above_m)  # eq. (89a)
        tx_slope = max(tx_slope, above_m / from_tx_km)  # eq. (89b)
        rx_slope = max(rx_slope, above_m / to_rx_km)  # eq. (89c)
    if obstruction_m > 0:
        tx_smooth_m -= obstruction_m * tx_slope / (tx_slope + rx_slope)  # eqs. (90c), (90e)
        rx_smooth_m -= obstruction_m * rx_slope / (tx_slope + rx_slope)  # eqs. (90d), (90f)
    return min(tx_smooth_m, terrain_m[0]), min(rx_smooth_m, terrain_m[last])  # eqs. (91a) to (91d)


@njit(cache=True, error_model="numpy")
def _bullington_db(
    distance_km: Array,
    ground_m: Array,
    scale: float,
    tx_m: float,
    rx_m: float,
    radius_km: float,
    frequency_ghz: float,
) -> float:
    """Bullington's loss over ``scale`` times the ground's height; antennas in the same system of heights (4.3.1)."""
    last = distance_km.size - 1
    length_km = distance_km[last]
    wavelength_m = SPEED_OF_LIGHT / (frequency_ghz * 1e9)
    tx_slope, rx_slope = -np.inf, -np.inf
    for i in range(1, last):
        from_tx_km, to_rx_km = distance_km[i], length_km - distance_km[i]
        bulged_m = scale * ground_m[i] + 500 / radius_km * from_tx_km * to_rx_km
        tx_slope = max(tx_slope, (bulged_m - tx_m) / from_tx_km)  # eq. (13)
        rx_slope = max(rx_slope, (bulged_m - rx_m) / to_rx_km)  # eq. (17)
    if tx_slope < (rx_m - tx_m) / length_km:  # eq. (14): line of sight
        nu = -np.inf
        for i in range(1, last):
            from_tx_km, to_rx_km = distance_km[i], length_km - distance_km[i]
            bulged_m = scale * ground_m[i] + 500 / radius_km * from_tx_km * to_rx_km
            above_m = bulged_m - (tx_m * to_rx_km + rx_m * from_tx_km) / length_km
            nu = max(nu, above_m * math.sqrt(0.002 * length_km / (wavelength_m * from_tx_km * to_rx_km)))  # eq. (15)
    else:
        from_tx_km = (rx_m - tx_m + rx_slope * length_km) / (tx_slope + rx_slope)  # eq. (18)
        to_rx_km = length_km - from_tx_km
        above_m = tx_m + tx_slope * from_tx_km - (tx_m * to_rx_km + rx_m * from_tx_km) / length_km
        nu = above_m * math.sqrt(0.002 * length_km / (wavelength_m * from_tx_km * to_rx_km))  # eq. (19)
    knife_edge_db = 0.0
    if nu > -0.78:
        knife_edge_db = 6.9 + 20 * math.log10(math.sqrt((nu - 0.1) ** 2 + 1) + nu - 0.1)  # eqs. (12), (16), (20)
    return knife_edge_db + (1 - math.exp(-knife_edge_db / 6)) * (10 + 0.02 * length_km)  # eq. (21)


@njit(cache=True, error_model="numpy")
def _spherical_earth_db(
    distance_km: float,
    tx_m: float,
    rx_m: float,
    radius_km: float,
    frequency_ghz: float,
    sea_fraction: float,
    vertical: bool,
) -> float:
    """Loss over a spherical Earth between antennas at heights above it; 0 where the path is clear (section 4.3.2)."""
    if distance_km == 0:
        return 0.0
    horizon_km = math.sqrt(2 * radius_km) * (math.sqrt(0.001 * tx_m) + math.sqrt(0.001 * rx_m))  # eq. (22)
    if not distance_km < horizon_km:
        return _first_term_db(distance_km, tx_m, rx_m, radius_km, frequency_ghz, sea_fraction, vertical)
    c = (tx_m - rx_m) / (tx_m + rx_m)  # eq. (24d)
    m = 250 * distance_km**2 / (radius_km * (tx_m + rx_m))  # eq. (24e)
    cosine = 1.5 * c * math.sqrt(3 * m / (m + 1) ** 3)
    cosine = max(-1.0, min(1.0, cosine))  # against rounding
    b = 2 * math.sqrt((m + 1) / (3 * m)) * math.cos(math.pi / 3 + math.acos(cosine) / 3)  # eq. (24c)
    from_tx_km = distance_km / 2 * (1 + b)  # eq. (24a)
    to_rx_km = distance_km - from_tx_km  # eq. (24b)
    clearance_m = (
        (tx_m - 500 * from_tx_km**2 / radius_km) * to_rx_km + (rx_m - 500 * to_rx_km**2 / radius_km) * from_tx_km
    ) / distance_km  # eq. (23)
    wavelength_m = SPEED_OF_LIGHT / (frequency_ghz * 1e9)
    required_m = 17.456 * math.sqrt(from_tx_km * to_rx_km * wavelength_m / distance_km)  # eq. (25)
    if clearance_m > required_m:
        return 0.0
    marginal_radius_km = 500 * (distance_km / (math.sqrt(tx_m) + math.sqrt(rx_m))) ** 2  # eq. (26)
    loss_db = _first_term_db(distance_km, tx_m, rx_m, marginal_radius_km, frequency_ghz, sea_fraction, vertical)
    return max(loss_db, 0.0) * (1 - clearance_m / required_m)  # eq. (27)


@njit(cache=True, error_model="numpy")
def _first_term_db(
    distance_km: float,
    tx_m: float,
    rx_m: float,
    radius_km: float,
    frequency_ghz: float,
    sea_fraction: float,
    vertical: bool,
) -> float:
    """First term of the residue series of the loss over a path of land and sea (eq. 28)."""
    loss_db = 0.0
    if sea_fraction < 1:
        loss_db += (1 - sea_fraction) * _first_term_over_db(
            _LAND, distance_km, tx_m, rx_m, radius_km, frequency_ghz, vertical
        )
    if sea_fraction > 0:
        loss_db += sea_fraction * _first_term_over_db(_SEA, distance_km, tx_m, rx_m, radius_km, frequency_ghz, vertical)
    return loss_db


@njit(cache=True, error_model="numpy")
def _first_term_over_db(
    ground: tuple[float, float],
    distance_km: float,
    tx_m: float,
    rx_m: float,
    radius_km: float,
    frequency_ghz: float,
    vertical: bool,
) -> float:
    """First term of the loss over one kind of ground (section 4.3.3)."""
    permittivity, conductivity = ground
    loss_angle = 18 * conductivity / frequency_ghz
    radius_root, frequency_root = np.cbrt(radius_km), np.cbrt(frequency_ghz)
    k = 0.036 / (radius_root * frequency_root * ((permittivity - 1) ** 2 + loss_angle**2) ** 0.25)  # eq. (29a)
    if vertical:
        k *= math.sqrt(permittivity**2 + loss_angle**2)  # eq. (29b)
    k2 = k * k
    beta = (1 + 1.6 * k2 + 0.67 * k2 * k2) / (1 + 4.5 * k2 + 1.53 * k2 * k2)  # eq. (30)
    x = 21.88 * beta * frequency_root / radius_root**2 * distance_km  # eq. (31)
    y_per_m = 0.9575 * beta * frequency_root**2 / radius_root  # eqs. (32a), (32b)
    log_x = math.log10(x)
    distance_db = 11 + 10 * log_x - 17.6 * x if x >= 1.6 else -20 * log_x - 5.6488 * x**1.425  # eq. (33)
    least_db = 2 + 20 * math.log10(k)
    return (
        -distance_db
        - _height_gain_db(beta * y_per_m * tx_m, least_db)
        - _height_gain_db(beta * y_per_m * rx_m, least_db)
    )  # eqs. (35), (36)


@njit(cache=True, error_model="numpy")
def _height_gain_db(b: float, least_db: float) -> float:
    """Gain of an antenna's normalised height (eq. 34)."""
    if b > 2:
        gain_db = 17.6 * math.sqrt(b - 1.1) - 5 * math.log10(b - 1.1) - 8
    elif b > 0:
        gain_db = 20 * math.log10(b + 0.1 * b**3)
    elif b == 0:
        return least_db
    else:
        return b  # NaN
    return max(gain_db, least_db)
