"""Any configuration gives a valid dataset, or is refused by name: drawn over all fields, their bounds and beyond."""

import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import heimdall_lab as hl
from heimdall_lab.core import geodesy
from heimdall_lab.core.checked import ConfigError
from heimdall_lab.datasets import schema

FIELDS = (*hl.Config.model_fields, *(f for g in ("geometry", "signal", "channel", "gate")
                                     for f in hl.Config.model_fields[g].annotation.model_fields))  # fmt: skip
LONGEST = 3000  # samples of a window
OPEN = {"min_receivers": 3, "min_snr_db": -30.0, "min_mean_snr_db": -30.0, "max_gdop": 1e9}


def reaching(low: float, high: float, *ordinary: float) -> st.SearchStrategy:
    """Numbers of a field: mostly ordinary ones, its bounds, all between them, and a little beyond."""
    between = st.floats(low, high, allow_nan=False)
    beyond = st.sampled_from([low - 0.1 * abs(low) - 1, high * 1.1 + 1])
    usual = st.sampled_from(ordinary or (low, high))
    bounds = st.sampled_from([low, high])
    return st.integers(0, 99).flatmap(
        lambda pick: beyond if pick == 99 else bounds if pick > 80 else between if pick > 60 else usual
    )


def pair(name: str, unit: str, low: float, high: float, *ordinary: float) -> dict[str, st.SearchStrategy]:
    numbers = reaching(low, high, *ordinary)
    return {f"{name}_min{unit}": numbers, f"{name}_max{unit}": numbers}


@st.composite
def groups(draw, fields: dict[str, st.SearchStrategy]) -> dict[str, object]:
    """Some fields of a group; of a pair of bounds both, nearly always in order."""
    chosen = {name: draw(values) for name, values in fields.items() if draw(st.integers(0, 3)) == 3}
    for name in list(chosen):
        lower = name.replace("_max", "_min")
        if "_max" in name and lower in fields:
            chosen.setdefault(lower, draw(fields[lower]))
        upper = name.replace("_min", "_max")
        if "_min" in name and upper in fields:
            chosen.setdefault(upper, draw(fields[upper]))
    if draw(st.integers(0, 29)):
        for name in [name for name in chosen if "_min" in name and name.replace("_min", "_max") in chosen]:
            upper = name.replace("_min", "_max")
            chosen[name], chosen[upper] = sorted([chosen[name], chosen[upper]])
    return chosen


def receiver(latitude_deg: float, longitude_deg: float, altitude_m: float, number: int) -> dict[str, object]:
    return {"name": f"R{number}", "latitude_deg": latitude_deg, "longitude_deg": longitude_deg,
            "altitude_m": altitude_m}  # fmt: skip


@st.composite
def networks(draw) -> list[dict[str, object]]:
    """Three to eight receivers anywhere, near and far from each other, some on one line."""
    centre = draw(st.floats(-90, 90)), draw(st.sampled_from([0.0, 8.0, 179.0, -180.0]))
    width = draw(st.sampled_from([0.0, 1e-6, 0.1, 1.0, 5.0]))
    height = draw(st.sampled_from([0.0, 0.1, 1.0]))
    number = draw(st.integers(2, 8))
    share = st.floats(0, 1)
    return [
        receiver(
            centre[0] + height * draw(share),
            geodesy.wrapped(np.array(centre[1] + width * draw(share))).item(),
            draw(st.floats(-600, 9100)),
            index,
        )
        for index in range(number)
    ]


PLACEMENT = st.sampled_from(["fixed", "random", "hexagonal"])
NUMBER = st.sampled_from([2, *range(3, 9), 3, 5, 7, 7, 15, 16])
GEOMETRY = groups(
    {
        "receivers": networks(),
        "num_receivers_min": NUMBER,
        "num_receivers_max": NUMBER,
        "centre_latitude_deg": reaching(-80, 80, 45),
        "centre_longitude_deg": reaching(-180, 180, 8.1),
        "extent_km": reaching(1, 500, 50, 150),
        **pair("receiver_altitude", "_m", -500, 9000, 100, 600),
        **pair("transmitter_altitude", "_m", -500, 9000, 100, 600),
        "receiver_height_m": reaching(1, 500, 10),
        "transmitter_height_m": reaching(1, 500, 2),
        "transmitter_speed_max_m_s": reaching(0, 300, 30),
        "inside_ratio": reaching(0, 1, 0.7),
        "margin_deg": reaching(0, 10, 0.2),
    }
)
RATIOS = ("voice", "tone", "dual_tone", "noise", "fsk4", "afsk1200")


@st.composite
def signals(draw) -> dict[str, object]:
    """Windows of a limited number of samples, whatever the sample rate; ratios that nearly always add up to 1."""
    chosen = draw(
        groups(
            {
                "frequency_hz": reaching(30e6, 3e9, 145e6, 432e6),
                "sample_rate_hz": reaching(1e3, 50e6, 50e3, 100e3, 200e3),
                "channel_bandwidth_hz": reaching(0.1, 2e5, 12.5e3, 25e3),
                "deviation_hz": reaching(0.1, 1e5, 2.5e3, 1e3),
                **pair("transmitter_power", "_dbm", -60, 90, 10, 37),
                **pair("tone", "_hz", 0.1, 5e3, 300, 400),
                "noise_bandwidth_hz": reaching(1e3, 1e5, 1e3, 10e3),
                "pause_ratio": reaching(0, 0.9, 0, 0.4),
            }
        )
    )
    if draw(st.booleans()):
        weights = [draw(st.sampled_from([0, 0, 1, 2])) for _ in RATIOS]
        total = sum(weights) or 1
        chosen |= {f"{name}_ratio": weight / total for name, weight in zip(RATIOS, weights, strict=True)}
    num_time = draw(st.sampled_from([256, 256, 257, 300, 511, 700, 1001, 1500, 2000, LONGEST, LONGEST, 255]))
    return chosen | {"duration_s": num_time / chosen.get("sample_rate_hz", 50e3)}


CHANNEL = groups(
    {
        "clock": st.sampled_from(["gpsdo", "ntp", "none"]),
        "frequency_offset_max_hz": reaching(0, 5e3, 50),
        "frequency_drift_max_hz_per_s": reaching(0, 100, 0.1),
        "diffraction": st.sampled_from(["none", "smooth_earth"]),
        "shadowing_sigma_db": reaching(0, 20, 4),
        "shadowing_distance_km": reaching(0, 100, 1),
        **pair("environment_loss", "_db", 0, 60, 5, 15),
        "fading": st.sampled_from(["none", "rayleigh", "rician"]),
        "rician_k_db": reaching(-20, 40, 10),
        **pair("coherence_time", "_s", 1e-3, 100, 0.05, 0.2),
        "multipath_taps_min": st.integers(0, 5),
        "multipath_taps_max": st.integers(0, 6),
        **pair("multipath_delay", "_s", 0, 1e-3, 0.5e-6, 5e-6),
        **pair("multipath_power", "_db", -60, -3, -25, -10),
        "nlos_ratio": reaching(0, 1, 0.3),
        "nlos_excess_mean_s": reaching(1e-9, 1e-4, 2e-6),
        "noise_figure_db": reaching(0, 60, 12),
        "agc_headroom_db": reaching(9, 60, 12),
    }
)
GATE = groups(
    {
        "min_snr_db": reaching(-30, 60, 3),
        "min_receivers": st.sampled_from([2, 3, 3, 4, 4, 5, 7, 15, 16]),
        "min_mean_snr_db": reaching(-30, 90, 5),
        "max_gdop": reaching(0.1, 1e12, 200),
    }
)
CONFIGURATIONS = st.fixed_dictionaries(
    {"seed": st.integers(0, 2**64 - 1), "num_samples": st.integers(1, 2)},
    optional={"max_receivers": st.sampled_from([2, 3, 7, 8, 9, 10, 15, 15, 15, 16])},
) | st.fixed_dictionaries({"seed": st.just(1), "num_samples": st.just(2), "max_receivers": st.just(15)})


def generated(config: hl.Config):
    """The dataset, or None where the gate is at fault or tones are ambiguous, which only drawing shows."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return hl.generate(config, backend="numpy", progress=False)
        except ConfigError as refusal:
            assert_clear(str(refusal))
            return None


def assert_clear(message: str) -> None:
    """One line that names a field and a value."""
    assert "\n" not in message
    assert any(field in message for field in FIELDS), message
    assert any(character.isdigit() for character in message) or "'" in message, message


def assert_valid(config: hl.Config, dataset) -> None:
    schema.check(dataset)
    present = dataset.receiver_present.values
    fewest, most = config.geometry.num_receivers
    assert ((present.sum(axis=1) >= fewest) & (present.sum(axis=1) <= most)).all()
    for name, variable in dataset.data_vars.items():
        if variable.dtype.kind != "f":
            continue
        values = variable.values
        if variable.dims == ("sample",):
            assert np.isfinite(values).all() or name in ("gdop", "crlb_rmse"), name
        elif variable.dims == ("sample", "receiver"):
            assert np.array_equal(np.isfinite(values), present), name
            assert np.isnan(values[~present]).all(), name
    codes = np.abs(dataset.iq.values.astype(int))
    assert (codes[~present] == 0).all()
    # The rms level is agc_headroom_db below 32767, at most 60 dB.
    assert (codes[present].max(axis=(1, 2)) > 10).all()
    arrival_s = dataset.propagation_delay + dataset.excess_delay + dataset.clock_offset - dataset.emission_time
    assert float(arrival_s.min()) == 0
    assert np.abs(dataset.transmitter_latitude.values).max() <= 90
    assert np.abs(dataset.transmitter_longitude.values).max() <= 180
    assert (dataset.rms_bandwidth > 0).all()
    assert (dataset.signal_present.values <= present).all()


SAME_PLACE = [receiver(45.0, 7.0, 100.0 * number, number) for number in range(4)]
SLOW = {"sample_rate_hz": 8e3, "channel_bandwidth_hz": 1e3, "noise_bandwidth_hz": 1e3, "voice_ratio": 0.0,
        "tone_ratio": 0.0, "dual_tone_ratio": 0.0, "noise_ratio": 1.0}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        (
            {"geometry": {"placement": "hexagonal", "centre_latitude_deg": -80.0, "margin_deg": 4.0}},
            ["geometry: centre_latitude_deg -80", "extent_km 120", "margin_deg 4", "85 degrees"],
        ),
        ({"geometry": {"receivers": SAME_PLACE}}, ["geometry: receivers", "4 listed", "1 places", "at least 3"]),
        ({"signal": {"sample_rate_hz": 50e6, "duration_s": 1.0}}, ["signal.duration_s 1", "max_receivers 7", "memory"]),
        (
            {
                "signal": SLOW,
                "channel.fading": "rayleigh",
                "channel.coherence_time_min_s": 4e-3,
                "channel.frequency_offset_max_hz": 10.0,
            },
            ["channel.coherence_time_min_s 0.004", "40 samples", "at least 0.005"],
        ),
        (
            {"channel": {"multipath_taps_max": 1, "multipath_delay_max_s": 30e-6}},
            ["channel.multipath_delay_max_s 3e-05", "channel_bandwidth_hz", "at most 8e-06"],
        ),
        ({"shard_size": 4000, "num_samples": 9000}, ["shard_size 4000", "memory", "lower it to 3834 or less"]),
    ],
    ids=["pole", "one place", "memory", "fast fading", "late echoes", "large shards"],
)
def test_what_cannot_be_simulated_is_refused_with_its_remedy(changes, parts):
    with pytest.raises(ConfigError) as refusal:
        hl.preset("los_sync", **{"max_receivers": 15 if "geometry" in changes else 7, **changes})
    assert [part for part in parts if part not in str(refusal.value)] == []


@pytest.mark.parametrize("placement", ["random", "hexagonal"])
def test_transmitters_near_the_pole_stay_on_the_globe(placement):
    geometry = {"placement": placement, "centre_latitude_deg": 80.0, "extent_km": 500.0, "margin_deg": 0.4}
    config = hl.preset(
        "los_sync",
        num_samples=40,
        max_receivers=10,
        channel={"clock": "ntp"},
        gate=OPEN,
        geometry={"inside_ratio": 0.0, **geometry},
        signal={"duration_s": 0.01},
    )
    dataset = hl.generate(config, progress=False)
    assert_valid(config, dataset)
    assert float(dataset.transmitter_latitude.max()) > 82


@settings(derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(CONFIGURATIONS, PLACEMENT, GEOMETRY, signals(), CHANNEL, GATE | st.just(OPEN))
@pytest.mark.slow
def test_any_configuration_gives_a_dataset_or_is_refused_by_name(top, placement, geometry, signal, channel, gate):
    if placement != "fixed":
        top = {"max_receivers": 15, **top}
    geometry = {"placement": placement, **geometry}
    try:
        config = hl.preset(
            "los_sync", **top, geometry=geometry, signal=signal, channel={"clock": "ntp", **channel}, gate=gate
        )
    except ConfigError as refusal:
        assert_clear(str(refusal))
        return
    assert config.signal.num_time <= LONGEST
    dataset = generated(config)
    if dataset is not None:
        assert_valid(config, dataset)
