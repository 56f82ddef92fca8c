"""Time that recordings have in common: stretches between gaps, stations that leave next to none, and windows."""

import logging
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate

import numpy as np

FEWEST = 3  # stations, which a fix by time differences takes: none is left out of these
LONGEST_WINDOW = 2**22  # samples; longer ones are cut where nobody says how: what is held in memory of one
_NEARLY_ALL = 0.9  # of what windows of the best length cover, which longer ones must
_LEAST_SHARE = 0.5  # of the time that the others have in common, that a station must leave

_log = logging.getLogger(__name__)
Time = float | Fraction


class StationError(ValueError):
    """What is wrong with one station, which can be left out if enough others remain."""


@dataclass(frozen=True)
class Window:
    """Windows, one after the other, in one of the stretches.

    Attributes
    ----------
    stretch : number of the stretch.
    first : sample of the stretch that the first of them begins with.
    count : number of them.
    """

    stretch: int
    first: int
    count: int


def common_stretches(
    stations: Sequence[Sequence[tuple[Time, Time]]],
) -> list[tuple[Time, Time, tuple[int, ...]]]:
    """Stretches of time that all stations cover, and which of each one's own, (begin, end) each, covers it."""
    common: list[tuple[Time, Time, tuple[int, ...]]] = []
    common += [(begin, end, (number,)) for number, (begin, end) in enumerate(stations[0])]
    for own in stations[1:]:
        order = sorted(range(len(own)), key=lambda number: own[number][0])
        begins = [own[number][0] for number in order]
        ends = [*accumulate((own[number][1] for number in order), max)]  # of all up to each
        common = [
            (max(begin, own[number][0]), min(end, own[number][1]), (*numbers, number))
            for begin, end, numbers in common
            for number in order[bisect_right(ends, begin) : bisect_left(begins, end)]
            if max(begin, own[number][0]) < min(end, own[number][1])
        ]
    return sorted(common)


def costly_stations(stations: Sequence[Sequence[tuple[Time, Time]]]) -> dict[int, tuple[float, float]]:
    """Stations to leave out, for they take more than half of the time that the others have in common.

    The one that takes most goes first. Given with each are the lengths with it and without it; at least `FEWEST`
    stations remain.
    """
    kept, costly = list(range(len(stations))), {}
    while len(kept) > FEWEST:
        length = _common_length([stations[index] for index in kept])
        without = [_common_length([stations[index] for index in kept if index != left]) for left in kept]
        most = int(np.argmax(without))
        if length >= _LEAST_SHARE * without[most]:
            break
        costly[kept.pop(most)] = length, without[most]
    return costly


def costly_reasons(stations: Sequence[Sequence[tuple[Time, Time]]]) -> dict[int, str]:
    """Stations to leave out as `costly_stations` says, and why."""
    costly, reasons = costly_stations(stations), {}
    for index, (with_it, without) in costly.items():
        own, others = stations[index], [each for number, each in enumerate(stations) if number not in costly]
        leap = leap_s(own[0][0], [other[0][0] for other in others])
        why = f", as by a leap of {leap} s" if leap and len(own) == 1 else ""
        why = f", for it has {len(own) - 1} gap(s)" if len(own) > 1 else why
        reasons[index] = f"it leaves {with_it:.3f} s of the {without:.3f} s that the others have in common{why}"
    return reasons


def _common_length(stations: Sequence[Sequence[tuple[Time, Time]]]) -> float:
    return float(sum(end - begin for begin, end, _ in common_stretches(stations)))


def leap_s(start_s: Time, others_s: Sequence[Time], tolerance_s: float = 1e-3) -> int:
    """Whole seconds that a start is off the median of others, 0 where the difference is no whole number of them."""
    difference = float(start_s) - float(np.median([float(other) for other in others_s]))
    seconds = round(difference)
    return seconds if abs(difference - seconds) <= tolerance_s else 0


def best_length(lengths: Sequence[int]) -> int:
    """Length of one window, of stretches of several lengths: the longest of these that leaves hardly more over.

    >>> best_length([4000, 5700]), best_length([100, 5700]), best_length([12])
    (4000, 5700, 12)
    """
    counts = Counter(lengths)
    distinct, times = np.array([*counts]), np.array([*counts.values()])
    covered = {window: int((distinct // window) @ times) * window for window in counts}
    length = max(window for window, each in covered.items() if each >= _NEARLY_ALL * max(covered.values()))
    pieces = -(-length // LONGEST_WINDOW)
    return length // pieces


def place_windows(
    starts_s: Sequence[float], lengths: Sequence[int], window: int, rate_hz: float, at_s: Sequence[float] | None
) -> list[Window]:
    """Windows of so many samples in stretches: all that fit, or those that begin at times since the first stretch.

    Raises
    ------
    ValueError
        If a window does not lie in a stretch.
    """
    if at_s is None:
        return [Window(number, 0, length // window) for number, length in enumerate(lengths) if length >= window]
    found = []
    for at in at_s:
        firsts = [round((at - (start_s - starts_s[0])) * rate_hz) for start_s in starts_s]
        inside = [
            Window(number, first, 1)
            for number, (first, length) in enumerate(zip(firsts, lengths, strict=True))
            if 0 <= first <= length - window
        ]
        if not inside:
            stretches = ", ".join(
                f"{start_s - starts_s[0]:g} to {start_s - starts_s[0] + length / rate_hz:g} s"
                for start_s, length in zip(starts_s, lengths, strict=True)
            )
            raise ValueError(f"at: a window of {window / rate_hz:g} s at {at:g} s is not within {stretches}; change it")
        found.append(inside[0])
    return found


def checked_at(at: float | Sequence[float] | None, window_s: float | None) -> list[float] | None:
    """Times at which windows begin, s; ValueError where their length is missing."""
    if at is None:
        return None
    if window_s is None:
        raise ValueError(f"at: is {at}, without the length of windows; give window_s, too")
    return [float(value) for value in np.atleast_1d(np.asarray(at, dtype=float))]


def say_left_out(reasons: dict[str, str]) -> None:
    """Name the stations that are left out in the log."""
    for name, reason in reasons.items():
        _log.warning("%s is left out: %s", name, reason)
