"""Ellipses of covariances: their outlines and axes, and the circles that hold half of the errors."""

from functools import cache

import numpy as np

from heimdall_lab.localization import error_law


def ellipse(covariance: np.ndarray, level: float = 0.95, points: int = 65, freedom: float = np.inf) -> np.ndarray:
    """Outline of the ellipse that holds ``level`` of the errors, (..., points, 2) in the covariance's root.

    They are normal, unless there are degrees of ``freedom`` (`error_law`). The last point repeats the first. NaN
    covariance gives NaN outlines.
    """
    angle = np.linspace(0, 2 * np.pi, points)
    circle = np.sqrt(error_law.radius_squared(level, freedom)) * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    east = np.sqrt(covariance[..., 0, 0])
    slope = covariance[..., 0, 1] / east
    rest = np.sqrt(np.maximum(covariance[..., 1, 1] - slope**2, 0))  # Cholesky factor, by hand: it lets NaN pass
    north = slope[..., None] * circle[:, 0] + rest[..., None] * circle[:, 1]
    return np.stack([east[..., None] * circle[:, 0], north], axis=-1)


def principal_axes(covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Standard deviations along and across the longer axis of covariances (..., 2, 2), and its direction.

    Returns
    -------
    major, minor : (...) in the covariance's root
    azimuth_deg : (...) degrees from north towards east, 0 … 180
    """
    a, b, d = covariance[..., 0, 0], covariance[..., 0, 1], covariance[..., 1, 1]
    largest = (a + d) / 2 + np.hypot((a - d) / 2, b)
    smallest = np.maximum(a * d - b**2, 0) / np.where(largest > 0, largest, 1.0)
    azimuth_deg = np.degrees(np.arctan2(2 * b, d - a) / 2) % 180
    return np.sqrt(largest), np.sqrt(smallest), azimuth_deg


def cep50(covariance: np.ndarray) -> np.ndarray:
    """Circular error probable: radius that holds half of a normal distribution of covariances (..., 2, 2): (...).

    It is in the covariance's root, exact to 1e-5; NaN where the covariance is.

    >>> import numpy as np
    >>> cep50(np.diag([4.0, 4.0])).round(4), cep50(np.diag([0.0, 1.0])).round(4)
    (np.float64(2.3548), np.float64(0.6745))
    """
    major, minor, _ = principal_axes(covariance)
    return major * np.interp(minor / np.where(major > 0, major, 1.0), *_median_radius())


@cache
def _median_radius() -> tuple[np.ndarray, np.ndarray]:
    """Ratio of the shorter to the longer axis, and the median radius over the longer axis, by Newton's method.

    In the direction φ of the whitened error z, |error|² = |z|² (cos² φ + ratio² sin² φ), and |z|² exceeds x with the
    probability exp(−x/2).
    """
    ratio = np.linspace(0, 1, 257)  # linear interpolation errs by 1/8 · (1/256)² · curvature, less than 1e-5
    angle = (np.arange(1000) + 0.5) * np.pi / 1000
    stretch = np.cos(angle) ** 2 + (ratio[:, None] * np.sin(angle)) ** 2  # (ratios, angles)
    radius = np.full(ratio.shape, 0.7)
    for _ in range(8):
        beyond = np.exp(-(radius[:, None] ** 2) / 2 / stretch)
        radius = radius + (beyond.mean(axis=1) - 0.5) / (radius * (beyond / stretch).mean(axis=1))
    return ratio, radius
