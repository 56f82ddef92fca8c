"""Compiled kernels belong to the sources that they were compiled from."""

import pkgutil
import re
import threading
import time
from importlib import import_module
from pathlib import Path

import numba
import numpy as np
import pytest
from numba.core.dispatcher import Dispatcher

import heimdall_lab
from heimdall_lab.core import compiled, philox
from heimdall_lab.core.compiled import njit, sources_digest

PACKAGE = Path(heimdall_lab.__file__).parent


def test_every_kernel_is_kept_in_the_folder_of_these_sources_and_lets_other_threads_run():
    modules = [import_module(module.name) for module in pkgutil.walk_packages(heimdall_lab.__path__, "heimdall_lab.")]
    kernels = {kernel for module in modules for kernel in vars(module).values() if isinstance(kernel, Dispatcher)}
    assert len(kernels) > 30
    for kernel in kernels:
        assert kernel.targetoptions.get("nogil"), kernel
        assert f"kernels-{sources_digest(PACKAGE)}" in kernel.stats.cache_path, kernel


def test_other_threads_run_while_a_kernel_does():
    words = np.zeros((64, 2**17), dtype=np.uint32)
    philox._normals(words[:1, :2])  # compiled
    thread = threading.Thread(target=philox._normals, args=(words,))
    turns = 0
    thread.start()
    while thread.is_alive():
        time.sleep(0.001)
        turns += 1
    assert turns > 5


@pytest.mark.parametrize("change", ["content", "name", "new file"])
def test_digest_tells_sources_apart(change, tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "a.py").write_text("x = 1")
    (tmp_path / "inner" / "b.py").write_text("y = 1")
    before = sources_digest(tmp_path)
    assert before == sources_digest(tmp_path)
    if change == "content":
        (tmp_path / "inner" / "b.py").write_text("y = 2")
    elif change == "name":
        (tmp_path / "inner" / "b.py").rename(tmp_path / "b.py")
    else:
        (tmp_path / "c.py").touch()
    assert sources_digest(tmp_path) != before


def test_option_of_numba_is_given_back():
    before = numba.config.CACHE_DIR
    kernel = njit(cache=True)(lambda: 0)
    assert f"kernels-{sources_digest(PACKAGE)}" in kernel.stats.cache_path
    assert before == numba.config.CACHE_DIR


def test_a_kernel_that_cannot_be_kept_is_used_all_the_same(full_disk, monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(compiled, "_kernels_folder", lambda: tmp_path)
    twice = njit(cache=True)(lambda number: 2 * number)
    with full_disk(100):
        assert [twice(3), twice(3.5)] == [6, 7.0]
    [said] = caplog.messages
    assert re.fullmatch(rf"kernels: cannot be kept in {tmp_path} \(File too large\), so that .*; make room there", said)
    assert list(tmp_path.rglob("*.nb?")) == []
