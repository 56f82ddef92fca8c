"""Fading against Clarke's model in closed form, and the drawn echoes against their distributions.

Seeds are fixed; statistical thresholds are those that a correct simulator misses for one seed in 10⁴, or 5 standard
errors.
"""

import tracemalloc

import numpy as np
import pytest
from scipy import signal, special, stats

from heimdall_lab.core.config import Channel
from heimdall_lab.core.philox import Stage, Streams
from heimdall_lab.simulation.propagation import fading

P_VALUE = 1e-4
DOPPLER_HZ = 10.0


def streams(count: int, seed: int = 8) -> Streams:
    samples = np.arange(count, dtype=np.uint64)
    return Streams(seed, samples, np.zeros_like(samples))


def one_path(num_scenes: int, num_receivers: int, steady: float, power: float = 1.0) -> fading.Multipath:
    shape = (num_scenes, num_receivers, 1)
    return fading.Multipath(
        np.zeros(shape), np.full(shape, power), np.full(shape, steady), np.full(shape[:2], DOPPLER_HZ)
    )


def in_sight(num_scenes: int, num_receivers: int = 5) -> np.ndarray:
    return np.ones((num_scenes, num_receivers), dtype=bool)


def dense_power(paths: fading.Multipath, rows: Streams, duration_s: float, count: int) -> np.ndarray:
    """|Σ_p g_p(t)|² at ``count`` times 0 … duration_s, (S, R, count)."""
    gain = fading.gains(paths, rows, duration_s / (count - 1), count).astype(complex)
    return np.abs(gain.sum(axis=2)) ** 2


@pytest.fixture(scope="module")
def rayleigh():
    """Gains of 100,000 paths at lags of 0 … 20 rad of the largest Doppler shift, and the lags in s."""
    step_s = 0.1 / (2 * np.pi * DOPPLER_HZ)
    gain = fading.gains(one_path(10_000, 10, 0.0), streams(10_000), step_s, 201).reshape(100_000, 201)
    return gain.astype(complex), step_s * np.arange(201)


@pytest.mark.parametrize("column", [0, 24, 200])
def test_scattered_paths_are_complex_normal_at_any_time(rayleigh, column):
    gain = rayleigh[0][:, column]
    assert stats.kstest(np.abs(gain), stats.rayleigh(scale=0.5**0.5).cdf).pvalue > P_VALUE
    assert stats.kstest(np.angle(gain), stats.uniform(-np.pi, 2 * np.pi).cdf).pvalue > P_VALUE
    for part in (gain.real, gain.imag):
        assert stats.kstest(part, stats.norm(scale=0.5**0.5).cdf).pvalue > P_VALUE
    assert abs((gain**2).mean()) < 5 * (2 / len(gain)) ** 0.5


def test_autocorrelation_is_the_bessel_function(rayleigh):
    """Clarke's eq. (19), from 0 to 20 rad, past six zeros of J0; the imaginary part is 0."""
    gain, time_s = rayleigh
    argument = 2 * np.pi * DOPPLER_HZ * time_s
    assert argument[-1] > special.jn_zeros(0, 6)[-1]
    for column in (1, 5, 10, 24, 38, 55, 70, 87, 120, 150, 200):
        product = gain[:, column] * gain[:, 0].conj()
        error = np.array([product.real.std(), product.imag.std()]) / len(gain) ** 0.5
        assert abs(product.real.mean() - special.j0(argument[column])) < 5 * error[0]
        assert abs(product.imag.mean()) < 5 * error[1]


@pytest.mark.parametrize("k_db", [-10.0, 0.0, 10.0])
def test_rician_envelopes_and_their_k(k_db):
    k = 10 ** (k_db / 10)
    settings = Channel(fading="rician", rician_k_db=k_db)
    paths = fading.draw_multipath(settings, streams(20_000), in_sight(20_000))
    gain = fading.gains(paths, streams(20_000), 0.03, 2).astype(complex).reshape(100_000, 2)
    for column in range(2):
        envelope = np.abs(gain[:, column])
        distribution = stats.rice((2 * k) ** 0.5, scale=(1 / (2 * (1 + k))) ** 0.5)
        assert stats.kstest(envelope, distribution.cdf).pvalue > P_VALUE
        # K from the second and fourth moments: Greenstein et al., IEEE Comm. Letters 3 (1999), in 100 groups.
        power = (envelope**2).reshape(100, 1000)
        variance = power.var(axis=1, ddof=1) / power.mean(axis=1) ** 2
        root = np.sqrt(np.maximum(1 - variance, 0))
        standard_error = variance.std() / 10
        assert abs(variance.mean() - (1 + 2 * k) / (1 + k) ** 2) < 5 * standard_error + 4 / 1000  # bias of a ratio
        if k >= 1:
            assert np.median(root / (1 - root)) == pytest.approx(k, rel=0.05)
    assert stats.kstest(np.angle(gain[:, 0]), stats.uniform(-np.pi, 2 * np.pi).cdf).pvalue > P_VALUE


def test_the_spectrum_is_that_of_jakes():
    """Nothing beyond the largest Doppler shift, and the share of the power in its outer tenth that Clarke gives."""
    count, step_s = 4096, 1 / (8 * DOPPLER_HZ)
    gain = fading.gains(one_path(60, 5, 0.0), streams(60), step_s, count).astype(complex)[:, :, 0]
    window = signal.windows.chebwin(count, 120)
    density = (np.abs(np.fft.fft(gain * window, axis=-1)) ** 2).sum(axis=(0, 1))
    shift = np.abs(np.fft.fftfreq(count, step_s)) / DOPPLER_HZ
    resolution = 5 / (count * step_s * DOPPLER_HZ)  # of the window's main lobe
    assert density[shift > 1 + resolution].sum() / density.sum() < 1e-7  # complex64
    outer = density[shift > 0.9].sum() / density.sum()
    expected = 1 - 2 / np.pi * np.arcsin(0.9)
    # 300 paths of 16 waves: the variance of a share p of exponential powers is at most p (1 − p) 2 / 4800.
    assert outer == pytest.approx(expected, abs=5 * (2 * expected * (1 - expected) / 4800) ** 0.5 + resolution)
    upper = density[np.fft.fftfreq(count) > 0].sum() / density.sum()
    assert upper == pytest.approx(0.5, abs=5 * (0.5 / 4800) ** 0.5)


def test_coherence_time_is_0_423_over_the_doppler_spread():
    assert fading.doppler_spread_hz(np.array([0.423, 0.05])) == pytest.approx([1.0, 8.46], rel=5e-4)  # 0.42314
    settings = Channel(fading="rayleigh", coherence_time_min_s=0.05, coherence_time_max_s=0.2)
    paths = fading.draw_multipath(settings, streams(20_000), in_sight(20_000))
    coherence_s = np.sqrt(9 / (16 * np.pi)) / paths.doppler_hz.ravel()
    assert stats.kstest(coherence_s, stats.uniform(0.05, 0.15).cdf).pvalue > P_VALUE
    assert paths.doppler_hz.max() <= settings.max_fading_hz == pytest.approx(8.463, abs=1e-3)
    assert Channel(fading="none").max_fading_hz == 0
    still = fading.draw_multipath(Channel(fading="none"), streams(3), in_sight(3))
    assert (still.doppler_hz == 0).all()


@pytest.mark.parametrize(("fewest", "most"), [(2, 3), (0, 5), (1, 1)])
def test_echoes_are_drawn_as_asked(fewest, most):
    settings = Channel(
        multipath_taps_min=fewest,
        multipath_taps_max=most,
        multipath_delay_min_s=0.5e-6,
        multipath_delay_max_s=5e-6,
        multipath_power_min_db=-25.0,
        multipath_power_max_db=-10.0,
    )
    paths = fading.draw_multipath(settings, streams(20_000), in_sight(20_000))
    assert paths.power.shape == paths.delay_s.shape == paths.steady.shape == (20_000, 5, 1 + most)
    assert (paths.power[..., 0] == 1).all()
    assert (paths.delay_s[..., 0] == 0).all()
    there = paths.power[..., 1:] > 0
    assert (paths.delay_s[..., 1:][~there] == 0).all()
    number = np.bincount(there.sum(axis=-1).ravel(), minlength=most + 1)
    assert (number[:fewest] == 0).all()
    assert stats.chisquare(number[fewest:]).pvalue > P_VALUE if most > fewest else number[most] == 100_000
    delay_s = paths.delay_s[..., 1:][there]
    level_db = 10 * np.log10(paths.power[..., 1:][there])
    assert stats.kstest(delay_s, stats.uniform(0.5e-6, 4.5e-6).cdf).pvalue > P_VALUE
    assert stats.kstest(level_db, stats.uniform(-25, 15).cdf).pvalue > P_VALUE
    # Echoes of a link are independent of each other, and their delays of their levels.
    assert abs(np.corrcoef(delay_s, level_db)[0, 1]) < 5 / len(delay_s) ** 0.5
    if most == 3:
        three = there.all(axis=-1)
        drawn = np.concatenate([paths.delay_s[three][:, 1:], np.log(paths.power[three][:, 1:])], axis=1)
        assert np.abs(np.corrcoef(drawn.T) - np.eye(6)).max() < 5 / three.sum() ** 0.5
        # Receivers draw their own.
        across = np.corrcoef(paths.delay_s[:, :, 1].T)
        assert np.abs(across - np.eye(5)).max() < 5 / 20_000**0.5


@pytest.mark.parametrize("kind", ["none", "rayleigh", "rician"])
def test_the_ensemble_has_the_power_of_all_paths(kind):
    settings = Channel(
        fading=kind,
        multipath_taps_min=2,
        multipath_taps_max=3,
        multipath_power_min_db=-6.0,
        multipath_power_max_db=-3.0,
    )
    paths = fading.draw_multipath(settings, streams(20_000), in_sight(20_000))
    mean = fading.mean_power(paths, streams(20_000), 0.2, settings.max_fading_hz).ravel()
    excess = mean - paths.power.sum(axis=-1).ravel()
    assert abs(excess.mean()) < 5 * excess.std() / len(mean) ** 0.5
    assert excess.std() > 0.1  # paths do interfere
    # Each path by itself has its power.
    gain = fading.gains(paths, streams(20_000), 1.0, 1)[..., 0].astype(complex)
    share = np.abs(gain) ** 2 - paths.power
    assert (np.abs(share.mean(axis=(0, 1))) <= 5 * share.std(axis=(0, 1)) / 100_000**0.5 + 1e-7).all()


@pytest.mark.parametrize("kind", ["rayleigh", "rician"])
@pytest.mark.parametrize(
    "duration_s",
    [0.005, pytest.param(0.02, marks=pytest.mark.slow), 0.1, pytest.param(0.2, marks=pytest.mark.slow), 1.0],
)
def test_mean_power_is_that_of_the_window(kind, duration_s):
    """To 0.02 dB even where it fades; the plain mean over 2001 times is right to 1e-3 dB itself."""
    settings = Channel(fading=kind, multipath_taps_min=2, multipath_taps_max=3)
    rows = streams(400)
    paths = fading.draw_multipath(settings, rows, np.arange(5) < np.full((400, 1), 3))
    found_db = 10 * np.log10(fading.mean_power(paths, rows, duration_s, settings.max_fading_hz))
    dense = dense_power(paths, rows, duration_s, 2001)
    exact_db = 10 * np.log10((dense[..., 1:] + dense[..., :-1]).mean(axis=-1) / 2)
    assert np.abs(found_db - exact_db).max() < 0.02
    assert exact_db.std() > 0.5


def test_long_windows_of_many_scenes_take_little_memory():
    """The gains of all 400 scenes at once would be 217 MB, and as much again for their powers."""
    settings = Channel(fading="rayleigh", coherence_time_min_s=0.05, multipath_taps_min=3, multipath_taps_max=3)
    paths = fading.draw_multipath(settings, streams(400), in_sight(400))
    tracemalloc.start()
    mean = fading.mean_power(paths, streams(400), 50.0, settings.max_fading_hz)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 150e6
    last = fading.Multipath(*(values[-1:] for values in vars(paths).values()))
    alone = fading.mean_power(last, streams(400).select(slice(-1, None)), 50.0, settings.max_fading_hz)
    assert np.array_equal(alone[0], mean[-1])


def test_without_fading_paths_add_up_as_they_stand():
    settings = Channel(fading="none", multipath_taps_min=2, multipath_taps_max=3)
    paths = fading.draw_multipath(settings, streams(4000), in_sight(4000))
    gain = fading.gains(paths, streams(4000), 0.01, 7)
    assert (gain == gain[..., :1]).all()
    assert np.abs(gain[..., 0]) == pytest.approx(paths.power**0.5, rel=1e-6)
    phase = np.angle(gain[..., 0][paths.power > 0])
    assert stats.kstest(phase, stats.uniform(-np.pi, 2 * np.pi).cdf).pvalue > P_VALUE
    steady = np.abs(gain[..., 0].astype(complex).sum(axis=2)) ** 2
    assert fading.mean_power(paths, streams(4000), 0.2, 0.0) == pytest.approx(steady, rel=1e-6)


def test_links_out_of_sight_fade_by_rayleigh():
    settings = Channel(fading="rician", rician_k_db=10.0, multipath_taps_min=3, multipath_taps_max=3)
    line_of_sight = np.arange(20_000)[:, None] % 2 == np.arange(5) % 2
    paths = fading.draw_multipath(settings, streams(20_000), line_of_sight)
    assert (paths.steady[..., 0] == np.where(line_of_sight, 1 - 1 / 11, 0)).all()
    assert (paths.steady[..., 1:] == 0).all()
    gain = np.abs(fading.gains(paths, streams(20_000), 1.0, 1)[..., 0].astype(complex)) / np.sqrt(paths.power)
    assert stats.kstest(gain[..., 0][~line_of_sight], stats.rayleigh(scale=0.5**0.5).cdf).pvalue > P_VALUE
    rician = stats.rice(20**0.5, scale=(1 / 22) ** 0.5)
    assert stats.kstest(gain[..., 0][line_of_sight], rician.cdf).pvalue > P_VALUE
    assert stats.kstest(gain[..., 1:].ravel(), stats.rayleigh(scale=0.5**0.5).cdf).pvalue > P_VALUE


@pytest.mark.parametrize("kind", ["none", "rayleigh"])
def test_paths_receivers_and_scenes_are_independent(kind):
    settings = Channel(fading=kind, multipath_taps_min=5, multipath_taps_max=5)
    paths = fading.draw_multipath(settings, streams(20_000), in_sight(20_000))
    gain = fading.gains(paths, streams(20_000), 1.0, 1)[..., 0].astype(complex) / np.sqrt(paths.power)
    columns = gain.reshape(20_000, 30)
    for correlation in (columns.T.conj() @ columns, columns.T @ columns):
        off = np.abs(correlation) / 20_000
        assert (off - np.diag(np.diag(off))).max() < 5 / 20_000**0.5
    neighbours = (columns[1:] * columns[:-1].conj()).mean(axis=0)  # of scenes
    assert np.abs(neighbours).max() < 5 / 20_000**0.5
    if kind == "rayleigh":
        powers = np.corrcoef(np.abs(columns.T) ** 2)
        assert np.abs(powers - np.eye(30)).max() < 5 / 20_000**0.5


def test_other_steps_give_the_same_gains_at_the_same_times():
    settings = Channel(fading="rician", multipath_taps_min=2, multipath_taps_max=3)
    paths = fading.draw_multipath(settings, streams(50), in_sight(50))
    coarse, fine = (fading.gains(paths, streams(50), 0.02 / n, 1 + 40 * n) for n in (1, 7))
    assert np.abs(fine[..., ::7] - coarse).max() < 2e-6  # complex64 of numbers up to 4
    assert np.abs(np.diff(coarse, axis=-1)).max() > 0.1


def test_a_scene_alone_fades_as_among_others():
    settings = Channel(fading="rician", multipath_taps_min=2, multipath_taps_max=3)
    paths = fading.draw_multipath(settings, streams(30), in_sight(30))
    together = fading.gains(paths, streams(30), 0.01, 9)
    for row in (0, 17, 29):
        rows = streams(30).select(np.array([row]))
        alone = fading.draw_multipath(settings, rows, in_sight(1))
        assert np.array_equal(alone.power[0], paths.power[row])
        assert np.array_equal(fading.gains(alone, rows, 0.01, 9)[0], together[row])
        mean = fading.mean_power(alone, rows, 0.3, 8.5)[0]
        assert np.array_equal(mean, fading.mean_power(paths, streams(30), 0.3, 8.5)[row])


@pytest.mark.parametrize(
    ("fading_class", "nlos_ratio", "duration_s"),
    [
        ("rayleigh", 0.0, 0.2),
        ("rayleigh", 0.0, 1.0),
        ("rayleigh", 0.0, 0.001),
        ("rician", 0.0, 0.2),
        ("rician", 0.3, 0.2),
    ],
)
def test_spread_of_levels_is_that_of_windows(fading_class, nlos_ratio, duration_s):
    """The gamma law is an approximation, to a tenth."""
    settings = Channel(fading=fading_class, nlos_ratio=nlos_ratio)
    rows = streams(20_000)
    sight = rows.uniform(Stage.LINE_OF_SIGHT, 1) >= nlos_ratio
    paths = fading.draw_multipath(settings, rows, sight)
    level_db = 10 * np.log10(fading.mean_power(paths, rows, duration_s, settings.max_fading_hz))
    assert fading.level_sigma_db(settings, duration_s) == pytest.approx(level_db.std(), rel=0.1)


@pytest.mark.parametrize("taps", [(1, 1), (2, 3)])
def test_echoes_shift_arrivals_as_much_as_is_known(taps):
    """Against the slope of phase at the carrier, exact, of 100,000 links; weak echoes, so that the first order holds.

    Echoes of −20 dB have a variance of amplitudes of 1 % each, and what the first order leaves is of that size: 3 %.
    """
    settings = Channel(
        multipath_taps_min=taps[0], multipath_taps_max=taps[1], multipath_power_min_db=-40, multipath_power_max_db=-20
    )
    paths = fading.draw_multipath(settings, streams(20_000), in_sight(20_000))
    phase = np.random.Generator(np.random.Philox(4)).uniform(0, 2 * np.pi, paths.power.shape)
    gain = np.sqrt(paths.power) * np.exp(1j * np.where(np.arange(phase.shape[-1]) == 0, 0, phase))
    shift_s = ((gain * paths.delay_s).sum(axis=-1) / gain.sum(axis=-1)).real
    assert fading.echo_delay_sigma_s(settings) == pytest.approx(shift_s.std(), rel=0.03)
    assert fading.echo_delay_sigma_s(Channel()) == 0
