"""ONNX files from anywhere: refused by name, or alone left off the leaderboard, whatever they say or compute."""

import json
import math
import resource

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

import heimdall_lab as hl
from heimdall_lab.localization import compared_methods
from heimdall_lab.localization.learned import metadata, onnx_model

ABOUT = {
    "architecture": "foreign",
    "num_parameters": 0,
    "inputs": ["position", "present"],
    "features": [],
    "window": None,
    "max_receivers": None,
    "freedom": None,
}
NUMBERS = (1.0, 2.0)  # of the middle of the receivers, beside which it puts the transmitter
FACTORS = (30.0, 0.0, 30.0)


def foreign(path, about=None, *, position=NUMBERS, factors=FACTORS, outputs=onnx_model.OUTPUTS, length=None, raw=None):
    """Write a graph that adds numbers to the mean of the receivers' positions, with factors, or many of them."""
    values = {"numbers": np.float32(position), "factors": np.float32(factors), "none": np.float32(0)}
    nodes = [
        helper.make_node("ReduceMean", ["position"], ["middle"], axes=[1], keepdims=0),
        helper.make_node("Add", ["middle", "numbers"], [outputs[0]]),
        helper.make_node("Mul", ["middle", "none"], ["zeros"]),
        helper.make_node("ReduceMean", ["zeros"], ["zero"], axes=[1], keepdims=1),
        helper.make_node("Add", ["zero", "factors"], ["few" if length else outputs[1]]),
    ]
    if length:
        values |= {"first": np.int64([0]), "second": np.int64([1]), "times": np.int64([length, 1])}
        nodes += [
            helper.make_node("Slice", ["few", "first", "second"], ["one"]),
            helper.make_node("Shape", ["few"], ["shape"]),
            helper.make_node("Mul", ["shape", "times"], ["long"]),  # which nobody sees before it is computed
            helper.make_node("Expand", ["one", "long"], [outputs[1]]),
        ]
    graph = helper.make_graph(
        nodes,
        "foreign",
        [
            helper.make_tensor_value_info("position", TensorProto.FLOAT, ["batch", "receivers", 2]),
            helper.make_tensor_value_info("present", TensorProto.BOOL, ["batch", "receivers"]),
        ],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [onnx.numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    texts = {name: json.dumps(value) for name, value in (ABOUT | (about or {})).items()} | (raw or {})
    texts.setdefault("checksum", json.dumps(onnx_model.CHECKSUM_PLACEHOLDER))
    helper.set_model_props(model, {name: text for name, text in texts.items() if text is not None})
    content = model.SerializeToString()
    seal = onnx_model.checksum(content, onnx_model.CHECKSUM_PLACEHOLDER)
    path.write_bytes(content.replace(onnx_model.CHECKSUM_PLACEHOLDER.encode(), seal.encode()))
    return path


def test_a_foreign_model_that_keeps_the_contract_locates(small_dataset, tmp_path):
    fixes = hl.locate(small_dataset, foreign(tmp_path / "whole.onnx"))
    assert fixes.attrs["method"] == "foreign"
    assert bool(np.isfinite(fixes.latitude).all())


@pytest.mark.parametrize(
    ("about", "raw", "message"),
    [
        ({}, {"window": None}, "lacks the metadata 'window'"),
        ({"architecture": None}, {}, r"architecture: None is refused: input should be a valid string"),
        ({"inputs": None}, {}, "inputs: None is refused"),
        ({"inputs": "position"}, {}, "inputs: 'position' is refused: input should be a valid tuple"),
        ({"inputs": ["position", "colour"]}, {}, "inputs: 'colour' is no input of localizers"),
        ({"inputs": ["present", "position", "position"]}, {}, "inputs: names one twice"),
        ({"inputs": []}, {}, "inputs: 0 listed, at least 1"),
        ({"num_parameters": "many"}, {}, "num_parameters: 'many' is refused"),
        ({"num_parameters": -1}, {}, "num_parameters: -1 is refused"),
        ({"window": 1.5}, {}, r"window: 1\.5 is refused"),
        ({"freedom": -3}, {}, "freedom: -3 is refused"),
        ({"freedom": math.inf}, {}, "freedom: inf is refused"),
        ({"max_receivers": [5]}, {}, r"max_receivers: \[5\] is refused"),
        ({"sample_rate_hz": "fast"}, {}, "sample_rate_hz: 'fast' is refused"),
        ({"config": {"name": "x", "colour": "red"}}, {}, r"config\.colour: unknown field"),
        ({"config": []}, {}, r"config: \[\] is refused"),
        ({}, {"freedom": "{"}, r"freedom: '\{' is no JSON"),
        ({}, {"freedom": "[" * 100_000}, r"freedom: '\[+\.\.\.\[+' is no JSON"),
        ({}, {"num_parameters": "1" * 100_000}, r"num_parameters: '1+\.\.\.1+' is no JSON"),
        ({}, {"checksum": "7"}, "checksum: 7 is refused"),
        ({"inputs": ["position"]}, {}, "contradicts its metadata: inputs: are .*, and the graph takes"),
        ({"window": 64}, {}, "contradicts its metadata: window: is 64"),
    ],
)
def test_metadata_that_is_missing_wrong_or_contradictory_is_refused(about, raw, message, tmp_path):
    path = foreign(tmp_path / "model.onnx", about, raw=raw)
    with pytest.raises(ValueError, match=rf"^model: '.*model.onnx' .*{message}") as refusal:
        onnx_model.open_model(path)
    assert len(str(refusal.value)) < 600


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        ({"outputs": ("transmitter_position", "covariance")}, "outputs: the graph gives .*, without cholesky"),
        ({"position": (math.nan, 0.0)}, "gives no finite position"),
        ({"factors": (math.nan, 0.0, 1.0)}, "covariance that can be inverted"),
        ({"factors": (0.0, 0.0, 1.0)}, "covariance that can be inverted"),
        ({"factors": (1.0, 1e3, 1e-9)}, "covariance that can be inverted"),
        ({"factors": (1.0, 0.0, 1.0, 1.0)}, r"outputs: cholesky has the shape \['batch', 4\]"),
        ({"length": 2}, r"gives cholesky as float32 of shape \(24, 3\)"),
        ({"length": 60_000_000}, "cannot be computed, in 4 GB of memory at most"),
    ],
)
def test_a_model_that_fails_is_left_off_the_board_alone(graph, message, small_dataset, tmp_path, caplog):
    path = foreign(tmp_path / "model.onnx", **graph)
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    board = hl.compare(small_dataset, ["centroid", path])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 500e3
    assert list(board.method.values) == ["centroid"]
    assert bool(np.isfinite(board.median_error).all())
    (reason,) = compared_methods.failures(board).values()
    assert reason in caplog.text
    for refused in (lambda: hl.locate(small_dataset, path), lambda: hl.compare(small_dataset, [path])):
        with pytest.raises(ValueError, match=message) as refusal:
            refused()
        assert str(refusal.value) == reason


def test_the_command_shows_the_board_of_the_others_and_ends_with_status_1(small, attempt, tmp_path, caplog):
    hl.generate(small, tmp_path / "data", progress=False)
    path = foreign(tmp_path / "model.onnx", position=(math.nan, 0.0))
    done = attempt("compare", tmp_path / "data", "--methods", f"centroid,{path}")
    assert done.returncode == 1
    assert "centroid" in done.stdout
    assert "gives no finite position" in caplog.text
    assert "Traceback" not in done.stderr


def test_scenes_without_a_finite_fix_are_failures_of_these_scenes_alone(small_dataset):
    class Partly:
        name, num_parameters, inputs, window, max_receivers, freedom, about = "p", 1, ("present",), None, None, 3.0, {}

        def __call__(self, arrays):
            scenes = len(arrays["present"])
            position, cholesky = np.zeros((scenes, 2)), np.tile([5.0, 0.0, 5.0], (scenes, 1))
            position[3], cholesky[4], cholesky[5] = np.nan, np.nan, 0.0
            return position, cholesky

    fixes = hl.locate(small_dataset, Partly())
    assert set(fixes.status.values[3:6]) == {"far"}
    assert bool(np.isfinite(fixes.covariance).all())
    assert "far" not in fixes.status.values[6:]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
FIELDS = [*metadata.Metadata.model_fields]
WHOLE = {name: json.dumps(value) for name, value in (ABOUT | {"checksum": "0" * 64}).items()}


@settings(max_examples=200)
@given(st.dictionaries(st.sampled_from(FIELDS), JSON.map(json.dumps) | st.text(max_size=300), max_size=3))
def test_any_metadata_is_accepted_or_refused_in_a_short_message(changes):
    message = ""
    try:
        known, _ = metadata.parse(WHOLE | changes)
        metadata.check_graph(
            known,
            {"position": ("tensor(float)", ["batch", "receivers", 2]), "present": ("tensor(bool)", [None, None])},
            {"transmitter_position": ["batch", 2], "cholesky": []},
        )
    except ValueError as error:
        message = str(error)
    assert len(message) < 600
