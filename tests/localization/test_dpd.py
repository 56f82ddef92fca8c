"""Direct position determination, against the Cramér-Rao bound, a second implementation, and below the threshold."""

import numpy as np
import pytest

import heimdall_lab as hl
from heimdall_lab.core import geodesy
from heimdall_lab.localization import baselines, bounds, dpd, errors, estimators, leaderboard, observations
from heimdall_lab.localization.dpd import correlations, eigenvalues, search, whitening
from heimdall_lab.signals import pairs

WEAK = {
    "signal": {"transmitter_power_min_dbm": -6, "transmitter_power_max_dbm": -6},
    "gate": {"min_snr_db": -30, "min_mean_snr_db": -30},
}


@pytest.fixture(scope="module")
def strong():
    dataset = hl.generate(hl.preset("los_sync", num_samples=110, seed=17), backend="numpy", progress=False)
    return dataset.isel(sample=np.flatnonzero(dataset.gdop.values < 5))


@pytest.fixture(scope="module")
def strong_measured(strong):
    return pairs.pair_features(strong)


@pytest.mark.slow
def test_errors_are_those_of_the_bound(strong, strong_measured):
    """At most 15 % above the bound, and below it by chance alone, as in test_efficiency; and nothing fails."""
    fixes = estimators.locate(strong.assign(strong_measured), "dpd")
    assert fixes.converged.all()
    bound = bounds.scene_crlb(strong)
    ratio = np.sqrt(((errors.position_errors(strong, fixes).error / bound.crlb_rmse) ** 2).mean())
    normalised = bound.crlb_covariance.values / bound.crlb_rmse.values[:, None, None] ** 2
    standard_error = np.sqrt(2 * (normalised**2).sum()) / len(normalised) / 2
    assert 1 - 3 * standard_error < ratio < 1.15
    inside = (errors.position_errors(strong, fixes).mahalanobis_squared < -2 * np.log(0.05)).mean()
    assert abs(inside - 0.95) < 3 * np.sqrt(0.95 * 0.05 / len(normalised))


@pytest.mark.slow
def test_signals_too_weak_for_single_pairs_are_located():
    """At −5 dB of median SNR most receivers are lost to the time differences, and few to all receivers together."""
    dataset = hl.generate(hl.preset("los_sync", num_samples=40, seed=5, **WEAK), backend="numpy", progress=False)
    board = leaderboard.compare(dataset, ["tdoa_robust", "dpd"])
    near = (board.error < 3 * board.crlb_rmse).mean("sample")  # 98.9 % of normal errors, or more
    robust, joint = near.values
    assert robust < 0.5
    assert joint > 0.85
    assert board.failures.values[1] < 0.1


@pytest.mark.parametrize("num_time", [300, 1000])
@pytest.mark.slow
def test_short_windows_are_as_uncertain_as_said(strong, num_time):
    """Of speech, whose level changes within each of them: ellipses of 95 % hold no fewer than by chance, at 3 sigma.

    In windows of 6 ms one likelihood in a hundred has another summit of the same height.
    """
    short = strong.isel(time=slice(num_time)).assign_attrs(duration_s=num_time / 50e3)
    fixes = estimators.locate(short, "dpd")
    inside = (errors.position_errors(short, fixes).mahalanobis_squared < -2 * np.log(0.05)).mean()
    assert fixes.converged.mean() > 0.98
    assert inside > 0.95 - 3 * np.sqrt(0.95 * 0.05 / strong.sizes["sample"])


def test_envelopes_do_not_pull_the_peaks():
    """One waveform of steep level, delayed: all pairs agree wholly at its delays, and nowhere more."""
    lag = np.array([0, 7, -4, 12, -9, 3, 20])
    time = np.arange(400)[:, None] - lag  # (K, R)
    rng = np.random.Generator(np.random.Philox(3))
    waveform = np.exp(2j * np.pi * rng.uniform(-0.1, 0.1, 5) * time[..., None] + 2j * np.pi * rng.random(5)).sum(
        axis=-1
    )
    voltage = (waveform * np.exp(time / 100)).T[None]
    signals = whitening.WhitenedSignals(voltage, np.ones((1, 1600)), np.ones(1), 0.0, 800)
    table = correlations.correlation_table(signals, np.zeros((1, 7)), 100, 1.0)
    for i in range(7):
        for j in range(i):
            share = np.abs(table[0, i, j]) / np.sqrt(table[0, i, i, 100].real * table[0, j, j, 100].real)
            assert share.argmax() - 100 == 2 * (lag[i] - lag[j])
            assert share.max() == pytest.approx(1, abs=1e-3)


def test_likelihood_is_the_eigenvalue_of_delayed_signals(strong, strong_measured):
    """Whole signals, faded, delayed by phase ramps, and NumPy's eigenvalues; fades that part cost up to 0.3 %."""
    scene, measured = strong.isel(sample=[0]), strong_measured.isel(sample=[0])
    known = observations.from_dataset(scene.assign(measured))
    signals = whitening.whiten(scene)
    frequency_hz = search.search(known, scene, signals, measured.fdoa_hz.values).frequency_hz
    table = correlations.correlate_pairs(known, scene, signals, frequency_hz)
    delay = np.array([[[0, 3.3, -7.25, 11.9, 0.6, -4.4, 8.05], [20.0, 1, 2, 3, 4, 5, 6.5]]])
    found = eigenvalues.largest_eigenvalues(table, delay)[0]
    frequency = np.fft.fftfreq(2**15)
    time = np.arange(signals.voltage.shape[-1])
    faded = signals.voltage[0] * np.sin(np.pi / 2 * np.minimum(1, (4999.5 - np.abs(2 * time - 4999.5)) / 64)) ** 2
    turned = faded * np.exp(-4j * np.pi * time * measured.fdoa_hz.values[0][:, None] / 50e3)
    for row, value in zip(delay[0], found, strict=True):
        spectrum = np.fft.fft(turned, 2**15) * np.exp(2j * np.pi * frequency * row[:, None] / 2)
        gram = spectrum @ spectrum.conj().T / 2**15
        assert value == pytest.approx(np.linalg.eigvalsh(gram)[-1], rel=3e-3)


def test_likelihood_map_peaks_at_the_fix(strong, strong_measured):
    """The best position of the map is the fix to half a step of the map, which is 1.9 km here, on either axis."""
    likelihood = dpd.likelihood(strong.isel(sample=3), side=201)
    assert likelihood.dims == ("north", "east")
    assert likelihood.east.attrs["units"] == likelihood.north.attrs["units"] == "m"
    best = likelihood.isel(likelihood.argmax(...))
    fix = estimators.locate(strong.isel(sample=[3]).assign(strong_measured.isel(sample=[3])), "dpd")
    step_m = float(likelihood.east[1] - likelihood.east[0])
    assert abs(float(best.east - fix.east[0])) < step_m
    assert abs(float(best.north - fix.north[0])) < step_m
    assert float(best) == 0.0


def test_plane_and_ellipsoid_are_each_others_inverse(strong, strong_measured):
    known = observations.from_dataset(strong.assign(strong_measured))
    plane = np.broadcast_to(np.array([[150e3, -120e3], [-3e3, 4e3]]), (strong.sizes["sample"], 2, 2))
    latitude, longitude = observations.from_tangent_plane(known, plane)
    for position in range(2):
        found = observations.tangent_plane(known, latitude[:, position], longitude[:, position])
        assert found == pytest.approx(plane[:, position], abs=1e-2)
    assert np.isfinite(geodesy.wrapped(longitude)).all()


def test_the_plane_reaches_to_the_edge_of_the_earth(strong, strong_measured):
    """Centimetres as near as far, also beyond the pole; farther out positions come out at the edge, 90° away."""
    known = observations.from_dataset(strong.isel(sample=[0]).assign(strong_measured.isel(sample=[0])))
    for far_m in (1e6, 3e6, 4.5e6, 6.3e6):
        plane = far_m * np.array([[1.0, 0.0], [0.0, 1.0], [-0.6, -0.8]])
        latitude, longitude = (degrees[0] for degrees in observations.from_tangent_plane(known, plane[None]))
        many = known.repeat(3)
        assert observations.tangent_plane(many, latitude, longitude) == pytest.approx(plane, abs=0.1)
    beyond = np.array([[[8e6, 0.0], [0.0, 1e7]]])
    centre = baselines.receivers_centroid(known)
    distance, _ = geodesy.geodesic(
        centre.latitude_deg,
        centre.longitude_deg,
        *(degrees[0] for degrees in observations.from_tangent_plane(known, beyond)),
    )
    assert distance == pytest.approx(np.pi / 2 * 6371e3, rel=0.01)


def test_likelihood_refuses_by_name(strong):
    with pytest.raises(ValueError, match=r"scene: holds 2 samples; choose one with \.isel\(sample=0\)"):
        dpd.likelihood(strong.isel(sample=slice(0, 2)))
    with pytest.raises(ValueError, match="iq: is missing; dpd needs a dataset of iq_raw"):
        dpd.likelihood(strong.drop_vars("iq").isel(sample=0))
    with pytest.raises(ValueError, match="side: 1 positions span no map; give at least 2"):
        dpd.likelihood(strong.isel(sample=0), side=1)


@pytest.mark.slow
@pytest.mark.parametrize("kept", [[], [2], [2, 5]])
def test_noise_is_no_fix(strong, kept):
    """Two receivers that hear the signal are a hyperbola, whatever the noise of the others makes of it."""
    scenes = strong.isel(sample=slice(0, 10))
    rng = np.random.Generator(np.random.Philox(1))
    iq = np.clip(rng.standard_normal(scenes.iq.shape) * 5800, -32767, 32767).astype(np.int16)
    iq[:, kept] = scenes.iq.values[:, kept]
    deaf = scenes.assign(iq=scenes.iq.copy(data=iq))
    measured = pairs.pair_features(deaf)
    fixes = estimators.locate(deaf.assign(measured), "dpd")
    assert not fixes.converged.any()
    assert fixes.latitude.values == pytest.approx(estimators.locate(deaf.assign(measured), "centroid").latitude.values)


@pytest.mark.parametrize("clock_sigma_s", [1e-3, np.nan])
def test_poor_clocks_are_no_fix(strong, strong_measured, clock_sigma_s):
    scenes = strong.isel(sample=slice(0, 2)).assign_attrs(clock_sigma_s=clock_sigma_s)
    assert not estimators.locate(scenes.assign(strong_measured.isel(sample=slice(0, 2))), "dpd").converged.any()


def test_without_iq_it_refuses(strong, strong_measured):
    with pytest.raises(ValueError, match="iq: is missing; dpd needs a dataset of iq_raw"):
        estimators.locate(strong.drop_vars("iq").assign(strong_measured), "dpd")
