"""The project's own files agree with each other."""

import csv
import json
import subprocess
import sys
import tomllib
from importlib.metadata import distributions
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from heimdall_lab.core.extras import missing_extra

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
EXTRAS = PROJECT["optional-dependencies"]
OPTIONAL = [
    line for name in ("learn", "app", "notebooks", "dev") for line in EXTRAS[name] if "heimdall_lab" not in line
]
REQUIRED = [*PROJECT["dependencies"], *OPTIONAL]
CONDA_NAMES = {"torch": "pytorch"}  # where it differs from that on PyPI
NOT_ON_CONDA = {"fastapi-offline", "playwright", "schemathesis"}


def requirement(line):
    parsed = Requirement(line)
    return canonicalize_name(parsed.name), str(parsed.specifier)


def locked():
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    return {canonicalize_name(n): v for n, v in (line.split("==") for line in lines if not line.startswith("#"))}


def test_conda_environment_is_in_step_with_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (pip,) = [part["pip"] for part in environment if isinstance(part, dict)]
    assert pip == [
        "--editable .[all,dev]"
    ]  # a line of a requirements file: options of pip install itself are not accepted
    conda = {requirement(line) for line in environment if isinstance(line, str)} - {("pip", "")}
    wanted = [*REQUIRED, f"python{PROJECT['requires-python']}"]
    known = {(name, versions) for name, versions in map(requirement, wanted) if name not in NOT_ON_CONDA}
    assert conda == {(CONDA_NAMES.get(name, name), versions) for name, versions in known}


def test_lock_pins_torch_and_meets_every_requirement():
    pins = locked()
    assert pins["torch"] == "2.13.0"
    for line in REQUIRED:
        wanted = Requirement(line)
        assert wanted.specifier.contains(pins[canonicalize_name(wanted.name)]), line


def test_setup_installed_the_locked_versions():
    """Of packages that are locked; others that somebody added are nobody's business, nor is which build one is of."""
    installed = {canonicalize_name(d.metadata["Name"]): Version(d.version).public for d in distributions()}
    assert {name: (installed[name], v) for name, v in locked().items() if installed.get(name, v) != v} == {}
    assert {requirement(line)[0] for line in REQUIRED} <= set(installed)


def test_all_brings_every_extra_that_users_need():
    assert EXTRAS["all"] == ["heimdall_lab[learn,app,notebooks]"]
    assert set(EXTRAS) == {"learn", "app", "notebooks", "gpu", "all", "dev"}


@pytest.mark.parametrize("extra", ["learn", "app"])
def test_packages_of_an_extra_are_explained_where_they_are_missing(extra):
    for name in {requirement(line)[0] for line in EXTRAS[extra]} - {"heimdall-lab"}:
        error = ModuleNotFoundError(name=f"{name.replace('-', '_')}.part")
        assert missing_extra(error).endswith(f"is not installed; pip install 'heimdall-lab[{extra}]'")


def test_what_is_light_imports_neither_torch_nor_pictures():
    script = "import sys, heimdall_lab, heimdall_lab.cli; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.split()
    assert "heimdall_lab.cli" in loaded
    assert not {"torch", "panel", "holoviews", "bokeh", "xarray", "pandas", "numba"} & set(loaded)


def test_receiver_list_is_the_published_network():
    rows = list(csv.DictReader((ROOT / "data" / "receivers.csv").read_text().splitlines()))
    assert len(rows) == 7
    by_name = {r["name"]: (float(r["latitude_deg"]), float(r["longitude_deg"]), float(r["altitude_m"])) for r in rows}
    assert by_name["Passo del Giovi"] == (44.561, 8.956, 480.0)
    assert by_name["Milano-Baggio"] == (45.478, 9.123, 120.0)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_is_stripped_titled_and_short(path):
    cells = json.loads(path.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    lines = [sum(bool(line.strip()) for line in cell["source"]) for cell in code]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code)
    assert cells[0]["cell_type"] == "markdown"
    assert cells[0]["source"][0].startswith("# ")
    assert cells[0]["source"][0].strip().endswith("?")
    assert len(cells) <= 40
    assert sum(lines) <= 150
    assert sorted(lines)[len(lines) // 2] <= 5
    assert not any(line.lstrip().startswith("class ") for cell in code for line in cell["source"])
    assert any("assert" in line for line in code[-1]["source"])
    assert all(before["cell_type"] == "markdown" for before, cell in pairwise(cells) if cell in code)


def test_nothing_generated_or_large_is_committed():
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    models = [f for f in files if f.startswith("data/models/") and f.endswith(".onnx")]
    assert [f for f in files if f.startswith("data/") and f != "data/receivers.csv" and f not in models] == []
    assert sum((ROOT / f).stat().st_size for f in models) < 5_000_000
    assert [f for f in files if (ROOT / f).is_file() and (ROOT / f).stat().st_size > 5_000_000] == []
