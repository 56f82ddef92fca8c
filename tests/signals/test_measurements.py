"""Measurements beside the shards: made once, those of the IQ that is there, whoever ends or damages what."""

import logging
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import netCDF4
import numpy as np
import psutil
import pytest
import xarray as xr

import heimdall_lab as hl
from heimdall_lab.cli import datasets as commands
from heimdall_lab.core import files
from heimdall_lab.core.files import StoreError
from heimdall_lab.datasets import measured, netcdf, schema, store
from heimdall_lab.datasets.manifest import read_manifest, write_manifest
from heimdall_lab.learning.sources import open_source
from heimdall_lab.signals import measurements, pairs
from heimdall_lab.signals.measurements import measure_folder, with_measurements

FILES = ["measured-00000.nc", "measured-00001.nc", "measured-00002.nc"]


@pytest.fixture(scope="module")
def expected(small_dataset):
    """What is measured of its signals, a shard at a time: last bits depend on what is measured together."""
    shards = [small_dataset.isel(sample=slice(first, first + 4)) for first in (0, 4, 8)]
    return xr.concat([pairs.pair_features(each) for each in shards], "sample", data_vars="minimal")


@pytest.fixture(scope="module")
def measured_whole(whole, tmp_path_factory):
    """A copy of the shared folder, with measurements; do not change it."""
    out = shutil.copytree(whole, tmp_path_factory.mktemp("measured") / "out")
    measure_folder(out)
    return out


@pytest.fixture
def measured_folder(measured_whole, tmp_path):
    """A copy of that."""
    return shutil.copytree(measured_whole, tmp_path / "out")


def kept(folder):
    return sorted(path.name for path in folder.iterdir() if "measured" in path.name)


def assert_measured(dataset, expected):
    for name in schema.MEASURED:
        np.testing.assert_array_equal(dataset[name], expected[name], err_msg=name)


@pytest.fixture
def never_again(monkeypatch):
    """Call it, and nothing is measured any more."""

    def measure(*_):
        raise AssertionError("measured once more")

    return lambda: monkeypatch.setattr(pairs, "pair_features", measure)


def test_whoever_needs_them_first_makes_them_and_others_read_them(folder, expected, never_again, capfd):
    dataset = hl.open_dataset(folder)
    assert "tdoa_s" not in dataset
    fixes = hl.locate(dataset, "tdoa_ls")
    assert kept(folder) == FILES
    assert "measure los_sync: 12/12 scenes measured" in capfd.readouterr().err
    never_again()
    assert hl.locate(dataset, "tdoa_ls").identical(fixes)  # which was opened before there were any
    again = hl.open_dataset(folder)
    assert_measured(again, expected)
    assert again.attrs["measurement"] == schema.measurement({})
    assert hl.locate(again, "tdoa_ls").identical(fixes)
    assert capfd.readouterr().err == ""


@pytest.mark.slow
def test_the_leaderboard_is_the_same_from_memory_and_from_a_folder(folder, small_dataset):
    boards = [hl.compare(each, ["tdoa_ls", "rss_ml"]) for each in (small_dataset, hl.open_dataset(folder))]
    xr.testing.assert_allclose(*(board.drop_vars("latency") for board in boards), rtol=1e-3)
    assert (boards[1].latency > 0).all()


def test_scenes_of_one_shard_measure_that_shard(folder, expected):
    scenes = hl.open_dataset(folder).isel(sample=[6, 5])
    assert_measured(with_measurements(scenes), expected.isel(sample=[6, 5]))
    assert kept(folder) == FILES[1:2]


def test_changed_signals_are_measured_anew_and_what_others_set_stays(measured_folder, expected, small_dataset):
    dataset = hl.open_dataset(measured_folder)
    weaker = dataset.assign(iq=dataset.iq // 4)
    for each in (weaker, weaker.load(), with_measurements(dataset).assign(iq=weaker.iq)):
        level_db = with_measurements(each).rssi_dbm - expected.rssi_dbm
        assert np.nanmax(np.abs(level_db + 20 * np.log10(4))) < 0.5
    fewer = dataset.isel(receiver=[1, 2, 4, 5, 6])
    anew = pairs.pair_features(small_dataset.isel(receiver=[1, 2, 4, 5, 6]))
    xr.testing.assert_allclose(with_measurements(fewer)[[*schema.MEASURED, *schema.MEASURED_BESIDE]], anew, rtol=1e-4)
    shifted = dataset.assign(tdoa_s=dataset.tdoa_s + 1e-6)
    assert with_measurements(shifted).tdoa_s.equals(shifted.tdoa_s)
    turned = dataset.assign(iq=dataset.iq.copy(data=dataset.iq.data[..., ::-1]))
    assert not np.allclose(with_measurements(turned).fdoa_hz, expected.fdoa_hz, equal_nan=True)
    closer = dataset.assign_attrs(min_snr_db=99.0)
    assert not with_measurements(closer).heard.any()


@pytest.fixture(scope="module")
def another(small, tmp_path_factory):
    """Another folder of that shape, without measurements; do not change it."""
    out = tmp_path_factory.mktemp("another") / "out"
    hl.generate(small.model_copy(update={"seed": 8}), out, progress=False)
    return out


@pytest.fixture(scope="module")
def mixed_truth(whole, another):
    """What is measured in memory of scenes of the one with the IQ of the other."""
    return pairs.pair_features(hl.open_dataset(whole).assign(iq=hl.open_dataset(another).iq).load())


@pytest.mark.parametrize("of_both", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.slow
def test_signals_of_another_folder_are_measured_as_they_are(folder, another, mixed_truth, tmp_path, of_both):
    other = shutil.copytree(another, tmp_path / "other")
    for path, measured_before in zip((folder, other), of_both, strict=True):
        if measured_before:
            measure_folder(path)
    first, second = hl.open_dataset(folder), hl.open_dataset(other)
    mixed = with_measurements(first.assign(iq=second.iq))
    xr.testing.assert_allclose(mixed[[*schema.MEASURED, *schema.MEASURED_BESIDE]], mixed_truth, rtol=1e-4)
    both = xr.concat([first, second], "sample", data_vars="all", join="override", combine_attrs="override")
    fixes = hl.locate(both, "tdoa_ls")
    apart = xr.concat([hl.locate(each, "tdoa_ls") for each in (first, second)], "sample")
    np.testing.assert_allclose(fixes.latitude, apart.latitude, atol=1e-6)


@pytest.mark.parametrize(
    "relabel",
    [
        lambda dataset: dataset.assign_coords(receiver=[f"station {number}" for number in dataset["receiver"].values]),
        lambda dataset: dataset.assign_coords(receiver=dataset["receiver"] + 1),
        lambda dataset: dataset.assign_coords(sample=[f"scene {number}" for number in dataset["sample"].values]),
        lambda dataset: dataset.assign_coords(sample=dataset["sample"] + 100),
        lambda dataset: dataset.assign_coords(sample=dataset["sample"].values[::-1]),
        lambda dataset: dataset.assign_coords(sample=dataset["sample"] + 0.5),
        lambda dataset: dataset.drop_vars(["sample", "receiver"]),
        lambda dataset: dataset.chunk(sample=5),
        lambda dataset: dataset.load(),
        lambda dataset: pickle.loads(pickle.dumps(dataset)),
    ],
    ids=["names", "from 1", "text", "others", "turned", "halves", "none", "chunks", "in memory", "another process"],
)
@pytest.mark.parametrize("given", ["folder", "measured_folder"])
def test_labels_and_blocks_change_no_measurement(request, expected, relabel, given):
    dataset = relabel(hl.open_dataset(request.getfixturevalue(given)))
    found = with_measurements(dataset)
    for name in schema.MEASURED:
        np.testing.assert_allclose(found[name].values, expected[name].values, rtol=1e-4, err_msg=name)
        assert found[name].dtype == expected[name].dtype
    assert len(hl.locate(dataset, "tdoa_ls").sample) == 12


@pytest.mark.parametrize("writable", [True, False])
def test_scenes_may_be_drawn_again_and_again(folder, expected, monkeypatch, writable):
    if not writable:
        refuse_to_write(monkeypatch, PermissionError(13, "Permission denied"))
    rows = [5, 5, 1, 11]
    found = with_measurements(hl.open_dataset(folder).isel(sample=rows))
    xr.testing.assert_allclose(
        found[[*schema.MEASURED, *schema.MEASURED_BESIDE]], expected.isel(sample=rows), rtol=1e-4
    )


@pytest.mark.slow
def test_a_folder_is_found_by_whatever_path(measured_folder, expected, monkeypatch, tmp_path, capsys):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(measured_folder)
    monkeypatch.chdir(tmp_path)
    for path in ("out", "./out/", "elsewhere/../out", "link"):
        assert_measured(hl.open_dataset(path), expected)
        assert_measured(with_measurements(hl.open_dataset(path)), expected)
    commands.measure(Path("out"))
    assert capsys.readouterr().out == "out: 0 of 12 scenes measured now, the others before\n"


def test_other_attributes_measure_nothing_for_the_folder(folder):
    with_measurements(hl.open_dataset(folder).assign_attrs(min_snr_db=5.0))
    assert kept(folder) == []


@pytest.mark.slow
def test_iq_is_read_once_for_each_question(measured_folder, monkeypatch):
    digests, hashed = measurements._iq_digests, []
    monkeypatch.setattr(measurements, "_iq_digests", lambda dataset: hashed.append(1) or digests(dataset))
    model = hl.pretrained()["tdoa_unrolled_los_sync"]
    hl.compare(hl.open_dataset(measured_folder), ["tdoa_ls", model])
    assert len(hashed) == 0
    hl.compare(hl.open_dataset(measured_folder).isel(sample=[1, 5, 9]), ["tdoa_ls", "rss_ml", model])
    assert len(hashed) == 1


def test_measuring_in_memory_tells_how_far_it_is_and_can_be_ended(small_dataset, monkeypatch):
    monkeypatch.setattr(pairs, "_BATCH_IQ_SAMPLES", 1)
    told = []
    with_measurements(small_dataset, lambda *report: told.append(report))
    assert told == [(done, "scenes measured") for done in range(1, 13)]

    def end(done, _note):
        if done == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        with_measurements(small_dataset, end)


@pytest.mark.slow
def test_training_is_the_same_before_and_after_measuring(folder):
    def sources():
        dataset = hl.open_dataset(folder)
        few = dataset.isel(sample=slice(6))
        return [open_source(each) for each in (dataset, few, few.load(), with_measurements(dataset))]

    before = sources()
    assert [each.folder for each in before] == [folder, None, None, folder]
    assert before[1].checksum == before[2].checksum
    measure_folder(folder)
    assert [(each.folder, each.checksum) for each in sources()] == [(each.folder, each.checksum) for each in before]
    dataset = hl.open_dataset(folder)
    shifted = open_source(dataset.assign(tdoa_s=dataset.tdoa_s + 1e-6))
    assert shifted.folder is None


def let_a_later_measurer_be(monkeypatch):
    later = schema.measurement({}) + 1
    monkeypatch.setattr(schema, "measurement", lambda _: later)


def test_those_of_an_earlier_measurer_are_made_anew_where_the_iq_is_kept(folder, expected, monkeypatch, caplog):
    in_memory = with_measurements(hl.open_dataset(folder)).load()
    let_a_later_measurer_be(monkeypatch)
    dataset = hl.open_dataset(folder)
    assert "tdoa_s" not in dataset
    dataset = with_measurements(dataset)
    assert "by an earlier version: made anew" in caplog.text
    assert dataset.attrs["measurement"] == schema.measurement({})
    assert {netcdf.load(folder / name).attrs["measurement"] for name in FILES} == {schema.measurement({})}
    assert_measured(dataset, expected)
    caplog.clear()
    assert_measured(with_measurements(in_memory), expected)
    now = schema.measurement({})
    assert f"measured by an earlier measurer ({now - 1}, this is {now}): made anew" in caplog.text


def test_those_of_an_earlier_measurer_are_used_and_said_where_the_iq_is_not_kept(small, tmp_path, monkeypatch, caplog):
    config = small.model_copy(update={"data_type": "feature_based"})
    dataset = hl.generate(config, tmp_path / "out", progress=False)
    with caplog.at_level(logging.WARNING):
        fixes = hl.locate(dataset, "tdoa_ls")
        assert caplog.text == ""
        let_a_later_measurer_be(monkeypatch)
        assert hl.locate(dataset, "tdoa_ls").identical(fixes)
        now = schema.measurement({})
        assert caplog.text.count(f"measured by an earlier measurer ({now - 1}, this is {now}): used as stored") == 1
        hl.compare(dataset, ["tdoa_ls", "rss_ml", hl.pretrained()["triangulation_websdr"]])
    assert caplog.text.count("used as stored") == 2
    assert kept(tmp_path / "out") == []


def refuse_to_write(monkeypatch, error, after=0):
    """Let files beside shards fail to be written, from a number on."""
    count = 0

    def write(path, function, *words):
        nonlocal count
        count += 1
        if count > after:
            raise files.unwritable_error(path.parent, error)
        files.write_atomically(path, function, *words)

    monkeypatch.setattr(measured, "write_atomically", write)


@pytest.mark.parametrize("error", [OSError(30, "Read-only file system"), PermissionError(13, "Permission denied")])
def test_a_folder_that_cannot_be_written_is_measured_in_memory(folder, expected, monkeypatch, caplog, error):
    refuse_to_write(monkeypatch, error)
    found = with_measurements(hl.open_dataset(folder))[[*schema.MEASURED, *schema.MEASURED_BESIDE]]
    xr.testing.assert_allclose(found, expected, rtol=1e-4)
    assert kept(folder) == []
    assert "measured in memory, and not kept" in caplog.text
    with pytest.raises(StoreError, match=rf"cannot write to .*{error.strerror}"):
        measure_folder(folder)


def test_a_folder_without_permission_to_write_is_measured_in_memory(folder, expected, monkeypatch):
    monkeypatch.setattr(os, "access", lambda _, mode: mode != os.W_OK)
    found = with_measurements(hl.open_dataset(folder))[[*schema.MEASURED, *schema.MEASURED_BESIDE]]
    xr.testing.assert_allclose(found, expected, rtol=1e-4)
    assert kept(folder) == []


def test_on_a_full_disk_what_is_finished_stays(folder, expected, monkeypatch):
    refuse_to_write(monkeypatch, OSError(28, "No space left on device"), after=1)
    with pytest.raises(StoreError, match="No space left on device"):
        measure_folder(folder)
    assert kept(folder) == FILES[:1]
    monkeypatch.undo()
    assert measure_folder(folder) == 8
    assert_measured(hl.open_dataset(folder), expected)


def cut(path):
    path.write_bytes(path.read_bytes()[:5000])


def empty(path):
    path.write_bytes(b"")


def without_a_variable(path):
    netcdf.write_netcdf(netcdf.load(path).drop_vars("fdoa_hz"), path)


def of_another_shard(path):
    shutil.copy(path.with_name(FILES[0]), path)


@pytest.mark.parametrize("damage", [cut, empty, without_a_variable, of_another_shard])
def test_damaged_ones_are_made_anew(measured_folder, expected, damage):
    damage(measured_folder / FILES[1])
    assert "tdoa_s" not in hl.open_dataset(measured_folder)
    assert measure_folder(measured_folder) == 4
    assert_measured(hl.open_dataset(measured_folder), expected)


def test_a_damaged_shard_is_named(folder):
    (folder / "shard-00001.nc").write_bytes(b"")
    with pytest.raises(StoreError, match=r"shard-00001\.nc: has 0 bytes .*run the same 'generate' command"):
        measure_folder(folder)
    assert kept(folder) == FILES[:1]


@pytest.mark.slow
def test_threads_that_need_them_at_once_measure_once(folder, expected, monkeypatch):
    calls = []
    measure = pairs.pair_features
    monkeypatch.setattr(pairs, "pair_features", lambda *arguments: calls.append(1) or measure(*arguments))
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(with_measurements(hl.open_dataset(folder)))) for _ in range(4)
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(found) == 4
    for each in found:
        assert_measured(each, expected)
    assert len(calls) == 3


MEASURE = """
import sys
from heimdall_lab.signals.measurements import measure_folder
print(measure_folder(sys.argv[1], workers=int(sys.argv[2])))
"""


@pytest.mark.slow
def test_processes_that_need_them_at_once_measure_once(folder, expected):
    command = [sys.executable, "-c", MEASURE, folder, "1"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert sorted(int(each.communicate()[0]) for each in both) == [0, 12]
    assert_measured(hl.open_dataset(folder), expected)


KILL_WHILE_MEASURING = """
import os, pathlib, random, signal, sys, time
from heimdall_lab.signals.measurements import measure_folder

folder, spare = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
os.environ["OMP_NUM_THREADS"] = "1"
measure_folder(spare)  # so that no child waits for compilers
before = time.monotonic()
for path in spare.glob("measured-*"):
    path.unlink()
measure_folder(spare)
longest_s = time.monotonic() - before
moments, killed = random.Random(5), 0
for _ in range(12):
    child = os.fork()
    if child == 0:
        measure_folder(folder)
        os._exit(0)
    time.sleep(moments.uniform(0, longest_s))
    os.kill(child, signal.SIGKILL)
    killed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
    for path in list(folder.glob("measured-*"))[1:]:
        path.unlink()
print(killed)
"""


@pytest.mark.slow
def test_kills_leave_nothing_that_is_wrong(folder, whole, tmp_path, expected):
    spare = shutil.copytree(whole, tmp_path / "spare")
    command = [sys.executable, "-c", KILL_WHILE_MEASURING, folder, spare]
    killed = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    assert int(killed.stdout) > 2
    measure_folder(folder)
    assert kept(folder) == FILES
    assert_measured(hl.open_dataset(folder), expected)
    assert set(store.verify(folder).state) == {"ok"}


@pytest.fixture(scope="module")
def hundred(small, tmp_path_factory):
    """A dataset in a hundred shards, which take some seconds to measure; do not change it."""
    out = tmp_path_factory.mktemp("hundred") / "out"
    hl.generate(small.model_copy(update={"num_samples": 400}), out, progress=False)
    return out


@pytest.fixture
def many(hundred, tmp_path):
    """A copy of it."""
    return shutil.copytree(hundred, tmp_path / "out")


def wait_for_file(path, process):
    while not path.exists():
        time.sleep(0.01)
        assert process.poll() is None


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_ctrl_c_keeps_what_is_finished(many, workers):
    command = [sys.executable, "-m", "heimdall_lab.cli", "measure", many, "--workers", workers]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_for_file(many / FILES[2], process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    assert "what is finished is kept" in process.communicate()[1]
    assert process.returncode == 130
    assert FILES[2] in kept(many)
    assert len(kept(many)) < 100
    assert [name for name in kept(many) if name.startswith(".")] == []


@pytest.mark.slow
def test_workers_measure_the_same(folder, expected):
    assert measure_folder(folder, workers=2) == 12
    assert kept(folder) == FILES
    assert_measured(hl.open_dataset(folder), expected)


@pytest.mark.slow
def test_a_lost_worker_is_told_and_the_same_command_goes_on(many):
    command = [sys.executable, "-m", "heimdall_lab.cli", "measure", many, "--workers", "2"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_for_file(many / FILES[2], process)
    workers = [each for each in psutil.Process(process.pid).children() if "spawn_main" in " ".join(each.cmdline())]
    assert len(workers) == 2
    workers[0].kill()
    assert "workers: one ended before its shard was measured" in process.communicate()[1]
    assert process.returncode == 1
    assert len(kept(many)) < 100
    assert measure_folder(many) > 0
    assert "tdoa_s" in hl.open_dataset(many)


@pytest.mark.slow
def test_scripts_without_a_main_guard_start_workers_once(folder, tmp_path):
    (tmp_path / "script.py").write_text(MEASURE)
    done = subprocess.run([sys.executable, "script.py", folder, "2"], cwd=tmp_path, capture_output=True, check=True)
    assert done.stdout == b"12\n"


@pytest.mark.slow
def test_the_command_measures_once_and_says_so(folder, small, tmp_path, capsys):
    for count in (12, 0):
        commands.measure(folder)
        assert f"{count} of 12 scenes measured now, the others before" in capsys.readouterr().out
    hl.generate(small.model_copy(update={"data_type": "feature_based"}), tmp_path / "features", progress=False)
    commands.measure(tmp_path / "features")
    assert "was measured when it was generated" in capsys.readouterr().out
    with pytest.raises(ValueError, match="workers: 0 is refused"):
        measure_folder(folder, workers=0)


def test_they_go_with_their_dataset_and_change_nothing_of_it(folder, whole, small):
    before = {path.name: path.read_bytes() for path in whole.iterdir()}
    measure_folder(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name in before} == before
    hl.generate(small, folder, progress=False)
    assert kept(folder) == FILES
    store.delete(folder)
    assert not folder.exists()


@pytest.mark.slow
def test_a_dataset_of_format_1_is_opened_with_the_names_of_today(small, tmp_path):
    config = small.model_copy(update={"data_type": "feature_based"})
    with hl.generate(config, tmp_path / "out", progress=False) as dataset:
        expected = dataset.load()
    text = (tmp_path / "out" / "dataset.json").read_text()
    assert '"format": 2' in text
    (tmp_path / "out" / "dataset.json").write_text(text.replace('"format": 2,', ""))
    for path in (tmp_path / "out").glob("shard-*.nc"):
        with netCDF4.Dataset(path, "a") as file:
            file.renameVariable("reference_receiver", "reference")
            file.delncattr("measurement")
    _accept_sizes(tmp_path / "out")
    found = hl.open_dataset(tmp_path / "out").load()
    assert found.identical(expected.assign_attrs(measurement=1))  # that of format 1
    assert hl.locate(found, "tdoa_ls").identical(hl.locate(expected, "tdoa_ls"))


def _accept_sizes(folder):
    """Give a manifest the sizes that its shards have."""
    manifest = read_manifest(folder)
    assert manifest.format == 1
    shards = [each.model_copy(update={"num_bytes": (folder / each.file).stat().st_size}) for each in manifest.shards]
    write_manifest(folder, manifest.model_copy(update={"shards": tuple(shards)}))
