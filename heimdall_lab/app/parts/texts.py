"""Values of text fields of the page Locate; an empty text is none, and an invalid one is an error of its field."""

from heimdall_lab.localization import altitude


class FieldError(ValueError):
    """A value that a field of the page cannot have."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


def position(text: str) -> tuple[float, float] | None:
    """Read latitude and longitude, degrees."""
    if not text.strip():
        return None
    try:
        latitude_deg, longitude_deg = (float(part) for part in text.split(","))
    except ValueError as error:
        raise FieldError("position", f"{text!r} is not latitude, longitude, as 50.0152, 9.0112") from error
    if not (abs(latitude_deg) <= 90 and abs(longitude_deg) <= 180):
        raise FieldError("position", f"{text} is refused: latitude is within ±90°, longitude within ±180°")
    return latitude_deg, longitude_deg


def stated_altitude(text: str) -> tuple[float, float] | None:
    """Read an altitude and its standard deviation, m."""
    if not text.strip():
        return None
    try:
        return altitude.parse_altitude(text)
    except ValueError as error:
        raise FieldError("altitude", str(error)) from error


def path_delay_sigma_s(text: str) -> float | None:
    """Read a standard deviation of path delays in µs; s."""
    sigma_us = _number("path_delay", text, "µs")
    if sigma_us is not None and not 0 <= sigma_us <= 1e6:
        raise FieldError("path_delay", f"{text} µs is refused: give 0 to 1,000,000 µs, or nothing")
    return None if sigma_us is None else sigma_us / 1e6


def window_s(text: str) -> float | None:
    """Read the length of windows, s."""
    length_s = _number("window", text, "seconds")
    if length_s is not None and not 1e-3 <= length_s <= 3600:
        raise FieldError("window", f"{text} s is refused: give 0.001 to 3600 s, or nothing")
    return length_s


def _number(field: str, text: str, unit: str) -> float | None:
    if not text.strip():
        return None
    try:
        return float(text)
    except ValueError as error:
        raise FieldError(field, f"{text!r} is no number of {unit}") from error
