"""Linear equations of emissions that share the clocks of their receivers: the joint solution's, and its bound's.

A pseudo-range, the arrival of emission s at receiver r times the speed of light, is

    ρ = |p_s − x_r| + e_s + Σ_k basis_sk · c_rk + noise,

where the position p_s (east, north, height) and the emission time e_s are the emission's own, and the clock c_r is
common to all emissions: its offset, and where it has one the growth by its rate. All are in m. Each emission's own
unknowns are eliminated by a Schur complement, so that what is solved for all emissions together is as large as the
clocks alone.

Source: Ho and Yang, "On the use of a calibration emitter for source localization in the presence of sensor position
uncertainty", IEEE Trans. Signal Process. 56 (2008), for references; Wang and Ho, "TDOA source localization in the
presence of synchronization clock bias and sensor position errors", IEEE Trans. Signal Process. 61 (2013), for clocks;
Triggs et al., "Bundle adjustment: a modern synthesis" (2000), section 6.1, for the elimination.

Arrays are over B recordings of S emissions by R receivers, with M = R · K numbers of the clocks, those of one receiver
one after the other.
"""

from typing import NamedTuple

import numpy as np

from heimdall_lab.core.arrays import Array

OWN = 4  # unknowns of an emission: east, north, height and its time
_TIME = 3  # which of them is the time


class Equations(NamedTuple):
    """Information of each emission's own unknowns and of the clocks."""

    own: Array  # (B, S, 4, 4)
    inverse_own: Array  # (B, S, 4, 4)
    cross: Array  # (B, S, 4, M)
    by_emission: Array  # (B, S, R, K, K), of each clock as if the rest were known

    @property
    def gain(self) -> Array:
        """Change of an emission's own unknowns for one of the clocks, up to its sign: (B, S, 4, M)."""
        return self.inverse_own @ self.cross

    def clocks(self) -> Array:
        """Information of the clocks by the measurements with all own unknowns eliminated: (B, M, M)."""
        total = block_diagonal(self.by_emission.sum(axis=1))
        recordings, emissions, own, numbers = self.cross.shape
        shape = recordings, emissions * own, numbers
        return total - self.cross.reshape(shape).swapaxes(1, 2) @ self.gain.reshape(shape)

    def clocks_by_emission(self) -> Array:
        """The same, by each emission alone: (B, S, M, M)."""
        return block_diagonal(self.by_emission) - self.cross.swapaxes(-2, -1) @ self.gain


def jacobian(gradient: Array, is_known: Array) -> Array:
    """Change (B, S, R, 4) of pseudo-ranges by own unknowns, of gradients (B, S, R, 3); known places (B, S) do not move.

    The heights of these are unknown as those of the others are.
    """
    ones = np.ones_like(gradient[..., :1])
    horizontal = gradient[..., :2] * ~is_known[..., None, None]
    return np.concatenate([horizontal, gradient[..., 2:], ones], axis=-1)


def equations(
    columns: Array, weight: Array, basis: Array, beforehand: Array, damping: Array | float = 0.0
) -> Equations:
    """Set up the equations of Jacobians (B, S, R, 4) with inverse variances (B, S, R) and bases (B, S, K).

    What is known of own unknowns beforehand, (B, S, 4, 4) information, is added. ``damping`` (B,) enlarges the diagonal
    of positions by as much of itself, as of Levenberg and Marquardt. Directions of which nothing is known stay where
    they are.
    """
    weighted = columns * weight[..., None]
    own = columns.swapaxes(-2, -1) @ weighted + beforehand
    cross = weighted.swapaxes(-2, -1)[..., None] * basis[:, :, None, None]  # (B, S, 4, R, K)
    by_emission = weight[..., None, None] * (basis[..., None] * basis[..., None, :])[:, :, None]
    damped = own.copy()
    for axis in range(OWN):
        diagonal = own[..., axis, axis]
        grown = diagonal if axis == _TIME else diagonal * (1 + np.reshape(damping, (-1, 1)))
        damped[..., axis, axis] = np.where(diagonal > 0, grown, 1.0)
    return Equations(
        own, _inverse(damped), cross.reshape(*cross.shape[:3], cross.shape[3] * cross.shape[4]), by_emission
    )


def block_diagonal(blocks: Array) -> Array:
    """Matrices (..., M, M) of blocks (..., R, K, K) along their diagonal."""
    *leading, receivers, order, _ = blocks.shape
    matrix = np.zeros((*leading, receivers, order, receivers, order))
    each = np.arange(receivers)
    matrix[..., each, :, each, :] = np.moveaxis(blocks, -3, 0)
    return matrix.reshape(*leading, receivers * order, receivers * order)


def covariances(found: Equations, spread: Array) -> Array:
    """Covariances (B, S, 4, 4) of own unknowns, where the clocks have the covariance (B, M, M)."""
    return found.inverse_own + found.gain @ spread[:, None] @ found.gain.swapaxes(-2, -1)


def inverse(information: Array) -> Array:
    """Inverse of positive definite matrices (..., M, M), balanced first."""
    scale = 1 / np.sqrt(np.einsum("...ii->...i", information))
    by = scale[..., :, None] * scale[..., None, :]
    return np.linalg.inv(information * by) * by


def _inverse(own: Array) -> Array:
    """Inverse of (..., 4, 4) information, balanced first; of directions that others tell as well, next to none."""
    scale = 1 / np.sqrt(np.einsum("...ii->...i", own))
    by = scale[..., :, None] * scale[..., None, :]
    return np.linalg.inv(own * by + 1e-12 * np.eye(OWN)) * by
