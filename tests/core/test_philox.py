"""Counter-based random numbers: published vectors, a second implementation, distributions and independence.

Seeds are fixed, so each statistical test either always passes or always fails. The thresholds are those at which a
correct generator fails once in 10⁴ draws of the seed (p-values) or at 5 standard deviations.
"""

import itertools
import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats

from heimdall_lab.core.config import MAX_NORMAL
from heimdall_lab.core.philox import Stage, Streams, complex_normal, philox4x32

P_VALUE = 1e-4
WORD = st.integers(0, 2**32 - 1)


class ConstantWords(Streams):
    """Streams whose every 32-bit word is the seed."""

    def words(self, stage: Stage, count: int, lane: int = 0) -> np.ndarray:
        del stage, lane
        return np.full((len(self.sample), count), self.seed, dtype=np.uint32)


def streams(samples, seed: int = 20, attempt: int = 0) -> Streams:
    samples = np.asarray(samples, dtype=np.uint64)
    return Streams(seed, samples, np.full_like(samples, attempt))


def philox_in_python(counter: tuple[int, ...], key: int) -> tuple[int, ...]:
    """Philox-4x32-10 on Python integers, written from the pseudo-code of Salmon et al. (SC'11), section 4."""
    mask = 2**32 - 1
    left0, right0, left1, right1 = counter
    key0, key1 = key & mask, key >> 32
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * left0, 2**32)
        high1, low1 = divmod(0xCD9E8D57 * left1, 2**32)
        left0, right0, left1, right1 = high1 ^ right0 ^ key0, low1, high0 ^ right1 ^ key1, low0
        key0, key1 = (key0 + 0x9E3779B9) & mask, (key1 + 0xBB67AE85) & mask
    return left0, right0, left1, right1


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
    ids=["zeros", "ones", "pi"],
)
def test_known_answers_of_random123(counter, key, expected):
    words = philox4x32(*(np.uint32(word) for word in (*counter, *key)))
    assert [int(word) for word in words] == list(expected)


@given(st.tuples(WORD, WORD, WORD, WORD), st.integers(0, 2**64 - 1))
def test_compiled_words_agree_with_python_integers(counter, key):
    words = philox4x32(*(np.uint32(word) for word in (*counter, key & 2**32 - 1, key >> 32)))
    assert tuple(int(word) for word in words) == philox_in_python(counter, key)


@given(WORD, WORD, st.integers(0, 2**64 - 1), st.integers(0, 2**24 - 1), st.sampled_from(Stage))
def test_streams_count_block_attempt_sample_and_stage_with_lane(sample, attempt, seed, lane, stage):
    words = streams([sample], seed, attempt).words(stage, 6, lane)[0]
    blocks = [philox_in_python((block, attempt, sample, stage + 256 * lane), seed) for block in range(2)]
    assert [int(word) for word in words] == [*blocks[0], *blocks[1]][:6]


@given(WORD, WORD)
@example(2**32 - 1, 0)
@example(0, 2**31)
@example(2**31 - 1, 2**31 - 1)
@example(0, 2_350_423_105)
def test_complex_normal_is_the_box_muller_transform_to_float32(radius_word, angle_word):
    power = -math.log(float(np.float32(np.float32(radius_word) + np.float32(0.5))) / 2**32)
    expected = math.sqrt(power) * np.exp(2j * np.pi * angle_word / 2**32)
    found = complex(*complex_normal(np.uint32(radius_word), np.uint32(angle_word)))
    # The angle's rounding to 2^-25 turns, 1.9e-7, cosine and sine, 2e-7, and roundings of the radius and the products,
    # 2e-7; the radius's error grows as its root near 0.
    assert abs(found - expected) < 6e-7 * max(1.0, math.sqrt(power)) + math.sqrt(power + 1e-7) - math.sqrt(power)


@pytest.mark.parametrize("draw", ["words", "uniform", "normal", "complex_normal"])
def test_a_sample_does_not_depend_on_the_samples_drawn_with_it(draw):
    chosen = [3, 0, 4_294_967_295, 70_000]
    together = getattr(streams(chosen), draw)(Stage.NOISE, 37)
    for row, sample in enumerate(chosen):
        alone = getattr(streams([sample]), draw)(Stage.NOISE, 37)[0]
        assert np.array_equal(together[row], alone)
    selected = getattr(streams(chosen).select(np.array([2, 0])), draw)(Stage.NOISE, 37)
    assert np.array_equal(selected, together[[2, 0]])


@pytest.mark.parametrize("draw", ["words", "uniform", "normal", "complex_normal"])
def test_fewer_numbers_are_a_prefix_of_more(draw):
    most = getattr(streams([5, 6]), draw)(Stage.WAVEFORM, 64)
    for count in range(1, 64):
        assert np.array_equal(getattr(streams([5, 6]), draw)(Stage.WAVEFORM, count), most[:, :count])


def test_words_fill_all_32_bits_evenly():
    words = streams(np.arange(50)).words(Stage.CLOCK, 4000).ravel()
    assert words.max() < 2**32
    ones = np.array([((words >> np.uint32(bit)) & np.uint32(1)).sum() for bit in range(32)])
    # Each bit is one in half of the words: binomial with standard deviation sqrt(n) / 2.
    assert np.abs(ones - len(words) / 2).max() < 5 * math.sqrt(len(words)) / 2


def test_uniform_is_uniform_between_its_bounds():
    numbers = streams(np.arange(50)).uniform(Stage.POWER, 4000, -10.0, 30.0).ravel()
    assert stats.kstest(numbers, stats.uniform(-10, 40).cdf).pvalue > P_VALUE
    # Serial correlation of independent numbers: standard deviation 1 / sqrt(n).
    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 5 / math.sqrt(len(numbers))


@pytest.mark.parametrize("word", [0, 2**32 - 1])
def test_extreme_words_stay_inside_the_bounds(word):
    extreme = ConstantWords(word, np.zeros(1, dtype=np.uint64), np.zeros(1, dtype=np.uint64))
    assert 0 < extreme.uniform(Stage.POWER, 1)[0, 0] < 1
    assert -50 < extreme.uniform(Stage.POWER, 1, -50.0, 50.0)[0, 0] < 50
    assert np.abs(extreme.normal(Stage.CLOCK, 1)).max() <= MAX_NORMAL
    # Power is -ln u, at most 33 ln 2 for 32-bit numbers.
    assert np.abs(extreme.complex_normal(Stage.NOISE, 1)[0, 0]) ** 2 <= 33 * math.log(2) * (1 + 1e-6)


def test_largest_normal_is_just_below_its_bound():
    largest = np.abs(ConstantWords(0, np.zeros(1, np.uint64), np.zeros(1, np.uint64)).normal(Stage.CLOCK, 1)).max()
    assert largest == pytest.approx(math.sqrt(2 * 33 * math.log(2)), rel=1e-12)
    assert MAX_NORMAL - 0.1 < largest < MAX_NORMAL


def test_normal_is_standard_normal():
    numbers = streams(np.arange(50)).normal(Stage.SHADOWING, 4000).ravel()
    assert stats.kstest(numbers, stats.norm.cdf).pvalue > P_VALUE
    # The tails, to which the Kolmogorov-Smirnov test is blind: counts beyond 3 standard deviations are binomial.
    assert stats.binomtest(int((np.abs(numbers) > 3).sum()), len(numbers), 2 * stats.norm.sf(3)).pvalue > P_VALUE
    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 5 / math.sqrt(len(numbers))


def test_complex_normal_is_circular_with_unit_power():
    numbers = streams(np.arange(50)).complex_normal(Stage.NOISE, 4000).ravel()
    count = len(numbers)
    assert numbers.dtype == np.complex64
    wide = numbers.astype(complex)
    for component in (wide.real, wide.imag):
        assert stats.kstest(component, stats.norm(scale=math.sqrt(0.5)).cdf).pvalue > P_VALUE
    assert stats.kstest(np.abs(wide) ** 2, stats.expon.cdf).pvalue > P_VALUE
    assert stats.kstest(np.angle(wide) / (2 * np.pi) + 0.5, stats.uniform.cdf).pvalue > P_VALUE
    assert abs((np.abs(wide) ** 2).mean() - 1) < 5 / math.sqrt(count)  # power is exponential: variance 1
    assert abs((wide**2).mean()) < 5 * math.sqrt(2 / count)  # E|x²|² = E|x|⁴ = 2
    assert abs((wide[1:] * wide[:-1].conj()).mean()) < 5 / math.sqrt(count)


def test_no_block_of_words_occurs_twice():
    """128-bit blocks of streams that differ in one part of the key never meet: 10⁵ of them collide with p < 10⁻²⁸."""
    blocks = []
    for seed, attempt, stage in itertools.product((0, 1, 2**32, 2**63), (0, 1, 2), Stage):
        words = streams([0, 1, 2**31, 2**32 - 1], seed, attempt).words(stage, 4 * 64)
        blocks.append(words.reshape(-1, 4))
    every = np.concatenate(blocks)
    assert len(np.unique(every, axis=0)) == len(every)


def test_streams_of_different_keys_are_uncorrelated():
    count = 20_000
    keys = [(seed, 0, 0, Stage.NOISE) for seed in (20, 21, 20 + 2**32, 20 + 2**63)]
    keys += [(20, sample, 0, Stage.NOISE) for sample in (1, 2, 2**31)]
    keys += [(20, 0, attempt, Stage.NOISE) for attempt in (1, 2, 3)]
    keys += [(20, 0, 0, stage) for stage in Stage if stage != Stage.NOISE]
    numbers = [streams([sample], seed, attempt).uniform(stage, count)[0] for seed, sample, attempt, stage in keys]
    correlation = np.corrcoef(numbers)
    # Of independent streams: standard deviation 1 / sqrt(n). 5 of them are exceeded by one of 190 pairs with p = 1e-4.
    assert np.abs(correlation - np.eye(len(keys))).max() < 5 / math.sqrt(count)
