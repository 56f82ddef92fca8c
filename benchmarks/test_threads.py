"""How far compiled functions let two threads work at once, as the dashboard's pages do."""

import os
import threading

import numpy as np
import pytest
from timing import seconds

from heimdall_lab.core import philox
from heimdall_lab.localization import information

_GENERATOR = np.random.default_rng(1)
_WORDS = _GENERATOR.integers(0, 2**32, (64, 16384), dtype=np.uint32)
_WEIGHT = _GENERATOR.uniform(0.1, 1, (20_000, 7))
_COLUMNS = _GENERATOR.uniform(0.1, 1, (5, 20_000, 7))  # three nuisances and two gradients

KERNELS = {
    "normal numbers": lambda: philox._normals(_WORDS),
    "information": lambda: information._information_without_nuisances(_COLUMNS, _WEIGHT, 3),
}


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two threads need two cores")
@pytest.mark.parametrize("kernel", KERNELS)
def test_two_threads_do_1_2_times_the_work_of_one(kernel, benchmark):
    """The least of several rounds each, in turns."""
    work = KERNELS[kernel]

    def twice() -> None:
        work()
        work()

    def in_two_threads() -> None:
        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    one_s = []
    benchmark.pedantic(in_two_threads, setup=lambda: one_s.append(seconds(twice)), rounds=150, warmup_rounds=1)
    ratio = min(one_s) / benchmark.stats.stats.min
    benchmark.extra_info["two threads over one"] = round(ratio, 2)
    assert ratio >= 1.2
