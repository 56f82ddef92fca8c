"""Measurements beside the shards: made once, those of the IQ that is there, whoever ends or damages what."""

import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import netCDF4
import numpy as np
import psutil
import pytest
import xarray as xr

import heimdall_lab as hl
from heimdall_lab.core import files
from heimdall_lab.core.files import StoreError
from heimdall_lab.datasets import measured, netcdf, schema, store
from heimdall_lab.datasets.manifest import read_manifest, write_manifest
from heimdall_lab.signals import pairs
from heimdall_lab.signals.measurements import measure_folder, with_measurements

FILES = ["measured-00000.nc", "measured-00001.nc", "measured-00002.nc"]


@pytest.fixture(scope="module")
def whole(small, tmp_path_factory):
    """A dataset in three shards of four scenes, without measurements; do not change it."""
    out = tmp_path_factory.mktemp("whole") / "out"
    hl.generate(small, out, progress=False)
    return out


@pytest.fixture
def folder(whole, tmp_path):
    """A copy of it."""
    return shutil.copytree(whole, tmp_path / "out")


@pytest.fixture(scope="module")
def expected(small_dataset):
    """What is measured of its signals, a shard at a time: last bits depend on what is measured together."""
    shards = [small_dataset.isel(sample=slice(first, first + 4)) for first in (0, 4, 8)]
    return xr.concat([pairs.pair_features(each) for each in shards], "sample", data_vars="minimal")


def kept(folder):
    return sorted(path.name for path in folder.iterdir() if "measured" in path.name)


def assert_measured(dataset, expected):
    for name in schema.MEASURED:
        np.testing.assert_array_equal(dataset[name], expected[name], err_msg=name)


@pytest.fixture
def never_again(monkeypatch):
    """Call it, and nothing is measured any more."""

    def measure(_dataset):
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
    assert again.attrs["measurement"] == schema.MEASUREMENT
    assert hl.locate(again, "tdoa_ls").identical(fixes)
    assert capfd.readouterr().err == ""


def test_the_leaderboard_is_the_same_from_memory_and_from_a_folder(folder, small_dataset):
    boards = [hl.compare(each, ["tdoa_ls", "rss_ml"]) for each in (small_dataset, hl.open_dataset(folder))]
    xr.testing.assert_allclose(*(board.drop_vars("latency") for board in boards), rtol=1e-3)
    assert (boards[1].latency > 0).all()


def test_scenes_of_one_shard_measure_that_shard(folder, expected):
    scenes = hl.open_dataset(folder).isel(sample=[6, 5])
    assert_measured(with_measurements(scenes), expected.isel(sample=[6, 5]))
    assert kept(folder) == FILES[1:2]


def test_changed_signals_are_measured_anew_and_what_others_set_stays(folder, expected, small_dataset):
    measure_folder(folder)
    dataset = hl.open_dataset(folder)
    weaker = dataset.assign(iq=dataset.iq // 4)
    for each in (weaker, weaker.load(), with_measurements(dataset).assign(iq=weaker.iq)):
        level_db = with_measurements(each).rssi_dbm - expected.rssi_dbm
        assert np.nanmax(np.abs(level_db + 20 * np.log10(4))) < 0.5
    fewer = dataset.isel(receiver=[1, 2, 4, 5, 6])
    anew = pairs.pair_features(small_dataset.isel(receiver=[1, 2, 4, 5, 6]))
    xr.testing.assert_allclose(with_measurements(fewer)[list(schema.MEASURED)], anew, rtol=1e-4)
    shifted = dataset.assign(tdoa_s=dataset.tdoa_s + 1e-6)
    assert with_measurements(shifted).tdoa_s.equals(shifted.tdoa_s)
    turned = dataset.assign(iq=dataset.iq.copy(data=dataset.iq.data[..., ::-1]))
    assert not np.allclose(with_measurements(turned).fdoa_hz, expected.fdoa_hz, equal_nan=True)
    closer = dataset.assign_attrs(min_snr_db=99.0)
    assert not with_measurements(closer).heard.any()


def test_those_of_an_earlier_measurer_are_made_anew_where_the_iq_is_kept(folder, expected, monkeypatch, capfd):
    measure_folder(folder)
    capfd.readouterr()
    monkeypatch.setattr(schema, "MEASUREMENT", schema.MEASUREMENT + 1)
    dataset = hl.open_dataset(folder)
    assert "tdoa_s" not in dataset
    dataset = with_measurements(dataset)
    assert "by an earlier version" in capfd.readouterr().err
    assert dataset.attrs["measurement"] == schema.MEASUREMENT
    assert {netcdf.load(folder / name).attrs["measurement"] for name in FILES} == {schema.MEASUREMENT}
    assert_measured(dataset, expected)


def test_those_of_an_earlier_measurer_are_used_and_said_where_the_iq_is_not_kept(small, tmp_path, monkeypatch, caplog):
    config = small.model_copy(update={"data_type": "feature_based"})
    dataset = hl.generate(config, tmp_path / "out", progress=False)
    with caplog.at_level(logging.WARNING):
        fixes = hl.locate(dataset, "tdoa_ls")
        assert caplog.text == ""
        monkeypatch.setattr(schema, "MEASUREMENT", schema.MEASUREMENT + 1)
        assert hl.locate(dataset, "tdoa_ls").identical(fixes)
    assert "measured by an earlier measurer (1, this is 2): used as stored" in caplog.text
    assert kept(tmp_path / "out") == []


def refuse_to_write(monkeypatch, error, after=0):
    """Let files beside shards fail to be written, from a number on."""
    count = 0

    def write(path, function):
        nonlocal count
        count += 1
        if count > after:
            raise error
        files.write_atomically(path, function)

    monkeypatch.setattr(measured, "write_atomically", write)


@pytest.mark.parametrize("error", [OSError(30, "Read-only file system"), PermissionError(13, "Permission denied")])
def test_a_folder_that_cannot_be_written_is_measured_in_memory(folder, expected, monkeypatch, caplog, error):
    refuse_to_write(monkeypatch, error)
    found = with_measurements(hl.open_dataset(folder))[list(schema.MEASURED)]
    xr.testing.assert_allclose(found, expected, rtol=1e-4)
    assert kept(folder) == []
    assert "measured in memory, and not kept" in caplog.text
    with pytest.raises(StoreError, match=rf"cannot write to .*{error.strerror}"):
        measure_folder(folder)


def test_a_folder_without_permission_to_write_is_measured_in_memory(folder, expected, monkeypatch):
    monkeypatch.setattr(os, "access", lambda _, mode: mode != os.W_OK)
    found = with_measurements(hl.open_dataset(folder))[list(schema.MEASURED)]
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
def test_damaged_ones_are_made_anew(folder, expected, damage):
    measure_folder(folder)
    damage(folder / FILES[1])
    assert "tdoa_s" not in hl.open_dataset(folder)
    assert measure_folder(folder) == 4
    assert_measured(hl.open_dataset(folder), expected)


def test_a_damaged_shard_is_named(folder):
    (folder / "shard-00001.nc").write_bytes(b"")
    with pytest.raises(StoreError, match=r"shard-00001\.nc: has 0 bytes .*run the same 'generate' command"):
        measure_folder(folder)
    assert kept(folder) == FILES[:1]


def test_threads_that_need_them_at_once_measure_once(folder, expected, monkeypatch):
    calls = []
    measure = pairs.pair_features
    monkeypatch.setattr(pairs, "pair_features", lambda dataset: calls.append(1) or measure(dataset))
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
moments = random.Random(5)
for _ in range(12):
    child = os.fork()
    if child == 0:
        measure_folder(folder)
        os._exit(0)
    time.sleep(moments.uniform(0, longest_s))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    for path in list(folder.glob("measured-*"))[1:]:
        path.unlink()
"""


def test_kills_leave_nothing_that_is_wrong(folder, whole, tmp_path, expected):
    spare = shutil.copytree(whole, tmp_path / "spare")
    subprocess.run([sys.executable, "-c", KILL_WHILE_MEASURING, folder, spare], check=True, capture_output=True)
    for name in kept(folder):
        assert name in FILES or name == measured.LOCK or measured.FILE.fullmatch(name)
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


@pytest.mark.parametrize("workers", ["1", "2"])
def test_ctrl_c_keeps_what_is_finished(many, workers):
    command = [sys.executable, "-m", "heimdall_lab.cli", "measure", many, "--workers", workers]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_for_file(many / FILES[2], process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    assert "what is finished is kept" in process.communicate()[1]
    assert process.returncode == 130
    assert 3 <= len([name for name in kept(many) if name.startswith("measured")]) < 100
    assert [name for name in kept(many) if name.startswith(".")] == []


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


def test_scripts_without_a_main_guard_start_workers_once(folder, tmp_path):
    (tmp_path / "script.py").write_text(MEASURE)
    done = subprocess.run([sys.executable, "script.py", folder, "2"], cwd=tmp_path, capture_output=True, check=True)
    assert done.stdout == b"12\n"


def test_the_command_measures_once_and_says_so(folder, small, tmp_path, capfd):
    command = [sys.executable, "-m", "heimdall_lab.cli", "measure"]
    for count in (12, 0):
        subprocess.run([*command, folder], check=True)
        assert f"{count} of 12 scenes measured now, the others were" in capfd.readouterr().out
    hl.generate(small.model_copy(update={"data_type": "feature_based"}), tmp_path / "features", progress=False)
    subprocess.run([*command, tmp_path / "features"], check=True)
    assert "was measured when it was generated" in capfd.readouterr().out
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
    assert found.identical(expected)
    assert hl.locate(found, "tdoa_ls").identical(hl.locate(expected, "tdoa_ls"))


def _accept_sizes(folder):
    """Give a manifest the sizes that its shards have."""
    manifest = read_manifest(folder)
    assert manifest.format == 1
    shards = [each.model_copy(update={"num_bytes": (folder / each.file).stat().st_size}) for each in manifest.shards]
    write_manifest(folder, manifest.model_copy(update={"shards": tuple(shards)}))
