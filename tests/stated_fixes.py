"""One scene of four receivers in a valley and on its rims, and a fix of which everything is stated."""

import numpy as np
import xarray as xr
from measured_delays import measured

NAMES = ["Torino", "Pinerolo", "Rocciamelone", "Monviso"]
LATITUDE, LONGITUDE = np.array([45.30, 45.00, 45.20, 44.70]), np.array([7.90, 7.40, 7.10, 7.60])
ALTITUDE = np.array([200.0, 200.0, 4000.0, 4000.0])
PLACE = (45.05, 7.65)
CAUSES = ["noise", "clocks", "paths", "receiver_positions", "altitude"]


def valley(late_s: float = 0.0, **attrs: object) -> xr.Dataset:
    """Its differences of arrival from PLACE, 300 m high; the last receiver's clock is late; the truth is not in it."""
    receivers = np.stack([LATITUDE, LONGITUDE, ALTITUDE], axis=-1)[None]
    clocks_s = np.array([[0.0, 0.0, 0.0, late_s]])
    stated_attrs = {"clock_sigma_s": 50e-9, "sigma_freedom": 4.0, "transmitter_altitude_m": np.nan}
    scene = measured(receivers, np.array([[*PLACE, 300.0]]), clocks_s, **stated_attrs | attrs)
    unknown = {name: scene[name] * np.nan for name in scene if name.startswith("transmitter_")}
    unknown = {name: values.assign_attrs(scene[name].attrs) for name, values in unknown.items()}
    return scene.assign(unknown).assign_coords(receiver_name=("receiver", NAMES))


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
    by_receiver = np.where(np.array(list(by_cause)) == "altitude", np.nan, budget / 2)  # of four alike
    places = np.full((1, 3, 2), np.nan)
    places[0, : len(rivals)] = np.reshape(rivals, (-1, 2))
    axes = ["east", "north"]
    each = {
        "latitude": PLACE[0],
        "longitude": PLACE[1],
        "altitude_m": 1100.0,
        "altitude_sigma_m": 1234.0,
        "reflection_height_m": np.nan,
        "reflection_height_sigma_m": np.nan,
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
        receiver_budget=(("sample", "receiver", "cause"), np.tile(by_receiver, (1, 4, 1))),
        rival_latitude=(("sample", "rival"), places[..., 0]),
        rival_longitude=(("sample", "rival"), places[..., 1]),
    )
