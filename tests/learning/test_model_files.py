"""Files of trained localizers: damaged or foreign ones are refused, and nothing in them is executed."""

import json
import tracemalloc
import zipfile
from importlib.metadata import version

import numpy as np
import pytest
import torch

from heimdall_lab.learning import architectures, trained


def test_damaged_files_are_refused(tmp_path):
    path, damaged = tmp_path / "model.pt", tmp_path / "damaged.pt"
    model = architectures.build("triangulation")
    trained.save(trained.Trained("triangulation", {}, model, {}), path)
    whole = path.read_bytes()
    kept = torch.load(path, weights_only=True)
    damages = {
        "truncated": whole[: len(whole) // 2],
        "empty": b"",
        "random": np.random.Generator(np.random.Philox(1)).bytes(2000),
        "json": json.dumps({"architecture": "triangulation"}).encode(),
    }
    for content in damages.values():
        damaged.write_bytes(content)
        with pytest.raises(ValueError, match=r"^model: '.*damaged.pt' is damaged or not a trained .*; train it again$"):
            trained.load(damaged)
    changes = ({"state": {}}, {"parameters": {"width": 64}}, {"architecture": "resnet"}, {"parameters": 3})
    for other in (*({**kept, **change} for change in changes), [1, 2], {"state": kept["state"]}):
        torch.save(other, damaged)
        with pytest.raises(ValueError, match=r"^model: '.*damaged.pt' holds no localizer of this version \("):
            trained.load(damaged)
    with pytest.raises(FileNotFoundError, match=r"^model: there is no file '.*none.pt'"):
        trained.load(tmp_path / "none.pt")


def test_a_model_of_another_version_is_refused_by_both_versions(tmp_path):
    path = tmp_path / "model.pt"
    model = architectures.build("triangulation")
    trained.save(trained.Trained("triangulation", {"depth": 3}, model, {"package_version": "9.0.0"}), path)
    message = (
        rf"of this version \({version('heimdall_lab')}; .*\); version 9\.0\.0 wrote it, use that or train it again"
    )
    with pytest.raises(ValueError, match=message):
        trained.load(path)


def test_files_execute_nothing(tmp_path):
    torch.save({"architecture": "triangulation", "parameters": {}, "state": _Trap(tmp_path / "sprung")}, tmp_path / "m")
    with pytest.raises(ValueError, match="is damaged or not a trained localizer"):
        trained.load(tmp_path / "m")
    assert not (tmp_path / "sprung").exists()


def test_compressed_files_are_not_unpacked(tmp_path):
    path, compressed = tmp_path / "model.pt", tmp_path / "compressed.pt"
    trained.save(trained.Trained("triangulation", {}, architectures.build("triangulation"), {}), path)
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(compressed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in whole.namelist():
            archive.writestr(name, whole.read(name))
        archive.writestr("archive/data/zeros", bytes(50_000_000))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="is damaged or not a trained localizer"):
            trained.load(compressed)
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()


class _Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return self.path.touch, ()
