"""Links as rows, and the page that shows them: what is selected, drawn, and told against the truth."""

import asyncio
import shutil
import threading
import time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import panel as pn
import param
import pytest

import heimdall_lab as hl
from heimdall_lab import plots
from heimdall_lab.app.pages import features
from heimdall_lab.app.pages.features import Features
from heimdall_lab.app.parts.dataset_choice import complete_datasets, requested_dataset
from heimdall_lab.datasets import splits, store
from heimdall_lab.signals import link_table

pytestmark = pytest.mark.usefixtures("one_loop")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("features")
    config = hl.preset("los_sync", num_samples=8, seed=3, signal={"duration_s": 0.02})
    hl.generate(config, out=folder / "los", progress=False)
    hl.generate(
        config.model_copy(update={"data_type": "feature_based", "seed": 4}), out=folder / "bare", progress=False
    )
    return folder


@pytest.fixture(scope="module")
def dataset(root):
    return store.open_dataset(root / "los").load()


@pytest.fixture
def viewer(root):
    return Features(root, dataset=str(root / "los"))


def test_a_link_is_a_receiver_with_signal(dataset):
    silent = dataset.signal_present.copy(data=dataset.signal_present.values)
    silent[2, 1] = False
    table = link_table.links(dataset.assign(signal_present=silent), "std")
    assert len(table) == table.attrs["links"] == int(silent.sum())
    name = str(dataset.receiver_name[1].values)
    assert table[(table["sample"] == 2) & (table.receiver == name)].empty
    row = table[(table["sample"] == 3) & (table.receiver == name)].iloc[0]
    stored = dataset.sel(sample=3).isel(receiver=1)
    assert row.bandwidth_hz == float(stored.features.sel(feature="bandwidth_hz", statistic="std"))
    assert row.true_frequency_offset_hz == pytest.approx(float(stored.frequency_offset + stored.doppler))
    assert row.true_bandwidth_hz == float(stored.occupied_bandwidth)
    assert (row.transmitter_latitude, row.waveform) == (float(stored.transmitter_latitude), str(stored.waveform.values))
    assert row.line_of_sight == "yes"


def test_many_links_are_thinned_evenly(dataset):
    every = link_table.links(dataset)
    some = link_table.links(dataset, most=10)
    assert some.attrs["links"] == len(every)
    kept = [
        every.index[(every[["sample", "receiver"]] == row).all(axis=1)][0]
        for row in some[["sample", "receiver"]].values
    ]
    assert len(kept) == 10
    assert max(np.diff(kept)) - min(np.diff(kept)) <= 1


def test_agreement_is_bias_and_spread():
    rng = np.random.Generator(np.random.Philox(1))
    truth = rng.uniform(0, 40, 20_000)
    table = pd.DataFrame({name: truth + 0.5 + 2 * rng.standard_normal(len(truth)) for name in link_table.FEATURE_TRUTH})
    table = table.assign(**{f"true_{name}": truth for name in link_table.FEATURE_TRUTH})
    table["true_snr_db"] = np.nan
    found = link_table.agreement(table).set_index("feature")
    assert found.bias["rssi_dbm"] == pytest.approx(0.5, abs=0.06)
    assert found.spread["rssi_dbm"] == pytest.approx(2, abs=0.06)
    assert found.links["snr_db"] == 0
    assert np.isnan(found.bias["snr_db"])


def test_refusals_name_what_is_wrong(dataset):
    with pytest.raises(ValueError, match=r"statistic: 'median' is unknown; choose one of mean, std"):
        link_table.links(dataset, "median")
    with pytest.raises(ValueError, match="features: are not in the dataset"):
        link_table.links(dataset.drop_vars("features"))
    with pytest.raises(ValueError, match="signal_present: is False on every link"):
        link_table.links(dataset.assign(signal_present=dataset.signal_present & False))
    with pytest.raises(ValueError, match="most: is 0; give at least 1 link"):
        link_table.links(dataset, most=0)
    with pytest.raises(ValueError, match="most: is 0; keep at least 1 scene"):
        splits.evenly_spaced(dataset, 0)


def test_spread_keeps_scenes_from_all_over(dataset):
    assert splits.evenly_spaced(dataset, 4).sample.values.tolist() == [0, 2, 4, 6]
    assert splits.evenly_spaced(dataset, 99) is dataset


def test_histograms_count_selected_links(dataset):
    table = link_table.links(dataset)
    rows = plots.link_rows(table)
    strong = np.flatnonzero(table.snr_db > table.snr_db.median())
    rows.selected.indices = strong.tolist()
    (picture,) = plots.link_histograms(rows, ["snr_db"], (200, 200))
    bins = picture.renderers[0].data_source.data
    assert bins["all"].sum() == len(table)
    assert bins["selected"].sum() == len(strong)
    assert bins["selected"][bins["right"] < table.snr_db.median()].sum() == 0


def test_colours_of_the_key_are_those_of_the_points(dataset):
    table = link_table.links(dataset).assign(line_of_sight="no")
    table.loc[0, "line_of_sight"] = "yes"
    rows = plots.link_rows(table)
    key = plots.link_colours(table, "line_of_sight")
    assert rows.data["colour_by_line_of_sight"].tolist() == [key["yes"], *[key["no"]] * (len(table) - 1)]
    with pytest.raises(ValueError, match="colour_by: 'gdop' is unknown; choose one of waveform"):
        plots.link_colours(table, "gdop")


def test_a_selection_in_any_picture_is_one_of_links(viewer):
    figures = [pane.object for pane in (viewer._scatter, viewer._map, *viewer._truths.values())]
    sources = {figure.select_one({"name": "links"}).data_source.id for figure in figures}
    assert sources == {viewer._source.id}
    of_scene = np.flatnonzero(viewer.table["sample"] == 2).tolist()
    viewer._source.selected.indices = of_scene
    assert viewer.selected == of_scene
    assert viewer._selection_text.object == f"**{len(of_scene)}** of {len(viewer.table)} links, of **1** scenes"
    viewer._select([])
    assert viewer.selected == []
    assert viewer._selection_text.object.startswith("Nothing is selected")
    assert viewer._clear.disabled


def test_a_new_colour_keeps_the_figure_and_its_zoom(viewer):
    before = viewer._scatter.object
    before.x_range.start = -3.0
    viewer.colour_by = "snr"
    assert viewer._scatter.object is before
    assert before.x_range.start == -3.0
    points = before.select_one({"name": "links"})
    assert points.glyph.fill_color == points.selection_glyph.fill_color == "colour_by_snr"


def test_other_features_keep_the_selection(viewer):
    viewer._source.selected.indices = [1, 2]
    viewer.x = "rssi_dbm"
    viewer.histograms = ["snr_db"]
    assert viewer._scatter.object.xaxis.axis_label == "RSSI, dBm"
    assert [pane.object is None for pane in viewer._histograms] == [False, True, True]
    assert viewer.selected == [1, 2]


def test_agreement_says_what_is_not_known(viewer, dataset):
    unknown = dataset.assign(snr=dataset.snr * np.nan)
    viewer._show_dataset((link_table.common_receivers(unknown), link_table.links(unknown)))
    assert "<b>SNR</b>: the truth is not known" in viewer._agreement.object
    assert "<b>RSSI</b>: 0.0" in viewer._agreement.object


def test_a_dataset_switched_meanwhile_is_the_one_that_is_drawn(root, viewer, monkeypatch):
    read, late = features._read_links, threading.Event()

    def slow(folder, statistic):
        if folder.name == "los":
            late.wait(20)
            raise ValueError("los: is refused")
        return read(folder, statistic)

    monkeypatch.setattr(features, "_read_links", slow)

    async def steps():
        first = asyncio.ensure_future(viewer.load())
        await asyncio.sleep(0)
        with param.parameterized.discard_events(viewer):
            viewer.dataset = str(root / "bare")
        await viewer.load()
        late.set()
        await first

    asyncio.new_event_loop().run_until_complete(steps())
    expected = link_table.links(store.open_dataset(root / "bare"))
    assert viewer.table.snr_db.tolist() == expected.snr_db.tolist()
    assert not viewer._loading_area.loading
    assert not viewer._alert.visible


def test_a_page_without_datasets_works_as_soon_as_there_is_one(root, tmp_path):
    wait = asyncio.new_event_loop().run_until_complete
    viewer = Features(tmp_path)
    shutil.copytree(root / "los", tmp_path / "los")
    time.sleep(0.6)

    async def steps():
        await viewer.refresh()
        for _ in range(200):
            await asyncio.sleep(0.05)
            if viewer.table is not None:
                break

    wait(steps())
    assert viewer.dataset == str(tmp_path / "los")
    assert not viewer._alert.visible
    table = viewer.table
    assert len(table) > 0
    wait(viewer.refresh())
    assert viewer.table is table


def test_a_page_reads_the_requested_dataset_once(root, tmp_path, monkeypatch):
    read, folders = features._read_links, []
    monkeypatch.setattr(
        features, "_read_links", lambda folder, *rest: folders.append(folder.name) or read(folder, *rest)
    )
    monkeypatch.setattr(type(pn.state), "location", SimpleNamespace(query_params={"dataset": "los"}))
    shown = []
    monkeypatch.setattr(Features, "_show_dataset", lambda viewer, _: shown.append(viewer.dataset))
    viewer = Features(tmp_path)
    viewer.root = root

    async def steps():
        await viewer.refresh()
        while viewer._loading_area.loading or not shown:
            await asyncio.sleep(0.05)
        await asyncio.gather(viewer.load(), viewer.load())

    asyncio.new_event_loop().run_until_complete(steps())
    assert (folders, shown) == (["los"] * 3, [str(root / "los")] * 2)


def test_only_complete_datasets_are_offered(root, tmp_path, monkeypatch):
    assert sorted(complete_datasets(root)) == ["bare", "los"]
    with pytest.raises(ValueError, match="holds no complete one; generate a dataset first"):
        complete_datasets(tmp_path)
    assert "generate a dataset first" in Features(tmp_path)._alert.object
    folders = complete_datasets(root)
    assert requested_dataset(folders) == folders["bare"]
    for requested, expected in (("los", folders["los"]), ("gone", None)):
        location = SimpleNamespace(query_params={"dataset": requested})
        monkeypatch.setattr(type(pn.state), "location", location)
        if expected:
            assert requested_dataset(folders) == expected
        else:
            with pytest.raises(ValueError, match="dataset: 'gone' is not a complete one; choose one of bare, los"):
                requested_dataset(folders)
