"""What only the server sets is taken from no browser: it may send back a value that is no longer true.

A component of panel-material-ui writes each value that it draws back to its model (``useState`` in Panel's
``react_component.ts``). Where the server sets a property twice while a slow browser draws once, the browser sends the
first value back after it received the second, and both are left with the first: a button that stays disabled.

Importing this module mends that for all components of the process.
"""

from typing import Any

from panel_material_ui.base import MaterialComponent

_SERVERS = frozenset({"disabled", "error_state", "helper_text", "label", "loading", "object", "options", "visible"})


def _process_events(component: MaterialComponent, events: dict[str, Any]) -> None:
    """Take what the browser may change, and send it again what it may not."""
    if theirs := {name: value for name, value in events.items() if name not in _SERVERS}:
        super(MaterialComponent, component)._process_events(theirs)
    if late := [name for name, value in events.items() if name in _SERVERS and value != getattr(component, name)]:
        component.param.trigger(*late)


MaterialComponent._process_events = _process_events  # type: ignore[method-assign, assignment]
