"""What changes before a browser is ready is sent once it is."""

import panel as pn
from bokeh.document import Document
from bokeh.document.events import ModelChangedEvent
from bokeh.models import Div

import heimdall_lab.app.parts.early_changes  # noqa: F401


def test_a_change_before_the_browser_is_ready_is_sent_afterwards():
    document, told = Document(), []
    div = Div(text="")
    document.add_root(div)
    with pn.io.hold(document):
        div.text = "refused"
    document.on_change(told.append)
    pn.state._schedule_on_load(document, None)  # what Panel does as the browser says so
    assert [(type(event), event.attr, event.new) for event in told] == [(ModelChangedEvent, "text", "refused")]
