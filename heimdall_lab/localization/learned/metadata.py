"""What an ONNX file says of its localizer, checked as it is parsed, and against the graph itself."""

import json
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from heimdall_lab.core.checked import first_error
from heimdall_lab.core.config import Config
from heimdall_lab.core.text import quoted, shortened
from heimdall_lab.localization.learned.inputs import ARRAYS, FEATURES

OUTPUTS = {"transmitter_position": 2, "cholesky": 3}  # numbers of each scene; the name position is taken, by an input
_FREE = (None, None)  # lengths that no graph fixes: of scenes and of receivers


def _known(names: tuple[str, ...]) -> tuple[str, ...]:
    if unknown := [name for name in names if name not in ARRAYS]:
        raise ValueError(f"{quoted(unknown[0])} is no input of localizers, which are {', '.join(ARRAYS)}")
    if len(set(names)) < len(names):
        raise ValueError("names one twice")
    return names


class About(BaseModel):
    """What a localizer was trained on, as far as it is used by that; other fields are only shown."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)

    sample_rate_hz: float | None = Field(None, gt=0, strict=True)
    dataset_seed: int | None = Field(None, strict=True)
    package_version: str | None = None
    config: Config | None = None


class Metadata(About):
    """The fields of a file."""

    architecture: str = Field(min_length=1, max_length=100, strict=True)
    num_parameters: int = Field(ge=0, lt=2**63, strict=True)
    inputs: Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(_known)]
    features: tuple[str, ...]
    window: int | None = Field(ge=1, lt=2**63, strict=True)
    max_receivers: int | None = Field(ge=1, lt=2**63, strict=True)
    freedom: float | None = Field(gt=0, strict=True)
    checksum: str = Field(pattern="^[0-9a-f]{64}$")


REQUIRED = tuple(name for name, field in Metadata.model_fields.items() if field.is_required())


def parse(stored: Mapping[str, str]) -> tuple[Metadata, dict[str, Any]]:
    """Parse the metadata of a file, all of whose values are JSON: checked, and as it stands there.

    Raises
    ------
    ValueError
        If a value is no JSON, of another type or out of bounds; the message begins with its name.
    """
    about = {}
    for name, text in stored.items():
        try:
            about[name] = json.loads(text)
        except (ValueError, RecursionError) as error:  # of nesting, and of numbers with thousands of digits
            raise ValueError(f"{shortened(name)}: {quoted(text)} is no JSON ({shortened(error)})") from error
    try:
        return Metadata.model_validate(about), about
    except ValidationError as error:
        raise ValueError(first_error(error, Metadata)) from error


def check_graph(metadata: Metadata, inputs: Mapping[str, tuple[str, Any]], outputs: Mapping[str, Any]) -> None:
    """Check that a graph takes and gives what its metadata says.

    Parameters
    ----------
    metadata : Metadata
    inputs : mapping of str to (str, sequence)
        Type and shape of each, as onnxruntime names them; lengths that vary are no numbers.
    outputs : mapping of str to sequence
        Shape of each, which a graph may leave out.

    Raises
    ------
    ValueError
        If they contradict each other.
    """
    lengths = {
        "iq": (2, metadata.window),
        "features": (len(FEATURES),),
        "spectrogram": (128, 32),
        "position": (2,),
        "present": (),
    }
    if set(inputs) != set(metadata.inputs):
        raise ValueError(f"inputs: are {quoted([*metadata.inputs])}, and the graph takes {quoted([*inputs])}")
    if ("iq" in metadata.inputs) != (metadata.window is not None):
        raise ValueError(f"window: is {metadata.window}, with the inputs {quoted([*metadata.inputs])}")
    if missing := [name for name in OUTPUTS if name not in outputs]:
        raise ValueError(f"outputs: the graph gives {quoted([*outputs])}, without {missing[0]}")
    for name, (kind, shape) in inputs.items():
        wanted = "tensor(bool)" if name == "present" else "tensor(float)"
        if kind != wanted or not _agree(shape, (*_FREE, *lengths[name])):
            raise ValueError(f"inputs: {name} is a {shortened(kind)} of shape {quoted(shape)} in the graph")
    for name, length in OUTPUTS.items():
        if outputs[name] and not _agree(outputs[name], (None, length)):
            raise ValueError(f"outputs: {name} has the shape {quoted(outputs[name])} in the graph")


def _agree(shape: Any, lengths: tuple[int | None, ...]) -> bool:
    """Whether a graph's shape has these lengths, None for those that must vary; what it leaves open may be any."""
    return len(shape) == len(lengths) and all(
        not isinstance(found, int) or found == wanted for found, wanted in zip(shape, lengths, strict=True)
    )
