"""Counter-based random numbers: every value is a pure function of (seed, sample, attempt, stage, lane, index).

The generator is Philox-4x32-10 of Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3",
SC'11. Because no state is carried, a sample's numbers do not depend on shard size, batch size, workers or backend.

The functions compiled here run on scalars, so that other kernels draw their noise where they need it. They keep to
single operations of float32 and uint32 that every machine rounds alike; ``receiver.cu`` repeats them for GPUs.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from heimdall_lab.core.compiled import njit

Word = np.uint32
Single = np.float32

_MULTIPLIER_0, _MULTIPLIER_1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL_0, _WEYL_1 = np.uint32(0x9E3779B9), np.uint32(0xBB67AE85)
_SHIFT = np.uint64(32)
_LANE = 256  # stages take the low byte of their counter word, lanes the rest

# Polynomials, least squares on Chebyshev points. On |t| <= 1/2: sin(πt) / t and cos(πt) in t², to 2e-8;
# on √½ - 1 ... √2 - 1: ln(1 + f) / f in f, to 3e-8: all below the rounding of float32.
_SIN = tuple(map(np.float32, (3.14159265, -5.16771063, 2.55008646, -0.59834268, 0.07775363)))
_COS = tuple(map(np.float32, (1.0, -4.93480215, 4.05870954, -1.33521579, 0.23495336, -0.02442065)))
_LOG = tuple(
    map(
        np.float32,
        (
            *(0.99999997, -0.49999987, 0.33334184, -0.25002154, 0.19956972),
            *(-0.16560675, 0.14949135, -0.14377505, 0.08744053),
        ),
    )
)
_ROOT_HALF_BITS = np.int32(0x3F3504F3)  # of √½ as a float32
_MANTISSA = np.int32(0x7FFFFF)
_LN2 = np.float32(np.log(2.0))
_PER_TURN = np.float32(2.0**-32)
_HALF, _ONE, _TWO = np.float32(0.5), np.float32(1), np.float32(2)


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
    RECEIVER_POSITION = 19
    SPEECH_PAUSE = 20
    CLOCK_RATE = 21
    CLOCK_WALK = 22
    TIME_STAMP = 23
    CARRIER_FREQUENCY = 24


@njit(cache=True, inline="always")
def philox4x32(c0: Word, c1: Word, c2: Word, c3: Word, key0: Word, key1: Word) -> tuple[Word, Word, Word, Word]:
    """Encrypt four counter words under two key words: four random words."""
    for _ in range(10):
        product0 = _MULTIPLIER_0 * np.uint64(c0)
        product1 = _MULTIPLIER_1 * np.uint64(c2)
        c0 = np.uint32(np.uint32(product1 >> _SHIFT) ^ c1 ^ key0)
        c1 = np.uint32(product1)
        c2 = np.uint32(np.uint32(product0 >> _SHIFT) ^ c3 ^ key1)
        c3 = np.uint32(product0)
        key0 = np.uint32(key0 + _WEYL_0)
        key1 = np.uint32(key1 + _WEYL_1)
    return c0, c1, c2, c3


@njit(cache=True, inline="always")
def cos_sin_turn(turn: Single) -> tuple[Single, Single]:
    """Cosine and sine of an angle of −1/2 … 1/2 turns, to 2e-7."""
    q = turn * turn
    sine = turn * (_SIN[0] + q * (_SIN[1] + q * (_SIN[2] + q * (_SIN[3] + q * _SIN[4]))))
    cosine = _COS[0] + q * (_COS[1] + q * (_COS[2] + q * (_COS[3] + q * (_COS[4] + q * _COS[5]))))
    return _ONE - _TWO * sine * sine, _TWO * sine * cosine  # of the double angle: sine and cosine are of π · turn


@njit(cache=True, inline="always")
def complex_normal(radius_word: Word, angle_word: Word) -> tuple[Single, Single]:
    """Two words to the parts of a circular complex normal number of unit power.

    Source: Box and Muller, Ann. Math. Stat. 29 (1958); the radius is sqrt(−ln u) with u = (word + 1/2) / 2³².
    """
    scaled = np.float32(np.float32(radius_word) + _HALF)
    bits = np.int32(np.float32(scaled).view(np.int32) - _ROOT_HALF_BITS)
    exponent = np.int32(bits >> np.int32(23))  # scaled = 2^exponent · (1 + f)
    f = np.int32((bits & _MANTISSA) + _ROOT_HALF_BITS).view(np.float32) - _ONE
    tail = _LOG[4] + f * (_LOG[5] + f * (_LOG[6] + f * (_LOG[7] + f * _LOG[8])))
    log_mantissa = f * (_LOG[0] + f * (_LOG[1] + f * (_LOG[2] + f * (_LOG[3] + f * tail))))
    radius = np.sqrt(np.float32(np.int32(32) - exponent) * _LN2 - log_mantissa)
    cosine, sine = cos_sin_turn(np.float32(np.int32(angle_word)) * _PER_TURN)
    return radius * cosine, radius * sine


@dataclass(frozen=True)
class Streams:
    """One independent random stream for each sample.

    Attributes
    ----------
    seed : int
        Of the dataset, 0 … 2⁶⁴ − 1.
    sample, attempt : (S,) uint64
        Index of the sample in the dataset, and which candidate scene of that sample this is; below 2³².
    """

    seed: int
    sample: np.ndarray
    attempt: np.ndarray

    def select(self, rows: np.ndarray | slice) -> "Streams":
        """Return the streams of some rows (a mask, indices or a slice)."""
        return Streams(self.seed, self.sample[rows], self.attempt[rows])

    def of_recordings(self, emissions: int) -> "Streams":
        """Return the streams that samples share with the other emissions of their recordings."""
        return Streams(self.seed, self.sample // np.uint64(emissions), self.attempt)

    @property
    def key(self) -> np.ndarray:
        """The two words of the key, low one first, (2,) uint32."""
        return np.array([self.seed & 0xFFFFFFFF, self.seed >> 32], dtype=np.uint32)

    def words(self, stage: Stage, count: int, lane: int = 0) -> np.ndarray:
        """Return (S, count) random uint32 words; a stage's lanes are independent of each other."""
        return _words(self.sample, self.attempt, lane_word(stage, lane), self.key, count)

    def uniform(self, stage: Stage, count: int, low: float = 0.0, high: float = 1.0, lane: int = 0) -> np.ndarray:
        """Return (S, count) float64 numbers, uniform between low and high and never equal to either."""
        return low + (high - low) * ((self.words(stage, count, lane) + 0.5) / 2.0**32)

    def complex_normal(self, stage: Stage, count: int, lane: int = 0) -> np.ndarray:
        """Return (S, count) complex64 circular normal numbers of unit power."""
        return _complex_normals(self.words(stage, 2 * count, lane))

    def normal(self, stage: Stage, count: int, lane: int = 0) -> np.ndarray:
        """Return (S, count) float64 standard normal numbers, by the Box-Muller transform."""
        return _normals(self.words(stage, 2 * count, lane))


def lane_word(stage: Stage, lane: int) -> np.uint32:
    """Last counter word of a stage and lane."""
    return np.uint32(stage + _LANE * lane)


@njit(cache=True)
def _words(sample: np.ndarray, attempt: np.ndarray, last: Word, key: np.ndarray, count: int) -> np.ndarray:
    words = np.empty((len(sample), 4 * -(-count // 4)), np.uint32)
    for row in range(len(sample)):
        for block in range(words.shape[1] // 4):
            w0, w1, w2, w3 = philox4x32(
                np.uint32(block), np.uint32(attempt[row]), np.uint32(sample[row]), last, key[0], key[1]
            )
            words[row, 4 * block] = w0
            words[row, 4 * block + 1] = w1
            words[row, 4 * block + 2] = w2
            words[row, 4 * block + 3] = w3
    return words[:, :count]


@njit(cache=True)
def _complex_normals(words: np.ndarray) -> np.ndarray:
    normals = np.empty((words.shape[0], words.shape[1] // 2), np.complex64)
    for row in range(normals.shape[0]):
        for index in range(normals.shape[1]):
            real, imaginary = complex_normal(words[row, 2 * index], words[row, 2 * index + 1])
            normals[row, index] = np.complex64(real + 1j * imaginary)
    return normals


@njit(cache=True)
def _normals(words: np.ndarray) -> np.ndarray:
    normals = np.empty((words.shape[0], words.shape[1] // 2))
    for row in range(normals.shape[0]):
        for index in range(normals.shape[1]):
            radius = np.sqrt(-2 * np.log((words[row, 2 * index] + 0.5) / 2.0**32))
            normals[row, index] = radius * np.cos(2 * np.pi * (words[row, 2 * index + 1] + 0.5) / 2.0**32)
    return normals
