"""SigMF: nothing is lost, and the official package agrees on what is written and read."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import sigmf
import xarray as xr
from sigmf_recordings import describe, noise, put

import heimdall_lab as hl

DATATYPES = [
    f"{kind}{size}"
    for kind in "cr"
    for size in ("f32_le", "f64_be", "i32_le", "i16_be", "u32_be", "u16_le", "i8", "u8")
]


def without_features(dataset):
    """What SigMF holds: features follow from the samples."""
    return dataset.drop_dims(["feature", "statistic"]).drop_vars("feature_units", errors="ignore")


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
    if "u8" in datatype:  # the package takes 128 for zero, which no converter of bytes has a code for
        expected = expected + (0.5 + 0.5j * (datatype[0] == "c")) / 128
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
    with pytest.raises(ValueError, match=r"clock: is no attribute of the contract; did you mean clock_sigma_s"):
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


def test_non_conforming_names_offsets_and_pairs_of_streams_are_read(tmp_path):
    meta = describe("alpha", dataset="raw.bin", offset=1000)
    meta["captures"][0]["core:sample_start"] = 1010
    file = put(tmp_path, "alpha", noise(60), meta)
    (tmp_path / "alpha.sigmf-data").rename(tmp_path / "raw.bin")
    np.testing.assert_array_equal(hl.read_sigmf(file).iq[0, 0].values.T, noise(60)[10:, 0])
    pairs = tmp_path / "pairs.sigmf-collection"
    pairs.write_text(json.dumps({"collection": {"core:version": "1.0.0", "core:streams": [["alpha"]]}}))
    assert hl.read_sigmf(pairs).equals(hl.read_sigmf(file))


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


def test_command_locates_a_collection_as_its_dataset(small_dataset, tmp_path, attempt):
    def run(*arguments):
        return attempt("locate", *arguments)

    collection = hl.write_sigmf(small_dataset, tmp_path / "los")
    status, text, _ = run(collection, "--json")
    fixes = hl.locate(small_dataset, "tdoa_ls")
    assert status == 0
    assert [row["latitude_deg"] for row in json.loads(text)] == fixes.latitude.values.round(6).tolist()
    assert max(row["error_m"] / row["crlb_rmse_m"] for row in json.loads(text)) < 10
    with tarfile.open(tmp_path / "packed.tar.gz", "w:gz") as members:
        members.add(collection.parent, "los")
    for given in (collection.with_suffix(""), tmp_path / "packed.tar.gz"):
        assert run(given, "--json")[:2] == (0, text)
    metas = sorted(collection.parent.glob("*.sigmf-meta"))
    status, text, _ = run(*metas, "--set", "clock_sigma_s=1e-3")
    assert "later_than" in text
    assert text.splitlines()[-1].split()[-1] >= "1414."  # √2 ms in µs, of two clocks
    assert run(collection, "--set", "clock=1")[0] == 1
    assert run(tmp_path, "--set", "clock_sigma_s=1")[::2] == (
        2,
        "heimdall-lab: set: only recordings take it; leave it out\n",
    )
