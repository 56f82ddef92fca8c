"""What recordings give to the joint solution, as arrays over recordings of as many emissions each."""

from collections.abc import Iterator
from typing import Any, NamedTuple, Self

import numpy as np

from heimdall_lab.core.arrays import Array
from heimdall_lab.localization import paths


class Recordings(NamedTuple):
    """Pseudo-ranges of B recordings of S emissions by R receivers, and what is known beforehand.

    ``measured_m`` is 0 where there is none, and its variance 1.
    """

    latitude_deg: Array  # (B, S, R), of the receivers
    longitude_deg: Array  # (B, S, R)
    altitude_m: Array  # (B, S, R)
    measured_m: Array  # (B, S, R)
    variance_m2: Array  # (B, S, R), of all errors but of the clocks that emissions share
    used: Array  # (B, S, R) bool
    is_known: Array  # (B, S) bool, emissions from known places
    place_deg: Array  # (B, S, 2), latitude and longitude of these; else NaN
    height_m: Array  # (B, S), that paths depend on, known beforehand (`paths.height_prior`)
    height_sigma_m: Array  # (B, S)
    basis: Array  # (B, S, K), what one unit of a clock's offset and of its growth adds to a pseudo-range
    span_s: Array  # (B,), over which the second unit grows by 1; 1 where clocks have offsets alone
    clock_mean_m: Array  # (B, M), of clocks beforehand, M = R · K
    clock_information: Array  # (B, M, M) 1/m²
    propagation: str

    def select(self, rows: slice | Array) -> Self:
        """Take some recordings."""
        return self._replace(**{name: values[rows] for name, values in self._arrays()})

    def repeat(self, count: int) -> Self:
        """Every recording several times over, one after the other."""
        repeated: dict[str, Any] = {name: np.repeat(values, count, axis=0) for name, values in self._arrays()}
        return self._replace(**repeated)

    def lengths(self, latitude: Array, longitude: Array, height_m: Array) -> tuple[Array, Array]:
        """Lengths (B, S, R) m of paths from places (B, S) and their gradient (B, S, R, 3); 0 where none is used."""
        receivers = self.latitude_deg, self.longitude_deg, self.altitude_m
        distance, gradient = paths.lengths(self.propagation, receivers, latitude, longitude, height_m)
        return np.where(self.used, distance, 0.0), np.where(self.used[..., None], gradient, 0.0)

    def clock_m(self, clocks: Array) -> Array:
        """What clocks (B, M) add to pseudo-ranges, (B, S, R)."""
        shape = len(clocks), self.used.shape[-1], self.basis.shape[-1]
        return self.basis @ clocks.reshape(shape).swapaxes(1, 2)

    def each_emission(self, clock_mean_m: Array, clock_information: Array) -> Self:
        """Every emission as a recording of its own, of whose clocks (B, S, M) is known beforehand, (B, S, M, M)."""
        count, order = self.is_known.size, min(clock_mean_m.shape[2], 1)
        changed = {
            "basis": np.ones((count, 1, order)),
            "span_s": np.ones(count),
            "clock_mean_m": clock_mean_m.reshape(count, *clock_mean_m.shape[2:]),
            "clock_information": clock_information.reshape(count, *clock_information.shape[2:]),
        }
        own = [(name, values) for name, values in self._arrays() if name not in changed]
        flat = {name: values.reshape(count, 1, *values.shape[2:]) for name, values in own}
        return self._replace(**(flat | changed))

    def with_clocks_held(self, clocks: Array) -> Self:
        """Take off what clocks (B, M) add, so that none are left to be solved for: M is 0."""
        count = len(clocks)
        return self._replace(
            measured_m=np.where(self.used, self.measured_m - self.clock_m(clocks), 0.0),
            basis=self.basis[..., :0],
            clock_mean_m=np.zeros((count, 0)),
            clock_information=np.zeros((count, 0, 0)),
        )

    def from_prior(self, clocks: Array) -> Array:
        """Information times how far clocks (B, M) are above what is known beforehand, (B, M)."""
        return (self.clock_information @ (clocks - self.clock_mean_m)[..., None])[..., 0]

    def _arrays(self) -> Iterator[tuple[str, Array]]:
        return ((name, values) for name, values in self._asdict().items() if isinstance(values, np.ndarray))
