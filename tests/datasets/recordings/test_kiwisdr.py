"""KiwiSDR recordings: exact clock, exact resampling, clear errors, and the real DCF77 recording."""

import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import xarray as xr
from kiwi_recordings import BLOCK, FIRST_SECOND, RATES_HZ, RECEIVERS, file_name, kiwi_bytes, noise, tone

from heimdall_lab.datasets import recordings
from heimdall_lab.datasets.recordings import common, kiwi_wav
from heimdall_lab.localization import error_law, errors, estimators
from heimdall_lab.signals import pairs


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "receivers.csv"
    rows = [f"{name},{latitude},{longitude}" for name, (latitude, longitude) in RECEIVERS.items()]
    path.write_text("\n".join(["name,latitude_deg,longitude_deg", *rows]) + "\n")
    return path


@pytest.fixture(scope="module")
def contents() -> dict[str, bytes]:
    return {name: kiwi_bytes(tone(1_000.0), rate) for name, rate in RATES_HZ.items()}


@pytest.fixture
def paths(tmp_path: Path, contents: dict[str, bytes]) -> list[Path]:
    files = [tmp_path / file_name(name) for name in contents]
    for file, content in zip(files, contents.values(), strict=True):
        file.write_bytes(content)
    return files


def complex_windows(dataset: xr.Dataset) -> npt.NDArray[np.complex128]:
    """Return (sample, receiver, time) complex samples, full scale of the WAV = 1."""
    iq = dataset["iq"].transpose("sample", "receiver", "component", "time").values / 32_767
    scale = dataset["iq_full_scale"].transpose("sample", "receiver").values[..., None]
    return (iq[:, :, 0] + 1j * iq[:, :, 1]) * scale


def instants(dataset: xr.Dataset) -> npt.NDArray[np.float64]:
    """Return the GPS second of every output sample, (sample, time)."""
    length = dataset.sizes["time"]
    count = np.arange(dataset.sizes["sample"] * length).reshape(-1, length)
    return dataset.attrs["gps_seconds_of_week"] + count / 12_000


@pytest.mark.parametrize("rate_hz", [11_999.5, 12_001.0834, 12_001.2])
def test_clock_of_a_clean_recording_is_exact_despite_stale_and_wrong_stamps(rate_hz: float) -> None:
    blocks = kiwi_wav.parse_wav(kiwi_bytes(tone(0.0), rate_hz), "clean.wav")
    clock = kiwi_wav.fit_clock(blocks, "clean.wav")
    assert clock.start_s == pytest.approx(FIRST_SECOND, abs=2e-9)
    assert clock.rate_hz == pytest.approx(rate_hz, abs=2e-5)
    assert clock.sigma_s < 1e-9
    assert (clock.first, clock.stop) == (2 * BLOCK, 240 * BLOCK)


def test_clock_sigma_is_the_scatter_of_the_fixes() -> None:
    content = kiwi_bytes(tone(0.0), 12_001.1, blocks=2_000, jitter_s=80e-9)
    clock = kiwi_wav.fit_clock(kiwi_wav.parse_wav(content, "jitter.wav"), "jitter.wav")
    fixes = 2_000 / 23
    assert clock.sigma_s == pytest.approx(80e-9, rel=4 / np.sqrt(2 * fixes))
    assert clock.start_s == pytest.approx(FIRST_SECOND, abs=4 * 2 * 80e-9 / np.sqrt(fixes))


def test_clock_survives_the_end_of_the_gps_week() -> None:
    content = kiwi_bytes(tone(0.0), 12_001.1, start_s=604_796.0)
    clock = kiwi_wav.fit_clock(kiwi_wav.parse_wav(content, "week.wav"), "week.wav")
    assert clock.start_s % 604_800 == pytest.approx(604_796.0, abs=1e-8)
    assert clock.rate_hz == pytest.approx(12_001.1, abs=2e-5)
    assert (clock.first, clock.stop) == (2 * BLOCK, 240 * BLOCK)


def test_a_fix_that_is_wrong_by_microseconds_does_not_bend_the_clock() -> None:
    blocks = kiwi_wav.parse_wav(kiwi_bytes(tone(0.0), 12_001.1), "bump.wav")
    fresh = kiwi_wav._fresh_stamps(blocks.fix_age_s)
    stamp_s = blocks.stamp_s.copy()
    stamp_s[fresh[-2]] += 50e-6
    clock = kiwi_wav.fit_clock(replace(blocks, stamp_s=stamp_s), "bump.wav")
    assert clock.rate_hz == pytest.approx(12_001.1, abs=2e-5)
    assert clock.sigma_s < 1e-9


def test_samples_after_a_lost_block_are_not_trusted() -> None:
    content = kiwi_bytes(tone(0.0), 12_001.1, blocks=400, lost=260)
    clock = kiwi_wav.fit_clock(kiwi_wav.parse_wav(content, "gap.wav"), "gap.wav")
    assert clock.rate_hz == pytest.approx(12_001.1, abs=1e-4)
    assert clock.stop == 260 * BLOCK


def test_tone_comes_out_on_the_common_gps_time_axis(paths: list[Path], table: Path) -> None:
    dataset = recordings.read_kiwi(paths, table, window_s=0.5)
    expected = tone(1_000.0)(instants(dataset))[:, None, :]
    assert 20 * np.log10(np.abs(complex_windows(dataset) - expected).max() / 0.5) < -80.0


@pytest.mark.slow
def test_delays_of_band_limited_noise_are_kept(tmp_path: Path, table: Path) -> None:
    delays = {"alpha": 0.0, "bravo_2": 423.456e-6, "charlie": -82.1e-6}
    files = []
    for name, delay_s in delays.items():
        files.append(tmp_path / file_name(name))
        files[-1].write_bytes(kiwi_bytes(noise(delay_s), RATES_HZ[name]))
    dataset = recordings.read_kiwi(files, table, window_s=2.0)
    expected = np.stack([noise(delay_s)(instants(dataset)) for delay_s in delays.values()], axis=1)
    error = complex_windows(dataset) - expected
    assert 10 * np.log10(np.mean(np.abs(error) ** 2) / np.mean(np.abs(expected) ** 2)) < -80.0


def test_dataset_follows_the_contract(paths: list[Path], table: Path) -> None:
    dataset = recordings.read_kiwi(iter(paths), table, window_s=1.5, transmitter=(45.2, 8.1))
    assert dict(dataset.sizes) == {"sample": 6, "receiver": 3, "component": 2, "time": 18_000}
    assert list(dataset["receiver_name"].values) == list(RECEIVERS)
    assert dataset["iq"].dtype == np.int16
    assert (np.abs(dataset["iq"].astype(int)).max(("component", "time")) == 32_767).all()
    assert (dataset["iq"].attrs["units"], dataset["iq_full_scale"].attrs["units"]) == ("1", "mW^0.5")
    np.testing.assert_allclose(dataset["receiver_latitude"].isel(sample=3), [45.0, 46.0, 45.5])
    assert (dataset["receiver_altitude"] == 0.0).all()
    assert (dataset["transmitter_longitude"] == 8.1).all()
    assert (dataset["transmitter_altitude"] == 0.0).all()
    assert dataset["snr"].isnull().all()
    assert dataset["snr"].dims == ("sample", "receiver")
    assert dataset.attrs["sample_rate_hz"] == 12_000.0
    assert dataset.attrs["centre_frequency_hz"] == 77_500.0
    assert dataset.attrs["propagation"] == "ground_wave"
    assert dataset.attrs["clock_sigma_s"] == pytest.approx([0.0, 0.0, 0.0], abs=1e-9)
    assert dataset["time"].values[[0, -1]] == pytest.approx([0.0, 17_999 / 12_000])


def test_unknown_transmitter_is_nan_and_altitudes_are_read(paths: list[Path], table: Path) -> None:
    rows = [
        f"{name},{latitude},{longitude},{'' if name == 'alpha' else 250}"
        for name, (latitude, longitude) in RECEIVERS.items()
    ]
    table.write_text("\n".join(["name,latitude_deg,longitude_deg,altitude_m", *rows]))
    dataset = recordings.read_kiwi(paths, table)
    assert dataset["transmitter_latitude"].isnull().all()
    np.testing.assert_array_equal(dataset["receiver_altitude"].isel(sample=0), [0.0, 250.0, 250.0])


def test_silence_keeps_a_usable_full_scale() -> None:
    iq, full_scale = common.quantise(np.zeros((1, 10), dtype=np.complex128))
    assert not iq.any()
    assert full_scale == [1.0]


def test_dataset_is_written_and_read_back(paths: list[Path], table: Path, tmp_path: Path) -> None:
    dataset = recordings.read_kiwi(paths, table)
    dataset.to_netcdf(tmp_path / "recording.nc", engine="netcdf4")
    with xr.open_dataset(tmp_path / "recording.nc", engine="netcdf4") as again:
        np.testing.assert_array_equal(again["iq"], dataset["iq"])
        np.testing.assert_allclose(again.attrs["clock_sigma_s"], dataset.attrs["clock_sigma_s"])


def test_too_few_fresh_stamps_are_refused(paths: list[Path], table: Path) -> None:
    paths[1].write_bytes(kiwi_bytes(tone(0.0), 12_001.0, blocks=90))
    with pytest.raises(ValueError, match=r"bravo_2_iq.wav has 3 fresh GPS stamps .* 4 are needed; record for longer"):
        recordings.read_kiwi(paths, table)


def test_a_receiver_without_gnss_is_refused() -> None:
    blocks = kiwi_wav.parse_wav(kiwi_bytes(tone(0.0), 12_001.0, blocks=90), "none.wav")
    never = replace(blocks, fix_age_s=np.full(90, 255), stamp_s=np.zeros(90))
    with pytest.raises(ValueError, match=r"none.wav has 0 fresh GPS stamps"):
        kiwi_wav.fit_clock(never, "none.wav")


def test_recordings_that_do_not_overlap_are_refused(paths: list[Path], table: Path) -> None:
    paths[2].write_bytes(kiwi_bytes(tone(0.0), 12_001.0, start_s=FIRST_SECOND + 60.0))
    with pytest.raises(ValueError, match=r"overlap for 0.000 s \(charlie begins last, .*; give simultaneous"):
        recordings.read_kiwi(paths, table)


def test_recordings_from_another_week_are_refused(paths: list[Path], table: Path) -> None:
    later = paths[2].rename(paths[2].with_name(file_name("charlie", "20200820T065220Z")))
    with pytest.raises(ValueError, match="from 2020-08-13 to 2020-08-20, which do not overlap"):
        recordings.read_kiwi([*paths[:2], later], table)


def test_a_window_longer_than_the_overlap_is_refused(paths: list[Path], table: Path) -> None:
    with pytest.raises(ValueError, match=r"overlap for 10\.\d+ s .* 30 s are needed; .* a shorter window"):
        recordings.read_kiwi(paths, table, window_s=30.0)


@pytest.mark.parametrize("window_s", [0.0, -1.0, 1e-6, float("nan")])
def test_a_window_without_samples_is_refused(paths: list[Path], table: Path, window_s: float) -> None:
    with pytest.raises(ValueError, match=r"window_s is .* give a positive length"):
        recordings.read_kiwi(paths, table, window_s=window_s)


def test_two_receivers_are_refused(paths: list[Path], table: Path) -> None:
    with pytest.raises(ValueError, match=r"paths holds 2 recordings .* at least 3 receivers"):
        recordings.read_kiwi(paths[:2], table)


def test_two_recordings_of_one_receiver_are_refused(paths: list[Path], table: Path) -> None:
    with pytest.raises(ValueError, match="more than one recording of alpha"):
        recordings.read_kiwi([*paths, paths[0]], table)


@pytest.mark.parametrize("cut", [1, 4, 1_000, 2_074])
def test_a_truncated_file_is_refused(paths: list[Path], table: Path, cut: int) -> None:
    paths[0].write_bytes(paths[0].read_bytes()[:-cut])
    with pytest.raises(ValueError, match=r"alpha_iq.wav has .* bytes, its header says .* fetch the whole file"):
        recordings.read_kiwi(paths, table)


def test_a_file_that_ends_inside_a_block_is_refused(contents: dict[str, bytes]) -> None:
    body = contents["alpha"][8:-100]
    with pytest.raises(ValueError, match=r"short.wav ends inside a block"):
        kiwi_wav.parse_wav(b"RIFF" + struct.pack("<I", len(body)) + body, "short.wav")


def test_a_garbled_block_is_named(contents: dict[str, bytes]) -> None:
    content = bytearray(contents["alpha"])
    content[36 + 17 * 2_074] ^= 0xFF
    with pytest.raises(ValueError, match=rf"noisy.wav is garbled in block 17 \(byte {36 + 17 * 2_074}\)"):
        kiwi_wav.parse_wav(bytes(content), "noisy.wav")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a RIFF/WAVE file"),
        (b"RIFF\x04\x00\x00\x00WAVE", "no GNSS stamps"),
        (
            b"RIFF\x1c\x00\x00\x00WAVE" + struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 12_000, 24_000, 2, 16),
            "1 channels",
        ),
    ],
)
def test_a_file_of_another_kind_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kiwi_wav.parse_wav(content, "other.wav")


def test_another_sample_rate_is_refused(contents: dict[str, bytes]) -> None:
    content = contents["alpha"].replace(struct.pack("<I", 12_001), struct.pack("<I", 16_000), 1)
    with pytest.raises(ValueError, match=r"wide.wav has a header sample rate of 16000 Hz; .* 12000, 20250, 48000 Hz"):
        kiwi_wav.parse_wav(content, "wide.wav")


def test_a_receiver_that_is_not_in_the_table_is_refused(paths: list[Path], table: Path) -> None:
    stranger = paths[0].rename(paths[0].with_name(file_name("delta")))
    with pytest.raises(ValueError, match=r"delta_iq.wav names none of alpha, bravo_2, charlie"):
        recordings.read_kiwi([stranger, *paths[1:]], table)


def test_a_file_that_names_two_receivers_is_refused(paths: list[Path], table: Path) -> None:
    both = paths[0].rename(paths[0].with_name(file_name("alpha_charlie")))
    with pytest.raises(ValueError, match="names alpha and charlie"):
        recordings.read_kiwi([both, *paths[1:]], table)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,latitude_deg\nalpha,45\n", "receivers.csv line 2: longitude_deg: is missing"),
        ("name,latitude_deg,longitude_deg\nalpha,45,east\n", "line 2: longitude_deg: 'east' is refused: .* number"),
        ("name,latitude_deg,longitude_deg\nalpha,95,7\n", "line 2: latitude_deg: '95' is refused: .* 90"),
        ("name,latitude_deg,longitude_deg\nalpha,45,7\nalpha,46,7\n", "line 3: the name 'alpha' is repeated"),
    ],
)
def test_a_wrong_receivers_table_is_refused(paths: list[Path], table: Path, text: str, message: str) -> None:
    table.write_text(text)
    with pytest.raises(ValueError, match=message):
        recordings.read_kiwi(paths, table)


def test_different_centre_frequencies_are_refused(paths: list[Path], table: Path) -> None:
    other = paths[0].rename(paths[0].with_name(file_name("alpha", frequency_hz=60_000)))
    with pytest.raises(ValueError, match=r"different centre frequencies \(alpha 60000 Hz"):
        recordings.read_kiwi([other, *paths[1:]], table)


@pytest.mark.parametrize("transmitter", [(45.0,), (91.0, 7.0)])
def test_a_wrong_transmitter_is_refused(paths: list[Path], table: Path, transmitter: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="transmitter is"):
        recordings.read_kiwi(paths, table, transmitter=transmitter)


@pytest.fixture(scope="module")
def dcf77(real: Path) -> xr.Dataset:
    folder = real / "kiwisdr_dcf77_2020"
    files = sorted(folder.glob("*.wav"))
    return recordings.read_kiwi(files, folder / "receivers.csv", window_s=2.0, transmitter=(50.0152, 9.0112))


def test_real_time_differences_and_fixes(dcf77: xr.Dataset) -> None:
    measured = pairs.pair_features(dcf77)
    late_s = measured["tdoa_s"] - measured["tdoa_s"].isel(receiver=0)
    expected_s = [0.0, -423.4e-6, 82.1e-6]  # great circle / c, against HB9ODP
    # Ground wave, receiver filters and sky wave leave 10 to 20 µs at each of the 2 s windows.
    assert (np.abs(late_s - expected_s) < 25e-6).all()
    for method in ("tdoa_ls", "tdoa_robust"):
        fixes = estimators.locate(dcf77.assign(measured), method)
        assert fixes["converged"].all()
        assert (errors.position_errors(dcf77, fixes)["error"] < 5_000).all()


def test_joining_windows_of_dcf77_makes_the_noise_smaller_and_nothing_else(dcf77: xr.Dataset, real: Path) -> None:
    folder = real / "kiwisdr_dcf77_2020"
    whole = recordings.read_kiwi(sorted(folder.glob("*.wav")), folder / "receivers.csv")
    joined, windows = (estimators.locate(each, "tdoa_ls").budget.median("sample") for each in (whole, dcf77))
    assert joined.sel(cause="noise") < windows.sel(cause="noise") / 2
    others = ["clocks", "paths", "receiver_positions"]
    ratio = (joined / windows).sel(cause=others).values
    assert ratio == pytest.approx(np.full(3, ratio.mean()), rel=0.005)
    assert 0.95 < ratio.mean() < 1.01  # noise of unknown scale widens the whole law of windows by some percent


def test_real_recording_of_dcf77(dcf77: xr.Dataset) -> None:
    dataset = dcf77
    assert dict(dataset.sizes) == {"sample": 14, "receiver": 3, "component": 2, "time": 24_000}
    assert list(dataset["receiver_name"].values) == ["HB9ODP", "JO51xl", "pa0rdt"]
    rates = np.array(dataset.attrs["receiver_sample_rate_hz"])
    assert ((rates > 12_001.0) & (rates < 12_001.2)).all()
    assert np.ptp(rates) > 0.01
    sigmas = np.array(dataset.attrs["clock_sigma_s"])
    assert ((sigmas > 1e-9) & (sigmas < 100e-9)).all()
    # The transmitter keeps UTC: on a GPS time axis its amplitude falls by 85 % at every whole second.
    envelope = np.abs(complex_windows(dataset))
    fraction = instants(dataset) % 1.0
    for receiver in range(3):
        low = envelope[:, receiver][(fraction > 0.02) & (fraction < 0.08)].mean()
        high = envelope[:, receiver][fraction > 0.25].mean()
        assert 0.1 < low / high < 0.2


def test_dcf77_lies_within_what_is_published_of_ground_waves(real: Path) -> None:
    """Ten seconds and more in one window, with the default of path delays."""
    folder = real / "kiwisdr_dcf77_2020"
    truth = (50.0152, 9.0112)
    dataset = recordings.read_kiwi(sorted(folder.glob("*.wav")), folder / "receivers.csv", transmitter=truth)
    fixes = estimators.locate(dataset, "tdoa_ls")
    judged = errors.position_errors(dataset, fixes)
    assert float(judged.error[0]) < 2_000
    assert float(judged.mahalanobis_squared[0]) < error_law.radius_squared(0.95, np.inf)
