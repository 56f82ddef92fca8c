"""Cross-correlations of all pairs of receivers, from which the likelihood of every position is interpolated."""

import numpy as np
import scipy.fft
import xarray as xr

from heimdall_lab.core import geodesy
from heimdall_lab.core.arrays import Array, phasor
from heimdall_lab.core.interpolation import TAPS
from heimdall_lab.core.units import SPEED_OF_LIGHT
from heimdall_lab.localization import bounds
from heimdall_lab.localization.dpd.whitening import WhitenedSignals, band_spectrum
from heimdall_lab.localization.observations import Observations

_FADE = 64  # samples at either end of a window, in which it rises and falls
_LEAST_SIGMA_S, _MOST_SIGMA_S = 1e-9, 1.0  # of clocks that are called perfect, and of unknown ones


def correlate_pairs(observed: Observations, batch: xr.Dataset, signals: WhitenedSignals, frequency_hz: Array) -> Array:
    """Make the `correlation_table` of a batch for frequency offsets (S, R) Hz, at all lags that its scenes allow."""
    return correlation_table(signals, frequency_hz, _longest_lag(observed, batch), batch.attrs["sample_rate_hz"])


def correlation_table(signals: WhitenedSignals, frequency_hz: Array, longest: int, rate_hz: float) -> Array:
    """Cross-correlations (S, R, R, 2 · longest + 1) of all pairs, i over j ≤ i, with frequency offsets taken off.

    Windows overlap the less the greater the lag, and filters lack what lies beyond their ends. So that neither pulls
    the peaks, the windows fade, and a correlation is divided by the root of the energy that each signal has under the
    fades of both: by Cauchy and Schwarz it is greatest at the delay then, however the envelope runs.
    """
    scenes, receivers, num_time = signals.voltage.shape
    length = signals.share.shape[-1]
    window = _window(signals.duration, num_time)
    faded = band_spectrum(signals.voltage * phasor(-2 * frequency_hz / rate_hz, num_time) * window, length)
    energy = band_spectrum(np.abs(signals.voltage) ** 2 * window, length)
    window_spectrum = band_spectrum(window, length)
    level = np.empty((scenes, receivers, 2 * longest + 1))
    for i in range(receivers):
        left = _at_lags(energy[:, i] * window_spectrum.conj(), longest).real
        whole = left[:, [longest]]
        level[:, i] = np.sqrt(whole / np.maximum(left, whole / signals.duration + 1e-300))
    table = np.zeros((scenes, receivers, receivers, 2 * longest + 1), dtype=complex)
    for i in range(receivers):
        for j in range(i + 1):
            table[:, i, j] = _at_lags(faded[:, i] * faded[:, j].conj(), longest) * level[:, i] * level[:, j, ::-1]
    return table


def delay_sigma_s(batch: xr.Dataset) -> Array:
    """Standard deviation of each receiver's delay by clock, path and position, (1, R) s; where it is unknown the most.

    Where it differs between the scenes of a batch it is the largest.
    """
    sigma_s = np.nan_to_num(np.sqrt(bounds.delay_model_variance(batch)), nan=_MOST_SIGMA_S)
    return sigma_s.clip(_LEAST_SIGMA_S, _MOST_SIGMA_S).max(axis=0, keepdims=True)


def _longest_lag(observed: Observations, batch: xr.Dataset) -> int:
    """Samples that the signals of two receivers can be apart, by baseline, clocks and paths, up to 1 ms of those."""
    position = geodesy.ecef(observed.latitude_deg, observed.longitude_deg, observed.altitude_m)
    baseline_m = np.nanmax(geodesy.length(position[:, :, None] - position[:, None]))
    error_s = min(10 * delay_sigma_s(batch).max(), 1e-3)
    # Over ground the arc is longer than the chord, by 0.1 % at 1,000 km and 3 % at 5,000 km.
    return int((1.03 * baseline_m / SPEED_OF_LIGHT + error_s) * batch.attrs["sample_rate_hz"]) + TAPS


def _window(duration: int, num_time: int) -> Array:
    """Window (num_time,) at half of the sample rate that rises and falls within _FADE of ``duration`` samples."""
    time = 2 * np.arange(num_time) + 0.5
    edge = np.minimum(time, duration - time) / min(_FADE, duration / 4)
    return np.sin(np.pi / 2 * edge.clip(0, 1)) ** 2


def _at_lags(product: Array, longest: int) -> Array:
    """Correlation (S, 2 · longest + 1) at lags of one sample of which the spectrum (S, L) is given at half the rate."""
    length = product.shape[-1]
    padded = np.zeros((len(product), 2 * length), dtype=complex)
    padded[:, length // 2 : length // 2 + length] = product
    return 2 * scipy.fft.ifft(np.fft.ifftshift(padded, axes=-1), axis=-1)[:, np.arange(-longest, longest + 1)]


def noise_energy(signals: WhitenedSignals) -> Array:
    """Energy (S,) that noise alone gives every receiver in the middle of its own row of `correlation_table`."""
    window = _window(signals.duration, signals.voltage.shape[-1])
    return signals.share.mean(axis=-1) * (window**2).sum()
