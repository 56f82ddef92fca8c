"""The table of rates: every step is there, rates are those of the work that was done, nothing stays behind."""

import json
import math

import numpy as np
import pytest

import heimdall_lab as hl
from heimdall_lab.simulation import speed

STEPS = ["draw", "noise", "iq", "features", "pairs", "write", "verify", "read"]


@pytest.fixture(scope="module", autouse=True)
def short_runs():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speed, "_MIN_TIMED_S", 1e-9)
        yield


@pytest.fixture(scope="module")
def rates(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    config = hl.preset("los_sync", num_samples=8, signal={"duration_s": 0.02})
    table = speed.measure(config, folder)
    assert list(folder.iterdir()) == []
    return table[table["where"] != "cupy"].set_index("step")


def test_every_step_has_its_rate(rates):
    assert list(rates.index) == STEPS
    assert (rates.scenes_per_s > 0).all()
    # Seven receivers of 1,000 samples each, and what the file holds of them.
    per_scene = (rates.iq_samples_per_s / rates.scenes_per_s).drop("draw")
    assert per_scene.values == pytest.approx(np.full(7, 7000.0))
    assert (rates.bytes_per_s / rates.iq_samples_per_s)[["write", "verify", "read"]].min() > 4
    assert rates.bytes_per_s[["draw", "noise", "iq", "features"]].isna().all()


def test_text_has_prefixes_and_dashes(rates):
    text = speed.text_table(rates.reset_index())
    assert list(text["step"]) == STEPS
    assert text["IQ samples/s"][0] == "–"
    value, prefix = text["IQ samples/s"][2].split()
    factor = {"k": 1e3, "M": 1e6, "G": 1e9}[prefix]
    assert math.isclose(float(value) * factor, rates.iq_samples_per_s["iq"], rel_tol=0.005)


def test_command_prints_json_that_names_the_machine(attempt):
    done = attempt("bench", "--set", "num_samples=2", "--json")
    assert done.returncode == 0
    printed = json.loads(done.stdout)
    assert {"processor", "cores", "gpu", "numpy"} <= set(printed["machine"])
    assert [row["step"] for row in printed["rates"] if row["where"] != "cupy"] == STEPS
