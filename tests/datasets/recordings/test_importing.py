"""SigMF of WAVs and raw samples: every sample, what files tell, and nothing half-written."""

import json
from datetime import timedelta

import numpy as np
import pytest
from wav_recordings import STARTED, auxi_chunk, hdsdr_bytes, rcvr_chunk, stored, wav_bytes

from heimdall_lab.datasets import recordings
from heimdall_lab.datasets.recordings import importing, sigmf_files

PLACES = {"alpha": (45.0007, 7.0001, 230.0), "bravo": (46.0002, 8.0003, 0.0), "charlie": (45.5004, 9.0006, 0.0)}


def random_values(count=2_000, channels=2):
    return np.random.Generator(np.random.Philox(4)).uniform(-1, 1, (count, channels))


def samples_of(meta):
    return sigmf_files.load_recording(meta, meta.stem, {}).segments[0].samples


@pytest.mark.parametrize(
    ("kind", "datatype", "scale"),
    [("u1", "ci8", 1), ("i2", "ci16_le", 1), ("i3", "ci32_le", 2**8), ("i4", "ci32_le", 1), ("f4", "cf32_le", 1)],
)
def test_all_samples_of_a_wav_are_kept(tmp_path, kind, datatype, scale, monkeypatch):
    monkeypatch.setattr(importing, "_BATCH_SAMPLES", 300)  # several batches
    values = random_values()
    file = tmp_path / "torino_20160101_231914Z_14100kHz.wav"
    file.write_bytes(wav_bytes(values, 48_000, kind, riff=b"RF64"))
    meta = recordings.import_recording(file, tmp_path / "new" / "folder")
    assert meta == tmp_path / "new" / "folder" / f"{file.stem}.sigmf-meta"
    about = json.loads(meta.read_text())["global"]
    assert (about["core:datatype"], about["core:sample_rate"]) == (datatype, 48_000)
    if kind[0] == "f":
        expected = values.astype("f4")
    else:
        expected = np.rint(values * (2 ** (8 * int(kind[1]) - 1) - 1)).astype(int) * scale
    np.testing.assert_array_equal(samples_of(meta)[:, 0], expected)


@pytest.mark.parametrize(
    ("suffix", "datatype", "kind"),
    [(".cu8", "cu8", "u1"), (".cs8", "ci8", "i1"), (".cs16", "ci16_le", "i2"), (".CF32", "cf32_le", "f4")],
)
def test_raw_samples_are_copied(tmp_path, suffix, datatype, kind):
    file = tmp_path / f"any{suffix}"
    file.write_bytes(stored(random_values(), kind))
    meta = recordings.import_recording(
        file,
        tmp_path,
        sample_rate_hz=2.4e6,
        centre_frequency_hz=433.92e6,
        start="2024-05-01T12:00:00.123456789Z",
        position=(45.0007, 7.0001, 230),
        name="torino",
    )
    content = json.loads(meta.read_text())
    assert meta.name == "torino.sigmf-meta"
    assert meta.with_suffix(".sigmf-data").read_bytes() == file.read_bytes()
    assert content["global"]["core:datatype"] == datatype
    assert content["global"]["core:geolocation"] == {"type": "Point", "coordinates": [7.0001, 45.0007, 230]}
    assert content["captures"] == [
        {"core:sample_start": 0, "core:frequency": 433.92e6, "core:datetime": "2024-05-01T12:00:00.123456789Z"}
    ]
    recording = sigmf_files.load_recording(meta, meta.stem, {})  # which checks the hash
    assert recording.about.channels[0].name == "torino"
    assert recording.about.channels[0].attributes == {}


@pytest.mark.parametrize(
    ("chunk", "time", "sigma_s"),
    [
        (auxi_chunk(STARTED, STARTED, 7_100_000), "2016-01-01T23:19:14.123Z", 0.0200021),
        (rcvr_chunk(STARTED, 7_100_000), "2016-01-01T23:19:14Z", 0.289366),
    ],
)
def test_what_headers_tell_is_kept_with_what_it_is_worth(tmp_path, chunk, time, sigma_s):
    file = tmp_path / "torino.wav"
    file.write_bytes(wav_bytes(random_values(), 48_000, before=chunk))
    content = json.loads(recordings.import_recording(file, tmp_path).read_text())
    assert content["captures"] == [{"core:sample_start": 0, "core:frequency": 7_100_000, "core:datetime": time}]
    (channel,) = content["global"]["heimdall:channels"]
    assert channel["attributes"]["clock_sigma_s"] == pytest.approx(sigma_s, rel=1e-5)


def test_imported_recordings_are_read_as_the_wavs_are(tmp_path):
    """Starts that differ by whole samples leave those of 16 bits as they are."""
    table, files = tmp_path / "stations.csv", []
    rows = [f"{name},{latitude},{longitude},{altitude}" for name, (latitude, longitude, altitude) in PLACES.items()]
    table.write_text("\n".join(["name,latitude_deg,longitude_deg,altitude_m", *rows]))
    for number, name in enumerate(PLACES):
        start = STARTED + timedelta(milliseconds=10 * number)
        files.append(tmp_path / f"{name}.wav")
        files[-1].write_bytes(hdsdr_bytes(lambda t: 0.5 * np.exp(2j * np.pi * 1_000 * t), 12_000, start, 0.5))
    metas = [
        recordings.import_recording(file, tmp_path / "sigmf", position=PLACES[file.stem], overwrite=True)
        for file in files
    ]
    imported, read = recordings.read_sigmf(metas), recordings.read_wav(files, table)
    assert list(imported.receiver_name.values) == list(read.receiver_name.values)
    for name in ("latitude", "longitude", "altitude"):
        np.testing.assert_array_equal(imported[f"receiver_{name}"], read[f"receiver_{name}"])
    for name in (
        "centre_frequency_hz",
        "sample_rate_hz",
        "clock_sigma_s",
        "max_clock_offset_s",
        "clock_source",
        "propagation",
    ):
        assert imported.attrs[name] == read.attrs[name]
    assert imported.start_time.values[0] == np.datetime64("2016-01-01T23:19:14.143", "ns")


def test_nothing_is_overwritten_unless_said(tmp_path):
    first, second = tmp_path / "a.cs8", tmp_path / "b.cs8"
    first.write_bytes(stored(random_values(10), "i1"))
    second.write_bytes(stored(random_values(20), "i1"))
    meta = recordings.import_recording(first, tmp_path, sample_rate_hz=1e6, name="torino")
    before = meta.read_bytes()
    with pytest.raises(ValueError, match=r"torino\.sigmf-meta: exists; .* overwritten"):
        recordings.import_recording(second, tmp_path, sample_rate_hz=1e6, name="torino")
    assert meta.read_bytes() == before
    recordings.import_recording(second, tmp_path, sample_rate_hz=1e6, name="torino", overwrite=True)
    assert len(samples_of(meta)) == 20
    meta.unlink()
    with pytest.raises(ValueError, match=r"torino\.sigmf-data: exists"):
        recordings.import_recording(second, tmp_path, sample_rate_hz=1e6, name="torino")


def test_an_import_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    source, out = tmp_path / "a.cs8", tmp_path / "out"
    source.write_bytes(stored(random_values(), "i1"))
    meta = recordings.import_recording(source, out, sample_rate_hz=1e6)
    before = {file.name: file.read_bytes() for file in out.iterdir()}

    def half(*_):
        yield b"half"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(importing, "_pieces", half)
    with pytest.raises(ValueError, match=r"a\.cs8: cannot be read \(No space"):
        recordings.import_recording(source, out, sample_rate_hz=1e6, overwrite=True)
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before
    with pytest.raises(ValueError, match="No space"):
        recordings.import_recording(source, tmp_path / "other", sample_rate_hz=1e6)
    assert list((tmp_path / "other").iterdir()) == []
    assert meta.exists()


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("a.cs16", bytes(8), {}, r"sample_rate_hz: is None for a\.cs16"),
        ("a.cs16", bytes(8), {"sample_rate_hz": float("nan")}, "sample_rate_hz: is nan"),
        ("a.cs16", bytes(7), {"sample_rate_hz": 1e6}, r"a\.cs16 has 7 bytes, no positive multiple of 4"),
        ("a.cf32", b"", {"sample_rate_hz": 1e6}, r"a\.cf32 has 0 bytes"),
        ("a.raw", bytes(8), {"sample_rate_hz": 1e6}, r"a\.raw: is no recording to import; .* \.wav, \.cu8"),
        ("a.wav", b"RIFF", {}, r"a\.wav is not a RIFF/WAVE file"),
        (
            "a.cu8",
            bytes(8),
            {"sample_rate_hz": 1e6, "start": "2024-05-01 12:00"},
            "start: '2024-05-01 12:00' is refused",
        ),
        ("a.cu8", bytes(8), {"sample_rate_hz": 1e6, "start": "2024-13-01T12:00:00Z"}, "start: .*month must be in"),
        ("a.cu8", bytes(8), {"sample_rate_hz": 1e6, "position": (95, 7)}, r"position: is \(95, 7\)"),
        ("a.cu8", bytes(8), {"sample_rate_hz": 1e6, "position": (45, 7, float("inf"))}, "altitude of inf"),
        ("a.cu8", bytes(8), {"sample_rate_hz": 1e6, "name": "../a"}, r"name: '\.\./a' cannot name a file"),
    ],
)
def test_wrong_arguments_and_files_are_refused(tmp_path, name, content, options, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        recordings.import_recording(tmp_path / name, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_missing_file_is_named(tmp_path):
    for name in ("none.cu8", "none.wav"):
        with pytest.raises(ValueError, match=f"{name}: cannot be read"):
            recordings.import_recording(tmp_path / name, tmp_path, sample_rate_hz=1e6)
