"""Passwords: where they are kept, how they are compared, and how often wrong ones may be tried."""

import hmac
import ipaddress
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from heimdall_lab.core.checked import ConfigError
from heimdall_lab.core.text import quoted

_FREE_TRIES = 5  # of one address in a row, as people mistype
_LONGEST_WAIT_S = 60.0
_FORGOTTEN_AFTER_S = 3600.0
_MAX_ADDRESSES = 10_000


def read_passwords(given: str) -> dict[str, str] | str:
    """Passwords by name, of a JSON file, or the one password of all that is given instead of one.

    What ends in ``.json``, holds a ``/`` or is a file's path is a file. ConfigError, naming the option, unless it can
    be read and holds names with passwords.
    """
    if not (given.endswith(".json") or os.sep in given or Path(given).is_file()):
        return given
    try:
        passwords = json.loads(Path(given).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"basic_auth: the file that it names cannot be read ({error.strerror}); correct the path, or put a "
            "password that holds a / or ends in .json into a file of names and passwords"
        ) from error
    except ValueError as error:
        raise ConfigError(f'basic_auth: {quoted(given)} is no JSON ({error}); write {{"name": "password"}}') from error
    entries = passwords.items() if isinstance(passwords, dict) else []
    if not entries or not all(name and isinstance(secret, str) and secret for name, secret in entries):
        raise ConfigError(f'basic_auth: {quoted(given)} holds no names with passwords; write {{"name": "password"}}')
    return dict(entries)


def is_right(passwords: dict[str, str] | str, name: str, password: str) -> bool:
    """Whether a name has a password; how long it takes to tell says nothing of either."""
    right = passwords if isinstance(passwords, str) else passwords.get(name)
    same = hmac.compare_digest((right or "").encode(), password.encode("utf-8", "replace"))
    return same and bool(right) and bool(name)


class _Tries(NamedTuple):
    number: int
    latest_s: float


class Brake:
    """Slows down wrong logins, of each address by itself: after some in a row it waits, twice as long each time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._wrong: dict[str, _Tries] = {}  # by address, the latest last

    def wait_s(self, address: str) -> float:
        """Time before the next login of an address is looked at; 0 if at once."""
        tries = self._wrong.get(_network(address))
        if tries is None or tries.number < _FREE_TRIES:
            return 0.0
        wait_s = min(_LONGEST_WAIT_S, 2.0 ** (tries.number - _FREE_TRIES))
        return max(0.0, tries.latest_s + wait_s - self._clock())

    def record_wrong(self, address: str) -> int:
        """Count a wrong login; returns how many there were in a row."""
        key, now_s = _network(address), self._clock()
        before = self._wrong.pop(key, _Tries(0, now_s))
        count = 1 if now_s - before.latest_s > _FORGOTTEN_AFTER_S else before.number + 1
        self._wrong[key] = _Tries(count, now_s)
        if len(self._wrong) > _MAX_ADDRESSES:
            del self._wrong[next(iter(self._wrong))]
        return count

    def record_right(self, address: str) -> None:
        """Forget the wrong logins of an address."""
        self._wrong.pop(_network(address), None)


def _network(address: str) -> str:
    """What one party can have many addresses of: the first 64 bits of IPv6."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((parsed, 64), strict=False)) if parsed.version == 6 else address
