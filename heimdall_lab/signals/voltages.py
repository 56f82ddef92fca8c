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

    What delays and frequencies grow by in the window, ``growth`` and ``drift`` (S, R), is taken out as by `steadied`.
    """

    def __init__(self, batch: xr.Dataset, growth: np.ndarray | float = 0.0, drift: np.ndarray | float = 0.0) -> None:
        self._batch = batch
        links = batch.sizes["sample"], batch.sizes["receiver"]
        self._growth, self._drift = np.broadcast_to(growth, links), np.broadcast_to(drift, links)
        is_long = batch.sizes["receiver"] * batch.sizes["time"] > _LONG_IQ_SAMPLES
        self._all = None if is_long else steadied(schema.voltage(batch), self._growth, self._drift)

    def of_receiver(self, receiver: int) -> np.ndarray:
        """Samples (S, N) of one receiver."""
        if self._all is not None:
            return self._all[:, receiver]
        voltage = schema.voltage(self._batch.isel(receiver=[receiver]))
        return steadied(voltage, self._growth[:, [receiver]], self._drift[:, [receiver]])[:, 0]

    def of_scene(self, scene: int, receiver: int) -> np.ndarray:
        """Samples (N,) of one receiver in one scene."""
        if self._all is not None:
            return self._all[scene, receiver]
        voltage = schema.voltage(self._batch.isel(sample=[scene], receiver=[receiver]))
        place = np.ix_([scene], [receiver])
        return steadied(voltage, self._growth[place], self._drift[place])[0, 0]

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


def delay_growth(batch: xr.Dataset, fdoa_hz: np.ndarray) -> np.ndarray:
    """Growth of delays against the reference's (S, R), samples per sample, by frequencies received higher than there.

    Where one crystal drives tuner and sample clock of each receiver, a clock that gains time tunes as much too high,
    and motion shifts and compresses a signal alike: either way the growth is minus the frequency difference over the
    carrier. It is 0 where that is not said of the receivers.

    Raises
    ------
    ValueError
        If the carrier is not known.
    """
    if not batch.attrs.get("one_crystal", 0):
        return np.zeros(fdoa_hz.shape)
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


def steadied(voltage: np.ndarray, growth: np.ndarray, drift: np.ndarray) -> np.ndarray:
    """Samples (S, R, N) as if delays and frequencies were all the window long what they are at its middle.

    Delays grow (S, R) by samples per sample, and frequencies by cycles per sample squared.
    """
    if not (growth.any() or drift.any()):
        return voltage
    num_time = voltage.shape[-1]
    steady = voltage.copy()
    for scene, receiver in np.argwhere((growth != 0) | (drift != 0)):
        rate, bend = growth[scene, receiver], drift[scene, receiver]
        margin = HALF_WIDTH + 1 + int(np.ceil(abs(rate) * num_time / 2))
        padded = np.pad(voltage[scene, receiver].astype(np.complex128), margin)
        for first in range(0, num_time, _PIECE_SAMPLES):
            at = np.arange(first, min(first + _PIECE_SAMPLES, num_time), dtype=float)
            from_middle = at - num_time / 2
            values = interpolate_many(padded, at + rate * from_middle + margin)
            steady[scene, receiver, first : first + _PIECE_SAMPLES] = values * np.exp(
                -1j * np.pi * bend * from_middle**2
            )
    return steady


def steadied_by_frequencies(batch: xr.Dataset) -> np.ndarray:
    """Samples (S, R, N) of a batch with measurements, without what `delay_growth` says of their delays."""
    voltage = schema.voltage(batch)
    if not batch.attrs.get("one_crystal", 0):
        return voltage
    growth = delay_growth(batch, batch["fdoa_hz"].values)
    return steadied(voltage, growth, np.zeros_like(growth))
