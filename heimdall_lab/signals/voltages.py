"""Signals of a batch of scenes as those who measure them read them: all in memory, or one receiver's at a time."""

from functools import partial

import numpy as np
import xarray as xr

from heimdall_lab.datasets import schema
from heimdall_lab.signals import correlation, spectra

_LONG_IQ_SAMPLES = 2**22  # of all receivers of a scene, from which they are read one by one: memory


class Voltages:
    """Complex samples of a batch of scenes (S, R, N), √mW; of long ones never more than two receivers' at a time."""

    def __init__(self, batch: xr.Dataset) -> None:
        self._batch = batch
        is_long = batch.sizes["receiver"] * batch.sizes["time"] > _LONG_IQ_SAMPLES
        self._all = None if is_long else schema.voltage(batch)

    def of_receiver(self, receiver: int) -> np.ndarray:
        """Samples (S, N) of one receiver."""
        if self._all is not None:
            return self._all[:, receiver]
        return schema.voltage(self._batch.isel(receiver=[receiver]))[:, 0]

    def _of_scene(self, scene: int, receiver: int) -> np.ndarray:
        return schema.voltage(self._batch.isel(sample=[scene], receiver=[receiver]))[0, 0]

    def spectra(self) -> tuple[spectra.Spectrum, np.ndarray]:
        """Power spectra, and mean powers (S, R)."""
        rate_hz = float(self._batch.attrs["sample_rate_hz"])
        if self._all is not None:
            return spectra.power_spectrum(self._all, rate_hz), (np.abs(self._all) ** 2).mean(axis=-1)
        shape = self._batch.sizes["sample"], self._batch.sizes["receiver"]
        power, densities = np.empty(shape), []
        for place in np.ndindex(shape):
            voltage = self._of_scene(*place)
            spectrum = spectra.power_spectrum(voltage, rate_hz)
            densities.append(spectrum.density)
            power[place] = (voltage.real**2 + voltage.imag**2).mean()
        return spectrum._replace(density=np.stack(densities).reshape(*shape, -1)), power

    def ambiguity_peak(
        self, reference: np.ndarray, weight: np.ndarray, *, max_delay_samples: np.ndarray, max_frequency_cycles: float
    ) -> correlation.AmbiguityPeak:
        """As `correlation.ambiguity_peak`."""
        if self._all is not None:
            return correlation.ambiguity_peak(
                self._all,
                reference,
                weight,
                max_delay_samples=max_delay_samples,
                max_frequency_cycles=max_frequency_cycles,
            )
        peaks = [
            correlation.ambiguity_peak_one_by_one(
                partial(self._of_scene, scene),
                int(reference[scene]),
                weight[scene],
                max_delay_samples=max_delay_samples[scene],
                max_frequency_cycles=max_frequency_cycles,
            )
            for scene in range(len(reference))
        ]
        return correlation.AmbiguityPeak(*(np.concatenate(values) for values in zip(*peaks, strict=True)))
