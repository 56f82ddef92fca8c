"""What the error of a fix is made of, against errors that are drawn, and what would help, against fixes with that."""

import numpy as np
import path_scenes
import pytest
import xarray as xr
from measured_delays import NOISE_S, measured, ring

import heimdall_lab as hl
from heimdall_lab.core import geodesy
from heimdall_lab.localization import observations
from heimdall_lab.localization.errors import position_errors
from heimdall_lab.localization.observations import CAUSES
from heimdall_lab.localization.remedies import LONGER, _with_more_receivers, remedies

COUNT = 2000
FOUR_DEVIATIONS = 4 / np.sqrt(2 * COUNT)  # of an rms value of so many errors along one axis; less along two
CLOCKS_S = np.array([50e-9, 300e-9, 50e-9, 100e-9, 20e-9, 200e-9])
PATHS_S = np.full(6, 150e-9)
POSITIONS_M = np.array([5.0, 30.0, 10.0, 80.0, 2.0, 20.0])
ALTITUDE_M, ALTITUDE_SIGMA_M = 6000.0, 200.0
KNOWN = {
    "clock_sigma_s": CLOCKS_S,
    "path_delay_sigma_s": 150e-9,
    "transmitter_altitude_m": ALTITUDE_M,
    "transmitter_altitude_sigma_m": ALTITUDE_SIGMA_M,
}


def scenes(delay_s: np.ndarray, climb_m: np.ndarray | float = 0.0, **attrs: object) -> xr.Dataset:
    """Six receivers, and a transmitter high above them, in every scene, with errors of arrival (S, 6) and altitude."""
    receivers, place = ring(np.random.Generator(np.random.Philox(1)), 1, 6)
    count = len(delay_s)
    receivers = np.concatenate([receivers, np.full((1, 6, 1), 200.0)], axis=-1).repeat(count, axis=0)
    transmitter = np.stack([*place.repeat(count, axis=0).T, ALTITUDE_M + np.broadcast_to(climb_m, count)], axis=-1)
    dataset = measured(receivers, transmitter, delay_s, **KNOWN | attrs)
    return dataset.assign(receiver_position_std=("receiver", POSITIONS_M, {"units": "m"}))


def scatter_m(cause: str, receivers: np.ndarray) -> float:
    """Rms error of fixes where a cause makes errors at the receivers of a mask (6,), and nothing else does."""
    rng = np.random.Generator(np.random.Philox(7))
    sigma_s = {"noise": np.full(6, NOISE_S), "clocks": CLOCKS_S, "paths": PATHS_S}.get(cause, np.zeros(6))
    delay_s = receivers * sigma_s * rng.standard_normal((COUNT, 6))
    dataset = scenes(delay_s, ALTITUDE_SIGMA_M * rng.standard_normal(COUNT) if cause == "altitude" else 0.0)
    if cause == "receiver_positions":
        east, north, up = receivers * POSITIONS_M * rng.standard_normal((3, COUNT, 6))
        place = [dataset[f"receiver_{name}"] for name in ("latitude", "longitude", "altitude")]
        latitude, longitude = geodesy.displace(place[0].values, place[1].values, east, north)
        stated = (latitude, longitude, place[2].values + up)
        dataset = dataset.assign({was.name: was.copy(data=values) for was, values in zip(place, stated, strict=True)})
    error = position_errors(dataset, hl.locate(dataset, "tdoa_ls"))
    return float(np.sqrt((error.error**2).mean()))


@pytest.mark.parametrize("cause", [*CAUSES, "altitude"])
def test_each_cause_makes_the_errors_that_the_budget_says(cause):
    said_m = hl.locate(scenes(np.zeros((1, 6))), "tdoa_ls").budget.sel(sample=0, cause=cause).item()
    assert scatter_m(cause, np.ones(6)) == pytest.approx(said_m, rel=FOUR_DEVIATIONS)


@pytest.mark.parametrize(("cause", "receiver"), [("clocks", 1), ("clocks", 5), ("receiver_positions", 3)])
def test_each_receiver_adds_to_the_errors_what_the_budget_says(cause, receiver):
    parts = hl.locate(scenes(np.zeros((1, 6))), "tdoa_ls").receiver_budget.sel(sample=0, cause=cause)
    assert scatter_m(cause, np.arange(6) == receiver) == pytest.approx(parts[receiver].item(), rel=FOUR_DEVIATIONS)


@pytest.mark.parametrize("method", ["tdoa_ls", "tdoa_robust", "dpd", "rss_ml"])
def test_receivers_and_causes_add_up_to_the_covariance(small_dataset, method):
    found = hl.locate(small_dataset, method)
    total = np.einsum("skk->s", found.covariance.values)
    np.testing.assert_allclose((found.budget**2).sum("cause"), total, rtol=1e-9)
    of_receivers = (found.receiver_budget**2).sum("receiver").sel(cause=list(CAUSES))
    np.testing.assert_allclose(of_receivers, found.budget.sel(cause=list(CAUSES)) ** 2, rtol=1e-9, atol=1e-9)
    assert found.receiver_budget.sel(cause="altitude").isnull().all()


def test_methods_without_a_model_of_errors_have_no_budget(small_dataset):
    found = hl.locate(small_dataset, "centroid")
    assert found.budget.isnull().all()
    assert found.receiver_budget.isnull().all()
    assert remedies(small_dataset, found) == [None] * small_dataset.sizes["sample"]


BAD_CLOCK = {"clock_sigma_s": [50e-9, 50e-9, 2e-6, 50e-9, 50e-9, 50e-9], "path_delay_sigma_s": 0.0}
BAD_CLOCKS = {"clock_sigma_s": 2e-6, "path_delay_sigma_s": 0.0}
GOOD = {"clock_sigma_s": 20e-9, "path_delay_sigma_s": 0.0}


@pytest.mark.parametrize(
    ("attrs", "noise_s", "positions_m", "words", "better"),
    [
        (BAD_CLOCK, 1e-9, 1.0, "a GPS clock at R2", {"clock_sigma_s": 50e-9}),
        (BAD_CLOCKS, 1e-9, 1.0, "GPS clocks at all receivers", {"clock_sigma_s": 50e-9}),
        (GOOD, 1e-9, [1, 1, 1, 1, 400, 1], "a surveyed position of R4", {"positions_m": 1.0}),
        (GOOD, 1e-6, 1.0, "a window 4 times as long (or 4 joined)", {"noise_s": 1e-6 / LONGER**0.5}),
        (GOOD, 1e-9, 1.0, "knowing the transmitter's altitude", {"transmitter_altitude_sigma_m": 1.0}),
    ],
)
def test_what_would_help_most_does_so_by_as_much(attrs, noise_s, positions_m, words, better):
    """Against fixes of a network that has it."""
    altitude_m = 3000.0 if "altitude" in words else 10.0

    def network(noise_s, positions_m, **known):
        dataset = scenes(np.zeros((1, 6)), **{"transmitter_altitude_sigma_m": altitude_m} | known)
        positions = ("receiver", np.broadcast_to(np.asarray(positions_m, dtype=float), 6), {"units": "m"})
        dataset = dataset.assign(receiver_position_std=positions, toa_std_s=dataset.toa_std_s * 0 + noise_s)
        return dataset, hl.locate(dataset, "tdoa_ls")

    def rms_m(found):
        return np.sqrt(np.trace(found.covariance.values[0]))

    dataset, found = network(noise_s, positions_m, **attrs)
    (remedy,) = remedies(dataset, found)
    assert remedy.words == words
    _, improved = network(**{"noise_s": noise_s, "positions_m": positions_m} | attrs | better)
    assert remedy.ratio == pytest.approx(rms_m(improved) / rms_m(found), rel=1e-3)


def test_where_paths_limit_a_fix_one_more_receiver_helps_on_the_side_that_is_weak():
    """Four receivers in the west of the transmitter, and a fifth north of it, as good as they are."""
    receivers = np.array([[[44.7, 7.2], [44.9, 7.0], [45.1, 7.0], [45.3, 7.2], [45.62, 8.0]]])
    place = np.array([[45.0, 8.0]])
    attrs = {"path_delay_sigma_s": 3e-6}
    rms_m = {}
    for count in (4, 5):
        dataset = measured(receivers[:, :count], place, np.zeros((1, count)), **attrs)
        found = hl.locate(dataset, "tdoa_ls")
        rms_m[count] = np.sqrt(np.trace(found.covariance.values[0]))
        if count == 4:
            (remedy,) = remedies(dataset, found)
    assert remedy.words.startswith("one more receiver, as good as the others, ")
    direction = remedy.words.split(", ")[-1]
    assert direction in {"east of the transmitter", "north of the transmitter", "south of the transmitter"}
    by_north = rms_m[5] / rms_m[4]
    assert remedy.ratio <= by_north + 1e-3


@pytest.mark.parametrize("propagation", ["line_of_sight", "ground_wave", "sky_wave"])
def test_a_further_receiver_is_as_far_away_as_the_others(propagation):
    """Over the ground, whatever way its signals take."""
    dataset = scenes(np.zeros((1, 6))).assign_attrs(propagation=propagation)
    known, unknown = observations.from_dataset(dataset), np.full(1, np.nan)
    place = dataset.transmitter_latitude.values, dataset.transmitter_longitude.values
    fix = observations.Fix(*place, known.height_m, unknown, unknown, unknown)
    more = _with_more_receivers(known, fix, known.heard)
    distance_m, _ = geodesy.geodesic(*(degrees[:, None] for degrees in place), more.latitude_deg, more.longitude_deg)
    assert distance_m[0, 6:] == pytest.approx(np.median(distance_m[0, :6]), rel=1e-3)


def test_of_sky_waves_knowing_the_height_of_reflection_helps():
    """Three stations at unlike distances, which tell nothing of it, and paths that hardly differ."""
    rng = np.random.Generator(np.random.Philox(3))
    stations = np.array([[46.0, 4.0], [50.0, 16.0], [48.5, 8.0]])
    dataset = path_scenes.scenes(rng, stations, 1, 1500e3, np.array([300e3]), path_delay_sigma_s=1e-6)
    found = hl.locate(dataset, "tdoa_ls")
    assert found.budget.sel(sample=0, cause="ionosphere") > found.budget.sel(sample=0, cause="paths")
    (remedy,) = remedies(dataset, found)
    assert remedy.words.startswith("knowing the height of reflection to 10 km")
    assert remedy.ratio < 0.9
    assert found.receiver_budget.sel(cause="ionosphere").isnull().all()


def test_fixes_of_too_few_delays_have_no_remedy():
    """As of trained localizers, which locate by two."""
    dataset = scenes(np.zeros((3, 6)))
    found = hl.locate(dataset, "tdoa_ls")
    two = found.receiver_budget.where(dataset.receiver < 2, 0.0)
    assert remedies(dataset, found.assign(receiver_budget=two)) == [None] * 3
    assert None not in remedies(dataset, found)


def test_windows_that_are_joined_share_all_but_the_noise():
    """One window as long as sixteen: a quarter of the noise, and as much of the rest."""
    short = scenes(np.zeros((1, 6)))
    joined = short.assign(toa_std_s=short.toa_std_s / 4)
    same_weights = {"clock_sigma_s": 0.0, "path_delay_sigma_s": 10e-6}  # so large that noise weighs nothing
    one, all_of_them = (
        hl.locate(dataset.assign_attrs(same_weights), "tdoa_ls").budget.isel(sample=0) for dataset in (short, joined)
    )
    assert all_of_them.sel(cause="noise").item() == pytest.approx(one.sel(cause="noise").item() / 4, rel=1e-3)
    for cause in ("paths", "receiver_positions", "altitude"):
        assert all_of_them.sel(cause=cause).item() == pytest.approx(one.sel(cause=cause).item(), rel=1e-3)
