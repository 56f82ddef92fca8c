"""The law of delays of which some are late: quadrature by another rule, drawn errors, known limits, and bounds."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from measured_delays import NOISE_S, measured, ring
from scipy import integrate, stats

from heimdall_lab.localization import bounds, delay_law, errors, estimators

SPEED_OF_LIGHT = 299_792_458.0
RATIOS = st.floats(0.0, 1.0)
EXCESSES = st.floats(-2.5, 3.0).map(lambda power: 10**power)


def log_density(error: np.ndarray, ratio: float, excess: float) -> np.ndarray:
    """Of errors whose normal part has a standard deviation of 1, by SciPy's own laws."""
    on_time, late = stats.norm.logpdf(error), stats.exponnorm.logpdf(error, excess)
    with np.errstate(divide="ignore"):
        return np.logaddexp(np.log1p(-ratio) + on_time, np.log(ratio) + late)


def information_by_differences(ratio: float, excess: float) -> float:
    """Mean of the squared slope of the log density, by adaptive quadrature of its central differences."""

    def integrand(error: float) -> float:
        low, middle, high = log_density(error + np.array([-1e-4, 0.0, 1e-4]), ratio, excess)
        return float(((high - low) / 2e-4) ** 2 * np.exp(middle)) if middle > -200 else 0.0

    edges = [-12.0, -6.0, -3.0, 0.0, 3.0, 6.0, 12.0, *(12.0 + excess * np.array([1.0, 3.0, 10.0, 40.0]))]
    parts = [integrate.quad(integrand, *ends, limit=200)[0] for ends in pairwise(edges)]
    return float(sum(parts))


@pytest.mark.parametrize("ratio", [1.0, 0.95, 0.3, 0.01])
@pytest.mark.parametrize("excess", [0.1, 0.7, 2.2, 15.0, 400.0])
def test_information_is_that_of_adaptive_quadrature(ratio, excess):
    """Differences of 1e-4 err by its square times the third derivative of the log density, below 1e-6 of the slope."""
    found = float(delay_law.information(1.0, ratio, excess))
    assert found == pytest.approx(information_by_differences(ratio, excess), rel=1e-5)


@pytest.mark.parametrize("ratio", [1.0, 0.3, 1e-3])
def test_the_table_is_as_exact_as_it_says(ratio):
    """Between its knots, and beyond its end, where information follows a power of the excess."""
    for excess, error in ((np.geomspace(1e-3, 1e6, 91), 1e-7), (np.array([2e6, 1e8]), 1e-4)):
        expected = [delay_law._by_quadrature(ratio, each) for each in excess]
        assert delay_law.information(1.0 / excess, ratio, 1.0) / excess**2 == pytest.approx(expected, rel=error)


def test_drawn_errors_have_the_density_and_the_variance():
    """Shares below some errors, within 4 standard errors of a share, and the sum of two variances."""
    ratio, excess, sigma, count = 0.3, 4.0, 2.0, 400_000
    error = delay_law.draw_errors(np.random.default_rng(1), (count,), sigma, ratio, excess)
    for limit in (-3.0, 0.0, 1.0, 3.0, 8.0, 20.0):
        late = stats.exponnorm.cdf(limit / sigma, excess / sigma)
        share = (1 - ratio) * stats.norm.cdf(limit / sigma) + ratio * late
        assert (error <= limit).mean() == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / count))
        expected = stats.exponnorm.logpdf(limit, excess / sigma, 0, sigma)
        assert delay_law.late_log_density(np.array(limit), sigma, excess) == pytest.approx(expected)
    variance = sigma**2 + delay_law.excess_variance(ratio, excess)
    assert error.var() == pytest.approx(variance, rel=0.02)
    assert delay_law.on_time_sigma(np.sqrt(variance), ratio, excess) == pytest.approx(sigma)
    assert delay_law.on_time_sigma(1.0, ratio, excess, least=0.1) == 0.1


@given(RATIOS, EXCESSES, st.floats(1e-9, 1e3))
def test_information_is_between_the_normal_laws_and_the_genies(ratio, excess, sigma):
    """A normal law tells least of all of its variance; who is told more knows more. Its unit is that of the errors."""
    found = float(delay_law.information(sigma, ratio, excess * sigma))
    late = float(delay_law.information(sigma, 1.0, excess * sigma))
    variance = sigma**2 + delay_law.excess_variance(ratio, excess * sigma)
    assert found >= (1 - 1e-6) / variance
    assert found <= ((1 - ratio) / sigma**2 + ratio * late) * (1 + 1e-6)
    assert found * sigma**2 == pytest.approx(float(delay_law.information(1.0, ratio, excess)), rel=1e-9)


def test_laws_agree_where_no_link_is_late():
    sigma = np.array([1e-9, 3.0, np.inf, np.nan])
    for law in delay_law.LAWS:
        np.testing.assert_allclose(delay_law.equivalent_sigma(law, sigma, 0.0, 5.0), sigma, rtol=1e-12)
    told = delay_law.equivalent_sigma("genie", np.array([3.0, 3.0]), 0.3, 5.0, late=np.array([False, True]))
    assert told == pytest.approx([3.0, 1 / np.sqrt(delay_law.information(3.0, 1.0, 5.0))])
    with pytest.raises(ValueError, match="law: 'cauchy' is unknown; choose one of normal, genie, mixture"):
        delay_law.equivalent_sigma("cauchy", sigma, 0.3, 5.0)


def scenes_with_late_links(seed: int, count: int, links: int, ratio: float, excess_s: float):
    """Drawn scenes of delays, and the truth that bounds are of: noise by SNR, so that it is that of the delays."""
    rng = np.random.default_rng(seed)
    receivers, transmitter = ring(rng, count, links)
    late = rng.random((count, links)) < ratio
    excess = np.where(late, rng.exponential(excess_s, late.shape), 0.0)
    error_s = rng.normal(0, NOISE_S, late.shape) + excess
    known = {
        "nlos_ratio": ratio,
        "nlos_excess_mean_s": excess_s,
        "path_delay_sigma_s": np.sqrt(delay_law.excess_variance(ratio, excess_s)),
        "link_sigma_db": np.inf,
        "duration_s": 1.0,
    }
    dataset = measured(receivers, transmitter, error_s, **known)
    bandwidth_hz = np.full(count, 1e3)
    noise = 1 / (np.sqrt(8) * np.pi * 1e3 * NOISE_S)  # standard deviation of a delay over the root of energy over noise
    return dataset.assign(
        snr=dataset.snr.copy(data=np.full(late.shape, 20 * np.log10(noise) - 30)),
        rms_bandwidth=dataset.rms_bandwidth.copy(data=bandwidth_hz),
        occupied_bandwidth=dataset.occupied_bandwidth.copy(data=bandwidth_hz),
        excess_delay=dataset.excess_delay.copy(data=excess),
        line_of_sight=(("sample", "receiver"), ~late),
    )


def test_scene_bounds_are_those_of_links_weighed_by_hand():
    """Each link's information by adaptive quadrature, at the standard deviations that the scene was made with."""
    dataset = scenes_with_late_links(3, 4, 6, 0.3, 1e-6)
    receivers, transmitter = bounds.transmitter_frame(dataset)
    by_law = bounds.crlb_by_law(dataset)
    late = np.where(dataset.line_of_sight, 1.0, information_by_differences(1.0, 1e-6 / NOISE_S))
    weights = {
        "": np.full(late.shape, 1 / (1 + 0.51 * 1e-12 / NOISE_S**2)),
        "_genie": late,
        "_mixture": np.full(late.shape, information_by_differences(0.3, 1e-6 / NOISE_S)),
    }
    for suffix, weight in weights.items():
        sigma_s = NOISE_S / np.sqrt(weight)
        expected = bounds.crlb(receivers, transmitter, toa_sigma_s=sigma_s, altitude_sigma_m=np.ones(4))
        np.testing.assert_allclose(by_law[f"crlb_covariance{suffix}"], expected, rtol=1e-4, atol=1e-3)
    unknown = dataset.assign(excess_delay=dataset.excess_delay * np.nan)
    mean = NOISE_S / np.sqrt(0.7 + 0.3 * information_by_differences(1.0, 1e-6 / NOISE_S))
    expected = bounds.crlb(receivers, transmitter, toa_sigma_s=mean + 0 * late, altitude_sigma_m=np.ones(4))
    np.testing.assert_allclose(bounds.scene_crlb(unknown, "genie").crlb_covariance, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("excess_s", [pytest.param(0.1e-6, marks=pytest.mark.slow), 0.5e-6, 5e-6])
@pytest.mark.parametrize("method", ["tdoa_ls", "tdoa_robust"])
@pytest.mark.slow
def test_delay_methods_are_not_below_the_bounds(method, excess_s):
    """Where the bound is below 1/20 of the network's 80 km, so that the delays are linear in the errors.

    The mean of squared errors over bounds is at least 1, but for three of its standard errors.
    """
    dataset = scenes_with_late_links(5, 400, 7, 0.3, excess_s)
    by_law = bounds.crlb_by_law(dataset)
    error = errors.position_errors(dataset, estimators.locate(dataset, method)).error.values
    for law in ("genie", "mixture"):
        bound = by_law[f"crlb_rmse_{law}"].values
        squared = ((error / bound) ** 2)[bound < 80e3 / 20]
        assert len(squared) > 350
        assert squared.mean() > 1 - 3 * squared.std() / np.sqrt(len(squared)), law


def test_robust_fixes_are_below_the_normal_bound_and_above_the_genies():
    """The normal law's bound is one of linear methods: who knows the whole law of late links is below it."""
    dataset = scenes_with_late_links(6, 300, 7, 0.3, 5e-6)
    by_law = bounds.crlb_by_law(dataset)
    error = errors.position_errors(dataset, estimators.locate(dataset, "tdoa_robust")).error
    assert float(((error / by_law.crlb_rmse) ** 2).median()) < 0.25
    assert float(((error / by_law.crlb_rmse) ** 2).mean()) < 1
