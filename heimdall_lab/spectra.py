"""Power spectra and bandwidths, and the bound that they set to delays."""

from typing import NamedTuple

import numpy as np
import scipy.fft
import scipy.signal

from heimdall_lab.arrays import Array, array_namespace

_FADE = 64  # samples at either end of a whole waveform


class Spectrum(NamedTuple):
    """A two-sided power spectral density.

    Attributes
    ----------
    frequency_hz : (F,)
        Ascending.
    density : (..., F)
        Power per Hz.
    averages : float
        Number of independent periodograms that each value averages.
    """

    frequency_hz: Array
    density: Array
    averages: float


def power_spectrum(iq: np.ndarray, sample_rate_hz: float) -> Spectrum:
    """Welch's estimate with Hann windows that overlap by half.

    A window holds between 1/16 and 1/32 of the samples, at least 256 if there are so many: fine enough to resolve a
    narrow band, with averages enough to tell it from noise.

    Source: Welch, IEEE Trans. Audio Electroacoust. 15 (1967); for the number of independent averages see Harris,
    Proc. IEEE 66 (1978), eq. (18), with the overlap correlation 1/6 of the Hann window.
    """
    num_time = iq.shape[-1]
    segment = min(max(2 ** int(np.log2(num_time / 16)), 256), num_time)
    frequency_hz, density = scipy.signal.welch(
        iq, fs=sample_rate_hz, nperseg=segment, detrend=False, return_onesided=False, axis=-1
    )
    segments = max(1, 2 * num_time // segment - 1)
    averages = segments / (1 + 2 * (1 / 6) ** 2 * (segments - 1) / segments)
    return Spectrum(np.fft.fftshift(frequency_hz), np.fft.fftshift(density, axes=-1), averages)


def periodogram(waveform: np.ndarray, sample_rate_hz: float) -> tuple[np.ndarray, np.ndarray]:
    """Squared magnitude of the spectra of waveforms, both ends faded so that their periodic continuation has no jump.

    Parameters
    ----------
    waveform : (S, N) complex64

    Returns
    -------
    frequency_hz : (N,)
        Ascending.
    density : (S, N) float64
        Of arbitrary level.
    """
    num_time = waveform.shape[-1]
    edge = min(_FADE, num_time // 4)
    rise = np.sin(np.pi / 2 * (np.arange(edge) + 0.5) / edge) ** 2
    window = np.concatenate([rise, np.ones(num_time - 2 * edge), rise[::-1]]).astype(np.float32)
    spectrum = scipy.fft.fftshift(scipy.fft.fft(waveform * window, axis=-1), axes=-1)
    density = spectrum.real.astype(np.float64) ** 2 + spectrum.imag.astype(np.float64) ** 2
    return np.fft.fftshift(np.fft.fftfreq(num_time, 1 / sample_rate_hz)), density


def noise_density(spectrum: Spectrum) -> Array:
    """Noise power per Hz, (...): the median density over the outer half of the band, where no signal is expected.

    The median of K averaged periodograms is below their mean by the cube of Wilson and Hilferty's 1 − 1/(9K).
    """
    outer = np.abs(spectrum.frequency_hz) > np.abs(spectrum.frequency_hz).max() / 2
    return np.median(spectrum.density[..., outer], axis=-1) / (1 - 1 / (9 * spectrum.averages)) ** 3


def wiener_weight(spectrum: Spectrum, noise: Array) -> Array:
    """Share of signal in each frequency of a spectrum, (..., F): the Wiener filter, 0 outside of the signal's band.

    Frequencies count as signal in the inner half of the band where the density is four standard deviations above the
    noise density (...): what noise alone would leave there weighs heavily in the rms bandwidth.
    """
    threshold = noise[..., None] * (1 + 4 / np.sqrt(spectrum.averages))
    inner = np.abs(spectrum.frequency_hz) <= np.abs(spectrum.frequency_hz).max() / 2
    return np.where(inner & (spectrum.density > threshold), 1 - noise[..., None] / spectrum.density, 0.0)


def occupied_bandwidth_hz(frequency_hz: Array, density: Array, fraction: float = 0.99) -> Array:
    """Width of the band that leaves equal shares of the power, 1 − fraction together, below and above it, (...).

    Source: Radio Regulations No. 1.153; ITU-R SM.328-11.
    """
    xp = array_namespace(density)
    share = density.cumsum(axis=-1) / density.sum(axis=-1, keepdims=True)
    step_hz = frequency_hz[1] - frequency_hz[0]

    def edge(level: float) -> Array:
        above = (share < level).sum(axis=-1, keepdims=True).clip(0, len(frequency_hz) - 1)  # bin where it is crossed
        upper = xp.take_along_axis(share, above, axis=-1)
        lower = xp.where(above > 0, xp.take_along_axis(share, (above - 1).clip(0), axis=-1), 0.0)
        inside = (level - lower) / (upper - lower)
        return (frequency_hz[above] + (inside - 0.5) * step_hz)[..., 0]

    return edge((1 + fraction) / 2) - edge((1 - fraction) / 2)


def rms_bandwidth_hz(frequency_hz: Array, density: Array) -> Array:
    """Standard deviation of frequency under the power spectral density, (...).

    It sets the Cramér-Rao bound of delay when the carrier phase is unknown: Stein, IEEE Trans. ASSP 29 (1981).
    """
    share = density / density.sum(axis=-1, keepdims=True)
    mean_hz = (share * frequency_hz).sum(axis=-1, keepdims=True)
    return np.sqrt((share * (frequency_hz - mean_hz) ** 2).sum(axis=-1))


def delay_sigma_s(snr: Array, occupied_bandwidth_hz: Array, rms_bandwidth_hz: Array, duration_s: float) -> Array:
    """Cramér-Rao bound of the delay of a known waveform in noise, as a standard deviation in s.

    Parameters
    ----------
    snr : array
        Power ratio in the occupied bandwidth. The other arrays broadcast with it.

    Source: Kay, Fundamentals of Statistical Signal Processing: Estimation Theory, section 3.11, for complex samples:
    1 / (8π² β² E/N0), where E/N0 = SNR · bandwidth · duration.
    """
    energy_to_noise = snr * occupied_bandwidth_hz * duration_s
    return 1 / (2 * np.pi * rms_bandwidth_hz * np.sqrt(2 * energy_to_noise))


def level_sigma_db(snr: Array, occupied_bandwidth_hz: Array, duration_s: float) -> Array:
    """Cramér-Rao bound of the level of a known waveform in noise, as a standard deviation in dB.

    Parameters
    ----------
    snr : array
        Power ratio in the occupied bandwidth. The other arrays broadcast with it.

    Source: Kay, Fundamentals of Statistical Signal Processing: Estimation Theory, section 3.10: an amplitude's relative
    variance is 1 / (2 E/N0), a level in dB is 20 log10 of it.
    """
    return 20 / np.log(10) / np.sqrt(2 * snr * occupied_bandwidth_hz * duration_s)
