"""Drawing and gating of scenes: the gate judged again from the truth, and one candidate at a time by brute force."""

import numpy as np
import pyproj
import pytest
from drawn_scenes import OPEN, P_VALUE, config
from scipy import stats

import heimdall_lab as hl
from heimdall_lab.core.checked import ConfigError
from heimdall_lab.simulation import placement, scenes

STRICT = {"min_receivers": 5, "min_snr_db": 12.0, "min_mean_snr_db": 27.0, "max_gdop": 1.2}
TO_ECEF = pyproj.Transformer.from_crs("EPSG:4979", "EPSG:4978")


def gdop_by_differences(truth, scene: int, used: np.ndarray) -> float:
    """Horizontal TDOA dilution of a scene, from PROJ's ECEF and differences against its first receiver."""
    latitude, longitude, altitude = (
        float(truth[f"transmitter_{n}"][scene]) for n in ("latitude", "longitude", "altitude")
    )
    transmitter = np.array(TO_ECEF.transform(latitude, longitude, altitude))
    receivers = np.stack(
        TO_ECEF.transform(*(truth[f"receiver_{n}"][scene, used] for n in ("latitude", "longitude", "altitude"))), -1
    )
    phi, lam = np.radians([latitude, longitude])
    east = np.array([-np.sin(lam), np.cos(lam), 0])
    north = np.array([-np.sin(phi) * np.cos(lam), -np.sin(phi) * np.sin(lam), np.cos(phi)])
    offset = receivers - transmitter
    unit = (offset / np.linalg.norm(offset, axis=1, keepdims=True)) @ np.stack([east, north], axis=-1)
    design = unit[1:] - unit[0]
    covariance = np.eye(len(design)) + 1
    return float(np.trace(np.linalg.inv(design.T @ np.linalg.inv(covariance) @ design)) ** 0.5)


def judge(settings: hl.Config, truth) -> list[tuple[int, float, float]]:
    """Number of receivers with signal, their mean SNR in the channel bandwidth (dB) and GDOP of every scene."""
    noise_dbm = -173.9752 + settings.channel.noise_figure_db + 10 * np.log10(settings.signal.channel_bandwidth_hz)
    snr_db = truth["received_power"] - noise_dbm
    judged = []
    for scene in range(len(snr_db)):
        heard = snr_db[scene] >= settings.gate.min_snr_db
        dilution = gdop_by_differences(truth, scene, heard) if heard.sum() >= 3 else np.nan
        judged.append((int(heard.sum()), float(snr_db[scene, heard].mean()) if heard.any() else -np.inf, dilution))
    return judged


@pytest.mark.parametrize("gate", [{}, STRICT], ids=["default", "strict"])
def test_every_kept_scene_passes_the_gate(gate):
    settings = config(gate)
    drawn = scenes.draw_scenes(settings, np.arange(300))
    for number, mean_snr_db, dilution in judge(settings, drawn.variables):
        assert number >= settings.gate.min_receivers
        assert mean_snr_db >= settings.gate.min_mean_snr_db - 1e-3  # -173.9752 dBm/Hz is rounded
        assert dilution <= settings.gate.max_gdop * (1 + 1e-6)


def test_scenes_are_the_first_candidates_that_pass():
    """One candidate at a time, in order; their rejections are the ones that were counted."""
    settings = config(STRICT)
    samples = np.array([3, 0, 41, 7, 199, 4_000_000_000, 12, 13, 14, 15])
    drawn = scenes.draw_scenes(settings, samples)
    rejections = dict.fromkeys(scenes.REASONS, 0)
    for row, sample in enumerate(samples):
        attempt = 0
        while True:
            streams = scenes.candidate_streams(settings, np.array([sample]), np.array([attempt]))
            truth, verdict = scenes._truth(settings, streams), int(scenes.gate_outcome(settings, streams)[0])
            number, mean_snr_db, dilution = judge(settings, truth)[0]
            failed = [
                number < settings.gate.min_receivers,
                mean_snr_db < settings.gate.min_mean_snr_db,
                not dilution <= settings.gate.max_gdop,
            ]
            assert verdict == (failed.index(True) if any(failed) else len(failed))
            if verdict == len(scenes.REASONS):
                break
            rejections[scenes.REASONS[verdict]] += 1
            attempt += 1
        assert drawn.streams.attempt[row] == attempt
        for name, values in truth.items():
            assert np.array_equal(values[0], drawn.variables[name][row], equal_nan=True), name
    assert drawn.rejections == rejections
    assert all(rejections.values())  # every condition of the gate was at work


@pytest.mark.parametrize("gate", [{}, STRICT], ids=["default", "strict"])
def test_a_scene_does_not_depend_on_the_scenes_drawn_with_it(gate):
    settings = config(gate)
    together = scenes.draw_scenes(settings, np.arange(64))
    rejections = dict.fromkeys(scenes.REASONS, 0)
    for part in (np.array([17]), np.array([63, 0, 5]), np.setdiff1d(np.arange(64), [63, 0, 5, 17])):
        alone = scenes.draw_scenes(settings, part)
        assert np.array_equal(alone.streams.attempt, together.streams.attempt[part])
        for name, values in alone.variables.items():
            assert np.array_equal(values, together.variables[name][part], equal_nan=True), name
        rejections = {reason: count + alone.rejections[reason] for reason, count in rejections.items()}
    assert rejections == together.rejections
    assert len(np.unique(together.variables["transmitter_latitude"])) == 64


def test_another_seed_draws_other_scenes():
    first, second = (scenes.draw_scenes(config({}, seed=seed), np.arange(50)).variables for seed in (1, 2))
    for name in ("transmitter_latitude", "transmitter_power", "clock_offset", "frequency_offset", "path_loss"):
        assert not np.isin(first[name], second[name]).any()


@pytest.mark.parametrize("ratio", [0.0, 0.7, 1.0])
def test_inside_ratio_and_uniform_positions(ratio):
    """A share is uniform in the receivers' box; the rest is uniform in the box widened by the margin."""
    count, margin = 4000, 0.3
    settings = config(OPEN, geometry={"inside_ratio": ratio, "margin_deg": margin})
    drawn = scenes.draw_scenes(settings, np.arange(count))
    assert sum(drawn.rejections.values()) == 0
    latitudes = [receiver.latitude_deg for receiver in settings.geometry.receivers]
    longitudes = [receiver.longitude_deg for receiver in settings.geometry.receivers]
    height, width = np.ptp(latitudes), np.ptp(longitudes)
    north = drawn.variables["transmitter_latitude"] - min(latitudes)
    east = drawn.variables["transmitter_longitude"] - min(longitudes)
    assert -margin <= min(north.min(), east.min())
    assert north.max() <= height + margin
    assert east.max() <= width + margin
    inside = (north >= 0) & (north <= height) & (east >= 0) & (east <= width)
    box_share = height * width / ((height + 2 * margin) * (width + 2 * margin))
    if ratio < 1:
        assert stats.binomtest(int(inside.sum()), count, ratio + (1 - ratio) * box_share).pvalue > P_VALUE
    else:
        assert inside.all()
    # Inside the box positions are uniform either way, and along one axis independent of the other.
    assert stats.kstest(north[inside] / height, stats.uniform.cdf).pvalue > P_VALUE
    assert stats.kstest(east[inside] / width, stats.uniform.cdf).pvalue > P_VALUE
    assert abs(np.corrcoef(north[inside], east[inside])[0, 1]) < 5 / inside.sum() ** 0.5


def test_longest_delay_spread_bounds_every_difference():
    settings = config(OPEN, geometry={"margin_deg": 2.0, "inside_ratio": 0.0})
    delay_s = scenes.draw_scenes(settings, np.arange(2000)).variables["propagation_delay"]
    spread_s = np.ptp(delay_s, axis=1).max()
    bound_s = placement.longest_delay_spread_s(settings)
    assert 0.8 * bound_s < spread_s < bound_s
    # Coazze to Milano-Baggio, 45.048 N 7.2387 E and 45.478 N 9.123 E, 155.7 km on the ellipsoid.
    arc_m = pyproj.Geod(ellps="WGS84").inv(7.2387, 45.048, 9.123, 45.478)[2]
    assert bound_s >= arc_m * (1 - 1e-3) / 299_792_458


@pytest.mark.slow
@pytest.mark.parametrize(
    ("gate", "field"),
    [
        ({"min_mean_snr_db": 90.0}, "min_mean_snr_db"),
        ({"max_gdop": 0.1}, "max_gdop"),  # 2 / sqrt(7) is the least that seven receivers can give
        ({"min_receivers": 7, "min_snr_db": 60.0}, "min_receivers"),
    ],
)
def test_a_gate_that_lets_nothing_pass_is_an_error_that_names_it(gate, field):
    settings = config(gate)
    value = getattr(settings.gate, field)
    with pytest.raises(ConfigError, match=rf"^gate\.{field}: {value} rejects") as caught:
        scenes.draw_scenes(settings, np.arange(8))
    assert "1 in 10,000" in str(caught.value)


def test_a_rare_scene_is_found():
    """An acceptance of about 1 in 500 is no error, and is what the rejections say."""
    settings = config({"min_mean_snr_db": 40.0, "min_receivers": 5})
    drawn = scenes.draw_scenes(settings, np.arange(40))
    candidates = 40 + sum(drawn.rejections.values())
    assert sum(drawn.rejections.values()) == drawn.streams.attempt.sum()
    verdict = scenes.gate_outcome(settings, scenes.candidate_streams(settings, np.full(40_000, 999), np.arange(40_000)))
    accepted = int((verdict == len(scenes.REASONS)).sum())
    assert 10 < accepted < 400
    # 40 successes take a negative binomial number of candidates: 40 / p ± 40^0.5 / p.
    expected = 40 * 40_000 / accepted
    assert candidates == pytest.approx(expected, rel=5 * (1 / 40 + 1 / accepted) ** 0.5)


def test_mean_snr_in_the_channel_passes_the_gate():
    settings = hl.preset(
        "los_sync",
        num_samples=60,
        seed=5,
        gate={"min_mean_snr_db": 30.0},
        signal={"duration_s": 0.02},
        channel={"shadowing_sigma_db": 20.0},
    )
    dataset = hl.generate(settings, progress=False)
    in_channel_db = dataset.received_power - dataset.noise_power + 10 * np.log10(50e3 / 12.5e3)
    heard = in_channel_db >= 3.0
    assert float(in_channel_db.where(heard).mean("receiver").min()) >= 30.0
    assert (dataset.signal_present | ~heard).all()


def test_number_of_receivers_and_gdop_of_generated_scenes_pass_the_gate(small_dataset, small):
    assert (small_dataset.signal_present.sum("receiver") >= small.gate.min_receivers).all()
    assert (small_dataset.gdop <= small.gate.max_gdop).all()
    assert (small_dataset.occupied_bandwidth <= small.signal.channel_bandwidth_hz).all()
    for index in range(small_dataset.sizes["sample"]):
        scene = small_dataset.isel(sample=[index])
        truth = {name: scene[name].values for name in scene.data_vars if name != "iq"}
        used = scene.signal_present.values[0]
        assert np.array_equal(used, scene.snr.values[0] >= small.gate.min_snr_db)
        assert float(scene.gdop[0]) == pytest.approx(gdop_by_differences(truth, 0, used), rel=1e-6)
