"""Growth of the frequency difference of two receivers within a window, by the phase of blocks of it."""

from collections.abc import Callable

import numpy as np
import scipy.fft

from heimdall_lab.core.arrays import Array, phasor
from heimdall_lab.signals.spectra import weight_at

_BLOCKS = 32  # of a window, whose phases are fitted
_ROUNDS = 3  # of the fit: phases that turn far are not all seen at first
_LEAST_RATIO = 20.3  # of a drift's square to its variance, which noise alone exceeds once in 10,000: F(1, 29)
_LEAST_COHERENCE = 0.8  # of the blocks, straightened: phases of noise alone are too wide for their own statistics


def frequency_drift(
    voltage_of: Callable[[int], Array], reference: Array, delay: Array, frequency: Array, weight: Array
) -> Array:
    """Drift (S, R) of each receiver's frequency against the reference's, cycles per sample squared; 0 where none shows.

    Of the product of each receiver's voltages (S, N) with the reference's (S,), of which a delay in samples and a
    frequency offset in cycles per sample, (S, R), are taken off, the phases of blocks are fitted by a parabola in time.
    The weight (S, F) is as in `correlation.ambiguity_peak`.

    Source: of the fit, Kay, Fundamentals of Statistical Signal Processing: Estimation Theory, section 4.3.
    """
    num_time = voltage_of(0).shape[-1]
    cycles = scipy.fft.fftfreq(num_time)
    share = weight_at(weight, cycles)
    template = np.empty((len(reference), num_time), dtype=np.complex64)
    for receiver in np.unique(reference).tolist():
        rows = reference == receiver
        template[rows] = scipy.fft.ifft(scipy.fft.fft(voltage_of(receiver)[rows], axis=-1) * share[rows], axis=-1)
    length = num_time // _BLOCKS
    place = ((np.arange(_BLOCKS) + 0.5) * length - num_time / 2) / (num_time / 2)  # −1 … 1
    columns = np.stack([np.ones(_BLOCKS), place, place**2])
    drift = np.zeros(delay.shape)
    for receiver in range(delay.shape[1]):
        late = np.nan_to_num(delay[:, receiver])[:, None]
        aligned = scipy.fft.ifft(
            scipy.fft.fft(voltage_of(receiver), axis=-1) * np.exp(2j * np.pi * late * cycles), axis=-1
        )
        product = aligned * template.conj() * phasor(-np.nan_to_num(frequency[:, receiver]), num_time)
        sums = product[:, : _BLOCKS * length].reshape(-1, _BLOCKS, length).sum(axis=-1)
        drift[:, receiver] = _bend(sums, columns) / (np.pi * (num_time / 2) ** 2)
    drift[np.arange(len(drift)), reference] = 0.0
    return drift


def _bend(sums: Array, columns: Array) -> Array:
    """Coefficients (S,) of the squares in the phases of sums (S, B), radians, where they are significant.

    The columns (3, B) are powers of time. A block counts by its magnitude, to which the inverse variance of its phase
    is proportional.
    """
    size = np.abs(sums)
    inverse = np.linalg.pinv(np.einsum("ib,sb,jb->sij", columns, size, columns), hermitian=True)
    found = np.zeros((len(sums), len(columns)))
    for _ in range(_ROUNDS):
        straight = sums * np.exp(-1j * found @ columns)
        phase = np.angle(straight * straight.sum(axis=-1, keepdims=True).conj())
        found += (inverse @ np.einsum("ib,sb->si", columns, size * phase)[..., None])[..., 0]
    straight = sums * np.exp(-1j * found @ columns)
    rest = np.angle(straight * straight.sum(axis=-1, keepdims=True).conj())
    variance = (size * rest**2).sum(axis=-1) / (sums.shape[1] - len(columns)) * inverse[:, 2, 2]
    coherence = np.abs(straight.sum(axis=-1)) / np.maximum(size.sum(axis=-1), 1e-30)
    shows = (found[:, 2] ** 2 > _LEAST_RATIO * variance) & (coherence > _LEAST_COHERENCE)
    return np.where(shows, found[:, 2], 0.0)
