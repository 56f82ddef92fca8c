"""The law of errors: Student's quantiles against SciPy's, the normal limit, and finding the law from errors."""

import numpy as np
import pytest
import scipy.stats

from heimdall_lab.localization import ellipses, error_law

FREEDOMS = [0.7, 2.0, 4.5, 30.0, np.inf]


def drawn(freedom, count=40_000):
    """Errors (S, 2) of a law whose covariance is that of `COVARIANCE`."""
    draw = np.random.default_rng(3)
    chi = 1.0 if np.isinf(freedom) else draw.chisquare(freedom, count) / freedom
    scale = -2 * np.log1p(-0.68) / (2 * scipy.stats.f(2, min(freedom, 1e9)).ppf(0.68))
    return np.sqrt(scale / chi)[..., None] * (draw.standard_normal((count, 2)) @ np.linalg.cholesky(COVARIANCE).T)


COVARIANCE = np.array([[4.0, 1.5], [1.5, 1.0]])


def squared(error):
    return np.einsum("si,ij,sj->s", error, np.linalg.inv(COVARIANCE), error)


@pytest.mark.parametrize("freedom", FREEDOMS)
def test_quantiles_are_those_of_fishers_law(freedom):
    of_law = scipy.stats.chi2(2) if np.isinf(freedom) else scipy.stats.f(2, freedom)
    ratio = error_law.radius_squared(0.95, freedom) / error_law.radius_squared(0.5, freedom)
    assert ratio == pytest.approx(of_law.ppf(0.95) / of_law.ppf(0.5), rel=1e-9)
    assert error_law.radius_squared(0.68, freedom) == pytest.approx(scipy.stats.chi2(2).ppf(0.68), rel=1e-12)


@pytest.mark.parametrize("freedom", FREEDOMS)
def test_ellipses_hold_what_they_promise(freedom):
    error = drawn(freedom)
    for level in (0.3, 0.68, 0.95, 0.99):
        held = (squared(error) <= error_law.radius_squared(level, freedom)).mean()
        assert held == pytest.approx(level, abs=4 * np.sqrt(level * (1 - level) / len(error)))


@pytest.mark.parametrize("freedom", FREEDOMS)
def test_level_inverts_the_radius_and_is_even_between_0_and_1(freedom):
    for level in (0.01, 0.68, 0.999):
        assert error_law.level(error_law.radius_squared(level, freedom), freedom) == pytest.approx(level, rel=1e-9)
    reached = error_law.level(squared(drawn(freedom)), freedom)
    assert scipy.stats.kstest(reached, "uniform").pvalue > 0.01
    assert np.isnan(error_law.level(np.array(np.nan), freedom))


@pytest.mark.parametrize("freedom", [0.7, 4.5, np.inf])
def test_density_is_scipys(freedom):
    error = drawn(freedom, 50)
    scale = (
        COVARIANCE
        * error_law.radius_squared(0.68)
        / (scipy.stats.chi2(2).ppf(0.68) if np.isinf(freedom) else 2 * scipy.stats.f(2, freedom).ppf(0.68))
    )
    peer = scipy.stats.multivariate_t(shape=scale, df=freedom).logpdf(error)
    found = error_law.log_density(squared(error), np.log(np.linalg.det(COVARIANCE)), freedom)
    np.testing.assert_allclose(found, peer, rtol=1e-9)


@pytest.mark.parametrize("freedom", [1.5, 4.0, 12.0])
@pytest.mark.parametrize("spread", [0.2, 1.0, 5.0])
def test_the_law_is_found_from_errors(freedom, spread):
    error = spread * drawn(freedom)
    found_spread, found_freedom = error_law.fit(squared(error))
    assert found_spread == pytest.approx(spread, rel=0.03)
    assert found_freedom == pytest.approx(freedom, rel=0.25)
    reached = error_law.level(squared(error) / found_spread**2, found_freedom)
    assert (reached <= 0.68).mean() == pytest.approx(0.68, abs=1e-3)
    assert (reached <= 0.95).mean() == pytest.approx(0.95, abs=1e-3)


def test_errors_that_reach_less_far_than_normal_ones_have_a_normal_law():
    error = np.random.default_rng(5).uniform(-1, 1, (5000, 2)) @ np.linalg.cholesky(COVARIANCE).T
    spread, freedom = error_law.fit(squared(error))
    assert freedom == np.inf
    reached = error_law.level(squared(error) / spread**2)
    assert (reached <= 0.68).mean() < 0.68
    assert (reached <= 0.95).mean() > 0.95


def test_outlines_are_where_the_level_is():
    outline = ellipses.ellipse(COVARIANCE, 0.95, freedom=3.0)
    np.testing.assert_allclose(error_law.level(squared(outline), 3.0), 0.95, rtol=1e-9)
    assert np.abs(outline).max() > np.abs(ellipses.ellipse(COVARIANCE, 0.95)).max()


@pytest.mark.parametrize("freedom", [1.5, 4.0, 5.0, 7.3, 20.0, 300.0])
def test_a_sum_of_known_and_scaled_errors_is_held_as_often_as_said(freedom):
    """100,000 draws of each: shares are known to 0.44 % at 68 %, 0.21 % at 95 %, three standard deviations of each."""
    rng = np.random.Generator(np.random.Philox(3))
    shares, count = np.array([0.1, 0.5, 0.77, 1.0]), 100_000
    factor = freedom / rng.chisquare(freedom, (count, 1))
    squared = (1 - shares + shares * factor) * rng.chisquare(2, (count, 1))
    wider, freedoms = error_law.partly_scaled(shares, freedom)
    for level, tolerance in ((0.68, 0.0044), (0.95, 0.0021)):
        held = (squared < wider * error_law.radius_squared(level, freedoms)).mean(axis=0)
        np.testing.assert_allclose(held, level, rtol=0, atol=tolerance)


def test_scaled_as_a_whole_or_not_at_all():
    freedom = np.array([1.0, 4.0, 17.0, 1e3])
    wider, same = error_law.partly_scaled(1.0, freedom)
    np.testing.assert_allclose(same, freedom, rtol=1e-12)
    np.testing.assert_allclose(wider, 1 / error_law.scale(freedom), rtol=1e-12)
    wider, normal = error_law.partly_scaled(0.0, freedom)
    assert (wider == 1).all()
    assert np.isinf(normal).all()
