import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from heimdall_lab.core.checked import ConfigError
from heimdall_lab.core.config import Config
from heimdall_lab.core.presets import PRESETS, differing_fields, preset, read_config
from heimdall_lab.core.receivers import read_receivers

SIXTEEN = [{"name": f"R{i}", "latitude_deg": 45 + i / 100, "longitude_deg": 7.0} for i in range(16)]


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_a_round_trip_through_json(name):
    config = preset(name)
    assert config.name == name
    assert Config.model_validate_json(config.model_dump_json()) == config


def test_every_field_is_described():
    def fields(model, path=""):
        for name, field in model.model_fields.items():
            yield f"{path}{name}", field
            if hasattr(field.annotation, "model_fields"):
                yield from fields(field.annotation, f"{name}.")

    undescribed = [path for path, field in fields(Config) if not field.description]
    assert undescribed == []


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        ({"signal.channel_bandwidth_hz": -5}, ["signal.channel_bandwidth_hz", "-5", "greater than 0"]),
        ({"max_receivers": 16}, ["max_receivers", "16", "15"]),
        ({"geometry.receivers": SIXTEEN}, ["geometry.receivers", "15", "16"]),
        ({"geometry.receivers": SIXTEEN[:9]}, ["max_receivers", "9"]),
        ({"geometry.receivers": SIXTEEN[:2]}, ["geometry.receivers", "2", "at least 3"]),
        ({"signal.bandwidth": 1}, ["signal.bandwidth", "unknown field", "channel_bandwidth_hz"]),
        ({"nosuch": 1}, ["nosuch", "unknown field", "num_samples"]),
        ({"seed.x": 1}, ["seed"]),
        ({"seed": -1}, ["seed", "-1"]),
        ({"signal.voice_ratio": 0.5}, ["voice_ratio", "0.6", "add up to 1"]),
        ({"signal.deviation_hz": 5e3}, ["deviation_hz", "5000", "channel_bandwidth_hz"]),
        ({"signal.sample_rate_hz": 2e4}, ["sample_rate_hz", "20000", "twice"]),
        ({"channel.frequency_offset_max_hz": 5e3, "signal.sample_rate_hz": 25e3}, ["sample_rate_hz", "45000"]),
        ({"name": 2024}, ["name", "2024", "string"]),
        ({"name": "../x"}, ["name", "../x"]),
        (
            {"geometry.receivers": [{"name": "A", "latitude_deg": 1, "longitude_deg": 2, "owner": 1}]},
            ["receivers.0.owner", "unknown field", "latitude_deg"],
        ),
        ({"geometry.receivers": ""}, ["geometry.receivers", "cannot read ''", "CSV"]),
        ({"signal.duration_s": 1e-3}, ["duration_s", "0.001", "256"]),
        (
            {"signal.noise_bandwidth_hz": 2e4, "signal.noise_ratio": 0.1, "signal.voice_ratio": 0.8},
            ["noise_bandwidth_hz", "20000", "narrower"],
        ),
        ({"signal.transmitter_power_min_dbm": 50}, ["transmitter_power_min_dbm", "50"]),
        ({"signal.tone_min_hz": 900}, ["tone_min_hz", "900"]),
        ({"channel.environment_loss_min_db": 20}, ["environment_loss_min_db", "20"]),
        ({"channel.clock": "gps"}, ["channel.clock", "gps", "gpsdo"]),
        ({"gate.min_receivers": 8}, ["min_receivers", "8", "7"]),
        ({"geometry.receivers": "/nowhere/network.csv"}, ["receivers", "/nowhere/network.csv"]),
        ({"geometry.transmitter_altitude_min_m": 700}, ["transmitter_altitude_min_m", "700"]),
        ({"geometry.margin_deg": float("nan")}, ["geometry.margin_deg", "finite"]),
    ],
)
def test_refusals_name_field_value_and_remedy(overrides, parts):
    with pytest.raises(ConfigError) as refusal:
        preset("los_sync", **overrides)
    message = str(refusal.value)
    assert "\n" not in message
    assert [part for part in parts if part not in message] == []


def test_the_bandwidth_of_noise_that_nobody_transmits_is_no_matter():
    assert preset("los_sync", **{"signal.noise_bandwidth_hz": 2e4}).signal.noise_bandwidth_hz == 2e4
    narrow = {"signal.channel_bandwidth_hz": 8e3, "signal.deviation_hz": 900}
    assert preset("los_sync", **narrow).signal.channel_bandwidth_hz == 8e3


@pytest.mark.parametrize(
    ("path", "value", "meant"),
    [
        ("signal.duration", 1, "signal.duration_s"),
        ("signal.noise_bandwith_hz", 1, "signal.noise_bandwidth_hz"),
        ("duration_s", 1, "signal.duration_s"),
        ("clock", "ntp", "channel.clock"),
        ("channel.max_gdop", 1, "gate.max_gdop"),
        ("sgnal.duration_s", 1, "signal"),
        ("num_sample", 1, "num_samples"),
        ("channel.clock", "gpsd", "gpsdo"),
    ],
)
def test_what_is_nearly_right_is_asked_for(path, value, meant):
    with pytest.raises(ConfigError, match=rf"; did you mean {meant}( or [\w.]+)?\? ch"):
        preset("los_sync", **{path: value})
    with pytest.raises(ConfigError) as refusal:
        preset("los_sync", zebra=1)
    assert "did you mean" not in str(refusal.value)


def test_unknown_preset_lists_the_known_ones():
    with pytest.raises(ConfigError, match=r"'nosuch'.*iq_test, iq_production, los_sync"):
        preset("nosuch")
    with pytest.raises(
        ConfigError, match=r"'los_snc' is unknown; did you mean los_sync( or nlos_sync)?\? choose one of"
    ):
        preset("los_snc")


def test_config_from_yaml_with_a_network_from_csv(tmp_path):
    network = tmp_path / "network.csv"
    network.write_text("name,latitude_deg,longitude_deg\nA,45,7\nB,45.1,7.2\nC,45.3,7\nD,45.2,7.4\n")
    file = tmp_path / "config.yaml"
    file.write_text(f"name: mine\nseed: 5\ngeometry:\n  receivers: {network}\nsignal:\n  duration_s: 0.1\n")
    config = read_config(file, {"seed": 6})
    assert (config.name, config.seed, config.signal.duration_s) == ("mine", 6, 0.1)
    assert [(r.name, r.altitude_m) for r in config.geometry.receivers] == [("A", 0), ("B", 0), ("C", 0), ("D", 0)]


@pytest.mark.parametrize(
    ("text", "part"), [("name: [", "not YAML"), ("- 1", "list"), ("signal: 3", "signal"), ("\x00", "not YAML")]
)
def test_broken_yaml_is_refused(tmp_path, text, part):
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=part):
        read_config(file, {})


def test_receivers_file_with_a_bad_row_is_refused(tmp_path):
    file = tmp_path / "network.csv"
    file.write_text("name,latitude_deg,longitude_deg\nA,95,7\n")
    with pytest.raises(ConfigError, match=r"network\.csv.*latitude_deg.*95"):
        read_receivers(file)


def test_differing_fields_are_named_by_path():
    first, second = preset("los_sync"), preset("los_sync", seed=1, channel={"clock": "ntp"})
    assert differing_fields(first, second) == ["seed", "channel.clock"]
    assert differing_fields(first, first) == []


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)  # slow only while the machine is busy
@given(
    st.dictionaries(
        st.sampled_from(
            [
                "name",
                "seed",
                "num_samples",
                "signal.duration_s",
                "signal",
                "geometry.receivers",
                "gate",
                "channel.clock",
            ]
        ),
        st.one_of(st.integers(), st.floats(), st.text(max_size=5), st.none(), st.lists(st.integers(), max_size=2)),
    )
)
def test_any_override_is_accepted_or_refused_in_one_line(overrides):
    try:
        config, message = preset("los_sync", **overrides), None
    except ConfigError as refusal:
        config, message = None, str(refusal)
    if message is None:
        assert isinstance(config, Config)
    else:
        assert "\n" not in message
        assert any(path.split(".")[0] in message for path in overrides)
