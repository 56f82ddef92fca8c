"""Recordings that state, or unpack to, more than any has are refused before that is read; messages stay short."""

import gzip
import io
import json
import struct
import tarfile
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import heimdall_lab as hl
from heimdall_lab.datasets.recordings import kiwi_wav, sigmf_stored, wav_files
from heimdall_lab.datasets.recordings.sigmf_files import META_LIMIT_BYTES

LONGEST = 700  # of a message, the path of the file included
META = {
    "global": {
        "core:datatype": "ci16_le",
        "core:sample_rate": 1e4,
        "core:version": "1.2.6",
        "core:geolocation": {"type": "Point", "coordinates": [8, 44]},
    },
    "captures": [{"core:sample_start": 0}],
    "annotations": [],
}


def recording(folder, text=None, samples=1000):
    meta = folder / "a.sigmf-meta"
    meta.write_text(json.dumps(META) if text is None else text)
    (folder / "a.sigmf-data").write_bytes(bytes(4 * samples))
    return meta


def refusal(read, *arguments):
    """Message of what is refused, and the most memory that Python held meanwhile."""
    tracemalloc.start()
    try:
        with pytest.raises(ValueError) as error:  # noqa: PT011  the message is the result
            read(*arguments)
        return str(error.value), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def tar_of(names, content=b""):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in names:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def zip_of(count, folder="r"):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number in range(count):
            archive.writestr(f"{folder}{number}/r.sigmf-meta", "")
    return buffer.getvalue()


MANY = [f"r{number}/r.sigmf-meta" for number in range(sigmf_stored.MOST_FILES + 1)]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("many.sigmf", tar_of(MANY), "holds more than 1,000 files"),
        ("many.sigmf.gz", gzip.compress(tar_of(MANY), 1), "holds more than 1,000 files"),
        ("many.zip", zip_of(1001), "holds more than 1,000 files"),
        ("many.zip", zip_of(20, "r" * 60_000), "has a header or table of contents of more than 1 MB"),
        ("name.sigmf", tar_of(["a" * 3000]), "names a file with 3000 characters, more than 200"),
        ("name.sigmf", tar_of(["a" * 2_000_000]), "has a header or table of contents of more than 1 MB"),
    ],
    ids=["tar", "tar.gz", "zip", "table of a zip", "name", "header"],
)
def test_archives_of_too_many_files_or_too_long_names_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    found, peak = refusal(hl.read_sigmf, tmp_path / name)
    assert message in found
    assert len(found) < LONGEST
    assert peak < 50e6


def test_archives_that_unpack_to_what_no_samples_do_are_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(sigmf_stored, "_MOST_PACKED_TIGHTLY_BYTES", 10_000_000)
    zeros = bytes(40_000_000)
    (tmp_path / "bomb.sigmf.gz").write_bytes(gzip.compress(tar_of(["a.sigmf-data"], zeros), 1))
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("a.sigmf-data", zeros)
    for name in ("bomb.sigmf.gz", "bomb.zip"):
        found, peak = refusal(hl.read_sigmf, tmp_path / name)
        assert "MB that are left for what is unpacked" in found
        assert peak < 20e6


def test_metadata_of_too_many_bytes_are_not_read(tmp_path):
    meta = recording(tmp_path)
    with meta.open("ab") as file:
        file.truncate(META_LIMIT_BYTES + 1)
    found, peak = refusal(hl.read_sigmf, meta)
    assert "holds 10 MB, more than 10 MB" in found
    assert "annotations" in found
    assert peak < 5e6


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(META | {"captures": [{"core:sample_start": 0, "core:datetime": "2020" + "1" * 10**6}]}),
        json.dumps(META).replace("ci16_le", "x" * 10**6),
        json.dumps(META).replace("10000.0", '"' + "1" * 10**6 + '"'),
        json.dumps(META).replace("10000.0", "1" * 10**6),
        json.dumps(META).replace('"annotations": []', '"annotations": ' + "[" * 10**5),
        json.dumps(META | {"x" * 10**6: 1, "captures": {"x" * 10**6: 1}}),
        json.dumps(META | {"captures": [{"core:sample_start": 0}] * 20_000}),
    ],
    ids=["datetime", "datatype", "text", "number", "nesting", "name", "captures"],
)  # fmt: skip
def test_no_message_repeats_much_of_metadata(tmp_path, text):
    found, _ = refusal(hl.read_sigmf, recording(tmp_path, text))
    assert len(found) < LONGEST


def test_collections_of_too_many_recordings_are_refused(tmp_path):
    recording(tmp_path)
    collection = tmp_path / "c.sigmf-collection"
    collection.write_text(json.dumps({"collection": {"core:streams": [{"name": "a"}] * 2000}}))
    found, _ = refusal(hl.read_sigmf, collection)
    assert "at most 1000 items" in found
    assert len(found) < LONGEST


def wav(*chunks):
    body = b"WAVE" + b"".join(name + struct.pack("<I", len(content)) + content for name, content in chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


FORMAT = (b"fmt ", struct.pack("<HHIIHH", 1, 2, 12_000, 48_000, 4, 16))


def test_wavs_of_too_many_chunks_are_refused(tmp_path):
    file = tmp_path / "a.wav"
    file.write_bytes(wav(FORMAT, *[(b"junk", b"")] * 2000, (b"kiwi", bytes(10)), (b"data", bytes(400))))
    with pytest.raises(ValueError, match=r"has more than 1,000 chunks"):
        wav_files.open_wav(file)
    assert not wav_files.has_gnss_stamps(file)
    with pytest.raises(ValueError, match="no GNSS stamps"):
        kiwi_wav.parse_wav(file.read_bytes(), "a.wav")


def test_tables_of_messages_are_limited(tmp_path, monkeypatch):
    from heimdall_lab.datasets.recordings import locards

    messages, sensors = tmp_path / "set.csv", tmp_path / "sensors.csv"
    sensors.write_text("serial,latitude,longitude,height,type\n" + "".join(f"{n},44,{n},0,Radarcape\n" for n in (1, 2)))
    header = "id,latitude,longitude,baroAltitude,geoAltitude,numMeasurements,measurements\n"
    messages.write_text(header + "".join(f'{n},44,8,1,1,1,"[[{n},1,1]]"\n' for n in (1, 2)))
    monkeypatch.setattr(locards, "_MOST_CELLS", 3)
    assert "2 messages of 2 sensors are more than 3 pairs" in refusal(hl.read_locards, messages, sensors)[0]
    messages.write_text(header + "1,44,8,1,1,1," + "x" * 10**6)
    assert len(refusal(hl.read_locards, messages, sensors)[0]) < LONGEST
    messages.write_text(header + "1,44,8,1,1,1," + "x" * 10**5)
    assert len(refusal(hl.read_locards, messages, sensors)[0]) < LONGEST
    with messages.open("ab") as file:
        file.truncate(200_000_000)
    found, peak = refusal(hl.read_locards, messages, sensors)
    assert "row 2: is of 1,000,000 characters or more" in found
    assert peak < 10e6
    with messages.open("ab") as file:
        file.truncate(300_000_000)
    found, peak = refusal(hl.read_locards, messages, sensors)
    assert "larger than 250 MB" in found
    assert peak < 5e6


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30) | st.just("9" * 5000),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELDS = [
    *(f"core:{name}" for name in ("datatype", "sample_rate", "num_channels", "sha512", "dataset", "offset")),
    *(f"core:{name}" for name in ("trailing_bytes", "metadata_only", "geolocation", "extensions", "sample_start")),
    *(f"core:{name}" for name in ("datetime", "frequency", "header_bytes", "sample_count")),
    *("heimdall:channels", "heimdall:attributes", "heimdall:variables"),
]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["global", "captures", "annotations"]),
    st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=8), JSON, max_size=3),
    st.integers(0, 3),
)
def test_any_metadata_is_read_or_refused_in_a_short_message(tmp_path, place, changes, count):
    meta = json.loads(json.dumps(META))
    if place == "global":
        meta["global"] |= changes
    else:
        meta[place] = [{"core:sample_start": 10 * number} | changes for number in range(count)]
    message = ""
    try:
        hl.read_sigmf(recording(tmp_path, json.dumps(meta)))
    except ValueError as error:
        message = str(error)
    assert len(message) < LONGEST


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_wav_is_read_or_refused_in_a_short_message(tmp_path, data):
    """Headers with some bytes changed, cut or repeated."""
    blocks = [(b"kiwi", struct.pack("<BBII", n % 3, 0, n, 0)) for n in range(30)]
    samples = np.zeros(200, np.int16).tobytes()
    whole = bytearray(
        data.draw(st.sampled_from([
            wav(FORMAT, (b"auxi", bytes(36)), (b"data", samples)),
            wav(FORMAT, *[each for block in blocks for each in (block, (b"data", samples))]),
        ]))
    )  # fmt: skip
    for place in data.draw(st.lists(st.integers(0, 120), max_size=6)):
        whole[place] = data.draw(st.integers(0, 255))
    file = tmp_path / "20200101T000000Z_1000_A_iq.wav"
    file.write_bytes(whole[: data.draw(st.sampled_from([len(whole), 0, 11, 45, 60, 100]))])
    for read in (wav_files.open_wav, lambda path: kiwi_wav.fit_clock(kiwi_wav.parse_wav(path.read_bytes(), "A"), "A")):
        message = ""
        try:
            read(file)
        except ValueError as error:
            message = str(error)
        assert len(message) < LONGEST
