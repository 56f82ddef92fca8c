"""WAV recordings of SDR programs: layouts, values, start times and frequencies, and what is said of their clocks."""

import json
import math
import struct
from datetime import UTC, datetime, timedelta
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kiwi_recordings import kiwi_bytes
from kiwi_recordings import tone as kiwi_tone
from wav_recordings import STARTED, auxi_chunk, chunk, hdsdr_bytes, rcvr_chunk, wav_bytes

from heimdall_lab.datasets import recordings
from heimdall_lab.datasets.recordings import wav_files
from heimdall_lab.datasets.recordings.files import read_files
from heimdall_lab.localization import estimators, sentences
from heimdall_lab.signals import measurements, pairs

PLACES = {"alpha": (45.0007, 7.0001), "bravo": (46.0002, 8.0003), "charlie": (45.5004, 9.0006)}
DELAYS_S = {"alpha": 0.0, "bravo": 123.456e-6, "charlie": -82.1e-6}


def noise(delay_s=0.0):
    """Band-limited noise within ±4.2 kHz, as a function of seconds since STARTED."""
    rng = np.random.Generator(np.random.Philox(9))
    frequency_hz = rng.uniform(-4_200.0, 4_200.0, 50)
    amplitude = (rng.standard_normal(50) + 1j * rng.standard_normal(50)) * 0.02
    return lambda t: np.exp(2j * np.pi * np.multiply.outer(t - delay_s, frequency_hz)) @ amplitude


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "stations.csv"
    rows = [f"{name},{latitude},{longitude}" for name, (latitude, longitude) in PLACES.items()]
    path.write_text("\n".join(["name,latitude_deg,longitude_deg", *rows]))
    return path


@pytest.fixture
def put(tmp_path):
    """Write recordings by their stations, as HDSDR names them."""

    def write(contents, ending="HDSDR_20160101_231914Z_14100kHz_RF"):
        files = [tmp_path / f"{name}_{ending}.wav" for name in contents]
        for file, content in zip(files, contents.values(), strict=True):
            file.write_bytes(content)
        return files

    return write


def voltages(dataset):
    """Complex samples of the first window, of which the full scale of the WAV is 1, (receiver, time)."""
    iq = dataset.iq.values[0] / 32_767
    return (iq[:, 0] + 1j * iq[:, 1]) * dataset.iq_full_scale.values[0][:, None]


def since_started_s(dataset):
    begin_s = (dataset.start_time.values[0] - np.datetime64(STARTED.replace(tzinfo=None), "ns")) / np.timedelta64(
        1, "s"
    )
    return begin_s + dataset.time.values


@pytest.mark.parametrize("riff", [b"RIFF", b"RF64", b"BW64"])
@pytest.mark.parametrize(
    ("kind", "step"),
    [("u1", 2.0**-7), ("i2", 2.0**-15), ("i3", 2.0**-23), ("i4", 2.0**-31), ("f4", 2.0**-24), ("f8", 0)],
)
def test_every_format_has_its_values(tmp_path, riff, kind, step):
    values = np.random.Generator(np.random.Philox(1)).uniform(-1, 1, (1001, 2))
    values[0] = 0.0
    file = tmp_path / "any.wav"
    file.write_bytes(
        wav_bytes(values, 48_000, kind, riff=riff, before=chunk(b"LIST", b"odd"), after=chunk(b"id3 ", b"x"))
    )
    wav = wav_files.open_wav(file)
    assert (wav.sample_rate_hz, wav.channels, wav.frames) == (48_000, 2, 1001)
    assert wav.voltage(0, 1) == 0
    expected = values[3:999] @ [1, 1j]
    assert np.abs(wav.voltage(3, 999) - expected).max() <= 1.5 * math.sqrt(2) * step + 1e-15


@pytest.mark.parametrize("kind", ["i2", "f4"])
def test_extensible_formats_and_single_channels_are_read(tmp_path, kind):
    values = np.linspace(-0.9, 0.9, 100)[:, None]
    file = tmp_path / "real.wav"
    file.write_bytes(wav_bytes(values, 96_000, kind, extensible=True))
    found = wav_files.open_wav(file).voltage(0, 100)
    assert np.abs(found - values[:, 0]).max() <= 1.5 * 2.0**-15  # half a step, and 32,767 steps for 32,768


def test_the_chunk_auxi_goes_before_the_name(tmp_path):
    file = tmp_path / "HDSDR_20150519_082501Z_7100kHz_RF.wav"
    stop = STARTED + timedelta(seconds=3)
    file.write_bytes(wav_bytes(np.zeros((10, 2)), 48_000, before=auxi_chunk(STARTED, stop, 14_100_000)))
    wav = wav_files.open_wav(file)
    assert wav.start == wav_files.Start(STARTED, Fraction(1, 1000))
    assert (wav.stop, wav.centre_frequency_hz) == (stop, 14_100_000)


def test_a_chunk_auxi_after_the_samples_is_found(tmp_path):
    file = tmp_path / "any.wav"
    file.write_bytes(wav_bytes(np.zeros((10, 2)), 48_000, after=auxi_chunk(STARTED, STARTED, 14_100_000)))
    assert wav_files.open_wav(file).start.time == STARTED


def test_a_start_without_milliseconds_is_known_to_the_second(tmp_path):
    file = tmp_path / "any.wav"
    whole = STARTED.replace(microsecond=0)
    file.write_bytes(wav_bytes(np.zeros((10, 2)), 48_000, before=auxi_chunk(whole, whole, 0)))
    wav = wav_files.open_wav(file)
    assert wav.start == wav_files.Start(whole, Fraction(1))
    assert math.isnan(wav.centre_frequency_hz)


def test_the_chunk_of_perseus_tells_start_and_frequency(tmp_path):
    file = tmp_path / "any.wav"
    file.write_bytes(wav_bytes(np.zeros((10, 2)), 125_000, "i3", before=rcvr_chunk(STARTED, 1_269_000)))
    wav = wav_files.open_wav(file)
    assert wav.start == wav_files.Start(STARTED.replace(microsecond=0), Fraction(1))
    assert wav.centre_frequency_hz == 1_269_000


@pytest.mark.parametrize(
    ("stem", "second", "frequency_hz"),
    [
        ("SDRSharp_20160101_231914Z_12kHz_IQ", 14, 12e3),
        ("HDSDR_20150519_082501Z_14100kHz_RF", 1, 14.1e6),
        ("SDRuno_20200904_204456Z_98.5MHz", 56, 98.5e6),
        ("20200813T065220Z_77500_HB9ODP_iq", 20, 77_500),
        ("alpha_20160101_231914Z", 14, math.nan),
        ("alpha_20160101_231914Z_IQ", 14, math.nan),
    ],
)
def test_names_of_files_tell_what_headers_do_not(tmp_path, stem, second, frequency_hz):
    file = tmp_path / f"{stem}.wav"
    xml = "<?xml version='1.0'?><SDR-XML-Root/>".encode("utf-16-le") + bytes(100)
    file.write_bytes(wav_bytes(np.zeros((10, 2)), 48_000, before=chunk(b"auxi", xml)))
    wav = wav_files.open_wav(file)
    assert wav.start.time.second == second
    assert wav.start.resolution_s == 1
    assert wav.centre_frequency_hz == pytest.approx(frequency_hz, nan_ok=True)


@pytest.mark.parametrize(
    "stem", ["alpha", "alpha_20160101_231914", "alpha_20161301_231914Z", "alpha_120160101_231914Z"]
)
def test_no_start_is_made_up(tmp_path, stem):
    file = tmp_path / f"{stem}.wav"
    file.write_bytes(wav_bytes(np.zeros((10, 2)), 48_000))
    assert wav_files.open_wav(file).start is None


@pytest.mark.parametrize("size", [0, 2**32 - 1])
def test_samples_of_a_recording_that_was_cut_off_are_all_read(tmp_path, size):
    file = tmp_path / "any.wav"
    content = bytearray(wav_bytes(np.zeros((10, 2)), 48_000))
    place = content.index(b"data") + 4
    content[place : place + 4] = struct.pack("<I", size)
    file.write_bytes(content[:-1])  # inside of a sample
    assert wav_files.open_wav(file).frames == 9


@pytest.mark.parametrize("said", [b"RF64", b"RIFF"])
def test_files_of_more_than_4_gib_are_read_to_their_end(tmp_path, said):
    """By ds64; or of 32 bits, which have overflowed, by the length of the file."""
    frames = 2**30 + 5
    content = bytearray(wav_bytes(np.zeros((1, 2)), 2_000_000, riff=said))
    place = content.index(b"data") + 4
    if said == b"RF64":
        content[28:36] = struct.pack("<Q", 4 * frames)  # after riffSize
    else:
        content[place : place + 4] = struct.pack("<I", 4 * frames % 2**32)
    file = tmp_path / "long.wav"
    with file.open("wb") as opened:  # sparse
        opened.write(content)
        opened.truncate(place + 4 + 4 * (frames - 1))
        opened.seek(0, 2)
        opened.write(struct.pack("<hh", 2**14, -(2**13)))
    wav = wav_files.open_wav(file)
    assert wav.frames == frames
    assert wav.voltage(frames - 2, frames).tolist() == [0, 0.5 - 0.25j]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"OggS" + bytes(40), "is not a RIFF/WAVE file"),
        (wav_bytes(np.zeros((10, 2)), 48_000)[:-4], r"has 36 bytes of samples, its header says 40; fetch"),
        (
            wav_bytes(np.zeros((10, 2)), 48_000, riff=b"RF64")[:-4],
            r"has 36 bytes of samples, its header says 40; fetch",
        ),
        (wav_bytes(np.zeros((10, 3)), 48_000), "3 channels"),
        (wav_bytes(np.zeros((0, 2)), 48_000), "holds no samples"),
        (wav_bytes(np.zeros((10, 2)), 0), "0 Hz"),
        (b"RIFF\x04\x00\x00\x00WAVE", "has no samples"),
        (wav_bytes(np.full((10, 2), 0.5), 48_000).replace(b"fmt \x10", b"fmt \x02", 1), "no format|no samples|RIFF"),
        (kiwi_bytes(kiwi_tone(0.0), 12_001.0, blocks=2), "is a KiwiSDR recording with GNSS stamps"),
    ],
)
def test_other_files_are_refused_by_name(tmp_path, content, message):
    file = tmp_path / "strange.wav"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        wav_files.open_wav(file)
    assert "strange.wav" in str(caught.value)


@given(data=st.data())
def test_damaged_headers_are_read_or_refused(tmp_path_factory, data):
    """Some bytes changed, or the end lost: what is read lies within the file."""
    content = bytearray(
        wav_bytes(np.zeros((10, 2)), 48_000, riff=b"RF64", before=auxi_chunk(STARTED, STARTED, 7_000_000))
    )
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    file = tmp_path_factory.getbasetemp() / "damaged.wav"
    file.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    said = file.name
    try:
        wav = wav_files.open_wav(file)
        assert wav.offset + wav.frames * wav.channels * wav.value_bytes <= file.stat().st_size
        assert len(wav.voltage(0, wav.frames)) == wav.frames
    except ValueError as error:
        said = str(error)
    assert file.name in said


def test_samples_that_are_no_numbers_are_refused(tmp_path):
    file = tmp_path / "strange.wav"
    file.write_bytes(wav_bytes(np.full((10, 2), np.nan), 48_000, "f4"))
    with pytest.raises(ValueError, match=r"strange\.wav has samples that are not finite"):
        wav_files.open_wav(file).voltage(0, 10)


def test_recordings_of_several_formats_and_rates_come_to_one_time_axis(put, table):
    formats = {"alpha": (12_000, "i2", b"RIFF"), "bravo": (16_000, "i3", b"RF64"), "charlie": (48_000, "f4", b"RIFF")}
    files = put(
        {
            name: hdsdr_bytes(
                noise(DELAYS_S[name]), rate_hz, STARTED + timedelta(milliseconds=37 * number), kind=kind, riff=riff
            )
            for number, (name, (rate_hz, kind, riff)) in enumerate(formats.items())
        }
    )
    dataset = recordings.read_wav(files, table, clock_sigma_s=1e-6)
    assert list(dataset.receiver_name.values) == list(PLACES)
    assert (dataset.attrs["sample_rate_hz"], dataset.attrs["centre_frequency_hz"]) == (12_000, 14_100_000)
    assert dataset.attrs["propagation"] == "sky_wave"
    expected = np.stack([noise(delay_s)(since_started_s(dataset)) for delay_s in DELAYS_S.values()])
    error = voltages(dataset) - expected
    assert 10 * np.log10(np.mean(np.abs(error) ** 2) / np.mean(np.abs(expected) ** 2)) < -65.0
    measured = pairs.pair_features(dataset).tdoa_s[0].values
    assert measured - measured[0] == pytest.approx(list(DELAYS_S.values()), abs=50e-9)


def test_recordings_tuned_apart_share_a_band(put, table):
    files = put(
        {
            name: hdsdr_bytes(noise(), 24_000, seconds=0.1, centre_hz=14_100_000 + 1_000 * n)
            for n, name in enumerate(PLACES)
        }
    )
    dataset = recordings.read_wav(files, table, clock_sigma_s=1e-6)
    assert (dataset.attrs["sample_rate_hz"], dataset.attrs["centre_frequency_hz"]) == (22_000, 14_101_000)
    stated = recordings.read_wav(files, table, clock_sigma_s=1e-6, centre_frequency_hz=7e6)
    assert (stated.attrs["sample_rate_hz"], stated.attrs["centre_frequency_hz"]) == (24_000, 7e6)


@pytest.mark.parametrize(("milliseconds", "sigma_s"), [(123, 0.0200021), (0, 0.289366)])
def test_clocks_are_worth_what_start_times_are_and_that_is_said(put, table, milliseconds, sigma_s):
    """A second's last digit is uniform over it: 1 / √12 s, and 20 ms of PCs besides."""
    start = STARTED.replace(microsecond=1000 * milliseconds)
    files = put({name: hdsdr_bytes(noise(DELAYS_S[name]), 12_000, start, 0.3) for name in PLACES})
    dataset = measurements.with_measurements(recordings.read_wav(files, table))
    assert dataset.attrs["clock_sigma_s"] == pytest.approx([sigma_s] * 3, rel=1e-5)
    assert dataset.attrs["max_clock_offset_s"] == pytest.approx(7 * sigma_s, rel=1e-5)
    fixes = estimators.locate(dataset, "tdoa_ls")
    assert not fixes.converged.any()
    said = sentences.clocks_sentence(dataset)
    assert f"Clocks (start time by a PC, to {'0.001' if milliseconds else '1'} s) count as good to" in said
    assert "time differences tell nothing here" in said
    assert ("20 ms" if milliseconds else "289 ms") in said
    stated = recordings.read_wav(files, table, clock_sigma_s=2e-6)
    assert sentences.clocks_sentence(stated) == ("Clocks (stated) count as good to 2.00 µs, 600 m of path.")


def test_recordings_without_start_times_need_a_statement_of_their_clocks(put, table):
    content = {name: hdsdr_bytes(noise(), 12_000).replace(b"auxi", b"none") for name in PLACES}
    files = put(content, "IQ")
    with pytest.raises(ValueError, match=r"alpha_IQ\.wav: neither its header nor its name says when .* clock_sigma_s"):
        recordings.read_wav(files, table)
    dataset = recordings.read_wav(files, table, clock_sigma_s=1e-6, centre_frequency_hz=433.9e6)
    assert dataset.attrs["centre_frequency_hz"] == 433.9e6
    assert dataset.attrs["clock_source"] == "stated"
    assert "start_time" not in dataset.coords
    found = voltages(dataset)
    assert np.abs(found - found[:1]).max() < 1e-4


def test_a_station_without_a_start_is_left_out_where_three_remain(put, table):
    table.write_text(table.read_text() + "\ndelta,44.7001,8.2001")
    content = {name: hdsdr_bytes(noise(), 12_000) for name in PLACES}
    files = put(content) + put({"delta": content["alpha"].replace(b"auxi", b"none")}, "14100kHz")
    dataset = recordings.read_wav(files, table, centre_frequency_hz=14.1e6)
    assert "does not say when it begins" in json.loads(dataset.attrs["left_out"])["delta"]
    assert len(dataset.attrs["clock_sigma_s"]) == 3
    with pytest.raises(ValueError, match="does not say when it begins"):
        recordings.read_wav(files, table, centre_frequency_hz=14.1e6, strict=True)


def test_frequencies_that_only_some_tell_are_asked_for(put, table):
    content = {name: hdsdr_bytes(noise(), 12_000) for name in PLACES}
    content["bravo"] = hdsdr_bytes(noise(), 12_000, centre_hz=0)
    files = put(content, "20160101_231914Z")
    with pytest.raises(ValueError, match=r"bravo_20160101_231914Z\.wav: .* tells its centre frequency, but others do"):
        recordings.read_wav(files, table)


def test_recordings_of_different_times_are_refused(put, table):
    content = {name: hdsdr_bytes(noise(), 12_000) for name in PLACES}
    content["charlie"] = hdsdr_bytes(noise(), 12_000, STARTED + timedelta(minutes=5))
    with pytest.raises(ValueError, match=r"overlap for 0\.000 s \(charlie begins last"):
        recordings.read_wav(put(content), table)
    content["charlie"] = hdsdr_bytes(noise(), 12_000, datetime(2016, 2, 1, tzinfo=UTC))
    with pytest.raises(ValueError, match="from 2016-01-01 to 2016-02-01, which do not overlap"):
        recordings.read_wav(put(content), table)


def test_windows_are_cut_across_the_end_of_a_week(put, table):
    """1970 began on a Thursday, and so do the weeks that seconds are counted of."""
    thursday = datetime(2016, 1, 7, tzinfo=UTC)
    begin = {"alpha": thursday - timedelta(milliseconds=301), "bravo": thursday + timedelta(milliseconds=45)}
    begin["charlie"] = thursday - timedelta(milliseconds=120)
    files = put({name: hdsdr_bytes(noise(), 12_000, start) for name, start in begin.items()})
    dataset = recordings.read_wav(files, table, window_s=0.2)
    assert dataset.sizes["sample"] == 3
    assert dataset.recording_time.values == pytest.approx([0, 0.2, 0.4])
    expected = noise()(since_started_s(dataset))
    assert np.abs(voltages(dataset) - expected).max() < 1e-3 * np.abs(expected).max()


def test_lost_samples_are_named(put, table, caplog):
    content = {name: hdsdr_bytes(noise(), 12_000) for name in PLACES}
    late = auxi_chunk(STARTED, STARTED + timedelta(seconds=9), 14_100_000)
    content["bravo"] = content["bravo"].replace(auxi_chunk(STARTED, STARTED + timedelta(seconds=1), 14_100_000), late)
    recordings.read_wav(put(content), table)
    (said,) = [record.getMessage() for record in caplog.records if "lasted" in record.getMessage()]
    assert said.startswith("bravo_HDSDR_20160101_231914Z_14100kHz_RF.wav: lasted 8.0 s longer")


def test_a_folder_can_name_the_station(tmp_path, table):
    files = []
    for name in PLACES:
        (tmp_path / name).mkdir()
        files.append(tmp_path / name / "SDRSharp_20160101_231914Z_12kHz_IQ.wav")
        files[-1].write_bytes(hdsdr_bytes(noise(), 12_000))
    assert list(recordings.read_wav(files, table).receiver_name.values) == list(PLACES)


def test_stations_are_found_by_whole_words(put, table):
    content = {name: hdsdr_bytes(noise(), 12_000) for name in PLACES}
    files = put(content)
    with pytest.raises(ValueError, match="names none of alpha, bravo, charlie"):
        recordings.read_wav([files[0].rename(files[0].with_name("alphabet_IQ.wav")), *files[1:]], table)
    with pytest.raises(ValueError, match="names alpha and bravo"):
        recordings.read_wav([files[1].rename(files[1].with_name("alpha-bravo.wav")), *files[2:]], table)


def test_files_are_read_by_what_they_hold(put, table):
    content = {name: hdsdr_bytes(noise(), 12_000) for name in PLACES}
    files = put(content)
    assert "WAV recordings at 14100 kHz" in read_files(files, table).attrs["title"]
    files[2].write_bytes(kiwi_bytes(kiwi_tone(0.0), 12_001.0, blocks=2))
    with pytest.raises(ValueError, match=r"alpha_\S+ has no GNSS stamps, as others have"):
        read_files(files, table)
    with pytest.raises(ValueError, match="receivers: are missing"):
        read_files(files)
