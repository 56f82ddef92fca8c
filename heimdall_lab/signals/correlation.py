"""Time and frequency differences of pairs of signals: the peak of their cross-ambiguity."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.fft

from heimdall_lab.core.arrays import Array, array_namespace, batch_slices, fft_namespace, phasor
from heimdall_lab.signals import ambiguity, lag_search
from heimdall_lab.signals.peaks import climb, overlap_window

_LEAST_BLOCKS = 32
_FADE_SAMPLES = 64  # samples at either end of an overlap
_BATCH_POINTS = 2**17  # in time, of all receivers, computed at a time: caches
_BATCH_GRID_POINTS = 2**19
_MOST_GRID_POINTS = 2**24  # of one scene; a larger grid is searched in segments


class AmbiguityPeak(NamedTuple):
    """Where the cross-ambiguity of each receiver with its reference is largest, each (S, R)."""

    delay_samples: Array  # how much later the receiver sees the waveform; NaN without a peak within the delays allowed
    frequency_cycles: Array  # how much higher the receiver sees it, in cycles per sample
    coherence: Array  # squared peak over the product of the energies, 0 … 1 (Cauchy-Schwarz)
    efficiency: Array  # share of the delay's information that fades and the unknown frequency leave, 0 … 1
    rival_samples: Array  # another delay that the noise does not tell from this one; NaN where there is none


@np.errstate(divide="ignore", invalid="ignore")  # what has no energy has no peak, and becomes NaN
def ambiguity_peak(
    iq: Array,
    reference: Array,
    weight: Array,
    *,
    max_delay_samples: Array,
    max_frequency_cycles: float,
) -> AmbiguityPeak:
    """Find the delay and frequency offset of each receiver of iq (S, R, N) against its scene's reference (S,).

    The peak of |Σ_f X_i(f + ν) W(f) X_ref*(f) exp(2πj f τ)|² is searched on a grid inside the allowed delays (S, R),
    and frequencies in cycles per sample, and then refined by Newton steps, which makes it the maximum likelihood
    estimate where the reference is strong. The spectral weight (S, F) is on F equal frequency steps that span the band,
    ascending from −1/2 cycle per sample. Only the band between its outermost values of at least half the largest one is
    used, at a rate of its own.

    Source: Stein, "Algorithms for ambiguity function processing", IEEE Trans. ASSP 29 (1981).
    """
    xp = array_namespace(iq)
    plan = _plan(weight, iq.shape[-1], max_frequency_cycles)
    delay, frequency, coherence, efficiency, rival = xp.empty((5, *iq.shape[:2]))
    in_segments = plan.needs_segments(max_delay_samples)
    for kind in xp.unique(2 * plan.num_bins + in_segments).tolist():
        count, by_segments = kind // 2, bool(kind % 2)
        scenes = xp.flatnonzero((plan.num_bins == count) & (in_segments == by_segments))
        for batch in batch_slices(len(scenes), _BATCH_POINTS // (iq.shape[1] * count)):
            rows = scenes[batch]
            bins = plan.bins(rows, count)
            received = _in_band(iq[rows], bins, plan.length)
            lag, frequency[rows], coherence[rows], efficiency[rows], rival_lag = _band_peak(
                received,
                xp.take_along_axis(received, reference[rows, None, None], axis=1)[:, 0],
                _weight_of_bins(weight[rows], bins / plan.length),
                plan,
                max_delay_samples[rows] * count / plan.length,
                by_segments=by_segments,
            )
            delay[rows], rival[rows] = (lags * plan.length / count for lags in (lag, rival_lag))
    rival[xp.arange(len(rival)), reference] = xp.nan  # a signal agrees with itself at any period
    peak = AmbiguityPeak(delay, frequency / plan.length, coherence, efficiency, rival)
    return _within(peak, max_delay_samples)


@np.errstate(divide="ignore", invalid="ignore")
def ambiguity_peak_one_by_one(
    voltage_of: Callable[[int], Array],
    reference: int,
    weight: Array,
    *,
    max_delay_samples: Array,
    max_frequency_cycles: float,
) -> AmbiguityPeak:
    """Find what `ambiguity_peak` finds in one scene, (1, R), with the signals of two receivers in memory at a time.

    ``voltage_of`` gives each receiver's signal (N,); the weight is (F,), the delays allowed are (R,).
    """
    template_voltage = voltage_of(reference)
    xp, receivers = array_namespace(template_voltage), len(max_delay_samples)
    plan = _plan(weight[None], len(template_voltage), max_frequency_cycles)
    count, first = int(plan.num_bins[0]), int(plan.first_bin[0])
    weight_of_bins = _weight_of_bins(weight[None], (first + xp.arange(count))[None] / plan.length)
    template = _band_from(template_voltage, first, count, plan.length)
    del template_voltage
    in_segments = plan.needs_segments(max_delay_samples[None])
    # As every signal agrees with itself: lag, frequency, coherence, efficiency and no rival.
    found = xp.tile(xp.asarray([0.0, 0.0, 1.0, 1.0, xp.nan])[:, None, None], (1, 1, receivers))
    for receiver in set(range(receivers)) - {reference}:
        of_receiver = _band_peak(
            _band_from(voltage_of(receiver), first, count, plan.length)[:, None],
            template,
            weight_of_bins,
            plan,
            max_delay_samples[None, receiver : receiver + 1] * count / plan.length,
            by_segments=bool(in_segments[0]),
        )
        found[:, :, receiver] = xp.stack(of_receiver)[..., 0]
    lag, frequency, coherence, efficiency, rival = found
    in_samples = plan.length / count
    peak = AmbiguityPeak(lag * in_samples, frequency / plan.length, coherence, efficiency, rival * in_samples)
    return _within(peak, max_delay_samples)


def _within(peak: AmbiguityPeak, max_delay_samples: Array) -> AmbiguityPeak:
    """Leave out the flanks of peaks beyond what is possible, which are none, and receivers without samples."""
    xp, delay = array_namespace(peak.delay_samples), peak.delay_samples
    found = (abs(delay) <= max_delay_samples) & (peak.coherence > 0)
    return peak._replace(delay_samples=xp.where(found, delay, xp.nan))


class _Plan(NamedTuple):
    """How the signals of S scenes are cut into bands and blocks."""

    num_time: int  # samples of a window
    length: int  # of its transform
    blocks: int  # of time, in each of which no frequency offset turns far
    num_bins: Array  # (S,) of the transform, that a scene's band spans
    first_bin: Array  # (S,)
    max_shift: float  # bins

    def bins(self, rows: Array, count: int) -> Array:
        """Bins (S, K), ascending, of scenes whose bands have K of them."""
        return self.first_bin[rows, None] + array_namespace(rows).arange(count)

    def needs_segments(self, max_delay_samples: Array) -> Array:
        """Whether the grid of all lags and frequencies would be too large, (S,) bool; delays (S, R)."""
        xp, receivers = array_namespace(max_delay_samples), max_delay_samples.shape[1]
        widest = xp.minimum(max_delay_samples.max(axis=1) * self.num_bins / self.length, self.num_bins)
        return receivers * 2 * (self.num_bins + 2 * self.blocks * widest) > _MOST_GRID_POINTS


def _plan(weight: Array, num_time: int, max_frequency_cycles: float) -> _Plan:
    xp, length = array_namespace(weight), scipy.fft.next_fast_len(num_time)
    # In a block, the largest frequency offset turns the phase by a quarter, which takes 0.9 dB off the block's sum.
    blocks = scipy.fft.next_fast_len(max(_LEAST_BLOCKS, int(np.ceil(4 * max_frequency_cycles * length))))
    centre, width = _occupied_band(weight)
    # Samples of a block: 2^k or 3 · 2^k, so that many scenes have the same; it does not depend on other scenes.
    needed = xp.maximum((width + 2 * max_frequency_cycles) * length / blocks, 2)
    octave = 2 ** xp.ceil(xp.log2(needed))
    num_bins = blocks * xp.where(needed <= 0.75 * octave, 0.75 * octave, octave).astype(int)
    first_bin = xp.rint(centre * length).astype(int) - num_bins // 2
    return _Plan(num_time, length, blocks, num_bins, first_bin, max_frequency_cycles * length)


def _in_band(iq: Array, bins: Array, length: int) -> Array:
    """Spectra (S, R, K) of signals (S, R, N) at the bins (S, K) of their transform."""
    spectrum = fft_namespace(iq).fft(iq, n=length, axis=-1)
    return array_namespace(iq).take_along_axis(spectrum, bins[:, None] % length, axis=-1)


def _band_from(voltage: Array, first: int, count: int, length: int) -> Array:
    """Spectrum (1, K) of one signal (N,) at K bins of its transform from a first one on, without a list of them."""
    spectrum = fft_namespace(voltage).fft(voltage, n=length)
    first %= length
    return array_namespace(voltage).concatenate(
        [spectrum[first : first + count], spectrum[: max(0, first + count - length)]]
    )[None]


def cross_correlation(
    pair: np.ndarray, fdoa_hz: float, weight: np.ndarray, rate_hz: float, lag_s: np.ndarray
) -> np.ndarray:
    """Magnitude of the weighted cross-correlation at equally spaced lags (L,), over the root of both energies.

    The pair (2, N) is reference and receiver; the weight (F,) is on F equal frequency steps that span the band,
    ascending.

    Source: Knapp and Carter, IEEE Trans. ASSP 24 (1976), eq. (6), evaluated by the chirp z transform.
    """
    num_time = pair.shape[-1]
    length = scipy.fft.next_fast_len(2 * num_time)
    frequency_shift = np.exp(-2j * np.pi * fdoa_hz / rate_hz * np.arange(num_time))
    spectrum = np.fft.fftshift(
        np.fft.fft(pair * np.stack([np.ones_like(frequency_shift), frequency_shift]), length, axis=-1), axes=-1
    )
    frequency = np.fft.fftshift(np.fft.fftfreq(length))
    band = np.abs(frequency) < 0.25  # the inner half, which the estimator uses
    share = weight[((frequency[band] + 0.5) * len(weight)).astype(int)]
    reference, received = spectrum[:, band]
    energy = np.sqrt((share * np.abs(reference) ** 2).sum() * (share * np.abs(received) ** 2).sum())
    step_hz = rate_hz / length
    # SciPy loads its folder signal here, not at every start of this package.
    correlation = scipy.signal.czt(
        share * received * reference.conj(),
        m=len(lag_s),
        w=np.exp(2j * np.pi * step_hz * (lag_s[1] - lag_s[0])),
        a=np.exp(-2j * np.pi * step_hz * lag_s[0]),
    )
    return np.abs(correlation) / energy if energy > 0 else np.zeros(len(lag_s))


def _occupied_band(weight: Array) -> tuple[Array, Array]:
    """Centre and width in cycles per sample, each (S,), between the outermost weights of at least half the largest one.

    Beyond it the signal is weaker than the noise, or single frequencies of noise stand out.
    """
    xp, num_weights = array_namespace(weight), weight.shape[-1]
    largest = weight.max(axis=-1)
    strong = weight >= largest[:, None] / 2
    first, last = strong.argmax(axis=-1), num_weights - 1 - strong[:, ::-1].argmax(axis=-1)
    width = xp.where(largest > 0, (last - first + 1) / num_weights, 0.0)
    return (first + last) / (2 * num_weights) - 0.5, width


def _weight_of_bins(weight: Array, cycles: Array) -> Array:
    """Weights (S, K) float32 at frequencies (S, K) in cycles per sample, 0 beyond half the sample rate."""
    xp, num_weights = array_namespace(weight), weight.shape[-1]
    index = xp.rint((cycles + 0.5) * num_weights).astype(int).clip(0, num_weights - 1)
    return xp.where(abs(cycles) < 0.5, xp.take_along_axis(weight, index, axis=-1), 0).astype(xp.float32)


def _band_peak(
    received: Array, template: Array, weight: Array, plan: _Plan, max_lag: Array, *, by_segments: bool
) -> tuple[Array, ...]:
    """Find lag, frequency, squared coherence, efficiency and rival lag, each (S, R), of scenes with equally wide bands.

    Given are spectra (S, R, K) and that of the reference (S, K) over the band, ascending, with weights (S, K).
    Frequencies count in these bins, and times in steps of the grid of K points that they transform to: ``max_lag``
    (S, R).
    """
    xp, count = array_namespace(received), received.shape[-1]
    fft, blocks = fft_namespace(received), plan.blocks
    duration, fade = (samples * count / plan.length for samples in (plan.num_time, _FADE_SAMPLES))
    # The bins stay in ascending order: this turns all signals in time alike, which their products do not show.
    template = template / xp.maximum(abs(template).max(axis=-1, keepdims=True), 1e-30)  # its squares fit into float32
    signal = fft.ifft(received)
    del received  # where signals are long, each copy counts
    search = _peaks_by_segments if by_segments else _grid_peaks
    grid = search(signal, fft.ifft(template * weight), blocks, max_lag, plan.max_shift, duration)

    def climbed_from(rows: Array | slice, lag: Array, frequency: Array) -> tuple[Array, Array, Array, Array]:
        window = overlap_window(lag, duration, fade, count)
        *found, coupling = climb(signal[rows], template[rows], weight[rows], window, blocks, lag, frequency)
        kept = window.sum(axis=-1) ** 2 / ((window**2).sum(axis=-1) * duration)
        return *found, kept * (1 - coupling)

    peak = climbed_from(slice(None), grid.lag, grid.frequency)
    rival = xp.full(max_lag.shape, xp.nan)
    rows = xp.flatnonzero(grid.has_rival.any(axis=(1, 2)))
    if len(rows):
        others = range(grid.has_rival.shape[-1])
        each = [climbed_from(rows, grid.rival_lag[rows, :, k], grid.rival_frequency[rows, :, k]) for k in others]
        # (4, S, R, K + 1)
        climbed = xp.stack([xp.stack(found) for found in [tuple(part[rows] for part in peak), *each]], axis=-1)
        within = grid.has_rival[rows] & (abs(climbed[0, ..., 1:]) <= max_lag[rows, :, None])
        within = xp.concatenate([xp.ones_like(within[..., :1]), within], axis=-1)
        samples = weight[rows].mean(axis=-1)[:, None, None] * xp.maximum(duration - abs(climbed[0]), 0.0)
        chosen, nearest = ambiguity.peak_and_rival(climbed[2], within, samples)
        for part, values in zip(peak, climbed, strict=True):
            part[rows] = xp.take_along_axis(values, chosen[..., None], axis=-1)[..., 0]
        other_lag = xp.take_along_axis(climbed[0], nearest.clip(0)[..., None], axis=-1)[..., 0]
        rival[rows] = xp.where(nearest >= 0, other_lag, xp.nan)
    return (*peak, rival)


class _GridPeaks(NamedTuple):
    """Peaks of the cross-ambiguity on a grid, of S scenes and R receivers."""

    lag: Array  # (S, R), of the largest, in steps of the grid
    frequency: Array  # (S, R) bins
    rival_lag: Array  # (S, R, K), of others nearly as high
    rival_frequency: Array  # (S, R, K)
    has_rival: Array  # (S, R, K) bool, whether they are any


def _grid_peaks(
    received: Array, template: Array, blocks: int, max_lag: Array, max_shift: float, duration: float
) -> _GridPeaks:
    """Find the lag, interpolated, and the frequency of the largest cross-ambiguity on a grid of one step by half a bin.

    For each lag the product of receiver (S, R, K) and template (S, K), both in time, is summed over blocks, and the
    Fourier transform of the sums has all frequencies.
    """
    xp = array_namespace(received)
    fft, (num_scenes, num_receivers, count) = fft_namespace(received), received.shape
    samples = count // blocks
    widest = min(int(np.ceil(max_lag.max())), count) + 1  # one more, to interpolate
    highest = min(int(np.ceil(2 * max_shift)), blocks - 1)
    num_lags, num_shifts = 2 * widest + 1, 2 * highest + 1
    size = scipy.fft.next_fast_len(samples + 2 * widest)
    padded = xp.pad(template, ((0, 0), (widest, widest)))
    template_blocks = xp.lib.stride_tricks.sliding_window_view(padded, samples + 2 * widest, axis=-1)[:, ::samples]
    frequency_shift = phasor(xp.asarray(highest / (2 * blocks)), blocks)  # puts the highest frequency first
    allowed = abs(xp.arange(1 - widest, widest)) <= xp.ceil(max_lag)[..., None]
    overlap = 1 - abs(xp.arange(num_lags) - widest) / duration
    lag, half_bin = xp.empty(max_lag.shape), xp.empty(max_lag.shape, dtype=int)
    others, other_bin = xp.empty((2, *max_lag.shape, ambiguity.NUM_CANDIDATES), dtype=int)
    valid = xp.empty(others.shape, dtype=bool)
    for rows in batch_slices(num_scenes, _BATCH_GRID_POINTS // (num_receivers * 2 * blocks * size)):
        received_fft = fft.fft(received[rows].reshape(-1, num_receivers, blocks, samples), size)
        template_fft = fft.fft(template_blocks[rows], size) * frequency_shift[:, None]
        # Conjugate (S, R, blocks, lags), last lag first.
        sums = fft.ifft(received_fft.conj() * template_fft[:, None])[..., :num_lags]
        surface = fft.fft(sums, 2 * blocks, axis=-2)[..., :num_shifts, :]
        power = surface.real**2 + surface.imag**2
        level = xp.log(power.max(axis=-2))
        column, lag[rows] = _ridge_peak(level, allowed[rows])
        scene, receiver = xp.arange(len(power))[:, None], xp.arange(num_receivers)
        half_bin[rows] = power[scene, receiver, :, column].argmax(axis=-1)
        others[rows], valid[rows] = ambiguity.candidate_columns(level, allowed[rows], column, overlap)
        at_others = power[scene[..., None], receiver[:, None], :, others[rows]]
        other_bin[rows] = at_others.argmax(axis=-1)
    return _GridPeaks(widest - lag, (highest - half_bin) / 2, widest - others, (highest - other_bin) / 2, valid)


def _peaks_by_segments(
    received: Array, template: Array, blocks: int, max_lag: Array, max_shift: float, duration: float
) -> _GridPeaks:
    """Find what `_grid_peaks` finds, in memory that grows neither with the lags nor with the frequencies."""
    xp = array_namespace(received)
    lag, frequency = xp.empty((2, *max_lag.shape))
    other_lag, other_frequency = xp.zeros((2, *max_lag.shape, lag_search.NUM_CANDIDATES))
    has_rival = xp.zeros(other_lag.shape, dtype=bool)
    for place in np.ndindex(max_lag.shape):
        signals = received[place], template[place[0]]
        widest = min(int(np.ceil(max_lag[place])), received.shape[-1] - 1)
        middles = lag_search.likely_lags(*signals, blocks, widest)
        around = middles[:, None] + xp.arange(-2, 3)  # (C, 5)
        power, shift = lag_search.coherent_power(*signals, blocks, around, max_shift)
        level = xp.log(xp.maximum(power, 1e-30))
        column, at = _ridge_peak(level, abs(around[:, 1:-1]) <= widest)
        every = xp.arange(len(level))
        height, lags, shifts = level[every, column], around[:, 0] + at, shift[every, column]
        best = int(height.argmax())
        lag[place], frequency[place] = lags[best], shifts[best]
        other_lag[place][every], other_frequency[place][every] = lags, shifts
        has_rival[place][every] = ambiguity.may_be_rivals(height, lags, best, duration)
    return _GridPeaks(lag, frequency, other_lag, other_frequency, has_rival)


def _ridge_peak(level: Array, allowed: Array) -> tuple[Array, Array]:
    """Find the largest of the parabolas through three levels each: index of its middle, and its vertex, each (S, R).

    Levels (S, R, L) are logarithmic; middles are ``allowed`` (S, R, L − 2) or not. Signals that nearly repeat have
    peaks of nearly equal heights, which a grid alone would take for one another.
    """
    xp = array_namespace(level)
    before, at, after = level[..., :-2], level[..., 1:-1], level[..., 2:]
    bend = 2 * at - before - after
    vertex = xp.where(bend > 0, (after - before) / (2 * bend), 0).clip(-0.5, 0.5)
    height = xp.where(allowed, at + (after - before) * vertex / 4, -xp.inf)
    best = height.argmax(axis=-1)
    return best + 1, best + 1 + xp.take_along_axis(vertex, best[..., None], axis=-1)[..., 0]
