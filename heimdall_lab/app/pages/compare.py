"""Compare: which method is how far off, and how far from the Cramér-Rao bound."""

import asyncio
import io
import multiprocessing
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import holoviews as hv
import pandas as pd
import panel as pn
import panel_material_ui as pmui
import param
import xarray as xr
from panel.viewable import Viewable

from heimdall_lab import plots, report
from heimdall_lab.app.parts import background
from heimdall_lab.app.parts.dataset_choice import DatasetViewer
from heimdall_lab.app.parts.layout import apply_theme, note, section, show_errors, swatch
from heimdall_lab.app.parts.texts import Alert, Text
from heimdall_lab.app.parts.trained_models import trained_models
from heimdall_lab.datasets import splits, store
from heimdall_lab.localization import compared_methods, dpd, errors, leaderboard, learned
from heimdall_lab.localization.leaderboard import MEANINGS, cautions, leaderboard_cells, leaderboard_table, notes
from heimdall_lab.localization.methods import METHODS, unfit_methods
from heimdall_lab.localization.methods import methods as methods_for
from heimdall_lab.localization.sentences import status_sentence

_MEASURE_S = 6e-8  # for each IQ sample, of measuring delays that are not kept yet
_METHOD_S = {"dpd": 8.6e-7}  # for each IQ sample, of methods that take long
_FIX_S = {"rss_ml": 0.016, "tdoa_robust": 0.004}  # for each scene, of methods that take no IQ
_TRAINED_S = 0.005
_CONDITIONS = {"mean SNR": "snr", "GDOP": "gdop", "receivers": "receivers"}
_CDF, _ELLIPSES, _BINS, _ERROR_MAP, _SCENE = range(1, 6)  # tabs with pictures, after the leaderboard's
_AROUND, _NETWORK, _LIKELIHOOD = "Around the transmitter", "Network", "Likelihood from the IQ"
_ONE_LINE = {"& .MuiToggleButton-root": {"whiteSpace": "nowrap"}}
_WIDE = {"frame_width": 690, "frame_height": 320}
_BELOW_BUTTONS = {"frame_width": 690, "frame_height": 260}
_SQUARE = {"frame_width": 330, "frame_height": 330}
_MAP = {"frame_width": 485, "frame_height": 360}  # in the shape of the maps' own frame


class _Cancelled(Exception):
    """The comparison was cancelled."""


class Compare(DatasetViewer):
    """Leaderboard of methods on scenes of a dataset, pictures of their errors, and each scene in detail."""

    split: Any = param.Selector(default="all", objects=["all", *splits.SHARES], doc="Scenes that are located.")
    scenes = param.Integer(
        200, bounds=(1, 5000), doc="Most scenes that are located, evenly spread over the split, in whole recordings."
    )
    methods = param.List(item_type=str, doc="Names of the methods that are compared.")
    by: Any = param.Selector(default="snr", objects=list(errors.BINS), doc="What errors are divided by.")
    board = param.ClassSelector(class_=xr.Dataset, allow_None=True, doc="The leaderboard; None before comparing.")

    def __init__(self, root: str | Path | None = None, **params: Any) -> None:
        self.offered: dict[str, str | Path] = {}
        self.unfit: dict[str, str] = {}
        self._opened: xr.Dataset | None = None
        self._located: xr.Dataset | None = None
        self._in_memory: xr.Dataset | None = (
            None  # the same without IQ and spectrograms, for pictures that read no files
        )
        self._latencies_s: dict[str, float] = {}
        self._cancel = threading.Event()
        self._running = False
        self._likelihoods_running = 0
        self._drawn: set[int] = set()
        super().__init__(root, **params)
        if pn.state.curdoc is not None:
            pn.state.on_session_destroyed(lambda _context: self._cancel.set())

    async def load(self) -> None:
        """Find the methods that the chosen dataset allows, unless this is asked for again meanwhile."""
        self._cancel.set()
        self._opened = self._located = self._in_memory = self.board = None
        self._start.disabled = True
        await super().load()

    def _reading(self) -> tuple[Callable[..., Any], *tuple[Any, ...]]:
        return _find_methods, self.root, self.dataset

    def _show_dataset(self, read: tuple[xr.Dataset, dict[str, str | Path], dict[str, str]]) -> None:
        self._opened, self.offered, self.unfit = read
        classical = methods_for(self._opened)
        self.methods = [name for name in self.methods if name in self.offered] or classical
        self._show_methods()

    async def compare(self) -> None:
        """Locate with the chosen methods and show the leaderboard; errors are shown in the page."""
        if self._opened is None or self._start.disabled:
            return
        cancel = self._cancel = threading.Event()
        self._running = True
        self._start.disabled, self._stop.disabled, self._bar.visible = True, False, True
        dataset, progress = self.dataset, list[Any]([0, "reading"])

        def report_progress(done: int, note: str) -> None:
            progress[:] = done, note
            if cancel.is_set():
                raise _Cancelled

        try:
            with show_errors(self._alert):
                located = splits.evenly_spaced(_split(self._opened, self.split), self.scenes)
                chosen = [self.offered[name] for name in self.methods]
                work = asyncio.ensure_future(background.run(_compare, located, chosen, report_progress))
                while not work.done():
                    self._bar.value = round(100 * progress[0] / max(1, len(chosen)))
                    self._status.object = f"{progress[0]} of {len(chosen)} methods done, now {progress[1]} …"
                    await asyncio.wait([work], timeout=0.2)
                in_memory, board = await work
                if cancel.is_set():
                    raise _Cancelled
                self._located, self._in_memory, self.board = located, in_memory, board
                if failed := compared_methods.failures(board):  # the others are on the board
                    raise ValueError("; ".join(f"{name}: {reason}" for name, reason in failed.items()))
        except _Cancelled:
            self._status.object = "Cancelled."
        finally:
            self._running = False
            self._start.disabled, self._stop.disabled, self._bar.visible = self._opened is None, True, False
            if not cancel.is_set() or dataset != self.dataset:
                self._show_estimate()

    def estimated_s(self) -> float:
        """Time that comparing the chosen methods is going to take on this machine, roughly."""
        if self._opened is None:
            return 0.0
        sizes = self._opened.sizes
        iq_samples = sizes["receiver"] * sizes["time"] if "iq" in self._opened else 0
        of_methods = sum(self._method_time_s(name, iq_samples) for name in self.methods)
        measuring = 0.0 if "tdoa_s" in self._opened else iq_samples * _MEASURE_S
        return _count_scenes(self._opened, self.split, self.scenes) * (measuring + of_methods)

    def _method_time_s(self, name: str, iq_samples: int) -> float:
        if name in self._latencies_s:
            return self._latencies_s[name]
        if name in _METHOD_S:
            return _METHOD_S[name] * iq_samples
        return _FIX_S.get(name, 0.001 if name in METHODS else _TRAINED_S)

    def _make_layout(self) -> tuple[Viewable, Viewable]:
        self._boxes = pn.Column(sizing_mode="stretch_width", min_height=56)
        self._start = pmui.Button(label="Compare", icon="leaderboard", disabled=True, on_click=self._on_start)
        self._stop = pmui.Button(label="Cancel", icon="close", variant="outlined", disabled=True)
        self._stop.on_click(lambda _: self._cancel.set())
        self._bar = pmui.LinearProgress(value=0, visible=False, sizing_mode="stretch_width")
        self._status = Text("", variant="body2", sizing_mode="stretch_width")
        fields = [
            pmui.Select.from_param(self.param.dataset, label="Dataset", size="small", width=270),
            pmui.Select.from_param(self.param.split, label="Split", size="small", width=150),
            pmui.IntInput.from_param(self.param.scenes, label="Scenes, at most", size="small", width=150),
        ]
        question = section(
            "Which method is how far off?",
            pn.Row(*fields, pn.Row(self._start, self._stop, margin=(0, 0)), sizing_mode="stretch_width"),
            self._boxes,
            self._status,
            self._bar,
        )
        self._results = self._pictures()
        return self._boxes, pn.Column(self._alert, question, self._results, sizing_mode="stretch_width")

    def _leaderboard(self) -> Viewable:
        self._table = pn.widgets.Tabulator(
            pd.DataFrame(),
            disabled=True,
            selectable=False,
            show_index=False,
            sizing_mode="stretch_width",
            layout="fit_data_fill",
            formatters={"method": {"type": "html"}},
            header_tooltips=MEANINGS,
            text_align=dict.fromkeys(MEANINGS, "right"),
            header_align=dict.fromkeys(MEANINGS, "right"),
            configuration={"columnDefaults": {"headerSort": False}},
        )
        self._notes = note()
        self._cautions = Alert(severity="warning", visible=False, sizing_mode="stretch_width")
        downloads = pn.Row(
            pmui.FileDownload(callback=self._leaderboard_csv, filename="leaderboard.csv", label="Leaderboard (CSV)"),
            pmui.FileDownload(callback=self._html_report, filename="report.html", label="Report (HTML)"),
        )
        return pn.Column(self._table, self._notes, self._cautions, downloads, sizing_mode="stretch_width")

    def _pictures(self) -> Viewable:
        tabs = _CDF, _ELLIPSES, _BINS, _ERROR_MAP, _SCENE
        self._panes = {tab: pn.pane.HoloViews(None, min_height=420) for tab in tabs}
        self._map_method = pmui.Select(label="Errors of", options=[], size="small", width=270)
        self._sample = pmui.Select(label="Scene", options=[], size="small", width=270, filter_on_search=True)
        self._view = pmui.RadioButtonGroup(options=[_AROUND, _NETWORK], value=_AROUND, size="small", sx=_ONE_LINE)
        self._map_method.param.watch(lambda _: self._redraw(_ERROR_MAP), "value")
        self._status_text = note()
        for widget in (self._sample, self._view):
            widget.param.watch(lambda _: self._redraw(_SCENE), "value")
        cdf, calibration, by_bin, on_map, scene = self._panes.values()
        conditions = pmui.RadioButtonGroup.from_param(
            self.param.by, options=_CONDITIONS, label="", size="small", margin=(10, 10), sx=_ONE_LINE
        )
        hint = Text("Click near a true position to see every method's fix there.", variant="body2")
        top = (10, 0, 0, 0)  # room for labels on the fields' upper edges
        self._tabs = pmui.Tabs(
            ("Leaderboard", self._leaderboard()),
            ("Error distribution", pn.Column(cdf)),
            ("Honest ellipses", pn.Column(calibration)),
            ("By conditions", pn.Column(conditions, by_bin)),
            (
                "Error map",
                pn.Column(pn.Row(self._map_method, hint, margin=top), on_map),
            ),
            (
                "Scene",
                pn.Column(pn.Row(self._sample, self._view, margin=top), scene, self._status_text),
            ),
            visible=False,
            sizing_mode="stretch_width",
        )
        self._tabs.param.watch(lambda _: self._draw(), "active")
        return self._tabs

    async def _on_start(self, _event: Any) -> None:
        await self.compare()

    @param.depends("split", "scenes", "methods", watch=True)
    def _show_estimate(self) -> None:
        if self._opened is None or self._running:
            return
        scenes, seconds = _count_scenes(self._opened, self.split, self.scenes), self.estimated_s()
        self._start.disabled = not (self.methods and scenes)
        about = f"about {seconds:.0f} s" if seconds >= 1.5 else "about a second"
        text = f"{scenes} scenes, {len(self.methods)} methods: {about}."
        self._status.object = text if self.methods and scenes else "Choose at least one method and one scene."

    def _show_methods(self) -> None:
        """Offer the methods as boxes to tick; those that do not fit cannot be, and say why."""
        boxes = []
        for name in [*self.offered, *self.unfit]:
            fits = name in self.offered
            box = pmui.Checkbox(
                label=name,
                value=name in self.methods and fits,
                disabled=not fits,
                description=self.unfit.get(name, ""),
                size="small",
                margin=(0, 8),
            )
            box.param.watch(lambda event, name=name: self._choose(name, event.new), "value")
            boxes.append(box)
        together: dict[str, list[str]] = {}
        for name, why in self.unfit.items():
            together.setdefault(why, []).append(name)
        reasons = [
            Text(f"{', '.join(names)}: {why}", variant="caption", margin=(0, 10)) for why, names in together.items()
        ]
        self._boxes.objects = [pmui.FlexBox(*boxes, sizing_mode="stretch_width"), *reasons]
        self._show_estimate()

    def _choose(self, name: str, chosen: bool) -> None:
        self.methods = [each for each in self.offered if (chosen if each == name else each in self.methods)]

    @param.depends("board", watch=True)
    def _show_board(self) -> None:
        """Show a new leaderboard, and draw the picture of the open tab."""
        self._drawn.clear()
        if self.board is None:
            self._results.visible = False
            return
        table = leaderboard_table(self.board)
        cells = leaderboard_cells(table).reset_index(drop=True)
        styles = plots.method_styles(str(name) for name in self.board.method.values)
        cells.insert(0, "method", [swatch(str(name), styles[str(name)][0]) for name in table.index])
        self._table.value = cells
        self._results.visible = True  # after its table has columns: those that come while it is built are lost
        self._notes.object = "\n\n".join(notes(self.board))
        beware = cautions(table)
        self._cautions.param.update(object="\n\n".join(beware), visible=bool(beware))
        self._remember_latencies(table)
        has_iq = self._located is not None and "iq" in self._located
        best = [str(name) for name in table.index]
        with param.parameterized.discard_events(self._map_method):
            self._map_method.options, self._map_method.value = best, best[0]
        self._map_method.param.trigger("options", "value")
        references = self.board["reference"].values
        labels = {
            f"sample {label}{', a reference' if is_reference else ''}": int(label)
            for label, is_reference in zip(self.board.sample.values, references, strict=True)
        }
        self._sample.param.update(options=labels, value=next(iter(labels.values())))
        self._view.options = [_AROUND, _NETWORK, *([_LIKELIHOOD] if has_iq else [])]
        self._draw()

    def _remember_latencies(self, table: pd.DataFrame) -> None:
        """Remember how long methods take here, without what measuring takes, which they share."""
        least_ms = table.latency_ms.min()
        for name, latency_ms in table.latency_ms.items():
            self._latencies_s[str(name)] = max(latency_ms - least_ms, 0.5) / 1e3

    @param.depends("dark", watch=True)
    def _redraw_all(self) -> None:
        self._drawn.clear()
        self._draw()

    @param.depends("by", watch=True)
    def _redraw_bins(self) -> None:
        self._redraw(_BINS)

    def _redraw(self, tab: int) -> None:
        self._drawn.discard(tab)
        self._draw()

    def _draw(self) -> None:
        """Draw the picture of the tab that is open, if it is not there yet."""
        tab = self._tabs.active
        if self.board is None or self._in_memory is None or tab in self._drawn or tab not in self._panes:
            return
        self._drawn.add(tab)
        if tab == _SCENE:
            self._status_text.object = _status_text(self._in_memory, self.board, self._sample.value)
        if tab == _SCENE and self._view.value == _LIKELIHOOD:
            pn.state.execute(self._draw_likelihood)
            return
        with show_errors(self._alert):
            self._panes[tab].object = self._picture(tab, self.board, self._in_memory)

    def _picture(self, tab: int, board: xr.Dataset, located: xr.Dataset) -> Any:
        drawings: dict[int, Callable[[], Any]] = {
            _CDF: lambda: plots.error_cdf(board).opts(**_WIDE),
            _ELLIPSES: lambda: plots.calibration(board).opts(**_SQUARE),
            _BINS: lambda: plots.error_by_bin(board, self.by).opts(**_BELOW_BUTTONS),
            _ERROR_MAP: lambda: plots.error_map(located, board, self._map_method.value).opts(**_MAP),
            _SCENE: lambda: self._scene_picture(board, located),
        }
        picture = apply_theme(drawings[tab](), self.dark)
        if tab == _ERROR_MAP:
            hv.streams.SingleTap(source=picture).add_subscriber(self._show_nearest_scene)
        return picture

    def _scene_picture(self, board: xr.Dataset, located: xr.Dataset) -> Any:
        draw = plots.fix_map if self._view.value == _AROUND else plots.scene_map
        return draw(located, self._sample.value, board).opts(**_MAP)

    async def _draw_likelihood(self) -> None:
        located, in_memory, board, sample = self._located, self._in_memory, self.board, self._sample.value
        if located is None or in_memory is None or board is None:
            return
        self._likelihoods_running += 1
        self._panes[_SCENE].loading = True
        try:
            with show_errors(self._alert):
                scene = located.sel(sample=sample)
                likelihood = await background.run(lambda: dpd.likelihood(scene.load()))
                if board is not self.board or (sample, _LIKELIHOOD) != (self._sample.value, self._view.value):
                    return
                shown = board.sel({"method": ["dpd"]}) if "dpd" in board.method else None
                picture = plots.likelihood_map(in_memory, sample, likelihood, shown).opts(**_SQUARE)
                self._panes[_SCENE].object = apply_theme(picture, self.dark)
        finally:
            self._likelihoods_running -= 1
            self._panes[_SCENE].loading = self._likelihoods_running > 0

    def _show_nearest_scene(self, x: float | None = None, y: float | None = None) -> None:
        """Show the scene whose transmitter is nearest to where the error map was clicked."""
        if x is None or y is None or self._in_memory is None:
            return
        self._sample.value = errors.nearest_sample(self._in_memory, y, x)
        self._tabs.active = _SCENE

    def _leaderboard_csv(self) -> io.StringIO:
        return io.StringIO("" if self.board is None else leaderboard.table(self.board).to_csv(index=False))

    async def _html_report(self) -> io.BytesIO:
        if self._located is None or self.board is None:
            return io.BytesIO()
        return io.BytesIO(await background.run(_report, self._located, self.board))


def _compare(located: xr.Dataset, methods: list[str | Path], progress: Any) -> tuple[xr.Dataset, xr.Dataset]:
    """Compare methods; return the scenes in memory, without IQ and spectrograms, and the leaderboard."""
    in_memory = located.drop_dims(["time", "frame"], errors="ignore").compute()
    return in_memory, leaderboard.compare(located, methods, progress)


def _status_text(dataset: xr.Dataset, board: xr.Dataset, sample: int) -> str:
    """Say of every method, as paragraphs of Markdown, whether it found the transmitter of one scene."""
    methods = [board.sel({"method": name}).assign_attrs(method=str(name)) for name in board.method.values]
    return "\n\n".join(status_sentence(dataset, fixes, sample) for fixes in methods)


def _report(located: xr.Dataset, board: xr.Dataset) -> bytes:
    """Write the report in a process of its own: drawing for seconds would stop all pages."""
    spawned = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(1, mp_context=spawned) as process:
        path = Path(folder) / "report.html"
        process.submit(report.write_report, located, board, path).result()
        return path.read_bytes()


def _find_methods(root: Path, folder: str) -> tuple[xr.Dataset, dict[str, str | Path], dict[str, str]]:
    """Open a dataset; return it, the methods that it allows, and why others do not fit."""
    dataset = store.open_dataset(folder)
    fit: dict[str, str | Path] = {name: name for name in methods_for(dataset)}
    unfit = unfit_methods(dataset)
    trained, opened, reasons = trained_models(root), {}, {}
    for name, path in trained.items():
        try:
            opened[name] = learned.predictor(path)
        except (ValueError, OSError) as error:
            reasons[name] = str(error)
    reasons |= learned.incompatibilities(opened, dataset)
    fit |= {name: path for name, path in trained.items() if name not in reasons}
    unfit |= {name: reasons[name] for name in trained if name in reasons}
    return dataset, fit, unfit


def _split(dataset: xr.Dataset, split: str) -> xr.Dataset:
    return dataset if split == "all" else splits.select(dataset, split)


def _count_scenes(dataset: xr.Dataset, split: str, most: int) -> int:
    """Scenes of a split that are located, ``most`` at most; 0 where there is none."""
    try:
        return int(splits.evenly_spaced(_split(dataset, split), most).sizes["sample"])
    except ValueError:
        return 0
