"""Noise beside the signal, where the noise is not white: behind a channel filter, or coloured.

Far from the signal a filter leaves less noise than in the signal's band, and coloured noise is another there. What lies
beside the signal is noise or the signal's own skirts, which one receiver cannot tell. Several can: all hear the same
skirts, as far below the same peak, but each has its own ratio of signal to noise.
"""

from typing import NamedTuple

import numpy as np

from heimdall_lab.core.arrays import Array, array_namespace
from heimdall_lab.core.units import db_to_linear
from heimdall_lab.signals import spectra
from heimdall_lab.signals.spectra import Spectrum

_LEAST_BINS, _BINS_SHARE = 6, 48  # frequencies of a window, and windows in the band: as narrow as noise is told in
_CONTRAST = db_to_linear(8.0)  # by which a window must exceed what the signal can have there: 16 % of it at the most
_DIFFERENCE = db_to_linear(2.0)  # between the noise beside the signal and in the outer band, below which both agree
_ALIKE = db_to_linear(1.0)  # by which noise further from the signal may be less and still stand for that beside it
_FLAT_SIGMAS = 4.0  # of the variance of logarithms of noise in a window, within which it is flat
_PLATEAU = 10.0  # density over the outer band's, from which a flat stretch may be noise that a filter lets pass


class NoiseFloor(NamedTuple):
    """Noise of S scenes and R receivers at the signal's frequencies."""

    density: Array  # (S, R), power per Hz; a limit where it is not ``known``
    is_white: Array  # (S, R) bool, it is that of the outer half of the band
    known: Array  # (S, R) bool, it can be told from the signal
    first: Array  # (S, R) int, frequencies from and before which the signal lies: the whole band of white noise
    last: Array  # (S, R)
    variance: Array  # (S, R), relative, of the density where noise is not white


class _Windows(NamedTuple):
    """Averages over windows of W places, and where these show noise."""

    density: Array  # (S, R, W)
    flat: Array  # (S, R, W) bool, as noise of one level is
    signal: Array  # (S, R, W), the most that the signal can have there
    middle: Array  # (S, 1, 1), place of the signal's mean frequency
    length: int  # frequencies of each


def noise_floor(spectrum: Spectrum, present: Array) -> NoiseFloor:
    """Tell the noise at the signal's frequencies from spectra (S, R, F) of the receivers present (S, R) of scenes.

    On either side of the signal, the nearest window is taken that is flat and stronger than the signal can be there:
    of all receivers' densities over their peak, the least is no less than the signal's. Where the noise found so
    contradicts that of the outer half of the band, it replaces it. A receiver too strong for its noise to be seen has
    at most the least density that it has where others show noise. Where nobody's noise is told, and a flat stretch may
    be noise, it is at least that of the outer half of the band.
    """
    xp = array_namespace(spectrum.density)
    present = present & (spectrum.density > 0).any(axis=-1)  # where nothing was recorded, nothing is seen of a signal
    kind, outer = spectrum.density.dtype, spectra.noise_density(spectrum).astype(float)
    spectrum = spectrum._replace(density=spectrum.density.astype(float))  # a divisor of 1e-300 is 0 in single precision
    windows = _windows(spectrum, outer, present)
    places = xp.arange(windows.density.shape[-1])
    noisy = windows.flat & (windows.density > _CONTRAST * windows.signal) & present[..., None]
    noisy &= _inner(spectrum)[windows.length // 2 :][: len(places)]
    below = xp.where(noisy & (places < windows.middle), places, -1).max(axis=-1)
    above = xp.where(noisy & (places > windows.middle), places, len(places)).min(axis=-1)
    nearest = (places == below[..., None]) | (places == above[..., None])
    count = nearest.sum(axis=-1)
    beside = (nearest * (windows.density - windows.signal)).sum(axis=-1) / xp.maximum(count, 1)
    found = count > 0
    ratio = xp.where(found, beside, outer) / xp.maximum(outer, 1e-300)
    differs = found & ((ratio > _DIFFERENCE) | (ratio < 1 / _DIFFERENCE))
    of_scene = differs.sum(axis=1, keepdims=True) * 2 > xp.maximum(found.sum(axis=1, keepdims=True), 1)
    at_most = present & ~found & of_scene
    alike = windows.density > beside[..., None] / _ALIKE
    shown = (noisy & alike & differs[..., None]).any(axis=1, keepdims=True)
    candidates = xp.where(shown, windows.density, xp.inf)
    least, at = candidates.min(axis=-1), candidates.argmin(axis=-1)
    is_flat = xp.take_along_axis(windows.flat, at[..., None], axis=-1)[..., 0]
    undecided = ~found.any(axis=1, keepdims=True)
    plateau = (windows.flat & (windows.density > _PLATEAU * outer[..., None])).any(axis=-1)
    is_white = ~(differs | at_most)
    first = xp.where(below >= 0, below, 0)
    last = xp.where(above < len(places), above + windows.length, len(spectrum.frequency_hz))
    widest = xp.where(differs, first, len(places)).min(axis=1), xp.where(differs, last, 0).max(axis=1)
    first, last = (xp.where(differs, own, edge[:, None]) for own, edge in zip((first, last), widest, strict=True))
    return NoiseFloor(
        xp.where(differs, beside, xp.where(at_most, least, outer)).astype(kind),
        is_white,
        ~(at_most & ~is_flat | undecided & plateau),
        xp.where(is_white, 0, first),
        xp.where(is_white, len(spectrum.frequency_hz), last),
        1 / (xp.maximum(count, 1) * windows.length * spectrum.averages),
    )


def _windows(spectrum: Spectrum, outer: Array, present: Array) -> _Windows:
    """Average spectra (S, R, F) over windows."""
    xp, density = array_namespace(spectrum.density), spectrum.density
    length = max(_LEAST_BINS, density.shape[-1] // _BINS_SHARE)
    mean = _moving_mean(density, length)
    level = xp.log(xp.maximum(density, 1e-300))
    variance = _moving_mean(level**2, length) - _moving_mean(level, length) ** 2
    flat = variance < (1 + _FLAT_SIGMAS * np.sqrt(2 / length)) / spectrum.averages  # of gamma variables' logarithms
    inner = _inner(spectrum)
    excess = xp.where(inner, density - outer[..., None], 0.0).sum(axis=-1) / xp.maximum(outer, 1e-300)
    strongest = xp.where(present, excess, -1.0).argmax(axis=1)[:, None, None]
    shape = xp.where(inner, xp.take_along_axis(density, strongest, axis=1), 0.0)  # (S, 1, F)
    shape = shape / xp.maximum(shape.sum(axis=-1, keepdims=True), 1e-300)
    peak = (shape * density).sum(axis=-1, keepdims=True)  # (S, R, 1)
    of_peak = mean / xp.maximum(peak, 1e-300)
    signal = peak * xp.where(present[..., None], of_peak, xp.inf).min(axis=1, keepdims=True)
    middle = (shape * xp.arange(density.shape[-1])).sum(axis=-1, keepdims=True) - (length - 1) / 2
    return _Windows(mean, flat, signal, middle, length)


def _moving_mean(values: Array, length: int) -> Array:
    """Mean of each stretch of so many of the last axis; in double precision, as peaks stand a billion times higher."""
    xp = array_namespace(values)
    total = values.astype(float).cumsum(axis=-1)
    total = xp.concatenate([xp.zeros_like(total[..., :1]), total], axis=-1)
    return (total[..., length:] - total[..., :-length]) / length


def _inner(spectrum: Spectrum) -> Array:
    """Frequencies at which signals are looked for, (F,) bool."""
    xp = array_namespace(spectrum.frequency_hz)
    return xp.abs(spectrum.frequency_hz) <= xp.abs(spectrum.frequency_hz).max() / 2
