"""How long maps of 10,000 points and seven receivers take, beside the same points one by one in the same run.

In time of the one core that computes: what else the machine does is not counted.
"""

import time

import numpy as np
import pytest

import heimdall_lab as hl
from heimdall_lab.localization import bounds
from heimdall_lab.simulation import coverage

LIMIT_S = 0.020

pytestmark = pytest.mark.benchmark(timer=time.process_time)


def seconds(step) -> float:
    start = time.process_time()
    step()
    return time.process_time() - start


@pytest.fixture(scope="module")
def network():
    """Seven receivers (7, 3), 10,000 transmitters (10000, 3), and standard deviations that grow with distance."""
    rng = np.random.Generator(np.random.Philox(1))
    receivers = rng.uniform(-60e3, 60e3, (7, 3)) * [1, 1, 0.01]
    east, north = np.meshgrid(np.linspace(-90e3, 90e3, 100), np.linspace(-90e3, 90e3, 100))
    transmitters = np.stack([east.ravel(), north.ravel(), np.full(10_000, 300.0)], axis=-1)
    distance = np.linalg.norm(receivers - transmitters[:, None], axis=-1)
    return receivers, transmitters, {"toa_sigma_s": 5e-8 + 1e-12 * distance, "rss_sigma_db": np.full((10_000, 7), 5.0)}


CASES = {
    **{f"gdop {kind}": (lambda r, t, _, kind=kind: bounds.gdop(r, t, kind)) for kind in bounds.GDOP_KINDS},
    "crlb": lambda r, t, sigma: bounds.crlb(r, t, toa_sigma_s=sigma["toa_sigma_s"]),
    "crlb, levels too": lambda r, t, sigma: bounds.crlb(r, t, **sigma),
}


@pytest.mark.parametrize("name", CASES)
def test_ten_thousand_points_take_20_ms(name, benchmark, network):
    step, (receivers, transmitters, sigma) = CASES[name], network
    together = benchmark.pedantic(step, args=(receivers, transmitters, sigma), rounds=30, warmup_rounds=1)
    some = slice(0, 10_000, 10)

    def one_by_one() -> np.ndarray:
        rows = zip(transmitters[some], *(values[some] for values in sigma.values()), strict=True)
        return np.array([step(receivers, place, dict(zip(sigma, own, strict=True))) for place, *own in rows])

    loop_s = 10 * seconds(lambda: np.testing.assert_allclose(together[some], one_by_one(), rtol=1e-12))
    benchmark.extra_info["times as fast as the loop"] = round(loop_s / benchmark.stats.stats.min)
    assert np.isfinite(together).mean() > 0.99
    assert benchmark.stats.stats.min <= LIMIT_S
    assert benchmark.stats.stats.min < loop_s / 20


def test_a_map_with_levels_and_snr_takes_20_ms(benchmark):
    config = hl.preset("los_sync")
    grid = coverage.grid_deg(config, 100)
    found = benchmark.pedantic(lambda: coverage.bound_map(config, *grid), rounds=40, warmup_rounds=2)
    alone = coverage.bound_map(config, grid[0][40:41], grid[1][70:71])
    assert alone.crlb_rmse[0, 0] == pytest.approx(float(found.crlb_rmse[40, 70]), rel=1e-12)
    assert benchmark.stats.stats.min <= LIMIT_S
