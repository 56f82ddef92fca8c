"""The named presets, and how a configuration is made of them, of YAML files and of single fields."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from heimdall_lab.core.checked import ConfigError, first_error, near, question
from heimdall_lab.core.config import Config
from heimdall_lab.core.files import read_limited
from heimdall_lab.core.text import quoted, shortened
from heimdall_lab.core.yaml_text import YamlError, parse_yaml

_MAX_BYTES = 100_000  # of a configuration's file
_ECHOES = {"multipath_taps_min": 2, "multipath_taps_max": 3}
_LATE_LINKS = {
    "nlos_ratio": 0.3,
    "nlos_excess_mean_s": 8e-6,  # hills: the clusters of COST 207 lie at 5 to 10 (bad urban) and 15 to 20 µs
    "fading": "rician",  # so that a link without line of sight has no steady path
    **_ECHOES,
}
_WEBSDR = {"clock": "none", "diffraction": "none", "shadowing_sigma_db": 8.0, "noise_figure_db": 16.0}
_FREE_RUNNING = {"clock": "none", "one_crystal": True, "clock_adev": "tcxo"}
PRESETS: dict[str, dict[str, Any]] = {
    "iq_test": {"num_samples": 96},
    "iq_production": {
        "num_samples": 1000,
        "shard_size": 32,
        "signal": {"sample_rate_hz": 200e3, "duration_s": 1.0},
    },
    "los_sync": {"num_samples": 1000, "channel": {"clock": "gpsdo", "diffraction": "none"}},
    "nlos_sync": {
        "num_samples": 1000,
        "channel": {
            "clock": "gpsdo",
            "diffraction": "none",
            **_LATE_LINKS,
        },
    },
    "websdr": {"num_samples": 1000, "channel": _WEBSDR},
    "websdr_reference": {
        "num_samples": 1000,
        "channel": {**_WEBSDR, **_FREE_RUNNING},
        "recording": {"emissions": 4, "references": 1},
    },
    "websdr_blind": {
        "num_samples": 1000,
        "channel": {**_WEBSDR, **_FREE_RUNNING},
        "recording": {"emissions": 10},
    },
    "nlos_blind": {
        "num_samples": 1000,
        "channel": {**_FREE_RUNNING, "diffraction": "none", **_LATE_LINKS},
        "recording": {"emissions": 10},
    },
    "uhf_mixed": {
        "data_type": "feature_based",
        "num_samples": 4030,
        "signal": {
            "frequency_hz": 432e6,
            "voice_ratio": 0.5,
            "tone_ratio": 0.1,
            "dual_tone_ratio": 0.1,
            "fsk4_ratio": 0.15,
            "afsk1200_ratio": 0.15,
        },
        "channel": {"fading": "rician", "nlos_ratio": 0.3, **_ECHOES},
    },
    "realistic_srtm": {
        "data_type": "feature_based",
        "num_samples": 420,
        "channel": {"diffraction": "terrain", "terrain_folder": "data/srtm", "fading": "rician", **_ECHOES},
    },
}


def preset(name: str, /, **overrides: Any) -> Config:
    """Return a named configuration, changed where asked.

    Parameters
    ----------
    name : str
        One of ``PRESETS``.
    **overrides
        Fields to change: top-level ones by name, fields of a group in a dict, or either by dotted path.

    Raises
    ------
    ConfigError
        If the name is unknown or an override is not accepted.

    Examples
    --------
    >>> config = preset("los_sync", num_samples=64, signal={"duration_s": 0.1})
    >>> config.signal.duration_s, config.channel.clock
    (0.1, 'gpsdo')
    """
    if name not in PRESETS:
        meant = question(near(name, PRESETS))
        raise ConfigError(f"preset: {quoted(name)} is unknown; {meant}choose one of {', '.join(PRESETS)}")
    return build({"name": name, **PRESETS[name]}, overrides)


def read_config(path: str | Path, overrides: Mapping[str, Any]) -> Config:
    """Read a YAML (or JSON) file and apply overrides; ConfigError if it cannot be read or a field is not accepted."""
    name = quoted(Path(path))
    try:
        fields = parse_yaml(read_limited(path, "config", _MAX_BYTES).decode("utf-8"))
    except OSError as error:
        raise ConfigError(f"config: cannot read {name} ({error.strerror}); give a readable YAML file") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"config: {name} is no text in UTF-8 ({error.reason}); save it as that") from error
    except YamlError as error:
        raise ConfigError(f"config: {name} {error}") from error
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if not isinstance(fields, dict):
        raise ConfigError(f"config: {name} holds {type(fields).__name__}, not a mapping of fields; correct it")
    return build(fields, overrides)


def build(fields: Mapping[str, Any], overrides: Mapping[str, Any]) -> Config:
    """Validate fields merged with overrides (nested dicts or dotted paths); ConfigError names the first one refused."""
    merged = copy.deepcopy(dict(fields))
    for path, value in overrides.items():
        _merge(merged, path.split("."), value)
    try:
        return Config.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(first_error(error, Config)) from error


def differing_fields(first: Config, second: Config) -> list[str]:
    """Return the dotted paths of the fields in which two configurations differ."""

    def flat(values: Any, path: str) -> dict[str, Any]:
        if not isinstance(values, dict):
            return {path: values}
        return {k: v for key, value in values.items() for k, v in flat(value, f"{path}.{key}".strip(".")).items()}

    left, right = flat(first.model_dump(mode="json"), ""), flat(second.model_dump(mode="json"), "")
    absent = object()  # fields that change nothing are left out
    return [path for path in left | right if left.get(path, absent) != right.get(path, absent)]


def _merge(fields: dict[str, Any], path: list[str], value: Any) -> None:
    """Set a nested field in place; a dict is merged into the group that it names."""
    head, *rest = path
    if rest or isinstance(value, dict):
        group = fields.setdefault(head, {})
        if not isinstance(group, dict):
            raise ConfigError(
                f"{shortened(head)}: is no group of fields, so {quoted('.'.join(path))} cannot be set; check the name"
            )
        for key, inner in [(".".join(rest), value)] if rest else value.items():
            _merge(group, key.split("."), inner)
    else:
        fields[head] = value
