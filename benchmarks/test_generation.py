"""How long datasets take to make, as ratios of what else runs in the same minute: machines are noisy."""

import numpy as np
import pytest
from timing import seconds

import heimdall_lab as hl
from heimdall_lab.datasets import store
from heimdall_lab.simulation import scenes, synthesis
from heimdall_lab.simulation.speed import draw_noise

PRESETS = {"default": ("iq_test", 64), "iq_production": ("iq_production", 8)}


@pytest.mark.parametrize("name", PRESETS)
def test_the_full_path_takes_at_most_four_times_the_noise_alone(name, benchmark, tmp_path):
    """Draw, gate, IQ, int16, features, netCDF on disk; one thread. The least of several runs each, taken in turns."""
    preset, count = PRESETS[name]
    config = hl.preset(preset)

    def full_path() -> None:
        dataset, rejections = synthesis.synthesize(config, np.arange(count), "numpy")
        store.write_shard(tmp_path, 0, dataset, rejections)

    noise_s = []

    def before() -> None:
        noise_s.append(seconds(lambda: draw_noise(config, count)))

    benchmark.pedantic(full_path, setup=before, rounds=8, warmup_rounds=1)
    ratio = benchmark.stats.stats.min / min(noise_s)
    benchmark.extra_info["ratio to drawing the noise alone"] = round(ratio, 2)
    assert ratio <= 4


def test_gating_a_scene_takes_at_most_a_hundredth_of_its_noise(benchmark):
    config = hl.preset("iq_test")
    streams = scenes.candidate_streams(config, np.arange(8192), np.zeros(8192, dtype=int))
    noise_s = []

    def before() -> None:
        noise_s.append(seconds(lambda: draw_noise(config, 64)))

    verdict = benchmark.pedantic(lambda: scenes.gate_outcome(config, streams), setup=before, rounds=10, warmup_rounds=1)
    scene_s = benchmark.stats.stats.min / len(verdict)
    benchmark.extra_info["scenes per second"] = round(1 / scene_s)
    assert scene_s <= min(noise_s) / 64 / 100
