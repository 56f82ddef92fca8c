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

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from heimdall_lab.core.arrays import Array
from heimdall_lab.core.units import SPEED_OF_LIGHT

OWN = 4  # unknowns of an emission: east, north, height and its time
_LEAST_EIGENVALUE = 1e-11  # of an emission's balanced information, below which a direction is not observed
_ROUNDING = 1e-13  # of balanced information, and more than that
_TIME = 3  # which of them is the time
_LEAST_CLOCK_SIGMA_M = 1e-3  # of a clock that is stated as exact


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

    def clocks_alone(self) -> Array:
        """Information of each number of the clocks by the measurements if all the rest is known: (B, M)."""
        alone = np.einsum("bsrkk->brk", self.by_emission)
        return alone.reshape(len(alone), -1)

    def clocks_by_emission(self) -> Array:
        """The same, by each emission alone: (B, S, M, M)."""
        return block_diagonal(self.by_emission) - self.cross.swapaxes(-2, -1) @ self.gain


def rows_of_recordings(dataset: xr.Dataset) -> Iterator[Array]:
    """Which scenes are of one recording each, (B, S), for every number S of emissions that recordings have.

    A dataset without ``recording`` has one of every scene.
    """
    numbers = dataset["recording"].values if "recording" in dataset else np.arange(dataset.sizes["sample"])
    order = np.argsort(numbers, kind="stable")
    _, first, sizes = np.unique(numbers[order], return_index=True, return_counts=True)
    return (order[first[sizes == size][:, None] + np.arange(size)] for size in np.unique(sizes))


def window_clock_variance_m2(attributes: Mapping[Any, Any]) -> float:
    """Variance, m², of what a clock errs by in one window alone, as by its time stamp."""
    return float((attributes.get("window_clock_sigma_s", 0.0) * SPEED_OF_LIGHT) ** 2)


def shared_clock_variance_m2(variance_m2: Array, attributes: Mapping[Any, Any]) -> Array:
    """Variance, m², of what a clock errs by in all windows of a recording alike, of that in all."""
    return np.maximum(variance_m2 - window_clock_variance_m2(attributes), _LEAST_CLOCK_SIGMA_M**2)


def clock_rate_sigma(attributes: Mapping[Any, Any]) -> float:
    """Standard deviation of the rate by which clocks grow from one window of a recording to the next."""
    if attributes.get("steered_clocks", 0):
        return 0.0
    stated = float(attributes.get("clock_rate_sigma", 0.0))
    if stated == 0 and attributes.get("one_crystal", 0):
        return float(attributes["max_frequency_offset_hz"] / attributes["centre_frequency_hz"])
    return stated


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


def position_bounds(
    gradient: Array, weight: Array, basis: Array, is_known: Array, beforehand: Array, clock_information: Array
) -> Array:
    """Cramér-Rao bounds (B, S, 2, 2) m² of the horizontal places of emissions that share unknown clocks.

    Of gradients (B, S, R, 3) and inverse variances (B, S, R) of pseudo-ranges, with all else that is known of each
    emission's place (B, S, 3, 3) and of the clocks (B, M, M), both as information. NaN of places that are known, and
    where a direction is not observed.
    """
    own = np.zeros((*is_known.shape, OWN, OWN))
    own[..., :_TIME, :_TIME] = beforehand
    own[..., :_TIME, :_TIME] *= _free(is_known)
    found = equations(jacobian(gradient, is_known), weight, basis, own)
    root = root_of_inverse(found.clocks() + clock_information, clock_information)
    bound = covariances(found, root)[..., :2, :2]
    observed = _least_eigenvalue(found.own) > _LEAST_EIGENVALUE
    return np.where((observed & ~is_known)[..., None, None], bound, np.nan)


def _free(is_known: Array) -> Array:
    """Ones (B, S, 3, 3), and zeros where a known place has no information of its own: east and north."""
    moves = np.ones((*is_known.shape, _TIME))
    moves[..., :2] = ~is_known[..., None]
    return moves[..., :, None] * moves[..., None, :]


def _least_eigenvalue(own: Array) -> Array:
    """Smallest eigenvalue (B, S) of what each emission's measurements tell of its unknowns, balanced.

    An altitude that nothing depends on is left out.
    """
    diagonal = np.einsum("bsii->bsi", own)
    scale = np.where(diagonal > 0, 1 / np.sqrt(np.where(diagonal > 0, diagonal, 1.0)), 0.0)
    none = np.eye(OWN) * (diagonal == 0)[..., None]
    none[..., :2, :2] = 0.0
    least: Array = np.linalg.eigvalsh(own * scale[..., None] * scale[..., None, :] + none)[..., 0]
    return least


def covariances(found: Equations, root: Array) -> Array:
    """Covariances (B, S, 4, 4) of own unknowns, where that of the clocks has the root (B, M, M)."""
    by_clocks = found.gain @ root[:, None]
    return found.inverse_own + by_clocks @ by_clocks.swapaxes(-2, -1)


def inverse(information: Array) -> Array:
    """Inverse of positive definite matrices (..., M, M), balanced first."""
    scale = 1 / np.sqrt(np.einsum("...ii->...i", information))
    by = scale[..., :, None] * scale[..., None, :]
    return np.linalg.inv(information * by) * by


def solved(information: Array, alone: Array, right: Array) -> Array:
    """Solve equations of information (..., M, M) for right sides (..., M).

    ``alone`` (..., M) is the information of each number if all the rest is known. Strong signals tell differences of
    clocks so well that rounding leaves nothing of what is known beforehand, by which all clocks together are held, or
    those that no other emission tells; a part of 1e-13 of ``alone`` holds them then.
    """
    scale = 1 / np.sqrt(alone)
    balanced = information * scale[..., :, None] * scale[..., None, :] + _ROUNDING * np.eye(scale.shape[-1])
    return scale * np.linalg.solve(balanced, (scale * right)[..., None])[..., 0]


def root_of_inverse(information: Array, beforehand: Array) -> Array:
    """Roots F (..., M, M) of covariances F Fᵀ that have the information, by eigenvalues of what is balanced first.

    Rounding may leave less information than there was ``beforehand``, (..., M, M): it counts as that.

    Differences of clocks are taken of the roots: of covariances, in which what all clocks have in common is thousands
    of km, rounding would leave nothing of them.
    """
    prior = np.einsum("...ii->...i", beforehand)
    scale = 1 / np.sqrt(np.maximum(np.einsum("...ii->...i", information), prior))
    values, vectors = np.linalg.eigh(information * scale[..., :, None] * scale[..., None, :])
    least = (prior * scale**2).min(axis=-1, keepdims=True)
    root: Array = scale[..., :, None] * vectors / np.sqrt(np.maximum(values, least))[..., None, :]
    return root


def _inverse(own: Array) -> Array:
    """Inverse of (..., 4, 4) information, balanced first; of directions that others tell as well, next to none."""
    scale = 1 / np.sqrt(np.einsum("...ii->...i", own))
    by = scale[..., :, None] * scale[..., None, :]
    return np.linalg.inv(own * by + 1e-12 * np.eye(OWN)) * by
