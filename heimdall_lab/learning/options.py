"""Options of training: a frozen model with bounds, and defaults for each architecture."""

from typing import Any, Literal

from pydantic import Field, ValidationError

from heimdall_lab.core.checked import CheckedModel, first_error

DEFAULTS: dict[str, dict[str, Any]] = {
    "triangulation": {"epochs": 100, "batch_size": 256, "learning_rate": 2e-3, "patience": 15},
    "tdoa_unrolled": {"epochs": 60, "batch_size": 256, "learning_rate": 2e-3, "patience": 10},
    "iq_resnet18": {"epochs": 40, "batch_size": 64, "learning_rate": 1e-3, "patience": 8},
    "iq_vggnet": {"epochs": 40, "batch_size": 64, "learning_rate": 1e-3, "patience": 8},
    "localization_net": {"epochs": 40, "batch_size": 64, "learning_rate": 3e-4, "patience": 8},
}

OF_MACHINE = ("accelerator", "strategy", "num_workers", "memory_gb")  # a run may continue with other values of these


class Options(CheckedModel):
    """Options of a training run."""

    epochs: int = Field(50, ge=1, le=100_000, description="most passes over the training split")
    batch_size: int = Field(128, ge=1, le=65_536, description="scenes in a batch, on each device")
    learning_rate: float = Field(1e-3, gt=0, le=1e6, description="largest rate of AdamW")
    weight_decay: float = Field(1e-2, ge=0, le=1, description="of AdamW")
    warm_up: float = Field(0.05, ge=0, le=1, description="share of the steps in which the rate rises")
    gradient_clip: float = Field(1.0, gt=0, description="largest norm of the gradient")
    patience: int = Field(10, ge=1, description="epochs without a lower validation loss after which training ends")
    seed: int = Field(0, ge=0, le=2**63 - 1, description="of weights, order, augmentation and dropout")
    receiver_dropout: float = Field(0.1, ge=0, le=0.9, description="chance that a training scene lacks a receiver")
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = Field(
        "auto", description="of arithmetic; auto: bf16-mixed on a GPU for networks on signals, else 32-true"
    )
    devices: int = Field(1, ge=1, description="accelerators of each machine")
    num_nodes: int = Field(1, ge=1, description="machines")
    accelerator: str = Field("auto", description="of Lightning: auto, cpu, gpu")
    strategy: str = Field("auto", description="of Lightning for several devices: auto, ddp")
    num_workers: int = Field(0, ge=0, le=256, description="processes that read signals that memory cannot hold")
    memory_gb: float = Field(4.0, ge=0, description="signals are held in memory if they fit in so many 10⁹ bytes")


def options_for(architecture: str, given: dict[str, Any]) -> Options:
    """Complete the given options with the defaults of an architecture; None counts as not given.

    Raises
    ------
    ValueError
        Naming the first option that is refused, its value and what is accepted.
    """
    chosen = DEFAULTS.get(architecture, {}) | {name: value for name, value in given.items() if value is not None}
    try:
        return Options.model_validate(chosen)
    except ValidationError as error:
        raise ValueError(first_error(error, Options)) from error
