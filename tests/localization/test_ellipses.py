"""Ellipses and circles of a covariance, against the normal distribution that they hold shares of."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats
from scipy.special import ndtr

from heimdall_lab.localization import ellipses


def share_within(radius: float, major: float, minor: float) -> float:
    """Probability that a normal error lies in a circle: strips of the circle, each with its share of a normal."""

    def strip(x: float) -> float:
        return float(np.exp(-((x / major) ** 2) / 2) * (2 * ndtr(np.sqrt(radius**2 - x**2) / minor) - 1))

    return integrate.quad(strip, -radius, radius, epsabs=1e-10, limit=200)[0] / (np.sqrt(2 * np.pi) * major)


@given(st.floats(0.02, 1), st.floats(0, np.pi), st.floats(0.1, 1e5))
def test_half_of_the_errors_lie_within_cep50(ratio, angle, scale):
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    covariance = scale**2 * turn @ np.diag([1.0, ratio**2]) @ turn.T
    radius = float(ellipses.cep50(covariance[None])[0])
    assert share_within(radius / scale, 1.0, ratio) == pytest.approx(0.5, abs=1e-5)
    major, minor, azimuth_deg = ellipses.principal_axes(covariance)
    assert [minor / scale, major / scale] == pytest.approx([ratio, 1.0], rel=1e-6)
    if ratio < 0.99:  # else it has no direction
        along = np.array([np.sin(np.radians(azimuth_deg)), np.cos(np.radians(azimuth_deg))])
        assert abs(along @ turn[:, 0]) == pytest.approx(1, abs=1e-6)


def test_cep50_of_limits():
    line = np.array([[4.0, 2.0], [2.0, 1.0]])
    assert ellipses.cep50(line) == pytest.approx(5**0.5 * stats.norm.ppf(0.75), rel=1e-5)
    assert ellipses.cep50(9 * np.eye(2)) == pytest.approx(3 * np.sqrt(2 * np.log(2)), rel=1e-5)
    assert ellipses.cep50(np.zeros((2, 2))) == 0
    assert np.isnan(ellipses.cep50(np.full((2, 2), np.nan)))


def inside(outline: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Whether points lie in a polygon: they do where a ray to the east crosses its outline an odd number of times."""
    crossings = np.zeros(len(points), dtype=int)
    for (east, north), (next_east, next_north) in itertools.pairwise(outline):
        spans = (north > points[:, 1]) != (next_north > points[:, 1])
        if spans.any():
            slope = (next_east - east) / (next_north - north)
            crossings[spans] += points[spans, 0] < east + slope * (points[spans, 1] - north)
    return crossings % 2 == 1


@pytest.mark.parametrize("level", [0.5, 0.68, 0.95])
def test_ellipse_holds_its_share_of_a_normal_distribution(level):
    covariance = np.array([[400.0, -250.0], [-250.0, 900.0]])
    outline = ellipses.ellipse(covariance, level, points=361)
    assert outline.shape == (361, 2)
    assert outline[0] == pytest.approx(outline[-1])
    # Every point is at the distance whose χ² with 2 degrees of freedom holds the level.
    squared = np.einsum("pi,ij,pj->p", outline, np.linalg.inv(covariance), outline)
    assert squared == pytest.approx(np.full(361, stats.chi2(2).ppf(level)))
    rng = np.random.Generator(np.random.Philox(3))
    points = rng.multivariate_normal(np.zeros(2), covariance, 20_000)
    count = int(inside(outline, points).sum())
    assert stats.binomtest(count, 20_000, level).pvalue > 1e-4  # the polygon is 5e-5 smaller than the ellipse


def test_ellipses_of_many_scenes():
    covariance = np.array([np.eye(2), np.full((2, 2), np.nan), [[4.0, 2.0], [2.0, 1.0]]])
    outline = ellipses.ellipse(covariance)
    assert outline.shape == (3, 65, 2)
    assert np.linalg.norm(outline[0], axis=-1) == pytest.approx(np.full(65, stats.chi2(2).ppf(0.95) ** 0.5))
    assert np.isnan(outline[1]).all()
    assert outline[2][:, 0] == pytest.approx(2 * outline[2][:, 1])  # no width across: a line
