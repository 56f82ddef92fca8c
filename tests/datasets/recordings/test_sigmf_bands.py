"""Wide SigMF captures of which annotations mark bands: each is an emission of one recording."""

import json

import numpy as np
import pytest
import scipy.signal
from sigmf_recordings import PLACES, changed, describe, noise, put

import heimdall_lab as hl

WIDE_HZ, CENTRE_HZ = 200e3, 145e6
LOW, HIGH = (144.94e6, 144.95e6), (145.03e6, 145.042e6)  # 10 and 12 kHz wide
DECIMATION = 13  # 0.8 · 200 kHz / 12 kHz
TONES_HZ = {LOW: [-59.5e3, -54e3, -50.2e3], HIGH: [30.1e3, 36.5e3, 41.9e3]}  # within each, to its edges
BESIDE_HZ = [-80e3, -61.6e3 - 5e3, -10e3, 0, 44.2e3, 90e3]  # with strong neighbours
LENGTH = 60_000


def tones(instants_s, frequencies_hz):
    return np.exp(2j * np.pi * np.multiply.outer(np.asarray(instants_s), np.array(frequencies_hz))).sum(axis=1)


def on_air(instants_s):
    """What is on the air about 145 MHz: tones in both bands, and others as strong beside them."""
    return 0.05 * tones(instants_s, [*TONES_HZ[LOW], *TONES_HZ[HIGH], *BESIDE_HZ])


def mark(edges_hz, start, count, **fields):
    low_hz, high_hz = edges_hz
    return {
        "core:sample_start": start,
        "core:sample_count": count,
        "core:freq_lower_edge": low_hz,
        "core:freq_upper_edge": high_hz,
        **fields,
    }


def stamp(late_s):
    return f"2024-05-01T12:00:00.{round(late_s * 1e9):09d}Z"


def record(folder, name, marks, late_s=0.0, rate_hz=WIDE_HZ, tuned_hz=CENTRE_HZ, stamped=True):
    """A recording of what is on the air, that begins later than others by some seconds."""
    instants_s = late_s + np.arange(LENGTH) / rate_hz
    value = on_air(instants_s) * np.exp(-2j * np.pi * (tuned_hz - CENTRE_HZ) * instants_s)
    meta = describe(name, rate_hz=rate_hz, datatype="cf64_le", datetime=stamp(late_s) if stamped else None)
    meta["captures"][0]["core:frequency"] = tuned_hz
    meta["annotations"] = marks
    return put(folder, name, np.stack([value.real, value.imag], axis=1), meta)


MARKS = [mark(LOW, 2000, 40_000), mark(HIGH, 10_000, 30_000)]


@pytest.mark.parametrize(
    ("late_s", "rate_hz", "tuned_hz"),
    [(0.0, WIDE_HZ, CENTRE_HZ), (100 / WIDE_HZ, WIDE_HZ, CENTRE_HZ), (123.4e-6, WIDE_HZ + 3, CENTRE_HZ - 2e3)],
)
def test_bands_are_emissions_whose_delays_are_kept(late_s, rate_hz, tuned_hz, tmp_path):
    """Whatever the start, rate and centre of a receiver, its samples are those of the others at the same instants."""
    files = [record(tmp_path, "alpha", MARKS), record(tmp_path, "bravo", [], late_s, rate_hz, tuned_hz)]
    dataset = hl.read_sigmf(files)
    assert dataset.attrs["sample_rate_hz"] == pytest.approx(WIDE_HZ / DECIMATION, rel=2e-5)
    np.testing.assert_array_equal(dataset.centre_frequency, [sum(LOW) / 2, sum(HIGH) / 2])
    assert dataset.recording.values.tolist() == [0, 0]
    first_s = dataset.recording_time.values[0]
    late = float((dataset.start_time[0] - np.datetime64("2024-05-01T12:00:00", "ns")) / np.timedelta64(1, "s"))
    voltage = hl.iq(dataset).values
    for row, band in enumerate((LOW, HIGH)):
        instants_s = late + dataset.recording_time.values[row] - first_s + dataset["time"].values
        begin = MARKS[row]["core:sample_start"] / WIDE_HZ
        assert begin - 1 / WIDE_HZ <= instants_s[0] < begin + 40 * DECIMATION / WIDE_HZ
        expected = 0.05 * tones(instants_s, np.array(TONES_HZ[band]) - (sum(band) / 2 - CENTRE_HZ))
        for found in voltage[row]:
            inside = found[16:-16]
            turned = np.vdot(expected[16:-16], inside) / np.vdot(expected[16:-16], expected[16:-16])
            assert abs(turned) == pytest.approx(1, abs=1e-3)
            error = inside / turned - expected[16:-16]
            assert np.abs(error).max() < 1e-3 * 0.05 * 3  # −60 dB
    assert (voltage.shape[2] - 1) * DECIMATION <= 30_000


def test_time_of_a_mark_is_that_of_the_receiver_that_marks(tmp_path):
    files = [record(tmp_path, name, [], 0.0 if name != "bravo" else 0.01) for name in PLACES]
    record(tmp_path, "bravo", [mark(LOW, 10_000, 20_000)], 0.01)
    dataset = hl.read_sigmf(files)
    begin = np.datetime64("2024-05-01T12:00:00.060000", "ns")
    assert 0 <= float((dataset.start_time[0] - begin) / np.timedelta64(1, "s")) < 30 / WIDE_HZ
    assert dataset.sizes["time"] == pytest.approx(20_000 / 16, abs=2)
    unstamped = [record(tmp_path, name, [], stamped=False) for name in PLACES]
    record(tmp_path, "bravo", [mark(LOW, 10_000, 20_000)], stamped=False)
    assert float(hl.read_sigmf(unstamped).recording_time[0]) == pytest.approx(10_000 / WIDE_HZ, abs=16 / WIDE_HZ)


def test_marks_hold_what_is_known_of_their_emission(tmp_path):
    reference = {"heimdall:reported_latitude": 45.03, "heimdall:reported_longitude": 7.27}
    truth = {"heimdall:variables": {"transmitter_latitude": 45.5}}
    marks = [mark(LOW, 2000, 40_000, **reference), mark(HIGH, 10_000, 30_000, **truth)]
    files = [record(tmp_path, name, marks if name == "alpha" else []) for name in PLACES]
    dataset = hl.read_sigmf(files)
    np.testing.assert_array_equal(dataset.reported_latitude, [45.03, np.nan])
    np.testing.assert_array_equal(dataset.transmitter_latitude, [np.nan, 45.5])
    again = hl.read_sigmf(hl.write_sigmf(dataset, tmp_path / "again"))
    for name in dataset.variables:
        np.testing.assert_array_equal(again[name], dataset[name])
    named = hl.read_sigmf(files, references={144.945e6: (46.0, 8.0)})
    np.testing.assert_array_equal(named.reported_latitude, [46.0, np.nan])
    with pytest.raises(ValueError, match=r"references: 145036000 Hz leaves none to locate: all 2 samples are of"):
        hl.read_sigmf(files, references={145.036e6: (46.0, 8.0)})


def test_full_scale_of_bands_is_that_of_the_capture(tmp_path):
    """Fixed-point samples with a stated full scale: a tone in the band keeps its level."""
    instants_s = np.arange(LENGTH) / WIDE_HZ
    value = 8000 * tones(instants_s, [36e3])
    samples = np.stack([value.real, value.imag], axis=1).round().astype("<i2")
    for full_scale in (None, 0.25):
        meta = describe("alpha", rate_hz=WIDE_HZ)
        known = {} if full_scale is None else {"iq_full_scale": full_scale}
        meta["annotations"] = [mark(HIGH, 0, LENGTH), {"core:sample_start": 0, "heimdall:variables": known}]
        voltage = hl.iq(hl.read_sigmf(put(tmp_path, "alpha", samples, meta))).values
        level = 8000 / 32768 if full_scale is None else 8000 / 32767 * full_scale
        assert np.abs(voltage[0, 0]) == pytest.approx(level, rel=1e-3)


@pytest.mark.parametrize(
    "fields",
    [
        {"core:freq_lower_edge": CENTRE_HZ - WIDE_HZ / 2, "core:freq_upper_edge": CENTRE_HZ + WIDE_HZ / 2},
        {"core:freq_lower_edge": 144.94e6},
        {"core:freq_lower_edge": -22e3, "core:freq_upper_edge": 22e3},
        {},
    ],
)
def test_other_annotations_are_remarks(fields, tmp_path):
    samples = noise(500)
    meta = describe("alpha", rate_hz=WIDE_HZ)
    meta["annotations"] = [{"core:sample_start": 10, "core:sample_count": 100, **fields}]
    dataset = hl.read_sigmf(put(tmp_path, "alpha", samples, meta))
    np.testing.assert_array_equal(dataset.iq[0, 0].values.T, samples[:, 0])
    assert json.loads(dataset.attrs["annotations"])[0].items() >= fields.items()
    assert "centre_frequency" not in dataset


def test_bands_are_remarks_for_whoever_says_so(tmp_path):
    meta = describe("alpha", rate_hz=WIDE_HZ)
    meta["annotations"] = MARKS
    file = put(tmp_path, "alpha", noise(LENGTH), meta)
    for dataset in (hl.read_sigmf(file, bands=False), hl.read_sigmf(file, centre_frequency_hz=145e6)):
        assert dataset.sizes["time"] == LENGTH
        assert len(json.loads(dataset.attrs["annotations"])) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            changed(["annotations"], [MARKS[0], mark((145.03e6, 145.04e6), 10_000, 30_000)]),
            r"bravo.sigmf-meta: annotations mark 144940000 to 144950000 Hz(,| and) 145030000 to 145040000 Hz, but .* "
            "in alpha; mark the same bands",
        ),
        (
            changed(["captures", 0, "core:frequency"], 145.08e6),
            r"bravo.sigmf-meta: captures.0: core:frequency: is 145080000.0, whose band does not hold 144940000 to "
            "144950000 Hz",
        ),
        (
            changed(["annotations"], [mark(LOW, 2000, 20_000), mark(HIGH, 45_000, 10_000)]),
            r"alpha.sigmf-meta: 145030000 to 145042000 Hz: of 'alpha' ends before that of 'bravo' begins",
        ),
        (
            changed(["annotations"], [mark(LOW, 2003, 5), MARKS[1]]),
            r"bravo.sigmf-meta: annotations.0 marks 144940000 to 144950000 Hz for 5 samples from 2003 of capture 0",
        ),
    ],
)
def test_marks_that_disagree_are_refused_by_name(change, message, tmp_path):
    marks = [mark(LOW, 2000, 20_000), MARKS[1]]
    files = [record(tmp_path, name, marks if name == "alpha" else []) for name in PLACES]
    change(tmp_path)
    with pytest.raises(ValueError, match=message):
        hl.read_sigmf(files)


@pytest.mark.parametrize(
    ("width_hz", "message"),
    [
        (0.001, r"annotations.1 marks 0.001 Hz, the widest band; at 1e\+06 samples per second mark one of more"),
        (1.0, r"annotations.1 marks 1 Hz, the widest band; at .* than 12.21 Hz, or say bands=False"),
        (
            100.0,
            r"annotations.1 marks 99999900 to 100000000 Hz for 900 samples from 50 of .* mark at least 409\d\d\d of",
        ),
    ],
)
def test_narrow_marks_are_refused_before_filters_are_designed(width_hz, message, tmp_path, monkeypatch):
    """A filter takes as many samples as its band is narrow: time and memory without end."""

    def design(*_, **__):
        raise AssertionError

    monkeypatch.setattr(scipy.signal, "firwin", design)
    meta = describe("alpha", rate_hz=1e6)
    meta["captures"][0]["core:frequency"] = 1e8
    remark = {"core:sample_start": 0, "core:comment": "a remark"}
    meta["annotations"] = [remark, mark((1e8 - width_hz, 1e8), 50, 900)]
    with pytest.raises(ValueError, match=f"alpha.sigmf-meta: {message}"):
        hl.read_sigmf(put(tmp_path, "alpha", noise(1000), meta))


def test_bands_that_no_memory_holds_are_refused(tmp_path):
    meta = describe("alpha", rate_hz=WIDE_HZ)
    edges_hz = [(CENTRE_HZ - 50e3 - k, CENTRE_HZ + 50e3) for k in range(1000)]
    meta["annotations"] = [mark(edges, 0, 300_000) for edges in edges_hz]
    file = put(tmp_path, "alpha", noise(300_000), meta)
    message = "annotations mark 1,000 bands, which hold 300,000,000 samples of all receivers at the rate of the widest"
    with pytest.raises(ValueError, match=rf"alpha.sigmf-meta: {message}, of 100999 Hz, more than 268,435,456; mark"):
        hl.read_sigmf(file)


def test_captures_of_bands_are_counted_forwards(tmp_path):
    meta = describe("alpha", rate_hz=WIDE_HZ)
    first = meta["captures"][0]
    meta["captures"] = [
        first | {"core:global_index": 50_000},
        first | {"core:sample_start": 30_000, "core:global_index": 60_000},
    ]
    meta["annotations"] = [mark(LOW, 0, 20_000), mark(LOW, 35_000, 20_000)]
    file = put(tmp_path, "alpha", noise(LENGTH), meta)
    with pytest.raises(ValueError, match=r"captures.1: core:global_index: is 60000, but the capture .* ends at 80000"):
        hl.read_sigmf(file)
