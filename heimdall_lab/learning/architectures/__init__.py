"""The learned localizers in PyTorch, made by name; which there are says `heimdall_lab.learning.registry`.

`layers` holds what they share; each other module holds one architecture or a family.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import torch

from heimdall_lab.learning.architectures.layers import Localizer
from heimdall_lab.learning.registry import architecture, check_parameters


def build(name: str, parameters: Mapping[str, Any] | None = None) -> Localizer:
    """Make a localizer of `registry.ARCHITECTURES` with random weights; ``parameters`` replace the defaults.

    Raises
    ------
    ValueError
        If the name, or that of a parameter, is unknown, a parameter is of another kind than its default or out of
        bounds, or they do not go together.
    """
    chosen = architecture(name)
    given = dict(parameters or {})
    check_parameters(name, given)
    make: type[Localizer] = getattr(import_module(f"{__name__}.{chosen.module}"), chosen.localizer)
    try:
        return make(**{**chosen.parameters, **given})
    except (RuntimeError, AssertionError) as error:  # PyTorch's
        raise ValueError(f"{', '.join(given)}: do not go together in {name} ({error}); change one") from error


def num_parameters(name: str, parameters: Mapping[str, Any] | None = None) -> int:
    """Count the weights of an architecture, without allocating them."""
    with torch.device("meta"):
        return sum(weight.numel() for weight in build(name, parameters).parameters())
