"""SigMF: nothing is lost, the official package agrees on what is written and read, and faulty files are named."""

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import sigmf
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2

import heimdall_lab as hl
from heimdall_lab import cli
from heimdall_lab.datasets import schema
from heimdall_lab.localization import errors

RATE_HZ = 50e3
PLACES = {"alpha": [7.0, 45.0, 300.0], "bravo": [8.0, 46.0], "charlie": [9.0, 45.5, 100.25]}
DATATYPES = [
    f"{kind}{size}"
    for kind in "cr"
    for size in ("f32_le", "f64_be", "i32_le", "i16_be", "u32_be", "u16_le", "i8", "u8")
]


def describe(name, *, datatype="ci16_le", rate_hz=RATE_HZ, datetime=None, **fields):
    """Metadata of one plain recording; ``fields`` replace or, where None, remove global ones."""
    capture = {"core:sample_start": 0, "core:frequency": 145e6}
    if name in PLACES:
        capture["core:geolocation"] = {"type": "Point", "coordinates": PLACES[name]}
    if datetime:
        capture["core:datetime"] = datetime
    about = {"core:datatype": datatype, "core:version": "1.0.0", "core:sample_rate": rate_hz}
    about |= {f"core:{field}": value for field, value in fields.items()}
    about = {field: value for field, value in about.items() if value is not None}
    return {"global": about, "captures": [capture], "annotations": []}


def put(folder, name, samples, meta=None, **fields):
    """Write one recording by hand; returns its metadata file."""
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.sigmf-data").write_bytes(samples.tobytes())
    file = folder / f"{name}.sigmf-meta"
    file.write_text(json.dumps(meta or describe(name, **fields)))
    return file


def noise(length, channels=1, seed=1):
    """Integers of the whole range, (length, channels, 2)."""
    return np.random.Generator(np.random.Philox(seed)).integers(-(2**15), 2**15, (length, channels, 2), dtype="<i2")


def tones(instants_s):
    """Sum of 40 tones within ±0.4 of the sample rate: known at every instant; at most 1."""
    rng = np.random.Generator(np.random.Philox(2))
    frequency_hz, phase = rng.uniform(-0.4 * RATE_HZ, 0.4 * RATE_HZ, 40), rng.uniform(0, 2 * np.pi, 40)
    return np.exp(1j * (2 * np.pi * np.multiply.outer(instants_s, frequency_hz) + phase)).mean(axis=-1)


def without_features(dataset):
    """What SigMF holds: features follow from the samples."""
    return dataset.drop_dims(["feature", "statistic"]).drop_vars("feature_units", errors="ignore")


@pytest.fixture(scope="module")
def simulated():
    """Three scenes with padded receivers and echoes, and every kind of value that JSON has no word for."""
    config = hl.preset("nlos_sync", num_samples=3, seed=5, max_receivers=8, signal={"duration_s": 0.02})
    dataset = hl.generate(config, progress=False)
    dataset["crlb_rmse"][0], dataset["snr"][1, 2], dataset["snr"][1, 3] = np.nan, -np.inf, np.inf
    return dataset.isel(receiver=[0, 2, 4, 6, 7]).assign_attrs(
        clock_sigma_s=[1e-9, 2e-9, 0.1, 1 / 3, np.nan],
        max_clock_offset_s=np.inf,
        note="√mW",
        odd=[1, 2],
        mixed=[1, "a", 2.5, True, "b"],
    )


@pytest.fixture(scope="module")
def collection(simulated, tmp_path_factory):
    return hl.write_sigmf(simulated, tmp_path_factory.mktemp("sigmf") / "nlos")


@pytest.fixture
def copied(collection, tmp_path):
    """A collection to spoil."""
    return shutil.copytree(collection.parent, tmp_path / "nlos") / collection.name


def test_round_trip_loses_nothing(simulated, collection):
    back = hl.read_sigmf(collection)
    xr.testing.assert_equal(back, without_features(simulated))  # also NaN and infinity, and of floats every bit
    assert set(back.attrs) == set(simulated.attrs)
    for name, value in simulated.attrs.items():
        np.testing.assert_array_equal(back.attrs[name], value, err_msg=name)
    for name, variable in without_features(simulated).data_vars.items():
        assert (back[name].dtype.char, back[name].attrs) == (variable.dtype.char, variable.attrs), name


def test_round_trip_of_a_part_is_that_part(simulated, collection):
    files = sorted(collection.parent.glob("*.sigmf-meta"))
    back = hl.read_sigmf([files[3], files[1]])
    xr.testing.assert_equal(back, without_features(simulated.isel(receiver=[3, 1])))
    assert back.attrs["clock_sigma_s"] == [1 / 3, 2e-9]
    assert back.attrs["mixed"] == [True, "a"]


def test_lazy_dataset_of_several_shards_survives(small, tmp_path):
    dataset = hl.generate(small, tmp_path / "made", progress=False)
    back = hl.read_sigmf(hl.write_sigmf(hl.open_dataset(tmp_path / "made"), tmp_path / "x"))
    xr.testing.assert_equal(back, without_features(dataset))
    assert hl.features(back)["features"].equals(dataset["features"].compute())


def test_official_package_accepts_what_is_written(simulated, collection):
    streams = sigmf.fromfile(collection)  # checks the hashes of all files
    assert len(streams) == simulated.sizes["receiver"]
    for index, name in enumerate(streams.get_stream_names()):
        recording = streams.get_SigMFFile(name)
        recording.validate()
        expected = simulated.iq.isel(receiver=index).transpose("sample", "time", "component").values / 2**15
        np.testing.assert_array_equal(recording.read_samples().view(np.float32), expected.ravel())
        captures = recording.get_captures()
        assert [capture["core:sample_start"] for capture in captures] == [0, 1000, 2000]
        assert captures[0]["core:frequency"] == 145e6
    assert streams.get_SigMFFile(stream_index=1).get_captures()[0]["core:geolocation"] == {
        "type": "Point",
        "coordinates": [7.672, 45.044, 250.0],
    }
    assert "core:geolocation" not in streams.get_SigMFFile(stream_index=4).get_captures()[0]  # padded


@pytest.mark.parametrize("datatype", DATATYPES)
def test_every_datatype_reads_as_in_the_official_package(datatype, tmp_path):
    dtype = np.dtype(f"{'>' if datatype.endswith('be') else '<'}{datatype[1]}{int(datatype[2:4].strip('_')) // 8}")
    rng = np.random.Generator(np.random.Philox(3))
    count = 2 * 500 * (2 if datatype[0] == "c" else 1)
    if dtype.kind == "f":
        samples = rng.normal(0, 0.1, count).astype(dtype)
    else:
        samples = rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, count, dtype.newbyteorder("="), True)
        samples = samples.astype(dtype)
    file = put(tmp_path, "alpha", samples, datatype=datatype, num_channels=2)
    expected = sigmf.fromfile(file).read_samples().T  # (2, 500)
    dataset = hl.read_sigmf(file)
    read = (dataset.iq[0, :, 0] + 1j * dataset.iq[0, :, 1]).values * dataset.iq_full_scale.values[0, :, None] / 32767
    if dtype.itemsize <= 2:
        step = 1e-15  # kept as they are: float64 rounds the product
        assert dataset.iq.values.min() >= np.iinfo(np.int16).min
    else:
        step = float(dataset.iq_full_scale.max()) / 32767 / 2**0.5 + 1e-7  # half a step on both axes; float32's own
    np.testing.assert_allclose(read, expected, rtol=0, atol=step)


def test_sixteen_bits_are_kept_bit_by_bit(tmp_path):
    samples = noise(300)
    samples[0] = [[-(2**15), 2**15 - 1]]
    dataset = hl.read_sigmf(put(tmp_path, "alpha", samples))
    np.testing.assert_array_equal(dataset.iq[0, 0].values.T, samples[:, 0])
    assert float(dataset.iq_full_scale[0, 0]) == pytest.approx(32767 / 32768, rel=1e-15)


def test_real_recording_has_two_channels_and_its_annotations(real, tmp_path):
    file = real / "sigmf" / "sigmf_logo.sigmf-meta"
    table = tmp_path / "receivers.csv"
    table.write_text("name,latitude_deg,longitude_deg\nsigmf_logo,45,7\nsigmf_logo-1,46,8\n")
    dataset = hl.read_sigmf(file, receivers=table)
    stored = np.fromfile(file.with_suffix(".sigmf-data"), "<i2").reshape(-1, 2)
    np.testing.assert_array_equal(dataset.iq[0, :, 0].values.T, stored)
    assert not dataset.iq[0, :, 1].any()
    assert list(dataset.receiver_name.values) == ["sigmf_logo-0", "sigmf_logo-1"]
    assert dataset.receiver_latitude.values.tolist() == [[45, 46]]
    assert dataset.start_time.values[0] == np.datetime64("2021-06-18T23:17:51.163959", "ns")
    dataset.drop_vars("iq").to_netcdf(tmp_path / "logo.nc")
    with xr.open_dataset(tmp_path / "logo.nc") as stored:
        remarks = json.loads(stored.attrs["annotations"])
    assert [(r["core:comment"], r["core:sample_start"], r["recording"]) for r in remarks] == [
        ("logo warmup", 6000, "sigmf_logo"),
        ("logo spinup", 48000, "sigmf_logo"),
        ("logo steady", 186000, "sigmf_logo"),
    ]
    again = hl.read_sigmf(hl.write_sigmf(dataset, tmp_path / "again"))
    xr.testing.assert_equal(again, dataset)
    assert again.attrs["annotations"] == dataset.attrs["annotations"]
    assert again.start_time.equals(dataset.start_time)


@pytest.mark.parametrize("rate_hz", [50e3, 48e3, 12e3])  # of 48 kHz no number of samples has a whole nanosecond
def test_starts_apart_by_whole_samples_leave_samples_as_they_are(rate_hz, tmp_path):
    samples, files = noise(400), []
    for name, late in (("alpha", 0), ("bravo", 7), ("charlie", 31)):
        ns = round(late / rate_hz * 1e9)
        stamp = f"2024-05-01T00:00:00.{ns:09d}Z"
        files.append(put(tmp_path, name, samples[late : 300 + late], datetime=stamp, rate_hz=rate_hz))
    dataset = hl.read_sigmf(files)
    for receiver in range(3):
        np.testing.assert_array_equal(dataset.iq[0, receiver].values.T, samples[31:300, 0])
    assert dataset.start_time.values[0] == np.datetime64("2024-05-01", "ns") + round(31 / rate_hz * 1e9)


@pytest.mark.parametrize("datatype", ["cf64_le", "ci8"])
def test_starts_apart_by_fractions_are_interpolated(datatype, tmp_path):
    files = []
    for name, late_ns in (("alpha", 0), ("bravo", 123_457), ("charlie", 40_005)):
        value = tones(np.arange(1000) / RATE_HZ + late_ns * 1e-9)
        stamp = f"2024-05-01T00:00:00.{late_ns:09d}Z"
        samples = np.stack([value.real, value.imag], axis=1)
        samples = samples.astype("<f8") if datatype == "cf64_le" else np.rint(samples * 2**7).astype("i1")
        files.append(put(tmp_path, name, samples, datatype=datatype, datetime=stamp))
    dataset = hl.read_sigmf(files)
    assert dataset.sizes["time"] == 1000 - 6 - 2 * 16
    begun_s = (dataset.start_time.values[0] - np.datetime64("2024-05-01", "ns")) / np.timedelta64(1, "s")
    assert begun_s == pytest.approx(123_457e-9 + 16 / RATE_HZ, abs=0.6e-9)
    expected = tones(123_457e-9 + (16 + np.arange(dataset.sizes["time"])) / RATE_HZ)
    error = np.abs(hl.iq(dataset).values[0] - expected)
    step = float(dataset.iq_full_scale.max()) / 32767
    stored = 2**-7.5 * (datatype == "ci8")  # half a step on both axes
    assert (error[1] < step + stored).all()  # the latest is quantised only
    assert (error < 1e-4 + step + 2.32 * stored).all()  # −80 dB of full scale; magnitudes of the taps add up to 2.32


def test_every_capture_is_a_sample_and_window_s_cuts_them(tmp_path):
    files = []
    for name in PLACES:
        meta = describe(name)
        meta["captures"].append(meta["captures"][0] | {"core:sample_start": 250})
        meta["annotations"] = [
            {"core:sample_start": 250, "heimdall:variables": {"transmitter_latitude": 45.5, "emission_time": 1.0}},
            {"core:sample_start": 100, "core:label": "call"},
        ]
        files.append(put(tmp_path, name, noise(500), meta))
    dataset = hl.read_sigmf(files)
    assert dataset.sizes["sample"] == 2
    np.testing.assert_array_equal(dataset.transmitter_latitude, [np.nan, 45.5])
    np.testing.assert_array_equal(dataset.emission_time, [np.nan, 1.0])
    assert len(json.loads(dataset.attrs["annotations"])) == 3
    cut = hl.read_sigmf(files, window_s=100 / RATE_HZ)
    np.testing.assert_array_equal(cut.transmitter_latitude, [np.nan, np.nan, 45.5, 45.5])
    np.testing.assert_array_equal(cut.iq[3, 1].values.T, noise(500)[350:450, 0])
    assert cut.emission_time.isnull().all()
    meta["captures"][1]["core:sample_start"] = 300
    put(tmp_path, "charlie", noise(500), meta)
    with pytest.raises(ValueError, match=r"captures: hold 200 to 250 common samples; give window_s"):
        hl.read_sigmf(files)
    assert hl.read_sigmf(files, window_s=0.004).sizes["sample"] == 2
    with pytest.raises(ValueError, match=r"window_s: is 1; give .* 0.005 s"):
        hl.read_sigmf(files, window_s=1)


def test_what_files_do_not_tell_is_the_callers(tmp_path):
    meta = describe("delta", sample_rate=None)
    del meta["captures"][0]["core:frequency"]
    file = put(tmp_path, "delta", noise(50), meta)
    with pytest.raises(ValueError, match=r"core:sample_rate is missing; give sample_rate_hz"):
        hl.read_sigmf(file)
    with pytest.raises(ValueError, match=r"delta.*missing geolocation of 'delta'.*give receivers"):
        hl.read_sigmf(file, sample_rate_hz=1e6)
    table = tmp_path / "receivers.csv"
    table.write_text("name,latitude_deg,longitude_deg,altitude_m\ndelta,45,7,12\nalpha,-45,-7,1\n")
    told = {"sample_rate_hz": 1e6, "clock_sigma_s": 1e-3, "propagation": "ground_wave"}
    dataset = hl.read_sigmf(file, receivers=table, transmitter=(45.5, 7.5), **told)
    assert {name: dataset.attrs[name] for name in told} == told
    assert dataset.attrs["max_clock_offset_s"] == 7e-3
    assert np.isnan(dataset.attrs["centre_frequency_hz"])
    assert dataset.time.values[1] == 1e-6
    place = [dataset[f"receiver_{axis}"].item() for axis in ("latitude", "longitude", "altitude")]
    assert place == [45, 7, 12]
    assert (dataset.transmitter_longitude.item(), dataset.transmitter_altitude.item()) == (7.5, 0)
    alpha = put(tmp_path, "alpha", noise(50))
    assert hl.read_sigmf(alpha).receiver_latitude.item() == 45
    assert hl.read_sigmf(alpha, receivers=table).receiver_latitude.item() == -45  # the caller knows better
    with pytest.raises(ValueError, match=r"clock: is no attribute of the contract; give any of centre_frequency_hz"):
        hl.read_sigmf(alpha, clock=3)
    with pytest.raises(ValueError, match="clock_sigma_s: holds 2 numbers"):
        hl.read_sigmf(alpha, clock_sigma_s=[1, 2])
    with pytest.raises(ValueError, match="sample_rate_hz: is -1"):
        hl.read_sigmf(alpha, sample_rate_hz=-1)
    with pytest.raises(ValueError, match="path: is empty"):
        hl.read_sigmf([])
    with pytest.raises(ValueError, match="is given twice"):
        hl.read_sigmf([alpha, alpha.with_suffix(".sigmf-data")])
    with pytest.raises(ValueError, match=r"alpha.sigmf: is no SigMF file.*tar"):
        hl.read_sigmf(tmp_path / "alpha.sigmf")


def test_clocks_are_worth_the_last_digit_of_the_stamps_unless_told(tmp_path):
    """Uniform within the digit, and within half a sample of 20 µs."""

    def read(digits, names=("alpha", "bravo"), **told):
        stamp = digits and f"2024-05-01T00:00:00.{digits}Z"
        return hl.read_sigmf([put(tmp_path, name, noise(50), datetime=stamp) for name in names], **told).attrs

    milliseconds = read("000")
    assert milliseconds["clock_sigma_s"] == pytest.approx(np.sqrt(1e-6 / 12 + 1e-10 / 3 + 2.5e-15), rel=1e-9)
    assert milliseconds["max_clock_offset_s"] == 7 * milliseconds["clock_sigma_s"]
    assert read("000000000")["clock_sigma_s"] == pytest.approx(50e-9, rel=1e-3)
    assert read(None)["clock_sigma_s"] == 50e-9  # simultaneous, as far as anyone knows
    assert read("000", ["alpha"])["clock_sigma_s"] == 50e-9  # nothing to align
    assert read("000", clock_sigma_s=1e-7)["clock_sigma_s"] == 1e-7


def test_starts_err_by_as_much_as_clocks_are_said_to(tmp_path):
    """Starts at any instant, in stamps of 10 µs and samples of 14.3 µs, which are also their values."""
    rate_hz, captures = 70e3, 60
    start_s = np.random.Generator(np.random.Philox(4)).uniform(0, 200e-6, (captures, len(PLACES)))
    files = []
    for late_s, name in zip(start_s.T, PLACES, strict=True):
        meta = describe(name, rate_hz=rate_hz)
        meta["captures"] = [
            meta["captures"][0]
            | {"core:sample_start": 40 * k, "core:datetime": f"2024-05-01T00:00:{k:02d}.{round(late * 1e5):05d}Z"}
            for k, late in enumerate(late_s)
        ]
        files.append(put(tmp_path, name, np.repeat(np.arange(40 * captures, dtype="<i2"), 2), meta))
    dataset = hl.read_sigmf(files, window_s=20 / rate_hz)
    assert dataset.sizes["sample"] == captures
    first = dataset.iq.values[:, :, 0, 0] - 40 * np.arange(captures)[:, None]
    spread_s = np.sqrt((start_s + first / rate_hz).var(axis=1, ddof=1).mean())
    assert dataset.attrs["clock_sigma_s"] == pytest.approx(spread_s, rel=3 / np.sqrt(2 * 2 * captures))


def test_coarse_stamps_make_no_confident_fixes(small_dataset, tmp_path):
    """Recordings begin within 1 ms of each other, and are said to begin together; of errors, χ² has two degrees."""
    length, files = small_dataset.sizes["time"] - 50, []
    late = np.random.Generator(np.random.Philox(5)).integers(0, 50, small_dataset.sizes["receiver"])
    for index, begin in enumerate(late):
        receiver = small_dataset.isel(receiver=index, time=slice(begin, begin + length))
        meta = describe("x", datetime="2024-05-01T00:00:00.000Z")
        meta["captures"] = [
            meta["captures"][0] | {"core:sample_start": k * length} for k in range(receiver.sizes["sample"])
        ]
        place = [float(receiver[f"receiver_{axis}"][0]) for axis in ("longitude", "latitude", "altitude")]
        meta["global"]["core:geolocation"] = {"type": "Point", "coordinates": place}
        files.append(put(tmp_path, f"r{index}", receiver.iq.transpose("sample", "time", "component").values, meta))
    dataset = hl.read_sigmf(files)
    for axis in ("latitude", "longitude", "altitude"):
        dataset[f"transmitter_{axis}"] = small_dataset[f"transmitter_{axis}"]
    for method in ("tdoa_ls", "tdoa_robust", "dpd"):
        fixes = hl.locate(dataset, method)
        squared = errors.position_errors(dataset, fixes).mahalanobis_squared.where(fixes.converged, 0)
        assert (squared < chi2.isf(1e-4, 2)).all(), method


def test_channels_stand_together_unless_told_apart(tmp_path):
    samples = noise(60, channels=2)
    meta = describe("alpha", num_channels=2)
    dataset = hl.read_sigmf(put(tmp_path, "alpha", samples, meta))
    np.testing.assert_array_equal(dataset.iq[0].values.transpose(2, 0, 1), samples)
    assert dataset.receiver_longitude.values.tolist() == [[7, 7]]
    meta["global"]["heimdall:channels"] = [
        {"name": "mast", "geolocation": {"type": "Point", "coordinates": [10, 50]}},
        {"name": "roof"},
    ]
    apart = hl.read_sigmf(put(tmp_path, "alpha", samples, meta))
    assert list(apart.receiver_name.values) == ["mast", "roof"]
    assert apart.receiver_longitude.values.tolist() == [[10, 7]]
    assert apart.receiver_altitude.values.tolist() == [[0, 300]]


def test_non_conforming_names_offsets_and_pairs_of_streams_are_read(tmp_path):
    meta = describe("alpha", dataset="raw.bin", offset=1000)
    meta["captures"][0]["core:sample_start"] = 1010
    file = put(tmp_path, "alpha", noise(60), meta)
    (tmp_path / "alpha.sigmf-data").rename(tmp_path / "raw.bin")
    np.testing.assert_array_equal(hl.read_sigmf(file).iq[0, 0].values.T, noise(60)[10:, 0])
    pairs = tmp_path / "pairs.sigmf-collection"
    pairs.write_text(json.dumps({"collection": {"core:version": "1.0.0", "core:streams": [["alpha"]]}}))
    assert hl.read_sigmf(pairs).equals(hl.read_sigmf(file))


def changed(keys, value, name="bravo.sigmf-meta"):
    """Return a change of what metadata holds under some keys."""

    def change(folder):
        content = json.loads((folder / name).read_text())
        place = content
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value
        (folder / name).write_text(json.dumps(content))

    return change


def data(content):
    return lambda folder: (folder / "bravo.sigmf-data").write_bytes(content)


def meta(text):
    return lambda folder: (folder / "bravo.sigmf-meta").write_text(text)


def point(*coordinates):
    return changed(["captures", 0, "core:geolocation"], {"type": "Point", "coordinates": coordinates})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (data(bytes(4 * 99 + 2)), r"bravo.sigmf-data: has 398 bytes, .* multiple of the 4 .* fetch the whole file"),
        (data(b""), r"bravo.sigmf-data: has 0 bytes"),
        (data(bytes(40)), r"bravo.sigmf-meta: annotations.0 covers 90 samples from 10, of 10"),
        (lambda folder: (folder / "bravo.sigmf-data").unlink(), r"bravo.sigmf-data: cannot be read .*put it beside"),
        (lambda folder: (folder / "bravo.sigmf-meta").unlink(), r"bravo.sigmf-meta: cannot be read \(No such file"),
        (meta("{"), r"bravo.sigmf-meta: Invalid JSON"),
        (meta("[" * 10**5), r"bravo.sigmf-meta: Invalid JSON"),
        (meta("[]"), r"bravo.sigmf-meta: .*object"),
        (changed(["global", "core:datatype"], "ci16"), r"core:datatype: 'ci16' is unknown; it must be c or r"),
        (changed(["global", "core:datatype"], "cf16_le"), r"core:datatype: 'cf16_le' is unknown"),
        (changed(["global", "core:datatype"], 5), r"bravo.sigmf-meta: global.core:datatype: .*string"),
        (changed(["global", "core:sha512"], "0" * 128), r"another hash than core:sha512 of bravo.sigmf-meta"),
        (changed(["global", "core:dataset"], "../bravo.bin"), r"core:dataset: '../bravo.bin' is no plain name"),
        (changed(["global", "core:dataset"], ".."), r"core:dataset: '..' is no plain name"),
        (changed(["global", "core:sample_rate"], 48e3), r"bravo.sigmf-meta: core:sample_rate: is 48000.0, but 50000.0"),
        (changed(["captures", 0, "core:frequency"], 1e6), r"core:frequency: is 1000000.0, but 145000000.0 in alpha"),
        (changed(["global", "core:metadata_only"], True), r"bravo.sigmf-meta: has core:metadata_only"),
        (changed(["global", "core:trailing_bytes"], 4), r"bravo.sigmf-meta: has .*trailing bytes"),
        (
            changed(["global", "core:extensions"], [{"name": "radar", "version": "1.0.0", "optional": False}]),
            r"core:extensions requires 'radar'",
        ),
        (changed(["captures", 0, "core:sample_start"], 100), r"captures begin at samples \[100\], of 100"),
        (changed(["captures"], [{"core:sample_start": 9}, {"core:sample_start": 9}]), r"captures begin .* ascend"),
        (changed(["captures"], [{"core:sample_start": n} for n in (0, 9)]), r"bravo.*number of captures: is 2, but 1"),
        (changed(["captures", 0, "core:geolocation"], None), r"bravo.sigmf-meta: missing geolocation of 'bravo'"),
        (point(8, 91), r"captures.0.core:geolocation.coordinates: .*latitude, the second, within ±90°"),
        (point(181, 45), r"captures.0.core:geolocation.coordinates: .*longitude must be within ±180°"),
        (point(8, float("nan")), r"captures.0.core:geolocation.coordinates.1: .*finite"),
        (point(8, 45, float("inf")), r"captures.0.core:geolocation.coordinates.2: .*finite"),
        (point(8), r"captures.0.core:geolocation.coordinates: "),
        (changed(["captures", 0, "core:datetime"], "yesterday"), r"core:datetime: 'yesterday' is refused"),
        (changed(["captures", 0, "core:datetime"], "2024-02-30T00:00:00Z"), r"core:datetime: .* is refused"),
        (changed(["captures", 0, "core:datetime"], "0001-01-01T00:00:00Z"), r"core:datetime: .* centuries away"),
        (
            changed(["captures", 0, "core:datetime"], "2024-05-01T00:00:00Z"),
            r"alpha.*core:datetime of capture 0 is miss",
        ),
        (changed(["annotations", 0, "heimdall:variables"], {"snrr": 1}), r"'snrr' is no variable of the contract"),
        (changed(["annotations", 0, "heimdall:variables"], {"snr": "x"}), r"snr: does not hold numbers"),
        (
            changed(["annotations", 0, "heimdall:variables"], {"line_of_sight": True}),
            r"line_of_sight: give bool in every",
        ),
        (changed(["annotations", 0, "heimdall:variables"], {"iq_full_scale": 0}), r"iq_full_scale: is 0.0"),
        (changed(["global", "heimdall:channels"], []), r"heimdall:channels names 0 of 1"),
        (changed(["global", "heimdall:attributes"], {"clock_sigma_s": 1}), r"bravo.*heimdall:attributes.clock_sigma_s"),
    ],
)
def test_faulty_files_are_named_with_the_remedy(change, message, tmp_path):
    files = [put(tmp_path, name, noise(100)) for name in ("alpha", "bravo")]
    changed(["annotations"], [{"core:sample_start": 10, "core:sample_count": 90}])(tmp_path)
    assert hl.read_sigmf(files).sizes["receiver"] == 2
    change(tmp_path)
    with pytest.raises(ValueError, match=message):
        hl.read_sigmf(files)


def test_samples_that_are_not_finite_are_refused(tmp_path):
    samples = np.full(10, 1 + 1j, "<c8")
    samples[3] = np.inf
    with pytest.raises(ValueError, match=r"alpha.sigmf-meta: has samples that are not finite"):
        hl.read_sigmf(put(tmp_path, "alpha", samples, datatype="cf32_le"))


def test_recordings_that_do_not_overlap_are_refused(tmp_path):
    stamps = {"alpha": "2024-05-01T00:00:00Z", "bravo": "2024-05-01t00:00:00.002z"}
    files = [put(tmp_path, name, noise(100), datetime=stamp) for name, stamp in stamps.items()]
    with pytest.raises(ValueError, match="capture 0 of 'bravo' begins after that of 'alpha' ends"):
        hl.read_sigmf(files)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed(["global", "core:author"], "me", "01-Torino.sigmf-meta"), r"01-Torino.*is not the file of which nlos"),
        (
            lambda folder: os.truncate(folder / "01-Torino.sigmf-data", 4 * 1000),
            r"01-Torino.sigmf-data: has another hash",
        ),
        (lambda folder: (folder / "01-Torino.sigmf-meta").unlink(), r"01-Torino.sigmf-meta: cannot be read"),
        (
            changed(["collection", "core:streams", 0, "name"], "../nlos/01-Torino", "nlos.sigmf-collection"),
            r"core:streams: '../nlos/01-Torino' is no plain name",
        ),
        (changed(["collection", "core:streams"], [], "nlos.sigmf-collection"), r"collection.core:streams: "),
        (changed(["collection", "core:streams"], [5], "nlos.sigmf-collection"), r"collection.core:streams.0: "),
        (
            lambda folder: (folder / "nlos.sigmf-collection").write_bytes(b"\xff"),
            r"nlos.sigmf-collection: Invalid JSON",
        ),
    ],
)
def test_faulty_collections_are_named(change, message, copied):
    change(copied.parent)
    with pytest.raises(ValueError, match=message):
        hl.read_sigmf(copied)


def test_recordings_that_disagree_on_the_truth_are_refused(copied):
    changed(["annotations", 1, "heimdall:variables", "gdop"], 7.0, "01-Torino.sigmf-meta")(copied.parent)
    with pytest.raises(ValueError, match="gdop: recordings disagree"):
        hl.read_sigmf(sorted(copied.parent.glob("*.sigmf-meta")))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


@given(drawn=st.data())
def test_garbage_is_read_or_refused_by_name(drawn, collection, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "garbage"
    if not folder.exists():
        shutil.copytree(collection.parent, folder)
    file = drawn.draw(st.sampled_from([*folder.glob("00-*.sigmf-meta"), folder / collection.name]))
    whole = (collection.parent / file.name).read_text()
    content = place = json.loads(whole)
    depth = drawn.draw(st.integers(1, 6))
    while True:
        last = drawn.draw(st.sampled_from(list(place) if isinstance(place, dict) else range(len(place))))
        depth -= 1
        if depth == 0 or not (isinstance(place[last], dict | list) and place[last]):
            break
        place = place[last]
    if drawn.draw(st.booleans()):
        del place[last]
    else:
        place[last] = drawn.draw(VALUES)
    file.write_text(json.dumps(content))
    try:
        schema.check(hl.read_sigmf(file))
    except ValueError as error:
        assert str(folder) in str(error)  # noqa: PT017
    finally:
        file.write_text(whole)


@given(content=st.binary(max_size=40) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_noise_for_metadata_is_refused_by_name(content, tmp_path_factory):
    for suffix in ("meta", "collection"):
        file = tmp_path_factory.getbasetemp() / f"noise.sigmf-{suffix}"
        file.write_bytes(content)
        with pytest.raises(ValueError, match=f"noise.sigmf-{suffix}"):
            hl.read_sigmf(file)


def test_nothing_is_overwritten(simulated, collection, tmp_path):
    with pytest.raises(ValueError, match="holds something already; choose another one"):
        hl.write_sigmf(simulated, collection.parent)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="holds something already"):
        hl.write_sigmf(simulated, tmp_path / "file")
    (tmp_path / "empty").mkdir()
    assert hl.read_sigmf(hl.write_sigmf(simulated, tmp_path / "empty")).sizes["sample"] == 3


def test_failure_leaves_nothing_behind(simulated, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        hl.write_sigmf(simulated, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.assign(mood=1.0), "mood: is not of the contract and would be lost"),
        (lambda d: d.isel(time=slice(0)), "iq: is missing or empty"),
        (lambda d: d.assign(iq=d.iq.astype(np.int32)), "iq: dtype is int32"),
        (lambda d: d.assign(receiver_altitude=d.receiver_altitude * np.nan), "receiver_altitude: is not finite"),
        (lambda d: d.assign_coords(sample=[0.5, 1.5, 2.5]), "sample: does not hold whole numbers for labels"),
        (lambda d: d.isel(sample=[0, 1]).assign_coords(sample=[True, False]), "sample: does not hold whole numbers"),
        (lambda d: d.assign_coords(receiver=list("abcde")), "receiver: does not hold whole numbers for labels"),
        (lambda d: d.drop_vars("receiver"), "receiver: does not hold whole numbers"),
        (lambda d: d.drop_vars("receiver_name"), "receiver_name.*is missing"),
        (lambda d: d.isel(time=slice(100, None)), "time: does not count from 0"),  # all arrivals would be late
        (lambda d: d.isel(time=slice(None, None, 2)), "time: does not count from 0 in steps of 1 / sample_rate_hz"),
        (lambda d: d.assign_coords(start_time=("sample", np.full(3, "NaT", "M8[ns]"))), "start_time: is not known"),
        (lambda d: d.assign_attrs(sample_rate_hz=np.nan), "time: does not count"),
        (lambda d: d.assign_attrs(gain={"db": 3}), "attribute 'gain': is {'db': 3}; collections keep numbers"),
        (lambda d: d.assign_attrs(gain=[[1, 2], [3]]), "attribute 'gain'"),
        (lambda d: d.assign_attrs(gain=np.eye(5)), "attribute 'gain'"),
        (lambda d: d.assign_attrs(gain=3j), "attribute 'gain': is 3j"),
    ],
)
def test_what_would_be_lost_is_refused(simulated, tmp_path, change, message):
    with xr.set_options(keep_attrs=True), pytest.raises(ValueError, match=message):
        hl.write_sigmf(change(simulated), tmp_path / "out")


def test_command_locates_a_collection_as_its_dataset(small_dataset, tmp_path, monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["heimdall-lab", "locate", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        return exit_.value.code or 0, *capsys.readouterr()

    collection = hl.write_sigmf(small_dataset, tmp_path / "los")
    status, text, _ = run(collection, "--json")
    fixes = hl.locate(small_dataset, "tdoa_ls")
    assert status == 0
    assert [row["latitude_deg"] for row in json.loads(text)] == fixes.latitude.values.round(6).tolist()
    assert max(row["error_m"] / row["crlb_rmse_m"] for row in json.loads(text)) < 10
    metas = sorted(collection.parent.glob("*.sigmf-meta"))
    status, text, _ = run(*metas, "--set", "clock_sigma_s=1e-3")
    assert "later_than" in text
    assert text.splitlines()[-1].split()[-1] >= "1414."  # √2 ms in µs, of two clocks
    assert run(collection, "--set", "clock=1")[0] == 1
    assert run(tmp_path, "--set", "clock_sigma_s=1")[::2] == (
        2,
        "heimdall-lab: set: only SigMF recordings take it; leave it out\n",
    )
