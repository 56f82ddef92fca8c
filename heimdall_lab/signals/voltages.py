"""Signals of a batch of scenes as those who measure them read them: all in memory, or one receiver's at a time."""

from functools import partial

import numpy as np
import xarray as xr

from heimdall_lab.core.interpolation import HALF_WIDTH, interpolate_many
from heimdall_lab.datasets import schema
from heimdall_lab.signals import correlation, spectra

_LONG_IQ_SAMPLES = 2**22  # of all receivers of a scene, from which they are read one by one: memory
_PIECE_SAMPLES = 2**16  # interpolated at a time


class Voltages:
    """Complex samples of a batch of scenes (S, R, N), √mW; of long ones never more than two receivers' at a time.

    ``growth`` (S, R), of the delay in the window, is taken out of them as `steadied` does.
    """

    def __init__(self, batch: xr.Dataset, growth: np.ndarray | None = None) -> None:
        self._batch = batch
        self._growth = np.zeros((batch.sizes["sample"], batch.sizes["receiver"])) if growth is None else growth
        is_long = batch.sizes["receiver"] * batch.sizes["time"] > _LONG_IQ_SAMPLES
        self._all = None if is_long else steadied(schema.voltage(batch), self._growth)

    def of_receiver(self, receiver: int) -> np.ndarray:
        """Samples (S, N) of one receiver."""
        if self._all is not None:
            return self._all[:, receiver]
        voltage = schema.voltage(self._batch.isel(receiver=[receiver]))
        return steadied(voltage, self._growth[:, [receiver]])[:, 0]

    def of_scene(self, scene: int, receiver: int) -> np.ndarray:
        """Samples (N,) of one receiver in one scene."""
        if self._all is not None:
            return self._all[scene, receiver]
        voltage = schema.voltage(self._batch.isel(sample=[scene], receiver=[receiver]))
        return steadied(voltage, self._growth[[scene]][:, [receiver]])[0, 0]

    def spectra(self) -> tuple[spectra.Spectrum, np.ndarray]:
        """Power spectra, and mean powers (S, R)."""
        rate_hz = float(self._batch.attrs["sample_rate_hz"])
        if self._all is not None:
            return spectra.power_spectrum(self._all, rate_hz), (np.abs(self._all) ** 2).mean(axis=-1)
        shape = self._batch.sizes["sample"], self._batch.sizes["receiver"]
        power, densities = np.empty(shape), []
        for place in np.ndindex(shape):
            voltage = self.of_scene(*place)
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
                partial(self.of_scene, scene),
                int(reference[scene]),
                weight[scene],
                max_delay_samples=max_delay_samples[scene],
                max_frequency_cycles=max_frequency_cycles,
            )
            for scene in range(len(reference))
        ]
        return correlation.AmbiguityPeak(*(np.concatenate(values) for values in zip(*peaks, strict=True)))


def delay_growth(batch: xr.Dataset, fdoa_hz: np.ndarray) -> np.ndarray | None:
    """Growth of delays against the reference's (S, R), samples per sample, by frequencies received higher than there.

    Where one crystal drives tuner and sample clock of each receiver, a clock that gains time tunes as much too high,
    and motion shifts and compresses a signal alike: either way the growth is minus the frequency difference over the
    carrier. None where that is not said of the receivers.

    Raises
    ------
    ValueError
        If the carrier is not known.
    """
    if not batch.attrs.get("one_crystal", 0):
        return None
    of_scenes = "centre_frequency" in batch
    carrier_hz = (
        batch["centre_frequency"].values[:, None] if of_scenes else np.array(batch.attrs["centre_frequency_hz"])
    )
    if not (carrier_hz > 0).all():
        raise ValueError(
            "centre_frequency_hz: is not known, so that frequencies do not tell the rates of clocks; set it, or "
            "one_crystal to 0"
        )
    return -np.nan_to_num(fdoa_hz) / carrier_hz


def steadied(voltage: np.ndarray, growth: np.ndarray) -> np.ndarray:
    """Samples (S, R, N) as if their delays did not grow (S, R) in the window, but were what they are at its middle."""
    if not growth.any():
        return voltage
    num_time = voltage.shape[-1]
    steady = voltage.copy()
    for place in np.argwhere(growth):
        scene, receiver = place
        margin = HALF_WIDTH + 1 + int(np.ceil(abs(growth[scene, receiver]) * num_time / 2))
        padded = np.pad(voltage[scene, receiver].astype(np.complex128), margin)
        for first in range(0, num_time, _PIECE_SAMPLES):
            at = np.arange(first, min(first + _PIECE_SAMPLES, num_time), dtype=float)
            moved = at + growth[scene, receiver] * (at - num_time / 2)
            steady[scene, receiver, first : first + _PIECE_SAMPLES] = interpolate_many(padded, moved + margin)
    return steady


def steadied_by_frequencies(batch: xr.Dataset) -> np.ndarray:
    """Samples (S, R, N) of a batch with measurements, without what `delay_growth` says of their delays."""
    growth = delay_growth(batch, batch["fdoa_hz"].values) if batch.attrs.get("one_crystal", 0) else None
    return schema.voltage(batch) if growth is None else steadied(schema.voltage(batch), growth)
