"""How much faster maps of 10,000 points and seven receivers are than the same points one by one, in the same run.

In time of the one core that computes: what else the machine does is not counted.
"""

import time

import numpy as np
import pytest

import heimdall_lab as hl
from heimdall_lab.localization import bounds, delay_law
from heimdall_lab.simulation import coverage

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


def of_law(law: str, sigma: dict[str, np.ndarray]) -> np.ndarray:
    return delay_law.equivalent_sigma(law, sigma["toa_sigma_s"], 0.3, 8e-6)


CASES = {
    **{f"gdop {kind}": (lambda r, t, _, kind=kind: bounds.gdop(r, t, kind)) for kind in bounds.GDOP_KINDS},
    "crlb": lambda r, t, sigma: bounds.crlb(r, t, toa_sigma_s=sigma["toa_sigma_s"]),
    "crlb, genie's law": lambda r, t, sigma: bounds.crlb(r, t, toa_sigma_s=of_law("genie", sigma)),
    "crlb, mixture's law": lambda r, t, sigma: bounds.crlb(r, t, toa_sigma_s=of_law("mixture", sigma)),
    "crlb, levels too": lambda r, t, sigma: bounds.crlb(r, t, **sigma),
    "crlb, altitude unknown": lambda r, t, sigma: bounds.crlb(r, t, **sigma, altitude_sigma_m=np.array(100.0)),
}


@pytest.mark.parametrize("name", CASES)
def test_ten_thousand_points_are_20_times_as_fast_as_one_by_one(name, benchmark, network):
    step, (receivers, transmitters, sigma) = CASES[name], network
    together = benchmark.pedantic(step, args=(receivers, transmitters, sigma), rounds=30, warmup_rounds=1)
    some = slice(0, 10_000, 10)

    def one_by_one() -> np.ndarray:
        rows = zip(transmitters[some], *(values[some] for values in sigma.values()), strict=True)
        return np.array([step(receivers, place, dict(zip(sigma, own, strict=True))) for place, *own in rows])

    loop_s = 10 * seconds(lambda: np.testing.assert_allclose(together[some], one_by_one(), rtol=1e-12))
    benchmark.extra_info["times as fast as the loop"] = round(loop_s / benchmark.stats.stats.min)
    assert np.isfinite(together).mean() > 0.99
    assert benchmark.stats.stats.min < loop_s / 20


def test_a_map_with_levels_and_snr_is_200_times_as_fast_as_one_by_one(benchmark):
    config = hl.preset("los_sync")
    latitudes, longitudes = coverage.grid_deg(config, 100)
    found = benchmark.pedantic(lambda: coverage.bound_map(config, latitudes, longitudes), rounds=40, warmup_rounds=2)

    def one_by_one() -> None:
        for row, column in [(5, 90), (40, 70), (60, 10), (95, 55)]:
            alone = coverage.bound_map(config, latitudes[row : row + 1], longitudes[column : column + 1])
            assert alone.crlb_rmse[0, 0] == pytest.approx(float(found.crlb_rmse[row, column]), rel=1e-12)

    one_by_one()
    loop_s = 10_000 / 4 * min(seconds(one_by_one) for _ in range(5))
    benchmark.extra_info["times as fast as the loop"] = round(loop_s / benchmark.stats.stats.min)
    assert benchmark.stats.stats.min < loop_s / 200
