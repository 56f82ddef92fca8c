"""Compiled kernels of the likelihood: Gram matrices, interpolated in a table of correlations, and their eigenvalues."""

import numpy as np

from heimdall_lab.core.arrays import Array
from heimdall_lab.core.compiled import njit
from heimdall_lab.core.interpolation import LEAD, PHASES, TABLE, TAPS

# Polynomials in the fraction of a sample, (degree, tap), in the place of the table's steps, at whose kinks refinement
# would not converge: Farrow, Proc. IEEE Int. Symp. Circuits and Systems (1988). They follow the table to its rounding.
_FARROW = np.polynomial.polynomial.polyfit(np.arange(PHASES + 1) / PHASES, TABLE.astype(float), 11)


def largest_eigenvalues(table: Array, delay: Array, scene: Array | None = None) -> Array:
    """Largest eigenvalues (N, G) of the Gram matrices of signals from which delays (N, G, R), in samples, are taken.

    The table (S, R, R, L) complex128 has correlations of receiver i over j ≤ i, at lags of one sample around 0.
    ``scene`` (N,) says of which of the scenes each row of delays is; by default the rows are the scenes.
    """
    return _eigenvalues(table, np.arange(len(delay)) if scene is None else scene, delay, _FARROW)


def gram_matrices(table: Array, delay: Array) -> Array:
    """Gram matrices (S, R, R) of signals from which delays (S, R), in samples, are taken; table as above."""
    matrices = np.empty((*delay.shape, delay.shape[1]), np.complex128)
    _fill_gram_matrices(table, delay, _FARROW, matrices)
    return matrices


def correlate_with_others(table: Array, delay: Array, weight: Array, first: Array, count: int) -> Array:
    """Correlations (S, R, L) of each receiver with the weighted sum of the others, as delays (S, R) align them.

    Weights (S, R, R) of a receiver's others are along the last axis. Lags, in samples by which a receiver is later than
    its delay says, are ``count`` steps of one sample from ``first`` (S, R) on; table as above.
    """
    return _correlate_with_others(table, delay, weight, first, count, _FARROW)


@njit(cache=True)
def _eigenvalues(table: Array, scene_of: Array, delay: Array, farrow: Array) -> Array:
    """See `largest_eigenvalues`; ``farrow`` (D, TAPS) as _FARROW."""
    rows, positions, size = delay.shape
    middle = (table.shape[3] - 1) // 2
    largest = np.empty((rows, positions))
    taps = np.empty(TAPS)
    matrix = np.empty((size, size), np.complex128)
    vectors = np.empty((2, size), np.complex128)
    for row in range(rows):
        scene = scene_of[row]
        strongest = 0
        for i in range(size):
            matrix[i, i] = table[scene, i, i, middle].real
            if matrix[i, i].real > matrix[strongest, strongest].real:
                strongest = i
        for position in range(positions):
            for i in range(size):
                for j in range(i):
                    lag = delay[row, position, i] - delay[row, position, j]
                    matrix[i, j] = _interpolate(table[scene, i, j], middle + lag, farrow, taps)
                    matrix[j, i] = matrix[i, j].conjugate()
            vectors[0] = matrix[:, strongest]
            largest[row, position] = _power_iteration(matrix, vectors[0], vectors[1])
    return largest


@njit(cache=True)
def _fill_gram_matrices(table: Array, delay: Array, farrow: Array, matrices: Array) -> None:
    """Fill ``matrices`` (S, R, R), see `gram_matrices`."""
    scenes, size = delay.shape
    middle = (table.shape[3] - 1) // 2
    taps = np.empty(TAPS)
    for scene in range(scenes):
        for i in range(size):
            matrices[scene, i, i] = table[scene, i, i, middle].real
            for j in range(i):
                lag = delay[scene, i] - delay[scene, j]
                matrices[scene, i, j] = _interpolate(table[scene, i, j], middle + lag, farrow, taps)
                matrices[scene, j, i] = matrices[scene, i, j].conjugate()


@njit(cache=True)
def _correlate_with_others(table: Array, delay: Array, weight: Array, first: Array, count: int, farrow: Array) -> Array:
    """See `correlate_with_others`."""
    scenes, size = delay.shape
    middle = (table.shape[3] - 1) // 2
    taps = np.empty(TAPS)
    total = np.zeros((scenes, size, count), np.complex128)
    for scene in range(scenes):
        for i in range(size):
            for j in range(size):
                if i == j:
                    continue
                lag = delay[scene, i] - delay[scene, j] + first[scene, i]
                for step in range(count):
                    # The table has i over j ≤ i alone; j over i is its conjugate at the opposite lag.
                    if i > j:
                        value = _interpolate(table[scene, i, j], middle + lag + step, farrow, taps)
                    else:
                        value = _interpolate(table[scene, j, i], middle - lag - step, farrow, taps).conjugate()
                    total[scene, i, step] += value * weight[scene, i, j]
    return total


@njit(cache=True)
def _interpolate(values: Array, place: float, farrow: Array, taps: Array) -> complex:
    """Interpolate a table (L,) at a place, at its ends where that is beyond them; fills ``taps`` (TAPS,)."""
    place = min(max(place, LEAD), len(values) - TAPS + LEAD - 1.0)
    first = int(place) - LEAD
    fraction = place - int(place)
    taps[:] = farrow[-1]
    for degree in range(len(farrow) - 2, -1, -1):
        for tap in range(TAPS):
            taps[tap] = taps[tap] * fraction + farrow[degree, tap]
    value = 0j
    for tap in range(TAPS):
        value += taps[tap] * values[first + tap]
    return value


@njit(cache=True)
def _power_iteration(matrix: Array, vector: Array, image: Array) -> float:
    """Largest eigenvalue of a Hermitian matrix (R, R); makes ``vector`` (R,) its eigenvector, and overwrites ``image``.

    The Rayleigh quotient is exact to the square of the eigenvector's error: Golub and Van Loan, Matrix Computations,
    4th ed., section 8.2.1.
    """
    before, value = -1.0, 0.0
    for _ in range(1000):
        norm = 0.0
        for i in range(len(vector)):
            norm += vector[i].real ** 2 + vector[i].imag ** 2
        if norm == 0:
            break
        value = 0.0
        for i in range(len(vector)):
            total = 0j
            for j in range(len(vector)):
                total += matrix[i, j] * vector[j]
            image[i] = total / norm**0.5
            value += (total * vector[i].conjugate()).real / norm
        vector[:] = image
        if abs(value - before) <= 1e-13 * value:
            break
        before = value
    return value
