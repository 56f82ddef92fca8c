"""LocaRDS tables: what is read and refused, and fixes of real aircraft."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import heimdall_lab as hl
from heimdall_lab.core.units import SPEED_OF_LIGHT
from heimdall_lab.datasets import schema
from heimdall_lab.localization import bounds, errors
from heimdall_lab.localization.observations import from_dataset

pyproj = pytest.importorskip("pyproj")

SENSORS = """serial,latitude,longitude,height,type,good
1,47.0,8.0,500,Radarcape,TRUE
2,47.8,8.1,400,Radarcape,TRUE
3,47.2,9.1,450,Radarcape,TRUE
4,46.6,8.9,600,Radarcape,FALSE
5,0,0,0,Radarcape,TRUE
6,47.5,8.5,300,dump1090,FALSE
7,10.0,10.0,0,Radarcape,TRUE
"""
PLACES = {1: (47.0, 8.0, 500), 2: (47.8, 8.1, 400), 3: (47.2, 9.1, 450), 4: (46.6, 8.9, 600), 6: (47.5, 8.5, 300)}
AIRCRAFT = (47.3, 8.4, 9000.0)
HEADER = "id,timeAtServer,aircraft,latitude,longitude,baroAltitude,geoAltitude,numMeasurements,measurements"


def message(
    number: int = 7, baro: str = "9100", geo: str = "9000", extra: tuple = (), unit: float = 1.0, **replaced: str
) -> str:
    """One row of an aircraft, whose arrivals are those of PROJ's straight lines rounded to ns; strengths in a unit."""
    to_ecef = pyproj.Transformer.from_crs("EPSG:4979", "EPSG:4978")
    there = np.array(to_ecef.transform(*AIRCRAFT))
    measurements = []
    for serial, place in PLACES.items():
        range_m = np.linalg.norm(np.array(to_ecef.transform(*place)) - there)
        measurements.append([serial, 8_605_679_765 + round(range_m / 0.299792458), round(2e6 / range_m) * unit])
    measurements.extend(extra)
    fields = {
        "id": str(number),
        "time": "7.634",
        "aircraft": "766",
        "latitude": str(AIRCRAFT[0]),
        "longitude": str(AIRCRAFT[1]),
        "baro": baro,
        "geo": geo,
        "count": str(len(measurements)),
        "measurements": json.dumps(measurements),
    } | replaced
    return ",".join([*list(fields.values())[:-1], '"' + fields["measurements"].replace('"', '""') + '"'])


def write(folder: Path, *rows: str, sensors: str = SENSORS, header: str = HEADER) -> tuple[Path, Path]:
    (folder / "sensors.csv").write_text(sensors)
    (folder / "set.csv").write_text("\n".join([header, *rows]) + "\n")
    return folder / "set.csv", folder / "sensors.csv"


def test_a_table_is_read(tmp_path):
    dataset = hl.read_locards(*write(tmp_path, message(7), message(9, geo="", extra=([5, 1, 2], [99, 1, 2]))))
    assert dataset.sample.values.tolist() == [7, 9]
    assert dataset.receiver_name.values.tolist() == ["1", "2", "3", "4", "6"]  # neither (0, 0) nor unknown nor unused
    assert dataset.heard.values.tolist() == [[True] * 4 + [False]] * 2  # a dump1090 keeps no common time
    assert dataset.receiver_altitude.values[0].tolist() == [500, 400, 450, 600, 300]
    assert dataset.reported_altitude.values.tolist() == [9000, 9100]
    assert dataset.transmitter_altitude.values == pytest.approx([9000, np.nan], nan_ok=True)
    strongest = int(dataset.rssi_dbm.values[0, :4].argmax())
    assert dataset.reference_receiver.values.tolist() == [strongest] * 2
    assert dataset.tdoa_s.values[0, strongest] == 0
    assert np.abs(dataset.tdoa_s).max() < 1e-3


def test_messages_of_a_table_are_emissions_of_one_recording(tmp_path):
    """Time counts from the first message, wherever it stands; what no sensor of common time received has none."""
    later = json.dumps([[serial, 9_605_679_765 + 1000 * serial, 50] for serial in PLACES])
    alone = json.dumps([[6, 77, 50]])
    rows = [message(1, measurements=later, count="5"), message(2), message(3, measurements=alone, count="1")]
    dataset = hl.read_locards(*write(tmp_path, *rows))
    assert dataset.recording.values.tolist() == [0, 0, 0]
    first_ns = min(arrival for serial, arrival, _ in json.loads(message(2).split('"')[1]) if serial != 6)
    np.testing.assert_allclose(dataset.recording_time, [(9_605_680_765 - first_ns) / 1e9, 0, np.nan], rtol=0, atol=1e-9)
    joined = hl.join_windows(dataset, strict=True)  # of which none is a window of another
    heard = dataset.heard.values
    np.testing.assert_allclose(joined.tdoa_s.values[heard], dataset.tdoa_s.values[heard], atol=1e-15)


@pytest.mark.parametrize("unknown", ["", "  ", "NA", "nan", "NaN"])
def test_what_aircraft_do_not_say_is_unknown(tmp_path, unknown):
    """Where it is, which is to be found; its altitude; both. What a row says counts for that row."""
    nowhere = dict.fromkeys(("latitude", "longitude"), unknown)
    rows = [
        message(1),
        message(2, **nowhere),
        message(3, geo=unknown),
        message(4, baro=unknown, geo=unknown),
        message(5, baro=unknown, geo=unknown, **nowhere),
    ]
    dataset = hl.read_locards(*write(tmp_path, *rows))
    assert dataset.transmitter_latitude.isnull().values.tolist() == [False, True, False, False, True]
    assert dataset.transmitter_longitude.equals(dataset.transmitter_latitude - AIRCRAFT[0] + AIRCRAFT[1])
    assert dataset.reported_altitude.values == pytest.approx([9000, 9000, 9100, np.nan, np.nan], nan_ok=True)
    assert dataset.reported_altitude_std.values == pytest.approx([25, 25, 150, np.nan, np.nan], nan_ok=True)
    assert dataset.transmitter_position_std.values == pytest.approx([70, np.nan, 70, 70, np.nan], nan_ok=True)
    fixes = hl.locate(dataset, "tdoa_ls").isel(sample=[0, 1])
    assert fixes.latitude.values == pytest.approx(AIRCRAFT[0], abs=1e-5)
    assert fixes.longitude.values == pytest.approx(AIRCRAFT[1], abs=1e-5)


def test_sensors_must_say_where_they_are(tmp_path):
    with pytest.raises(ValueError, match=r"sensors.csv, row 2: latitude is 'nan'; write a finite number"):
        hl.read_locards(*write(tmp_path, message(), sensors=SENSORS.replace("1,47.0", "1,nan")))
    with pytest.raises(ValueError, match=r"sensors.csv, row 2: height is ''; write a finite number"):
        hl.read_locards(*write(tmp_path, message(), sensors=SENSORS.replace("8.0,500", "8.0,")))


def test_what_a_table_does_not_tell_is_the_users_to_say(tmp_path):
    files = write(tmp_path, message())
    assumed = hl.read_locards(*files)
    assert (assumed.attrs["propagation"], assumed.attrs["path_delay_sigma_s"]) == ("line_of_sight", 0.0)
    assert "receiver_position_std" not in assumed
    np.testing.assert_array_equal(bounds.position_sigma_m(assumed), 10.0)
    stated = hl.read_locards(*files, path_delay_sigma_s=1e-6, clock_sigma_s=2e-6, receiver_position_std_m=300)
    assert (stated.attrs["path_delay_sigma_s"], stated.attrs["clock_sigma_s"]) == (1e-6, 2e-6)
    np.testing.assert_array_equal(stated.receiver_position_std, np.full((1, 5), 300.0))
    expected_m = np.linalg.norm([1e-6 * SPEED_OF_LIGHT, 2e-6 * SPEED_OF_LIGHT, 300.0])
    np.testing.assert_allclose(from_dataset(stated).sigma_m, expected_m, rtol=1e-3)  # but for the stamps' steps
    waves = hl.read_locards(*files, propagation="ground_wave")
    assert waves.attrs["path_delay_sigma_s"] > 0
    for wrong, says in (
        ({"speed": 1}, "speed: is no attribute"),
        ({"duration_s": 1}, "duration_s: is what the recordings tell"),
        ({"propagation": "tunnel"}, "propagation: 'tunnel' is unknown"),
        ({"receiver_position_std_m": -1}, "receiver_position_std_m: is -1"),
        ({"receiver_position_std_m": "far"}, "receiver_position_std_m: does not hold numbers"),
    ):
        with pytest.raises(ValueError, match=says):
            hl.read_locards(*files, **wrong)


def test_doubtful_sensors_are_named(tmp_path, caplog):
    sensors = SENSORS.replace("2,47.8,8.1", "2,47.0,8.0").replace("4,46.6,8.9", "4,46.6123,8.9")
    files = write(tmp_path, message(extra=([5, 1, 2], [99, 1, 2])), sensors=sensors)
    with caplog.at_level(logging.WARNING):
        dataset = hl.read_locards(*files)
    assert caplog.messages[0].startswith("5, 99: no position in sensors.csv, or (0, 0), as unknown positions are")
    assert caplog.messages[1].startswith("1 and 2 stand at one place")
    assert caplog.messages[2].startswith("1, 2, 3, 6: fewer than three decimals")
    assert caplog.messages[1:] == schema.position_cautions(dataset)


def test_exact_arrivals_are_an_exact_fix(tmp_path):
    """Nanoseconds are 0.3 m, and the dilution of four receivers around is about 1."""
    dataset = hl.read_locards(*write(tmp_path, message()))
    for method in ("tdoa_ls", "tdoa_robust"):
        fixes = hl.locate(dataset, method)
        assert fixes.converged.all()
        assert errors.position_errors(dataset, fixes).error.max() < 1.0


def test_a_level_of_zero_is_unknown(tmp_path):
    row = message().replace("[4, ", "[40, ").replace('"[[', '"[[4, 8605700000, 0], [').replace(",5,", ",6,")
    dataset = hl.read_locards(*write(tmp_path, row))
    assert np.isnan(dataset.rssi_dbm.sel(receiver=dataset.receiver_name == "4")).all()
    assert dataset.heard.sel(receiver=dataset.receiver_name == "4").all()


@pytest.mark.parametrize("unit", [1.0, 1e-6, 1e-200, 1e200])  # strengths are 20 to 70, on no scale
def test_the_scale_of_strengths_changes_nothing(tmp_path, unit):
    dataset = hl.read_locards(*write(tmp_path, message(), message(8, unit=unit)))
    assert dataset.reference_receiver.values[1] == dataset.reference_receiver.values[0]
    assert dataset.tdoa_s.isel(sample=1).drop_vars("sample").equals(dataset.tdoa_s.isel(sample=0).drop_vars("sample"))
    fixes = hl.locate(dataset, "tdoa_ls")
    assert errors.position_errors(dataset, fixes).error.max() < 1.0


def test_a_reference_has_heard_whatever_is_known_of_levels(tmp_path):
    """Sensor 1 is the strongest of common time, sensor 3 the next; sensor 6 keeps no time."""
    weak = json.loads(message(unit=1e-6).split('"')[1])
    without_one = [[serial, arrival_ns, None if serial == 1 else level] for serial, arrival_ns, level in weak]
    without_any = [[serial, arrival_ns, level if serial == 6 else None] for serial, arrival_ns, level in weak]
    rows = [message(n, measurements=json.dumps(entries)) for n, entries in enumerate((weak, without_one, without_any))]
    dataset = hl.read_locards(*write(tmp_path, *rows))
    assert dataset.receiver_name[dataset.reference_receiver.values[:2]].values.tolist() == ["1", "3"]
    assert dataset.tdoa_s.where(dataset.heard).notnull().equals(dataset.heard)
    assert dataset.heard.values[2, dataset.reference_receiver.values[2]]


@pytest.mark.parametrize(
    ("replaced", "says"),
    [
        ({"latitude": "north"}, r"set.csv, row 2: latitude is 'north'; write a finite number"),
        ({"latitude": "97"}, r"set.csv, row 2: latitude 97 is outside ±90"),
        ({"longitude": "inf"}, r"set.csv, row 2: longitude is 'inf'; write a finite number"),
        ({"longitude": "181"}, r"set.csv, row 2: longitude 181 is outside ±180"),
        ({"latitude": "none"}, r"set.csv, row 2: latitude is 'none'"),
        ({"baro": "n/a"}, r"set.csv, row 2: baroAltitude is 'n/a'"),
        ({"id": "nan"}, r"set.csv, row 2: id is 'nan'; write a whole number"),
        ({"count": ""}, r"set.csv, row 2: numMeasurements is ''"),
        ({"id": "1.5"}, r"set.csv, row 2: id is '1.5'; write a whole number"),
        ({"geo": "high"}, r"set.csv, row 2: geoAltitude is 'high'"),
        ({"count": "4"}, r"set.csv, row 2: measurements holds 5 entries, numMeasurements is 4"),
        ({"measurements": "[[1, 2, 3]"}, r"set.csv, row 2: measurements '\[\[1, 2, 3\]' is no JSON"),
        ({"measurements": "{}"}, r"is no list"),
        ({"measurements": "[[1, 2]]"}, r"holds \[1, 2\]; write \[\[sensor, time of arrival in ns"),
        ({"measurements": '[[1, "2", 3]]'}, r'holds \[1, "2", 3\]'),
        ({"measurements": "[[1, NaN, 3]]"}, r"holds \[1, NaN, 3\]"),
        ({"measurements": "[[true, 2, 3]]"}, r"holds \[true, 2, 3\]"),
        ({"measurements": "[[1, 2, 3], [1, 2, 3]]"}, r"set.csv, row 2: measurements holds sensor 1 twice"),
        ({"measurements": "[" * 10**4}, r"set.csv, row 2: measurements '\[\[.* is no JSON"),
        ({"measurements": f"[[1, {10**400}, 3]]"}, r"set.csv, row 2: measurements holds \[1, 10000"),
        ({"id": "1e300"}, r"set.csv, row 2: id is '1e300'; write a whole number"),
        ({"id": str(2**53 + 1)}, r"set.csv, row 2: id is '9007199254740993'; write a whole number"),
        ({"measurements": "[[5, 2, 3]]", "count": "1"}, r"no message was received by a sensor of known position"),
    ],
)
def test_malformed_rows_are_refused(tmp_path, replaced, says):
    with pytest.raises(ValueError, match=says):
        hl.read_locards(*write(tmp_path, message(**replaced)))


NUMBERS = st.one_of(
    st.integers(-(10**20), 10**20).map(str),
    st.floats().map(str),
    st.sampled_from(["", "NA", "nan", "1e400", "-0", "9" * 400, "0x10", " 7 ", "٣", '"']),
    st.text(max_size=8),
)
ENTRIES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=12,
).map(json.dumps)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_table_is_read_or_refused_in_a_short_message(tmp_path, data):
    """Tables with some cells of messages and sensors changed, columns named otherwise, and a byte put in."""
    rows = [message(number) for number in range(3)]
    named = st.sampled_from(["id", "latitude", "longitude", "count"])
    rows[1] = message(1, **data.draw(st.dictionaries(named, NUMBERS)))
    rows[2] = message(2, *data.draw(st.tuples(NUMBERS, NUMBERS)), measurements=data.draw(ENTRIES))
    sensors = [line.split(",") for line in SENSORS.splitlines()]
    cells = st.tuples(st.integers(0, len(sensors) - 1), st.integers(0, 5))
    for line, column in data.draw(st.lists(cells, max_size=3)):
        sensors[line][column] = data.draw(NUMBERS)
    header = data.draw(st.just(HEADER) | st.text())
    paths = write(tmp_path, *rows, sensors="\n".join(map(",".join, sensors)), header=header)
    with paths[0].open("r+b") as file:
        if data.draw(st.booleans()):
            file.seek(data.draw(st.integers(0, 600)))
            file.write(data.draw(st.binary(max_size=3)))
    text = ""
    try:
        schema.check(hl.read_locards(*paths))
    except ValueError as error:
        text = str(error)
    assert len(text) < 700


def test_malformed_tables_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"set.csv: column 'geoAltitude' is missing"):
        hl.read_locards(*write(tmp_path, message(), header=HEADER.replace("geoAltitude", "altitude")))
    with pytest.raises(ValueError, match=r"set.csv: column 'id' is missing or there twice"):
        hl.read_locards(*write(tmp_path, message(), header=HEADER.replace("aircraft", "id")))
    with pytest.raises(ValueError, match=r"set.csv: cannot be read \(field larger"):  # a quote that nothing closes
        hl.read_locards(*write(tmp_path, '7,"' + "x" * 200_000))
    with pytest.raises(ValueError, match=r"set.csv, row 2: has not one value for each of the 9 columns"):
        hl.read_locards(*write(tmp_path, "7,1.0"))
    with pytest.raises(ValueError, match=r"sensors.csv, row 9: serial 7 is there twice"):
        hl.read_locards(*write(tmp_path, message(), sensors=SENSORS + "7,1,1,0,Radarcape,TRUE\n"))
    with pytest.raises(ValueError, match=r"no message was received"):
        hl.read_locards(*write(tmp_path))
    with pytest.raises(ValueError, match=r"nowhere.csv: cannot be read"):
        hl.read_locards(tmp_path / "nowhere.csv", tmp_path / "sensors.csv")


@pytest.fixture(scope="module")
def tables(real):
    folder = real / "locards"
    return [hl.read_locards(folder / f"set_{number}.csv", folder / "sensors.csv") for number in (1, 2, 3, 4)]


@pytest.mark.parametrize("method", ["tdoa_ls", pytest.param("tdoa_robust", marks=pytest.mark.slow)])
def test_aircraft_are_located(tables, method):
    """Sets 1 to 4 together; a failed fix is not within any distance."""
    fixes = [hl.locate(table, method) for table in tables]
    error = np.concatenate(
        [
            errors.position_errors(table, fix).error.where(fix.converged, np.inf)
            for table, fix in zip(tables, fixes, strict=True)
        ]
    )
    assert len(error) == 1147
    assert np.median(error) <= 75
    assert (error <= 1000).mean() >= 0.93
    assert (np.isfinite(error) & (error > 1000)).mean() < 0.005  # said to be found, and are not


@pytest.mark.slow
def test_reported_positions_are_as_far_off_as_is_said(tables):
    """The second moment of errors, less that of the fixes themselves, of fixes that are sharper than the labels."""
    label_m2 = []
    for table in tables:
        fixes = hl.locate(table, "tdoa_robust")
        own_m2 = np.trace(fixes.covariance.values, axis1=1, axis2=2)
        error = errors.position_errors(table, fixes).error.values
        sharp = fixes.converged.values & (own_m2 < 2 * 30.0**2)
        label_m2.append(error[sharp] ** 2 - own_m2[sharp])
    label_m2 = np.concatenate(label_m2)
    assert len(label_m2) > 300
    # Some 400 of such a long-tailed law tell their rms to 6 %, and what else is wrong with fixes is in it, too.
    assert np.sqrt(label_m2.mean() / 2) == pytest.approx(float(tables[0].transmitter_position_std[0]), rel=0.2)


def test_fixes_of_aircraft_know_nothing_of_their_true_positions(tables):
    table = tables[3]
    blind = table.copy()
    for name in ("latitude", "longitude", "altitude"):
        blind[f"transmitter_{name}"] = table[f"transmitter_{name}"].copy(data=np.full(table.sizes["sample"], np.nan))
    for method in ("tdoa_ls", "tdoa_robust"):
        assert hl.locate(blind, method).identical(hl.locate(table, method))
