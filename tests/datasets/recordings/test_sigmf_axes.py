"""SigMF recordings of several receivers on one time axis: stamps, clocks, captures, windows, places."""

import json

import numpy as np
import pytest
from scipy.stats import chi2
from sigmf_recordings import PLACES, RATE_HZ, describe, noise, put

import heimdall_lab as hl
from heimdall_lab.localization import errors


def tones(instants_s):
    """Sum of 40 tones within ±0.4 of the sample rate: known at every instant; at most 1."""
    rng = np.random.Generator(np.random.Philox(2))
    frequency_hz, phase = rng.uniform(-0.4 * RATE_HZ, 0.4 * RATE_HZ, 40), rng.uniform(0, 2 * np.pi, 40)
    return np.exp(1j * (2 * np.pi * np.multiply.outer(instants_s, frequency_hz) + phase)).mean(axis=-1)


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
