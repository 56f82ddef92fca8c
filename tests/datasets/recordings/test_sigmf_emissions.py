"""SigMF recordings of receivers that are retuned: captures as emissions of one recording, and references."""

import json
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from sigmf_recordings import PLACES, RATE_HZ, changed, describe, noise, put

import heimdall_lab as hl
from heimdall_lab.datasets.recordings import sigmf_emissions, sigmf_files

REFERENCE_HZ, TARGET_HZ = 98.5e6, 145e6
TUNED = [REFERENCE_HZ, TARGET_HZ, REFERENCE_HZ]


def retuned(name, starts=(0, 400, 800), tuned=TUNED, stamps=(None, None, None), **fields):
    """Metadata of a recording that is tuned to several frequencies in turn."""
    meta = describe(name, **fields)
    first = meta["captures"][0]
    meta["captures"] = [
        first | {"core:sample_start": start, "core:frequency": tuned_hz} | ({"core:datetime": stamp} if stamp else {})
        for start, tuned_hz, stamp in zip(starts, tuned, stamps, strict=True)
    ]
    return meta


def record(folder, length=1200, names=PLACES, **options):
    """Recordings of several receivers, each with noise of its own."""
    return [put(folder, name, noise(length, seed=seed), retuned(name, **options)) for seed, name in enumerate(names)]


def heard(dataset, seed, first, count):
    """Whether each sample of a receiver is what its noise is from a sample on."""
    return [
        np.array_equal(dataset.iq.values[row, seed].T, noise(1200, seed=seed)[place : place + count, 0])
        for row, place in enumerate(first)
    ]


def test_captures_of_several_frequencies_are_emissions_of_one_recording(tmp_path):
    dataset = hl.read_sigmf(record(tmp_path))
    assert dataset.recording.values.tolist() == [0, 0, 0]
    np.testing.assert_allclose(dataset.recording_time, [0, 400 / RATE_HZ, 800 / RATE_HZ])
    np.testing.assert_array_equal(dataset.centre_frequency, TUNED)
    assert dataset.attrs["centre_frequency_hz"] == REFERENCE_HZ
    assert all(heard(dataset, 1, [0, 400, 800], 400))
    assert "reported_latitude" not in dataset


def test_frequencies_within_the_band_are_emissions_where_all_are_retuned(tmp_path):
    tuned = [145e6, 145.01e6, 145e6]
    dataset = hl.read_sigmf(record(tmp_path, tuned=tuned))
    np.testing.assert_array_equal(dataset.centre_frequency, tuned)
    assert all(heard(dataset, 2, [0, 400, 800], 400))


def test_emissions_are_cut_to_the_length_of_the_shortest_or_into_windows(tmp_path, caplog):
    files = record(tmp_path, starts=(0, 400, 950))
    dataset = hl.read_sigmf(files)
    assert (dataset.sizes["sample"], dataset.sizes["time"]) == (3, 250)
    assert "emissions hold 0.005 to 0.011 s, and are cut to 0.005 s each" in caplog.text
    assert all(heard(dataset, 0, [0, 400, 950], 250))
    np.testing.assert_allclose(dataset.recording_time * RATE_HZ, [0, 400, 950])
    cut = hl.read_sigmf(files, window_s=120 / RATE_HZ)
    starts = [0, 120, 240, 400, 520, 640, 760, 950, 1070]
    np.testing.assert_allclose(cut.recording_time * RATE_HZ, starts)
    assert all(heard(cut, 2, starts, 120))
    assert cut.centre_frequency.values.tolist() == [REFERENCE_HZ] * 3 + [TARGET_HZ] * 4 + [REFERENCE_HZ] * 2
    assert set(cut.recording.values) == {0}
    chosen = hl.read_sigmf(files, window_s=120 / RATE_HZ, at=[500 / RATE_HZ, 960 / RATE_HZ])
    assert chosen.centre_frequency.values.tolist() == [TARGET_HZ, REFERENCE_HZ]
    with pytest.raises(ValueError, match=r"window_s: is 0.006; give .* every emission holds: capture 2 0.005 s"):
        hl.read_sigmf(files, window_s=0.006)


def test_lost_samples_count_where_the_file_says_so(tmp_path):
    files = record(tmp_path)
    for name, place in (("alpha", 1000), ("bravo", 1000), ("charlie", 1010)):
        for capture, index in enumerate((5, 405 + place, 805 + 2 * place)):
            changed(["captures", capture, "core:global_index"], index, f"{name}.sigmf-meta")(tmp_path)
    dataset = hl.read_sigmf(files)
    assert dataset.sizes["time"] == 380  # of the last captures charlie begins 20 samples later
    np.testing.assert_allclose(dataset.recording_time * RATE_HZ, [0, 1410, 2820])
    assert heard(dataset, 0, [0, 410, 820], 380) == [True] * 3
    assert heard(dataset, 2, [0, 400, 800], 380) == [True] * 3


def test_first_captures_are_aligned_by_stamps_and_later_ones_by_counted_samples(tmp_path, caplog):
    stamps = ("2024-05-01T12:00:00.000000Z", "2024-05-01T13:00:00Z", "2024-05-01T12:00:00Z")
    files = record(tmp_path, stamps=stamps)
    late = ("2024-05-01T12:00:00.000400Z", *stamps[1:])
    put(tmp_path, "bravo", noise(1200, seed=1), retuned("bravo", stamps=late))
    dataset = hl.read_sigmf(files)
    assert dataset.sizes["time"] == 380  # 20 samples less
    assert all(heard(dataset, 0, [20, 420, 820], 380))
    assert all(heard(dataset, 1, [0, 400, 800], 380))
    np.testing.assert_allclose(dataset.recording_time * RATE_HZ, [0, 400, 800])
    start = np.datetime64("2024-05-01T12:00:00.000400", "ns")
    np.testing.assert_array_equal(dataset.start_time - start, np.array([0, 8, 16]) * np.timedelta64(1, "ms"))
    assert "left_out" not in dataset.attrs
    warned = [record.getMessage() for record in caplog.records if "core:datetime" in record.getMessage()]
    assert sorted(message.split(":")[0] for message in warned) == [f"{name}.sigmf-meta" for name in PLACES]
    said = "core:datetime is 3599.99 s later than the samples counted since capture 0 say, which are used instead"
    assert all(f": captures.1: {said}; state lost samples by core:global_index" in message for message in warned)


def test_stamps_within_their_digits_of_counted_samples_are_no_warning(tmp_path, caplog):
    stamps = ("2024-05-01T12:00:00Z", "2024-05-01T12:00:01Z", "2024-05-01T12:00:00.1Z")
    hl.read_sigmf(record(tmp_path, stamps=stamps))
    assert "core:datetime is" not in caplog.text


class Counted(tuple):
    """Captures that count how often all of them are gone through."""

    rounds = 0

    def __iter__(self):
        Counted.rounds += 1
        return super().__iter__()


def test_many_captures_are_gone_through_a_few_times(tmp_path, monkeypatch):
    (file,) = record(tmp_path, names=["alpha"])
    recording = sigmf_files.load_recording(file, "alpha", {})
    segments = Counted(
        replace(recording.segments[0], place=k, capture=recording.segments[k % 2].capture) for k in range(1000)
    )
    monkeypatch.setattr(Counted, "rounds", 0)
    found = sigmf_emissions.emissions_of([replace(recording, segments=segments)] * 3, RATE_HZ, {})
    assert found.centres_hz == (REFERENCE_HZ, TARGET_HZ) * 500
    assert Counted.rounds < 30


def on_air(instants_s):
    tones_hz = np.array([-14e3, -3e3, 1e3, 9e3])
    return 0.2 * np.exp(2j * np.pi * tones_hz * np.asarray(instants_s)[:, None]).sum(axis=1)


def test_starts_and_rates_apart_by_fractions_are_the_same_in_all_emissions(tmp_path):
    """A rate that is counted wrong by 20 ppm, and a start between two samples: later captures follow the first."""
    files, rates_hz = [], {"alpha": RATE_HZ, "bravo": RATE_HZ, "charlie": RATE_HZ * (1 + 20e-6)}
    starts = [0, 20_000, 40_000]
    for name, rate_hz in rates_hz.items():
        late_s = 7e-6 * (name == "bravo")
        value = on_air(late_s + np.arange(60_000) / rate_hz)
        stamp = f"2024-05-01T12:00:00.{round(late_s * 1e9):09d}Z"
        meta = retuned(name, starts, stamps=(stamp, stamp, stamp), datatype="cf64_le", rate_hz=rate_hz)
        files.append(put(tmp_path, name, np.stack([value.real, value.imag], axis=1), meta))
    dataset = hl.read_sigmf(files)
    begin_s = float((dataset.start_time[0] - np.datetime64("2024-05-01T12:00:00", "ns")) / np.timedelta64(1, "s"))
    voltage = hl.iq(dataset).values
    for row, since_s in enumerate(dataset.recording_time.values):
        expected = on_air(begin_s + since_s + dataset["time"].values)
        np.testing.assert_allclose(voltage[row], np.broadcast_to(expected, voltage[row].shape), atol=3e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda meta: meta["captures"][1].update({"core:frequency": 433e6}),
            r"bravo.sigmf-meta: captures.1: core:frequency: is 433000000.0, but 145000000.0 in alpha; give recordings "
            "that are tuned to the same frequencies in the same order",
        ),
        (
            lambda meta: meta["captures"].pop(),
            r"bravo.sigmf-meta: number of captures: is 2, but 3 in alpha; give recordings alike",
        ),
        (
            lambda meta: meta["captures"][2].update({"core:global_index": 700}),
            r"bravo.sigmf-meta: captures.2: core:global_index: is 700, but the capture before it ends at 800; correct",
        ),
        (
            lambda meta: [
                capture.update({"core:global_index": 5000 * k}) for k, capture in enumerate(meta["captures"])
            ],
            r"alpha.sigmf-meta: captures.1: of 'alpha' ends before that of 'bravo' begins, by the samples counted",
        ),
        (
            lambda meta: meta["annotations"].append({"core:sample_start": 0, "heimdall:reported_latitude": 45.0}),
            r"bravo.sigmf-meta: annotations.0: .*reported_latitude and heimdall:reported_longitude belong together",
        ),
        (
            lambda meta: meta["annotations"].append(
                {"core:sample_start": 0, "heimdall:reported_latitude": 95.0, "heimdall:reported_longitude": 7.0}
            ),
            r"bravo.sigmf-meta: annotations.0.heimdall:reported_latitude: 95.0 is refused",
        ),
    ],
)
def test_recordings_that_disagree_are_refused_by_name(change, message, tmp_path):
    files, meta = record(tmp_path), retuned("bravo")
    change(meta)
    put(tmp_path, "bravo", noise(1200), meta)
    with pytest.raises(ValueError, match=message):
        hl.read_sigmf(files)


def mark(folder, start, name="alpha", **fields):
    """Add an annotation of the samples from one on."""
    stated = {"core:sample_start": start, "core:sample_count": 100, **fields}
    changed(["annotations"], [stated], f"{name}.sigmf-meta")(folder)


def test_annotations_say_where_a_reference_stands(tmp_path):
    files = record(tmp_path)
    mark(tmp_path, 850, **{"heimdall:reported_latitude": 45.03, "heimdall:reported_longitude": 7.27})
    mark(tmp_path, 10, "bravo", **{
        "heimdall:reported_latitude": 45.5, "heimdall:reported_longitude": "8", "heimdall:reported_altitude": 900.0,
    })  # fmt: skip
    dataset = hl.read_sigmf(files)
    np.testing.assert_array_equal(dataset.reported_latitude, [45.5, np.nan, 45.03])
    np.testing.assert_array_equal(dataset.reported_longitude, [8, np.nan, 7.27])
    np.testing.assert_array_equal(dataset.reported_altitude, [900, np.nan, np.nan])
    assert dataset.transmitter_latitude.isnull().all()


def test_captures_of_one_frequency_are_emissions_where_one_is_a_reference(tmp_path):
    files = record(tmp_path, tuned=[145e6] * 3)
    assert "recording" not in hl.read_sigmf(files)
    mark(tmp_path, 400, **{"heimdall:reported_latitude": 45.03, "heimdall:reported_longitude": 7.27})
    dataset = hl.read_sigmf(files)
    assert dataset.recording.values.tolist() == [0, 0, 0]
    np.testing.assert_allclose(dataset.recording_time * RATE_HZ, [0, 400, 800])
    np.testing.assert_array_equal(dataset.reported_latitude, [np.nan, 45.03, np.nan])


def test_truth_makes_no_reference(tmp_path):
    files = record(tmp_path)
    mark(tmp_path, 10, **{"heimdall:variables": {"transmitter_latitude": 45.03, "transmitter_longitude": 7.27}})
    dataset = hl.read_sigmf(files, transmitter=(45.1, 7.5))
    assert "reported_latitude" not in dataset
    assert dataset.transmitter_latitude.values.tolist() == [45.1] * 3


def test_references_are_named_by_frequency(tmp_path):
    files = record(tmp_path)
    mark(tmp_path, 10, **{"heimdall:reported_latitude": 1.0, "heimdall:reported_longitude": 2.0})
    dataset = hl.read_sigmf(files, references={98.49e6: (45.03, 7.27)})
    np.testing.assert_array_equal(dataset.reported_latitude, [45.03, np.nan, 45.03])
    np.testing.assert_array_equal(dataset.reported_longitude, [7.27, np.nan, 7.27])
    high = hl.read_sigmf(files, references={98_500_000: (45.03, 7.27, 1200.0)})
    np.testing.assert_array_equal(high.reported_altitude, [1200, np.nan, 1200])


@pytest.mark.parametrize(
    ("references", "message"),
    [
        ({98.4e6: (45, 7)}, r"no emission has 98400000 Hz, within 25000 Hz; there are 98500000(,| and) 145000000 Hz"),
        ({98.5e6: (95, 7)}, r"98500000 Hz is at \(95.0, 7.0\); give latitude within ±90°"),
        ({98.5e6: (45,)}, r"98500000 Hz is at \(45,\); give \(latitude, longitude\) or"),
        ({98.5e6: (45, 7), 98.501e6: (45, 8)}, r"98500000 and 98501000 Hz name the same emission, at 98500000 Hz"),
    ],
)
def test_references_that_name_no_emission_or_place_are_refused(references, message, tmp_path):
    with pytest.raises(ValueError, match=f"references: {message}"):
        hl.read_sigmf(record(tmp_path), references=references)


def test_references_between_two_emissions_are_refused(tmp_path):
    files = record(tmp_path, tuned=[98.46e6, 98.54e6, 98.46e6], rate_hz=200e3)
    with pytest.raises(
        ValueError, match=r"98500000 Hz is as near to one as to another of .* 98460000(,| and) 98540000"
    ):
        hl.read_sigmf(files, references={98.5e6: (45.03, 7.27)})
    dataset = hl.read_sigmf(files, references={98.49e6: (45.03, 7.27)})
    np.testing.assert_array_equal(dataset.reported_latitude, [45.03, np.nan, 45.03])


def test_references_leave_one_to_locate(tmp_path):
    everywhere = {98.5e6: (45.03, 7.27), 145e6: (46, 8)}
    with pytest.raises(ValueError, match=r"references: 98500000(,| and) 145000000 Hz leaves none to locate: all 3"):
        hl.read_sigmf(record(tmp_path), references=everywhere)


def two_recordings(frequency_span_hz):
    config = hl.preset(
        "websdr_reference",
        num_samples=6,
        seed=3,
        recording={"emissions": 3, "references": 2, "frequency_span_hz": frequency_span_hz},
        signal={"duration_s": 0.05},
    )
    return hl.generate(config, progress=False).drop_vars(["features", "feature_units", "statistic"], errors="ignore")


@pytest.fixture(scope="module")
def simulated():
    return two_recordings(2e6)


@pytest.mark.parametrize("frequency_span_hz", [0.0, 2e6])
def test_round_trip_of_recordings_loses_nothing(frequency_span_hz, simulated, tmp_path):
    simulated = simulated if frequency_span_hz else two_recordings(0.0)
    again = hl.read_sigmf(hl.write_sigmf(simulated, tmp_path / "sigmf"))
    expected = simulated.drop_vars([name for name in simulated.variables if name not in again.variables])
    xr.testing.assert_equal(again, expected)
    needed = {"iq", "recording", "recording_time", "centre_frequency", "reported_latitude", "clock_rate"}
    assert needed <= set(expected.variables)
    assert again.attrs == simulated.attrs
    assert again.recording.dtype == simulated.recording.dtype
    window_s = simulated.attrs["duration_s"] / 2
    cut = hl.read_sigmf(tmp_path / "sigmf" / "sigmf.sigmf-collection", window_s=window_s)
    np.testing.assert_array_equal(cut.recording, np.repeat([0, 1], 6))
    expected_s = np.repeat(simulated.recording_time, 2) + np.tile([0, window_s], 6)
    np.testing.assert_allclose(cut.recording_time, expected_s)
    np.testing.assert_array_equal(cut.centre_frequency, np.repeat(simulated.centre_frequency, 2))


def test_round_trip_of_one_emission_keeps_the_frequency_of_all(simulated, tmp_path):
    one = simulated.isel(sample=[4])
    again = hl.read_sigmf(hl.write_sigmf(one, tmp_path / "sigmf"))
    assert one.centre_frequency.item() != one.attrs["centre_frequency_hz"]
    assert again.attrs["centre_frequency_hz"] == one.attrs["centre_frequency_hz"]
    np.testing.assert_array_equal(again.centre_frequency, one.centre_frequency)
    np.testing.assert_array_equal(again.iq, one.iq)


def test_one_recording_is_read_by_its_samples_where_nothing_else_says_it(simulated, tmp_path):
    """Without the variables that are written with it, files have what those of other programs have."""
    one = simulated.isel(sample=slice(3, 6))
    written = hl.write_sigmf(one, tmp_path / "sigmf")
    for file in written.parent.glob("*.sigmf-meta"):
        meta = json.loads(file.read_text())
        for capture in meta["captures"]:
            del capture["heimdall:sample"]
        known = [annotation["heimdall:variables"] for annotation in meta["annotations"]]
        meta["annotations"] = [
            {"core:sample_start": annotation["core:sample_start"]}
            | {f"heimdall:{name}": stated[name] for name in stated if name.startswith("reported_")}
            for annotation, stated in zip(meta["annotations"], known, strict=True)
            if stated["reported_latitude"] is not None
        ]
        meta["global"]["heimdall:attributes"].pop("centre_frequency_hz")
        file.write_text(json.dumps(meta))
    dataset = hl.read_sigmf(sorted(written.parent.glob("*.sigmf-meta")))
    assert dataset.recording.values.tolist() == [0, 0, 0]
    np.testing.assert_allclose(dataset.recording_time, one.recording_time, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(dataset.iq, one.iq)
    for name in ("centre_frequency", "reported_latitude", "reported_longitude", "reported_altitude"):
        np.testing.assert_array_equal(dataset[name], one[name])
    assert "clock_rate" not in dataset


def test_files_say_where_samples_lie_in_their_recording(simulated, tmp_path):
    written = hl.write_sigmf(simulated, tmp_path / "sigmf")
    captures = json.loads(next(written.parent.glob("00-*.sigmf-meta")).read_text())["captures"]
    assert [capture["core:frequency"] for capture in captures] == simulated.centre_frequency.values.tolist()
    assert [capture["core:global_index"] for capture in captures] == [0, 52_500, 105_000] * 2


def test_command_shows_frequencies_and_references(simulated, tmp_path, attempt):
    one = simulated.isel(sample=slice(3, 6)).drop_vars(["reported_latitude", "reported_longitude", "reported_altitude"])
    collection = hl.write_sigmf(one.assign_attrs(config=""), tmp_path / "sigmf")
    first_hz = one.centre_frequency.values[0]
    plain = attempt("locate", collection, "--reference", f"{first_hz:.6e}=45.03,7.27,300")
    assert {"frequency_mhz", "reference"} <= set(plain.stdout.split())
    assert "Joint fix" not in plain.stdout
    assert "Windows of one recording" not in plain.stdout
    rows = json.loads(attempt("locate", collection, "--reference", f"{first_hz:.0f}=45.03,7.27", "--json").stdout)
    assert [row["reference"] for row in rows] == [True, False, False]
    assert [row["frequency_mhz"] for row in rows] == (one.centre_frequency.values / 1e6).round(6).tolist()
    refused = attempt("locate", collection, "--reference", "98e6=45.03,7.27")
    assert refused.returncode != 0
    assert "no emission has 98000000 Hz" in refused.stderr
    wrong = attempt("locate", collection, "--reference", "98e6:45.03")
    assert "reference: '98e6:45.03' is not of the form FREQ=LAT,LON or FREQ=LAT,LON,ALT" in wrong.stderr
