"""What fields of the page Locate say of recordings, read from text; what cannot be read is an error of its field."""

from heimdall_lab.core.text import quoted
from heimdall_lab.localization import altitude


class FieldError(ValueError):
    """A value that a field of a page cannot have."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


def position(text: str) -> tuple[float, float] | None:
    """Latitude and longitude, degrees; None where nothing is given, as of all of these."""
    if not text.strip():
        return None
    try:
        latitude_deg, longitude_deg = (float(part) for part in text.split(","))
    except ValueError as error:
        raise FieldError("position", f"{quoted(text)} is not latitude, longitude, as 50.0152, 9.0112") from error
    if not (abs(latitude_deg) <= 90 and abs(longitude_deg) <= 180):
        raise FieldError("position", f"{text} is refused: latitude is within ±90°, longitude within ±180°")
    return latitude_deg, longitude_deg


def stated_altitude(text: str) -> tuple[float, float] | None:
    """Altitude and its standard deviation, m."""
    if not text.strip():
        return None
    try:
        return altitude.parse_altitude(text)
    except ValueError as error:
        raise FieldError("altitude", str(error)) from error


def path_delay_sigma_s(text: str) -> float | None:
    """Standard deviation of path delays, s, of a text in µs."""
    if not text.strip():
        return None
    try:
        sigma_us = float(text)
    except ValueError as error:
        raise FieldError("path_delay", f"{quoted(text)} is no number of µs") from error
    if not 0 <= sigma_us <= 1e6:
        raise FieldError("path_delay", f"{text} µs is refused: give 0 to 1,000,000 µs, or nothing")
    return sigma_us / 1e6


def window_s(text: str) -> float | None:
    """Length of the windows, s."""
    if not text.strip():
        return None
    try:
        length_s = float(text)
    except ValueError as error:
        raise FieldError("window", f"{quoted(text)} is no number of seconds") from error
    if not 1e-3 <= length_s <= 3600:
        raise FieldError("window", f"{text} s is refused: give 0.001 to 3600 s, or nothing")
    return length_s
