"""Time and frequency differences of pairs of signals: the peak of their cross-ambiguity."""

from typing import NamedTuple

import numpy as np
import scipy.fft
import scipy.signal

from heimdall_lab.arrays import Array, phasor


class AmbiguityPeak(NamedTuple):
    """Where the cross-ambiguity of each receiver with its reference is largest, each (S, R).

    Attributes
    ----------
    delay_samples
        How much later the receiver sees the waveform; NaN where no peak lies within the delays allowed.
    frequency_cycles
        How much higher the receiver sees it, in cycles per sample.
    coherence
        Squared magnitude of the peak over the product of the energies, 0 … 1 (Cauchy-Schwarz).
    """

    delay_samples: Array
    frequency_cycles: Array
    coherence: Array


def ambiguity_peak(
    iq: np.ndarray,
    reference: np.ndarray,
    weight: np.ndarray,
    *,
    max_delay_samples: np.ndarray,
    max_frequency_cycles: float,
) -> AmbiguityPeak:
    """Find the delay and frequency offset of each receiver against its scene's reference.

    The peak of |Σ_f X_i(f + ν) W(f) X_ref*(f) exp(2πj f τ)|² is searched on a grid (two samples by half the inverse
    duration) inside the allowed delays and frequencies and then refined by Newton steps, which makes it the maximum
    likelihood estimate where the reference is strong. Only the inner half of the band is used.

    Parameters
    ----------
    iq : (S, R, N) complex64
    reference : (S,) int
        Index of each scene's reference receiver.
    weight : (S, F) float
        Spectral weight on F equal frequency steps that span the band, ascending from −1/2 cycle per sample.
    max_delay_samples : (S, R)
        Largest delay against the reference that is searched.
    max_frequency_cycles : float
        Largest frequency offset against the reference that is searched, cycles per sample.

    Source: Stein, "Algorithms for ambiguity function processing", IEEE Trans. ASSP 29 (1981).
    """
    num_time = iq.shape[-1]
    length = 4 * scipy.fft.next_fast_len(-(-num_time // 2))  # at least twice the window, so that lags do not wrap
    shifts = int(np.ceil(max_frequency_cycles * length))
    half = length // 4
    bins = np.arange(-half, half)

    spectrum = np.fft.fftshift(np.fft.fft(iq, n=length, axis=-1), axes=-1)
    centre = length // 2
    received = spectrum[..., centre - half - shifts : centre + half + shifts]  # (S, R, 2 half + 2 shifts)
    weights = weight[:, ((bins / length + 0.5) * weight.shape[-1]).astype(int)]  # (S, 2 half)
    root = np.sqrt(weights).astype(np.float32)[:, None]  # each of the two signals takes its half of the weight
    strongest = np.take_along_axis(received, reference[:, None, None], axis=1)[:, 0, shifts : shifts + 2 * half]
    template = strongest * root[:, 0]

    lag, shift = _grid_peak(received, template * root[:, 0], max_delay_samples / 2)
    aligned = np.take_along_axis(received, (shift + shifts)[..., None] + np.arange(2 * half), axis=-1) * root
    signal = np.fft.ifft(np.fft.ifftshift(aligned, axes=-1), axis=-1)  # (S, R, 2 half), two samples apart
    lag, residual, coherence = _newton_peak(signal, template, lag, _overlap_window(lag, num_time / 2, 2 * half))
    inside = np.abs(2 * lag) <= max_delay_samples  # the flank of a peak outside of what is possible is no peak
    return AmbiguityPeak(np.where(inside, 2 * lag, np.nan), (shift + residual) / length, coherence)


def cross_correlation(
    pair: np.ndarray, fdoa_hz: float, weight: np.ndarray, rate_hz: float, lag_s: np.ndarray
) -> np.ndarray:
    """Magnitude of the weighted cross-correlation at equally spaced lags (L,), over the root of both energies.

    Parameters
    ----------
    pair : (2, N)
        Reference and receiver.
    weight : (F,)
        Spectral weight on F equal frequency steps that span the band, ascending.

    Source: Knapp and Carter, IEEE Trans. ASSP 24 (1976), eq. (6), evaluated by the chirp z transform.
    """
    num_time = pair.shape[-1]
    length = scipy.fft.next_fast_len(2 * num_time)
    turn = np.exp(-2j * np.pi * fdoa_hz / rate_hz * np.arange(num_time))
    spectrum = np.fft.fftshift(np.fft.fft(pair * np.stack([np.ones_like(turn), turn]), length, axis=-1), axes=-1)
    frequency = np.fft.fftshift(np.fft.fftfreq(length))
    band = np.abs(frequency) < 0.25  # the inner half, where the estimator looks
    share = weight[((frequency[band] + 0.5) * len(weight)).astype(int)]
    reference, received = spectrum[:, band]
    energy = np.sqrt((share * np.abs(reference) ** 2).sum() * (share * np.abs(received) ** 2).sum())
    step_hz = rate_hz / length
    correlation = scipy.signal.czt(
        share * received * reference.conj(),
        m=len(lag_s),
        w=np.exp(2j * np.pi * step_hz * (lag_s[1] - lag_s[0])),
        a=np.exp(-2j * np.pi * step_hz * lag_s[0]),
    )
    return np.abs(correlation) / energy if energy > 0 else np.zeros(len(lag_s))


def _grid_peak(received: np.ndarray, template: np.ndarray, max_lag: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the lag (in steps of the template) and the frequency shift (in bins) of the largest grid value."""
    bins = template.shape[-1]
    shifts = (received.shape[-1] - bins) // 2
    widest = min(int(np.ceil(max_lag.max())), bins // 2 - 1)
    lags = np.arange(-widest, widest + 1)
    allowed = np.abs(lags) <= np.ceil(max_lag)[..., None]  # (S, R, L)
    best = np.full(max_lag.shape, -1.0)
    best_lag, best_shift = np.zeros(max_lag.shape), np.zeros(max_lag.shape, dtype=int)
    for shift in range(-shifts, shifts + 1):
        product = received[..., shift + shifts : shift + shifts + bins] * template.conj()[:, None]
        # The bins start at the lowest frequency, which only turns the sign of every other lag.
        surface = np.where(allowed, np.abs(np.fft.ifft(product, axis=-1)[..., lags]), -1.0)
        at = surface.argmax(axis=-1)
        value = np.take_along_axis(surface, at[..., None], axis=-1)[..., 0]
        better = value > best
        best[better], best_lag[better], best_shift[better] = value[better], lags[at][better], shift
    return best_lag, best_shift


def _overlap_window(lag: np.ndarray, duration: float, count: int) -> np.ndarray:
    """Fade a receiver's window to zero where the delayed template does not reach: (S, R, count) float32.

    Without it, the overlap shrinks as the lag grows, and pulls the peak towards lag 0 by 1 / (4π² β² T).
    """
    margin = min(16.0, duration / 8)
    time = np.arange(count)
    first = np.maximum(lag, 0)[..., None] + margin
    last = duration + np.minimum(lag, 0)[..., None] - margin
    edge = np.minimum(time - first, last - time) / (2 * margin)
    return (np.sin(np.pi / 2 * edge.clip(0, 1)) ** 2).astype(np.float32)


def _newton_peak(
    signal: np.ndarray, template: np.ndarray, lag: np.ndarray, window: np.ndarray, steps: int = 5
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Climb from grid points to the maximum of the squared cross-ambiguity.

    Parameters
    ----------
    signal : (S, R, K) complex64
        In time, shifted by the frequency of the grid point.
    template : (S, K) complex64
        In frequency, ascending.
    lag : (S, R)
        Lag of the grid point, in steps of the K-point time grid.
    window : (S, R, K) float32
        Weight of each time.

    Returns
    -------
    lag, frequency (cycles per K steps) and squared coherence of the peak, each (S, R)
    """
    num_bins = template.shape[-1]
    slope = -2j * np.pi * np.fft.fftshift(np.fft.fftfreq(num_bins)).astype(np.complex64)  # d/dτ of exp(−2πj f τ)
    time = np.arange(num_bins)
    # Time counted from the middle of the signal keeps delay and frequency nearly uncoupled.
    turn = (-2j * np.pi * (time - num_bins / 4) / num_bins).astype(np.complex64)
    frequency = np.zeros_like(lag)
    for step in range(steps + 1):
        delayed = template[:, None] * phasor(-lag / num_bins, num_bins, start=-(num_bins // 2))
        conjugates = [
            np.fft.ifft(np.fft.ifftshift(delayed * slope**order, axes=-1), axis=-1).conj() for order in range(3)
        ]
        turned = window * signal * phasor(-frequency / num_bins, num_bins)
        value, by_lag, by_lag_lag = ((turned * c).sum(axis=-1) for c in conjugates)
        if step == steps:
            break
        by_frequency = (turned * turn * conjugates[0]).sum(axis=-1)
        by_frequency_frequency = (turned * turn**2 * conjugates[0]).sum(axis=-1)
        by_both = (turned * turn * conjugates[1]).sum(axis=-1)

        def second(first: np.ndarray, other: np.ndarray, mixed: np.ndarray, value: np.ndarray = value) -> np.ndarray:
            return (first.conj() * other + value.conj() * mixed).real

        gradient = (value.conj() * by_lag).real, (value.conj() * by_frequency).real
        lag_lag = second(by_lag, by_lag, by_lag_lag)
        frequency_frequency = second(by_frequency, by_frequency, by_frequency_frequency)
        both = second(by_lag, by_frequency, by_both)
        determinant = lag_lag * frequency_frequency - both**2
        concave = (lag_lag < 0) & (determinant > 0)
        safe = np.where(concave, determinant, 1.0)
        lag_step = np.where(concave, (both * gradient[1] - frequency_frequency * gradient[0]) / safe, 0.0)
        frequency_step = np.where(concave, (both * gradient[0] - lag_lag * gradient[1]) / safe, 0.0)
        lag, frequency = lag + lag_step.clip(-0.5, 0.5), frequency + frequency_step.clip(-0.5, 0.5)
    energy = (window * np.abs(signal) ** 2).sum(axis=-1) * (window * np.abs(conjugates[0]) ** 2).sum(axis=-1)
    with np.errstate(invalid="ignore"):  # a receiver without samples has no energy, and its coherence is NaN
        return lag, frequency, np.abs(value) ** 2 / energy
