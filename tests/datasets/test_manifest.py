"""Manifests: of other versions, damaged ones, folders that vanish meanwhile, and which shards are hashed when."""

import json
import os
import shutil
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from scipy.io import wavfile

import heimdall_lab as hl
from heimdall_lab.core import files
from heimdall_lab.core.files import StoreError
from heimdall_lab.datasets import manifest, store
from heimdall_lab.datasets.manifest import MANIFEST, read_manifest

HERE = version("heimdall_lab")


def rewrite(folder, change):
    """Change the fields of a folder's manifest in place."""
    fields = json.loads((folder / MANIFEST).read_text())
    change(fields)
    (folder / MANIFEST).write_text(json.dumps(fields))


def test_the_format_stands_first_and_a_manifest_without_one_is_of_format_1(folder, small):
    assert next(iter(json.loads((folder / MANIFEST).read_text()).items())) == ("format", 2)
    before = read_manifest(folder)
    rewrite(folder, lambda fields: fields.pop("format"))
    assert read_manifest(folder) == before.model_copy(update={"format": 1})
    assert hl.generate(small, folder, progress=False).sizes["sample"] == 12


def test_a_folder_of_an_earlier_format_is_not_gone_on_with(folder, small):
    rewrite(folder, lambda fields: fields.update(format=1, shards=fields["shards"][:1]))
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(StoreError, match=r"was begun in format 1, and this version writes format 2; choose another"):
        hl.generate(small, folder, progress=False)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == kept


def of_another_kind(fields):
    fields["shards"] = {"table": "shards.parquet"}
    del fields["config"]


@pytest.mark.parametrize("change", [of_another_kind, lambda fields: fields["config"].update(weather="rain")])
def test_a_later_format_is_refused_by_both_versions_before_anything_else_is_looked_at(folder, small, change):
    rewrite(folder, lambda fields: (fields.update(format=3, package_version="9.0.0"), change(fields)))
    message = rf"dataset\.json: .*version 9\.0\.0 in format 3, .* version {HERE} reads formats up to 2; .* 9\.0\.0 or"
    for refuse in (hl.open_dataset, store.verify, lambda out: hl.generate(small, out, progress=False)):
        with pytest.raises(StoreError, match=message):
            refuse(folder)
    assert list(hl.datasets(folder.parent).state) == ["unreadable"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda fields: fields["config"].update(weather="rain"), r"config\.weather"),
        (lambda fields: fields["config"]["channel"].update(rain_db=1), r"config\.channel\.rain_db"),
        (lambda fields: fields["shards"][1].pop("sha256"), r"shards\.1\.sha256"),
        (lambda fields: fields["config"].update(seed=-1), r"config\.seed: -1"),
    ],
)
def test_fields_of_another_version_are_named_with_both_versions(folder, change, field):
    rewrite(folder, lambda fields: (fields.update(package_version="0.9.9"), change(fields)))
    with pytest.raises(StoreError, match=rf"version 0\.9\.9 .* version {HERE} .*{field}.*with version 0\.9\.9"):
        hl.open_dataset(folder)


@pytest.mark.parametrize(
    "text", ["", "{}", "[1]", "\xff", '{"package_version": 3}', '{"format": "two"}', '{"format": 0}']
)
def test_a_damaged_manifest_is_told_with_a_remedy_that_loses_nothing(tmp_path, text):
    (tmp_path / MANIFEST).write_bytes(text.encode("latin-1"))
    with pytest.raises(
        StoreError, match=r"dataset\.json: is damaged .*put a copy of it back.*another folder"
    ) as refusal:
        hl.open_dataset(tmp_path)
    assert "delete" not in str(refusal.value)


@pytest.mark.parametrize("name", ["seed", "signal.frequency_hz", "geometry"])
def test_a_field_that_this_version_writes_and_that_is_missing_is_no_default(folder, name):
    """Else a dataset of seed 3 would be opened as one of seed 0."""
    fields = json.loads((folder / MANIFEST).read_text())
    group, _, field = name.rpartition(".")
    del (fields["config"][group] if group else fields["config"])[field]
    (folder / MANIFEST).write_text(json.dumps(fields))
    with pytest.raises(StoreError, match=rf"version {HERE} .*only one has: config\.{name}\); put a copy of"):
        hl.open_dataset(folder)
    fields["package_version"] = "0.1.0"  # which may not have had it
    (folder / MANIFEST).write_text(json.dumps(fields))
    assert read_manifest(folder).config


def test_fields_that_came_later_take_the_values_that_reproduce_what_was_written_before(folder, tmp_path):
    """Manifests say nothing of them where they change nothing."""
    fields = json.loads((folder / MANIFEST).read_text())
    assert not {"pause_ratio", "limiter_reference"} & set(fields["config"]["signal"])
    assert read_manifest(folder).config.signal.pause_ratio == 0
    rewrite(folder, lambda fields: fields["config"]["signal"].update(voice_folder=str(tmp_path)))
    assert read_manifest(folder).config.signal.limiter_reference == "window"
    rewrite(folder, lambda fields: fields["config"]["signal"].update(limiter_reference="recording"))
    assert read_manifest(folder).config.signal.limiter_reference == "recording"
    rewrite(folder, lambda fields: fields["config"]["signal"].update(voice_folder="", pause_ratio=0.25))
    assert read_manifest(folder).config.signal.pause_ratio == 0.25


def test_another_configuration_is_refused_without_advice_to_delete(folder, small):
    with pytest.raises(StoreError, match=r"another seed; choose another folder$"):
        hl.generate(small.model_copy(update={"seed": 9}), folder, progress=False)


ACCESSES = ("stat", "open", "iterdir", "unlink")


@pytest.mark.parametrize(
    ("look", "kinds"),
    [
        (lambda folder, _: hl.datasets(folder.parent), {"DataFrame"}),
        (lambda folder, _: store.verify(folder), {"DataFrame", "StoreError"}),
        (lambda folder, _: hl.open_dataset(folder), {"Dataset", "StoreError"}),
        (lambda folder, config: manifest.is_complete(folder, config, HERE), {"bool"}),
        (lambda folder, _: manifest.samples_written(folder), {"int"}),
        (lambda folder, _: manifest.shard_damage(folder, read_manifest(folder).shards[0]), {"str", "StoreError"}),
        (lambda folder, _: store.delete(folder), {"NoneType", "StoreError"}),
    ],
    ids=["datasets", "verify", "open_dataset", "is_complete", "samples_written", "shard_damage", "delete"],
)
def test_a_folder_that_another_process_takes_away_is_told_or_left_out(whole, small, tmp_path, monkeypatch, look, kinds):
    """Before each access to its files in turn, so that nothing but an error of the store ever comes of it."""
    folder, left = tmp_path / "root" / "out", 0
    real = {name: getattr(Path, name) for name in ACCESSES}

    def vanishing(name):
        def access(path, *arguments, **options):
            nonlocal left
            if path.is_relative_to(folder):
                left -= 1
                if left == -1:
                    shutil.rmtree(folder)
            return real[name](path, *arguments, **options)

        return access

    outcomes, vanished = [], True
    while vanished:
        shutil.copytree(whole, folder)
        left = len(outcomes)
        with monkeypatch.context() as patched:
            for name in ACCESSES:
                patched.setattr(Path, name, vanishing(name))
            try:
                outcomes.append(type(look(folder, small)).__name__)
            except StoreError:
                outcomes.append("StoreError")
        vanished = left < 0
        shutil.rmtree(folder, ignore_errors=True)
    assert len(outcomes) >= 2
    assert set(outcomes[:-1]) <= kinds


def test_a_vanished_folder_is_no_row_of_the_catalogue(whole, tmp_path, monkeypatch):
    shutil.copytree(whole, tmp_path / "kept")
    shutil.copytree(whole, tmp_path / "gone")
    read = Path.read_bytes

    def vanishing(path):
        shutil.rmtree(tmp_path / "gone", ignore_errors=True)
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", vanishing)
    assert hl.datasets(tmp_path).path.tolist() == [str(tmp_path / "kept")]


@pytest.fixture
def hashed(monkeypatch):
    """Names of the files that were hashed."""
    names, checksum = [], files.file_checksum

    def noted(path, *arguments):
        names.append(path.name)
        return checksum(path, *arguments)

    for module in (manifest, store):
        monkeypatch.setattr(module, "file_checksum", noted)
    return names


def make_newer(path, than):
    time_ns = than.stat().st_mtime_ns + 10**9
    os.utime(path, ns=(time_ns, time_ns))


def test_opening_a_whole_dataset_hashes_no_shard(folder, small, hashed):
    hl.generate(small, folder, progress=False)
    assert hashed == []
    store.verify(folder)
    assert hashed == ["shard-00000.nc", "shard-00001.nc", "shard-00002.nc"]


def test_a_shard_that_was_written_later_is_hashed_once(folder, small, hashed):
    """As all are after a copy that does not keep their times."""
    make_newer(folder / "shard-00001.nc", than=folder / MANIFEST)
    content = (folder / MANIFEST).read_bytes()
    for _ in range(2):
        hl.generate(small, folder, progress=False)
        assert hashed == ["shard-00001.nc"]
    assert (folder / MANIFEST).read_bytes() == content


def test_a_shard_that_was_changed_later_is_found_and_written_again(folder, whole, small):
    shard = folder / "shard-00002.nc"
    content = bytearray(shard.read_bytes())
    content[-2000] ^= 1
    shard.write_bytes(content)
    make_newer(shard, than=folder / MANIFEST)
    hl.generate(small, folder, progress=False)
    assert shard.read_bytes() == (whole / shard.name).read_bytes()
    assert set(store.verify(folder).state) == {"ok"}


def test_resuming_hashes_every_shard_that_is_there(folder, small, hashed):
    (folder / "shard-00001.nc").unlink()
    hl.generate(small, folder, progress=False)
    assert {"shard-00000.nc", "shard-00002.nc"} <= set(hashed)


def test_a_manifest_that_may_not_be_read_is_a_row_of_the_catalogue(folder, monkeypatch):
    def refused(_path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refused)
    assert hl.datasets(folder.parent).state.tolist() == ["unreadable"]


@pytest.fixture
def voiced(tmp_path):
    """A configuration that takes voices from a folder, and a function that writes one voice into it."""
    voices = tmp_path / "voices"
    voices.mkdir()

    def speak(tone_hz):
        wave = 8000 * np.sin(2 * np.pi * tone_hz / 8000 * np.arange(8000))
        wavfile.write(voices / "a.wav", 8000, wave.astype(np.int16))

    speak(500)
    size = {"num_samples": 4, "shard_size": 4, "signal.duration_s": 0.02}
    return hl.preset("los_sync", **size, **{"signal.voice_folder": str(voices)}), speak


def test_a_whole_dataset_of_other_voices_is_not_taken_for_that_of_these(voiced, tmp_path):
    config, speak = voiced
    hl.generate(config, tmp_path / "out", progress=False)
    speak(900)
    with pytest.raises(StoreError, match=r"signal\.voice_folder: .* holds other files than when .* was begun"):
        hl.generate(config, tmp_path / "out", progress=False)
    shutil.rmtree(config.signal.voice_folder)
    with pytest.raises(ValueError, match=r"signal\.voice_folder"):
        hl.generate(config, tmp_path / "new", progress=False)


def test_voices_are_hashed_once_if_they_are_newer_and_not_asked_for_if_they_are_away(voiced, tmp_path, hashed):
    config, _ = voiced
    hl.load_or_generate(config, tmp_path / "data", progress=False)
    hashed.clear()
    hl.load_or_generate(config, tmp_path / "data", progress=False)
    assert hashed == []
    speech = Path(config.signal.voice_folder) / "a.wav"
    os.utime(speech, (speech.stat().st_atime, speech.stat().st_mtime + 60))
    for _ in range(2):
        hl.load_or_generate(config, tmp_path / "data", progress=False)
    assert hashed == ["a.wav"]
    shutil.rmtree(config.signal.voice_folder)
    assert hl.load_or_generate(config, tmp_path / "data", progress=False).sizes["sample"] == 4


def test_an_input_file_that_cannot_be_read_is_named(voiced, monkeypatch):
    def unreadable(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(manifest, "file_checksum", unreadable)
    with pytest.raises(StoreError, match=r"signal\.voice_folder: '.*a\.wav' cannot be read \(Permission denied\)"):
        manifest.input_digests(voiced[0])
