"""The report: one page that needs no network, with every method, picture and fact, the same each time."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import bokeh
import pytest
import xarray as xr

import heimdall_lab as hl
from heimdall_lab import plots
from heimdall_lab.localization.leaderboard import leaderboard_table
from heimdall_lab.localization.sentences import budget_sentence, remedy_sentence, status_sentence
from heimdall_lab.localization.tables import budget_table
from heimdall_lab.report import page as module
from heimdall_lab.report.page import _best_method, _median_sample, write_report


@pytest.fixture(scope="module")
def dataset() -> xr.Dataset:
    return hl.generate(hl.preset("iq_test", num_samples=5, seed=4), progress=False)


@pytest.fixture(scope="module")
def board(dataset: xr.Dataset) -> xr.Dataset:
    return hl.compare(dataset)


@pytest.fixture(scope="module")
def page(dataset: xr.Dataset, board: xr.Dataset, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(dataset, board, path)
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    return path.read_text(encoding="utf-8")


class References(HTMLParser):
    """Collects what a page would load, and the text of its cells."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href")]


def test_report_needs_no_network(page: str) -> None:
    references = References()
    references.feed(page)
    assert references.loaded == []
    assert "link" not in references.tags
    assert not re.search(r"@import|url\(", page.split("</style>")[0])
    library = Path(bokeh.__file__).parent / "server" / "static" / "js"
    for name in ("bokeh.min.js", "bokeh-widgets.min.js"):
        assert (library / name).read_text(encoding="utf-8").strip() in page
    assert len(page.encode()) < 6e6


def test_report_shows_every_method_and_picture(page: str, board: xr.Dataset) -> None:
    table = leaderboard_table(board)
    rows = re.findall(r"<tr><td>(.*?)</tr>", page)
    for method, median in table.median_error_m.items():
        assert any(f"{method}</td><td>{plots.length_text(median)}</td>" in row for row in rows)
    figures = re.findall(r'<figure id="figure-([a-z-]+)">', page)
    of_all = ["error-cdf", "calibration", "error-map"]
    assert figures == [
        *of_all,
        "scene-map",
        "fix-map",
        "error-budget",
        "cross-correlations",
        "spectrograms",
        "envelopes",
    ]
    assert "disciplined by GPS" in page
    assert "Aquila di Giaveno" in page


def test_report_names_the_law_of_the_bound_and_the_methods_with_a_prior(page: str, board: xr.Dataset) -> None:
    sample = _median_sample(board, _best_method(board))
    rms = plots.length_text(float(board.crlb_rmse.sel(sample=sample)))
    assert f"The Cramér-Rao bound of this sample is {rms} rms (normal law)." in page
    assert "<dt>RMSE/normal</dt>" in page
    assert "RMSE/genie" not in page
    assert "so that errors may be below the bounds: " in page
    assert not re.search(r"physics allows|ideal method|perfect method would", page)


def test_report_shows_the_median_sample(page: str, board: xr.Dataset) -> None:
    method = _best_method(board)
    sample = _median_sample(board, method)
    errors = board.error.sel({"method": method})
    assert errors.sel(sample=sample) == errors.median()
    assert f"sample {sample}</h2>" in page


def test_report_says_what_the_shown_fix_is_worth(page: str, dataset: xr.Dataset, board: xr.Dataset) -> None:
    method = _best_method(board)
    fixes, sample = board.sel({"method": method}).assign_attrs(method=method), _median_sample(board, method)
    said = " ".join(say(dataset, fixes, sample) for say in (status_sentence, budget_sentence))
    assert f"<p>{said}</p>" in page
    assert f"<p>{remedy_sentence(dataset, fixes, sample)}</p>" in page
    for row in budget_table(dataset, fixes, sample).itertuples():
        assert f"<td>{row.cause}</td><td>{plots.length_text(row.rms_error_m)}</td>" in page


@pytest.mark.slow
def test_report_is_the_same_every_time(page: str, dataset: xr.Dataset, board: xr.Dataset, tmp_path: Path) -> None:
    write_report(dataset, board, tmp_path / "again.html")
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == page


def test_a_report_that_cannot_be_written_leaves_the_old_file(
    page: str, dataset: xr.Dataset, board: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disk_full(path: Path, text: str, encoding: str) -> None:
        path.write_bytes(text[:1000].encode(encoding))
        raise OSError("no space left on device")

    path = tmp_path / "report.html"
    path.write_text("old")
    monkeypatch.setattr(module, "_render", lambda *_: page)  # which takes seconds
    monkeypatch.setattr(Path, "write_text", disk_full)
    with pytest.raises(OSError, match="no space left"):
        write_report(dataset, board, path)
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
    assert path.read_text() == "old"


@pytest.mark.slow
def test_report_holds_names_as_text(dataset: xr.Dataset, board: xr.Dataset, tmp_path: Path) -> None:
    hostile = "<img src=x onerror=alert(1)><!--<script></script>"
    names = dataset.receiver_name.copy(data=[f"{number}{hostile}" for number in range(7)])
    named = dataset.assign_coords(receiver_name=names).assign_attrs(title=hostile, history=hostile)
    write_report(
        named, board.assign_coords(method=[f"{name}{hostile}" for name in board.method.values]), tmp_path / "r.html"
    )
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    references = References()
    references.feed(text)
    assert references.loaded == []
    assert "img" not in references.tags
    assert references.tags.count("script") == text.count("</script>") == 1 + 2 * text.count("<figure")
    assert references.tags.count("figure") == text.count("<figure")
    models = re.findall(r'<script type="application/json" id="figure-[\w-]+-model">(.*)</script>', text)
    assert any(hostile in json.dumps(json.loads(model), ensure_ascii=False) for model in models)
    assert not any("<" in model for model in models)  # "<!--<script" keeps an element from ending
