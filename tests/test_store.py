import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import heimdall_lab as hl
from heimdall_lab import schema, store


@pytest.fixture(scope="module")
def folder(small, tmp_path_factory):
    out = tmp_path_factory.mktemp("datasets") / "small"
    hl.generate(small, out, progress=False)
    return out


def contents(folder):
    """What each file holds: its bytes if they are few, else their checksum."""
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    return {name: data if len(data) < 100 else hashlib.sha256(data).hexdigest() for name, data in files.items()}


def test_plain_xarray_reads_every_variable_of_the_contract(folder, small_dataset):
    with xr.open_mfdataset(str(folder / "*.nc")) as dataset:
        assert set(schema.VARIABLES) <= set(dataset.data_vars)
        for name, variable in schema.VARIABLES.items():
            assert dataset[name].dims == variable.dims
            assert dataset[name].attrs.get("units", "") == variable.units
            assert dataset[name].attrs["long_name"]
        assert dataset.iq.dtype == np.int16
        assert dataset.attrs["Conventions"].startswith("CF-")
        assert json.loads(dataset.attrs["config"])["signal"]["duration_s"] == 0.02
        assert json.loads(dataset.attrs["seed"]) == 3
        xr.testing.assert_identical(dataset.load(), small_dataset)


def test_open_dataset_is_lazy_and_equal_to_what_was_made_in_memory(folder, small_dataset):
    dataset = hl.open_dataset(folder)
    assert dataset.iq.chunks is not None
    xr.testing.assert_identical(dataset.load(), small_dataset)


@pytest.fixture(scope="module")
def sixty_four():
    """Scenes of every kind of waveform, more than fill one batch, and their dataset in one shard."""
    mix = {"voice_ratio": 0.25, "tone_ratio": 0.25, "dual_tone_ratio": 0.25, "noise_ratio": 0.25}
    config = hl.preset("los_sync", num_samples=64, seed=7, max_receivers=8, signal={"duration_s": 0.1, **mix})
    dataset = hl.generate(config, progress=False)
    assert set(dataset.waveform.values) == {"voice", "tone", "dual_tone", "noise"}
    return config, dataset


@pytest.mark.parametrize(("shard_size", "workers"), [(7, 1), (64, 1), (7, 2)])
def test_result_does_not_depend_on_shard_size_or_workers(sixty_four, tmp_path, shard_size, workers):
    config, dataset = sixty_four
    config = config.model_copy(update={"shard_size": shard_size})
    made = hl.generate(config, tmp_path / "out", progress=False, workers=workers).load()
    for name in dataset.variables:
        np.testing.assert_array_equal(made[name].values, dataset[name].values, err_msg=name)


def test_result_does_not_depend_on_batches(small, small_dataset, monkeypatch):
    monkeypatch.setattr(sys.modules["heimdall_lab.synthesis"], "_BATCH_IQ_SAMPLES", 3 * 7 * 1000)
    xr.testing.assert_identical(hl.generate(small, progress=False), small_dataset)


def test_another_seed_gives_another_dataset(small, small_dataset):
    other = hl.generate(small.model_copy(update={"seed": 4}), progress=False)
    assert not np.array_equal(other.iq, small_dataset.iq)
    assert not np.isin(other.transmitter_latitude, small_dataset.transmitter_latitude).any()


def children(pid):
    """Process numbers of a process's children."""
    return [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_generation_resumes_to_identical_bytes(tmp_path, workers):
    command = [sys.executable, "-m", "heimdall_lab.cli", "generate", "--preset", "los_sync", "--num-samples", "120"]
    command += ["--shard-size", "2", "--set", "signal.duration_s=0.05", "--workers", str(workers)]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run([*command, "--out", str(whole)], check=True, capture_output=True)
    process = subprocess.Popen([*command, "--out", str(killed)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list(killed.glob("*.nc"))) < 5 and time.monotonic() < deadline:
        time.sleep(0.002)
    started = children(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(started) == (0 if workers == 1 else workers + 1)  # the workers and multiprocessing's resource tracker
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{child}").exists() for child in started) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert [child for child in started if Path(f"/proc/{child}").exists()] == []
    assert 5 <= len(list(killed.glob("shard-*.nc"))) < 60
    with pytest.raises(store.StoreError, match=r"unfinished.*run the same 'generate' command"):
        hl.open_dataset(killed)
    subprocess.run([*command, "--out", str(killed)], check=True, capture_output=True)
    assert contents(killed) == contents(whole)


def test_a_worker_that_dies_is_explained_and_nothing_is_lost(tmp_path):
    command = [sys.executable, "-m", "heimdall_lab.cli", "generate", "--preset", "los_sync", "--num-samples", "120"]
    command += ["--shard-size", "2", "--workers", "2", "--out", str(tmp_path / "out")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while len(list((tmp_path / "out").glob("*.nc"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(max(children(process.pid)), signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" not in errors
    assert errors.splitlines()[-1].startswith("heimdall-lab: workers: a process of the 2 ended")
    assert set(store.verify(tmp_path / "out").state) == {"ok", "not generated yet"}


def test_resume_rewrites_only_what_is_missing_or_damaged(small, folder, tmp_path):
    out = tmp_path / "out"
    hl.generate(small, out, progress=False)
    before = contents(out)
    untouched = (out / "shard-00002.nc").stat().st_mtime_ns
    (out / "shard-00000.nc").unlink()
    damaged = bytearray((out / "shard-00001.nc").read_bytes())
    damaged[-2000] ^= 1
    (out / "shard-00001.nc").write_bytes(damaged)
    for name in (".shard-00001.nc.99.tmp", ".dataset.json.99.tmp"):
        (out / name).write_bytes(b"left by a killed process")
    hl.generate(small, out, progress=False)
    assert contents(out) == before == contents(folder)
    assert (out / "shard-00002.nc").stat().st_mtime_ns == untouched


def test_kill_before_the_first_manifest_is_no_foreign_file(small, folder, tmp_path):
    (tmp_path / ".dataset.json.99.tmp").write_bytes(b"left by a killed process")
    hl.generate(small, tmp_path, progress=False)
    assert contents(tmp_path) == contents(folder)


def test_another_configuration_on_the_same_folder_is_refused_and_changes_nothing(small, folder):
    before = contents(folder)
    with pytest.raises(store.StoreError, match=r"another seed, channel\.clock"):
        hl.generate(small.model_copy(update={"seed": 9, "channel": hl.preset("websdr").channel}), folder)
    assert contents(folder) == before


def test_another_package_version_is_refused(small, tmp_path):
    store.write_manifest(tmp_path, store.Manifest(package_version="0.0.1", config=small))
    with pytest.raises(store.StoreError, match=rf"0\.0\.1.*{version('heimdall_lab')}"):
        hl.generate(small, tmp_path, progress=False)


def test_folder_with_other_files_is_refused_and_keeps_them(small, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    (tmp_path / ".notes.tmp").write_text("mine too")
    with pytest.raises(store.StoreError, match=r"holds other files.*choose an empty folder"):
        hl.generate(small, tmp_path, progress=False)
    assert contents(tmp_path) == {"thesis.tex": b"mine", ".notes.tmp": b"mine too"}


def test_verify_finds_missing_truncated_and_changed_shards(small, tmp_path):
    out = tmp_path / "out"
    hl.generate(small, out, progress=False)
    assert list(store.verify(out).state) == ["ok", "ok", "ok"]
    (out / "shard-00000.nc").unlink()
    os.truncate(out / "shard-00001.nc", 1000)
    changed = bytearray((out / "shard-00002.nc").read_bytes())
    changed[5000] ^= 1
    (out / "shard-00002.nc").write_bytes(changed)
    states = list(store.verify(out).state)
    assert states[0] == "is missing"
    assert states[1].startswith("has 1000 bytes instead of ")
    assert states[2] == "has another checksum"
    with pytest.raises(store.StoreError, match=r"shard-00000\.nc: is missing; run the same 'generate' command"):
        hl.open_dataset(out)


def test_unreadable_shard_of_the_right_size_is_named_as_unreadable(small, tmp_path):
    out = tmp_path / "out"
    hl.generate(small, out, progress=False)
    size = (out / "shard-00001.nc").stat().st_size
    (out / "shard-00001.nc").write_bytes(bytes(size))
    with pytest.raises(store.StoreError, match=r"cannot be read.*heimdall-lab verify"):
        hl.open_dataset(out)


def test_catalogue_lists_every_dataset(folder):
    table = hl.datasets(folder.parent)
    row = table.set_index("path").loc[str(folder)]
    assert (row["name"], row["samples"], row["of"], row["receivers"], row["seed"]) == ("los_sync", 12, 12, 7, 3)
    assert row["megabytes"] == round(sum(path.stat().st_size for path in folder.glob("*.nc")) / 1e6, 1)
    assert row["state"] == "complete"
    (folder.parent / "broken").mkdir()
    (folder.parent / "broken" / store.MANIFEST).write_text("{}")
    assert list(hl.datasets(folder.parent).state) == ["unreadable", "complete"]
    with pytest.raises(store.StoreError, match="is no folder"):
        hl.datasets(folder / "nowhere")


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"package_version": 3}'])
def test_broken_manifest_is_refused(tmp_path, text):
    (tmp_path / store.MANIFEST).write_text(text)
    with pytest.raises(store.StoreError, match=r"dataset\.json: is not a valid manifest.*generate it again"):
        hl.open_dataset(tmp_path)


def test_a_full_disk_is_explained_and_resumed(tmp_path):
    command = [sys.executable, "-m", "heimdall_lab.cli", "generate", "--preset", "los_sync", "--num-samples", "8"]
    command += ["--shard-size", "4", "--set", "signal.duration_s=0.05", "--out", str(tmp_path / "out")]
    limited = subprocess.run(["bash", "-c", 'ulimit -f 100; "$@"', "bash", *command], capture_output=True, text=True)
    assert limited.returncode == 1
    assert "Traceback" not in limited.stderr
    assert limited.stderr.splitlines()[-1].startswith(f"heimdall-lab: out: cannot write to '{tmp_path / 'out'}'")
    assert set(contents(tmp_path / "out")) == {store.MANIFEST}
    subprocess.run(command, check=True, capture_output=True)
    assert list(store.verify(tmp_path / "out").state) == ["ok", "ok"]


def test_failed_write_leaves_the_old_file_and_no_temporary(tmp_path):
    path = tmp_path / "kept"
    path.write_text("old")

    def fail(temporary):
        temporary.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        store.write_atomically(path, fail)
    assert contents(tmp_path) == {"kept": b"old"}
