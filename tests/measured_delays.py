"""Scenes of time differences as a network might have measured them, without IQ."""

import numpy as np
import pyproj
import xarray as xr

from heimdall_lab.core.units import SPEED_OF_LIGHT
from heimdall_lab.datasets import schema

NOISE_S = 0.1e-6


def measured(receivers: np.ndarray, transmitter: np.ndarray, delay_s: np.ndarray, **attrs: object) -> xr.Dataset:
    """Scenes of receivers (S, R, 2 or 3) and transmitters (S, 2 or 3), degrees and m, with errors of arrival (S, R)."""
    receivers, transmitter = (
        np.concatenate([place, np.zeros((*place.shape[:-1], 3 - place.shape[-1]))], axis=-1)
        for place in (receivers, transmitter)
    )
    to_ecef = pyproj.Transformer.from_crs("EPSG:4979", "EPSG:4978")
    here, there = (
        np.stack(to_ecef.transform(*np.moveaxis(place, -1, 0)), axis=-1) for place in (receivers, transmitter)
    )
    distance_m = np.linalg.norm(here - there[:, None], axis=-1)
    arrival_s = distance_m / SPEED_OF_LIGHT + delay_s
    scenes, links = arrival_s.shape
    flat, each = np.zeros((scenes, links)), np.ones((scenes, links), dtype=bool)
    known = {
        "receiver_present": each,
        "receiver_latitude": receivers[..., 0],
        "receiver_longitude": receivers[..., 1],
        "receiver_altitude": receivers[..., 2],
        "transmitter_latitude": transmitter[:, 0],
        "transmitter_longitude": transmitter[:, 1],
        "transmitter_altitude": transmitter[:, 2],
        "waveform": np.full(scenes, "unknown"),
        "rssi_dbm": -20 * np.log10(distance_m),
        "snr_db": flat,
        "tdoa_s": arrival_s - arrival_s[:, :1],
        "fdoa_hz": flat,
        "toa_std_s": flat + NOISE_S,
        "tdoa_std_s": flat + NOISE_S,
        "coherence": flat,
        "heard": each,
        "reference_receiver": np.zeros(scenes, dtype=int),
    }
    network = dict.fromkeys(schema.ATTRIBUTES, 0.0) | {"propagation": "line_of_sight", "link_sigma_db": np.nan}
    network |= {"sigma_freedom": np.inf, "transmitter_altitude_m": 0.0, "transmitter_altitude_sigma_m": 1.0}
    coords = {"sample": np.arange(scenes), "receiver_name": ("receiver", [f"R{link}" for link in range(links)])}
    return schema.check(schema.label(schema.unknown(scenes, links) | known, coords, network | attrs))


def ring(rng: np.random.Generator, scenes: int, links: int) -> tuple[np.ndarray, np.ndarray]:
    """Receivers (S, R, 2) on a ring of about 40 km, and transmitters (S, 2) inside, degrees."""
    angle = 2 * np.pi * (np.arange(links) + rng.uniform(-0.3, 0.3, (scenes, links))) / links
    radius = rng.uniform(0.2, 0.5, (scenes, links))
    receivers = np.stack([45 + radius * np.sin(angle), 8 + 1.4 * radius * np.cos(angle)], axis=-1)
    return receivers, np.array([45.0, 8.0]) + rng.uniform(-0.15, 0.15, (scenes, 2))
