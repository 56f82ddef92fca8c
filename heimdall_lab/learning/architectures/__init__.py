"""The learned localizers: their registry, inputs and sizes.

`layers` holds what they share; each other module holds one architecture or a family. A new architecture is a module
with a `layers.Localizer`, and an entry in `ARCHITECTURES` here.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import pandas as pd
import torch

from heimdall_lab.core.text import quoted
from heimdall_lab.learning.architectures.iq_networks import IqResNet18, IqVggNet
from heimdall_lab.learning.architectures.layers import Localizer
from heimdall_lab.learning.architectures.localization_net import LocalizationNet
from heimdall_lab.learning.architectures.tdoa_unrolled import TdoaUnrolled
from heimdall_lab.learning.architectures.triangulation import Triangulation

_MOST = {"heads": 1024, "layers": 64, "rounds": 64}  # of parameters that are whole numbers
_MOST_OTHERS = 65_536


class Architecture(NamedTuple):
    """One kind of localizer."""

    make: type[Localizer]
    data_types: tuple[str, ...]  # of datasets that hold its inputs
    description: str
    parameters: dict[str, Any]  # default arguments of ``make``


ARCHITECTURES = {
    "triangulation": Architecture(
        Triangulation,
        ("iq_raw", "feature_based"),
        "attention over receivers on their features",
        {"width": 32, "heads": 4, "layers": 2, "dropout": 0.2},
    ),
    "localization_net": Architecture(
        LocalizationNet,
        ("feature_based",),
        "ConvNeXt on mel spectrograms, shared over receivers",
        {"size": "tiny", "width": 128, "heads": 4, "layers": 1, "dropout": 0.1},
    ),
    "iq_resnet18": Architecture(
        IqResNet18,
        ("iq_raw",),
        "1-D ResNet-18 on IQ, shared over receivers, then attention over them",
        {"max_receivers": 10, "window": 1024, "width": 128, "heads": 4, "layers": 1, "dropout": 0.3},
    ),
    "iq_vggnet": Architecture(
        IqVggNet,
        ("iq_raw",),
        "the same with a plain 1-D VGG: faster",
        {"max_receivers": 10, "window": 1024, "width": 128, "heads": 4, "layers": 1, "dropout": 0.3},
    ),
    "tdoa_unrolled": Architecture(
        TdoaUnrolled,
        ("iq_raw", "feature_based"),
        "attention weighs the delays, then unrolled Gauss-Newton steps",
        {"width": 48, "heads": 4, "layers": 1, "rounds": 3, "dropout": 0.0},
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


def build(name: str, parameters: Mapping[str, Any] | None = None) -> Localizer:
    """Make a localizer of `ARCHITECTURES` with random weights; ``parameters`` replace the architecture's defaults.

    Raises
    ------
    ValueError
        If the name, or that of a parameter, is unknown, a parameter is of another kind than its default or out of
        bounds, or they do not go together.
    """
    chosen = architecture(name)
    given = dict(parameters or {})
    if unknown := sorted(set(given) - set(chosen.parameters)):
        raise ValueError(f"{unknown[0]}: is no parameter of {name}; set any of {', '.join(chosen.parameters)}")
    for parameter, value in given.items():
        _check_parameter(name, parameter, value, chosen.parameters[parameter])
    try:
        return chosen.make(**{**chosen.parameters, **given})
    except (RuntimeError, AssertionError) as error:  # PyTorch's
        raise ValueError(f"{', '.join(given)}: do not go together in {name} ({error}); change one") from error


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


def architectures(data_type: str | None = None) -> pd.DataFrame:
    """List the architectures, or those that a type of dataset has the inputs for.

    Returns
    -------
    pandas.DataFrame
        A row for each: ``architecture``, ``data_types``, ``num_parameters`` as counted with the defaults,
        ``description``, ``defaults``.
    """
    rows = [
        {
            "architecture": name,
            "data_types": ", ".join(known.data_types),
            "num_parameters": num_parameters(name),
            "description": known.description,
            "defaults": known.parameters,
        }
        for name, known in ARCHITECTURES.items()
        if data_type in (None, *known.data_types)
    ]
    return pd.DataFrame(rows)


def num_parameters(name: str, parameters: Mapping[str, Any] | None = None) -> int:
    """Count the weights of an architecture, without allocating them."""
    with torch.device("meta"):
        return sum(weight.numel() for weight in build(name, parameters).parameters())
