"""The commands that find clocks with positions, and what they say."""

import json

import numpy as np
import pytest

import heimdall_lab as hl

VOICE = {"voice_ratio": 1.0, "pause_ratio": 0.0} | dict.fromkeys(
    ["tone_ratio", "dual_tone_ratio", "noise_ratio", "fsk4_ratio", "afsk1200_ratio"], 0.0
)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """Free running receivers' SigMF recordings of four transmitters, one after the other; and what is true of them."""
    config = hl.preset(
        "websdr_reference", num_samples=4, shard_size=4, signal=VOICE, recording={"frequency_span_hz": 2e6}
    )
    dataset = hl.generate(config, progress=False).drop_vars([f"reported_{axis}" for axis in ("latitude", "longitude")])
    dataset = dataset.drop_vars("reported_altitude").assign_attrs(config="")
    folder = tmp_path_factory.mktemp("network")
    hl.write_sigmf(dataset, folder / "sigmf")
    return sorted((folder / "sigmf").glob("*.sigmf-meta")), dataset


@pytest.fixture
def reference(network):
    """What names the first transmitter as a reference."""
    first = network[1].isel(sample=0)
    place = f"{float(first.transmitter_latitude):.6f},{float(first.transmitter_longitude):.6f}"
    return f"{float(first.centre_frequency):.6f}={place}"


def test_a_reference_finds_the_clocks_with_the_positions(network, reference, attempt):
    done = attempt("locate", *network[0], "--reference", reference)
    assert "Clocks: 1 reference and 3 unknown transmitters tell 7 of 7 offsets of receivers, ±" in done.stdout
    assert "% of the variance of 3 fixes, in the median." in done.stdout
    rows = json.loads(attempt("locate", *network[0], "--reference", reference, "--json").stdout)
    assert [row["converged"] for row in rows] == [True] * 4
    assert [row["reference"] for row in rows] == [True, False, False, False]
    assert max(row["error_m"] for row in rows[1:]) < 500


def test_unknown_transmitters_do_and_other_methods_do_not(network, attempt):
    done = attempt("locate", *network[0], "--blind")
    assert "Clocks: 4 unknown transmitters tell 7 of 7 offsets of receivers, ±" in done.stdout
    refused = attempt("locate", *network[0], "--blind", "--method", "tdoa_ls")
    assert refused.returncode == 2
    assert "blind: 'tdoa_ls' does not find clocks, tdoa_joint does; leave out one of both" in refused.stderr


def test_clocks_are_shown_against_their_mean(network, reference, attempt):
    dataset = network[1]
    rows = json.loads(attempt("clocks", *network[0], "--reference", reference, "--json").stdout)
    assert [row["receiver"] for row in rows] == dataset.receiver_name.values.tolist()
    assert all(row["observable"] for row in rows)
    true_us = 1e6 * dataset.clock_offset.mean("sample").values
    off_us = np.array([row["offset_us"] for row in rows]) - (true_us - true_us.mean())
    assert np.abs(off_us / [row["offset_std_us"] for row in rows]).max() < 5
    text = attempt("clocks", *network[0], "--reference", reference).stdout
    assert text.splitlines()[-1].startswith("Clocks: 1 reference and 3 unknown transmitters tell 7 of 7 offsets")


def test_what_cannot_be_calibrated_tells_no_offset(network, attempt, tmp_path):
    hl.write_sigmf(network[1].isel(sample=slice(1, 2)), tmp_path / "one")
    done = attempt("locate", *sorted((tmp_path / "one").glob("*.sigmf-meta")), "--blind")
    assert "Clocks: 1 unknown transmitter tells 0 of 7 offsets of receivers." in done.stdout
    assert "cannot calibrate themselves by 1 emission; record 2 or more, or name a reference" in done.stdout
