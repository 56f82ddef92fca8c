"""Widgets of configurations: one for each field, and every refusal beside its field."""

import panel_material_ui as pmui
import pytest
from pydantic import BaseModel

import heimdall_lab as hl
from heimdall_lab.app.parts.fields import Fields
from heimdall_lab.core.config import Config
from heimdall_lab.core.presets import PRESETS, build
from heimdall_lab.learning.options import DEFAULTS, Options, options_for

CHOICES = {"geometry.receivers": {"seven": hl.preset("iq_test").geometry.receivers}}


def paths(model, group=""):
    """Dotted paths of all fields, with their descriptions."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from paths(field.annotation, f"{group}{name}.")
        else:
            yield f"{group}{name}", field.description


@pytest.fixture
def fields():
    made = Fields(Config, choices=CHOICES)
    made.load(hl.preset("iq_test"))
    return made


def test_every_field_has_a_widget_with_its_description(fields):
    described = dict(paths(Config))
    assert list(fields.widgets) == list(described)
    for path, description in described.items():
        assert description in fields.widgets[path].helper_text
    assert "at least 3" in fields.widgets["max_receivers"].helper_text
    assert fields.widgets["signal.frequency_hz"].label == "frequency, Hz"


@pytest.mark.parametrize("name", PRESETS)
def test_what_is_loaded_is_what_comes_out(fields, name):
    fields.load(hl.preset(name))
    assert fields.value == hl.preset(name)


@pytest.mark.parametrize("name", DEFAULTS)
def test_options_of_training_too(name):
    fields = Fields(Options)
    fields.load(options_for(name, {}))
    assert fields.value == options_for(name, {})


@pytest.mark.parametrize(
    ("path", "text", "words"),
    [
        ("num_samples", "0", "greater than or equal to 1"),
        ("num_samples", "many", "valid integer"),
        ("signal.duration_s", "", "valid number"),
        ("name", "../elsewhere", "match pattern"),
        ("signal.tone_min_hz", "5000", "exceeds tone_max_hz"),  # of two fields, by the rule of their group
        ("signal.sample_rate_hz", "20000", "half of the band"),  # of several groups
        ("gate.min_receivers", "9", "lists only 7"),
    ],
)
def test_a_refusal_stands_beside_its_field_alone(fields, path, text, words):
    fields.widgets[path].value = text
    assert fields.value is None
    refused = [name for name, widget in fields.widgets.items() if widget.error_state]
    assert refused == [path]
    assert words in fields.widgets[path].helper_text
    fields.load(hl.preset("iq_test"))
    assert not fields.widgets[path].error_state
    assert words not in fields.widgets[path].helper_text


def test_a_changed_field_changes_the_value(fields):
    fields.widgets["channel.clock"].value = "ntp"
    fields.widgets["seed"].value = str(2**63)  # beyond what a browser's numbers hold
    assert fields.value == build(
        {"name": "iq_test", **PRESETS["iq_test"]}, {"channel": {"clock": "ntp"}, "seed": 2**63}
    )


def test_receivers_that_are_in_no_list_are_kept(fields):
    four = hl.preset("iq_test").geometry.receivers[:4]
    fields.load(hl.preset("iq_test", geometry={"receivers": four}, gate={"min_receivers": 4}))
    assert fields.value.geometry.receivers == four
    assert isinstance(fields.widgets["geometry.receivers"], pmui.Select)


def test_yes_and_no_are_chosen_and_oscillators_named(fields):
    one_crystal = fields.widgets["channel.one_crystal"]
    assert isinstance(one_crystal, pmui.Select)
    assert one_crystal.options == {"no": False, "yes": True}
    assert one_crystal.value is False
    one_crystal.value = True
    fields.widgets["recording.emissions"].value = "4"
    fields.widgets["channel.clock_adev"].value = "tcxo"
    assert fields.value.channel.one_crystal is True
    assert fields.value.channel.clock_adev == 1e-9
    assert fields.widgets["channel.clock_rate_max_ppm"].label == "clock rate max, ppm"
    assert fields.widgets["recording.gap_s"].label == "gap, s"
