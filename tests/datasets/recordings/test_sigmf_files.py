"""SigMF files as other programs write them: headers, WAV inside, offsets, numbers, names, archives."""

import io
import json
import os
import struct
import tarfile
import wave
import zipfile

import numpy as np
import pytest
import sigmf
import sigmf.convert.wav
from hypothesis import given
from hypothesis import strategies as st
from sigmf_recordings import changed, describe, noise, put

import heimdall_lab as hl
from heimdall_lab.datasets.recordings.files import read_files

LENGTH = 300
SAMPLES = noise(LENGTH)


def read_samples(path, **options):
    return hl.read_sigmf(path, **options).iq[0, 0].values.T


def changed_meta(folder, *changes, name="alpha"):
    """A plain recording with changes (keys, value) of its metadata."""
    file = put(folder, name, SAMPLES)
    for keys, value in changes:
        changed(keys, value, file.name)(folder)
    return file


def wave_file(file, samples, *, long=False):
    """WAV with chunks before and after the samples, one of an odd size; above 4 GiB as EBU Tech 3306 has it."""
    content = samples.tobytes()
    sizes = struct.pack("<QQQI", 0, len(content), len(samples), 0)
    size = 0xFFFFFFFF if long else len(content)
    chunks = b"ds64" + struct.pack("<I", len(sizes)) + sizes if long else b""
    chunks += b"fmt " + struct.pack("<IHHIIHH", 16, 1, 2, 50_000, 200_000, 4, 16)
    chunks += b"note" + struct.pack("<I", 3) + b"abc\0"
    before = 12 + len(chunks) + 8
    chunks += b"data" + struct.pack("<I", size) + content + b"LIST" + struct.pack("<I", 8) + b"INFOISFT"
    file.write_bytes((b"RF64" if long else b"RIFF") + struct.pack("<I", size) + b"WAVE" + chunks)
    return before


def test_headers_of_captures_and_trailing_bytes_are_no_samples(tmp_path):
    """As the example of core:header_bytes in the specification, with something at the end."""
    meta = describe("alpha", dataset="raw.dat", trailing_bytes=5)
    first = meta["captures"][0]
    meta["captures"] = [first | {"core:header_bytes": 44}, first | {"core:sample_start": 100, "core:header_bytes": 7}]
    file = put(tmp_path, "alpha", SAMPLES, meta)
    content = SAMPLES.tobytes()
    (tmp_path / "raw.dat").write_bytes(b"R" * 44 + content[:400] + b"S" * 7 + content[400:] + b"T" * 5)
    dataset = hl.read_sigmf(file, window_s=100 / 50e3)
    np.testing.assert_array_equal(dataset.iq[:, 0].values.swapaxes(1, 2).reshape(-1, 2), SAMPLES[:, 0])


@pytest.mark.parametrize("long", [False, True])
@pytest.mark.parametrize("stated", [False, True])
def test_samples_of_a_wav_file_are_found(stated, long, tmp_path):
    file = put(tmp_path, "alpha", SAMPLES)
    before = wave_file(tmp_path / "alpha.wav", SAMPLES, long=long)
    changed(["global", "core:dataset"], "alpha.wav", file.name)(tmp_path)
    if stated:
        changed(["captures", 0, "core:header_bytes"], before, file.name)(tmp_path)
    np.testing.assert_array_equal(read_samples(file), SAMPLES[:, 0])


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF])
def test_a_wav_file_that_was_never_completed_ends_with_its_samples(size, tmp_path):
    file = changed_meta(tmp_path, (["global", "core:dataset"], "alpha.wav"))
    header = b"RIFF\0\0\0\0WAVEdata" + struct.pack("<I", size)
    (tmp_path / "alpha.wav").write_bytes(header + SAMPLES.tobytes())
    np.testing.assert_array_equal(read_samples(file), SAMPLES[:, 0])


def test_a_header_that_metadata_states_goes_before_that_of_the_wav_file(tmp_path):
    file = put(tmp_path, "alpha", SAMPLES)
    before = wave_file(tmp_path / "alpha.wav", SAMPLES)
    changed(["global", "core:dataset"], "alpha.wav", file.name)(tmp_path)
    changed(["captures", 0, "core:header_bytes"], before + 40, file.name)(tmp_path)
    changed(["global", "core:trailing_bytes"], 16, file.name)(tmp_path)
    np.testing.assert_array_equal(read_samples(file), SAMPLES[10:, 0])


def test_wav_files_that_the_official_package_describes_are_read(tmp_path):
    with wave.open(str(tmp_path / "alpha.wav"), "wb") as file:
        file.setparams((2, 2, 50_000, LENGTH, "NONE", ""))
        file.writeframes(SAMPLES.tobytes())
    sigmf.convert.wav.wav_to_sigmf(tmp_path / "alpha.wav", tmp_path / "alpha.sigmf-meta", create_ncd=True)
    table = tmp_path / "receivers.csv"
    table.write_text("name,latitude_deg,longitude_deg\nalpha,45.001,7.001\n")
    dataset = hl.read_sigmf(tmp_path / "alpha.sigmf-meta", receivers=table)  # of which it says two real channels
    np.testing.assert_array_equal(dataset.iq[0, :, 0].values.T, SAMPLES[:, 0])


def test_metadata_alone_is_refused_unless_its_samples_are_there(tmp_path):
    file = changed_meta(tmp_path, (["global", "core:metadata_only"], True), (["global", "core:dataset"], "x.dat"))
    with pytest.raises(ValueError, match="has core:metadata_only; give the data"):
        hl.read_sigmf(file)
    (tmp_path / "alpha.sigmf-data").rename(tmp_path / "x.dat")
    np.testing.assert_array_equal(read_samples(file), SAMPLES[:, 0])


@pytest.mark.parametrize(
    ("stamp", "time"),
    [
        ("2024-05-01T01:30:00.5+01:30", "2024-05-01T00:00:00.5"),
        ("2024-04-30T19:00:00-0500", "2024-05-01T00:00:00"),
        ("2024-05-01T05:45:00.000000001+05:45", "2024-05-01T00:00:00.000000001"),
        ("2024-05-01 12:00:00+12", "2024-05-01T00:00:00"),
        ("2024-05-01T00:00:00,25z", "2024-05-01T00:00:00.25"),
        ("2024-05-01T00:00:00.125+00:00Z", "2024-05-01T00:00:00.125"),  # isoformat() of Python, and a "Z" besides
        ("2024-05-01T00:00:00-00:00", "2024-05-01T00:00:00"),
        ("2024-05-01T00:00:00." + "3" * 40 + "Z", "2024-05-01T00:00:00.333333333"),
    ],
)
def test_times_have_any_offset_from_utc(stamp, time, tmp_path, caplog):
    dataset = hl.read_sigmf(changed_meta(tmp_path, (["captures", 0, "core:datetime"], stamp)))
    assert dataset.start_time.values[0] == np.datetime64(time, "ns")
    assert "offset" not in caplog.text


def test_a_time_without_offset_is_utc_and_said(tmp_path, caplog):
    dataset = hl.read_sigmf(changed_meta(tmp_path, (["captures", 0, "core:datetime"], "2024-05-01T00:00:00.5")))
    assert dataset.start_time.values[0] == np.datetime64("2024-05-01T00:00:00.5", "ns")
    assert "alpha.sigmf-meta: core:datetime: 2024-05-01T00:00:00.5 names no offset, and is taken for UTC" in caplog.text


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_is_no_json(encoding, tmp_path):
    file = put(tmp_path, "alpha", SAMPLES)
    file.write_bytes(file.read_text().encode(encoding))
    collection = tmp_path / "all.sigmf-collection"
    text = json.dumps({"collection": {"core:version": "1.2.0", "core:streams": [{"name": "alpha"}]}})
    collection.write_bytes(text.encode(encoding))
    np.testing.assert_array_equal(read_samples(collection), SAMPLES[:, 0])


@pytest.mark.parametrize("number", [lambda value: value, lambda value: f"{value:e}", lambda value: str(value)])
def test_numbers_are_numbers_however_they_are_written(number, tmp_path):
    file = changed_meta(
        tmp_path,
        (["global", "core:sample_rate"], number(2.4e6)),
        (["global", "core:num_channels"], number(1.0)),
        (["global", "core:offset"], number(1e3)),
        (["captures", 0, "core:sample_start"], number(1.1e3)),
        (["captures", 0, "core:header_bytes"], number(0.0)),
        (["captures", 0, "core:frequency"], number(145.5e6)),
        (["captures", 0, "core:geolocation", "coordinates"], [number(7.125), number(45.25), number(300.0)]),
        (["annotations"], [{"core:sample_start": number(1.1e3), "core:sample_count": number(2e2)}]),
    )
    dataset = hl.read_sigmf(file)
    assert (dataset.attrs["sample_rate_hz"], dataset.attrs["centre_frequency_hz"]) == (2.4e6, 145.5e6)
    assert [dataset[f"receiver_{axis}"].item() for axis in ("longitude", "latitude", "altitude")] == [7.125, 45.25, 300]
    np.testing.assert_array_equal(dataset.iq[0, 0].values.T, SAMPLES[100:, 0])


@pytest.mark.parametrize("kind", ["point", "POINT", "Point"])
def test_types_of_geojson_are_read_in_any_case(kind, tmp_path):
    place = {"type": kind, "coordinates": [7.5, 45.5]}
    file = changed_meta(tmp_path, (["captures", 0, "core:geolocation"], None), (["global", "core:geolocation"], place))
    assert hl.read_sigmf(file).receiver_longitude.item() == 7.5


@pytest.mark.parametrize("name", ["day_12:00:00", 'a*b?c"d<e>f|g', "back\\slash", "two  words", "dots.and.dots", "ÅÄÖ"])
def test_recordings_have_any_name_that_files_have(name, tmp_path):
    file = put(tmp_path, name, SAMPLES, describe("alpha"))
    pairs = put(tmp_path, "beta", SAMPLES, describe("bravo", dataset=f"{name}.sigmf-data"))
    collection = tmp_path / f"{name}.sigmf-collection"
    streams = [{"name": name}, {"name": "beta.sigmf-meta"}]
    collection.write_text(json.dumps({"collection": {"core:version": "1.2.0", "core:streams": streams}}))
    dataset = hl.read_sigmf(collection)
    assert list(dataset.receiver_name.values) == [name, "beta"]
    assert dataset.equals(hl.read_sigmf([file, pairs]))


def test_extensions_are_optional(tmp_path):
    file = put(tmp_path, "rec.2024", SAMPLES, describe("alpha"))
    for name in ("rec.2024", "rec.2024.sigmf-data", "rec.2024.sigmf-meta"):
        assert hl.read_sigmf(tmp_path / name).equals(hl.read_sigmf(file))
    (tmp_path / "all.sigmf-collection").write_text(
        json.dumps({"collection": {"core:version": "1.2.0", "core:streams": [{"name": "rec.2024"}]}})
    )
    assert hl.read_sigmf(tmp_path / "all").equals(hl.read_sigmf(file))
    pack(tmp_path / "packed.sigmf", [file])
    assert hl.read_sigmf(tmp_path / "packed").equals(hl.read_sigmf(file))
    with pytest.raises(ValueError, match=r"rec: is no SigMF file; give a .sigmf-collection"):
        hl.read_sigmf(tmp_path / "rec")
    with pytest.raises(ValueError, match=r"\.: is no SigMF file"):
        hl.read_sigmf(".")


def test_recordings_of_one_name_are_told_apart_by_their_folders(tmp_path):
    files = [put(tmp_path / place, "rec", SAMPLES, describe(place)) for place in ("alpha", "bravo")]
    dataset = hl.read_sigmf(files)
    assert list(dataset.receiver_name.values) == ["alpha/rec", "bravo/rec"]
    table = tmp_path / "receivers.csv"
    table.write_text("name,latitude_deg,longitude_deg\nbravo/rec,45.001,7.001\n")
    assert hl.read_sigmf(files, receivers=table).receiver_latitude.values.tolist() == [[45.0, 45.001]]


def pack(archive, files, folder="", mode="w"):
    """Tar files, each with the samples beside it."""
    with tarfile.open(archive, mode) as members:
        for file in files:
            for path in sorted(file.parent.glob(f"{file.stem}.*")):
                members.add(path, f"{folder}{path.name}")
    return archive


@pytest.fixture
def network(tmp_path):
    """Three recordings: one over a WAV file, one with a header."""
    folder = tmp_path / "network"
    files = [put(folder, name, noise(LENGTH, seed=seed)) for seed, name in enumerate(("alpha", "bravo", "charlie"))]
    (folder / "bravo.sigmf-data").unlink()
    wave_file(folder / "bravo.wav", noise(LENGTH, seed=1))
    changed(["global", "core:dataset"], "bravo.wav")(folder)
    return files


@pytest.mark.parametrize(
    ("ending", "mode"),
    [
        (".sigmf", "w"),
        (".sigmf.gz", "w:gz"),
        (".sigmf", "w:gz"),
        (".SIGMF.XZ", "w:xz"),
        (".tar", "w"),
        (".tgz", "w:gz"),
        (".tar.gz", "w:gz"),
        (".tar.bz2", "w:bz2"),
    ],
)
def test_archives_hold_several_recordings(ending, mode, network, tmp_path):
    archive = pack(tmp_path / f"field{ending}", network, "some/folder/", mode)
    before = sorted(path for path in tmp_path.rglob("*"))
    assert hl.read_sigmf(archive).equals(hl.read_sigmf(network))
    assert sorted(path for path in tmp_path.rglob("*")) == before


def test_zip_files_are_archives_too(network, tmp_path):
    with zipfile.ZipFile(tmp_path / "field.zip", "w", zipfile.ZIP_DEFLATED) as members:
        members.mkdir("folder")
        for path in sorted(network[0].parent.iterdir()):
            members.write(path, f"folder/{path.name}")
            members.writestr(f"__MACOSX/folder/._{path.name}", b"\0")
    assert hl.read_sigmf(tmp_path / "field.zip").equals(hl.read_sigmf(network))


@pytest.mark.parametrize("ending", [".sigmf", ".sigmf.gz", ".sigmf.xz", ".sigmf.zip"])
def test_archives_of_the_official_package_are_read(ending, tmp_path):
    file = put(tmp_path, "alpha", SAMPLES)
    sigmf.fromfile(file).archive(str(tmp_path / f"packed{ending}"))
    np.testing.assert_array_equal(read_samples(tmp_path / f"packed{ending}"), SAMPLES[:, 0])


def test_archives_of_single_stations_make_a_network(tmp_path):
    archives = []
    for name in ("alpha", "bravo"):
        file = put(tmp_path / name, "rec", noise(LENGTH, seed=len(archives)), describe(name))
        archives.append(pack(tmp_path / f"{name}.sigmf", [file]))
    dataset = hl.read_sigmf(archives)
    assert list(dataset.receiver_name.values) == ["alpha/rec", "bravo/rec"]
    for index in range(2):
        np.testing.assert_array_equal(dataset.iq[0, index].values.T, noise(LENGTH, seed=index)[:, 0])


def test_a_collection_in_an_archive_says_the_order(network, tmp_path):
    archive = pack(tmp_path / "field.sigmf", network, "recordings/")
    streams = [{"name": name} for name in ("charlie", "alpha")]
    content = json.dumps({"collection": {"core:version": "1.2.0", "core:streams": streams}}).encode()
    with tarfile.open(archive, "a") as members:
        member = tarfile.TarInfo("field.sigmf-collection")
        member.size = len(content)
        members.addfile(member, io.BytesIO(content))
    assert hl.read_sigmf(archive).equals(hl.read_sigmf([network[2], network[0]]))


def test_what_archives_unpack_to_is_limited(network, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "temporary").mkdir()
    archives = [pack(tmp_path / f"{number}.tgz", [file], mode="w:gz") for number, file in enumerate(network)]
    assert hl.read_sigmf(archives, unpacked_limit_bytes=40_000).sizes["receiver"] == 3
    with pytest.raises(ValueError, match=r"1.tgz: holds more than the .* MB that are left"):
        hl.read_sigmf(archives, unpacked_limit_bytes=15_000)
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as members:
        members.writestr("x.sigmf-data", bytes(10**6))
    with pytest.raises(ValueError, match=r"bomb.zip: holds more than the 0.1 MB"):
        hl.read_sigmf(bomb, unpacked_limit_bytes=100_000)
    with pytest.raises(ValueError, match="unpacked_limit_bytes: does not hold numbers"):
        hl.read_sigmf(bomb, unpacked_limit_bytes="much")
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_archives_that_end_early_are_refused(mode, network, tmp_path):
    archive = pack(tmp_path / "field.sigmf", network, mode=mode)
    os.truncate(archive, archive.stat().st_size // 3)
    with pytest.raises(ValueError, match=r"field.sigmf: is no SigMF archive .*fetch it again"):
        hl.read_sigmf(archive)


@given(drawn=st.data())
def test_damaged_archives_are_read_or_refused_by_name(drawn, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "damaged"
    if not folder.exists():
        file = put(folder, "alpha", noise(10))
        for mode in ("w", "w:gz", "w:xz", "w:bz2"):
            pack(folder / f"{mode[2:] or 'tar'}.sigmf", [file], mode=mode)
        with zipfile.ZipFile(folder / "zip.sigmf", "w", zipfile.ZIP_DEFLATED) as members:
            for path in (file, file.with_suffix(".sigmf-data")):
                members.write(path, path.name)
    whole = drawn.draw(st.sampled_from(sorted(folder.glob("*.sigmf"))))
    content = bytearray(whole.read_bytes())
    for _ in range(drawn.draw(st.integers(1, 3))):
        content[drawn.draw(st.integers(0, min(len(content), 2000) - 1))] = drawn.draw(st.integers(0, 255))
    damaged = folder / "damaged.sigmf"
    damaged.write_bytes(content[: drawn.draw(st.none() | st.integers(0, len(content)))])
    try:
        assert hl.read_sigmf(damaged, unpacked_limit_bytes=10**6).sizes["receiver"] == 1
    except ValueError as error:
        assert "damaged.sigmf" in str(error)  # noqa: PT017
    finally:
        damaged.unlink()


def test_archives_lead_nowhere_else(network, tmp_path):
    """Names with folders above, links, and samples that only lie beside the archive."""
    changed(["global", "core:dataset"], "secret.dat", "alpha.sigmf-meta")(network[0].parent)
    (tmp_path / "secret.dat").write_bytes(SAMPLES.tobytes())
    archive = tmp_path / "field.sigmf"
    with tarfile.open(archive, "w") as members:
        members.add(network[0], "../alpha.sigmf-meta")
        link = tarfile.TarInfo("secret.dat")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "secret.dat")
        members.addfile(link)
    with pytest.raises(ValueError, match=r"field.sigmf/secret.dat: cannot be read"):
        hl.read_sigmf(archive)


def test_archives_without_recordings_are_refused(tmp_path):
    for name, content in (("not.sigmf", b"x" * 600), ("not.zip", b"PK\3\4"), ("empty.sigmf.gz", b"\x1f\x8b")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name}: is no SigMF archive"):
            hl.read_sigmf(tmp_path / name)
    pack(tmp_path / "none.sigmf", [])
    with pytest.raises(ValueError, match=r"none.sigmf: holds no .sigmf-meta"):
        hl.read_sigmf(tmp_path / "none.sigmf")


def test_files_of_any_name_hold_the_samples_that_metadata_says(network, tmp_path):
    files = sorted(network[0].parent.iterdir())
    assert read_files(files).equals(hl.read_sigmf(network))
    (tmp_path / "more.wav").write_bytes(b"")
    with pytest.raises(ValueError, match=r"are mixed; .* name more.wav in a .sigmf-meta as core:dataset"):
        read_files([*files, tmp_path / "more.wav"])
    with pytest.raises(ValueError, match=r"notes.txt: is no recording, nor core:dataset of any"):
        read_files([*files, tmp_path / "notes.txt"])
    archive = pack(tmp_path / "field.tar.gz", network[:2], mode="w:gz")
    assert read_files([archive, network[2]]).sizes["receiver"] == 3
    with pytest.raises(ValueError, match=r"holds more than the 0\.001 MB"):
        read_files([archive], unpacked_limit_bytes=1000)
