"""Unlike group delays of receivers: how far a delay varies over the band, by which no one number is the delay."""

from collections.abc import Callable

import numpy as np
import scipy.fft

from heimdall_lab.core.arrays import Array, phasor
from heimdall_lab.signals.spectra import weight_at

_POWERS = np.arange(4)  # of frequency in the phase: constant, delay, and a group delay that grows or bends
_LEAST_CHI_SQUARED = 18.4  # of the last two, which noise alone exceeds once in 10,000
_FADE = 8  # share of the window in which it rises, and falls
_MOST_SAMPLES = 2**20  # of a longer window, the middle
_LEAST_LINKS = 4  # from which it can be told which differs; of fewer nothing is said


def group_delay_sigma(
    voltage_of: Callable[[int], Array], reference: Array, used: Array, delay: Array, frequency: Array, weight: Array
) -> Array:
    """Standard deviation (S, R) in samples of each receiver's group delay over the signal's band; 0 where none shows.

    The phase of the cross-spectrum of each receiver's voltages (S, N) with the reference's (S,), of which a delay in
    samples and a frequency offset in cycles per sample, (S, R), are taken off, is fitted by a cubic in frequency. What
    it bends more than the median of the links used (S, R), the reference's own among them, is the receiver's. The
    weight (S, F) is as in `correlation.ambiguity_peak`.

    Source: of the fit, Kay, Fundamentals of Statistical Signal Processing: Estimation Theory, section 4.3.
    """
    whole_time = voltage_of(0).shape[-1]
    num_time = min(whole_time, _MOST_SAMPLES)
    middle = (whole_time - num_time) // 2
    cycles = scipy.fft.fftfreq(num_time).astype(np.float32)
    share = weight_at(weight, cycles)
    kept = np.flatnonzero((share > 0).any(axis=0))
    cycles, share = cycles[kept], share[:, kept]
    mean = ((share * cycles).sum(axis=-1) / np.maximum(share.sum(axis=-1), 1e-30))[:, None]
    spread = np.sqrt((share * (cycles - mean) ** 2).sum(axis=-1) / np.maximum(share.sum(axis=-1), 1e-30))[:, None]
    place = (cycles - mean) / np.maximum(spread, 1e-9)  # (S, B)
    columns = place[:, None] ** _POWERS[:, None]  # (S, 4, B)
    time = np.arange(num_time)
    # What one receiver hears at the ends of the window, and another does not, would pass for a bend.
    window = np.sin(np.pi / 2 * np.minimum(_FADE * np.minimum(time + 0.5, num_time - 0.5 - time) / num_time, 1.0)) ** 2
    window = window.astype(np.float32)
    template = np.empty(share.shape, dtype=np.complex64)
    for receiver in np.unique(reference).tolist():
        rows = reference == receiver
        stretch = voltage_of(receiver)[rows, middle : middle + num_time]
        template[rows] = scipy.fft.fft(stretch * window, axis=-1)[:, kept]
    level = np.abs(template)
    direction = template.conj() / np.maximum(level, 1e-30)
    inverse = np.linalg.pinv(np.einsum("sin,sn,sjn->sij", columns, share * level**2, columns), hermitian=True)
    bend, covariance = np.zeros((*delay.shape, 2)), np.full((*delay.shape, 2, 2), np.nan)
    for receiver in range(delay.shape[1]):
        late = np.nan_to_num(delay[:, receiver])
        begin = (middle + np.rint(late)).clip(0, whole_time - num_time).astype(int)  # as far as the template's is cut
        stretch = np.stack(
            [row[first : first + num_time] for row, first in zip(voltage_of(receiver), begin, strict=True)]
        )
        turned = stretch * phasor(-np.nan_to_num(frequency[:, receiver]), num_time) * window
        ramp = np.exp(2j * np.pi * (late - (begin - middle))[:, None] * cycles)
        aligned = scipy.fft.fft(turned, axis=-1)[:, kept] * direction * ramp
        whole = (share * level * aligned).sum(axis=-1)[:, None]
        aligned = aligned * np.exp(-1j * np.angle(whole))
        gain = np.abs(whole) / np.maximum((share * level**2).sum(axis=-1)[:, None], 1e-30)
        right = np.einsum("sin,sn->si", columns, share * level * aligned.imag) / np.maximum(gain, 1e-30)
        phase = (inverse @ right[..., None])[..., 0]
        rest = aligned.imag - gain * level * np.einsum("si,sin->sn", phase, columns)
        noise = (share * rest**2).sum(axis=-1) / np.maximum(share.sum(axis=-1), 1e-30) / gain[:, 0] ** 2
        bend[:, receiver], covariance[:, receiver] = phase[:, 2:], noise[:, None, None] * inverse[:, 2:, 2:]
    return _sigma(bend, covariance, used, reference, place, share * level**2) / (2 * np.pi * np.maximum(spread, 1e-9))


def _sigma(bend: Array, covariance: Array, used: Array, reference: Array, place: Array, power: Array) -> Array:
    """Rms deviation (S, R) of group delays of phases that bend (S, R, 2), where it is significant."""
    is_reference = np.arange(used.shape[1]) == reference[:, None]
    bend = np.where(is_reference[..., None], 0.0, bend)
    own = used | is_reference
    common = _median(bend, own)
    of_reference = _median(covariance.reshape(*used.shape, 4), used & ~is_reference).reshape(-1, 1, 2, 2)
    covariance = np.where(is_reference[..., None, None], of_reference, covariance)
    own_bend = bend - common
    inverse = np.linalg.pinv(np.nan_to_num(covariance), hermitian=True)
    chi_squared = np.einsum("sri,srij,srj->sr", own_bend, inverse, own_bend)
    slopes = np.stack([2 * place, 3 * place**2], axis=1)  # of the squares and the cubes
    share = power / np.maximum(power.sum(axis=-1, keepdims=True), 1e-30)
    slopes = slopes - np.einsum("sn,sin->si", share, slopes)[..., None]
    shape = np.einsum("sin,sn,sjn->sij", slopes, share, slopes)
    variance = np.einsum("sri,sij,srj->sr", own_bend, shape, own_bend)
    own = own & (own.sum(axis=1, keepdims=True) >= _LEAST_LINKS)
    return np.where(own & (chi_squared > _LEAST_CHI_SQUARED), np.sqrt(np.maximum(variance, 0.0)), 0.0)


def _median(values: Array, chosen: Array) -> Array:
    """Median (S, 1, K) of the chosen (S, R) of values (S, R, K); 0 of none."""
    some = chosen | ~chosen.any(axis=1, keepdims=True)
    values = np.where(chosen[..., None], np.nan_to_num(values), np.where(some[..., None], 0.0, np.nan))
    return np.nanmedian(values, axis=1, keepdims=True)
