"""The classical methods by name. This module is light, for commands list the names before they locate anything."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import xarray as xr

METHODS = {  # name of the method and of its function, and the module of this folder that holds it
    "centroid": "baselines",
    "strongest": "baselines",
    "rss_ml": "levels",
    "tdoa_ls": "tdoa",
    "tdoa_robust": "tdoa",
    "dpd": "dpd",
    "tdoa_joint": "joint",
}
NEEDING_IQ = ("dpd",)  # others do with what was measured of it
TAKING_DATASET = (*NEEDING_IQ, "tdoa_joint")  # others take observations alone
OF_RECORDINGS = ("tdoa_joint",)  # where each scene is its own, these are as others
_NOT_OF_SKY_WAVES = ("dpd",)  # others estimate the height that reflects them, or use no delays
WITH_PRIOR = ("centroid", "strongest", "rss_ml")  # take for known that transmitters are near the receivers


def methods(dataset: "xr.Dataset | None" = None) -> list[str]:
    """Return the names of the classical methods, of a dataset those that do with what it holds.

    >>> methods()
    ['centroid', 'strongest', 'rss_ml', 'tdoa_ls', 'tdoa_robust', 'dpd', 'tdoa_joint']
    """
    return [name for name in METHODS if dataset is None or name not in unfit_methods(dataset)]


def unfit_methods(dataset: "xr.Dataset") -> dict[str, str]:
    """Say of the methods that do nothing with what a dataset holds why that is so."""
    reasons: dict[str, str] = {}
    if "recording" not in dataset:
        reasons |= dict.fromkeys(OF_RECORDINGS, "needs recordings of several emissions")
    if dataset.attrs["propagation"] == "sky_wave":
        reasons |= dict.fromkeys(_NOT_OF_SKY_WAVES, "takes paths for straight, which sky waves do not follow")
    if "iq" not in dataset:
        reasons |= dict.fromkeys(NEEDING_IQ, "needs IQ, which this dataset does not keep")
    return reasons
