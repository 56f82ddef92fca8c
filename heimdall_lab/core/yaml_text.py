"""YAML from outside: parsed after its nesting is counted, and what its aliases stand for."""

from typing import Any

import yaml

from heimdall_lab.core.text import shortened

MAX_DEPTH = 20
MAX_VALUES = 10_000

# Written in C where PyYAML has it, ten times as fast.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# What constructors of numbers, dates and so on raise for values that they do not take.
_REFUSED = (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, ArithmeticError)


class YamlError(ValueError):
    """A text that cannot be used; the message says why, and goes on from the name of what holds it."""


def parse_yaml(text: str) -> Any:
    """Parse a text, which is one document of plain values, lists and mappings.

    Raises
    ------
    YamlError
        If it is no YAML, is nested deeper than `MAX_DEPTH`, or stands for more than `MAX_VALUES`, aliases included.
    """
    try:
        _check_size(text)
        return yaml.load(text, _LOADER)
    except YamlError:
        raise
    except _REFUSED as error:
        raise YamlError(f"is not YAML ({shortened(' '.join(str(error).split()))}); correct it") from error


def _check_size(text: str) -> None:
    """Count the values of every list and mapping, before any of them is made."""
    counts, names, anchored = [0], [""], dict[str, int]()
    for event in yaml.parse(text, _LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            counts.append(1)
            names.append(event.anchor or "")
            if len(counts) > MAX_DEPTH + 1:
                raise YamlError(f"is nested more than {MAX_DEPTH} deep; write it flatter")
            continue
        count = 1
        if isinstance(event, yaml.AliasEvent):
            if event.anchor in names:
                raise YamlError(f"holds itself, as {shortened(event.anchor)}; write what that is to be")
            count = anchored.get(event.anchor or "", 1)
        elif isinstance(event, yaml.CollectionEndEvent):
            count = counts.pop()
            anchored[names.pop()] = count
        counts[-1] += count
        if counts[-1] > MAX_VALUES:
            raise YamlError(f"holds more than {MAX_VALUES:,} values, aliases included; leave some out")
