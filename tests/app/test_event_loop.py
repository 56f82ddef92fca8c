"""Pages and files: manifests are parsed once for all pages, and the event loop's thread touches no file."""

import asyncio
import shutil

import pytest
from dashboards import no_files_here, until

import heimdall_lab as hl
from heimdall_lab.app.pages.compare import Compare
from heimdall_lab.app.pages.datasets import Datasets
from heimdall_lab.app.pages.features import Features
from heimdall_lab.app.pages.geometry import ITALY, Geometry
from heimdall_lab.app.pages.locate import Locate
from heimdall_lab.app.service import jobs, snapshot
from heimdall_lab.core.receivers import italian_network, save_network
from heimdall_lab.datasets import manifest


@pytest.fixture(scope="module")
def made(tmp_path_factory, small):
    """A data folder with two datasets, one with IQ, a saved network and a run."""
    root = tmp_path_factory.mktemp("loop") / "data"
    hl.generate(small, out=root / "los", progress=False)
    hl.generate(small.model_copy(update={"data_type": "feature_based"}), out=root / "bare", progress=False)
    save_network(italian_network()[:4], root, "four")
    (root / "runs" / "first").mkdir(parents=True)
    (root / "runs" / "first" / "model.onnx").write_bytes(b"")
    return root


@pytest.fixture
def root(made, tmp_path, monkeypatch):
    """A copy of it, in which no job is started, and of which pages share no older snapshot."""
    monkeypatch.setattr(snapshot, "_MAX_AGE_S", 0.0)
    monkeypatch.setattr(jobs, "start_next", lambda _root: None)
    return shutil.copytree(made, tmp_path / "data")


@pytest.fixture
def parsed(monkeypatch):
    """Paths of the manifests that are parsed, one for each time."""
    paths, parse = [], manifest._parse_manifest
    monkeypatch.setattr(manifest, "_parse_manifest", lambda text, path: paths.append(path) or parse(text, path))
    return paths


def test_manifests_are_parsed_once_for_all_pages_and_refreshes(root, parsed):
    async def steps():
        pages = [Datasets(root, selected="los"), Datasets(root)]
        await until(lambda: all(len(page._table.value) == 2 for page in pages))
        await pages[0]._verify_checksums(None)
        listed = len(parsed)
        for _ in range(3):
            for page in pages:
                await page.refresh()
        return listed

    assert 0 < asyncio.run(steps()) == len(parsed)


def test_what_was_verified_and_has_changed_is_not_checked(root):
    async def steps():
        page = Datasets(root, selected="los")
        await until(lambda: len(page._table.value) == 2)
        await page._verify_checksums(None)
        yield page._table.value.set_index("folder").loc["los", ["scenes", "checksums"]].tolist()
        written = manifest.read_manifest(root / "los")
        manifest.write_manifest(root / "los", written.model_copy(update={"shards": written.shards[:1]}))
        await page.refresh()
        yield page._table.value.set_index("folder").loc["los", ["scenes", "checksums"]].tolist()

    async def collected():
        return [each async for each in steps()]

    assert asyncio.run(collected()) == [["12", "ok"], ["4 of 12", "not checked"]]


async def look_at_datasets(root):
    page = Datasets(root, selected="los")
    await until(lambda: page._preview._opened is not None)
    await page._verify_checksums(None)
    await page._create.open()
    await until(lambda: "B are free" in page._create._estimate.object)
    assert "four (4 receivers)" in page._create._fields.widgets["geometry.receivers"].options
    await page.refresh()
    await page._resume_generation(None)
    assert "whole, already" in page._alert.object
    await page._delete_selected(None)
    assert list(page._table.value.folder) == ["bare"]


async def look_at_features(root):
    page = Features(root)
    await until(lambda: page.table is not None)
    page.dataset = str(root / "los")
    await until(lambda: page._loading_area.loading)
    await until(lambda: not page._loading_area.loading)
    await page.refresh()


async def look_at_compare(root):
    page = Compare(root, dataset=str(root / "los"))
    await until(lambda: page._opened is not None)
    assert "runs/first" in page.unfit
    page.methods = ["centroid", "tdoa_ls"]
    await page.compare()
    assert page.board is not None, page._alert.object
    for tab, pane in page._panes.items():
        page._tabs.active = tab
        assert pane.object is not None
    page._show_nearest_scene(8.0, 45.0)
    await page.refresh()


async def look_at_geometry(root):
    page = Geometry(root)
    await until(lambda: page._choice.options == [ITALY, "four"])
    page._choice.value = "four"
    await until(lambda: len(page.receivers) == 4)
    page._name.value = "mine"
    await page.save()
    await page.save()
    assert page._replace_dialog.open
    await page.save(replace=True)
    assert page._choice.options == [ITALY, "four", "mine"]


async def look_at_locate(root):
    page = Locate(root)
    await until(lambda: "runs/first" in page.param.method.names)
    await page.set_recordings({"a.wav": bytearray(b"x")})
    await page.locate()
    assert "receivers: are missing" in page._alert.object


LOOKS = [look_at_datasets, look_at_features, look_at_compare, look_at_geometry, look_at_locate]


@pytest.mark.parametrize("look", LOOKS)
def test_the_event_loop_touches_no_file(root, look):
    async def steps():
        with no_files_here(root):
            await look(root)

    asyncio.run(steps())
