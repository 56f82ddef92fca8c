"""Power spectra and bandwidths, and the bound that they set to delays."""

from typing import NamedTuple

import numpy as np
import scipy.fft

from heimdall_lab.core.arrays import Array, array_namespace, batch_slices, fft_namespace

_BLOCK_SAMPLES = {"numpy": 2**16, "cupy": 2**26}  # transformed at a time: caches, GPUs
_FADE = 64  # samples at either end of a whole waveform


class Spectrum(NamedTuple):
    """A two-sided power spectral density."""

    frequency_hz: Array  # (F,), ascending
    density: Array  # (..., F), power per Hz
    averages: float  # number of independent periodograms that each value averages


def power_spectrum(iq: Array, sample_rate_hz: float) -> Spectrum:
    """Welch's estimate by `short_time_power`, of (..., N) complex64.

    A window holds between 1/16 and 1/32 of the samples, at least 192 if there are so many: fine enough to resolve a
    narrow band, with averages enough to tell it from noise.
    """
    xp = array_namespace(iq)
    num_time = iq.shape[-1]
    hop = min(max(2 ** int(np.log2(num_time / 48)), 64), num_time // 6 * 2)
    rows = iq.reshape(-1, num_time)
    per_block = _BLOCK_SAMPLES[xp.__name__] // num_time
    blocks = [short_time_power(rows[block], 3 * hop).mean(axis=-2) for block in batch_slices(len(rows), per_block)]
    density = xp.concatenate(blocks).reshape(*iq.shape[:-1], 3 * hop) / sample_rate_hz
    frequency_hz = (xp.arange(3 * hop) - 3 * hop // 2) * (sample_rate_hz / (3 * hop))
    return Spectrum(frequency_hz, density, hann_averages(num_time // hop - 2, 2 / 3))


def short_time_power(voltage: Array, segment: int) -> Array:
    """Squared magnitudes of short spectra with Hann windows of ``segment`` samples that start a third of it apart.

    So close, the squares of the windows add up to a constant: every instant weighs the same, and modulation at the rate
    of the windows does not pull the mean frequency. Of (..., N) complex64, (..., 3 N // segment − 2, segment) float32
    of ascending frequency from −1/2 cycle per sample; the mean over frequency is the power. A segment is a multiple of
    6, at most N.

    Source: Welch, IEEE Trans. Audio Electroacoust. 15 (1967).
    """
    xp = array_namespace(voltage)
    hop = segment // 3
    window = 0.5 - 0.5 * xp.cos(2 * np.pi * xp.arange(segment) / segment)
    window /= xp.sqrt((window**2).sum())
    window *= (-1.0) ** xp.arange(segment)  # which moves 0 Hz to the middle
    window = window.astype(np.float32)
    parts = voltage[..., : voltage.shape[-1] // hop * hop].reshape(*voltage.shape[:-1], -1, hop)
    power = xp.empty((*voltage.shape[:-1], parts.shape[-2] - 2, segment), dtype=np.float32)
    rows = voltage.size // voltage.shape[-1]
    block = max(1, _BLOCK_SAMPLES[xp.__name__] // (rows * segment))
    for first in range(0, power.shape[-2], block):
        part = power[..., first : first + block, :]
        framed = xp.empty(part.shape, dtype=np.complex64)
        for third in range(3):
            place = slice(third * hop, (third + 1) * hop)
            shifted = parts[..., first + third : first + third + part.shape[-2], :]
            xp.multiply(shifted, window[place], out=framed[..., place])
        spectrum = fft_namespace(framed).fft(framed, axis=-1)
        xp.multiply(spectrum.real, spectrum.real, out=part)
        part += spectrum.imag**2
    return power


def hann_averages(frames: int, overlap: float) -> float:
    """Number of independent periodograms in the mean of Hann-windowed ones that overlap by a share of their length.

    Source: Harris, Proc. IEEE 66 (1978), eqs. (17), (18).
    """
    shifts = np.arange(1, int(np.ceil(1 / (1 - overlap)))) * (1 - overlap)
    # Autocorrelation of the Hann window over its energy, at shifts in lengths of it.
    angle = 2 * np.pi * shifts
    correlation = ((1 - shifts) * (2 + np.cos(angle)) + 3 * np.sin(angle) / (2 * np.pi)) / 3
    lost = 2 * (correlation**2 * np.maximum(0.0, 1 - np.arange(1, len(shifts) + 1) / frames)).sum()
    return float(frames / (1 + lost))


def mel_bands_hz(highest_hz: float, bands: int) -> np.ndarray:
    """Edges of bands equally spaced in mel from 0 Hz up, each reaching over two steps: (bands + 2,).

    Source: O'Shaughnessy, Speech Communication (1987): mel = 2595 log10(1 + f / 700 Hz).
    """
    mel = np.linspace(0, 2595 * np.log10(1 + highest_hz / 700), bands + 2)
    return 700 * (10 ** (mel / 2595) - 1)


def mel_weights(edges_hz: np.ndarray, frequency_hz: np.ndarray) -> np.ndarray:
    """Triangular weights that average densities over bands of the distance from 0 Hz: (bands, F), rows add up to 1.

    A triangle is at least two steps of the frequencies wide, so that bands finer than the spectrum interpolate it.
    """
    step_hz = frequency_hz[1] - frequency_hz[0]
    offset_hz = np.abs(frequency_hz) - edges_hz[1:-1, None]
    below_hz, above_hz = (
        np.maximum(width, step_hz)[:, None] for width in (np.diff(edges_hz)[:-1], np.diff(edges_hz)[1:])
    )
    weight = np.maximum(0.0, 1 - np.where(offset_hz < 0, -offset_hz / below_hz, offset_hz / above_hz))
    return weight / weight.sum(axis=1, keepdims=True)


def periodogram(waveform: np.ndarray, sample_rate_hz: float) -> tuple[np.ndarray, np.ndarray]:
    """Ascending frequency_hz (N,) and density (S, N), of arbitrary level, of waveforms (S, N) complex64.

    Both ends are faded so that the periodic continuation has no jump.
    """
    num_time = waveform.shape[-1]
    edge = min(_FADE, num_time // 4)
    rise = np.sin(np.pi / 2 * (np.arange(edge) + 0.5) / edge) ** 2
    window = np.concatenate([rise, np.ones(num_time - 2 * edge), rise[::-1]]).astype(np.float32)
    spectrum = scipy.fft.fftshift(scipy.fft.fft(waveform * window, axis=-1), axes=-1)
    density = spectrum.real.astype(np.float64) ** 2 + spectrum.imag.astype(np.float64) ** 2
    return np.fft.fftshift(np.fft.fftfreq(num_time, 1 / sample_rate_hz)), density


def weight_at(weight: Array, cycles: Array) -> Array:
    """Weights (S, N) at frequencies (N,) in cycles per sample, of weights (S, F) at F equal steps from −1/2 on."""
    count = weight.shape[-1]
    found: Array = weight[:, np.rint((cycles + 0.5) * count).astype(int).clip(0, count - 1)]
    return found


def noise_density(spectrum: Spectrum) -> Array:
    """Noise power per Hz, (...): the median density over the outer half of the band, where no signal is expected.

    The median of K averaged periodograms is below their mean by the cube of Wilson and Hilferty's 1 − 1/(9K).
    """
    xp = array_namespace(spectrum.density)
    outer = xp.abs(spectrum.frequency_hz) > xp.abs(spectrum.frequency_hz).max() / 2
    return xp.median(spectrum.density[..., outer], axis=-1) / (1 - 1 / (9 * spectrum.averages)) ** 3


def wiener_weight(spectrum: Spectrum, noise: Array) -> Array:
    """Share of signal in each frequency of a spectrum, (..., F): the Wiener filter, 0 outside of the signal's band.

    Frequencies count as signal in the inner half of the band where the density is four standard deviations above the
    noise density (...): what noise alone would leave there weighs heavily in the rms bandwidth.
    """
    threshold = noise[..., None] * (1 + 4 / np.sqrt(spectrum.averages))
    xp = array_namespace(spectrum.density)
    inner = xp.abs(spectrum.frequency_hz) <= xp.abs(spectrum.frequency_hz).max() / 2
    return xp.where(inner & (spectrum.density > threshold), 1 - noise[..., None] / spectrum.density, 0.0)


def occupied_bandwidth_hz(frequency_hz: Array, density: Array, fraction: float = 0.99) -> Array:
    """Width of the band that leaves equal shares of the power, 1 − fraction together, below and above it, (...).

    Source: Radio Regulations No. 1.153; ITU-R SM.328-11.
    """
    upper, lower = quantiles_hz(frequency_hz, density, ((1 + fraction) / 2, (1 - fraction) / 2))
    return upper - lower


def quantiles_hz(frequency_hz: Array, density: Array, levels: tuple[float, ...]) -> list[Array]:
    """Frequencies below which given shares of the power lie, each (...), linear within a bin."""
    xp = array_namespace(density)
    total = density.cumsum(axis=-1)
    share = total / total[..., -1:]
    step_hz = frequency_hz[1] - frequency_hz[0]

    def quantile(level: float) -> Array:
        above = (share < level).sum(axis=-1, keepdims=True).clip(0, len(frequency_hz) - 1)  # bin where it is crossed
        upper = xp.take_along_axis(share, above, axis=-1)
        lower = xp.where(above > 0, xp.take_along_axis(share, (above - 1).clip(0), axis=-1), 0.0)
        inside = (level - lower) / (upper - lower)
        return (frequency_hz[above] + (inside - 0.5) * step_hz)[..., 0]

    return [quantile(level) for level in levels]


def rms_bandwidth_hz(frequency_hz: Array, density: Array) -> Array:
    """Standard deviation of frequency under the power spectral density, (...).

    It sets the Cramér-Rao bound of delay when the carrier phase is unknown: Stein, IEEE Trans. ASSP 29 (1981).
    """
    share = density / density.sum(axis=-1, keepdims=True)
    mean_hz = (share * frequency_hz).sum(axis=-1, keepdims=True)
    return np.sqrt((share * (frequency_hz - mean_hz) ** 2).sum(axis=-1))


def delay_sigma_s(snr: Array, occupied_bandwidth_hz: Array, rms_bandwidth_hz: Array, duration_s: float) -> Array:
    """Cramér-Rao bound of the delay of a known waveform in noise, as a standard deviation in s.

    The SNR is a power ratio in the occupied bandwidth; the other arrays broadcast with it.

    Source: Kay, Fundamentals of Statistical Signal Processing: Estimation Theory, section 3.11, for complex samples,
    where E/N0 = SNR · bandwidth · duration: 1 / (8π² β² E/N0).
    """
    energy_to_noise = snr * occupied_bandwidth_hz * duration_s
    return 1 / (2 * np.pi * rms_bandwidth_hz * np.sqrt(2 * energy_to_noise))


def level_sigma_db(snr: Array, occupied_bandwidth_hz: Array, duration_s: float) -> Array:
    """Cramér-Rao bound of the level of a known waveform in noise, as a standard deviation in dB.

    The SNR is a power ratio in the occupied bandwidth; the other arrays broadcast with it.

    Source: Kay, Fundamentals of Statistical Signal Processing: Estimation Theory, section 3.10: an amplitude's relative
    variance is 1 / (2 E/N0), a level in dB is 20 log10 of it.
    """
    return 20 / np.log(10) / np.sqrt(2 * snr * occupied_bandwidth_hz * duration_s)
