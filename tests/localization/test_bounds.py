"""Dilution of precision and Cramér-Rao bounds: published cases, closed forms, second implementations, invariants."""

import json

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numerical_bounds import bound_by_differences

from heimdall_lab.localization import bounds, ellipses

SPEED_OF_LIGHT = 299_792_458.0
SEED = st.integers(0, 2**32 - 1)


def network(seed: int, dims: int = 2, receivers: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Three to ten receivers in all directions, 500 m to 60 km from a transmitter."""
    rng = np.random.Generator(np.random.Philox(seed))
    number = receivers or int(rng.integers(3, 11))
    transmitter = rng.uniform(-1, 1, dims) * np.array([30e3, 30e3, 500.0])[:dims]
    distance, azimuth = rng.uniform(500, 60e3, number), rng.uniform(0, 2 * np.pi, number)
    offset = np.stack([distance * np.sin(azimuth), distance * np.cos(azimuth), rng.uniform(-500, 500, number)], axis=-1)
    return transmitter + offset[:, :dims], transmitter


def unit_vectors(positions: np.ndarray, transmitter: np.ndarray) -> np.ndarray:
    offset = positions - transmitter
    return (offset / np.linalg.norm(offset, axis=1, keepdims=True))[:, :2]


def gdop_by_differences(positions: np.ndarray, transmitter: np.ndarray, reference: int) -> float:
    """Range differences against one receiver have the correlated covariance I + 11ᵀ; weighted least squares of them."""
    unit = unit_vectors(positions, transmitter)
    design = np.delete(unit - unit[reference], reference, axis=0)
    covariance = np.eye(len(design)) + np.ones((len(design), len(design)))
    return float(np.trace(np.linalg.inv(design.T @ np.linalg.solve(covariance, design))) ** 0.5)


def test_reproduces_the_published_tdoa_cases(real):
    cases = json.loads((real / "crlb" / "cases.json").read_text())["tdoa_cases"]
    assert len(cases) == 8
    for case in cases:
        expected = np.array(case["crlb_m2"])
        found = bounds.crlb(
            np.array(case["sensors"], dtype=float).T,
            np.array(case["source"], dtype=float),
            toa_sigma_s=np.array(case["sigma_range_m"]) / SPEED_OF_LIGHT,
        )
        assert np.abs(found - expected).max() < 1e-6 * np.linalg.norm(expected), case["name"]
        assert np.trace(found) ** 0.5 == pytest.approx(case["rmse_m"], rel=1e-6)


@pytest.mark.parametrize("number", [3, 4, 5, 8, 15])
def test_gdop_in_the_middle_of_a_ring(number):
    """Σ u uᵀ = N/2 · I and Σ u = 0: all dilutions are 2 / sqrt(N), as Levanon (2000) says of bearings too."""
    angle = 2 * np.pi * np.arange(number) / number + 0.3
    ring = 5e3 * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    for kind in bounds.GDOP_KINDS:
        assert bounds.gdop(ring, np.zeros(2), kind) == pytest.approx(2 / number**0.5, rel=1e-12)


def test_gdop_of_hand_computed_geometries():
    corner = np.array([[3e3, 0.0], [0.0, 7e3]])
    assert bounds.gdop(corner, np.zeros(2), "toa") == pytest.approx(2**0.5)
    # Unit vectors 60 degrees apart: eigenvalues 1 ± cos 60°, so that the inverse has the trace 2 / sin² 60° = 8/3.
    wedge = np.array([[1e3, 0.0], [1e3, 3**0.5 * 1e3]])
    assert bounds.gdop(wedge, np.zeros(2), "toa") == pytest.approx((8 / 3) ** 0.5)
    # East, north and west: Σ (u - ū)(u - ū)ᵀ = diag(2, 1 - 1/3), so that GDOP² = 1/2 + 3/2.
    tee = np.array([[1e3, 0.0], [0.0, 1e3], [-1e3, 0.0]])
    assert bounds.gdop(tee, np.zeros(2), "tdoa") == pytest.approx(2**0.5)
    # Receivers 45 degrees up see half of the horizontal information.
    tower = np.array([[1e3, 0, 1e3], [-1e3, 0, 1e3], [0, 1e3, 1e3], [0, -1e3, 1e3]])
    assert bounds.gdop(tower, np.zeros(3), "toa") == pytest.approx(2**0.5)
    # Two bearings at right angles at 3 and 7 km err by 3 and 7 km a radian, over their geometric mean.
    assert bounds.gdop(corner, np.zeros(2), "aoa") == pytest.approx((58 / 21) ** 0.5)


@given(SEED, st.floats(-np.pi, np.pi), st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.sampled_from(bounds.GDOP_KINDS))
def test_gdop_is_invariant_to_rotation_translation_and_permutation(seed, angle, east, north, kind):
    positions, transmitter = network(seed, dims=3)
    plain = bounds.gdop(positions, transmitter, kind)
    assume(plain < 100)  # rounding grows with the square of GDOP: 1e4 · 1e-13 (1e-10 m in 1e3 m) is 1e-9
    cos, sin = np.cos(angle), np.sin(angle)
    rotation = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    shift = np.array([east, north, 321.0])
    order = np.random.Generator(np.random.Philox(seed)).permutation(len(positions))
    moved = bounds.gdop((positions @ rotation.T + shift)[order], transmitter @ rotation.T + shift, kind)
    assert moved == pytest.approx(plain, rel=1e-8)
    assert bounds.gdop(7 * positions, 7 * transmitter, kind) == pytest.approx(plain, rel=1e-8)
    mirror = np.array([-1, 1, 1])
    assert bounds.gdop(mirror * positions, mirror * transmitter, kind) == pytest.approx(plain, rel=1e-8)


@given(SEED, st.sampled_from([2, 3]))
def test_tdoa_gdop_is_that_of_differences_for_every_reference(seed, dims):
    positions, transmitter = network(seed, dims)
    found = bounds.gdop(positions, transmitter)
    assume(found < 100)
    for reference in range(len(positions)):
        assert found == pytest.approx(gdop_by_differences(positions, transmitter, reference), rel=1e-8)


@given(SEED)
def test_tdoa_is_never_better_than_toa_and_receivers_only_help(seed):
    positions, transmitter = network(seed)
    tdoa, toa = (bounds.gdop(positions, transmitter, kind) for kind in ("tdoa", "toa"))
    assume(tdoa < 1000)
    assert tdoa >= toa * (1 - 1e-9)
    more = np.concatenate([positions, [[12_345.0, -23_456.0]]])
    assert bounds.gdop(more, transmitter) <= tdoa * (1 + 1e-9)


def test_absent_receivers_count_for_nothing():
    positions, transmitter = network(4, receivers=5)
    padded = np.concatenate([positions[:2], np.full((3, 2), np.nan), positions[2:], np.full((5, 2), np.nan)])
    sigma = np.array([1, 2, 3, 4, 5]) * 1e-8
    padded_sigma = np.concatenate([sigma[:2], [1e-9] * 3, sigma[2:], [np.nan] * 5])
    for kind in bounds.GDOP_KINDS:
        assert bounds.gdop(padded, transmitter, kind) == pytest.approx(bounds.gdop(positions, transmitter, kind))
    plain = bounds.crlb(positions, transmitter, toa_sigma_s=sigma, rss_sigma_db=np.full(5, 5.0))
    found = bounds.crlb(padded, transmitter, toa_sigma_s=padded_sigma, rss_sigma_db=np.full(13, 5.0))
    assert found == pytest.approx(plain, rel=1e-9)
    for nothing in (np.inf, np.nan):
        without = bounds.crlb(positions, transmitter, toa_sigma_s=np.where(np.arange(5) == 3, nothing, sigma))
        kept = np.arange(5) != 3
        assert without == pytest.approx(bounds.crlb(positions[kept], transmitter, toa_sigma_s=sigma[kept]), rel=1e-9)


def test_scenes_are_independent_of_their_batch():
    scenes = [network(seed, receivers=6) for seed in range(12)]
    positions, transmitters = (np.stack(part) for part in zip(*scenes, strict=True))
    sigma = np.random.Generator(np.random.Philox(1)).uniform(1e-8, 1e-6, (12, 6))
    together = bounds.gdop(positions.reshape(3, 4, 6, 2), transmitters.reshape(3, 4, 2))
    assert together.shape == (3, 4)
    covariance = bounds.crlb(positions, transmitters, toa_sigma_s=sigma)
    assert covariance.shape == (12, 2, 2)
    for scene in range(12):
        assert together.reshape(12)[scene] == bounds.gdop(positions[scene], transmitters[scene])
        alone = bounds.crlb(positions[scene], transmitters[scene], toa_sigma_s=sigma[scene])
        assert np.array_equal(covariance[scene], alone)


def test_what_cannot_be_observed_is_nan():
    east = np.array([-20e3, 5e3, 12e3, 30e3])
    line = np.stack([east, np.zeros(4)], axis=-1)
    on_line, beyond, off_line = np.array([1e3, 0.0]), np.array([90e3, 0.0]), np.array([1e3, 8e3])
    positions, transmitter = network(9, receivers=3)
    for receivers, where, kind in [
        (positions[:2], transmitter, "tdoa"),  # one difference, two unknowns
        (positions[:1], transmitter, "toa"),
        (np.concatenate([positions[:2], positions[:1]]), transmitter, "tdoa"),  # two receivers at one place
        (line, on_line, "tdoa"),
        (line, on_line, "toa"),
        (line, beyond, "tdoa"),
        (np.full((4, 2), np.nan), transmitter, "tdoa"),
        (np.concatenate([positions[:2], [transmitter]]), transmitter, "tdoa"),  # no direction to one at its own place
    ]:
        assert np.isnan(bounds.gdop(receivers, where, kind))
        sigma = np.full(len(receivers), 1e-8)
        if kind == "tdoa":
            assert np.isnan(bounds.crlb(receivers, where, toa_sigma_s=sigma)).all()
    # Beside the line, differences of distance tell where it is, up to the mirror image.
    assert np.isfinite(bounds.gdop(line, off_line, "tdoa"))
    assert np.isfinite(bounds.gdop(positions[:2], transmitter, "toa"))
    assert bounds.gdop(line, off_line, "tdoa") == pytest.approx(gdop_by_differences(line, off_line, 1), rel=1e-9)
    # Two receivers' times and levels are one difference each, along different directions at different distances.
    both = bounds.crlb(positions[:2], transmitter, toa_sigma_s=np.full(2, 1e-8), rss_sigma_db=np.full(2, 3.0))
    assert np.isfinite(both).all()


def test_unknown_kinds_and_missing_measurements_are_refused():
    positions, transmitter = network(2)
    with pytest.raises(ValueError, match=r"kind: 'doa' is unknown; choose one of tdoa, toa, rss, aoa"):
        bounds.gdop(positions, transmitter, "doa")
    with pytest.raises(ValueError, match="toa_sigma_s"):
        bounds.crlb(positions, transmitter)


@given(SEED, st.sampled_from([2, 3]))
def test_tdoa_bound_is_that_of_the_numerical_information(seed, dims):
    """Arrival times t0 + d / c with the emission time unknown, weights unequal; no formula but the distance."""
    positions, transmitter = network(seed, dims)
    rng = np.random.Generator(np.random.Philox(seed + 1))
    sigma_m = rng.uniform(1, 100, len(positions))

    def ranges(parameters):
        where = np.concatenate([parameters[:2], transmitter[2:]])
        return np.linalg.norm(positions - where, axis=1) + parameters[2]

    assume(bounds.gdop(positions, transmitter) < 100)
    expected = bound_by_differences(ranges, np.append(transmitter[:2], 5.0), sigma_m, np.array([0.1, 0.1, 1.0]))
    found = bounds.crlb(positions, transmitter, toa_sigma_s=sigma_m / SPEED_OF_LIGHT)
    # Central differences of 0.1 m at 100 m: (1e-3)² / 6 = 2e-7 in the worst element, times GDOP of up to 100.
    assert np.abs(found - expected[:2, :2]).max() < 1e-4 * np.linalg.norm(expected[:2, :2])


@given(SEED)
def test_rss_bound_is_that_of_the_numerical_information(seed):
    """Levels P - 20 log10 d with the power unknown."""
    positions, transmitter = network(seed, dims=3)
    sigma_db = np.random.Generator(np.random.Philox(seed + 1)).uniform(2, 10, len(positions))

    def levels(parameters):
        where = np.append(parameters[:2], transmitter[2])
        return parameters[2] - 20 * np.log10(np.linalg.norm(positions - where, axis=1))

    parameters = np.append(transmitter[:2], 30.0)
    everything = bound_by_differences(levels, parameters, sigma_db, np.array([0.1, 0.1, 1.0]))
    found = bounds.crlb(positions, transmitter, rss_sigma_db=sigma_db)
    expected = everything[:2, :2]
    assume(np.linalg.cond(expected) < 1e4)
    assert np.abs(found - expected).max() < 1e-3 * np.linalg.norm(expected)


@given(SEED)
def test_information_of_times_and_levels_adds(seed):
    positions, transmitter = network(seed, receivers=6)
    rng = np.random.Generator(np.random.Philox(seed + 1))
    times = {"toa_sigma_s": rng.uniform(1e-6, 1e-5, 6)}
    levels = {"rss_sigma_db": rng.uniform(1, 5, 6)}
    separate = [bounds.crlb(positions, transmitter, **kind) for kind in (times, levels)]
    assume(all(np.linalg.cond(covariance) < 1e6 for covariance in separate))
    both = bounds.crlb(positions, transmitter, **times, **levels)
    total = sum(np.linalg.inv(covariance) for covariance in separate)
    assert np.linalg.inv(both) == pytest.approx(total, rel=1e-6, abs=1e-8 * np.abs(total).max())
    halved = bounds.crlb(positions, transmitter, toa_sigma_s=times["toa_sigma_s"] / 2)
    assert halved == pytest.approx(separate[0] / 4, rel=1e-9)


@given(SEED, st.sampled_from([2, 3]), st.sampled_from(["toa", "rss", "aoa", "fdoa"]))
def test_every_kind_has_the_bound_of_its_numerical_information(seed, dims, kind):
    """Models of the measurements and their unknowns, no formula of a gradient; levels with an unknown exponent too."""
    positions, transmitter = network(seed, dims, receivers=8)
    rng = np.random.Generator(np.random.Philox(seed + 1))
    sigma = rng.uniform(1, 5, 8)
    velocity, own_velocity = rng.normal(0, 200, (8, dims)), rng.normal(0, 200, dims)

    def offset(parameters):
        return positions - np.concatenate([parameters[:2], transmitter[2:]])

    def distance(parameters):
        return np.linalg.norm(offset(parameters), axis=1)

    def levels(parameters):
        return parameters[2] - 10 * parameters[3] * np.log10(distance(parameters))

    def frequency(parameters):
        closing = (offset(parameters) * (own_velocity - velocity)).sum(axis=1) / distance(parameters)
        return parameters[2] + 1e9 * closing / SPEED_OF_LIGHT

    models = {
        "toa": (distance, [], {"toa_sigma_s": sigma / SPEED_OF_LIGHT, "emission_time_known": True}),
        "rss": (levels, [0.0, 3.5], {"rss_sigma_db": sigma, "path_loss_exponent": 3.5}),
        "aoa": (lambda p: np.arctan2(offset(p)[:, 1], offset(p)[:, 0]), [], {"aoa_sigma_rad": sigma}),
        "fdoa": (frequency, [0.0], {"fdoa_sigma_hz": sigma, "frequency_hz": 1e9}),
    }
    model, unknowns, options = models[kind]
    if kind == "rss":
        options["path_loss_exponent_known"] = False
    if kind == "fdoa":
        options |= {"receiver_velocity_m_s": velocity, "transmitter_velocity_m_s": own_velocity}
    steps = np.array([1.0, 1.0, 1.0, 1.0])[: 2 + len(unknowns)]
    # Bearings jump at the west; those of the differences' two ends must lie on one side.
    assume(
        kind != "aoa" or (np.abs(offset(transmitter[:2])[:, 1]) > 5).all() or (positions[:, 0] > transmitter[0]).all()
    )
    parameters = np.append(transmitter[:2], unknowns)
    expected = bound_by_differences(model, parameters, sigma, steps)[:2, :2]
    assume(np.linalg.cond(expected) < 1e4)
    found = bounds.crlb(positions, transmitter, **options)
    # Central differences of 1 m at 500 m: (1/500)² / 6 = 7e-7 of a gradient's size, times the condition.
    assert np.abs(found - expected).max() < 1e-2 * np.linalg.norm(expected)


def published_example(case) -> np.ndarray:
    """Covariance of the example: five sensors, each with one kind of measurement."""
    sensors = 1e3 * np.array([*case["aoa"]["sensors_km"], *case["tdoa"]["sensors_km"], *case["fdoa"]["sensors_km"]])
    kind = np.array(["aoa", "tdoa", "tdoa", "fdoa", "fdoa"])
    course = case["fdoa"]["speed_m_s"] * np.array([np.cos(-np.pi / 4), np.sin(-np.pi / 4)])
    return bounds.crlb(
        sensors,
        1e3 * np.array(case["transmitter_km"]),
        aoa_sigma_rad=np.where(kind == "aoa", np.radians(case["aoa"]["sigma_deg"]), np.nan),
        toa_sigma_s=np.where(kind == "tdoa", case["tdoa"]["toa_sigma_ns"] * 1e-9, np.inf),
        fdoa_sigma_hz=np.where(kind == "fdoa", case["fdoa"]["sigma_hz"], np.nan),
        frequency_hz=case["fdoa"]["frequency_hz"],
        receiver_velocity_m_s=np.where(kind[:, None] == "fdoa", course, 0.0),
    )


def test_reproduces_the_published_example_of_three_kinds(real):
    case = json.loads((real / "crlb" / "cases.json").read_text())["published_example"]
    covariance = published_example(case)
    assert covariance == pytest.approx(np.array(case["crlb_m2"]), rel=0.01)
    assert np.trace(covariance) ** 0.5 == pytest.approx(case["rmse_m"], abs=0.05)
    # The book gives CEP50 to two digits, by an approximation for elongated ellipses that it says is within 3 %.
    shorter, longer = np.linalg.eigvalsh(covariance)
    approximation = longer**0.5 * (0.67 + 0.8 * shorter / longer)
    assert round(approximation, -1) == case["cep50_m"]
    assert ellipses.cep50(covariance) == pytest.approx(approximation, rel=0.03)


@pytest.mark.parametrize("common", [0.0, 0.4, 0.9])
def test_an_error_that_all_levels_share_is_no_error(common):
    """Of the correlation (1 − ρ) I + ρ 11ᵀ the unknown power takes what is common: 1 − ρ of the bound remains."""
    positions, transmitter = network(6, receivers=6)
    sigma_db = np.full(6, 5.0)
    sigma_db[4] = np.inf
    correlation = np.where(np.eye(6, dtype=bool), 1.0, common)
    alone = bounds.crlb(positions, transmitter, rss_sigma_db=sigma_db)
    found = bounds.crlb(positions, transmitter, rss_sigma_db=sigma_db, rss_correlation=correlation)
    assert found == pytest.approx((1 - common) * alone, rel=1e-9)


def elevated_network(seed: int, receivers: int) -> tuple[np.ndarray, np.ndarray]:
    """Receivers within 60 km east and north and 3 km up and down of a transmitter."""
    rng = np.random.Generator(np.random.Philox(seed))
    transmitter = rng.uniform(-1, 1, 3) * np.array([30e3, 30e3, 3e3])
    return transmitter + rng.uniform(-1, 1, (receivers, 3)) * np.array([60e3, 60e3, 3e3]), transmitter


def bound_of_all_unknowns(models, transmitter: np.ndarray, unknowns: int, altitude_sigma_m: float) -> np.ndarray:
    """Horizontal part of the inverse of the whole information: three coordinates, and unknowns of the measurements.

    ``models`` are pairs of a function of all parameters and its errors' standard deviations. Derivatives are the
    imaginary parts of steps of 1e-30 along the imaginary axis, exact to rounding.
    """
    parameters = np.concatenate([transmitter, np.zeros(unknowns)])
    information = np.zeros((len(parameters), len(parameters)))
    for model, sigma in models:
        steps = 1e-30j * np.eye(len(parameters))
        jacobian = np.stack([model(parameters + step).imag / 1e-30 for step in steps], axis=1) / sigma[:, None]
        information += jacobian.T @ jacobian
    information[2, 2] += 1 / altitude_sigma_m**2
    scale = np.sqrt(np.diag(information))
    assume(np.linalg.cond(information / np.outer(scale, scale)) < 1e8)
    return (np.linalg.inv(information / np.outer(scale, scale)) / np.outer(scale, scale))[:2, :2]


@given(SEED, st.integers(4, 8), st.sampled_from([0.1, 30.0, 150.0, 3e3, np.inf]), st.sampled_from(["times", "all"]))
def test_bound_of_unknown_altitude_is_that_of_the_whole_information(seed, receivers, altitude_sigma_m, kinds):
    """Emission time, power and frequency are unknown too; no formula of a gradient, no unknown eliminated."""
    positions, transmitter = elevated_network(seed, receivers)
    assume(altitude_sigma_m < np.inf or receivers >= 5 or kinds == "all")
    rng = np.random.Generator(np.random.Philox(seed + 1))
    time_s, level_db, bearing_rad, frequency_hz = rng.uniform(
        [[1e-8], [1], [1e-3], [0.1]], [[1e-6], [6], [0.1], [5]], (4, receivers)
    )
    velocity, own_velocity = rng.normal(0, 200, (receivers, 3)), rng.normal(0, 200, 3)

    def offset(p):
        return positions - p[:3]

    def distance(p):
        return np.sqrt((offset(p) ** 2).sum(axis=1))

    def shift(p):
        closing = (offset(p) * (own_velocity - velocity)).sum(axis=1) / distance(p)
        return p[5] + 1e9 * closing / SPEED_OF_LIGHT

    models = [
        (lambda p: distance(p) + p[3], time_s * SPEED_OF_LIGHT),
        (lambda p: p[4] - 20 * np.log10(distance(p)), level_db),
        (lambda p: np.arctan(offset(p)[:, 1] / offset(p)[:, 0]), bearing_rad),
        (shift, frequency_hz),
    ]
    options = {"toa_sigma_s": time_s}
    if kinds == "all":
        options |= {"rss_sigma_db": level_db, "aoa_sigma_rad": bearing_rad, "fdoa_sigma_hz": frequency_hz}
        options |= {"frequency_hz": 1e9, "receiver_velocity_m_s": velocity, "transmitter_velocity_m_s": own_velocity}
    unknowns = 3 if kinds == "all" else 1
    expected = bound_of_all_unknowns(models[: 4 if kinds == "all" else 1], transmitter, unknowns, altitude_sigma_m)
    found = bounds.crlb(positions, transmitter, **options, altitude_sigma_m=altitude_sigma_m)
    # Rounding of 1e-16, times the condition of up to 1e8.
    assert np.abs(found - expected).max() < 1e-7 * np.linalg.norm(expected)
    known = bounds.crlb(positions, transmitter, **options)
    assert np.trace(found) >= np.trace(known) * (1 - 1e-9)


def test_altitude_is_an_unknown_only_where_it_is_said_to_be():
    """Known exactly, without an altitude, of several scenes at once, each with its own."""
    positions, transmitter = elevated_network(3, 6)
    sigma = np.full(6, 1e-7)
    known = bounds.crlb(positions, transmitter, toa_sigma_s=sigma)
    assert bounds.crlb(positions, transmitter, toa_sigma_s=sigma, altitude_sigma_m=0.0) == pytest.approx(
        known, rel=1e-9
    )
    flat = positions[:, :2], transmitter[:2]
    assert np.array_equal(
        bounds.crlb(*flat, toa_sigma_s=sigma, altitude_sigma_m=np.inf), bounds.crlb(*flat, toa_sigma_s=sigma)
    )
    spreads = np.array([0.0, 10.0, 100.0, 1e3, np.inf])
    together = bounds.crlb(positions, np.tile(transmitter, (5, 1)), toa_sigma_s=sigma, altitude_sigma_m=spreads)
    rmse = np.sqrt(np.trace(together, axis1=1, axis2=2))
    assert (np.diff(rmse) > 0).all()
    for number, spread in enumerate(spreads):
        alone = bounds.crlb(positions, transmitter, toa_sigma_s=sigma, altitude_sigma_m=spread)
        assert np.array_equal(alone, together[number])
    for wrong in (-1.0, np.nan):
        with pytest.raises(ValueError, match=f"altitude_sigma_m: {wrong} is no standard deviation"):
            bounds.crlb(positions, transmitter, toa_sigma_s=sigma, altitude_sigma_m=wrong)


def test_an_altitude_that_nothing_observes():
    """Two differences give two coordinates, or three of which one is known a little; one difference gives none."""
    positions, transmitter = elevated_network(8, 3)
    sigma = np.full(3, 1e-7)
    assert np.isnan(bounds.crlb(positions, transmitter, toa_sigma_s=sigma, altitude_sigma_m=np.inf)).all()
    assert np.isfinite(bounds.crlb(positions, transmitter, toa_sigma_s=sigma, altitude_sigma_m=1e3)).all()
    for spread in (1.0, np.inf):
        two = bounds.crlb(positions[:2], transmitter, toa_sigma_s=sigma[:2], altitude_sigma_m=spread)
        assert np.isnan(two).all()
    # Over the middle of a ring, altitude delays all arrivals alike, and the emission time takes it: no effect.
    angle = 2 * np.pi * np.arange(5) / 5 + 0.3
    ring = np.stack([5e3 * np.sin(angle), 5e3 * np.cos(angle), np.zeros(5)], axis=-1)
    above = np.array([0.0, 0.0, 3e3])
    known = bounds.crlb(ring, above, toa_sigma_s=np.full(5, 1e-7))
    found = bounds.crlb(ring, above, toa_sigma_s=np.full(5, 1e-7), altitude_sigma_m=np.inf)
    assert found == pytest.approx(known, rel=1e-9, abs=1e-9 * known.max())


def test_bad_measurements_are_refused_by_name():
    positions, transmitter = network(2, receivers=4)
    five, still = np.full(4, 5.0), np.zeros((4, 2))
    for options, message in [
        ({"toa_sigma_s": np.array([1e-8, 0.0, np.nan, 1e-8])}, "toa_sigma_s: 0.0 is not positive"),
        ({"aoa_sigma_rad": -five}, "aoa_sigma_rad: -5.0 is not positive"),
        ({"fdoa_sigma_hz": five, "receiver_velocity_m_s": still}, "frequency_hz: is not given"),
        ({"fdoa_sigma_hz": five, "frequency_hz": 1e8}, "receiver_velocity_m_s: nothing moves"),
        (
            {"fdoa_sigma_hz": five, "frequency_hz": 1e8, "receiver_velocity_m_s": np.zeros((4, 3))},
            r"receiver_velocity_m_s: has the shape \(4, 3\); give 2 coordinates",
        ),
        ({"rss_sigma_db": five, "rss_correlation": np.ones((4, 4))}, "rss_correlation: is not positive definite"),
    ]:
        with pytest.raises(ValueError, match=message):
            bounds.crlb(positions, transmitter, **options)
