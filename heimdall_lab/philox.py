"""Counter-based random numbers: every value is a pure function of (seed, sample, attempt, stage, index).

The generator is Philox-4x32-10 of Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3",
SC'11. Because no state is carried, a sample's numbers do not depend on shard size, batch size, workers or backend.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from heimdall_lab.arrays import Array, array_namespace

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)

MAX_NORMAL = 6.8  # sqrt(2 · 33 · ln 2) = 6.76: no normal drawn from 32-bit uniforms is larger


class Stage(IntEnum):
    """What a draw is for; a number per purpose, so that a new purpose never shifts the others."""

    TRANSMITTER = 0
    POWER = 1
    SHADOWING = 2
    ENVIRONMENT = 3
    CLOCK = 4
    OSCILLATOR = 5
    CARRIER_PHASE = 6
    NOISE = 7
    WAVEFORM_KIND = 8
    WAVEFORM = 9
    WAVEFORM_NOISE = 10
    PLACEMENT = 11
    MOTION = 12
    DRIFT = 13
    LINE_OF_SIGHT = 14
    EXCESS_DELAY = 15
    COHERENCE_TIME = 16
    SCATTERERS = 17
    ECHO = 18


def philox4x32(counter: tuple[Array, Array, Array, Array], key: int) -> tuple[Array, Array, Array, Array]:
    """Encrypt four 32-bit counter words (uint64 arrays that broadcast) under a 64-bit key.

    Returns
    -------
    four uint64 arrays, each holding 32 random bits
    """
    c0, c1, c2, c3 = counter
    keys = [key & 0xFFFFFFFF, key >> 32]
    for _ in range(_ROUNDS):
        product0, product1 = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0, c2 = (product1 >> _SHIFT) ^ c1 ^ np.uint64(keys[0]), (product0 >> _SHIFT) ^ c3 ^ np.uint64(keys[1])
        c1, c3 = product1 & _LOW, product0 & _LOW
        keys = [(word + step) & 0xFFFFFFFF for word, step in zip(keys, _WEYL, strict=True)]
    return c0, c1, c2, c3


@dataclass(frozen=True)
class Streams:
    """One independent random stream for each sample.

    Attributes
    ----------
    seed : int
        Of the dataset, 0 … 2⁶⁴ − 1.
    sample, attempt : (S,) uint64
        Index of the sample in the dataset, and which candidate scene of that sample this is.
    """

    seed: int
    sample: Array
    attempt: Array

    def select(self, rows: Array) -> "Streams":
        """Return the streams of some rows (a mask or indices)."""
        return Streams(self.seed, self.sample[rows], self.attempt[rows])

    def to(self, xp: object) -> "Streams":
        """Return the same streams with their keys on another array library."""
        return Streams(self.seed, xp.asarray(self.sample), xp.asarray(self.attempt))  # type: ignore[attr-defined]

    def words(self, stage: Stage, count: int) -> Array:
        """Return (S, count) random 32-bit words as uint64."""
        xp = array_namespace(self.sample)
        block = xp.arange(-(-count // 4), dtype=xp.uint64)[None, :]
        counter = (block, self.attempt[:, None], self.sample[:, None], xp.full((1, 1), int(stage), dtype=xp.uint64))
        words = xp.stack(philox4x32(counter, self.seed), axis=-1)  # (S, count / 4, 4)
        return words.reshape(len(self.sample), -1)[:, :count]

    def uniform(self, stage: Stage, count: int, low: float = 0.0, high: float = 1.0) -> Array:
        """Return (S, count) float64 numbers, uniform between low and high and never equal to either."""
        return low + (high - low) * (self.words(stage, count).astype(np.float64) + 0.5) / 2.0**32

    def complex_normal(self, stage: Stage, count: int) -> Array:
        """Return (S, count) complex64 circular normal numbers of unit power, by the Box-Muller transform."""
        xp = array_namespace(self.sample)
        words = self.words(stage, 2 * count).astype(xp.float32)
        radius = xp.sqrt(-xp.log((words[:, 0::2] + xp.float32(0.5)) * xp.float32(2.0**-32)))
        angle = words[:, 1::2] * xp.float32(2 * np.pi * 2.0**-32)
        return radius * xp.exp(1j * angle)

    def normal(self, stage: Stage, count: int) -> Array:
        """Return (S, count) float64 standard normal numbers, by the Box-Muller transform."""
        first, second = np.moveaxis(self.uniform(stage, 2 * count).reshape(len(self.sample), count, 2), -1, 0)
        return np.sqrt(-2 * np.log(first)) * np.cos(2 * np.pi * second)
