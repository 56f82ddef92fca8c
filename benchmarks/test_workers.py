"""What a second worker process gains."""

import threading
from importlib.metadata import version

import pytest
from psutil import cpu_count
from timing import seconds

import heimdall_lab as hl
from heimdall_lab.core.files import locked
from heimdall_lab.simulation import cluster

SHARDS = 24


@pytest.mark.skipif((cpu_count() or 1) < 2, reason="there is one core")
def test_two_workers_write_at_least_1_6_times_as_fast(benchmark, tmp_path):
    """Default configuration; the least of up to eight runs each, in turns, after one that compiles."""
    config = hl.preset("iq_test", num_samples=64 * SHARDS)
    with locked(tmp_path) as lock, cluster.worker_processes(2) as submit:
        job = cluster.GenerationJob(config, tmp_path, lock, "numpy", version("heimdall_lab"), {})
        numbers, never = range(SHARDS), threading.Event()

        def together() -> None:
            assert len(list(cluster.write_side_by_side(submit, lambda: 2, job, numbers, never))) == SHARDS

        def alone() -> None:
            assert len(list(cluster.write_in_process(job, numbers, never))) == SHARDS

        for warm_up in (together, alone):
            warm_up()
        together_s, alone_s = [], []
        while len(alone_s) < 8 and (not alone_s or min(alone_s) < 1.6 * min(together_s)):
            alone_s.append(seconds(alone))
            together_s.append(seconds(together))
        benchmark.extra_info["rate of two workers over one"] = round(min(alone_s) / min(together_s), 2)
        benchmark.pedantic(together, rounds=1)
    assert min(alone_s) >= 1.6 * min(together_s)
