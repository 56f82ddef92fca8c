"""Short spectra, powers and envelopes of IQ samples over equal parts of the window: what all features are made of."""

from typing import NamedTuple, Self

import numpy as np

from heimdall_lab.core.arrays import Array, array_namespace
from heimdall_lab.datasets.schema import FRAMES, MEL_BANDS, complex_samples
from heimdall_lab.signals import spectra

NUM_CHUNKS = 5
LEAST_SAMPLES = 192
_LEAST_HOP = 16


def mel_edges_hz(sample_rate_hz: float) -> np.ndarray:
    """Edges of the spectrogram's bands, which overlap by half: (MEL_BANDS + 2,)."""
    return spectra.mel_bands_hz(sample_rate_hz / 2, MEL_BANDS)


def frame_middles(num_time: int) -> np.ndarray:
    """Middles of the spectrogram's frames, (FRAMES,) samples."""
    return (np.arange(FRAMES) + 0.5) / FRAMES * num_time


class Plan(NamedTuple):
    """How windows are cut and averaged.

    Attributes
    ----------
    frequency_hz : (F,)
        Of the short spectra, ascending.
    averages : float
        Independent periodograms in a chunk's spectrum.
    by_chunk : (C, periodograms) float32
        Averages of the short spectra whose middles lie in each chunk.
    by_frame : (FRAMES, periodograms) float32
        Their interpolation to equally spaced frames.
    mel : (F, MEL_BANDS) float32
    """

    frequency_hz: Array
    averages: float
    by_chunk: Array
    by_frame: Array
    mel: Array

    @classmethod
    def of(cls, like: Array, num_time: int, sample_rate_hz: float) -> Self:
        """Plan for windows of num_time samples, on the device of an array."""
        xp = array_namespace(like)
        hop = max(_LEAST_HOP, 2 ** int(np.log2(num_time / 3 / FRAMES)))
        frequency_hz = (np.arange(3 * hop) - 3 * hop // 2) * (sample_rate_hz / (3 * hop))
        middle = (np.arange(num_time // hop - 2) + 1.5) * hop
        inside = middle * NUM_CHUNKS // num_time == np.arange(NUM_CHUNKS)[:, None]
        apart = np.abs(frame_middles(num_time)[:, None] - middle)
        near = np.maximum(0.0, 1 - apart / max(hop, num_time / FRAMES))
        near[:, [0, -1]] += 1e-6  # for frames beyond the middle of the outermost spectra

        def averages(weight: np.ndarray) -> Array:
            return xp.asarray((weight / weight.sum(axis=1, keepdims=True)).astype(np.float32))

        return cls(
            xp.asarray(frequency_hz),
            spectra.hann_averages(int(inside.sum(axis=1).min()), 2 / 3),
            averages(inside.astype(float)),
            averages(near),
            averages(spectra.mel_weights(mel_edges_hz(sample_rate_hz), frequency_hz)).T,
        )


class Chunks(NamedTuple):
    """What is taken of the samples, in units of the converter; powers of spectra are those that add up over a mean.

    Attributes
    ----------
    density : (..., C, F)
        Its mean over frequency is the power.
    spectrogram : (..., MEL_BANDS, FRAMES)
        Likewise; without bands where not asked for.
    power, peak : (..., C)
        Mean and largest squared magnitude.
    envelope : (..., C)
        Mean magnitude.
    crossings : (..., C)
        Share of steps in which the in-phase part changes its sign.
    """

    density: Array
    spectrogram: Array
    power: Array
    peak: Array
    envelope: Array
    crossings: Array


def chunks(iq: Array, plan: Plan, spectrogram: bool) -> Chunks:
    """Reduce the samples of L links, (L, 2, N) int16."""
    xp = array_namespace(iq)
    voltage = complex_samples(iq)
    short = spectra.short_time_power(voltage, len(plan.frequency_hz))  # (L, periodograms, F)
    bands = (plan.by_frame @ short @ plan.mel).swapaxes(-1, -2) if spectrogram else xp.empty((len(iq), 0, FRAMES))
    whole = iq.shape[-1] // NUM_CHUNKS * NUM_CHUNKS
    parts = voltage[:, :whole].reshape(len(iq), NUM_CHUNKS, -1)
    square = parts.real**2 + parts.imag**2  # (L, C, N / C)
    # The sign bit of the exclusive or of two integers tells whether their signs differ.
    in_phase = iq[:, 0, :whole].reshape(parts.shape)
    changes = (in_phase[..., 1:] ^ in_phase[..., :-1]) < 0
    return Chunks(
        plan.by_chunk @ short,
        bands,
        square.mean(axis=-1),
        square.max(axis=-1),
        xp.sqrt(square).mean(axis=-1),
        xp.count_nonzero(changes, axis=-1) / changes.shape[-1],
    )
