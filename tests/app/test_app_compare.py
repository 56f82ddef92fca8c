"""The page that compares methods: which it offers, what it runs and shows, and how it is stopped."""

import asyncio
import functools
import shutil
import threading
import time
from html import unescape

import holoviews as hv
import numpy as np
import panel as pn
import panel_material_ui as pmui
import param
import pytest
import xarray as xr
from bokeh.document import Document

import heimdall_lab as hl
from heimdall_lab import plots
from heimdall_lab.app.pages import compare
from heimdall_lab.app.pages.compare import Compare
from heimdall_lab.core import geodesy
from heimdall_lab.datasets import splits, store
from heimdall_lab.localization import bounds, dpd, errors, leaderboard, learned
from heimdall_lab.localization.leaderboard import leaderboard_cells, leaderboard_table
from heimdall_lab.signals.measurements import with_measurements

FAST = ["centroid", "tdoa_ls"]


@pytest.fixture(autouse=True)
def wait(one_loop):  # noqa: ARG001  made by it
    """Run what a page does beside itself to its end."""
    return asyncio.new_event_loop().run_until_complete


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    config = hl.preset("los_sync", num_samples=12, seed=3, signal={"duration_s": 0.02})
    hl.generate(config, out=folder / "los", progress=False)
    bare = config.model_copy(update={"data_type": "feature_based", "seed": 4})
    hl.generate(bare, out=folder / "bare", progress=False)
    (folder / "runs" / "mine").mkdir(parents=True)
    shutil.copy(learned.pretrained()["triangulation_websdr"], folder / "runs" / "mine" / "model.onnx")
    (folder / "runs" / "torn").mkdir()
    (folder / "runs" / "torn" / "model.onnx").write_bytes(b"no model")
    return folder


@pytest.fixture(scope="module")
def compared(root):
    """A function that compares methods on a whole dataset, once: its scenes, those in memory, and the leaderboard."""

    @functools.cache
    def of(methods, name="los"):
        located = store.open_dataset(root / name)
        return located, *compare._compare(located, list(methods), lambda *_: None)

    return of


@pytest.fixture(scope="module")
def board(compared):
    return compared((*FAST, "dpd"))[2]


def made(root, name="los", **params):
    """A viewer that has loaded its dataset."""
    return Compare(root, dataset=str(root / name), **params)


def shown(root, compared, methods=FAST, name="los"):
    """A viewer of what has been compared before, as `Compare.compare` shows it."""
    viewer = made(root, name, methods=methods)
    viewer._located, viewer._in_memory, viewer.board = compared(tuple(methods), name)
    return viewer


def test_methods_that_do_not_fit_say_why(root):
    viewer = made(root, "bare")
    assert "runs/mine" in viewer.offered
    assert viewer.unfit["dpd"] == "needs IQ, which this dataset does not keep"
    assert "iq_raw" in viewer.unfit["iq_resnet18_los_sync"]
    assert "damaged or not an ONNX file" in viewer.unfit["runs/torn"]
    assert "dpd" not in viewer.methods
    boxes = {box.label: box for box in viewer._boxes[0]}
    assert boxes["dpd"].disabled
    assert not boxes["runs/mine"].disabled
    boxes["runs/mine"].value = True
    assert "runs/mine" in viewer.methods


def test_the_board_is_that_of_metrics(root, wait):
    viewer = made(root, methods=[*FAST, "triangulation_websdr"], scenes=5)
    assert viewer.methods == [*FAST, "triangulation_websdr"]
    wait(viewer.compare())
    dataset = store.open_dataset(root / "los").isel(sample=[0, 2, 4, 7, 9])
    expected = leaderboard.compare(dataset, [*FAST, learned.pretrained()["triangulation_websdr"]])
    assert viewer.board.sample.values.tolist() == [0, 2, 4, 7, 9]
    timed = [name for name in expected if name.startswith("latency")]
    xr.testing.assert_allclose(viewer.board.drop_vars(timed), expected.drop_vars(timed))
    shown = viewer._table.value
    text = leaderboard_cells(leaderboard_table(viewer.board))
    assert shown["median"].tolist() == text["median"].tolist()
    assert [unescape(cell.split("</span>")[1]) for cell in shown["method"]] == text.index.tolist()
    assert viewer._tabs.visible


def test_a_split_bounds_the_scenes(root, wait):
    viewer = made(root, methods=FAST, split="train")
    wait(viewer.compare())
    numbers = viewer.board.sample.values
    assert 0 < len(numbers) < 12
    assert (splits.split_of(3, numbers) == "train").all()


def test_an_estimate_of_time_grows_with_the_work(root):
    viewer = made(root, methods=["tdoa_ls"])
    measured = with_measurements(viewer._opened)
    viewer._opened = measured.drop_vars("tdoa_s")
    to_measure = viewer.estimated_s()
    viewer._opened = measured
    alone = viewer.estimated_s()
    assert to_measure > alone
    viewer.methods = ["tdoa_ls", "dpd"]
    both = viewer.estimated_s()
    assert both > 2 * alone
    viewer.scenes = 6
    assert viewer.estimated_s() == pytest.approx(both / 2)
    assert "6 scenes, 2 methods: about" in viewer._status.object
    viewer.methods = []
    assert viewer._start.disabled


@pytest.mark.slow
def test_cancelled_between_methods(root, wait):
    viewer = made(root, methods=FAST)

    async def both():
        running = asyncio.ensure_future(viewer.compare())
        await asyncio.sleep(0)
        assert viewer._start.disabled
        viewer._cancel.set()
        await running

    wait(both())
    assert viewer.board is None
    assert viewer._status.object == "Cancelled."
    assert not viewer._start.disabled
    wait(viewer.compare())
    assert viewer.board is not None


@pytest.mark.slow
def test_a_dataset_switched_meanwhile_is_the_one_that_is_loaded(root, wait, monkeypatch):
    viewer = made(root, methods=FAST)
    find, late = compare._find_methods, threading.Event()

    def slow(folder, name):
        if name.endswith("los"):
            late.wait(20)
        return find(folder, name)

    monkeypatch.setattr(compare, "_find_methods", slow)

    async def steps():
        first = asyncio.ensure_future(viewer.load())
        await asyncio.sleep(0)
        assert viewer._start.disabled
        with param.parameterized.discard_events(viewer):
            viewer.dataset = str(root / "bare")
        await viewer.load()
        late.set()
        await first

    wait(steps())
    assert "dpd" in viewer.unfit
    assert "iq" not in viewer._opened
    assert not viewer._boxes.loading
    assert not viewer._start.disabled


@pytest.mark.slow
def test_a_dataset_switched_while_comparing_shows_no_board_of_the_old(root, wait):
    viewer = made(root, methods=FAST)

    async def steps():
        running = asyncio.ensure_future(viewer.compare())
        await asyncio.sleep(0)
        viewer.dataset = str(root / "bare")
        await running
        while viewer._boxes.loading:
            await asyncio.sleep(0.05)

    wait(steps())
    assert viewer.board is None
    assert not viewer._tabs.visible
    assert not viewer._start.disabled
    assert "methods: about" in viewer._status.object
    wait(viewer.compare())
    assert viewer.board is not None


def test_no_button_before_methods_are_listed_nor_without_one(root):
    viewer = made(root, methods=FAST)
    assert not viewer._start.disabled
    viewer.methods = []
    assert viewer._start.disabled
    viewer.methods = FAST
    assert not viewer._start.disabled


def test_a_closed_tab_cancels_its_comparison(root, monkeypatch):
    closed = []
    monkeypatch.setattr(type(pn.state), "curdoc", Document())
    monkeypatch.setattr(type(pn.state), "on_session_destroyed", lambda _state, callback: closed.append(callback))
    monkeypatch.setattr(type(pn.state), "onload", lambda *_: None)
    viewer = made(root)
    assert not viewer._cancel.is_set()
    closed[-1](None)
    assert viewer._cancel.is_set()


@pytest.mark.slow
def test_a_likelihood_that_comes_late_is_not_shown(root, compared, wait, monkeypatch):
    viewer = shown(root, compared)
    viewer._tabs.active = compare._SCENE
    viewer.dark = True
    monkeypatch.setattr(pn.state, "execute", lambda *_: None)
    viewer._view.value = compare._LIKELIHOOD
    themes = []
    monkeypatch.setattr(compare, "apply_theme", lambda picture, dark: themes.append(dark) or picture)
    before = viewer._panes[compare._SCENE].object

    async def steps():
        drawing = asyncio.ensure_future(viewer._draw_likelihood())
        await asyncio.sleep(0)
        viewer._sample.value = 7
        await drawing

    wait(steps())
    assert viewer._panes[compare._SCENE].object is before
    assert not viewer._panes[compare._SCENE].loading
    wait(viewer._draw_likelihood())
    assert viewer._panes[compare._SCENE].object is not before
    assert themes == [True]


def test_datasets_that_are_complete_by_now_are_offered(root, wait, tmp_path):
    viewer = Compare(tmp_path)
    assert viewer.dataset is None
    shutil.copytree(root / "los", tmp_path / "los")
    time.sleep(0.6)

    async def steps():
        await viewer.refresh()
        for _ in range(200):
            await asyncio.sleep(0.05)
            if viewer._opened is not None:
                break

    wait(steps())
    assert viewer.dataset == str(tmp_path / "los")
    assert not viewer._alert.visible
    assert "tdoa_ls" in viewer.offered
    shutil.copytree(root / "bare", tmp_path / "bare")
    opened = viewer._opened
    time.sleep(0.6)
    wait(viewer.refresh())
    assert viewer.dataset == str(tmp_path / "los")
    assert viewer._opened is opened
    assert sorted(viewer.param.dataset.get_range()) == ["bare", "los"]
    chosen = next(select for select in viewer._layout.select(pmui.Select) if select.label == "Dataset")
    assert sorted(chosen.options) == ["bare", "los"]
    assert chosen.value == viewer.dataset


def test_no_truth_is_told_in_the_page(root, wait):
    viewer = made(root, methods=FAST)
    viewer._opened = viewer._opened.assign(transmitter_latitude=viewer._opened.transmitter_latitude * np.nan)
    wait(viewer.compare())
    assert viewer.board is None
    assert viewer._alert.visible
    assert "compare needs the true positions" in viewer._alert.object


@pytest.mark.slow
def test_pictures_are_drawn_when_their_tab_opens(root, compared, wait):
    viewer = shown(root, compared, [*FAST, "dpd"])
    assert all(pane.object is None for pane in viewer._panes.values())
    for tab, pane in viewer._panes.items():
        viewer._tabs.active = tab
        assert isinstance(pane.object, hv.Overlay)
    drawn = viewer._panes[compare._CDF].object
    viewer._tabs.active = compare._CDF
    assert viewer._panes[compare._CDF].object is drawn
    viewer.dark = True
    assert viewer._panes[compare._CDF].object is not drawn
    viewer._tabs.active = compare._SCENE
    viewer._view.value = compare._LIKELIHOOD
    wait(viewer._draw_likelihood())
    assert "what the IQ of all receivers says" in viewer._panes[compare._SCENE].object.opts.get().kwargs["title"]


def test_the_scene_says_of_each_method_whether_it_found_the_transmitter(root, compared):
    viewer = shown(root, compared)
    viewer.board = viewer.board.assign(
        status=viewer.board.status.where(viewer.board.method != "tdoa_ls", "link"), suspect=viewer.board.suspect * 0
    )
    viewer._tabs.active = compare._SCENE
    viewer._sample.value = 4
    centroid, tdoa = viewer._status_text.object.split("\n\n")
    assert centroid.startswith("centroid found this place, unchecked")
    receiver = viewer._in_memory.receiver_name.values[0]
    assert tdoa.startswith(f"No fix by tdoa_ls: the delay of {receiver} contradicts the others; the best candidate is")


def test_a_click_on_the_map_opens_the_nearest_scene(root, compared):
    viewer = shown(root, compared)
    scene = store.open_dataset(root / "los").sel(sample=7)
    viewer._show_nearest_scene(float(scene.transmitter_longitude) + 1e-4, float(scene.transmitter_latitude))
    assert (viewer._sample.value, viewer._tabs.active) == (7, compare._SCENE)


def test_nearest_is_by_metres_not_degrees(root):
    dataset = store.open_dataset(root / "los").isel(sample=[0, 1]).load()
    dataset = dataset.assign(
        transmitter_latitude=dataset.transmitter_latitude.copy(data=[60.0, 60.75]),
        transmitter_longitude=dataset.transmitter_longitude.copy(data=[11.0, 10.0]),
    )
    near, far = (geodesy.geodesic(60.0, 10.0, *place)[0] for place in ((60.0, 11.0), (60.75, 10.0)))
    assert near < far
    assert errors.nearest_sample(dataset, 60.0, 10.0) == 0
    with pytest.raises(ValueError, match="is unknown in every sample; none is nearest"):
        errors.nearest_sample(dataset.assign(transmitter_latitude=dataset.transmitter_latitude * np.nan), 60, 10)


@pytest.mark.slow
def test_downloads_hold_the_board(root, compared, wait):
    viewer = shown(root, compared, name="bare")
    lines = viewer._leaderboard_csv().getvalue().splitlines()
    assert lines[0].startswith("method,by,bin,samples,median_error")
    assert {line.split(",")[0] for line in lines[1:]} == set(FAST)
    page = wait(viewer._html_report()).getvalue().decode()
    assert "<h2>Leaderboard</h2>" in page
    assert "tdoa_ls" in page


def test_progress_names_each_method_before_it_runs(root):
    reported = []
    dataset = store.open_dataset(root / "los").isel(sample=slice(3))
    leaderboard.compare(dataset, FAST, lambda done, note: reported.append((done, note)))
    assert reported[:2] == [(0, "verifying checksums"), (0, "measuring delays")]
    assert reported[-2:] == [(0, "centroid"), (1, "tdoa_ls")]


def test_median_at_the_bound_is_that_of_drawn_errors(board):
    picture = plots.error_by_bin(board, "receivers")
    counts = board.samples_by_receivers.values
    (place,) = np.flatnonzero(counts == counts.max())
    member = errors.bin_of(board.scene_receivers.values, "receivers") == place
    rng = np.random.Generator(np.random.Philox(2))
    drawn = np.concatenate([rng.multivariate_normal([0, 0], c, 20_000) for c in board.crlb_covariance.values[member]])
    curves = [layer for layer in picture if type(layer) is hv.Curve]
    (at_bound,) = (curve for curve in curves if curve.label == "at the bound (normal law)")
    shown = np.flatnonzero(counts).tolist().index(place)
    assert at_bound.dimension_values("error_m")[shown] == pytest.approx(np.median(np.hypot(*drawn.T)), rel=0.01)
    line = next(curve for curve in curves if curve.label == "tdoa_ls")
    errors_m = board.error.sel({"method": "tdoa_ls"}).values[member]
    assert line.dimension_values("error_m")[shown] == pytest.approx(np.median(errors_m))
    with pytest.raises(ValueError, match="by: 'hour' is unknown; choose one of snr, gdop, receivers"):
        plots.error_by_bin(board, "hour")


def test_likelihood_map_is_where_the_estimator_looks(root):
    """Both are drawn at their own east and north, in km, and the map's colours are the likelihood."""
    dataset = store.open_dataset(root / "los")
    likelihood = dpd.likelihood(dataset.sel(sample=4).load(), side=161)
    fix = hl.locate(dataset.sel(sample=[4]), "dpd")
    picture = plots.likelihood_map(dataset, 4, likelihood, fix)
    image = next(layer for layer in picture if isinstance(layer, hv.Image))
    for place in ((31, 120), (80, 80), (160, 0)):
        at = likelihood[place]
        assert image[float(at.east) / 1e3, float(at.north) / 1e3] == pytest.approx(float(at))
    marker = next(layer for layer in picture if isinstance(layer, hv.Points) and layer.label.startswith("dpd"))
    drawn_km = [float(marker.dimension_values(axis)[0]) for axis in range(2)]
    assert drawn_km == pytest.approx([float(fix.east[0]) / 1e3, float(fix.north[0]) / 1e3], rel=1e-3, abs=0.01)


@pytest.mark.slow
def test_whole_recordings_are_compared_and_what_is_left_out_is_said(wait, tmp_path):
    config = hl.preset("websdr_reference", num_samples=12, seed=3, signal={"duration_s": 0.02})
    hl.generate(config, out=tmp_path / "recorded", progress=False)
    viewer = made(tmp_path, "recorded", methods=FAST, scenes=10)
    assert viewer._status.object.startswith("8 scenes, 2 methods")
    wait(viewer.compare())
    assert viewer.board.sample.values.tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    said = viewer._notes.object
    assert said.startswith(f"Left out: 2 references, whose positions are known beforehand.\n\n{bounds.JOINT_BOUNDS}")
    assert "–" not in set(viewer._table.value["RMSE/normal"])
    assert list(viewer._sample.options)[:2] == ["sample 0, a reference", "sample 1"]
    for tab in range(1, 6):
        viewer._tabs.active = tab
        assert viewer._panes[tab].object is not None
    assert not viewer._alert.visible
