"""Gaps, bad stations and windows of KiwiSDR recordings."""

import json

import numpy as np
import pytest
from datasets.recordings.test_kiwisdr import complex_windows
from kiwi_recordings import FIRST_SECOND, file_name, kiwi_bytes, tone

from heimdall_lab.datasets import recordings

RATES_HZ = {"alpha": 12_001.0834, "bravo": 12_001.0256, "charlie": 12_000.9, "delta": 12_001.2}


@pytest.fixture(scope="module")
def good():
    return {name: kiwi_bytes(tone(1_000.0), rate_hz) for name, rate_hz in RATES_HZ.items()}


@pytest.fixture
def put(tmp_path, good):
    """Write recordings, some of them others than the good ones, and the table of stations."""

    def write(places=None, **others):
        places = {name: (45.1 + number / 7, 7.123) for number, name in enumerate(RATES_HZ)} | (places or {})
        rows = [f"{name},{latitude},{longitude}" for name, (latitude, longitude) in places.items()]
        table = tmp_path / "stations.csv"
        table.write_text("\n".join(["name,latitude_deg,longitude_deg", *rows]))
        files = [tmp_path / file_name(name) for name in RATES_HZ]
        for name, file in zip(RATES_HZ, files, strict=True):
            file.write_bytes(others.get(name, good[name]))
        return files, table

    return write


def test_both_sides_of_a_gap_are_used(put):
    files, table = put(bravo=kiwi_bytes(tone(1_000.0), RATES_HZ["bravo"], lost=100))
    dataset = recordings.read_kiwi(files, table, window_s=0.5)
    assert "left_out" not in dataset.attrs
    begin_s = dataset.attrs["gps_seconds_of_week"] + dataset.recording_time.values
    lost_s = FIRST_SECOND + 100 * 512 / RATES_HZ["bravo"]
    assert ((begin_s + 0.5 <= lost_s) | (begin_s >= lost_s)).all()
    assert (begin_s < lost_s).any()
    assert (begin_s > lost_s).any()
    instant_s = begin_s[:, None, None] + np.arange(6_000) / 12_000
    assert 20 * np.log10(np.abs(complex_windows(dataset) - tone(1_000.0)(instant_s)).max() / 0.5) < -70.0


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"start_s": FIRST_SECOND + 60}, "as by a leap of 60 s"),
        ({"blocks": 90}, "3 fresh GPS stamps"),
        ({"lost": 120, "lost_s": 1.0}, "leap by 1 s"),
    ],
)
def test_a_station_whose_time_is_wrong_is_left_out(put, changes, reason):
    lost_s = changes.pop("lost_s", None)
    bad = kiwi_bytes(tone(1_000.0), RATES_HZ["delta"], **changes)
    if lost_s is not None:
        bad = _leaping(RATES_HZ["delta"])
    files, table = put(delta=bad)
    dataset = recordings.read_kiwi(files, table)
    assert list(dataset.receiver_name.values) == ["alpha", "bravo", "charlie"]
    assert reason in json.loads(dataset.attrs["left_out"])["delta"]


def test_a_strict_reader_leaves_nobody_out(put):
    files, table = put(delta=kiwi_bytes(tone(1_000.0), RATES_HZ["delta"], blocks=90), places={"alpha": (0, 0)})
    with pytest.raises(ValueError, match=r"delta_iq\.wav has 3 fresh"):
        recordings.read_kiwi(files, table, strict=True)
    with pytest.raises(ValueError, match=r"\(0, 0\)"):
        recordings.read_kiwi(files, table)  # two remain


def test_windows_begin_where_one_says(put):
    files, table = put()
    whole = recordings.read_kiwi(files, table)
    cut = recordings.read_kiwi(files, table, window_s=0.25, at=[3.5, 1])
    for sample, first in enumerate((42_000, 12_000)):
        expected = complex_windows(whole)[0, :, first : first + 3_000]
        assert np.abs(complex_windows(cut)[sample] - expected).max() < 1e-4


def _leaping(rate_hz):
    """A recording without gaps, whose stamps are a second late from the middle on."""
    content = bytearray(kiwi_bytes(tone(1_000.0), rate_hz))
    for block in range(130, 240):
        place = 36 + block * 2_074 + 10
        second = int.from_bytes(content[place : place + 4], "little")
        content[place : place + 4] = (second + 1).to_bytes(4, "little")
    return bytes(content)
