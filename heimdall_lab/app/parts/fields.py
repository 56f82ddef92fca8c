"""A widget for every field of a pydantic model, with its description, its bounds and what is wrong with its value."""

import re
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

import annotated_types
import panel as pn
import panel_material_ui as pmui
import param
from panel.viewable import Viewer
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from heimdall_lab.app.parts.layout import error_alert
from heimdall_lab.core.checked import error_text

_UNITS = {
    "_hz_per_s": "Hz/s",
    "_m_s": "m/s",
    "_dbm": "dBm",
    "_deg": "degrees",
    "_db": "dB",
    "_gb": "GB",
    "_ppm": "ppm",
    "_hz": "Hz",
    "_km": "km",
    "_m": "m",
    "_s": "s",
}
_COLUMNS = 3


class Fields(Viewer):
    """The fields of a pydantic model, those of each group behind a heading of its own.

    ``choices`` are options of fields that are chosen from a list, and ``leave_out`` fields that have no widget, both by
    dotted path.
    """

    value = param.Parameter(doc="The validated model; None while a field is invalid.")
    message = param.String("", doc="The error, where no field can be named.")

    def __init__(
        self,
        model: type[BaseModel],
        choices: Mapping[str, Mapping[str, Any]] | None = None,
        leave_out: tuple[str, ...] = (),
        **params: Any,
    ) -> None:
        super().__init__(**params)
        self._model, self._loading = model, False
        self.widgets = dict(_widgets(model, choices or {}, leave_out))
        self._hints = {path: widget.helper_text for path, widget in self.widgets.items()}
        for widget in self.widgets.values():
            widget.param.watch(self._on_change, "value")
        self._alert = error_alert()
        self._layout = self._make_layout()

    def __panel__(self) -> pn.viewable.Viewable:
        """Lay the widgets out."""
        return self._layout

    def load(self, value: BaseModel) -> None:
        """Show the fields of a model."""
        values = dict(_flatten(value))
        self._loading = True
        try:
            for path, widget in self.widgets.items():
                _set_value(widget, values[path])
        finally:
            self._loading = False
        self._validate()

    def show_error(self, message: str) -> None:
        """Show a message beside the field that it names, by path or within its group, or else at the top."""
        texts = message, message.replace(": ", ".", 1)  # "signal: tone_min_hz 90 …" names signal.tone_min_hz
        path = next((p for p in self.widgets if any(text.startswith((f"{p}:", f"{p} ")) for text in texts)), None)
        path = path or next(
            (p for p in self.widgets if re.search(rf"\b{re.escape(p.split('.')[-1])}\b", message)), None
        )
        if path is None:
            self.message = message
            self._alert.param.update(object=message, visible=True)
        else:
            self.widgets[path].param.update(error_state=True, helper_text=message.removeprefix(f"{path}: "))

    def _on_change(self, _event: Any) -> None:
        if not self._loading:
            self._validate()

    def _validate(self) -> None:
        """Validate all fields, and show the errors."""
        for path, widget in self.widgets.items():
            widget.param.update(error_state=False, helper_text=self._hints[path])
        self.message, self._alert.visible = "", False
        try:
            value = self._model.model_validate(self._nested_values())
        except ValidationError as error:
            for each in error.errors(include_url=False):
                self.show_error(error_text(each, self._model))
            value = None
        self.value = value

    def _nested_values(self) -> dict[str, Any]:
        nested: dict[str, Any] = {}
        for path, widget in self.widgets.items():
            *groups, name = path.split(".")
            inner = nested
            for group in groups:
                inner = inner.setdefault(group, {})
            inner[name] = widget.value
        return nested

    def _make_layout(self) -> pn.Column:
        groups: dict[str, list[Any]] = {}
        for path, widget in self.widgets.items():
            groups.setdefault(path.rpartition(".")[0], []).append(widget)
        top = pn.GridBox(*groups.pop("", []), ncols=_COLUMNS, sizing_mode="stretch_width")
        folded = [
            (name.capitalize(), pn.GridBox(*widgets, ncols=_COLUMNS, sizing_mode="stretch_width"))
            for name, widgets in groups.items()
        ]
        parts = (
            [pmui.Accordion(*folded, toggle=True, title_variant="subtitle1", sizing_mode="stretch_width")]
            if folded
            else []
        )
        return pn.Column(self._alert, top, *parts, sizing_mode="stretch_width")


def label(name: str) -> str:
    """Write a field's name as words with its unit.

    >>> label("transmitter_power_min_dbm"), label("num_samples")
    ('transmitter power min, dBm', 'num samples')
    """
    for suffix, unit in _UNITS.items():
        if name.endswith(suffix):
            return f"{name.removesuffix(suffix).replace('_', ' ')}, {unit}"
    return name.replace("_", " ")


def bounds(field: FieldInfo) -> str:
    """Write the bounds of a field.

    >>> from heimdall_lab.core.transmission import Signal
    >>> bounds(Signal.model_fields["duration_s"]), bounds(Signal.model_fields["channel_bandwidth_hz"])
    ('> 0, at most 60', '> 0')
    """
    texts = []
    for bound in field.metadata:
        if isinstance(bound, annotated_types.Ge):
            texts.append(f"at least {bound.ge:g}")
        elif isinstance(bound, annotated_types.Gt):
            texts.append(f"> {bound.gt:g}")
        elif isinstance(bound, annotated_types.Le):
            texts.append(f"at most {bound.le:g}")
        elif isinstance(bound, annotated_types.Lt):
            texts.append(f"< {bound.lt:g}")
    return ", ".join(texts)


def _widgets(
    model: type[BaseModel], choices: Mapping[str, Mapping[str, Any]], leave_out: tuple[str, ...], group: str = ""
) -> Any:
    """Yield the dotted path and the widget of each field."""
    for name, field in model.model_fields.items():
        path = f"{group}{name}"
        if path in leave_out:
            continue
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _widgets(field.annotation, choices, leave_out, f"{path}.")
        else:
            yield path, _widget(name, field, choices.get(path))


def _widget(name: str, field: FieldInfo, choices: Mapping[str, Any] | None) -> Any:
    allowed = bounds(field)
    hint = f"{field.description or ''}{f' ({allowed})' if allowed else ''}"
    shared = {"label": label(name), "helper_text": hint, "size": "small", "sizing_mode": "stretch_width"}
    if choices is not None:
        return pmui.Select(options=dict(choices), **shared)
    if get_origin(field.annotation) is Literal:
        return pmui.Select(options=list(get_args(field.annotation)), **shared)
    if field.annotation is bool:
        return pmui.Select(options={"no": False, "yes": True}, **shared)
    return pmui.TextInput(**shared)


def _flatten(value: BaseModel, group: str = "") -> Any:
    for name in type(value).model_fields:
        inner = getattr(value, name)
        if isinstance(inner, BaseModel):
            yield from _flatten(inner, f"{group}{name}.")
        else:
            yield f"{group}{name}", inner


def _set_value(widget: Any, value: Any) -> None:
    if isinstance(widget, pmui.TextInput):
        widget.value = _text(value)
    elif isinstance(widget.options, dict) and value not in widget.options.values():
        widget.param.update(options={**widget.options, "as given": value}, value=value)
    else:
        widget.value = value


def _text(value: Any) -> str:
    """Write a number as a person would: without the point of whole ones, and powers of ten only where it is long.

    >>> _text(145e6), _text(50e3), _text(8e-6), _text(7)
    ('145e6', '50000', '8e-06', '7')
    """
    if not isinstance(value, float):
        return str(value)
    if abs(value) >= 1e6 and value % 1e5 == 0:
        return f"{value / 1e6:g}e6"
    return f"{value:.10g}"
