"""How long the server takes to let the map of a network follow a dragged receiver, beside computing the map alone."""

import time

import numpy as np
import pytest

from heimdall_lab.app.pages.geometry import Geometry
from heimdall_lab.core.presets import preset
from heimdall_lab.simulation import coverage

pytestmark = [pytest.mark.benchmark(timer=time.process_time), pytest.mark.usefixtures("one_loop")]


def test_a_dragged_receiver_takes_at_most_three_times_its_map_alone(benchmark, monkeypatch, tmp_path):
    found = coverage.best_site(preset("los_sync"), np.linspace(44, 46, 3), np.linspace(7, 9, 3))
    monkeypatch.setattr(coverage, "best_site", lambda *_: found)  # it is sought beside the page
    page = Geometry(tmp_path)
    source = next(layer for layer in page._figure.renderers if layer.name == "receivers").data_source
    field = next(layer for layer in page._figure.renderers if layer.name == "field").data_source
    steps = iter(range(1, 1000))

    def drag() -> None:
        data = {name: np.array(values) for name, values in source.data.items()}
        data["longitude_deg"][2] = 7.7 + 0.001 * next(steps)
        source.data = data

    before = np.array(field.data["image"][0])
    config, map_s = preset("los_sync"), []
    grid_deg = coverage.grid_deg(config, len(before))

    def map_alone() -> None:
        start_s = time.process_time()
        coverage.bound_map(config, *grid_deg)
        map_s.append(time.process_time() - start_s)

    benchmark.pedantic(drag, setup=map_alone, rounds=20, warmup_rounds=2)
    assert not np.array_equal(field.data["image"][0], before)
    ratio = benchmark.stats.stats.min / min(map_s)
    benchmark.extra_info["ratio to the map alone"] = round(ratio, 2)
    assert ratio <= 3
