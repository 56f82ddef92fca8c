"""Whitened signals of all receivers, at half of the sample rate."""

from typing import NamedTuple

import numpy as np
import scipy.fft
import xarray as xr

from heimdall_lab.core.arrays import Array
from heimdall_lab.signals import spectra
from heimdall_lab.signals.noise_floor import noise_floor
from heimdall_lab.signals.voltages import steadied_by_frequencies


class WhitenedSignals(NamedTuple):
    """Whitened IQ of S scenes: noise has unit variance before the weight, the root of the signal's share."""

    voltage: Array  # (S, R, K) complex128, at half of the sample rate
    share: Array  # (S, 2 K) of signal in the sum of receivers, at ascending frequencies of the band's inner half
    rms_hz: Array  # (S,) rms bandwidth of the signal
    resolution_hz: float  # rms bandwidth that a carrier would have in the spectrum that this was measured in
    duration: int  # samples of the window


@np.errstate(divide="ignore", invalid="ignore")  # an absent receiver has neither signal nor noise
def whiten(batch: xr.Dataset) -> WhitenedSignals:
    """Whiten the signals of a batch of scenes with measurements; weight frequencies by the root of the signal's share.

    What clocks gain in the window is taken out, where frequencies tell it.
    """
    rate_hz = batch.attrs["sample_rate_hz"]
    voltage = steadied_by_frequencies(batch)
    spectrum = spectra.power_spectrum(voltage, rate_hz)
    noise = noise_floor(spectrum, batch.receiver_present.values).density  # (S, R)
    used = batch.receiver_present.values & (noise > 0)
    count = np.maximum(used.sum(axis=1), 1)[:, None]
    mean = np.where(used[..., None], spectrum.density / noise[..., None], 0.0).sum(axis=1) / count  # (S, F)
    # The mean of R receivers has the noise of one, and its share of signal; their sum has R times its signal to noise.
    together = spectrum._replace(density=mean, averages=spectrum.averages * count)
    share_of_one = spectra.wiener_weight(together, np.ones(len(mean)))
    share = count * share_of_one / (1 - share_of_one + count * share_of_one)
    rms_hz = spectra.rms_bandwidth_hz(spectrum.frequency_hz, share_of_one * mean)

    num_time = voltage.shape[-1]
    length = 4 * scipy.fft.next_fast_len(-(-num_time // 2))  # at least twice the window, so that lags do not wrap
    bins = np.arange(-(length // 4), length // 4)
    share = share[:, ((bins / length + 0.5) * share.shape[-1]).astype(int)]
    scale = np.where(used, 1 / np.sqrt(2 * noise * rate_hz), 0.0)
    spectra_in_band = scipy.fft.fft(voltage * scale[..., None], n=length, axis=-1)[..., bins] * np.sqrt(share)[:, None]
    half_rate = scipy.fft.ifft(np.fft.ifftshift(spectra_in_band, axes=-1), axis=-1)[..., : length // 4]
    # The Hann window of a segment T has an rms bandwidth of 1 / (√3 T), and its spectrum steps of 1 / T.
    resolution_hz = float(spectrum.frequency_hz[1] - spectrum.frequency_hz[0]) / np.sqrt(3)
    return WhitenedSignals(half_rate, share, rms_hz, resolution_hz, num_time)


def band_spectrum(voltage: Array, length: int) -> Array:
    """Spectrum (..., length) of voltages (..., K), ascending."""
    return np.fft.fftshift(scipy.fft.fft(voltage, n=length, axis=-1), axes=-1)
