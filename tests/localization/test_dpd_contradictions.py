"""What contradicts direct position determination: false summits, late clocks, mirror images, frequencies, carriers.

A fix is right within its ellipse, or it is none. Signals are generated, and the fault is put into the IQ of a receiver.
"""

import numpy as np
import pytest
import xarray as xr

import heimdall_lab as hl
from heimdall_lab.localization import bounds, errors, estimators, learned, observations
from heimdall_lab.localization.dpd import correlations, search, verification, whitening
from heimdall_lab.signals.measurements import with_measurements

BEYOND_99_PERCENT = -2 * np.log(0.01)
VOICE = {"voice_ratio": 1.0, "tone_ratio": 0.0, "dual_tone_ratio": 0.0}
SQUARE = [(45.3, 7.3), (45.35, 8.05), (44.75, 7.95), (44.7, 7.25)]  # degrees, corners of some 60 km
MERIDIAN = [(44.7, 7.6), (44.9, 7.6), (45.1, 7.6), (45.35, 7.6)]


def receivers(positions: list[tuple[float, float]]) -> list[dict[str, object]]:
    return [
        {"name": f"r{index}", "latitude_deg": latitude, "longitude_deg": longitude, "altitude_m": 300.0}
        for index, (latitude, longitude) in enumerate(positions)
    ]


def generated(num_samples: int, seed: int, **groups: dict[str, object]) -> xr.Dataset:
    config = hl.preset("los_sync", num_samples=num_samples, seed=seed, **groups)
    return hl.generate(config, backend="numpy", progress=False)


def changed(scenes: xr.Dataset, receiver: int, spectrum: np.ndarray, turn: np.ndarray) -> xr.Dataset:
    """Multiply the IQ of one receiver by a phase over frequency and one over time, at half of its level for room."""
    iq = scenes.iq.values.copy()
    voltage = (iq[:, receiver, 0] + 1j * iq[:, receiver, 1]) / 2
    voltage = np.fft.ifft(np.fft.fft(voltage) * spectrum) * turn
    iq[:, receiver, 0], iq[:, receiver, 1] = np.rint(voltage.real), np.rint(voltage.imag)
    full_scale = scenes.iq_full_scale.values.copy()
    full_scale[:, receiver] *= 2
    return scenes.assign(iq=scenes.iq.copy(data=iq), iq_full_scale=scenes.iq_full_scale.copy(data=full_scale))


def late(scenes: xr.Dataset, receiver: int, late_s: float) -> xr.Dataset:
    frequency_hz = np.fft.fftfreq(scenes.sizes["time"], 1 / scenes.attrs["sample_rate_hz"])
    return changed(scenes, receiver, np.exp(-2j * np.pi * frequency_hz * late_s), np.ones(scenes.sizes["time"]))


def silently_wrong(scenes: xr.Dataset, fixes: xr.Dataset) -> int:
    squared = errors.position_errors(scenes, fixes).mahalanobis_squared
    return int((fixes.converged & (squared > BEYOND_99_PERCENT)).sum())


@pytest.fixture(scope="module")
def seven():
    return generated(12, 23)


@pytest.fixture(scope="module")
def four():
    """Of four receivers around the transmitter."""
    return generated(12, 23, geometry={"receivers": receivers(SQUARE), "inside_ratio": 1.0})


@pytest.mark.parametrize("network", ["four", "seven"])
@pytest.mark.slow
def test_a_late_clock_is_no_fix(network, request):
    """Of four receivers around the transmitter one degree of freedom tells it, of seven four do."""
    scenes = request.getfixturevalue(network)
    assert estimators.locate(scenes, "dpd").converged.all()
    for late_s in (20e-6, 60e-6):
        fixes = estimators.locate(late(scenes, 1, late_s), "dpd")
        assert fixes.converged.sum() <= 1
        assert silently_wrong(scenes, fixes) <= 1


def test_mirror_images_are_no_fix():
    """Receivers on a meridian cannot tell east from west."""
    scenes = generated(12, 3, geometry={"receivers": receivers(MERIDIAN), "inside_ratio": 0.0, "margin_deg": 0.5})
    fixes = estimators.locate(scenes, "dpd")
    aside_m = np.abs(scenes.transmitter_longitude.values - 7.6) * 78e3
    assert not fixes.converged[aside_m > 10e3].any()
    assert silently_wrong(scenes, fixes) == 0


def test_mirrored_positions_are_across_the_receivers_line():
    scenes = with_measurements(generated(1, 3, geometry={"receivers": receivers(MERIDIAN)}))
    known = observations.from_dataset(scenes)
    plane = np.array([[[20e3, -7e3], [-3e3, 40e3]]])
    assert search.mirrored(known, plane)[0] == pytest.approx(plane[0] * [-1, 1], abs=50.0)


@pytest.fixture(scope="module")
def exact_oscillators():
    """Four seconds of four receivers whose oscillators are stated to be exact to 0.01 Hz."""
    return generated(
        8,
        8,
        signal={"duration_s": 4.0, "sample_rate_hz": 32e3, **VOICE},
        channel={"frequency_offset_max_hz": 0.0, "frequency_drift_max_hz_per_s": 0.0},
        geometry={"receivers": receivers(SQUARE), "inside_ratio": 1.0},
    ).assign_attrs(max_frequency_offset_hz=0.01)


@pytest.mark.parametrize("offset_hz", [pytest.param(each, marks=pytest.mark.slow) for each in (0.3, 0.5, 1.0)])
def test_an_oscillator_off_by_more_than_stated_is_no_certain_fix(exact_oscillators, offset_hz):
    """Turned more than once, a receiver adds next to nothing, and what it adds is at a wrong delay."""
    scenes = exact_oscillators
    time_s = np.arange(scenes.sizes["time"]) / scenes.attrs["sample_rate_hz"]
    off = changed(scenes, 2, np.ones(len(time_s)), np.exp(2j * np.pi * offset_hz * time_s))
    assert silently_wrong(scenes, estimators.locate(off, "dpd")) == 0


@pytest.mark.slow
def test_an_oscillator_off_by_more_than_stated_does_not_draw_the_others_away():
    """Its signal is as strong as the others' and hardly coherent with them: the fix is where the others have it."""
    noise = {"voice_ratio": 0.0, "tone_ratio": 0.0, "dual_tone_ratio": 0.0, "noise_ratio": 1.0}
    band = {"noise_bandwidth_hz": 1e3, "channel_bandwidth_hz": 1.25e3, "sample_rate_hz": 3e3, "duration_s": 4.0}
    channel = {"frequency_offset_max_hz": 0.0, "frequency_drift_max_hz_per_s": 0.0}
    scenes = generated(30, 901, signal={**noise, **band}, channel=channel)
    turn = np.exp(2j * np.pi * 0.5 * np.arange(scenes.sizes["time"]) / scenes.attrs["sample_rate_hz"])
    fixes = estimators.locate(changed(scenes, 6, np.ones(len(turn)), turn), "dpd")
    others = scenes.assign(signal_present=scenes.signal_present & (np.arange(7) != 6))
    assert fixes.converged.all()
    assert silently_wrong(scenes, fixes) <= 1
    assert (errors.position_errors(scenes, fixes).error < 5 * bounds.scene_crlb(others).crlb_rmse).all()


@pytest.fixture(scope="module")
def continental():
    rng = np.random.Generator(np.random.Philox(4))
    places = list(zip(rng.uniform(40.5, 49.5, 7).tolist(), rng.uniform(3.5, 12.5, 7).tolist(), strict=True))
    power = {"transmitter_power_min_dbm": 70, "transmitter_power_max_dbm": 80}
    return generated(20, 5, geometry={"receivers": receivers(places)}, signal={**VOICE, **power})


@pytest.mark.slow
def test_continental_networks_are_located_as_by_time_differences(continental):
    scenes = continental
    fixes = {method: estimators.locate(scenes, method) for method in ("tdoa_ls", "dpd")}
    assert fixes["dpd"].converged.sum() >= fixes["tdoa_ls"].converged.sum() > 10
    both = (fixes["dpd"].converged & fixes["tdoa_ls"].converged).values
    apart = [fixes["dpd"][name].values[both] - fixes["tdoa_ls"][name].values[both] for name in ("east", "north")]
    bound = bounds.scene_crlb(scenes).crlb_rmse.values[both]
    assert (np.hypot(*apart) < 3 * bound).all()


@pytest.mark.parametrize(("seed", "num_samples"), [(1, 17), (3, 5)])
@pytest.mark.slow
def test_no_summit_is_false(seed, num_samples):
    """Random receivers over 500 km, whose summits are narrower than the grid's steps: each within five times its bound.

    A grid alone finds one of these in each set thousands of times its bound away.
    """
    geometry = {"placement": "random", "num_receivers_min": 5, "num_receivers_max": 7, "extent_km": 500.0}
    power = {"transmitter_power_min_dbm": 40, "transmitter_power_max_dbm": 60}
    scenes = generated(num_samples, seed, geometry=geometry, signal={**VOICE, **power})
    fixes = estimators.locate(scenes, "dpd")
    error = errors.position_errors(scenes, fixes).error / bounds.scene_crlb(scenes).crlb_rmse
    assert fixes.converged.mean() > 0.9
    assert float(error.where(fixes.converged).max()) < 5


@pytest.mark.slow
def test_a_carrier_is_no_fix_but_by_levels():
    """No bandwidth tells its delays, whatever lag its correlations peak at; a tone's does."""
    signal = {"voice_ratio": 0.0, "tone_ratio": 1.0, "dual_tone_ratio": 0.0}
    carriers = with_measurements(generated(20, 5, signal=signal | {"deviation_hz": 1e-3}))
    assert not np.isfinite(carriers.toa_std_s.values).any()
    for method in ("dpd", "tdoa_ls", "tdoa_robust", learned.pretrained()["tdoa_unrolled_los_sync"]):
        assert not estimators.locate(carriers, method).converged.any()
    assert estimators.locate(carriers, "rss_ml").converged.mean() > 0.8
    tones = with_measurements(generated(20, 5, signal=signal))
    assert np.isfinite(tones.toa_std_s.values[tones.heard.values]).all()


@pytest.mark.parametrize("late_s", [0.0, 4e-6])
def test_delays_against_the_others_are_those_put_in(seven, late_s):
    """At the true place, with clocks of 50 ns: a delay of one receiver is its own and no other's."""
    scenes = with_measurements(late(seven, 3, late_s))
    known = observations.from_dataset(scenes)
    rate_hz = scenes.attrs["sample_rate_hz"]
    signals = whitening.whiten(scenes)
    frequency_hz = search.search(known, scenes, signals, scenes.fdoa_hz.values).frequency_hz
    table = correlations.correlate_pairs(known, scenes, signals, frequency_hz)
    delay = (scenes.propagation_delay + scenes.clock_offset).values * rate_hz
    found = verification.leave_one_out_delays(
        table, delay, np.zeros_like(delay), correlations.noise_energy(signals), rate_hz
    )
    expected = np.where(np.arange(7) == 3, late_s, 0.0)
    weight = 1 / found.sigma_s**2
    error = found.delay_s - expected
    error -= (np.nansum(error * weight, axis=1) / np.nansum(weight, axis=1))[:, None]
    normalised = error / found.sigma_s
    freedom = np.isfinite(normalised).sum() - len(normalised)
    assert np.isfinite(normalised).mean() > 0.8
    assert abs(np.nansum(normalised**2) / freedom - 1) < 4 * np.sqrt(2 / freedom)
