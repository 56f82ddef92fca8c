"""The climb from a point of the grid to the peak of a cross-ambiguity nearby, in delay and frequency together."""

import numpy as np

from heimdall_lab.core.arrays import Array, array_namespace, fft_namespace, phasor

_NEWTON_STEPS = 2
_MAX_REFINEMENTS = 4
_TAYLOR_STEPS = 0.05  # of the grid, within which three terms of Taylor's series are exact to 1e-3
_PHASOR_BLOCK = 64  # near the root of the lengths here


def climb(
    signal: Array, template: Array, weight: Array, window: Array, blocks: int, lag: Array, frequency: Array
) -> tuple[Array, Array, Array, Array]:
    """Climb to the peak near a lag and a frequency (S, R).

    Returned are both, the squared coherence, and the squared correlation of the errors of lag and frequency.
    Signals (S, R, K) are in time, templates (S, K) and weights (S, K) over frequency, with windows (S, R, K) in time.
    """
    xp, count, root = array_namespace(signal), signal.shape[-1], weight**0.5
    fft = fft_namespace(signal)
    lag, frequency, *_ = _refine_peak(signal, template * weight, window, blocks, lag, frequency)
    # Now that the frequency is known, both signals pass the same filter: each takes its half of the weight.
    shifted = signal * phasor(-frequency / count, count, block=_PHASOR_BLOCK)
    signal, template = fft.ifft(fft.fft(shifted) * root[:, None]), template * root
    residual, coherence, coupling = xp.zeros((3, *lag.shape))
    far = xp.arange(len(lag))  # scenes of which some lag is too far from the peak for Taylor's series
    for _ in range(_MAX_REFINEMENTS):
        start, rows = lag[far], slice(None) if len(far) == len(lag) else far  # a slice copies nothing
        lag[far], residual[far], coherence[far], coupling[far] = _refine_peak(
            signal[rows], template[rows], window[rows], blocks, start, residual[far]
        )
        far = far[(abs(lag[far] - start) > _TAYLOR_STEPS).any(axis=-1)]
        if not len(far):
            break
    return lag, frequency + residual, coherence, coupling


def overlap_window(lag: Array, duration: float, fade: float, count: int) -> Array:
    """Fade a receiver's window to zero where the delayed template does not reach: (S, R, count) float32.

    Without it, the overlap shrinks as the lag grows, and pulls the peak towards lag 0 by 1 / (4π² β² T).
    """
    xp = array_namespace(lag)
    fade = min(fade, duration / 4)
    time = xp.arange(count, dtype=xp.float32)
    first = (xp.maximum(lag, 0)[..., None] + fade / 2).astype(xp.float32)
    last = (duration + xp.minimum(lag, 0)[..., None] - fade / 2).astype(xp.float32)
    edge = xp.minimum(time - first, last - time) * xp.float32(np.pi / 2 / fade)
    return xp.sin(edge.clip(0, np.pi / 2)) ** 2


def _refine_peak(
    signal: Array, template: Array, window: Array, blocks: int, lag: Array, frequency: Array
) -> tuple[Array, Array, Array, Array]:
    """Climb from lag and frequency (S, R) to the largest |A|² / E nearby.

    Returned are lag, frequency, squared coherence and the squared correlation of the errors of lag and frequency.
    A is the cross-ambiguity of a signal (S, R, K) in time and a template (S, K) in ascending frequency, E the energy
    that the window (S, R, K) leaves of the delayed template: without it, levels that differ between the two fades of
    the window would pull the peak. Taylor's series of the template stands in for delays other than the given one. Lags
    are in steps and frequencies in bins.
    """
    xp, count = array_namespace(signal), template.shape[-1]
    slope = (-2j * np.pi / count * (xp.arange(count) - count // 2)).astype(xp.complex64)  # of exp(−2πj f τ)
    delay_ramp = phasor(-lag / count, count, start=-(count // 2), block=_PHASOR_BLOCK)
    windowed = signal.conj() * window
    in_blocks = (*lag.shape, blocks, count // blocks)
    by_order = []
    for order in range(3):  # one after the other: each is as large as the signal
        steep = template * slope**order
        ramped = delay_ramp * steep[:, None]
        del steep
        copy = fft_namespace(signal).ifft(ramped)
        del ramped
        by_order.append(_dot(windowed.reshape(in_blocks), copy.reshape(in_blocks)))
        if order == 0:
            windowed_copy = copy.conj() * window
            energy = _dot(windowed_copy, copy).real
        elif order == 1:
            growth = _dot(windowed_copy, copy).real
            del windowed_copy
    sums = xp.stack(by_order, axis=2)
    step, frequency, value, coupling = _newton_steps(sums.astype(complex), growth / energy, frequency)
    return lag + step, frequency, abs(value) ** 2 / (energy * _dot(windowed, signal).real), coupling


def _newton_steps(sums: Array, growth: Array, frequency: Array) -> tuple[Array, Array, Array, Array]:
    """Take Newton steps towards the largest ln |A|² / E.

    Returned are the step of the lag, the frequency, the conjugate A, and the squared correlation of the errors of lag
    and frequency by the curvature, each (S, R).

    A is the cross-ambiguity. Its sums (S, R, 3, B), over B blocks, are of the conjugate signal and the template, its
    first and its second derivative by the lag. ``growth`` is half the derivative of ln E by the lag; the frequency is
    in turns in all blocks together.
    """
    xp, blocks = array_namespace(sums), sums.shape[-1]
    # Time counted from the middle of the signal keeps delay and frequency nearly uncoupled.
    phase = 2j * np.pi * ((xp.arange(blocks) + 0.5) / blocks - 0.5)
    powers = phase[:, None] ** xp.arange(3)
    lag = xp.zeros_like(frequency)
    for step in range(_NEWTON_STEPS + 1):
        # Partial derivatives (S, R, order in lag, in frequency).
        partial = (sums * xp.exp(phase * frequency[..., None])[:, :, None]) @ powers
        at_lag = partial[..., 0, :] + lag[..., None] * (partial[..., 1, :] + lag[..., None] / 2 * partial[..., 2, :])
        value = at_lag[..., 0]
        by_lag, by_both = (partial[..., 1, order] + lag * partial[..., 2, order] for order in range(2))
        log_lag, log_frequency = by_lag / value, at_lag[..., 1] / value  # derivatives of ln A
        lag_lag = (partial[..., 2, 0] / value - log_lag**2).real
        frequency_frequency = (at_lag[..., 2] / value - log_frequency**2).real
        both = (by_both / value - log_lag * log_frequency).real
        up_lag, up_frequency = log_lag.real - growth, log_frequency.real
        determinant = lag_lag * frequency_frequency - both**2
        concave = (lag_lag < 0) & (determinant > 0)
        if step == _NEWTON_STEPS:
            break
        lag_step = xp.where(concave, (both * up_frequency - frequency_frequency * up_lag) / determinant, 0.0)
        frequency_step = xp.where(concave, (both * up_lag - lag_lag * up_frequency) / determinant, 0.0)
        lag, frequency = (lag + lag_step).clip(-0.5, 0.5), frequency + frequency_step.clip(-0.5, 0.5)
    return lag, frequency, value, xp.where(concave, both**2 / (lag_lag * frequency_frequency), 0.0)


def _dot(first: Array, second: Array) -> Array:
    """Sum of products over the last axis."""
    return (first[..., None, :] @ second[..., :, None])[..., 0, 0]
