"""Export of trained localizers to ONNX files, each compared with PyTorch before it is written."""

import json
import math
import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from heimdall_lab.core.arrays import Array
from heimdall_lab.core.files import Write, write_files
from heimdall_lab.core.text import quoted
from heimdall_lab.learning import parity
from heimdall_lab.learning.architectures.layers import Localizer, Standardise
from heimdall_lab.learning.registry import ARCHITECTURES
from heimdall_lab.learning.trained import MODEL, Trained, load
from heimdall_lab.localization.learned import HasTrained, onnx_model
from heimdall_lab.localization.learned.inputs import FEATURES

TOLERANCE = 1e-4  # largest difference from PyTorch, as `parity.largest_difference` gives it

_OPSET = 20
_TRACED_SIZE = (3, 7)  # scenes and receivers that the graph is traced with; neither is 1, which broadcasts
_BATCH_SIZES = ((1, 1), (1, 15), (2, 3), (9, 7), (33, 10))  # scenes and receivers of each batch that is compared


def export_onnx(
    run_or_trained: HasTrained | Trained | str | Path, path: str | Path, scenes: dict[str, Array] | None = None
) -> Path:
    """Write a localizer to an ONNX file, if its fixes in onnxruntime are those in PyTorch.

    The graph takes any number of scenes and receivers, and holds standardisation and calibration: inputs are what
    `inputs.arrays` gives, outputs ``transmitter_position`` (B, 2) km and ``cholesky`` (B, 3) km. Both are compared on
    random scenes, and on those given.

    Parameters
    ----------
    run_or_trained : Run, Trained or path
        Paths are of a run's folder or its ``model.pt``.
    path : path
        Ends in ``.onnx``; replaced, whole, if it is there.
    scenes : dict of str to array, optional
        Real ones to compare on, as `inputs.arrays` gives them.

    Returns
    -------
    Path
        With metadata, each value as JSON: ``architecture``, ``parameters``, ``num_parameters``, ``inputs``,
        ``features`` (names, in their order), ``window``, ``max_receivers``, ``normalisation``, ``coordinate_frame``,
        ``parity`` (largest difference found), ``checksum``, and what `Trained.about` holds.

    Raises
    ------
    ValueError
        If the path does not end in .onnx, or the two differ by more than `TOLERANCE`; the file is then not written.
    """
    path = Path(path)
    if path.suffix != ".onnx":
        raise ValueError(f"path: {quoted(path)} does not end in .onnx, by which methods are told apart; rename it")
    write_files({path: onnx_writer(_trained(run_or_trained), path, scenes)}, "path")
    return path


def onnx_writer(trained: Trained, path: Path, scenes: dict[str, Array] | None = None) -> Write:
    """Trace a localizer and return the function that makes its file, as `export_onnx` does for ``path``."""
    program = _onnx_graph(trained.model.eval())
    batches = [*_random_batches(trained), *([scenes] if scenes is not None else [])]

    def write(temporary: Path) -> None:
        _save(program, temporary, _metadata(trained) | {"parity": None})
        found = parity.largest_difference(trained, onnx_model.open_model(temporary), batches)
        if not found <= TOLERANCE:
            raise ValueError(
                f"model: {trained.name} in ONNX differs from PyTorch by {found:.2g} of the network's size, more than "
                f"{TOLERANCE:g}; nothing was written to {quoted(path)}: correct the architecture's code"
            )
        _save(program, temporary, _metadata(trained) | {"parity": found})

    return write


def _trained(given: HasTrained | Trained | str | Path) -> Trained:
    if isinstance(given, Trained):
        return given
    if isinstance(given, str | Path):
        return load(Path(given) / MODEL if Path(given).is_dir() else given)
    if isinstance(given.trained, Trained):
        return given.trained
    raise ValueError(f"model: a {type(given).__name__} holds no PyTorch model; give a finished run or its folder")


class _Positional(nn.Module):
    """A localizer whose arrays are positional arguments, as ONNX graphs need."""

    def __init__(self, model: Localizer) -> None:
        super().__init__()
        self.model = model

    def forward(self, *arrays: Tensor) -> tuple[Tensor, Tensor]:
        return self.model(dict(zip(self.model.inputs, arrays, strict=True)))


def _onnx_graph(model: Localizer) -> onnx.ModelProto:
    """Trace a localizer into a graph.

    By TorchScript, though PyTorch calls it old: the newer exporter takes twenty times as long for the steps of
    ``tdoa_unrolled``, and gives twice as many nodes.
    """
    batch = parity.random_scenes(model.inputs, *_TRACED_SIZE, window=getattr(model, "window", None), seed=0)
    arrays = tuple(torch.from_numpy(batch[name]) for name in model.inputs)
    scenes = {name: {0: "batch"} for name in onnx_model.OUTPUTS}
    links = {name: {0: "batch", 1: "receivers"} for name in model.inputs}
    graph: Any = BytesIO()  # which PyTorch takes, whatever its types say
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        # Lengths that no scene changes become constants; that no others do, parity at several sizes shows.
        warnings.filterwarnings("ignore", "Converting a tensor to a Python")
        torch.onnx.export(
            _Positional(model).eval(),
            arrays,
            graph,
            dynamo=False,
            opset_version=_OPSET,
            dynamic_axes=scenes | links,
            input_names=list(model.inputs),
            output_names=list(onnx_model.OUTPUTS),
        )
    program = onnx.load_from_string(graph.getvalue())
    for node in program.graph.node:
        node.ClearField("name")  # a quarter of the file
    return program


def _metadata(trained: Trained) -> dict[str, Any]:
    """Metadata of the file, as JSON values."""
    model = trained.model
    standardised = {
        name: {"mean": module.mean.tolist(), "deviation": module.deviation.tolist()}
        for name, module in model.named_modules()
        if isinstance(module, Standardise)
    }
    return trained.about | {
        "architecture": trained.architecture,
        "parameters": ARCHITECTURES[trained.architecture].parameters | trained.parameters,
        "num_parameters": trained.num_parameters,
        "inputs": trained.inputs,
        "features": FEATURES,
        "window": trained.window,
        "max_receivers": trained.max_receivers,
        "freedom": trained.freedom if math.isfinite(trained.freedom) else None,  # JSON has no infinity
        "normalisation": {"in_the_graph": standardised, "spread": model.spread.item()},
        "coordinate_frame": onnx_model.COORDINATE_FRAME,
    }


def _save(program: onnx.ModelProto, path: Path, about: dict[str, Any]) -> None:
    """Write the graph with its metadata, which include the checksum of the file."""
    metadata = about | {"checksum": onnx_model.CHECKSUM_PLACEHOLDER}
    onnx.helper.set_model_props(program, {name: json.dumps(value) for name, value in metadata.items()})
    path.write_bytes(program.SerializeToString())
    content = path.read_bytes()
    checksum = onnx_model.checksum(content, onnx_model.CHECKSUM_PLACEHOLDER)
    path.write_bytes(content.replace(onnx_model.CHECKSUM_PLACEHOLDER.encode(), checksum.encode()))


def _random_batches(trained: Trained) -> list[dict[str, Array]]:
    """Draw scenes for the comparison, in batches of each size."""
    fitted = [module for module in trained.model.modules() if isinstance(module, Standardise)]
    features = [(of.mean.numpy(), of.deviation.numpy()) for of in fitted if of.name == "features"]
    return [
        parity.random_scenes(
            trained.inputs,
            *size,
            seed=number,
            window=trained.window,
            max_receivers=trained.max_receivers,
            features=features[0] if features else (0.0, 1.0),
        )
        for number, size in enumerate(_BATCH_SIZES)
    ]
