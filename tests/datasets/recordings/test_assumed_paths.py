"""What is assumed of paths and of receivers' positions in recordings, and what the user says in its place."""

import logging
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from kiwi_recordings import RATES_HZ, RECEIVERS, file_name, kiwi_bytes, noise
from path_scenes import hop_m
from pyproj import Geod
from sigmf_recordings import PLACES, describe, put
from sigmf_recordings import noise as integers

import heimdall_lab as hl
from heimdall_lab.core import geodesy
from heimdall_lab.core.units import SPEED_OF_LIGHT
from heimdall_lab.datasets import schema
from heimdall_lab.datasets.recordings import propagation
from heimdall_lab.localization import bounds, error_law, errors
from heimdall_lab.signals.measurements import with_measurements

MADRID = (40.4, -3.7)
ABROAD = {"alpha": (52.5, 13.4), "bravo_2": (47.0, 8.0), "charlie": (51.5, 3.6)}
HEIGHTS_M = {"alpha": 340e3, "bravo_2": 300e3, "charlie": 320e3}


def table(folder: Path, rows: dict[str, tuple], columns: str = "name,latitude_deg,longitude_deg") -> Path:
    path = folder / "receivers.csv"
    path.write_text(
        "\n".join([columns, *(",".join(map(str, (name, *values))) for name, values in rows.items())]) + "\n"
    )
    return path


def recorded(folder: Path, delays_s: dict[str, float], frequency_hz: int) -> list[Path]:
    files = [folder / file_name(name, frequency_hz=frequency_hz) for name in delays_s]
    for file, (name, delay_s) in zip(files, delays_s.items(), strict=True):
        file.write_bytes(kiwi_bytes(noise(delay_s), RATES_HZ[name]))
    return files


@pytest.fixture(scope="module")
def shortwave(tmp_path_factory) -> tuple[list[Path], Path]:
    """Three stations far from a transmitter at Madrid, each reached by one hop at a height of its own."""
    folder = tmp_path_factory.mktemp("shortwave")
    delays_s = {}
    for name, (latitude, longitude) in ABROAD.items():
        distance_m = Geod(ellps="WGS84").inv(MADRID[1], MADRID[0], longitude, latitude)[2]
        delays_s[name] = hop_m(distance_m, HEIGHTS_M[name]) / SPEED_OF_LIGHT
    first_s = min(delays_s.values())
    files = recorded(folder, {name: delay_s - first_s for name, delay_s in delays_s.items()}, 9_410_000)
    return files, table(folder, ABROAD)


def test_shortwave_is_as_uncertain_as_it_is_far_off(shortwave):
    files, stations = shortwave
    dataset = hl.read_kiwi(files, stations, transmitter=MADRID)
    assert dataset.attrs["propagation"] == "sky_wave"
    assert 50e-6 < dataset.attrs["path_delay_sigma_s"] < 200e-6
    found = hl.locate(dataset, "tdoa_ls")
    judged = errors.position_errors(dataset, found)
    assert float(np.sqrt(np.trace(found.covariance.values[0]))) > 100e3
    assert float(judged.mahalanobis_squared[0]) < error_law.radius_squared(0.95, float(found.freedom[0]))


def test_the_user_says_how_signals_travel(shortwave):
    files, stations = shortwave
    dataset = hl.read_kiwi(files, stations, propagation="ground_wave", path_delay_sigma_s=5e-6, clock_sigma_s=1e-6)
    assert dataset.attrs["propagation"] == "ground_wave"
    assert (dataset.attrs["path_delay_sigma_s"], dataset.attrs["clock_sigma_s"]) == (5e-6, 1e-6)
    wave = hl.read_kiwi(files, stations, propagation="ground_wave")
    assert wave.attrs["path_delay_sigma_s"] < 5e-6
    again = propagation.restated(wave, "sky_wave", None)
    assert again.attrs == hl.read_kiwi(files, stations).attrs
    assert propagation.restated(dataset, "ground_wave", None) is dataset  # which keeps what is stated of it
    assert propagation.restated(wave, None, 1e-3).attrs["propagation"] == "ground_wave"
    assert propagation.restated(wave, None, None) is wave


@pytest.mark.parametrize("frequency_hz", [0.0, -1e6, np.nan])
def test_where_no_frequency_is_known_paths_are_straight(frequency_hz):
    """A baseband's is 0; ground waves that are stated count as late ones."""
    known = {"centre_frequency_hz": frequency_hz}
    places = np.array([[45.0, 46.0, 47.0]]), np.array([[7.0, 8.0, 9.0]])
    assert propagation.with_paths(known, *places) | known == known | {
        "propagation": "line_of_sight",
        "path_delay_sigma_s": 0.0,
    }
    assert propagation.with_paths(known | {"propagation": "ground_wave"}, *places)["path_delay_sigma_s"] > 1e-6


def test_late_links_are_in_what_is_assumed_of_paths():
    known = {"centre_frequency_hz": 433e6, "nlos_ratio": 0.3, "nlos_excess_mean_s": 8e-6}
    found = propagation.with_paths(known, np.array([[45.0, 46.0]]), np.array([[7.0, 8.0]]))
    assert found["path_delay_sigma_s"] == pytest.approx(8e-6 * np.sqrt(0.3 * 1.7))


def test_the_command_takes_the_same(shortwave, attempt, caplog):
    files, stations = shortwave

    def run(*settings: str) -> tuple[str, str]:
        caplog.clear()
        done = attempt("locate", "--kiwi", *files, "--receivers", stations, *settings)
        return done.stdout, done.stderr + caplog.text

    said, cautions = run()
    assert "Paths at 9,410 kHz are taken for single hops by the ionosphere" in said
    assert "--set propagation=" in said
    assert "alpha, bravo_2, charlie: fewer than three decimals of a degree" in cautions
    sayings = "propagation=line_of_sight", "path_delay_sigma_s=3e-5", "receiver_position_std_m=50"
    stated, cautions = run(*(word for saying in sayings for word in ("--set", saying)))
    assert cautions == ""  # of positions that are no better than that
    assert "Paths at 9,410 kHz are taken for straight lines, with delays known to 30.00 µs.\n" in stated
    for wrong, message in (("propagation=tunnel", "'tunnel' is unknown"), ("sample_rate_hz=1", "recordings tell")):
        assert message in run("--set", wrong)[1]


@pytest.mark.parametrize(
    ("frequency_hz", "expected"),
    [(60e3, "ground_wave"), (2.9e6, "ground_wave"), (3e6, "sky_wave"), (29e6, "sky_wave"), (30e6, "line_of_sight")],
)
def test_propagation_follows_from_the_frequency(tmp_path, frequency_hz, expected):
    files = []
    for seed, name in enumerate(PLACES):
        meta = describe(name)
        meta["captures"][0]["core:frequency"] = frequency_hz
        files.append(put(tmp_path / "net", name, integers(256, seed=seed), meta))
    dataset = hl.read_sigmf(files)
    assert dataset.attrs["propagation"] == expected
    assert (dataset.attrs["path_delay_sigma_s"] > 0) == (expected != "line_of_sight")
    stated = hl.read_sigmf(files, propagation="ground_wave", path_delay_sigma_s=1e-5)
    assert (stated.attrs["propagation"], stated.attrs["path_delay_sigma_s"]) == ("ground_wave", 1e-5)


def test_path_delays_follow_from_how_far_receivers_are_apart():
    def sigmas_s(kind: str, frequency_hz: float) -> np.ndarray:
        return np.array([propagation.path_delay_sigma_s(kind, frequency_hz, d) for d in (50e3, 200e3, 800e3, 2000e3)])

    assert (np.diff(sigmas_s("ground_wave", 100e3)) > 0).all()
    assert (np.diff(sigmas_s("sky_wave", 10e6)) < 0).all()  # paths that come in low change less with the height
    assert (sigmas_s("line_of_sight", 433e6) == 0).all()
    lengths = np.array([[10.0, 10.5]]), np.array([[50.0, 50.0]])
    expected_m = geodesy.geodesic(10.0, 50.0, 10.5, 50.0)[0]
    assert propagation.mean_separation_m(*lengths) == pytest.approx(float(expected_m))


def mirror_height_km(hop_km: np.ndarray, ratio: float, layers: float, m3000: float) -> np.ndarray:
    """ITU-R P.533-14, eq. (14) to (16), at R12 = 50: of hops at f = ratio · foF2 and foF2 = layers · foE.

    NaN within the skip distance.
    """
    y = max(layers, 1.8)
    h = 1490 / (m3000 + 0.18 / (y - 1.4) + 0.096 * 25 / 150) - 316
    if layers <= 3.33:
        j = np.polyval([-0.7126, 5.863, -16.13, 16.07], y)
        u = 8e-5 * (h - 80) * (1 + 11 * y**-2.2) + 1.2e-3 * h * y**-3.6
        return np.minimum(115 + h * j + u * hop_km, 800)
    if ratio >= 1:
        f = np.polyval([-1.862, 12.95, -32.03, 33.50, -10.91], ratio) if ratio <= 1.71 else 1.21 + 0.2 * ratio
        a1 = 140 + (h - 47) * np.polyval([-0.09707, 0.6870, -0.7506, 0.6], ratio)
        b1 = 150 + (h - 17) * f - a1
        skip_km = 160 + (h + 43) * np.polyval([-2.102, 19.50, -63.15, 90.47, -44.73], ratio)
        beyond = (hop_km - skip_km) / (h + 140)
        return np.where(beyond >= 0, np.minimum(a1 + max(b1, 0) * 2.4**-beyond + min(b1, 0), 800), np.nan)
    a2 = 151 + (h - 47) * np.polyval([0.1906, 0.00583, 0.1936], ratio)
    b2 = 141 + (h - 24) * np.polyval([0.645, 0.883, 0.162], ratio) - a2
    near = np.minimum(0.115 * hop_km / (ratio * (h + 140)), 0.65)
    return np.minimum(a2 + b2 * np.polyval([-7.535, 15.75, -8.834, -0.378, 1.0], near), 800)


def test_heights_differ_between_hops_as_those_of_the_itu_do():
    rng = np.random.Generator(np.random.Philox(1))

    def spread_km(least_km: float, most_km: float) -> float:
        moments = rng.uniform([0.5, 2.0, 2.5], [2.5, 8.0, 3.5], (1500, 3))
        heights_km = [mirror_height_km(rng.uniform(least_km, most_km, 60), *moment) for moment in moments]
        heard = [height_km[np.isfinite(height_km)] for height_km in heights_km]
        return float(np.sqrt(np.mean([height_km.var() for height_km in heard if len(height_km) > 10])))

    assumed_km = propagation.path_delay_sigma_s("sky_wave", 10e6, 0.0) * SPEED_OF_LIGHT / 2 / 1e3  # up and down
    assert assumed_km == pytest.approx(spread_km(300, 1500), rel=0.1)
    assert spread_km(200, 1000) < assumed_km < spread_km(200, 3000)


def local(
    tmp_path: Path, rows: dict[str, tuple], columns: str = "name,latitude_deg,longitude_deg", **stated: float
) -> xr.Dataset:
    files = recorded(tmp_path, dict.fromkeys(rows, 0.0), 77_500)
    return hl.read_kiwi(files, table(tmp_path, rows, columns), **stated)


@pytest.mark.slow
def test_positions_are_as_good_as_the_table_says(tmp_path):
    columns = "name,latitude_deg,longitude_deg,position_std_m"
    rows = {name: (*place, std) for (name, place), std in zip(RECEIVERS.items(), ("250", "", "0"), strict=True)}
    dataset = local(tmp_path, rows, columns)
    np.testing.assert_array_equal(dataset.receiver_position_std[0], [250.0, np.nan, 0.0])
    np.testing.assert_array_equal(bounds.position_sigma_m(dataset)[0], [250.0, 10.0, 0.0])
    collection = hl.write_sigmf(dataset, tmp_path / "written")
    written = hl.read_sigmf(collection)
    once = dataset.assign(receiver_position_std=dataset.receiver_position_std[0])
    assert hl.read_sigmf(hl.write_sigmf(once, tmp_path / "once")).receiver_position_std.equals(
        written.receiver_position_std
    )
    np.testing.assert_array_equal(written.receiver_position_std, dataset.receiver_position_std)
    for again in (
        hl.read_sigmf(collection, receiver_position_std_m=40),
        local(tmp_path, rows, columns, receiver_position_std_m=40),
    ):
        np.testing.assert_array_equal(again.receiver_position_std[0], [250.0, 40.0, 0.0])
    variance = bounds.delay_model_variance(with_measurements(dataset))
    expected = (250.0**2 - 10.0**2) / SPEED_OF_LIGHT**2
    assert variance[0, 0] - variance[0, 1] == pytest.approx(expected, rel=0.01)


def test_doubtful_positions_are_named(tmp_path, caplog):
    rows = {"alpha": (45.1234, 7.5), "bravo_2": (46.12, 8.1), "charlie": (45.1234, 7.5)}
    with caplog.at_level(logging.WARNING):
        dataset = local(tmp_path, rows)
    assert caplog.messages == schema.position_cautions(dataset)
    assert len(caplog.messages) == 2
    assert caplog.messages[0].startswith("alpha and charlie stand at one place")
    assert caplog.messages[1].startswith("bravo_2: fewer than three decimals")
    stated = dataset.assign(receiver_position_std=("receiver", np.full(3, 500.0), {"units": "m"}))
    assert len(schema.position_cautions(stated)) == 1


def test_a_receiver_nowhere_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"bravo_2: it stands at \(0, 0\), as unknown positions do; correct"):
        local(tmp_path, RECEIVERS | {"bravo_2": (0, 0)})
