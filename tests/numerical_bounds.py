"""Bounds by numerical differences, for tests of those in closed form."""

import numpy as np


def bound_by_differences(model, parameters: np.ndarray, sigma: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Bound of all parameters of measurements with a normal error: inverse Fisher information, by differences."""
    jacobian = np.stack(
        [
            (model(parameters + step) - model(parameters - step)) / (2 * size)
            for step, size in zip(np.diag(steps), steps, strict=True)
        ],
        axis=1,
    )
    return np.linalg.inv(jacobian.T @ (jacobian / sigma[:, None] ** 2))
