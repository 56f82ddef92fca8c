"""The architectures that there are, what they learn from and how large they are, known without PyTorch.

A new architecture is a module in `architectures` with a `layers.Localizer`, and an entry in `ARCHITECTURES` here.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import pandas as pd

from heimdall_lab.core.text import quoted

_MOST = {"heads": 1024, "layers": 64, "rounds": 64}  # of parameters that are whole numbers
_MOST_OTHERS = 65_536


class Architecture(NamedTuple):
    """One kind of localizer."""

    module: str  # in `architectures`
    localizer: str  # its class there
    data_types: tuple[str, ...]  # of datasets that hold its inputs
    description: str
    parameters: dict[str, Any]  # default arguments of the class
    num_parameters: int  # weights with these arguments


ARCHITECTURES = {
    "triangulation": Architecture(
        "triangulation",
        "Triangulation",
        ("iq_raw", "feature_based"),
        "attention over receivers on their features",
        {"width": 32, "heads": 4, "layers": 2, "dropout": 0.2},
        30_598,
    ),
    "localization_net": Architecture(
        "localization_net",
        "LocalizationNet",
        ("feature_based",),
        "ConvNeXt on mel spectrograms, shared over receivers",
        {"size": "tiny", "width": 128, "heads": 4, "layers": 1, "dropout": 0.1},
        28_131_814,
    ),
    "iq_resnet18": Architecture(
        "iq_networks",
        "IqResNet18",
        ("iq_raw",),
        "1-D ResNet-18 on IQ, shared over receivers, then attention over them",
        {"max_receivers": 10, "window": 1024, "width": 128, "heads": 4, "layers": 1, "dropout": 0.3},
        475_078,
    ),
    "iq_vggnet": Architecture(
        "iq_networks",
        "IqVggNet",
        ("iq_raw",),
        "the same with a plain 1-D VGG: faster",
        {"max_receivers": 10, "window": 1024, "width": 128, "heads": 4, "layers": 1, "dropout": 0.3},
        331_430,
    ),
    "tdoa_unrolled": Architecture(
        "tdoa_unrolled",
        "TdoaUnrolled",
        ("iq_raw", "feature_based"),
        "attention weighs the delays, then unrolled Gauss-Newton steps",
        {"width": 48, "heads": 4, "layers": 1, "rounds": 3, "dropout": 0.0},
        109_449,
    ),
}


def architecture(name: str) -> Architecture:
    """Look a name up.

    Raises
    ------
    ValueError
        If it is unknown.
    """
    if name not in ARCHITECTURES:
        raise ValueError(f"architecture: {quoted(name)} is unknown; choose one of {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name]


def check_compatible(name: str, data_type: str) -> None:
    """Refuse an architecture whose inputs a type of dataset does not hold.

    Raises
    ------
    ValueError
        Naming the architectures that fit.
    """
    if data_type not in architecture(name).data_types:
        fitting = [each for each, known in ARCHITECTURES.items() if data_type in known.data_types]
        raise ValueError(
            f"architecture: {quoted(name)} cannot learn from {data_type} datasets; use {', '.join(fitting)}"
        )


def check_parameters(name: str, given: Mapping[str, Any]) -> None:
    """Refuse parameters that an architecture lacks, of another kind than their defaults, or out of bounds.

    Raises
    ------
    ValueError
        Naming the first of them and what is accepted.
    """
    defaults = architecture(name).parameters
    if unknown := sorted(set(given) - set(defaults)):
        raise ValueError(f"{unknown[0]}: is no parameter of {name}; set any of {', '.join(defaults)}")
    for parameter, value in given.items():
        _check_parameter(name, parameter, value, defaults[parameter])


def _check_parameter(name: str, parameter: str, value: Any, default: Any) -> None:
    kind = type(default)
    fits = isinstance(value, kind) or (kind is float and isinstance(value, int))
    if not fits or isinstance(value, bool) != isinstance(default, bool):
        raise ValueError(
            f"{parameter}: {quoted(value)} is no {kind.__name__}, as {name} takes; its default is {default!r}"
        )
    least, most = (0, 1) if kind is float else (1, _MOST.get(parameter, _MOST_OTHERS))
    if kind in (int, float) and not least <= value <= most:
        raise ValueError(f"{parameter}: {quoted(value)} is refused; give {least} to {most:,}, as {default!r}")


def architectures(data_type: str | None = None) -> pd.DataFrame:
    """List the architectures, or those that a type of dataset has the inputs for.

    Returns
    -------
    pandas.DataFrame
        A row for each: ``architecture``, ``data_types``, ``num_parameters`` with the defaults, ``description``,
        ``defaults``.
    """
    rows = [
        {
            "architecture": name,
            "data_types": ", ".join(known.data_types),
            "num_parameters": known.num_parameters,
            "description": known.description,
            "defaults": known.parameters,
        }
        for name, known in ARCHITECTURES.items()
        if data_type in (None, *known.data_types)
    ]
    return pd.DataFrame(rows)
