"""Configurations and tables from outside: limited before they are parsed, and refused in short messages."""

import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from heimdall_lab.core.checked import ConfigError
from heimdall_lab.core.presets import read_config
from heimdall_lab.core.receivers import parse_receivers
from heimdall_lab.core.text import listed, quoted, shortened

LONGEST = 1500  # of a message, a list of known fields included


def multiplying(first, form):
    """Nine lines, each of nine aliases of the one before."""
    lines = [f"b{number}: &b{number} " + form.format(",".join([f"*b{number - 1}"] * 9)) for number in range(1, 10)]
    return "\n".join([f"b0: &b0 {first}", *lines])


def test_values_are_quoted_without_their_middle():
    assert quoted("don't") == repr("don't")
    deep: list[object] = []
    for _ in range(50_000):
        deep = [deep]
    for value in ("9" * 10**6, b"9" * 10**6, 1 << 10**6, deep, list(range(10**6)), {str(n): n for n in range(10**5)}):
        assert len(quoted(value)) <= 100
    assert shortened("a" * 500 + "end").endswith("aend")
    assert len(listed("x" * 10**5 for _ in range(10**3))) <= 200


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 3000 + "]" * 3000, "is nested more than 20 deep"),
        ("".join(f"{' ' * level}a:\n" for level in range(400)), "is nested more than 20 deep"),
        (multiplying("[x,x,x]", "[{}]"), "holds more than 10,000 values"),
        (multiplying("{x: 1}", "{{<<: [{}]}}"), "holds more than 10,000 values"),
        ("&a {signal: *a}", "holds itself, as a"),
        ("name: " + "x" * 200_000, "is larger than 100 kB"),
        ("seed: " + "1" * 90_000, "is not YAML"),
        ("seed: 0x" + "1" * 90_000, "a number of 359997 bits is refused"),
        ("name: 9999-99-99", "is not YAML (month must be in 1..12)"),
        ("seed: !!bool x", "is not YAML"),
        ("x" * 1000 + ": 1", "unknown field"),
    ],
    ids=["flow", "block", "aliases", "merge keys", "itself", "size", "digits", "hexadecimal", "date", "tag", "name"],
)  # fmt: skip
def test_hostile_configurations_are_refused(tmp_path, text, message):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    tracemalloc.start()
    with pytest.raises(ConfigError) as refusal:
        read_config(path, {})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert message in str(refusal.value)
    assert len(str(refusal.value)) < LONGEST
    assert peak < 30e6


YAML = st.recursive(
    st.sampled_from(["1", "x", "null", "1e400", ".nan", "2020-01-01", "!!float x", "*a", "&a 1", "{}", "'", "1:2:3"]),
    lambda inner: st.lists(inner, max_size=4).map(lambda each: f"[{', '.join(each)}]")
    | st.lists(st.tuples(st.sampled_from(["name", "signal", "geometry", "seed", "receivers", "<<", "? a"]), inner),
               max_size=3).map(lambda each: "{" + ", ".join(f"{name}: {value}" for name, value in each) + "}"),
    max_leaves=12,
)  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(YAML | st.text(max_size=60))
def test_any_text_is_a_configuration_or_refused(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_bytes(text.encode(errors="replace"))
    message = ""
    try:
        read_config(path, {})
    except ConfigError as error:
        message = str(error)
    assert len(message) < LONGEST


CELLS = st.sampled_from(["A", "", "1", "nan", "1e999", '"', '"a""b"', "9" * 400, "\0", "é", "x" * 140_000])


@given(
    st.lists(st.lists(CELLS, max_size=6).map(",".join), max_size=5).map("\n".join), st.booleans(), st.binary(max_size=3)
)
def test_any_table_of_receivers_is_read_or_refused(text, headed, rest):
    content = ("name,latitude_deg,longitude_deg\n" * headed + text).encode() + rest
    message = ""
    try:
        parse_receivers(content, "table")
    except ConfigError as error:
        message = str(error)
    assert len(message) < LONGEST
