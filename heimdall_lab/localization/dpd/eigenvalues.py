"""Compiled kernels of the likelihood: largest eigenvalues of Gram matrices, interpolated in a table of correlations."""

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
