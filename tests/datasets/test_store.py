import hashlib
import json
import os
import subprocess
import sys
from importlib.metadata import version

import numpy as np
import pytest
import xarray as xr
from scipy.io import wavfile

import heimdall_lab as hl
from heimdall_lab.core.checked import ConfigError
from heimdall_lab.core.files import StoreError, write_atomically
from heimdall_lab.datasets import manifest, schema, store
from heimdall_lab.datasets.manifest import MANIFEST, Manifest, read_manifest, record_shards, write_manifest
from heimdall_lab.datasets.size import check_disk_space, expected_bytes
from heimdall_lab.simulation import synthesis


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
        expected = set(schema.TRUTH) | set(schema.SIGNALS["iq_raw"])
        absent = {"echo_delay", "echo_power", "clock_rate"}  # there are no echoes, and clocks run at their nominal rate
        assert expected - absent == set(dataset.data_vars)
        for name in dataset.data_vars:
            variable = schema.VARIABLES[name]
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


@pytest.mark.slow
def test_a_folder_is_open_as_often_as_one_likes(folder):
    """In a process of its own, which HDF5 would crash: it bears no file with text that is open through two handles."""
    script = f"""
from pathlib import Path
import heimdall_lab as hl
from heimdall_lab.learning.signals_on_disk import OnDisk
folder = Path({str(folder)!r})
first, on_disk = hl.open_dataset(folder), OnDisk(folder, "iq")
for _ in range(3):
    other = hl.open_dataset(folder)
    other.load()
    del other
hl.open_dataset(folder).close()
assert first.waveform.load().size == 12
assert (on_disk.load().values == hl.open_dataset(folder).iq.values).all()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[:2000]


@pytest.fixture(scope="module")
def sixty_four():
    """Scenes of every kind of waveform, more than fill one batch, and their dataset in one shard."""
    mix = {"voice_ratio": 0.25, "tone_ratio": 0.25, "dual_tone_ratio": 0.25, "noise_ratio": 0.25}
    config = hl.preset("los_sync", num_samples=64, seed=7, max_receivers=8, signal={"duration_s": 0.1, **mix})
    dataset = hl.generate(config, progress=False)
    assert set(dataset.waveform.values) == {"voice", "tone", "dual_tone", "noise"}
    return config, dataset


@pytest.mark.slow
@pytest.mark.parametrize(("shard_size", "workers"), [(7, 1), (64, 1), (7, 2)])
def test_result_does_not_depend_on_shard_size_or_workers(sixty_four, tmp_path, shard_size, workers):
    config, dataset = sixty_four
    config = config.model_copy(update={"shard_size": shard_size})
    made = hl.generate(config, tmp_path / "out", progress=False, workers=workers).load()
    for name in dataset.variables:
        np.testing.assert_array_equal(made[name].values, dataset[name].values, err_msg=name)


def test_result_does_not_depend_on_batches(small, small_dataset, monkeypatch):
    monkeypatch.setitem(synthesis._BATCH_IQ_SAMPLES, "numpy", 3 * 7 * 1000)
    xr.testing.assert_identical(hl.generate(small, progress=False), small_dataset)


def test_another_seed_gives_another_dataset(small, small_dataset):
    other = hl.generate(small.model_copy(update={"seed": 4}), progress=False)
    assert not np.array_equal(other.iq, small_dataset.iq)
    assert not np.isin(other.transmitter_latitude, small_dataset.transmitter_latitude).any()


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
    with pytest.raises(StoreError, match=r"another seed, channel\.clock"):
        hl.generate(small.model_copy(update={"seed": 9, "channel": hl.preset("websdr").channel}), folder)
    assert contents(folder) == before


def test_another_package_version_is_refused(small, tmp_path):
    hl.generate(small, tmp_path, progress=False)
    write_manifest(tmp_path, read_manifest(tmp_path).model_copy(update={"package_version": "0.0.1"}))
    with pytest.raises(StoreError, match=rf"0\.0\.1.*{version('heimdall_lab')}"):
        hl.generate(small, tmp_path, progress=False)


def test_folder_with_other_files_is_refused_and_keeps_them(small, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    (tmp_path / ".notes.tmp").write_text("mine too")
    with pytest.raises(StoreError, match=r"holds other files.*choose an empty folder"):
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
    with pytest.raises(StoreError, match=r"shard-00000\.nc: is missing; run the same 'generate' command"):
        hl.open_dataset(out)


def test_unreadable_shard_of_the_right_size_is_named_as_unreadable(small, tmp_path):
    out = tmp_path / "out"
    hl.generate(small, out, progress=False)
    size = (out / "shard-00001.nc").stat().st_size
    (out / "shard-00001.nc").write_bytes(bytes(size))
    with pytest.raises(StoreError, match=r"cannot be read.*heimdall-lab verify"):
        hl.open_dataset(out)


def test_catalogue_lists_every_dataset(folder):
    table = hl.datasets(folder.parent)
    row = table.set_index("path").loc[str(folder)]
    assert (row["name"], row["samples"], row["of"], row["receivers"], row["seed"]) == ("los_sync", 12, 12, 7, 3)
    assert row["megabytes"] == round(sum(path.stat().st_size for path in folder.glob("*.nc")) / 1e6, 1)
    assert row["state"] == "complete"
    (folder.parent / "broken").mkdir()
    (folder.parent / "broken" / MANIFEST).write_text("{}")
    assert list(hl.datasets(folder.parent).state) == ["unreadable", "complete"]
    with pytest.raises(StoreError, match="is no folder"):
        hl.datasets(folder / "nowhere")


def test_catalogue_is_by_default_that_of_the_data_folder(folder, monkeypatch):
    monkeypatch.setenv("HEIMDALL_LAB_DATA", str(folder.parent))
    assert str(folder) in hl.datasets().path.tolist()


@pytest.mark.parametrize(
    ("num_samples", "max_receivers", "duration_s"), [(64, 7, 0.2), (100, 7, 0.02), (16, 15, 0.1), (1, 7, 1.0)]
)
def test_expected_size_is_never_below_the_real_one_and_close_to_it(tmp_path, num_samples, max_receivers, duration_s):
    size = {"num_samples": num_samples, "shard_size": 64, "max_receivers": max_receivers}
    config = hl.preset("websdr", **size, signal={"duration_s": duration_s})
    hl.generate(config, tmp_path / "out", progress=False)
    real = sum(path.stat().st_size for path in (tmp_path / "out").iterdir())
    assert real <= expected_bytes(config) < 1.03 * real


def test_more_than_the_disk_holds_is_refused_before_the_work(tmp_path):
    config = hl.preset("iq_production", num_samples=2**32 - 1)
    with pytest.raises(StoreError, match=r"out: .* needs 24.* PB for 4294967295 scenes, and .*B are free.*make r"):
        hl.generate(config, tmp_path / "out", progress=False)
    assert set(contents(tmp_path / "out")) == {MANIFEST}


def test_room_is_needed_only_for_what_is_missing(small, folder):
    whole = read_manifest(folder)
    assert check_disk_space(folder, whole) == 0
    assert check_disk_space(folder, whole.model_copy(update={"shards": whole.shards[:1]})) == pytest.approx(
        expected_bytes(small) * 2 / 3, abs=1
    )


@pytest.mark.parametrize(("shard_s", "writes"), [(1.0, 1000), (0.04, 1000), (0.001, 50)])
def test_manifest_takes_a_twentieth_of_the_time_at_most(small, folder, tmp_path, monkeypatch, shard_s, writes):
    clock_s, written = 0.0, []

    def slow_write(_folder, latest):
        nonlocal clock_s
        clock_s += 0.001
        written.append(latest)

    monkeypatch.setattr(manifest.time, "monotonic", lambda: clock_s)
    monkeypatch.setattr(manifest, "write_manifest", slow_write)
    shard = read_manifest(folder).shards[0]
    with record_shards(tmp_path, Manifest(package_version="0", config=small)) as record:
        for number in reversed(range(1000)):
            clock_s += shard_s
            record(shard.model_copy(update={"number": number}))
    assert len(written) == pytest.approx(writes, rel=0.1)
    assert [shard.number for shard in written[-1].shards] == list(range(1000))


def test_manifest_holds_what_was_recorded_before_a_failure(small, folder, tmp_path):
    shards = read_manifest(folder).shards

    def fail():
        with record_shards(tmp_path, Manifest(package_version="0", config=small)) as record:
            for shard in shards:
                record(shard)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert read_manifest(tmp_path).shards == shards


def test_files_equal_those_of_to_netcdf(folder, small_dataset, tmp_path):
    first = small_dataset.isel(sample=slice(0, 4))
    unfilled = {str(name): {"_FillValue": None} for name, v in first.variables.items() if v.dtype.kind in "iub"}
    first.to_netcdf(tmp_path / "xarray.nc", engine="netcdf4", encoding=unfilled)
    with xr.open_dataset(tmp_path / "xarray.nc") as wanted, xr.open_dataset(folder / "shard-00000.nc") as found:
        xr.testing.assert_identical(found, wanted)
        assert {n: v.dtype for n, v in found.variables.items()} == {n: v.dtype for n, v in wanted.variables.items()}


def test_failed_write_leaves_the_old_file_and_no_temporary(tmp_path):
    path = tmp_path / "kept"
    path.write_text("old")

    def fail(temporary):
        temporary.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, fail)
    assert contents(tmp_path) == {"kept": b"old"}


def test_changed_voices_are_not_mixed_into_a_dataset_that_was_begun(tmp_path):
    voices = tmp_path / "voices"
    voices.mkdir()
    tone = (8000 * np.sin(2 * np.pi * 500 / 8000 * np.arange(8000))).astype(np.int16)
    wavfile.write(voices / "a.wav", 8000, tone)
    size = {"num_samples": 8, "shard_size": 4, "signal.duration_s": 0.02}
    config = hl.preset("los_sync", **size, **{"signal.voice_folder": str(voices)})
    hl.generate(config, tmp_path / "out", progress=False)
    (tmp_path / "out" / "shard-00001.nc").unlink()
    wavfile.write(voices / "a.wav", 8000, tone[::-1].copy())
    with pytest.raises(StoreError, match=r"signal\.voice_folder.*other files"):
        hl.generate(config, tmp_path / "out", progress=False)
    wavfile.write(voices / "a.wav", 8000, tone)
    assert hl.generate(config, tmp_path / "out", progress=False).sizes["sample"] == 8


def test_what_was_begun_without_a_shard_binds_nobody(small, tmp_path):
    impossible = small.model_copy(update={"gate": small.gate.model_copy(update={"min_snr_db": 60.0})})
    with pytest.raises(ConfigError, match="gate"):
        hl.generate(impossible, tmp_path, progress=False)
    assert list(tmp_path.iterdir()) == []
    write_manifest(tmp_path, Manifest(package_version="0.0.1", config=impossible))  # as when killed there
    assert hl.generate(small, tmp_path, progress=False).sizes["sample"] == small.num_samples
