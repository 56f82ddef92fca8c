"""Features against the stored truth of 500 scenes, second implementations, and channels made by hand."""

import sys

import numpy as np
import pytest
import xarray as xr
from device import Device, namespace
from scipy import signal

import heimdall_lab as hl
from heimdall_lab.datasets import schema
from heimdall_lab.signals import chunks, spectra
from heimdall_lab.signals.features import measure

RATIOS = ("voice", "tone", "dual_tone", "noise", "fsk4", "afsk1200")
CHUNK_S = 0.2 / 5


def only(**ratios: float) -> dict[str, float]:
    return {f"{kind}_ratio": ratios.get(kind, 0.0) for kind in RATIOS}


def generated(num_samples: int, preset: str = "los_sync", **overrides) -> xr.Dataset:
    return hl.generate(
        hl.preset(preset, num_samples=num_samples, seed=17, **overrides), backend="numpy", progress=False
    )


def mean(dataset: xr.Dataset, feature: str) -> np.ndarray:
    return dataset["features"].sel(feature=feature, statistic="mean").values.astype(float)


@pytest.fixture(scope="module")
def mixed():
    """500 scenes of every waveform, with the fading and echoes that shake levels."""
    equal = only(voice=0.5, **dict.fromkeys(RATIOS[1:], 0.1))
    steady = generated(400, signal=equal)
    fading = generated(100, "uhf_mixed", data_type="iq_raw", channel={"fading": "rician"})
    return [steady, fading]


@pytest.fixture(scope="module")
def links(mixed):
    """Every link of them: truth and features, as rows."""
    columns = {name: [] for name in ("snr", "power", "noise", "snr_db", "rssi_dbm", "noise_floor_dbm")}
    for part in mixed:
        columns["snr"].append(part.snr.values)
        columns["power"].append(part.received_power.values)
        columns["noise"].append(part.noise_power.values)
        for name in ("snr_db", "rssi_dbm", "noise_floor_dbm"):
            columns[name].append(mean(part, name))
    return {name: np.concatenate([part.ravel() for part in parts]) for name, parts in columns.items()}


@pytest.mark.parametrize("low", [0, 10, 20, 30])
@pytest.mark.parametrize(("feature", "truth"), [("snr_db", "snr"), ("rssi_dbm", "power")])
def test_levels_are_those_of_the_truth(links, feature, truth, low):
    """In every decade from 0 to 40 dB of SNR."""
    rows = (links["snr"] >= low) & (links["snr"] < low + 10)
    error = (links[feature] - links[truth])[rows]
    assert rows.sum() > 100
    assert abs(error.mean()) <= 0.5
    assert error.std() <= 1.0


def test_noise_floors_are_those_of_the_truth(links):
    assert np.abs(links["noise_floor_dbm"] - links["noise"])[links["snr"] < 40].max() <= 0.5


def test_frequency_offset_of_a_tone_is_within_its_resolution():
    """That of a chunk from 20 dB, that of the spectrum's bins, 3 · 64 of them, wherever the signal is present."""
    dataset = generated(60, signal=only(tone=1.0))
    error = np.abs(mean(dataset, "frequency_offset_hz") - (dataset.frequency_offset + dataset.doppler).values)
    snr = dataset.snr.values
    assert (snr >= 20).sum() > 100
    assert error[snr >= 20].max() <= 1 / CHUNK_S
    assert error[snr >= 3].max() <= 50e3 / 192


def test_bandwidth_of_noise_is_within_five_percent():
    dataset = generated(60, signal=only(noise=1.0))
    truth = np.broadcast_to(dataset.occupied_bandwidth.values[:, None], dataset.snr.shape)
    ratio, snr = mean(dataset, "bandwidth_hz") / truth, dataset.snr.values
    assert (snr >= 10).sum() > 300
    assert np.abs(ratio - 1)[snr >= 10].max() <= 0.05
    assert np.abs(ratio[snr >= 3].mean() - 1) <= 0.05


def test_whatever_is_present_has_finite_features(mixed):
    for part in mixed:
        assert np.isfinite(part["features"].values[part.receiver_present.values]).all()
    padded = generated(2, max_receivers=9)
    assert np.isnan(padded["features"].values[:, 7:]).all()
    assert np.isfinite(padded["features"].values[:, :7]).all()


def ds_of(iq: np.ndarray, like: xr.Dataset) -> xr.Dataset:
    """A dataset of one scene that holds complex samples (R, N) of magnitude far below 1."""
    parts = np.stack([iq.real, iq.imag], axis=1)
    counts = np.rint(parts * 32767).astype(np.int16)[None]
    scene = like.isel(sample=[0], receiver=slice(len(iq)), time=slice(iq.shape[1]))
    return scene.assign(
        iq=scene.iq.copy(data=counts), iq_full_scale=scene.iq_full_scale.copy(data=np.ones((1, len(iq))))
    )


def noise(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)) / 2**0.5


def test_noise_alone_has_finite_features_and_no_signal(mixed):
    scene = ds_of(0.05 * noise(np.random.default_rng(3), 7, 10_000), mixed[0])
    measured = hl.features(scene)
    assert np.isfinite(measured["features"].values).all()
    assert (mean(measured, "signal_present") == 0).all()
    assert (mean(measured, "snr_db") < -3).all()
    assert np.abs(mean(measured, "noise_floor_dbm") - 20 * np.log10(0.05)).max() < 0.5
    silent = hl.features(ds_of(np.zeros((7, 10_000), dtype=complex), mixed[0]))
    assert np.isfinite(silent["features"].values).all()


def test_statistics_of_the_samples_equal_a_second_implementation(mixed):
    scene = mixed[0].isel(sample=[5])
    voltage = hl.iq(scene).values[0].astype(np.complex128).reshape(7, 5, 2000)
    magnitude = np.abs(voltage)
    by_hand = {
        "envelope_mean": magnitude.mean(axis=-1),
        "envelope_std": magnitude.std(axis=-1),
        "envelope_max": magnitude.max(axis=-1),
        "peak_to_avg_ratio_db": 10 * np.log10((magnitude**2).max(axis=-1) / (magnitude**2).mean(axis=-1)),
    }
    for name, values in by_hand.items():
        expected = np.stack([values.mean(-1), values.std(-1), values.min(-1), values.max(-1)], axis=-1)
        found = scene["features"].sel(feature=name).values[0]
        np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-5 * expected.max())


def test_zero_crossings_count_the_turns_of_a_line():
    """A line at f crosses zero 2 f times a second, whatever its phase: 2 f / rate, to one crossing in a chunk."""
    time = np.arange(10_000)
    counts = np.rint(20_000 * np.cos(2 * np.pi * 0.02 * time + 0.3)).astype(np.int16)
    iq = np.stack([counts, np.roll(counts, 12)])[None]
    plan = chunks.Plan.of(iq, 10_000, 50e3)
    assert chunks.chunks(iq, plan, spectrogram=False).crossings == pytest.approx(0.04, abs=1 / 1999)


def test_spectral_shape_is_that_of_a_known_band(mixed):
    """Flat noise from −2 to 4 kHz: mean 1 kHz, folded mean (2·2/2·… by the integral), 85 % within 3.1 kHz."""
    rng = np.random.default_rng(5)
    spectrum = np.fft.fft(noise(rng, 7, 10_000))
    frequency_hz = np.fft.fftfreq(10_000, 1 / 50e3)
    spectrum[:, (frequency_hz < -2000) | (frequency_hz > 4000)] = 0
    band = np.fft.ifft(spectrum) * 0.15
    measured = hl.features(ds_of(band + 1e-3 * noise(rng, 7, 10_000), mixed[0]))
    assert mean(measured, "frequency_offset_hz") == pytest.approx(1000, abs=100)
    # |f| is 0 … 2 kHz with weight 2 and 2 … 4 kHz with weight 1, of 6 kHz: (2 · 2 + 6) / 6 kHz.
    assert mean(measured, "spectral_centroid_hz") == pytest.approx(1667, abs=100)
    assert mean(measured, "spectral_rolloff_hz") == pytest.approx(3100, abs=200)
    assert mean(measured, "bandwidth_hz") == pytest.approx(5940, rel=0.06)
    density = (np.abs(band) ** 2).mean() / 6000
    peak = measured["features"].sel(feature="psd_dbm_per_hz", statistic="mean").values
    assert (np.abs(peak - 10 * np.log10(density)) < 6).all()  # the highest of bins that scatter by a factor of 2 or so


def test_a_line_has_the_density_of_one_bin(mixed):
    """On a bin of the spectrum, of 192 at 50 kHz, a Hann window leaves 2/3 of a line's power in it (Harris 1978)."""
    line = 0.1 * np.exp(2j * np.pi * 8 / 192 * np.arange(10_000))
    measured = hl.features(ds_of(np.stack([line] * 3) + 1e-4 * noise(np.random.default_rng(4), 3, 10_000), mixed[0]))
    expected_dbm = 10 * np.log10(0.01 * 2 / 3 / (50e3 / 192))
    assert mean(measured, "psd_dbm_per_hz") == pytest.approx(expected_dbm, abs=0.05)


def test_confidence_is_the_share_of_signal(mixed):
    """Of the power in the occupied band and what frequency offsets and the window add to it: a bit more noise than SNR
    counts, less than four times as much in the narrowest band."""
    part = mixed[0]
    rows = part.snr.values > 5
    score = mean(part, "confidence_score")[rows]
    over_noise_db = 10 * np.log10(score / (1 - score))
    short_db = mean(part, "snr_db")[rows] - over_noise_db
    assert short_db.min() > 0
    assert short_db.max() < 6


@pytest.mark.parametrize("phase", [np.pi / 2, -np.pi / 3])
def test_delay_spread_follows_the_slope_of_a_two_path_channel(mixed, phase):
    """|1 + a exp(j(φ − 2πfτ))|² of one receiver of seven; the feature is √2 |slope| / 4π, in each chunk."""
    rng = np.random.default_rng(11)
    num_time, amplitude, delay_s = 10_000, 0.3, 8e-6
    spectrum = np.fft.fft(noise(rng, num_time))
    frequency_hz = np.fft.fftfreq(num_time, 1 / 50e3)
    spectrum[np.abs(frequency_hz) > 5000] = 0
    channel = 1 + amplitude * np.exp(1j * (phase - 2 * np.pi * frequency_hz * delay_s))
    heard = np.stack([np.fft.ifft(spectrum * (channel if receiver == 2 else 1)) for receiver in range(7)])
    measured = hl.features(ds_of(0.2 * heard + 1e-4 * noise(rng, 7, num_time), mixed[0]))
    band = np.abs(frequency_hz) <= 5000
    slope, _ = np.polyfit(frequency_hz[band], 2 * np.log(np.abs(channel[band])), 1)
    expected_us = 1e6 * np.sqrt(2) / (4 * np.pi) * abs(slope)
    assert mean(measured, "multipath_delay_spread_us")[0, 2] == pytest.approx(expected_us, rel=0.02)
    assert mean(measured, "delay_spread_confidence")[0, 2] > 0.95
    assert mean(measured, "coherence_bandwidth_khz")[0, 2] == pytest.approx(1e3 / (5 * expected_us), rel=0.05)
    assert mean(measured, "multipath_delay_spread_us")[0, [0, 1, 3, 4, 5, 6]].max() < expected_us / 3


def test_spectrograms_show_a_line_where_it_sounds(mixed):
    """A line at 4 kHz in the second half: its band and frames hold it, and their sum holds its power."""
    time_s = np.arange(10_000) / 50e3
    line = 0.1 * np.exp(2j * np.pi * 4000 * time_s) * (time_s >= 0.1)
    measured = hl.features(ds_of(np.stack([line] * 3) + 1e-5 * noise(np.random.default_rng(2), 3, 10_000), mixed[0]))
    picture = measured["spectrogram"].isel(sample=0, receiver=1)
    assert dict(picture.sizes) == {"frequency": 128, "frame": 32}
    loudest = picture.isel(frame=slice(18, None)).mean("frame").idxmax("frequency")
    step_hz = float(np.diff(picture.frequency.sel(frequency=slice(3500, 4500))).max())
    assert float(loudest) == pytest.approx(4000, abs=step_hz + 50e3 / 192)
    assert (picture.sel(frequency=loudest)[18:] > picture.sel(frequency=loudest)[:14].max() + 30).all()
    assert picture.frame.values == pytest.approx((np.arange(32) + 0.5) * 0.2 / 32)
    whole = 10 ** (picture.values[:, 18:] / 10)  # density, both sides averaged
    width_hz = np.gradient(picture.frequency.values)
    assert 2 * (whole * width_hz[:, None]).sum(axis=0) == pytest.approx(0.01, rel=0.15)


def test_short_spectra_keep_power_and_equal_welch():
    rng = np.random.default_rng(7)
    voltage = noise(rng, 3, 9600).astype(np.complex64)
    short = spectra.short_time_power(voltage, 192)
    assert short.shape == (3, 148, 192)
    _, welch = signal.welch(voltage, nperseg=192, noverlap=128, detrend=False, return_onesided=False)
    np.testing.assert_allclose(short.mean(axis=1), np.fft.fftshift(welch, axes=-1), rtol=1e-4)


def test_every_instant_weighs_the_same():
    """Of windows a third of their length apart: a pulse counts as much wherever it is, but at the ends."""
    power = [spectra.short_time_power(np.eye(1, 960, at, dtype=np.complex64), 96).mean() for at in range(200, 760, 7)]
    assert np.ptp(power) < 1e-5 * np.mean(power)


@pytest.mark.parametrize("overlap", [0.5, 2 / 3, 0.75])
def test_averages_count_as_their_scatter_does(overlap):
    """Variance of means of overlapping periodograms of white noise: 1 / averages, to 5 % for 20,000 means."""
    rng = np.random.default_rng(13)
    segment, frames = 48, 9
    hop = round(segment * (1 - overlap))
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(segment) / segment)
    voltage = noise(rng, 20_000, segment + (frames - 1) * hop)
    line = np.exp(-2j * np.pi * 0.25 * np.arange(segment)) * window
    each = [np.abs(voltage[:, k * hop : k * hop + segment] @ line) ** 2 for k in range(frames)]
    means = np.mean(each, axis=0)
    assert means.mean() ** 2 / means.var() == pytest.approx(spectra.hann_averages(frames, overlap), rel=0.05)


def test_mel_bands_average():
    frequency_hz = (np.arange(192) - 96) * 50e3 / 192
    edges_hz = spectra.mel_bands_hz(25e3, 128)
    weight = spectra.mel_weights(edges_hz, frequency_hz)
    assert weight.sum(axis=1) == pytest.approx(1.0)
    assert (weight >= 0).all()
    wide = np.diff(edges_hz)[1:] > 50e3 / 192
    middle_hz = (weight * np.abs(frequency_hz)).sum(axis=1)[wide]
    assert middle_hz == pytest.approx(edges_hz[1:-1][wide], rel=0.03)
    assert 2595 * np.log10(1 + edges_hz / 700) == pytest.approx(np.linspace(0, 2595 * np.log10(1 + 25e3 / 700), 130))


def test_datasets_of_features_are_those_of_iq_without_it():
    with_iq, without = (generated(5, data_type=kind, gate={"max_gdop": 100}) for kind in schema.SIGNALS)
    assert not {"iq", "time"} & {*without, *without.dims}
    assert without["features"].equals(with_iq["features"])
    measured, stored = hl.features(with_iq), hl.features(without)
    for name in ("features", "spectrogram", *schema.MEASURED):
        assert stored[name].equals(measured[name]), name
    for method in ("centroid", "strongest", "tdoa_ls", "tdoa_robust"):
        assert hl.locate(without, method).equals(hl.locate(with_iq, method)), method


def test_features_without_iq_or_features_are_refused(mixed):
    bare = mixed[0].isel(sample=[0]).drop_vars("iq")
    with pytest.raises(ValueError, match="'iq' is missing"):
        hl.features(bare)
    with pytest.raises(ValueError, match="time: 100 samples are too few"):
        hl.features(mixed[0].isel(sample=[0], time=slice(100)))


def test_real_recordings_have_features(real):
    folder = real / "kiwisdr_dcf77_2020"
    recorded = hl.read_kiwi(sorted(folder.glob("*.wav")), folder / "receivers.csv", window_s=5.0)
    measured = hl.features(recorded)
    assert np.isfinite(measured["features"].values).all()
    assert (mean(measured, "signal_present") == 1).all()
    assert (np.abs(mean(measured, "frequency_offset_hz")) < 5).all()  # DCF77 is tuned to its carrier


def test_the_same_on_a_device(mixed, monkeypatch):
    """With a stand-in for CuPy whose arrays do not mix with NumPy's."""
    monkeypatch.setitem(sys.modules, "cupy", namespace())
    part = mixed[1].isel(sample=slice(0, 3))
    known = (part.iq_full_scale.values, part.receiver_present.values, part.attrs)
    expected = measure(part.iq.values, *known, spectrogram=True)
    found = measure(part.iq.values.view(Device), *known, spectrogram=True)
    for name, values in expected.items():
        assert type(found[name]) is np.ndarray
        np.testing.assert_allclose(found[name], values, rtol=1e-3, atol=1e-4 if name == "features" else 1e-2)
