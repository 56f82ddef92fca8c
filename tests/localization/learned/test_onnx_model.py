"""Files that are not whole, not of this package, or of another version are refused with what to do."""

import json
import os
import subprocess
import sys
from importlib.metadata import version

import numpy as np
import onnx
import pytest

import heimdall_lab as hl
from heimdall_lab.localization.learned import onnx_model


@pytest.fixture
def altered(onnx_file, tmp_path):
    """Write the file again with other metadata, None for what it shall lack, and a checksum that fits."""

    def altered(**changes):
        model = onnx.load(onnx_file)
        stored = {each.key: each.value for each in model.metadata_props}
        stored |= {name: None if value is None else json.dumps(value) for name, value in changes.items()}
        stored["checksum"] = json.dumps(onnx_model.CHECKSUM_PLACEHOLDER)
        onnx.helper.set_model_props(model, {name: value for name, value in stored.items() if value is not None})
        content = model.SerializeToString()
        seal = onnx_model.checksum(content, onnx_model.CHECKSUM_PLACEHOLDER)
        path = tmp_path / "altered.onnx"
        path.write_bytes(content.replace(onnx_model.CHECKSUM_PLACEHOLDER.encode(), seal.encode()))
        return path

    return altered


def test_a_file_that_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"model: there is no file '.*none\.onnx'; export one"):
        onnx_model.open_model(tmp_path / "none.onnx")


def test_files_of_something_else_are_refused(tmp_path, onnx_file):
    text = tmp_path / "text.onnx"
    text.write_text("{}")
    with pytest.raises(ValueError, match="damaged or not an ONNX file"):
        onnx_model.open_model(text)
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(onnx_file.read_bytes()[:-5000])
    with pytest.raises(ValueError, match=r"model: .*cut\.onnx' (is damaged|lacks the metadata)"):
        onnx_model.open_model(cut)


def test_a_file_without_our_metadata_is_refused(altered):
    with pytest.raises(ValueError, match=r"lacks the metadata 'window'; give a file that heimdall_lab exported"):
        onnx_model.open_model(altered(window=None))


def test_a_file_of_another_version_is_refused_by_both_versions(altered):
    later = altered(freedom=None, package_version="9.0.0")
    with pytest.raises(ValueError, match=rf"lacks the metadata 'freedom'.*{version('heimdall_lab')}.*version 9\.0\.0"):
        onnx_model.open_model(later)


def test_a_changed_weight_is_found(tmp_path, onnx_file, trained):
    """A file that loads, and would give other positions."""
    content = onnx_file.read_bytes()
    weight = trained.model.head.offset.bias.detach().numpy().tobytes()
    assert content.count(weight) == 1
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(content.replace(weight, np.ones(2, np.float32).tobytes()))
    with pytest.raises(ValueError, match="is damaged, its checksum is another"):
        onnx_model.open_model(damaged)


def test_features_of_another_version_are_refused(altered, onnx_file):
    features = onnx_model.open_model(onnx_file).about["features"]
    with pytest.raises(ValueError, match=r"features: .*made by version 0\.0 .*'colour' is not in both"):
        onnx_model.open_model(altered(features=[*features, "colour"]))
    with pytest.raises(ValueError, match="their order is another"):
        onnx_model.open_model(altered(features=features[::-1]))
    assert onnx_model.open_model(altered(features=features)).name == "triangulation"


def test_a_file_is_opened_anew_where_it_has_changed_and_in_each_process(altered, monkeypatch):
    path = altered(dataset="one")
    first = onnx_model.open_model(path)
    assert onnx_model.open_model(str(path)) is first
    altered(dataset="another")
    second = onnx_model.open_model(path)
    assert (first.about["dataset"], second.about["dataset"]) == ("one", "another")
    monkeypatch.setattr(os, "getpid", lambda: 0)  # as after a fork
    assert onnx_model.open_model(path) is not second


@pytest.mark.slow
def test_locating_needs_no_pytorch(onnx_file):
    script = f"""
import sys
import heimdall_lab as hl
dataset = hl.generate(hl.preset("los_sync", num_samples=2, signal={{"duration_s": 0.02}}), progress=False)
fixes = hl.locate(dataset, {str(onnx_file)!r})
assert fixes.attrs["method"] == "triangulation" and bool(fixes.latitude.notnull().all())
print(sorted({{"torch", "lightning", "mlflow", "onnx"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr


def test_fixes_of_file_and_memory_are_the_same(small_dataset, trained, onnx_file):
    from_file, in_memory = (hl.locate(small_dataset, method) for method in (onnx_file, trained))
    for name in ("east", "north"):
        np.testing.assert_allclose(from_file[name], in_memory[name], atol=1.0)
    np.testing.assert_allclose(from_file.covariance, in_memory.covariance, rtol=1e-3, atol=10)
