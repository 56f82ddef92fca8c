import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "kills.py"


@pytest.mark.slow
@pytest.mark.parametrize("work", ["training", "compare --out", "write_sigmf", "dashboard job"])
def test_work_that_is_killed_ends_as_if_it_had_not_been(work):
    done = subprocess.run([sys.executable, SCRIPT, "3", work], check=True, capture_output=True, text=True)
    assert re.fullmatch(rf"{work}: 3 kills, \d+ ended before; identical\n", done.stdout)
