"""Lags at which two long signals may agree: a search in segments of lags and blocks of time, in bounded memory.

Within a block no frequency offset turns the phase far, so that powers of the blocks' correlations add up whatever it
is. That finds a few likely lags without all frequencies of all lags; over all blocks together, with their phases, these
are then compared.

Source: Borre et al., A Software-Defined GPS and Galileo Receiver (2007), section 6.4, parallel code phase search;
sums of powers as Kaplan and Hegarty, Understanding GPS (2006), section 5.8.
"""

from itertools import pairwise

import numpy as np
import scipy.fft

from heimdall_lab.core.arrays import Array, array_namespace, batch_slices, fft_namespace, phasor

NUM_CANDIDATES = 8
_LEAST_TRANSFORM = 2**15  # points, that a segment of lags takes
_BATCH_POINTS = 2**20  # transformed at a time
_MOST_POINTS = 2**26  # transformed for one pair; with more lags fewer blocks are correlated


def likely_lags(received: Array, template: Array, blocks: int, widest: int) -> Array:
    """Lags (C,) int within ± widest at which blocks of a signal (K,) agree best with a template (K,), the best first.

    Lags count how much later the signal is. Of as many stretches of time as the work allows, the block with most energy
    is taken: the transmitter may be silent at times.
    """
    xp, samples = array_namespace(received), len(received) // blocks
    size = scipy.fft.next_fast_len(min(max(_LEAST_TRANSFORM, 4 * samples), samples + 2 * widest + 1))
    per_segment = size - samples + 1
    segments = -(-(2 * widest + 1) // per_segment)
    chosen = _strongest_blocks(received, blocks, max(1, _MOST_POINTS // (segments * size)))
    lags, powers = [], []
    for first in range(-widest, widest + 1, per_segment):
        last = min(first + per_segment - 1, widest)
        power = _summed_power(received, template, samples, chosen, last, size)[: last - first + 1]
        highest = _highest_maxima(power)
        lags.append(last - highest)
        powers.append(power[highest])
    order = xp.argsort(-xp.concatenate(powers), kind="stable")[:NUM_CANDIDATES]
    return xp.concatenate(lags)[order]


def coherent_power(received: Array, template: Array, blocks: int, lags: Array, max_shift: float) -> tuple[Array, Array]:
    """Largest power over all frequency shifts of the cross-ambiguity at lags (...), and at which shift; each (...).

    Shifts are within ± max_shift, in turns of the whole signal, in steps of a half.
    """
    xp, count = array_namespace(received), len(received)
    highest = min(int(np.ceil(2 * max_shift)), blocks - 1)
    highest_first = phasor(xp.asarray(highest / (2 * blocks)), blocks)
    power, shift = xp.empty(lags.shape), xp.empty(lags.shape)
    for place in np.ndindex(lags.shape):
        lag = int(lags[place])
        first, stop = max(0, lag), min(count, count + lag)
        product = xp.zeros(count, dtype=xp.complex64)
        if first < stop:
            xp.multiply(received[first:stop].conj(), template[first - lag : stop - lag], out=product[first:stop])
        sums = product.reshape(blocks, -1).sum(axis=-1) * highest_first
        ambiguity = fft_namespace(sums).fft(sums, 2 * blocks)[: 2 * highest + 1]
        of_shifts = ambiguity.real**2 + ambiguity.imag**2
        best = int(of_shifts.argmax())
        power[place], shift[place] = of_shifts[best], (highest - best) / 2
    return power, shift


def _strongest_blocks(received: Array, blocks: int, most: int) -> Array:
    """Numbers of the blocks with most energy, one of each of as many equal stretches as are allowed."""
    xp = array_namespace(received)
    parts = received.reshape(blocks, -1)
    energy = xp.asarray([float((part.real**2 + part.imag**2).sum()) for part in parts])
    edges = np.linspace(0, blocks, min(blocks, most) + 1).round().astype(int)
    return xp.asarray([first + int(energy[first:stop].argmax()) for first, stop in pairwise(edges.tolist())])


def _summed_power(received: Array, template: Array, samples: int, chosen: Array, last: int, size: int) -> Array:
    """Powers of the correlations of the chosen blocks, summed, at the lags last, last − 1, …; of ``size`` points."""
    xp, fft, count = array_namespace(received), fft_namespace(received), len(template)
    power = xp.zeros(size - samples + 1, dtype=xp.float32)
    for batch in batch_slices(len(chosen), _BATCH_POINTS // size):
        starts = chosen[batch] * samples
        reached = xp.zeros((len(starts), size), dtype=xp.complex64)
        for row, start in enumerate((starts - last).tolist()):
            inside = template[max(start, 0) : max(min(start + size, count), 0)]
            reached[row, max(-start, 0) : max(-start, 0) + len(inside)] = inside
        parts = received[starts[:, None] + xp.arange(samples)]
        product = fft.fft(parts, size).conj() * fft.fft(reached)
        correlation = fft.ifft(product)[:, : len(power)]
        power += (correlation.real**2 + correlation.imag**2).sum(axis=0)
    return power


def _highest_maxima(power: Array) -> Array:
    """Places of the highest local maxima of (L,), the two ends included."""
    xp = array_namespace(power)
    padded = xp.pad(power, 1, constant_values=-1.0)
    places = xp.flatnonzero((power >= padded[:-2]) & (power >= padded[2:]))
    return places[xp.argsort(-power[places], kind="stable")[:NUM_CANDIDATES]]
