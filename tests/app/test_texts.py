"""Texts of pages are shown as they are, whatever they hold."""

import html
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from heimdall_lab.app import pages, parts
from heimdall_lab.app.parts.layout import section, swatch
from heimdall_lab.app.parts.texts import Alert, Lines, Note, Text
from heimdall_lab.core.text import literal

HOSTILE = "<img src=x onerror=alert(1)> &lt;b&gt; [a](javascript:alert) ![b](http://c) _d_ `e` http://f.org 1. g"


class Page(HTMLParser):
    """What a browser makes of HTML: its elements and its text."""

    def __init__(self, source):
        super().__init__()
        self.elements, self.text = [], ""
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, attrs))

    def handle_data(self, data):
        self.text += data


def shown(component):
    """What a browser makes of a component, which is sent as escaped HTML."""
    model = component.get_root()
    return Page(html.unescape(model.text if hasattr(model, "text") else model.data.object))


@pytest.mark.parametrize(("kind", "element"), [(Text, "p"), (Alert, "p"), (Note, "p"), (Lines, "pre")])
def test_components_show_what_looks_like_markup_as_it_is(kind, element):
    component = kind(object=HOSTILE)
    assert component.object == HOSTILE
    page = shown(component)
    assert page.elements == [(element, [])]
    assert page.text.strip() == HOSTILE


def test_notes_know_paragraphs_and_bold_alone():
    page = shown(Note("**near** <b>\n\n    far"))
    assert page.elements == [("p", []), ("strong", []), ("p", [])]
    assert page.text.split() == ["near", "<b>", "far"]


@given(st.text())
@example("\ud800\x00\x1b[31m")
def test_html_shows_any_text_as_it_is(text):
    page = Page(f"<p>{literal(text)}</p>")
    assert page.elements == [("p", [])]
    readable = [character if character in "\n\r\t" or character.isprintable() else None for character in text]
    assert len(page.text) == len(text)
    assert all(b in (a, "\ufffd") if a else True for a, b in zip(readable, page.text, strict=True))
    page.text.encode()


def test_titles_of_cards_and_names_beside_a_colour_are_text():
    page = Page(swatch(HOSTILE, "#000000"))
    assert [tag for tag, _ in page.elements] == ["span", "span"]
    assert page.text == HOSTILE
    assert Page(section(literal(HOSTILE)).title).elements == []


def test_no_part_of_a_page_takes_texts_for_markup():
    """All are made by these components: a new one that is not would let names be HTML."""
    raw = re.compile(r"pmui\.(Typography|Alert)\(|pn\.pane\.(Markdown|Str|Alert)\(|notifications\.")
    sources = [path for package in (pages, parts) for path in Path(package.__file__).parent.glob("*.py")]
    assert len(sources) > 15
    assert [path.name for path in sources if raw.search(path.read_text())] == []
