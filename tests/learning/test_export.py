"""ONNX files find what PyTorch finds, for any number of scenes and receivers, and say what they are."""

import copy
import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from heimdall_lab.learning import export, parity
from heimdall_lab.learning.architectures import build
from heimdall_lab.learning.registry import ARCHITECTURES
from heimdall_lab.learning.trained import Trained
from heimdall_lab.localization.learned import inputs, onnx_model

SMALL = {  # in the place of defaults, to be quick
    "localization_net": {"size": "atto"},
    "iq_resnet18": {"width": 16, "window": 128},
    "iq_vggnet": {"width": 16, "window": 256},
}
KM = {"rtol": 1e-4, "atol": 1e-3}


_SLOW = {"localization_net": pytest.mark.slow}


@pytest.fixture(scope="module", params=[pytest.param(name, marks=_SLOW.get(name, ())) for name in ARCHITECTURES])
def pair(request, tmp_path_factory):
    """A localizer of each architecture with random weights and its file."""
    torch.manual_seed(2)
    parameters = SMALL.get(request.param, {})
    model = build(request.param, parameters).eval()
    trained = Trained(request.param, parameters, model, {"sample_rate_hz": 50e3})
    model.fit({name: torch.from_numpy(values) for name, values in drawn(trained, 20, 7, seed=5).items()})
    model.spread.fill_(0.7)
    return trained, export.export_onnx(trained, tmp_path_factory.mktemp("onnx") / f"{request.param}.onnx")


def drawn(trained, scenes, receivers, seed):
    names = [*trained.inputs, "present"]
    return parity.random_scenes(
        names, scenes, receivers, seed=seed, window=trained.window, max_receivers=trained.max_receivers
    )


@pytest.mark.parametrize(("scenes", "receivers"), [(1, 1), (1, 15), (3, 5), (300, 2)])
def test_files_find_what_pytorch_finds(pair, scenes, receivers):
    trained, path = pair
    batch = drawn(trained, scenes, receivers, seed=77)
    found, expected = onnx_model.open_model(path)(batch), trained(batch)
    told = np.full(scenes, True)
    if trained.name == "tdoa_unrolled":  # delays of three receivers may leave two positions, or a line of them
        heard = batch["present"] & (batch["features"][..., inputs.FEATURES.index("heard")] > 0)
        told = heard.sum(axis=1) >= 4
        apart = np.linalg.norm(found[0] - expected[0], axis=1)
        assert (apart <= np.linalg.norm(expected[1], axis=1)).all()
    for values, others, width in zip(found, expected, (2, 3), strict=True):
        assert values.shape == (scenes, width)
        assert values.dtype == np.float64
        np.testing.assert_allclose(values[told], others[told], **KM)


def test_files_say_what_they_hold(pair):
    trained, path = pair
    model = onnx_model.open_model(path)
    assert model.about["parity"] <= export.TOLERANCE
    assert model.about["coordinate_frame"] == onnx_model.COORDINATE_FRAME
    assert model.about["sample_rate_hz"] == 50e3
    assert model.about["parameters"] == ARCHITECTURES[trained.architecture].parameters | trained.parameters
    assert model.about["normalisation"]["spread"] == pytest.approx(0.7)
    for name in ("name", "num_parameters", "inputs", "window", "max_receivers"):
        assert getattr(model, name) == getattr(trained, name)


def test_any_onnx_program_can_read_the_file(trained, onnx_file, small):
    session = onnxruntime.InferenceSession(onnx_file, providers=["CPUExecutionProvider"])
    assert {each.name: each.shape for each in session.get_inputs()} == {
        "features": ["batch", "receivers", len(inputs.FEATURES)],
        "position": ["batch", "receivers", 2],
        "present": ["batch", "receivers"],
    }
    assert {each.name: each.shape for each in session.get_outputs()} == {
        "transmitter_position": ["batch", 2],
        "cholesky": ["batch", 3],
    }
    stored = session.get_modelmeta().custom_metadata_map
    assert json.loads(stored["features"]) == list(inputs.FEATURES)
    assert json.loads(stored["dataset_seed"]) == small.seed
    standardised = json.loads(stored["normalisation"])["in_the_graph"]["standardise"]
    np.testing.assert_allclose(standardised["mean"], trained.model.standardise.mean.numpy(), rtol=1e-6)
    assert b"heimdall_lab/learning" not in onnx_file.read_bytes()  # no paths of the machine that made it


@pytest.fixture(scope="module")
def program(onnx_file):
    return onnx.load(onnx_file)  # as traced, in a moment


@pytest.mark.parametrize("factor", [1.01, float("nan")])
def test_a_graph_that_finds_something_else_is_refused(trained, program, tmp_path, monkeypatch, factor):
    """The graph is of the localizer as it was, its spread of one per cent less."""
    other = copy.deepcopy(trained)
    other.model.spread.mul_(factor)
    monkeypatch.setattr(export, "_onnx_graph", lambda _: program)
    path = tmp_path / "kept.onnx"
    path.write_text("what was there")
    with pytest.raises(ValueError, match=r"triangulation in ONNX differs from PyTorch by .* nothing was written"):
        export.export_onnx(other, path)
    assert path.read_text() == "what was there"
    assert [each.name for each in tmp_path.iterdir()] == ["kept.onnx"]


def test_given_scenes_are_compared_too(trained, program, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "_onnx_graph", lambda _: program)
    scenes = drawn(trained, 2, 3, seed=0)
    scenes["features"][0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="differs from PyTorch by nan"):
        export.export_onnx(trained, tmp_path / "model.onnx", scenes)


def test_other_endings_are_refused(trained, tmp_path):
    with pytest.raises(ValueError, match=r"path: .*does not end in \.onnx"):
        export.export_onnx(trained, tmp_path / "model.pt")
