"""Where receivers and transmitters stand in each candidate scene, and how transmitters move."""

import numpy as np

from heimdall_lab.core import geodesy
from heimdall_lab.core.config import MAX_NORMAL, Config, Geometry
from heimdall_lab.core.philox import Stage, Streams
from heimdall_lab.core.units import EARTH_RADIUS_KM, SPEED_OF_LIGHT

_ROW = np.arange(-6, 7)  # of a hexagonal lattice: more points than MAX_RECEIVERS nearest ones can reach
_CORNERS = 32  # of the polygon around a hexagonal placement
_RELIEF_M = 10_000.0  # terrain may lift receivers from anywhere to anywhere within this


def receiver_names(config: Config) -> list[str]:
    """Names along the receiver dimension; empty where a fixed network is padded."""
    if config.geometry.placement != "fixed":
        return [f"R{number}" for number in range(1, config.max_receivers + 1)]
    listed = [receiver.name for receiver in config.geometry.receivers]
    return listed + [""] * (config.max_receivers - len(listed))


def draw_receivers(config: Config, streams: Streams) -> dict[str, np.ndarray]:
    """Positions of the receivers: ``receiver_present``, ``_latitude``, ``_longitude`` and ``_altitude``.

    Each, by contract name, is (S, R), or (1, R) for a fixed network; NaN where no receiver is. Longitudes may pass 180.
    Streams are those of recordings.
    """
    draw = {"fixed": _fixed, "random": _random, "hexagonal": _hexagonal}[config.geometry.placement]
    return draw(config, streams)


def draw_position_errors(config: Config, streams: Streams) -> dict[str, np.ndarray]:
    """How far receivers of a fixed network stand from their stated positions, and how well these are known.

    ``receiver_offset_east`` and ``receiver_offset_north`` (S, R) m, normal with the standard deviation
    ``receiver_position_std`` (1, R) m; nothing where no receiver states one. Streams are those of recordings.
    """
    if not config.geometry.states_positions:
        return {}
    std_m = np.full((1, config.max_receivers), np.nan)
    std_m[0, : len(config.geometry.receivers)] = config.geometry.position_std_m
    east_m, north_m = (std_m * streams.normal(Stage.RECEIVER_POSITION, config.max_receivers, lane) for lane in range(2))
    return {"receiver_position_std": std_m, "receiver_offset_east": east_m, "receiver_offset_north": north_m}


def standing_network(network: dict[str, np.ndarray], errors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Where the receivers of a network stand, by their stated positions and what `draw_position_errors` drew."""
    if not errors:
        return network
    latitude, longitude = network["receiver_latitude"], network["receiver_longitude"]
    east_m, north_m = errors["receiver_offset_east"], errors["receiver_offset_north"]
    moved = geodesy.displace(latitude, np.zeros_like(longitude), east_m, north_m)
    return network | {"receiver_latitude": moved[0], "receiver_longitude": longitude + moved[1]}


def draw_transmitters(config: Config, streams: Streams, network: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Positions, powers and velocities of the transmitters, (S), by contract name.

    Inside the box of each scene's own receivers with probability ``inside_ratio``, else inside the widened box.
    """
    geometry, signal = config.geometry, config.signal
    draws = streams.uniform(Stage.TRANSMITTER, 4)
    margin = np.where(draws[:, 0] < geometry.inside_ratio, 0.0, geometry.margin_deg)
    latitudes, longitudes = network["receiver_latitude"], network["receiver_longitude"]
    south, north = np.nanmin(latitudes, axis=1) - margin, np.nanmax(latitudes, axis=1) + margin
    west, east = np.nanmin(longitudes, axis=1) - margin, np.nanmax(longitudes, axis=1) + margin
    low, high = geometry.transmitter_altitude_min_m, geometry.transmitter_altitude_max_m
    power = streams.uniform(Stage.POWER, 1, signal.transmitter_power_min_dbm, signal.transmitter_power_max_dbm)
    motion = streams.uniform(Stage.MOTION, 2)
    speed = geometry.transmitter_speed_max_m_s * motion[:, 0]
    return {
        "transmitter_latitude": south + (north - south) * draws[:, 1],
        "transmitter_longitude": geodesy.wrapped(west + (east - west) * draws[:, 2]),
        "transmitter_altitude": low + (high - low) * draws[:, 3],
        "transmitter_power": power[:, 0],
        "transmitter_velocity_east": speed * np.sin(2 * np.pi * motion[:, 1]),
        "transmitter_velocity_north": speed * np.cos(2 * np.pi * motion[:, 1]),
    }


def area_deg(config: Config) -> tuple[float, float, float, float]:
    """South, north, west and east edge of what receivers and transmitters of any scene can reach, degrees."""
    geometry = config.geometry
    if geometry.placement == "fixed":
        latitude, longitude = np.array([r.latitude_deg for r in geometry.receivers]), np.array(geometry.longitudes_deg)
    else:
        latitude, longitude = _offset_from_centre(geometry, *_outline_m(geometry))
    margin = geometry.margin_deg if geometry.inside_ratio < 1 else 0.0
    off_deg = np.degrees(_farthest_off_m(geometry) / (EARTH_RADIUS_KM * 1e3))
    north, east = max(margin, off_deg), max(margin, off_deg / np.cos(np.radians(np.abs(latitude).max())))
    return latitude.min() - north, latitude.max() + north, longitude.min() - east, longitude.max() + east


def longest_delay_spread_s(config: Config) -> float:
    """Upper bound of the difference between two propagation delays of a scene, s.

    It is that of the two receivers furthest apart, whatever the transmitter (triangle inequality).
    """
    geometry = config.geometry
    relief_m = _RELIEF_M if config.channel.diffraction == "terrain" else 0.0
    if geometry.placement == "fixed":
        latitude, longitude, altitude = np.array(
            [(r.latitude_deg, r.longitude_deg, r.altitude_m) for r in geometry.receivers]
        ).T
        position = geodesy.ecef(latitude, longitude, altitude)
    else:
        latitude, longitude = _offset_from_centre(geometry, *_outline_m(geometry))
        position = geodesy.ecef(latitude, longitude, np.full(latitude.shape, geometry.receiver_altitude_max_m))
        relief_m += geometry.receiver_altitude_max_m - geometry.receiver_altitude_min_m
    longest_m = geodesy.length(position[:, None] - position[None]).max() + 2 * _farthest_off_m(geometry)
    return float(longest_m + relief_m) / SPEED_OF_LIGHT


def _farthest_off_m(geometry: Geometry) -> float:
    """Upper bound of how far receivers stand from their stated positions."""
    return 2**0.5 * MAX_NORMAL * max(geometry.position_std_m) if geometry.states_positions else 0.0


def _outline_m(geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Offsets east and north of points around all that a random or hexagonal placement can reach."""
    half_m = 500 * geometry.extent_km
    if geometry.placement == "random":
        return np.array([-half_m, half_m, half_m, -half_m]), np.array([-half_m, -half_m, half_m, half_m])
    corners = 2 * np.pi * np.arange(_CORNERS) / _CORNERS
    reach_m = _hexagonal_reach_m(geometry) / np.cos(np.pi / _CORNERS)  # of a polygon around the circle
    return reach_m * np.cos(corners), reach_m * np.sin(corners)


def _fixed(config: Config, _: Streams) -> dict[str, np.ndarray]:
    """The listed network, padded with NaN."""
    table = np.full((3, 1, config.max_receivers), np.nan)
    for index, receiver in enumerate(config.geometry.receivers):
        table[:, 0, index] = receiver.latitude_deg, config.geometry.longitudes_deg[index], receiver.altitude_m
    return _by_contract_name(*table)


def _random(config: Config, streams: Streams) -> dict[str, np.ndarray]:
    """Receivers uniform in the square."""
    half_m = 500 * config.geometry.extent_km
    draws = streams.uniform(Stage.PLACEMENT, 2 * config.max_receivers, -half_m, half_m)
    return _around_centre(config, streams, draws[:, 0::2], draws[:, 1::2])


def _hexagonal(config: Config, streams: Streams) -> dict[str, np.ndarray]:
    """Those points nearest to the centre of a hexagonal lattice, turned and shifted at random.

    Its cells are as large as the square divided by the number of receivers.
    """
    spacing_m = _hexagonal_spacing_m(config.geometry, _num_receivers(config, streams))[:, None]
    shift_first, shift_second, turn = streams.uniform(Stage.PLACEMENT, 3).T[..., None]
    second, first = (axis.ravel() for axis in np.meshgrid(_ROW, _ROW, indexing="ij"))
    x = (first + shift_first) + (second + shift_second) / 2
    y = (second + shift_second) * (3**0.5 / 2)
    nearest = np.argsort(x**2 + y**2, axis=1, kind="stable")[:, : config.max_receivers]
    x, y = (spacing_m * np.take_along_axis(axis, nearest, axis=1) for axis in (x, y))
    cosine, sine = np.cos(2 * np.pi * turn), np.sin(2 * np.pi * turn)
    return _around_centre(config, streams, cosine * x - sine * y, sine * x + cosine * y)


def _hexagonal_spacing_m(geometry: Geometry, number: np.ndarray) -> np.ndarray:
    """Distance of neighbours: a cell of the lattice has the area spacing² · √3 / 2."""
    return 1e3 * geometry.extent_km * (2 / (3**0.5 * number)) ** 0.5


def _hexagonal_reach_m(geometry: Geometry) -> float:
    """Upper bound of a receiver's distance from the centre.

    A disc of radius ρ + c, c = spacing / √3 the greatest distance from a lattice point, holds the whole cells of at
    least π ρ² / cell points.
    """
    spacing_m = float(_hexagonal_spacing_m(geometry, np.asarray(geometry.num_receivers_min)))
    return 1e3 * geometry.extent_km / np.pi**0.5 + spacing_m / 3**0.5


def _num_receivers(config: Config, streams: Streams) -> np.ndarray:
    """Number of receivers of each scene, (S,), uniform between its bounds."""
    fewest, most = config.geometry.num_receivers
    return fewest + (streams.uniform(Stage.PLACEMENT, 1, lane=1)[:, 0] * (most - fewest + 1)).astype(int)


def _around_centre(config: Config, streams: Streams, east_m: np.ndarray, north_m: np.ndarray) -> dict[str, np.ndarray]:
    """Receivers (S, R) at offsets from the centre of the area, at random altitudes; NaN beyond each scene's number."""
    geometry = config.geometry
    latitude, longitude = _offset_from_centre(geometry, east_m, north_m)
    altitude = streams.uniform(
        Stage.PLACEMENT,
        config.max_receivers,
        geometry.receiver_altitude_min_m,
        geometry.receiver_altitude_max_m,
        lane=2,
    )
    present = np.arange(config.max_receivers) < _num_receivers(config, streams)[:, None]
    return _by_contract_name(*(np.where(present, values, np.nan) for values in (latitude, longitude, altitude)))


def _offset_from_centre(geometry: Geometry, east_m: np.ndarray, north_m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Latitude and longitude of offsets from the centre of the area: north first, then east along the parallel."""
    centre = np.array(geometry.centre_latitude_deg), np.array(geometry.centre_longitude_deg)
    latitude, _ = geodesy.displace(*centre, 0.0, north_m)
    return latitude, centre[1] + geodesy.displace(latitude, np.zeros_like(latitude), east_m, 0.0)[1]


def _by_contract_name(latitude: np.ndarray, longitude: np.ndarray, altitude: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "receiver_present": np.isfinite(latitude),
        "receiver_latitude": latitude,
        "receiver_longitude": longitude,
        "receiver_altitude": altitude,
    }
