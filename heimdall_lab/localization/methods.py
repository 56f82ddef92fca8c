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
}
NEEDING_IQ = ("dpd",)  # others do with what was measured of it
_NOT_OF_SKY_WAVES = ("dpd",)  # others estimate the height that reflects them, or use no delays
WITH_PRIOR = ("centroid", "strongest", "rss_ml")  # take for known that transmitters are near the receivers


def methods(dataset: "xr.Dataset | None" = None) -> list[str]:
    """Return the names of the classical methods, of a dataset those that do with what it holds.

    >>> methods()
    ['centroid', 'strongest', 'rss_ml', 'tdoa_ls', 'tdoa_robust', 'dpd']
    """
    if dataset is None:
        return list(METHODS)
    unfit: tuple[str, ...] = () if "iq" in dataset else NEEDING_IQ
    unfit += _NOT_OF_SKY_WAVES if dataset.attrs["propagation"] == "sky_wave" else ()
    return [name for name in METHODS if name not in unfit]
