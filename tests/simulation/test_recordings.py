"""Recordings: emissions that share receivers, oscillators and clocks, drawn, gated, kept and split together."""

import hashlib
import json

import numpy as np
import pytest
import xarray as xr

import heimdall_lab as hl
from heimdall_lab.core.checked import ConfigError
from heimdall_lab.core.presets import PRESETS
from heimdall_lab.datasets import schema, splits
from heimdall_lab.simulation import scenes

RECORDED = {"websdr_reference": 4, "websdr_blind": 10, "nlos_blind": 10}
SHORT = {"signal.duration_s": 0.03}
DRAWN_ONCE = {"geometry.placement": "random", "max_receivers": 10}


def generate(name="websdr_reference", **changes) -> xr.Dataset:
    return hl.generate(hl.preset(name, **{**SHORT, **changes}), progress=False)


@pytest.mark.parametrize("name", RECORDED)
def test_presets_share_receivers_oscillators_and_clocks_in_recordings(name):
    emissions = RECORDED[name]
    dataset = generate(name, num_samples=2 * emissions, seed=4, **DRAWN_ONCE)
    schema.check(dataset)
    assert dataset.recording.values.tolist() == np.repeat([0, 1], emissions).tolist()
    np.testing.assert_allclose(dataset.recording_time.values, np.tile(np.arange(emissions) * 1.03, 2))
    assert (dataset.centre_frequency == dataset.attrs["centre_frequency_hz"]).all()
    assert dataset.attrs["one_crystal"] == 1
    assert dataset.attrs["clock_rate_sigma"] == pytest.approx(50 / 3**0.5 / 145e6, rel=1e-3)
    assert np.isnan(dataset.crlb_rmse).all()
    for _, one in dataset.groupby("recording"):
        for variable in ("receiver_latitude", "receiver_longitude", "receiver_altitude", "receiver_present"):
            np.testing.assert_array_equal(
                one[variable].values, np.broadcast_to(one[variable].values[:1], one[variable].shape)
            )
        assert np.nanmax(np.ptp(one.frequency_offset.values, axis=0)) < 2  # Hz: the same oscillators, drifting
        assert len(np.unique(one.transmitter_latitude)) == emissions
    first, second = (dataset.isel(sample=dataset.recording.values == number) for number in (0, 1))
    assert not np.isin(first.frequency_offset, second.frequency_offset.values[second.receiver_present]).any()


def test_references_are_known_and_no_other():
    recording = {"emissions": 5, "references": 2}
    dataset = generate(num_samples=10, recording=recording, seed=2)
    known = schema.references(dataset)
    assert known.tolist() == [True, False, False, False, True] * 2
    for name in ("latitude", "longitude", "altitude"):
        reported = dataset[f"reported_{name}"].values
        np.testing.assert_array_equal(reported[known], dataset[f"transmitter_{name}"].values[known])
        assert np.isnan(reported[~known]).all()


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_the_gate_keeps_a_recording_of_which_enough_emissions_pass(share):
    """Against the outcomes of single emissions, candidate by candidate."""
    settings = hl.preset("websdr_blind", num_samples=60, seed=9, recording={"emissions": 4}, gate={
        "min_emissions": share, "min_mean_snr_db": 20.0, "max_gdop": 5.0}, **DRAWN_ONCE)  # fmt: skip
    found = scenes.draw_scenes(settings, np.arange(60))
    rejected = dict.fromkeys(scenes.REASONS, 0)
    for number in range(15):
        samples = np.arange(4 * number, 4 * number + 4)
        for attempt in range(10_000):
            streams = scenes.candidate_streams(settings, samples, np.full(4, attempt))
            outcome = scenes.gate_outcome(settings, streams)
            if (outcome == len(scenes.REASONS)).sum() >= 4 * share:
                break
            failed = [scenes.REASONS[index] for index in outcome if index < len(scenes.REASONS)]
            rejected[max(scenes.REASONS, key=failed.count)] += 4
        assert (found.streams.attempt[samples] == attempt).all()
    assert found.rejections == rejected
    assert sum(rejected.values()) > 0


@pytest.mark.slow
def test_samples_do_not_depend_on_shards_workers_or_how_many_there_are(tmp_path):
    """Shards hold whole recordings; the last one may end within one."""
    settings = {"num_samples": 10, "seed": 3, **SHORT}
    parts = {}
    for shard_size, workers in ((1, 1), (3, 2), (7, 1), (10, 1)):
        out = tmp_path / f"{shard_size}"
        config = hl.preset("websdr_reference", shard_size=shard_size, **settings)
        parts[shard_size] = hl.generate(config, out, progress=False, workers=workers).load()
        shards = json.loads((out / "dataset.json").read_text())["shards"]
        expected = {1: [4, 4, 2], 3: [4, 4, 2], 7: [8, 2], 10: [10]}[shard_size]
        assert [shard["num_samples"] for shard in shards] == expected
    for part in parts.values():
        xr.testing.assert_identical(part.drop_attrs(), parts[1].drop_attrs())
    more = generate(num_samples=16, seed=3)
    xr.testing.assert_equal(more.isel(sample=slice(10)).drop_attrs(), parts[1].drop_attrs())
    files = [hashlib.sha256((tmp_path / folder / "shard-00000.nc").read_bytes()).hexdigest() for folder in ("1", "3")]
    assert files[0] != files[1]  # their configurations differ, and nothing else


@pytest.mark.slow
def test_a_recording_is_never_in_two_splits():
    dataset = generate(num_samples=120, seed=5, data_type="feature_based")
    parts = {name: set(splits.select(dataset, name).recording.values.tolist()) for name in splits.SHARES}
    assert sum(map(len, parts.values())) == 30
    assert set.union(*parts.values()) == set(range(30))


def test_presets_without_recordings_hold_nothing_of_them():
    """So that they stay the same to the byte."""
    later = {"recording", "clock_rate_max_ppm", "clock_adev", "clock_walk_time_s", "one_crystal", "min_emissions",
             "stamp_resolution_s", "stamp_jitter_s"}  # fmt: skip
    for name in set(PRESETS) - set(RECORDED):
        fields = json.loads(hl.preset(name).model_dump_json())
        assert not later & (set(fields) | set(fields["channel"]) | set(fields["gate"]))
    dataset = generate("websdr", num_samples=2)
    assert not {"recording", "recording_time", "clock_rate", "centre_frequency"} & set(dataset.data_vars)
    assert not {"one_crystal", "clock_rate_sigma"} & set(dataset.attrs)
    again = type(hl.preset("websdr_blind")).model_validate_json(hl.preset("websdr_blind").model_dump_json())
    assert again == hl.preset("websdr_blind")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recording": {"references": 4}}, r"references is 4 of 4 emissions.*raise emissions"),
        ({"channel": {"clock_adev": "rubidium"}}, r"channel\.clock_adev: .*'rubidium'.*tcxo or ocxo"),
        ({"recording": {"emissions": 0}}, r"recording\.emissions"),
        ({"recording": {"emissions": 1, "references": 0}}, r"channel\.clock_adev is 1e-09.*raise recording\.emissions"),
        ({"recording": {"gap_s": 1800.0}}, r"frequency_drift_max_hz_per_s 0\.1 makes oscillators drift by 540\.\d* Hz"),
        ({"gate": {"min_emissions": 0.0}}, r"gate\.min_emissions"),
        (
            {"recording": {"emissions": 1, "references": 0, "frequency_span_hz": 1e6}},
            r"recording: frequency_span_hz is 1e\+06, but a recording has 1 emission",
        ),
        ({"recording": {"frequency_span_hz": -1.0}}, r"recording\.frequency_span_hz"),
        ({"channel": {"clock_rate_max_ppm": 200.0}}, r"signal\.sample_rate_hz .* frequency errors"),
    ],
)
def test_fields_that_cannot_be_are_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        hl.preset("websdr_reference", **changes)
