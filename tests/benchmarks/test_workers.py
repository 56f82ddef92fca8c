"""What a second worker process gains, and how much memory a large dataset takes."""

import subprocess
import sys
import threading
import time
from importlib.metadata import version

import pytest
from psutil import cpu_count

import heimdall_lab as hl
from heimdall_lab import store, workers

SHARDS = 24


@pytest.mark.skipif((cpu_count() or 1) < 2, reason="there is one core")
def test_two_workers_write_at_least_1_6_times_as_fast(benchmark, tmp_path):
    """Default configuration; both have compiled and written before, and take turns."""
    config = hl.preset("iq_test", num_samples=64 * SHARDS)
    with store.locked(tmp_path) as lock, workers.local_cluster(2) as client:
        job = workers.Job(config, tmp_path, lock, "numpy", version("heimdall_lab"))
        numbers, never = range(SHARDS), threading.Event()

        def together() -> None:
            assert len(list(workers.write_on(client, job, numbers, never))) == SHARDS

        alone_s = []

        def alone() -> None:
            start = time.perf_counter()
            assert len(list(workers.write_here(job, numbers, never))) == SHARDS
            alone_s.append(time.perf_counter() - start)

        benchmark.pedantic(together, setup=alone, rounds=5, warmup_rounds=1)
    ratio = min(alone_s) / benchmark.stats.stats.min
    benchmark.extra_info["rate of two workers over one"] = round(ratio, 2)
    assert ratio >= 1.6


@pytest.mark.parametrize("num_samples", [32, 96])
def test_memory_does_not_grow_with_the_number_of_scenes(num_samples, tmp_path):
    """One second at 200 kHz on seven receivers; the limit is the same however many shards there are."""
    script = f"""
import heimdall_lab as hl
config = hl.preset("iq_production", num_samples={num_samples})
hl.generate(config, {str(tmp_path)!r}, progress=False)
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""
    done = subprocess.run([sys.executable, "-c", script], check=True, timeout=300, capture_output=True, text=True)
    assert int(done.stdout) < 1.5e6  # kB
