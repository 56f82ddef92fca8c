"""The stored truth says everything: each receiver's signal is rebuilt from it, and what remains is the noise.

The rebuilding is in double precision and by other means: delays are phase ramps in the frequency domain, and motion a
Taylor series about them. Of the package only the random numbers, the waveforms and the gains of the paths are used.
"""

import numpy as np
import pytest

import heimdall_lab as hl
from heimdall_lab.core import interpolation
from heimdall_lab.core.philox import Stage
from heimdall_lab.datasets import schema
from heimdall_lab.simulation import scenes, synthesis
from heimdall_lab.simulation.propagation import fading
from heimdall_lab.simulation.waveforms import kinds

STRONG = {"transmitter_power_min_dbm": 38.0, "transmitter_power_max_dbm": 52.0, "duration_s": 0.08}
FADE = 40  # samples of a waveform by which its ends are faded, so that they meet
MOVING = {
    "geometry": {"placement": "random", "transmitter_speed_max_m_s": 300.0, "extent_km": 80.0},
    "channel": {"fading": "rayleigh", "multipath_taps_min": 1, "multipath_taps_max": 5, "clock": "ntp",
                "frequency_drift_max_hz_per_s": 50.0, "diffraction": "none"},
    "max_receivers": 12,
}  # fmt: skip
DATASETS = {
    "los_sync": ("los_sync", {}),
    "nlos_sync": ("nlos_sync", {"channel": {"multipath_power_max_db": -3.0}}),
    "uhf_mixed": ("uhf_mixed", {"data_type": "iq_raw", "channel.diffraction": "none"}),
    "moving": ("los_sync", MOVING),
    "recordings": (
        "websdr_reference",
        {
            "recording": {"frequency_span_hz": 40e6},
            "channel": {"clock": "ntp", "clock_rate_max_ppm": 1.0, "frequency_drift_max_hz_per_s": 20.0},
            "geometry": {"placement": "random", "transmitter_speed_max_m_s": 300.0, "extent_km": 80.0},
            "signal": {"sample_rate_hz": 100e3},
            "max_receivers": 10,
        },
    ),
    "clocks_of_20_ppm": (
        "los_sync",
        {"channel": {"clock_rate_max_ppm": 20.0, "stamp_resolution_s": 1e-4, "stamp_jitter_s": 1e-5}},
    ),
    "fast_and_oversampled": (
        "websdr",
        {
            "signal": {"sample_rate_hz": 200e3, "frequency_hz": 432e6, "duration_s": 0.03, "tone_max_hz": 400.0},
            "channel": {"diffraction": "none", "nlos_ratio": 0.5, "nlos_excess_mean_s": 1e-4, "clock": "gpsdo",
                        "shadowing_sigma_db": 4.0, "noise_figure_db": 12.0, "frequency_offset_max_hz": 5e3},
            "geometry": {"placement": "hexagonal", "transmitter_speed_max_m_s": 100.0},
            "max_receivers": 10,
        },
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=DATASETS)
def recorded(request):
    """A configuration, its dataset, and the rebuilt voltages (S, R, N), NaN where no receiver is."""
    name, changes = DATASETS[request.param]
    signal = STRONG | changes.get("signal", {})
    config = hl.preset(name, **{**changes, "signal": signal}, num_samples=10, seed=77)
    dataset = hl.generate(config, progress=False)
    return config, dataset, rebuilt(config, dataset)


def streams_of(config):
    return scenes.draw_scenes(config, np.arange(config.num_samples)).streams


def rebuilt(config, dataset) -> np.ndarray:
    signal, streams = config.signal, streams_of(config)
    num_time, rate_hz, factor = signal.num_time, signal.sample_rate_hz, signal.interpolation
    guard, length = synthesis._waveform_length(config)
    waveform = kinds.synthesize_waveforms(signal, kinds.draw_kinds(signal, streams), streams, length).astype(complex)
    fade = np.sin(np.pi / 2 * np.minimum(1, (np.arange(length) + 0.5) / FADE)) ** 2
    spectrum = np.fft.fft(waveform * fade * fade[::-1], axis=1)
    cycles = np.fft.fftfreq(length)
    truth = {name: dataset[name].values for name in dataset.data_vars if name != "iq"}
    paths = fading.draw_multipath(config.channel, streams, truth["line_of_sight"])
    gain = fading.gains(paths, streams, 1 / rate_hz, num_time).astype(complex)  # at every sample
    phase = streams.uniform(Stage.CARRIER_PHASE, config.max_receivers)
    from_middle_s = (np.arange(num_time) - num_time / 2) / rate_hz
    arrival_s = truth["propagation_delay"] + truth["excess_delay"] + truth["clock_offset"]
    arrival_s = arrival_s - truth["emission_time"][:, None]
    level = 10 ** ((truth["received_power"] - truth["fading"]) / 20)
    voltage = np.full((*phase.shape, num_time), np.nan, dtype=complex)
    for s, r in np.argwhere(truth["receiver_present"]):
        delays_s = [0.0]
        if "echo_delay" in truth:
            echoes = truth["echo_delay"][s, r]
            delays_s += list(echoes[np.isfinite(echoes)])
        carrier_hz = truth["centre_frequency"][s] if "centre_frequency" in truth else signal.frequency_hz
        clock_rate = truth["clock_rate"][s, r] if "clock_rate" in truth else 0.0
        later_s = (clock_rate - truth["doppler"][s, r] / carrier_hz) * from_middle_s  # of the arrival
        total = np.zeros(num_time, dtype=complex)
        for p, delay_s in enumerate(delays_s):
            # Waveform sample of the receiver's sample 0, and as many of them as fill the window at the higher rate.
            start = interpolation.LEAD + (guard - (arrival_s[s, r] + delay_s) * rate_hz) / factor
            shift = later_s * rate_hz / factor
            for sub in range(factor):
                ramp = spectrum[s] * np.exp(2j * np.pi * cycles * (start + sub / factor))
                value, slope, bend = (np.fft.ifft(ramp * (2j * np.pi * cycles) ** n) for n in range(3))
                count = len(total[sub::factor])
                moved = shift[sub::factor]
                path = value[:count] - moved * slope[:count] + moved**2 / 2 * bend[:count]
                total[sub::factor] += gain[s, r, p, sub::factor] * path
        frequency_hz = truth["frequency_offset"][s, r] + truth["doppler"][s, r]
        turns = phase[s, r] + frequency_hz * from_middle_s + truth["frequency_drift"][s, r] * from_middle_s**2 / 2
        voltage[s, r] = level[s, r] * total * np.exp(2j * np.pi * turns)
    return voltage


def test_what_the_truth_does_not_explain_is_the_noise(recorded):
    _, dataset, expected = recorded
    present = dataset.receiver_present.values
    noise_mw = 10 ** (dataset.noise_power.values[present] / 10)
    residual = (schema.iq(dataset).values.astype(complex) - expected)[present] / np.sqrt(noise_mw)[:, None]
    rows, num_time = residual.shape
    signal_to_noise = (np.abs(expected[present]) ** 2).mean(axis=1) / noise_mw
    assert np.median(10 * np.log10(signal_to_noise)) > 15
    assert 10 * np.log10(signal_to_noise.max()) > 40
    # Besides the noise there are straight lines for gains, −73 dB rms at the fastest, and the converter's steps.
    imperfect = signal_to_noise * 10 ** (-72 / 10) + 10 ** (-80 / 10) * (1 + signal_to_noise)
    power = (np.abs(residual) ** 2).mean(axis=1)
    assert (np.abs(power - 1) < 5 / num_time**0.5 + imperfect).all()
    assert power.mean() == pytest.approx(1, abs=5 / (rows * num_time) ** 0.5 + imperfect.mean())
    for lag in range(1, 21):
        correlation = (residual[:, lag:] * residual[:, :-lag].conj()).mean(axis=1)
        assert (np.abs(correlation) < 5 / (num_time - lag) ** 0.5 + imperfect).all()
        assert abs(correlation.mean()) < 5 / (rows * num_time) ** 0.5 + imperfect.mean()
    # Nothing of the signal is left: this alone would show errors of 10⁻⁴ in its amplitude or phase.
    likeness = expected[present].conj() * residual
    norm = np.sqrt((np.abs(expected[present]) ** 2).mean(axis=1))
    assert (np.abs(likeness.mean(axis=1)) / norm < 5 / num_time**0.5 + imperfect**0.5).all()


def test_and_it_is_the_noise_that_was_drawn(recorded):
    """Sample by sample: −66 dB of the signal's largest values and half a step of the converter."""
    config, dataset, expected = recorded
    streams, present = streams_of(config), dataset.receiver_present.values
    drawn = np.stack(
        [streams.complex_normal(Stage.NOISE, config.signal.num_time, lane=r) for r in range(config.max_receivers)], 1
    )
    noise = drawn[present] * 10 ** (dataset.noise_power.values[present][:, None] / 20)
    error = np.abs(schema.iq(dataset).values.astype(complex)[present] - expected[present] - noise)
    step = dataset.iq_full_scale.values[present][:, None] / 32767
    largest = np.abs(expected[present]).max(axis=1, keepdims=True)
    assert (error < 10 ** (-66 / 20) * largest + step).all()
    rms = np.sqrt((error**2).mean(axis=1, keepdims=True))
    assert (rms < 10 ** (-70 / 20) * largest + step / 6**0.5 * 1.1).all()


def test_power_is_what_was_measured(recorded):
    _, dataset, _ = recorded
    steady = dataset.waveform.values != "noise"  # whose power in a window is random
    present = dataset.receiver_present.values & steady[:, None]
    measured = (np.abs(schema.iq(dataset).values.astype(complex)) ** 2).mean(axis=-1)[present]
    told = (10 ** (dataset.received_power / 10) + 10 ** (dataset.noise_power / 10)).values[present]
    assert np.abs(10 * np.log10(measured / told)).max() < 0.3
    full_scale_db = 20 * np.log10(dataset.iq_full_scale.values[present]) - 10 * np.log10(told)
    assert full_scale_db == pytest.approx(np.full(present.sum(), 12.0), abs=1e-9)
    assert (np.abs(dataset.iq.values.astype(int)) >= 32767).mean() < 1e-4


def test_receivers_that_are_not_there_record_nothing(recorded):
    _, dataset, expected = recorded
    absent = ~dataset.receiver_present.values
    assert (dataset.iq.values[absent] == 0).all()
    assert np.isnan(dataset.iq_full_scale.values[absent]).all()
    assert (np.abs(dataset.iq.values[~absent]).max(axis=(1, 2)) > 0).all()
    assert np.isfinite(expected[~absent]).all()
    assert absent.any() == (dataset.sizes["receiver"] > 7)
