"""Shards that are not those that the manifest lists, and bytes that changed: noticed, and in little memory."""

import json
import os
import shutil

import netCDF4
import numpy as np
import pytest

import heimdall_lab as hl
from heimdall_lab.core.files import StoreError
from heimdall_lab.datasets import integrity, measured, netcdf, store
from heimdall_lab.datasets.manifest import MANIFEST, read_manifest
from heimdall_lab.learning.training import train
from heimdall_lab.signals.measurements import with_measurements


def rewrite(folder, change):
    fields = json.loads((folder / MANIFEST).read_text())
    change(fields)
    (folder / MANIFEST).write_text(json.dumps(fields))


def list_twice(fields):
    fields["shards"].insert(1, fields["shards"][0])


def list_in_another_order(fields):
    fields["shards"].reverse()


def count_more(fields):
    fields["shards"][0]["num_samples"] = 4_000_000_000


def list_one_behind_the_end(fields):
    fields["shards"].append(fields["shards"][2] | {"number": 3})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (list_twice, "shards: 0 is listed twice"),
        (list_in_another_order, "shards: 1 is listed twice, or out of order"),
        (count_more, "shards: 0 has 4000000000 samples, of 12 in shards of 4 it has 4"),
        (list_one_behind_the_end, "shards: 3 has 4 samples, .* it has 0"),
        (lambda fields: fields["shards"][1].update(num_samples=-4), "shards.1.num_samples: -4"),
        (lambda fields: fields["shards"][1].update(sha256="../x"), "shards.1.sha256: '../x'"),
        (lambda fields: fields["shards"][1].update(rejections={"gdop": -1}), "rejections"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_damaged(folder, change, words):
    rewrite(folder, change)
    for look in (hl.open_dataset, store.verify):
        with pytest.raises(StoreError, match=rf"dataset\.json: is damaged \(.*{words}.*put a copy of it back"):
            look(folder)


def move_a_receiver(fields):
    fields["config"]["geometry"]["receivers"][0]["latitude_deg"] += 0.5


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda fields: fields["config"].update(seed=9), "seed is 3 and that of dataset.json 9"),
        (move_a_receiver, "geometry.receivers is .* and that of dataset.json"),
        (lambda fields: fields["config"]["channel"].update(shadowing_sigma_db=9.0), "channel.shadowing_sigma_db is"),
    ],
)
def test_an_edited_manifest_is_noticed_when_its_dataset_is_opened_verified_or_gone_on_with(folder, change, words):
    rewrite(folder, change)
    with pytest.raises(StoreError, match=rf"shard-00000\.nc: its {words}.*put back a copy"):
        hl.open_dataset(folder)
    states = store.verify(folder).state
    assert states.str.match(rf"its {words}").all()
    config = read_manifest(folder).config
    (folder / "shard-00001.nc").unlink()
    kept = {path.name: path.read_bytes() for path in folder.glob("*.nc")}
    with pytest.raises(StoreError, match=words):
        hl.generate(config, folder, progress=False)
    assert {path.name: path.read_bytes() for path in folder.glob("*.nc")} == kept


def test_shards_that_changed_places_are_noticed(folder):
    (folder / "shard-00000.nc").rename(folder / "kept")
    (folder / "shard-00001.nc").rename(folder / "shard-00000.nc")
    (folder / "kept").rename(folder / "shard-00001.nc")
    with pytest.raises(StoreError, match=r"shard-00000\.nc: its first sample is 4 and that of dataset\.json 0"):
        hl.open_dataset(folder)


def huge(path, **attributes):
    """Write a small file that claims 4·10⁹ scenes; returns its size."""
    with netCDF4.Dataset(path, "w") as file:
        file.setncatts(attributes)
        for name, size in {"sample": 4_000_000_000, "receiver": 7}.items():
            file.createDimension(name, size)
        file.createVariable("sample", "i8", ("sample",), chunksizes=(1024,), fill_value=0)
    return path.stat().st_size


def test_a_shard_that_claims_billions_of_scenes_is_refused_before_they_are_read(folder, monkeypatch):
    shard = folder / "shard-00000.nc"
    with netCDF4.Dataset(shard) as file:
        attributes = {name: file.getncattr(name) for name in ("config", "seed")}
    size = huge(shard, **attributes)
    rewrite(folder, lambda fields: fields["shards"][0].update(num_bytes=size))
    monkeypatch.setattr(netcdf, "NetCDF4DataStore", None)  # nothing is read
    with pytest.raises(StoreError, match=r"its number of samples is 4000000000 and that of dataset\.json 4"):
        hl.open_dataset(folder)


def test_measurements_that_claim_billions_of_scenes_are_made_anew(folder):
    whole = with_measurements(hl.open_dataset(folder))
    huge(folder / measured.file_name(0))
    assert "tdoa_s" not in hl.open_dataset(folder)
    assert with_measurements(hl.open_dataset(folder)).tdoa_s.identical(whole.tdoa_s)


@pytest.mark.slow
def test_changed_bytes_of_measurements_are_made_anew(folder):
    whole = with_measurements(hl.open_dataset(folder)).load()
    path = folder / measured.file_name(1)
    content = bytearray(path.read_bytes())
    values = whole.tdoa_s.values[4:8].tobytes()
    content[content.index(values) + len(values) // 2] ^= 1
    path.write_bytes(content)
    for name in ("tdoa_s", "toa_std_s", "measured_of"):
        assert np.array_equal(with_measurements(hl.open_dataset(folder))[name], whole[name], equal_nan=True)


def test_billions_of_missing_shards_are_told_as_one(folder):
    rewrite(folder, lambda fields: fields["config"].update(num_samples=4_000_000_000))
    table = store.verify(folder)
    assert len(table) == 4
    assert table.state.iloc[-1] == "not generated yet"


def flip(path, part):
    """Change a bit of a file at a part of its length, and keep its size and time."""
    status, content = path.stat(), bytearray(path.read_bytes())
    content[int(part * len(content))] ^= 4
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """A dataset of features to train on; do not change it."""
    out = tmp_path_factory.mktemp("learned") / "features"
    config = hl.preset("los_sync", num_samples=64, seed=5, signal={"duration_s": 0.02}, data_type="feature_based")
    hl.generate(config, out, progress=False)
    return out


def test_changed_bytes_are_found_before_a_comparison_wherever_they_are(folder):
    dataset = hl.open_dataset(folder)
    shard = folder / "shard-00001.nc"
    whole = shard.read_bytes()
    for part in (0.3, 0.5, 0.7, 0.9, 0.99):
        flip(shard, part)
        with pytest.raises(StoreError, match=r"shard-00001\.nc: has another checksum; run the same 'generate' command"):
            hl.compare(dataset, "tdoa_ls")
        shard.write_bytes(whole)
    assert hl.compare(dataset.isel(sample=slice(4)), "centroid", verify=False).sizes["sample"] == 4


def test_only_the_shards_of_the_scenes_that_are_compared_are_checked(folder):
    flip(folder / "shard-00002.nc", 0.5)
    dataset = hl.open_dataset(folder).isel(sample=slice(8))
    integrity.check_origin(dataset)
    with pytest.raises(StoreError, match=r"shard-00002"):
        integrity.check_origin(hl.open_dataset(folder))
    integrity.check_origin(dataset.load())  # of which nothing is read any more


@pytest.mark.slow
def test_changed_bytes_are_found_before_training_unless_that_is_not_wanted(learned, tmp_path, capsys):
    dataset = shutil.copytree(learned, tmp_path / "dataset")
    options = {"epochs": 1, "batch_size": 16, "tracking": False}
    flip(dataset / "shard-00000.nc", 0.5)
    for given in (dataset, hl.open_dataset(dataset)):
        with pytest.raises(StoreError, match=r"shard-00000\.nc: has another checksum"):
            train(given, "triangulation", out=tmp_path / "run", progress=False, **options)
    assert capsys.readouterr().err == ""
    train(learned, "triangulation", out=tmp_path / "checked", **options)
    assert "verify los_sync: 1/1 checksums are right: " in capsys.readouterr().err
    train(learned, "triangulation", out=tmp_path / "unchecked", verify=False, **options)
    assert "verify" not in capsys.readouterr().err
