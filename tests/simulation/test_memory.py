"""Memory of generation is bounded by blocks, whatever the number of scenes."""

import subprocess
import sys

import pytest


@pytest.mark.slow
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
