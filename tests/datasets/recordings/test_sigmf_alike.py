"""Recordings of receivers that are not quite alike: sample rates, centre frequencies, bytes without a zero."""

import numpy as np
import pytest
from sigmf_recordings import PLACES, RATE_HZ, describe, noise, put

import heimdall_lab as hl

LENGTH = 1500
CENTRE_HZ = 145e6
EPOCH = np.datetime64("2024-05-01", "ns")


TONES_HZ = np.array([-15e3, -11e3, -4e3, -1e3, 2e3, 6e3, 13e3, 15e3])  # from the centre
PHASES = np.random.Generator(np.random.Philox(7)).uniform(0, 2 * np.pi, len(TONES_HZ))


def on_air(instants_s, tuned_hz=CENTRE_HZ, heard=...):
    """What a receiver that is tuned to a frequency hears of some tones at instants; at most 1."""
    turns = np.multiply.outer(instants_s, TONES_HZ[heard] + CENTRE_HZ - tuned_hz)
    return np.exp(1j * (2 * np.pi * turns + PHASES[heard])).sum(axis=-1) / len(TONES_HZ)


def record(folder, name, value, *, rate_hz=RATE_HZ, tuned_hz=CENTRE_HZ, stamp=None):
    """One recording in 64-bit floats."""
    meta = describe(name, datatype="cf64_le", rate_hz=rate_hz, datetime=stamp)
    meta["captures"][0]["core:frequency"] = tuned_hz
    return put(folder, name, np.stack([value.real, value.imag], axis=1).astype("<f8"), meta)


@pytest.mark.parametrize("stamped", [True, False])
def test_rates_that_differ_by_parts_per_million_become_one(stamped, tmp_path):
    files, late_ns = [], {"alpha": 0, "bravo": 123_457, "charlie": 40_000, "delta": 0}
    rates_hz = {"alpha": RATE_HZ, "bravo": RATE_HZ * (1 + 40e-6), "charlie": RATE_HZ * (1 - 900e-6), "delta": RATE_HZ}
    for name, late in late_ns.items():
        instants_s = np.arange(LENGTH) / rates_hz[name] + late * 1e-9 * stamped
        stamp = f"2024-05-01T00:00:00.{late:09d}Z" if stamped else None
        files.append(record(tmp_path, name, on_air(instants_s), rate_hz=rates_hz[name], stamp=stamp))
    table = tmp_path / "receivers.csv"
    table.write_text("name,latitude_deg,longitude_deg\ndelta,45.001,7.001\n")
    dataset = hl.read_sigmf(files, receivers=table, window_s=400 / RATE_HZ)
    assert (dataset.attrs["sample_rate_hz"], dataset.sizes["sample"]) == (RATE_HZ, 3)
    begun_s = 16 / RATE_HZ + 123_457e-9 * stamped
    if stamped:
        np.testing.assert_allclose((dataset.start_time.values[0] - EPOCH) / np.timedelta64(1, "ns"), begun_s * 1e9)
    expected = on_air(begun_s + np.arange(1200) / RATE_HZ).reshape(3, 400)
    step = float(dataset.iq_full_scale.max()) / 32767
    for receiver in hl.iq(dataset).values.swapaxes(0, 1):
        assert np.abs(receiver - expected).max() < 1e-4 + step  # −80 dB of full scale
    if not stamped:  # what has the common rate keeps its values
        np.testing.assert_allclose(hl.iq(dataset).values[:, 0], expected, atol=step)
    assert hl.read_sigmf(files, receivers=table, sample_rate_hz=1e6).attrs["sample_rate_hz"] == 1e6


def test_what_has_the_common_rate_and_centre_is_kept_bit_by_bit(tmp_path):
    files = [put(tmp_path, name, noise(400)) for name in ("alpha", "bravo")]
    files.append(put(tmp_path, "charlie", noise(400), rate_hz=RATE_HZ * (1 + 20e-6)))
    dataset = hl.read_sigmf(files)
    for receiver in range(2):
        np.testing.assert_array_equal(dataset.iq[0, receiver].values.T, noise(400)[16:][: dataset.sizes["time"], 0])


@pytest.mark.parametrize("shift_hz", [3e3, -3e3, 18e3])
def test_centres_that_differ_by_kilohertz_become_one(shift_hz, tmp_path):
    """A receiver that is tuned higher hears more at the upper end, which does not come in at the lower one."""
    instants_s, tuned_hz = np.arange(LENGTH) / RATE_HZ, CENTRE_HZ + shift_hz
    files = [record(tmp_path, name, on_air(instants_s)) for name in ("alpha", "bravo")]
    heard = np.abs(TONES_HZ - shift_hz) < RATE_HZ / 2
    beyond_hz = np.sign(shift_hz) * (RATE_HZ + abs(shift_hz)) / 2  # from the centre: in its band alone
    beyond = 0.5 * np.exp(2j * np.pi * (beyond_hz - shift_hz) * instants_s)
    files.append(record(tmp_path, "charlie", on_air(instants_s, tuned_hz, heard) + beyond, tuned_hz=tuned_hz))
    dataset = hl.read_sigmf(files)
    assert dataset.attrs["centre_frequency_hz"] == CENTRE_HZ
    alpha, _, charlie = hl.iq(dataset).values[0]
    np.testing.assert_allclose(alpha, on_air(instants_s), atol=1e-4)
    inside = slice(64, -64)  # the filter lacks some taps at the ends
    np.testing.assert_allclose(charlie[inside], on_air(instants_s, heard=heard)[inside], atol=1e-3)
    np.testing.assert_allclose(  # the same wherever one cuts
        hl.iq(hl.read_sigmf(files, window_s=500 / RATE_HZ)).values[1, 2], charlie[500:1000], atol=1e-4
    )


def test_rates_and_centres_may_differ_at_once(tmp_path):
    rate_hz, tuned_hz = RATE_HZ * (1 + 60e-6), CENTRE_HZ - 3e3
    files = [record(tmp_path, name, on_air(np.arange(LENGTH) / RATE_HZ)) for name in ("alpha", "bravo")]
    value = on_air(np.arange(LENGTH) / rate_hz, tuned_hz)
    files.append(record(tmp_path, "charlie", value, rate_hz=rate_hz, tuned_hz=tuned_hz))
    alpha, _, charlie = hl.iq(hl.read_sigmf(files)).values[0]
    np.testing.assert_allclose(charlie[64:-64], alpha[64:-64], atol=3e-4)


def test_captures_of_one_recording_become_alike_too(tmp_path):
    instants_s = np.arange(LENGTH) / RATE_HZ
    value = np.concatenate([on_air(instants_s), on_air(instants_s, CENTRE_HZ + 3e3)])
    file = record(tmp_path, "alpha", value)
    meta = describe("alpha", datatype="cf64_le")
    meta["captures"].append(meta["captures"][0] | {"core:sample_start": LENGTH, "core:frequency": CENTRE_HZ + 3e3})
    put(tmp_path, "alpha", np.stack([value.real, value.imag], axis=1), meta)
    first, second = hl.iq(hl.read_sigmf(file)).values[:, 0]
    np.testing.assert_allclose(second[64:-64], first[64:-64], atol=3e-4)


def test_who_states_the_centre_says_that_all_have_it(tmp_path):
    files = [put(tmp_path, name, noise(100)) for name in ("alpha", "bravo")]
    meta = describe("bravo")
    meta["captures"][0]["core:frequency"] = 433e6
    put(tmp_path, "bravo", noise(100), meta)
    dataset = hl.read_sigmf(files, centre_frequency_hz=100e6)
    assert dataset.attrs["centre_frequency_hz"] == 100e6
    np.testing.assert_array_equal(dataset.iq[0, 1].values.T, noise(100)[:, 0])


def test_real_samples_are_not_shifted(tmp_path):
    meta = describe("bravo", datatype="ri16_le")
    meta["captures"][0]["core:frequency"] += 1e3
    files = [put(tmp_path, "alpha", noise(50), datatype="ri16_le"), put(tmp_path, "bravo", noise(50), meta)]
    with pytest.raises(ValueError, match=r"core:frequency: is 145001000.0, but 145000000.0 in alpha; .*complex ones"):
        hl.read_sigmf(files)


def test_too_short_recordings_are_not_resampled(tmp_path):
    files = [put(tmp_path, name, noise(30), rate_hz=RATE_HZ + k) for k, name in enumerate(PLACES)]
    with pytest.raises(ValueError, match=r"capture 0 of '.*' has too few samples to interpolate between"):
        hl.read_sigmf(files)


@pytest.mark.parametrize("late_ns", [0, 40_000, 7_000])
def test_bytes_are_centred_between_their_two_middle_codes(late_ns, tmp_path):
    """A converter without a code for zero: what is as often 127 as 128 has no direct current."""
    codes = np.random.Generator(np.random.Philox(1)).integers(127, 129, (LENGTH, 2), dtype="u1")
    codes[:2] = [[0, 255], [255, 0]]
    files = []
    for name, late in (("alpha", 0), ("bravo", late_ns)):
        stamp = f"2024-05-01T00:00:00.{late:09d}Z"
        files.append(put(tmp_path, name, codes, datatype="cu8", datetime=stamp))
    dataset = hl.read_sigmf(files)
    value = hl.iq(dataset).values[0, 1]
    between = late_ns == 7_000  # the later one begins between samples of the other, of which interpolation takes some
    expected = (codes[16 * between :].astype(float) - 127.5) / 128 @ [1, 1j]
    np.testing.assert_allclose(value, expected[: len(value)], atol=1e-4 if between else 1e-12)
    assert abs(hl.iq(dataset).mean()) < 4 * 0.5 / 128 * np.sqrt(2 / LENGTH)  # four standard deviations of the codes
