"""Values that a browser sends back late do not undo what the server set since; what a reader sets is taken."""

import panel_material_ui as pmui
import pytest

import heimdall_lab.app.parts.layout  # noqa: F401  # of every page


def from_browser(component, model, **values):
    """Apply values as a browser's message does: to the model, and then to the component."""
    model.data.update(**values)
    component._process_events(values)


@pytest.mark.parametrize(
    ("component", "name", "values"),
    [
        (pmui.Button, "disabled", (True, False)),
        (pmui.Button, "loading", (True, False)),
        (pmui.Select, "options", ([], ["los"])),
        (pmui.TextInput, "error_state", (True, False)),
    ],
)
def test_what_the_server_set_since_stays_and_is_sent_again(component, name, values):
    late, now = values
    shown = component(**{name: late})
    model = shown.get_root()
    setattr(shown, name, now)
    from_browser(shown, model, **{name: late})
    assert getattr(shown, name) == now
    assert getattr(model.data, name) == now


def test_what_a_reader_sets_is_taken():
    box, field = pmui.Checkbox(value=False), pmui.TextInput(value="")
    from_browser(box, box.get_root(), value=True)
    from_browser(field, field.get_root(), value="los", disabled=True)
    assert box.value is True
    assert (field.value, field.disabled) == ("los", False)
