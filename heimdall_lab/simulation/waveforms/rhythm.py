"""The rhythm of speech: phrases and the pauses between them, and how loud the phrases of a recording are."""

import numpy as np
import scipy.ndimage

from heimdall_lab.core.compiled import njit
from heimdall_lab.core.philox import Stage, Streams

# ITU-T P.59 (03/93), table 1: talk-spurts last 1.004 s in the mean, and mutual silences 0.508 s, which is a third of
# the time of one who keeps the word; its states end at random, as here phrases and pauses do.
PHRASE_S = 1.004
_EDGE_S = 0.02  # in which a phrase swells and dies away
# ITU-T P.56 (12/11), method B: time constant of both averages of the envelope, hangover, and margin of the threshold.
_ENVELOPE_S = 0.03
_HANGOVER_S = 0.2
_MARGIN_DB = 15.9
_STEPS_PER_DB, _DEEPEST_DB = 2, 120  # of the thresholds that are tried, below the largest envelope


def phrases(pause_ratio: float, streams: Streams, num_audio: int, rate_hz: float) -> np.ndarray:
    """Amplitude of speech that pauses for a share of the time, (S, num_audio) float32: 1 in phrases, 0 in pauses.

    Both last exponential times, so that any window begins in a pause with that probability.
    """
    duration_s = num_audio / rate_hz
    most = int(duration_s / PHRASE_S + 10 * (duration_s / PHRASE_S) ** 0.5 + 10)  # phrases: ten standard deviations
    draws = streams.uniform(Stage.SPEECH_PAUSE, 1 + 2 * most)
    speaking = draws[:, 0] >= pause_ratio
    mean_s = np.array([PHRASE_S, PHRASE_S * pause_ratio / (1 - pause_ratio)])
    # (S, 2 most) of a phrase, a pause, …; those that begin in a pause take it from the back.
    lasts_s = -np.log(draws[:, 1:]) * np.where(speaking[:, None], np.tile(mean_s, most), np.tile(mean_s[::-1], most))
    amplitude = np.empty((len(draws), num_audio), dtype=np.float32)
    _write_amplitude(speaking, (lasts_s * rate_hz).cumsum(axis=1), 1 / (_EDGE_S * rate_hz), amplitude)
    return amplitude


@njit(cache=True)
def _write_amplitude(speaking: np.ndarray, ends: np.ndarray, slope: float, amplitude: np.ndarray) -> None:
    """Write half a cosine where a phrase (S) or pause ends, at the samples (S, K)."""
    for row in range(len(speaking)):
        target, turn = 1.0 if speaking[row] else 0.0, 0
        reached = target
        for i in range(amplitude.shape[1]):
            while turn < ends.shape[1] and i >= ends[row, turn]:
                target, turn = 1.0 - target, turn + 1
            reached += min(max(target - reached, -slope), slope)
            amplitude[row, i] = np.sin(np.pi / 2 * reached) ** 2


def active_rms(audio: np.ndarray, rate_hz: float) -> float:
    """Rms of audio (N,) where there is speech, which it repeats if it is shorter than a second; 0 where it is silent.

    Source: ITU-T P.56 (12/11), method B, with thresholds in steps of 0.5 dB instead of interpolation.
    """
    audio = np.resize(audio, max(len(audio), int(rate_hz)))
    keep = np.exp(-1 / (_ENVELOPE_S * rate_hz))
    # SciPy loads its folder signal when it is first used: most datasets never do.
    envelope = scipy.signal.lfilter([(1 - keep) ** 2], [1, -2 * keep, keep**2], np.abs(audio))
    half = int(_HANGOVER_S * rate_hz / 2)
    held = scipy.ndimage.maximum_filter1d(envelope, 2 * half + 1, origin=half, mode="constant")
    if not (peak := held.max()) > 0:
        return 0.0
    deepest = _DEEPEST_DB * _STEPS_PER_DB
    below_db = -20 * np.log10(np.maximum(held / peak, 10 ** (-_DEEPEST_DB / 20)))
    counts = np.bincount(np.ceil(below_db * _STEPS_PER_DB).astype(int), minlength=deepest + 1)
    rms = np.sqrt((audio.astype(float) ** 2).sum() / counts.cumsum())
    threshold = peak * 10 ** (-np.arange(deepest + 1) / _STEPS_PER_DB / 20)
    too_high = np.flatnonzero(rms < threshold * 10 ** (_MARGIN_DB / 20))  # of the lower ones, that just below is right
    return float(rms[min(too_high.max(initial=-1) + 1, deepest)])
