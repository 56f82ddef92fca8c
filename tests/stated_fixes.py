"""One scene of four receivers in a valley and on its rims, and a fix of which everything is stated."""

import numpy as np
import pytest
import xarray as xr

from heimdall_lab.core.units import SPEED_OF_LIGHT
from heimdall_lab.datasets import schema

NAMES = ["Torino", "Pinerolo", "Rocciamelone", "Monviso"]
LATITUDE, LONGITUDE = np.array([45.30, 45.00, 45.20, 44.70]), np.array([7.90, 7.40, 7.10, 7.60])
ALTITUDE = np.array([200.0, 200.0, 4000.0, 4000.0])
PLACE = (45.05, 7.65)
CLOCK_S = 50e-9
CAUSES = ["noise", "clocks", "paths", "receiver_positions", "altitude"]


def valley(late_s: float = 0.0, **attrs: object) -> xr.Dataset:
    """Its differences of arrival from PLACE, 300 m high; the last receiver's clock is late; the truth is not in it."""
    to_ecef = pytest.importorskip("pyproj").Transformer.from_crs("EPSG:4979", "EPSG:4978")
    here = np.stack(to_ecef.transform(LATITUDE, LONGITUDE, ALTITUDE), axis=-1)
    distance_m = np.linalg.norm(here - np.array(to_ecef.transform(*PLACE, 300.0)), axis=-1)
    arrival_s = (distance_m / SPEED_OF_LIGHT + np.array([0.0, 0.0, 0.0, late_s]))[None]
    flat, each = np.zeros((1, 4)), np.ones((1, 4), dtype=bool)
    known = {
        "receiver_present": each,
        "receiver_latitude": LATITUDE[None],
        "receiver_longitude": LONGITUDE[None],
        "receiver_altitude": ALTITUDE[None],
        "waveform": np.full(1, "unknown"),
        "rssi_dbm": flat,
        "snr_db": flat,
        "tdoa_s": arrival_s - arrival_s[:, :1],
        "fdoa_hz": flat,
        "toa_std_s": flat + CLOCK_S,
        "tdoa_std_s": flat + CLOCK_S,
        "coherence": flat,
        "heard": each,
        "reference_receiver": np.zeros(1, dtype=int),
    }
    stated_attrs = {"propagation": "line_of_sight", "link_sigma_db": np.nan, "clock_sigma_s": CLOCK_S}
    coords = {"sample": np.arange(1), "receiver_name": ("receiver", NAMES)}
    network = dict.fromkeys(schema.ATTRIBUTES, 0.0) | stated_attrs | attrs
    return schema.check(schema.label(schema.unknown(1, 4) | known, coords, network))


def stated(
    status: str = "ok",
    checked: str = "yes",
    suspect: int = 0,
    rivals: tuple[tuple[float, float], ...] = (),
    **changes: float,
) -> xr.Dataset:
    """Its fix as `hl.locate` returns it; ``changes`` are of ``undetected_m``, ``misfit`` and errors by cause, m."""
    by_cause = {"noise": 15.0, "clocks": 3.0, "paths": 0.0, "receiver_positions": 10.0, "altitude": 125.0}
    budget = np.array([changes.get(cause, value) for cause, value in by_cause.items()])
    places = np.full((1, 3, 2), np.nan)
    places[0, : len(rivals)] = np.reshape(rivals, (-1, 2))
    axes = ["east", "north"]
    each = {
        "latitude": PLACE[0],
        "longitude": PLACE[1],
        "altitude_m": 1100.0,
        "altitude_sigma_m": 1234.0,
        "freedom": np.inf,
        "misfit": changes.get("misfit", 0.875),
        "undetected_m": changes.get("undetected_m", 1234.0),
        "suspect": suspect,
        "checked": checked,
        "status": status,
        "converged": status == "ok",
    }
    return xr.Dataset(
        {name: ("sample", [value]) for name, value in each.items()},
        coords={"sample": [0], "axis": axes, "other_axis": axes, "cause": CAUSES},
        attrs={"method": "tdoa_ls"},
    ).assign(
        covariance=(("sample", "axis", "other_axis"), (budget**2).sum() / 2 * np.eye(2)[None]),
        budget=(("sample", "cause"), budget[None]),
        rival_latitude=(("sample", "rival"), places[..., 0]),
        rival_longitude=(("sample", "rival"), places[..., 1]),
    )
