"""Signals that have no more in common than chance gives at any delay allowed, or have it at a delay beyond those."""

import numpy as np
import xarray as xr

from heimdall_lab.core.arrays import Array
from heimdall_lab.signals import pairs, spectra
from heimdall_lab.signals.noise_floor import noise_floor
from heimdall_lab.signals.voltages import Voltages

_FALSE_ALARM = 1e-4  # share of unlike signals whose coherence is larger
_VARYING = 2.0  # times fewer cells are independent where level and spectrum of a signal vary
_SUSPICIOUS = 0.5  # share of the coherence that both SNRs suggest, from which it is no chance
_FAR = 0.5  # of the window, as far as delays are searched that should not be


@np.errstate(divide="ignore", invalid="ignore")
def is_by_chance(dataset: xr.Dataset) -> Array:
    """Whether a receiver that hears the signal has no more in common with the reference than by chance, (S, R) bool.

    Products of unlike signals over n independent cells of time and frequency have a squared coherence that is
    exponential with mean 1 / n; of it the largest is taken over all delays and frequencies searched.

    Parameters
    ----------
    dataset : xr.Dataset
        With IQ, and what was measured of it.

    Source: Carter, "Coherence and time delay estimation", Proc. IEEE 75 (1987), for the coherence of unlike signals.
    """
    reference, suspicious = dataset.reference_receiver.values, _is_suspicious(dataset) & dataset.heard.values
    found = np.zeros_like(suspicious)
    largest_delay_s = pairs.largest_delay_s(dataset, reference)
    shift_hz = 2 * float(dataset.attrs["max_frequency_offset_hz"])
    duration_s = dataset.sizes["time"] / float(dataset.attrs["sample_rate_hz"])
    for scene in np.flatnonzero(suspicious.any(axis=1)).tolist():
        unlike = np.flatnonzero(suspicious[scene])
        cells, bandwidth_hz = _independent_cells(_with_reference(dataset, scene, unlike), duration_s)
        searched = (1 + 2 * largest_delay_s[scene, unlike] * bandwidth_hz) * (1 + 2 * shift_hz * duration_s)
        most_by_chance = np.log(searched / _FALSE_ALARM) * _VARYING / cells
        found[scene, unlike] = dataset.coherence.values[scene, unlike] < most_by_chance
    return found


@np.errstate(divide="ignore", invalid="ignore")
def far_delay_s(dataset: xr.Dataset) -> Array:
    """Delays (S, R) beyond those that clocks and places allow, at which signals agree far better; NaN of the others.

    The dataset is as `is_by_chance` takes it. Delays of up to half the window are searched, of receivers that hear the
    signal and have less in common with the reference than both SNRs suggest.
    """
    suspicious, rate_hz = _is_suspicious(dataset), float(dataset.attrs["sample_rate_hz"])
    found = np.full(suspicious.shape, np.nan)
    for scene in np.flatnonzero(suspicious.any(axis=1)).tolist():
        unlike = np.flatnonzero(suspicious[scene])
        few = _with_reference(dataset, scene, unlike)
        voltages = Voltages(few)
        peak = voltages.ambiguity_peak(
            np.zeros(1, dtype=int),
            _weight(voltages.spectra()[0]),
            max_delay_samples=np.full((1, len(unlike) + 1), _FAR * dataset.sizes["time"]),
            max_frequency_cycles=2 * float(dataset.attrs["max_frequency_offset_hz"]) / rate_hz,
        )
        coherence = np.nan_to_num(dataset.coherence.values[scene, unlike])
        coherence[np.isnan(dataset.tdoa_s.values[scene, unlike])] = 0.0  # at the edge of what is allowed
        far = peak.coherence[0, 1:]
        better = (_SUSPICIOUS * far > coherence) & (far >= _SUSPICIOUS * _expected(dataset)[scene, unlike])
        found[scene, unlike] = np.where(better, peak.delay_samples[0, 1:] / rate_hz, np.nan)
    return np.where(np.abs(found) > pairs.largest_delay_s(dataset, dataset.reference_receiver.values), found, np.nan)


def _expected(dataset: xr.Dataset) -> Array:
    """Squared coherence (S, R) with the reference that both SNRs suggest."""
    snr = 10 ** (dataset.snr_db.values / 10)
    share = snr / (1 + snr)
    return share * np.take_along_axis(share, dataset.reference_receiver.values[:, None], axis=1)


def _is_suspicious(dataset: xr.Dataset) -> Array:
    """Whether receivers that hear a signal have less in common with the reference than it seems, (S, R) bool."""
    hears = dataset.receiver_present.values & (dataset.snr_db.values >= dataset.attrs["min_snr_db"])
    agrees = dataset.coherence.values >= _SUSPICIOUS * _expected(dataset)
    return hears & ~(agrees & np.isfinite(dataset.tdoa_s.values))


def _with_reference(dataset: xr.Dataset, scene: int, receivers: Array) -> xr.Dataset:
    """One scene of the reference, which comes first, and some receivers."""
    return dataset.isel(sample=[scene], receiver=[int(dataset.reference_receiver[scene]), *receivers.tolist()])


def _weight(spectrum: spectra.Spectrum) -> Array:
    """Share of signal (1, F) in the spectrum of the first of a scene's receivers."""
    noise = noise_floor(spectrum, np.full(spectrum.density.shape[:2], True)).density
    return spectra.wiener_weight(spectrum._replace(density=spectrum.density[:, 0]), noise[:, 0])


def _independent_cells(scene: xr.Dataset, duration_s: float) -> tuple[Array, float]:
    """Independent products (R,) of the first receiver and each other one, and the bandwidth that they span, Hz."""
    spectrum, _ = Voltages(scene).spectra()
    weight, density = _weight(spectrum)[0], spectrum.density[0]
    step_hz = spectrum.frequency_hz[1] - spectrum.frequency_hz[0]
    of_reference, others = weight * density[0], weight * density[1:]
    cells = of_reference.sum() * others.sum(axis=1) / (of_reference * others).sum(axis=1)
    return cells * step_hz * duration_s, float(np.count_nonzero(weight) * step_hz)
