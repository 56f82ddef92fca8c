"""What a page changes before its browser is ready reaches the browser, as an answer to an early upload.

A browser draws a page first and tells the server that it is ready afterwards. Panel drops what changes in between
(``hold`` in ``panel/io/document.py``), as the page as a whole is to tell that: but that was sent already.

Importing this module mends that for all pages of the process.
"""

import threading

from bokeh.document import Document
from bokeh.document.events import DocumentChangedEvent, ModelChangedEvent
from panel.io import document

_drain = document._drain_unconnected_events


def _drain_and_keep(doc: Document, lock: threading.Lock) -> list[DocumentChangedEvent]:
    """Keep changes of models for when the browser is ready, with what Panel itself keeps."""
    with lock:
        changes = [event for event in doc.callbacks._held_events if isinstance(event, ModelChangedEvent)]
    dispatched = _drain(doc, lock)
    if changes:
        document._UNCONNECTED_EVENTS.setdefault(doc, []).extend(changes)
    return dispatched


document._drain_unconnected_events = _drain_and_keep
