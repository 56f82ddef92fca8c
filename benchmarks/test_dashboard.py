"""How long the page of a network takes to follow a dragged receiver, on the server."""

import time

import numpy as np
import pytest

from heimdall_lab.app.pages.geometry import Geometry
from heimdall_lab.core.presets import preset
from heimdall_lab.simulation import coverage

LIMIT_S = 0.2

pytestmark = [pytest.mark.benchmark(timer=time.process_time), pytest.mark.usefixtures("one_loop")]


def test_the_map_follows_a_receiver(benchmark, monkeypatch, tmp_path):
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
    benchmark.pedantic(drag, rounds=20, warmup_rounds=2)
    assert not np.array_equal(field.data["image"][0], before)
    assert benchmark.stats.stats.min <= LIMIT_S
