"""Gaps, bad stations and windows of SigMF recordings."""

import json

import numpy as np
import pytest
from sigmf_recordings import RATE_HZ, describe, noise, put

import heimdall_lab as hl

NAMES = ("alpha", "bravo", "charlie", "delta")
TABLE = "name,latitude_deg,longitude_deg\n" + "\n".join(f"{name},{45.1 + n / 7},{7.1}" for n, name in enumerate(NAMES))
AIR = noise(5000)[:, 0]  # what all receivers hear, from 12:00:00 on


def stamp(second):
    return f"2026-03-01T12:00:{second:09.6f}Z"


@pytest.fixture
def stations(tmp_path):
    table = tmp_path / "stations.csv"
    table.write_text(TABLE)
    return table


def record(folder, name, *parts, stamps=None):
    """One recording of stretches of the air, (first, stop) samples each, with their stamps or others."""
    meta = describe(name)
    first = 0
    meta["captures"] = []
    for number, (begin, stop) in enumerate(parts):
        second = begin / RATE_HZ if stamps is None else stamps[number]
        captured = {"core:sample_start": first, "core:frequency": 145e6}
        meta["captures"].append(captured if second is None else captured | {"core:datetime": stamp(second)})
        first += stop - begin
    return put(folder, name, np.concatenate([AIR[begin:stop] for begin, stop in parts])[:, None], meta)


def samples_of(dataset):
    return dataset.iq.transpose("sample", "receiver", "time", "component").values


def test_stretches_between_gaps_are_used_and_nothing_is_filled_in(tmp_path, stations):
    files = [record(tmp_path, name, (0, 5000)) for name in NAMES[:3]]
    files.append(record(tmp_path, "delta", (0, 2000), (2300, 5000)))
    dataset = hl.read_sigmf(files, receivers=stations)
    assert "left_out" not in dataset.attrs
    assert dict(dataset.sizes)["time"] == 2000
    for sample, begin in zip(samples_of(dataset), (0, 2300), strict=True):
        for receiver in sample:
            np.testing.assert_array_equal(receiver, AIR[begin : begin + 2000])
    np.testing.assert_allclose(dataset.recording_time, [0, 2300 / RATE_HZ])
    assert dataset.recording.values.tolist() == [0, 0]
    cut = hl.read_sigmf(files, receivers=stations, window_s=0.01)
    assert cut.sizes["sample"] == 4 + 5
    with pytest.raises(ValueError, match="number of captures"):
        hl.read_sigmf(files, receivers=stations, strict=True)


@pytest.mark.parametrize(
    ("parts", "stamps", "reason"),
    [
        ([(0, 5000)], [7.0], "as by a leap of 7 s"),
        ([(0, 5000)], [None], "core:datetime is missing"),
        ([(0, 900), (4100, 5000)], None, "for it has 1 gap"),
    ],
)
def test_a_station_that_leaves_no_common_time_is_left_out(parts, stamps, reason, tmp_path, stations, caplog):
    files = [record(tmp_path, name, (0, 5000)) for name in NAMES[1:]]
    files.insert(0, record(tmp_path, "alpha", *parts, stamps=stamps))
    dataset = hl.read_sigmf(files, receivers=stations, clock_sigma_s=[1e-9, 2e-9, 3e-9, 4e-9])
    assert list(dataset.receiver_name.values) == list(NAMES[1:])
    assert dataset.attrs["clock_sigma_s"] == [2e-9, 3e-9, 4e-9]
    assert reason in json.loads(dataset.attrs["left_out"])["alpha"]
    assert "alpha is left out" in caplog.text
    assert samples_of(dataset).shape[2] == 5000
    with pytest.raises(ValueError, match=r"alpha|captures"):
        hl.read_sigmf(files, receivers=stations, strict=True)


def test_a_station_at_0_0_is_left_out(tmp_path, stations):
    stations.write_text(TABLE.replace("45.1,7.1", "0,0"))
    files = [record(tmp_path, name, (0, 500)) for name in NAMES]
    dataset = hl.read_sigmf(files, receivers=stations)
    assert "(0, 0)" in json.loads(dataset.attrs["left_out"])["alpha"]
    with pytest.raises(ValueError, match=r"alpha is at \(0, 0\)"):
        hl.read_sigmf(files[:3], receivers=stations)


def test_windows_begin_where_one_says(tmp_path, stations):
    files = [record(tmp_path, name, (0, 5000)) for name in NAMES[:3]]
    dataset = hl.read_sigmf(files, receivers=stations, window_s=0.01, at=[0.05, 0.0201])
    np.testing.assert_array_equal(samples_of(dataset)[:, 0], [AIR[2500:3000], AIR[1005:1505]])
    np.testing.assert_allclose(dataset.recording_time, [0, -0.0299])
    with pytest.raises(ValueError, match=r"at: a window of 0.01 s at 0.095 s is not within 0 to 0.1 s"):
        hl.read_sigmf(files, receivers=stations, window_s=0.01, at=0.095)
    with pytest.raises(ValueError, match="give window_s"):
        hl.read_sigmf(files, receivers=stations, at=0.02)


def test_captures_that_are_no_times_of_one_recording_are_taken_one_by_one(tmp_path, stations):
    """A hundred captures of each receiver that all say the same second: none of them is compared with all others."""
    parts, stamps = [(50 * n, 50 * n + 50) for n in range(100)], [0.0] * 100
    files = [record(tmp_path, name, *parts, stamps=stamps) for name in NAMES]
    dataset = hl.read_sigmf(files, receivers=stations)
    assert (dataset.sizes["sample"], dataset.sizes["receiver"]) == (100, 4)
    np.testing.assert_array_equal(samples_of(dataset)[:, 3].reshape(-1, 2), AIR)
