"""The joint Cramér-Rao bound of emissions whose receivers' clocks are unknown, but common to all of them."""

import numpy as np
import pytest

from heimdall_lab.localization import bounds

RECEIVERS = np.array([[30e3, 0.0], [5e3, 25e3], [-20e3, 15e3], [-25e3, -20e3], [10e3, -30e3], [0.0, 2e3]])
SIGMA_S = 1e-7
FREE_S = 1e-2  # of clocks of which delays tell all


def emissions(count: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-25e3, 25e3, (count, 2))


def joint(places: np.ndarray, **more) -> np.ndarray:
    receivers = np.broadcast_to(RECEIVERS, (len(places), *RECEIVERS.shape))
    sigma_s = np.full(receivers.shape[:2], SIGMA_S)
    return bounds.crlb_joint(receivers, places, toa_sigma_s=sigma_s, **{"clock_sigma_s": FREE_S} | more)


def rms(bound: np.ndarray) -> np.ndarray:
    return np.sqrt(np.trace(bound, axis1=-2, axis2=-1))


def test_one_emission_has_the_bound_of_clocks_that_err_like_noise() -> None:
    places, clock_s = emissions(4), 5e-8
    each = np.concatenate([joint(place[None], clock_sigma_s=clock_s) for place in places])
    alone = bounds.crlb(RECEIVERS, places, toa_sigma_s=np.full((4, 6), np.hypot(SIGMA_S, clock_s)))
    np.testing.assert_allclose(each, alone, rtol=1e-5)


def test_known_clocks_leave_every_emission_its_own_bound() -> None:
    places = emissions(5)
    alone = bounds.crlb(RECEIVERS, places, toa_sigma_s=np.full((5, 6), SIGMA_S))
    np.testing.assert_allclose(joint(places, clock_sigma_s=0.0), alone, rtol=1e-5)


def test_it_is_that_of_the_whole_information_matrix() -> None:
    """By its definition: all unknowns of three emissions in one matrix, with the prior of the clocks."""
    places, metres = emissions(3), SIGMA_S * 299792458.0
    receivers, count = len(RECEIVERS), len(places)
    rows = []
    for s, place in enumerate(places):
        away = (place - RECEIVERS) / np.linalg.norm(place - RECEIVERS, axis=1)[:, None]
        for r in range(receivers):
            row = np.zeros(3 * count + receivers)
            row[3 * s : 3 * s + 3] = [*away[r], 1.0]
            row[3 * count + r] = 1.0
            rows.append(row / metres)
    rows = np.array(rows)
    prior = np.diag(np.concatenate([np.zeros(3 * count), np.full(receivers, (FREE_S * 299792458.0) ** -2)]))
    spread = np.linalg.inv(rows.T @ rows + prior)
    expected = np.stack([spread[3 * s : 3 * s + 2, 3 * s : 3 * s + 2] for s in range(count)])
    np.testing.assert_allclose(joint(places), expected, rtol=1e-4)


def test_more_emissions_and_references_make_it_lower() -> None:
    places = emissions(12)
    few, more = joint(places[:4]), joint(places)
    with_reference = joint(places[:5], is_known=np.arange(5) == 4)
    synchronised = joint(places[:4], clock_sigma_s=0.0)
    assert (rms(more)[:4] < rms(few)).all()
    assert (rms(with_reference)[:4] < rms(few)).all()
    assert (rms(with_reference)[:4] > rms(synchronised)).all()
    assert np.isnan(with_reference[4]).all()


def test_one_reference_doubles_the_variance() -> None:
    """Its delays are as precise as those of the one emission, which it takes off."""
    places = emissions(2)
    bound = joint(places, is_known=np.array([False, True]))[0]
    np.testing.assert_allclose(bound, 2 * joint(places, clock_sigma_s=0.0)[0], rtol=1e-5)


def test_what_is_not_observed_has_the_bound_of_what_is_known_of_clocks() -> None:
    """Clocks within 10 ms place nothing within hundreds of km."""
    assert (rms(joint(emissions(1))) > 500e3).all()
    receivers = np.broadcast_to(RECEIVERS[:3], (20, 3, 2))
    bound = bounds.crlb_joint(receivers, emissions(20), toa_sigma_s=np.full((20, 3), SIGMA_S), clock_sigma_s=FREE_S)
    assert np.nanmin(rms(bound)) > 100e3
    two = np.full((1, 6), np.inf)
    two[0, :2] = SIGMA_S
    assert np.isnan(bounds.crlb_joint(RECEIVERS[None], emissions(1), toa_sigma_s=two, clock_sigma_s=0.0)).all()


def test_rates_make_it_higher_and_need_times() -> None:
    places = emissions(8)
    without, with_rates = joint(places), joint(places, time_s=np.arange(8.0), clock_rate_sigma=1e-6)
    assert (rms(with_rates) > rms(without)).all()
    np.testing.assert_allclose(joint(places, time_s=np.arange(8.0), clock_rate_sigma=1e-14), without, rtol=1e-4)
    with pytest.raises(ValueError, match=r"^time_s: is not given; clock_rate_sigma needs"):
        joint(places, clock_rate_sigma=1e-6)


def test_altitudes_are_known_as_stated() -> None:
    """Exactly as two coordinates are, and the less the higher; many recordings at a time."""
    receivers = np.concatenate([RECEIVERS, np.linspace(0, 900, 6)[:, None]], axis=1)
    places = np.concatenate([emissions(8), np.full((8, 1), 3e3)], axis=1)
    shape = np.broadcast_to(receivers, (2, 8, 6, 3)), np.broadcast_to(places, (2, 8, 3))
    sigma_s = np.full((2, 8, 6), SIGMA_S)
    exact, known, free = (
        bounds.crlb_joint(*shape, toa_sigma_s=sigma_s, clock_sigma_s=FREE_S, altitude_sigma_m=altitude)
        for altitude in (None, np.zeros((2, 8)), np.full((2, 8), 2e3))
    )
    np.testing.assert_allclose(known, exact, rtol=1e-4)
    assert (rms(free) > rms(exact)).all()
    np.testing.assert_array_equal(exact[0], exact[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clock_sigma_s": -1e-9}, r"^clock_sigma_s: -1e-09 is no standard deviation; give"),
        ({"altitude_sigma_m": np.full(3, np.nan)}, r"^altitude_sigma_m: nan is no standard deviation; give"),
    ],
)
def test_what_is_no_standard_deviation_is_named(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        joint(emissions(3), **change)
