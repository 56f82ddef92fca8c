"""Words for numbers: amounts, lengths, times and positions as people read them; and text that is no markup."""

import json
import math
import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_MARKUP = re.compile(r"[^A-Za-z0-9\s\xa0-\U0010ffff]|^[ \t]+", re.MULTILINE)


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
