"""Coherence that signals which have nothing in common reach by chance, where the largest over many delays is taken."""

import numpy as np
import xarray as xr

from heimdall_lab.datasets import schema
from heimdall_lab.signals import pairs, spectra

_FALSE_ALARM = 1e-4  # share of unlike signals whose coherence is larger
_VARYING = 2.0  # times fewer cells are independent where level and spectrum of a signal vary
_SUSPICIOUS = 0.5  # share of the coherence that both SNRs suggest, from which it is no chance


@np.errstate(divide="ignore", invalid="ignore")
def is_by_chance(dataset: xr.Dataset) -> np.ndarray:
    """Whether a receiver that hears the signal has no more in common with the reference than by chance, (S, R) bool.

    Products of unlike signals over n independent cells of time and frequency have a squared coherence that is
    exponential with mean 1 / n; of it the largest is taken over all delays and frequencies searched.

    Parameters
    ----------
    dataset : xr.Dataset
        With IQ, and what was measured of it.

    Source: Carter, "Coherence and time delay estimation", Proc. IEEE 75 (1987), for the coherence of unlike signals.
    """
    snr, reference = 10 ** (dataset.snr_db.values / 10), dataset.reference_receiver.values
    share = snr / (1 + snr)
    scenes = np.arange(len(reference))
    expected = share * share[scenes, reference][:, None]
    suspicious = dataset.heard.values & (dataset.coherence.values < _SUSPICIOUS * expected)
    found = np.zeros_like(suspicious)
    largest_delay_s = pairs.largest_delay_s(dataset, reference)
    for scene in np.flatnonzero(suspicious.any(axis=1)).tolist():
        heard_with = np.flatnonzero(suspicious[scene])
        cells, bandwidth_hz = _independent_cells(dataset.isel(sample=[scene]), int(reference[scene]), heard_with)
        shift_hz = 2 * float(dataset.attrs["max_frequency_offset_hz"])
        duration_s = dataset.sizes["time"] / float(dataset.attrs["sample_rate_hz"])
        searched = (1 + 2 * largest_delay_s[scene, heard_with] * bandwidth_hz) * (1 + 2 * shift_hz * duration_s)
        most_by_chance = np.log(searched / _FALSE_ALARM) * _VARYING / cells
        found[scene, heard_with] = dataset.coherence.values[scene, heard_with] < most_by_chance
    return found


def _independent_cells(scene: xr.Dataset, reference: int, receivers: np.ndarray) -> tuple[np.ndarray, float]:
    """Independent products (R,) of the reference and each of some receivers, and the bandwidth that they span, Hz."""
    rate_hz, num_time = float(scene.attrs["sample_rate_hz"]), scene.sizes["time"]

    def spectrum_of(receiver: int) -> spectra.Spectrum:
        return spectra.power_spectrum(schema.voltage(scene.isel(receiver=[receiver])), rate_hz)

    of_reference = spectrum_of(reference)
    weight = spectra.wiener_weight(of_reference, spectra.noise_density(of_reference))[0, 0]
    weighted = weight * of_reference.density[0, 0]
    step_hz = rate_hz / len(weight)
    cells = []
    for receiver in receivers.tolist():
        other = weight * spectrum_of(receiver).density[0, 0]
        cells.append(weighted.sum() * other.sum() / (weighted * other).sum() * step_hz * num_time / rate_hz)
    return np.array(cells), float(np.count_nonzero(weight) * step_hz)
