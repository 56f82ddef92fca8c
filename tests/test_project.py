"""The project's own files agree with each other."""

import csv
import json
import re
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
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
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
    """Versions of all that is installed, those on other systems or Pythons left out; torch's is in the Makefile."""
    lines = (ROOT / "requirements.lock").read_text().replace("\\\n", "").splitlines()
    pins = [Requirement(line.partition(" --hash")[0]) for line in lines]
    torch = re.search(r"^TORCH := torch==(\S+)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)[1]
    here = [pin for pin in pins if pin.marker is None or pin.marker.evaluate()]
    return {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in here} | {"torch": torch}


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


def test_lock_has_the_hashes_of_every_file_that_may_be_installed():
    lines = (ROOT / "requirements.lock").read_text().replace("\\\n", "").splitlines()
    assert len(lines) > 200
    pinned = re.compile(r"[\w.-]+==\S+( ; [^-]+)?( +--hash=sha256:[0-9a-f]{64})+")
    assert [line for line in lines if not pinned.fullmatch(line)] == []
    setup = (ROOT / "Makefile").read_text()
    assert "pip install --quiet --require-hashes --requirement requirements.lock\n" in setup
    assert "pip install --quiet --no-deps --editable .\n" in setup


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


def test_generating_and_locating_load_of_scipy_what_they_use():
    script = "import sys, heimdall_lab as hl; hl.generate, hl.locate, hl.compare; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.split()
    assert {"scipy.fft", "heimdall_lab.simulation.generate", "heimdall_lab.localization.estimators"} <= set(loaded)
    assert not {"scipy.signal", "scipy.stats", "scipy.interpolate"} & set(loaded)


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
    kept = {"data/receivers.csv", "data/ground.npz", *models}
    assert [f for f in files if f.startswith("data/") and f not in kept] == []
    assert (ROOT / "data" / "ground.npz").stat().st_size < 3_000_000
    assert sum((ROOT / f).stat().st_size for f in models) < 5_000_000
    assert [f for f in files if (ROOT / f).is_file() and (ROOT / f).stat().st_size > 5_000_000] == []


def prose(page):
    """Text of a page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def blocks(page, language):
    """Blocks of code of a page in one language, lines that are continued made whole."""
    found = re.findall(rf"^```{language}$(.*?)^```$", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return "\n".join(found).replace("\\\n", " ")


def anchors(page):
    """Headings of a page as GitHub names them in links."""
    titles = re.findall(r"^#+ (.*)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title).lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name if page.parent == ROOT else f"docs/{page.name}")
def test_links_of_a_page_lead_somewhere(page):
    links = re.findall(r"\]\(([^)]+)\)", prose(page))
    assert links
    for link in links:
        if re.match(r"https?://", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name if page.parent == ROOT else f"docs/{page.name}")
def test_a_page_says_what_question_it_answers(page):
    title, opening = page.read_text().split("\n\n")[:2]
    assert re.fullmatch(r"# \S.*", title)
    assert page.parent == ROOT or "?" in opening
    assert page.parent == ROOT or "](../README.md)" in opening


def test_every_page_is_in_the_index_and_in_the_readme():
    index, readme = (ROOT / "docs" / "README.md").read_text(), (ROOT / "README.md").read_text()
    names = [page.name for page in PAGES if page.parent != ROOT and page.name != "README.md"]
    assert [name for name in names if f"]({name})" not in index or f"](docs/{name})" not in readme] == []
    assert [path.name for path in NOTEBOOKS if f"](notebooks/{path.name})" not in readme] == []


def test_paths_that_contributing_names_exist():
    """Below the package unless they name another folder; with NN or NAME in them they are patterns."""
    named = re.findall(r"`([\w./]+)`", prose(ROOT / "CONTRIBUTING.md"))
    paths = [name for name in named if name.endswith("/") or re.search(r"\w\.(py|pyi|cu|md|yml|toml|lock)$", name)]
    paths = [path for path in paths if "NN" not in path]
    assert len(paths) > 40
    assert [path for path in paths if not ((ROOT / "heimdall_lab" / path).exists() or (ROOT / path).exists())] == []


def test_registries_that_contributing_names_exist():
    """Names in capitals and those of classes, in the table of changes; each stands in a file that its row names."""
    rows = re.findall(r"^\|.*", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.MULTILINE)
    named, lacking = 0, []
    for row in rows:
        named_files = re.findall(r"`([\w./]+\.py)`", row)
        files = [folder / path for path in named_files for folder in (ROOT / "heimdall_lab", ROOT)]
        sources = "\n".join(file.read_text() for file in files if file.exists())
        for name in set(re.findall(r"`(_?[A-Z]\w+)`", row)) - {"NAME_ratio"}:
            named += 1
            if not re.search(rf"^(class )?{name}\b|import .*\b{name}\b|[(]{name}\b", sources, re.MULTILINE):
                lacking.append((name, row))
    assert named > 15
    assert lacking == []


def test_commands_of_the_pages_have_the_options_that_they_name():
    from typer.main import get_command

    from heimdall_lab.cli import app

    commands = get_command(app).commands
    lines = re.findall(r"^heimdall-lab (\S+)(.*)$", "\n".join(blocks(page, "sh") for page in PAGES), flags=re.MULTILINE)
    assert {name for name, _ in lines} >= commands.keys() - {"architectures"}
    for name, arguments in lines:
        known = {option for each in commands[name].params for option in each.opts}
        assert set(re.findall(r"(?<=\s)--[\w-]+", arguments)) <= known, (name, arguments)


def test_public_names_are_those_of_the_pages():
    import heimdall_lab as hl

    named = set(re.findall(r"\bhl\.(\w+)", "\n".join(page.read_text() for page in PAGES)))
    assert named - set(hl.__all__) == set()
    assert set(hl.__all__) - set(re.findall(r"\bhl\.(\w+)", (ROOT / "docs" / "python.md").read_text())) <= {"Config"}


def test_pages_name_all_that_can_be_chosen():
    from heimdall_lab.core.presets import PRESETS
    from heimdall_lab.datasets import schema
    from heimdall_lab.learning.registry import ARCHITECTURES
    from heimdall_lab.localization.methods import METHODS

    contents = {
        "simulation": PRESETS,
        "datasets": {**schema.VARIABLES, **schema.ATTRIBUTES, **schema.FEATURES},
        "methods": METHODS,
        "learned": ARCHITECTURES,
    }
    for page, names in contents.items():
        text = (ROOT / "docs" / f"{page}.md").read_text()
        assert [name for name in names if f"`{name}`" not in text] == [], page


def test_messages_repeat_values_from_outside_shortened():
    """By `text.quoted`; ``!r``, which cuts nothing, is for the package's own names and defaults."""
    own = {
        "__init__.py": ["__name__", "name"],
        "core/config.py": ["self.diffraction"],
        "datasets/schema.py": ["name", "name", "variable.kinds", "variable.units"],
        "learning/registry.py": ["default", "default"],
        "learning/sources.py": ["each"],
        "signals/pairs.py": ["min(missing)"],
    }
    package = ROOT / "heimdall_lab"
    found = {
        str(path.relative_to(package)): names
        for path in sorted(package.rglob("*.py"))
        if (names := re.findall(r"\{([^{}]+)!r\}", path.read_text()))
    }
    assert found == own
