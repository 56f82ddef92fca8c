"""Classical estimators of the transmitter's position, vectorised over samples.

Each takes what `pairs.pair_features` measured, some the IQ too, and returns a fix with its covariance. Positions are
solved on the ellipsoid, so that one code serves a city and a continent; covariances are along east and north at the
fix.
"""

from collections.abc import Callable

import xarray as xr

from heimdall_lab import geodesy, network, pairs, schema
from heimdall_lab.dpd import dpd
from heimdall_lab.multilateration import tdoa_ls, tdoa_robust
from heimdall_lab.network import Fix, Network
from heimdall_lab.rss import rss_ml


def methods(dataset: xr.Dataset | None = None) -> list[str]:
    """Return the names of the estimators, of a dataset those that do with what it holds.

    >>> methods()
    ['centroid', 'strongest', 'rss_ml', 'tdoa_ls', 'tdoa_robust', 'dpd']
    """
    return [*_FROM_MEASURED, *(_FROM_IQ if dataset is None or "iq" in dataset else ())]


def locate(dataset: xr.Dataset, method: str, measured: xr.Dataset | None = None) -> xr.Dataset:
    """Estimate the transmitter's position in every sample, from the IQ.

    Parameters
    ----------
    dataset : xr.Dataset
        Of the contract; truth variables are not read.
    method : str
        One of `methods`.
    measured : xr.Dataset, optional
        Result of `pairs.pair_features` for the dataset, if at hand.

    Returns
    -------
    xr.Dataset
        Dim ``sample``: ``latitude``, ``longitude`` (degrees); ``east``, ``north`` (m, on the tangent plane at the
        centroid of the present receivers); ``covariance`` (sample, axis, other_axis) m²; ``converged``, False where
        the method failed and the centroid of the receivers that hear the signal stands in for its fix.

    Raises
    ------
    ValueError
        If the method is unknown, needs IQ that the dataset lacks, or the dataset breaks the contract.
    """
    if method not in methods():
        raise ValueError(f"method: {method!r} is unknown; choose one of {', '.join(methods())}")
    schema.check(dataset)
    if dataset.sizes["sample"] == 0:
        raise ValueError("dataset: holds no samples; give at least one")
    measured = pairs.pair_features(dataset) if measured is None else measured
    known = network.from_dataset(dataset, measured)
    fix = _FROM_IQ[method](known, dataset, measured) if method in _FROM_IQ else _FROM_MEASURED[method](known)
    east, north = network.tangent_plane(known, fix).T
    axes = ["east", "north"]
    long_names = {"latitude": "WGS84 latitude of the fix", "longitude": "WGS84 longitude of the fix"}
    return xr.Dataset(
        {
            "latitude": ("sample", fix.latitude_deg, {"units": "degrees_north", "long_name": long_names["latitude"]}),
            "longitude": (
                "sample",
                geodesy.wrapped(fix.longitude_deg),
                {"units": "degrees_east", "long_name": long_names["longitude"]},
            ),
            "east": ("sample", east, {"units": "m", "long_name": "east of the receivers' centroid"}),
            "north": ("sample", north, {"units": "m", "long_name": "north of the receivers' centroid"}),
            "covariance": (("sample", "axis", "other_axis"), fix.covariance, {"units": "m2"}),
            "converged": ("sample", fix.converged, {"long_name": "the method found this fix itself"}),
        },
        coords={"sample": dataset.sample, "axis": axes, "other_axis": axes},
        attrs={"method": method},
    )


_FROM_MEASURED: dict[str, Callable[[Network], Fix]] = {
    "centroid": network.centroid,
    "strongest": network.strongest,
    "rss_ml": rss_ml,
    "tdoa_ls": tdoa_ls,
    "tdoa_robust": tdoa_robust,
}

_FROM_IQ: dict[str, Callable[[Network, xr.Dataset, xr.Dataset], Fix]] = {
    "dpd": dpd,
}
