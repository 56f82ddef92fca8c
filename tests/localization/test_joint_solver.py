"""Joint places and clocks of recordings that are drawn from the model: solver, search and what can be observed."""

import numpy as np
import pytest
from joint_recordings import ITALIAN, draw, offset_m

from heimdall_lab.core import geodesy
from heimdall_lab.localization import information
from heimdall_lab.localization.joint.observability import observability
from heimdall_lab.localization.joint.search import search
from heimdall_lab.localization.joint.solver import descend, joint_equations
from heimdall_lab.localization.shared_clocks import covariances, root_of_inverse

JITTER_M = 15e3


def at_truth(drawn):
    """Covariances (B, S, 2, 2) of places by the information at the truth: the joint bound."""
    truth = descend(drawn.recordings, drawn.place_deg, robust=False, max_steps=0)
    return covariances_at(drawn.recordings, truth)


def covariances_at(recordings, solution):
    found = joint_equations(recordings, solution)
    root = root_of_inverse(found.clocks() + recordings.clock_information, recordings.clock_information)
    return covariances(found, root)[..., :2, :2]


@pytest.mark.parametrize(
    ("emissions", "references", "clock_sigma_s", "growth_m"),
    [
        (10, 0, 10e-3, 0.0),
        (20, 0, 10e-3, 0.0),
        (1, 1, 10e-3, 0.0),
        (5, 2, 10e-3, 500.0),
        (10, 0, 50e-9, 0.0),
        (1, 0, 50e-9, 0.0),
    ],
)
def test_errors_are_at_the_joint_bound_and_known(
    emissions: int, references: int, clock_sigma_s: float, growth_m: float
) -> None:
    """Blind, with references, with rates, and with clocks that are known; the covariance says how large they are."""
    random = np.random.default_rng(emissions + 10 * references)
    drawn = draw(random, 150, emissions, references=references, clock_sigma_s=clock_sigma_s, growth_sigma_m=growth_m)
    ended = descend(drawn.recordings, drawn.place_deg, robust=False)
    assert ended.has_settled.all()
    free = slice(0, emissions)
    error = offset_m(drawn.place_deg, ended.latitude_deg, ended.longitude_deg)[:, free]
    bound = at_truth(drawn)[:, free]
    bound_m2 = np.trace(bound, axis1=-2, axis2=-1)
    good = bound_m2 < 2e3**2
    ratio = np.sqrt(((error**2).sum(axis=-1) / bound_m2)[good].mean())
    assert good.mean() > 0.9
    assert ratio == pytest.approx(1.0, abs=0.1)
    estimated = covariances_at(drawn.recordings, ended)[:, free]
    precision = information.inverse(estimated)
    squared = np.einsum("bsi,bsij,bsj->bs", error, precision, error)[good]
    assert squared.mean() / 2 == pytest.approx(1.0, abs=0.15)
    assert offset_m(drawn.place_deg, ended.latitude_deg, ended.longitude_deg)[:, emissions:] == pytest.approx(
        0, abs=1e-3
    )
    # The cost is χ² with a degree of freedom for every delay more than unknowns.
    surplus = drawn.recordings.used[0].sum() - 3 * emissions - references
    assert ended.cost.mean() == pytest.approx(surplus, rel=4 / np.sqrt(surplus * 75))


@pytest.mark.parametrize(("receivers", "emissions", "count"), [(5, 4, 60), (6, 4, 60), (5, 6, 40), (7, 10, 20)])
def test_blind_recordings_reach_the_best_minimum(receivers: int, emissions: int, count: int) -> None:
    """As low as a descent that begins at the truth, from places tens of km off."""
    drawn = draw(np.random.default_rng(7), count, emissions, receivers)
    found = search(drawn.recordings, drawn.start_deg, np.full((count, emissions), JITTER_M))
    from_truth = descend(drawn.recordings, drawn.place_deg, robust=True)
    assert (found.best.cost < from_truth.cost + 1e-3).mean() >= 0.98
    assert (found.excess > -1e-6).all()


@pytest.mark.slow
@pytest.mark.parametrize(("receivers", "emissions"), [(6, 3), (7, 3), (5, 4), (5, 5), (6, 10), (7, 20)])
def test_blind_recordings_reach_the_best_minimum_in_99_percent(receivers: int, emissions: int) -> None:
    """With five receivers and three emissions, which leave two delays over, it is 98 %."""
    count = 400
    drawn = draw(np.random.default_rng(emissions), count, emissions, receivers)
    found = search(drawn.recordings, drawn.start_deg, np.full((count, emissions), JITTER_M))
    from_truth = descend(drawn.recordings, drawn.place_deg, robust=True)
    assert (found.best.cost < from_truth.cost + 1e-3).mean() >= 0.99


def test_false_delays_hardly_matter() -> None:
    """One in twenty anywhere within 20 ms: errors are at most 1.15 times what they are without."""
    medians = []
    for ratio in (0.0, 0.05):
        drawn = draw(np.random.default_rng(3), 30, 20, false_ratio=ratio)
        found = search(drawn.recordings, drawn.start_deg, np.full((30, 20), JITTER_M)).best
        error = offset_m(drawn.place_deg, found.latitude_deg, found.longitude_deg)
        medians.append(np.median(np.hypot(error[..., 0], error[..., 1])))
    assert medians[1] < 1.15 * medians[0]


def test_order_of_emissions_and_receivers_does_not_matter() -> None:
    random = np.random.default_rng(5)
    drawn = draw(random, 4, 6)
    before = search(drawn.recordings, drawn.start_deg, np.full((4, 6), JITTER_M)).best
    emission, receiver = random.permutation(6), random.permutation(7)
    names = ("latitude_deg", "longitude_deg", "altitude_m", "measured_m", "variance_m2", "used")
    links = {name: getattr(drawn.recordings, name)[:, emission][:, :, receiver] for name in names}
    turned = drawn.recordings._replace(**links)
    after = search(turned, drawn.start_deg[:, emission], np.full((4, 6), JITTER_M)).best
    np.testing.assert_allclose(after.place_deg, before.place_deg[:, emission], atol=1e-7)
    np.testing.assert_allclose(
        after.clocks - after.clocks[:, :1], (before.clocks - before.clocks[:, receiver[:1]])[:, receiver], atol=0.02
    )


def test_common_offsets_of_clocks_and_emissions_do_not_matter() -> None:
    drawn = draw(np.random.default_rng(6), 4, 6)
    before = descend(drawn.recordings, drawn.place_deg, robust=False)
    shift_m = np.arange(6)[:, None] * 1e5 + np.full(7, 2e5)
    shifted = drawn.recordings._replace(measured_m=drawn.recordings.measured_m + shift_m)
    after = descend(shifted, drawn.place_deg, robust=False)
    np.testing.assert_allclose(after.place_deg, before.place_deg, atol=1e-7)


@pytest.mark.parametrize(
    ("receivers", "emissions", "references", "clock_sigma_s", "is_calibrated"),
    [
        (3, 10, 0, 10e-3, False),  # three delays an emission for its three unknowns: nothing is left for clocks
        (4, 3, 0, 10e-3, False),  # as many delays as unknowns have twins
        (4, 5, 0, 10e-3, True),
        (5, 2, 0, 10e-3, False),
        (5, 3, 0, 10e-3, True),
        (7, 1, 0, 10e-3, False),
        (3, 1, 1, 10e-3, True),  # a reference tells all clocks
        (3, 1, 0, 50e-9, True),  # and so does GPS
    ],
)
def test_what_calibrates_itself(
    receivers: int, emissions: int, references: int, clock_sigma_s: float, is_calibrated: bool
) -> None:
    drawn = draw(np.random.default_rng(1), 20, emissions, receivers, references=references, clock_sigma_s=clock_sigma_s)
    said = observability(drawn.recordings, descend(drawn.recordings, drawn.place_deg, robust=False))
    assert (said.is_calibrated[:, :emissions] == is_calibrated).mean() > 0.95
    assert (said.component == 0).all()


def test_receivers_without_a_common_emission_are_not_compared() -> None:
    """Two groups of four calibrate themselves each by itself; of five and three only the first group does."""
    drawn = draw(np.random.default_rng(2), 5, 12, 8)
    for first, calibrated in ((4, [True, True]), (5, [True, False])):
        used = drawn.recordings.used.copy()
        used[:, :6, first:] = used[:, 6:, :first] = False
        apart = drawn.recordings._replace(used=used)
        said = observability(apart, descend(apart, drawn.place_deg, robust=False))
        assert (said.component == (np.arange(8) >= first)).all()
        assert (said.is_calibrated[:, :6] == calibrated[0]).mean() > 0.9
        assert (said.is_calibrated[:, 6:] == calibrated[1]).all()


def test_a_receiver_that_hears_one_emission_takes_nothing_from_the_others() -> None:
    """What it alone would tell, of an emission that two others hear, is not known; all else is."""
    drawn = draw(np.random.default_rng(4), 5, 8, ITALIAN)
    used = drawn.recordings.used.copy()
    used[:, :, 0] = False
    used[:, 3] = np.isin(np.arange(7), [0, 1, 4])
    seldom = drawn.recordings._replace(used=used)
    said = observability(seldom, descend(seldom, drawn.place_deg, robust=False))
    assert (said.is_calibrated == (np.arange(8) != 3)).all()
    assert (said.is_clock_told == (np.arange(7) != 0)).all()


def test_places_across_the_date_line() -> None:
    drawn = draw(np.random.default_rng(8), 3, 8)
    before = descend(drawn.recordings, drawn.place_deg, robust=False)
    turn = np.array([0.0, 172.0])
    turned = drawn.recordings._replace(longitude_deg=drawn.recordings.longitude_deg + turn[1])
    after = descend(turned, drawn.place_deg + turn, robust=False)
    np.testing.assert_allclose(geodesy.wrapped(after.longitude_deg - turn[1]), before.longitude_deg, atol=1e-7)


@pytest.mark.parametrize(("receivers", "emissions"), [(2, 20), (3, 5), (3, 20), (4, 3), (7, 1)])
def test_strong_signals_that_tell_too_little_leave_clocks_as_known_beforehand(receivers: int, emissions: int) -> None:
    """Beside differences known to millimetres, rounding leaves nothing of what is known of all clocks together."""
    drawn = draw(np.random.default_rng(5), 4, emissions, receivers, sigma_m=3e-3, growth_sigma_m=300.0)
    heard = np.random.default_rng(6).random(drawn.recordings.used.shape) < 0.7
    heard[0] = False
    recordings = drawn.recordings._replace(used=heard)
    found = search(recordings, drawn.start_deg, np.full(drawn.start_deg.shape[:2], 25e3)).best
    assert np.isfinite(found.clocks).all()
    assert np.isfinite(found.place_deg).all()
    assert np.abs(found.clocks).max() < 10 * 10e-3 * 3e8
    assert (found.clocks[0] == 0).all()
