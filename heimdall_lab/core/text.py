"""Words for numbers: amounts, lengths, times and positions as people read them; and text from outside."""

import json
import math
import os
import re
import reprlib
from collections.abc import Iterable
from datetime import timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_MARKUP = re.compile(r"[^A-Za-z0-9\s\xa0-\U0010ffff]|^[ \t]+", re.MULTILINE)
_MOST_SHOWN = 100  # characters of a value from outside that messages repeat
_MOST_OF_PATH = 200
_MOST_LISTED = 8
_repr = reprlib.Repr()  # of what is nested, long or both without reading all of it
_repr.maxlevel, _repr.maxlist, _repr.maxtuple, _repr.maxset, _repr.maxdict = 3, 8, 8, 8, 4
_repr.maxstring = _repr.maxlong = _repr.maxother = _MOST_SHOWN


def quoted(value: object) -> str:
    """Write a value from outside as messages repeat it: text in quotes, long ones without their middle.

    >>> from pathlib import Path
    >>> quoted("2020-02-30"), quoted(Path("data")), len(quoted("9" * 10**6)), quoted([[[[[]]]]])
    ("'2020-02-30'", "'data'", 100, '[[[[...]]]]')
    """
    if isinstance(value, os.PathLike):
        return shortened(repr(str(value)), _MOST_OF_PATH)
    try:
        return shortened(_repr.repr(value))
    except ValueError:  # of whole numbers with more digits than Python writes
        return f"a number of {value.bit_length()} bits" if isinstance(value, int) else f"a {type(value).__name__}"


def shortened(text: object, most: int = _MOST_SHOWN) -> str:
    """Write a text from outside, or another library's message that repeats it, a long one without its middle.

    >>> len(shortened("x" * 1000)), shortened("x" * 1000)[46:54]
    (100, 'xxx … xx')
    """
    whole = str(text)
    return whole if len(whole) <= most else f"{whole[: (most - 2) // 2]} … {whole[len(whole) - (most - 3) // 2 :]}"


def listed(values: Iterable[object]) -> str:
    """List names and numbers from outside; of many the first ones.

    >>> listed(["a", "b"]), listed(range(1000))
    ('a, b', '0, 1, 2, 3, 4, 5, 6, 7, …')
    """
    shown = [str(each) for each in islice(values, _MOST_LISTED + 1)]
    return shortened(", ".join([*shown[:_MOST_LISTED], *(["…"] if len(shown) > _MOST_LISTED else [])]), 2 * _MOST_SHOWN)


def duration_text(seconds: float) -> str:
    """Write a time to wait as a person would.

    >>> duration_text(0.4), duration_text(75), duration_text(7300)
    ('1 s', '1 min 15 s', '2 h 1 min')
    """
    whole = timedelta(seconds=max(1, round(seconds)))
    minutes, rest = divmod(int(whole.total_seconds()), 60)
    if not minutes:
        return f"{rest} s"
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def si_text(value: float) -> str:
    """Write a number of bytes, samples, … with three digits and the SI prefix of its unit, which follows.

    >>> si_text(17.92e6) + "B", si_text(96) + "B"
    ('17.9 MB', '96 B')
    """
    prefixes = ["", "k", "M", "G", "T", "P", "E"]
    while abs(value) >= 999.5 and len(prefixes) > 1:
        value /= 1000
        prefixes.pop(0)
    return f"{value:.0f} {prefixes[0]}" if abs(value) >= 99.95 or value == int(value) else f"{value:.3g} {prefixes[0]}"


def length_text(length_m: float) -> str:
    """Write a length with three significant digits in m or km, – where it is unknown.

    >>> length_text(41234.5), length_text(93.21), length_text(float("nan"))
    ('41.2 km', '93.2 m', '–')
    """
    if not math.isfinite(length_m):
        return "–"
    number = float(f"{length_m:.3g}")
    value, unit = (number / 1e3, "km") if number >= 1e3 else (number, "m")
    return f"{value:,.{max(0, 2 - math.floor(math.log10(max(value, 1.0))))}f} {unit}"


def microseconds_text(time_s: float) -> str:
    """Write a time in µs with two decimals."""
    return f"{round(time_s * 1e6, 2) + 0.0:,.2f} µs".replace("-", "−")  # + 0.0: no −0.00


def delay_text(time_s: float) -> str:
    """Write a delay with four digits.

    >>> delay_text(20.37e-6), delay_text(5.98467e-3), delay_text(1.200021)
    ('20.37 µs', '5.985 ms', '1.2 s')
    """
    unit, factor = next(((name, each) for name, each in (("s", 1.0), ("ms", 1e3)) if time_s * each >= 1), ("µs", 1e6))
    return f"{time_s * factor:.4g} {unit}"


def position_text(latitude_deg: float, longitude_deg: float) -> str:
    """Write a position in degrees.

    >>> position_text(44.39512, -8.95604)
    '44.3951° N 8.9560° W'
    """
    north, east = "NS"[latitude_deg < 0], "EW"[longitude_deg < 0]
    return f"{abs(latitude_deg):.4f}° {north} {abs(longitude_deg):.4f}° {east}"


def json_number(value: Any) -> float | None:
    """Value of JSON, which has no infinity.

    >>> json_number(2), json_number(float("nan"))
    (2.0, None)
    """
    return float(value) if math.isfinite(value) else None


def json_records(table: "pd.DataFrame") -> list[dict[str, Any]]:
    """Rows of a table as JSON values: numbers that are not finite become null, times ISO 8601."""
    return list(json.loads(table.to_json(orient="records", double_precision=15, date_format="iso")))


def literal(text: object) -> str:
    """Write a text so that HTML and Markdown show it as it is, with its paragraphs.

    Everything but letters, digits and spaces becomes a character reference, which neither takes for markup (CommonMark
    0.31.2, section 2.5).

    >>> literal("<b>1.5 m</b>")
    '&#60;b&#62;1&#46;5 m&#60;&#47;b&#62;'
    """
    readable = _CONTROL.sub("\ufffd", str(text))  # names of files may hold halves of characters, too
    return _MARKUP.sub(lambda match: "".join(f"&#{ord(character)};" for character in match[0]), readable)
