"""Passwords: what counts as a file of them, which are right, and how often wrong ones may be tried."""

import json

import pytest

from heimdall_lab.app.service.login import EndedLogins
from heimdall_lab.app.service.passwords import Brake, is_right, read_passwords
from heimdall_lab.app.service.server import Access, make_server
from heimdall_lab.core.checked import ConfigError


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("missing.json", None, "cannot be read"),
        ("below/missing", None, "cannot be read"),
        ("users.json", "{", "is no JSON"),
        ("users.json", "{}", "holds no names"),
        ("users.json", '["ada"]', "holds no names"),
        ("users.json", '{"ada": ""}', "holds no names"),
        ("users.json", '{"ada": 1}', "holds no names"),
        ("users", '{"": "right"}', "holds no names"),
    ],
)
def test_a_file_that_holds_no_passwords_is_an_error_and_no_password(tmp_path, monkeypatch, name, content, words):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=f"^basic_auth: .*{words}"):
        make_server(tmp_path / "data", access=Access(name))


def test_passwords_are_those_of_their_names(tmp_path):
    file = tmp_path / "users.json"
    file.write_text(json.dumps({"ada": "right", "bob": "söme"}))
    users = read_passwords(str(file))
    assert is_right(users, "ada", "right")
    assert is_right(users, "bob", "söme")
    wrong = [("ada", "söme"), ("eve", ""), ("eve", "right"), ("", "right"), ("ada", ""), ("ada", "\ud800")]
    assert not any(is_right(users, *each) for each in wrong)
    one = read_passwords("secret")
    assert is_right(one, "anybody", "secret")
    assert not is_right(one, "anybody", str(file))
    assert not is_right(one, "", "secret")


def test_wrong_passwords_wait_twice_as_long_each_time_and_others_do_not():
    now = [0.0]
    brake, waits = Brake(clock=lambda: now[0]), []
    for number in range(1, 16):
        assert brake.wait_s("192.0.2.1") == 0
        assert brake.record_wrong("192.0.2.1") == number
        waits.append(brake.wait_s("192.0.2.1"))
        now[0] += waits[-1]
    assert waits == [0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 60, 60, 60, 60, 60]
    brake.record_wrong("192.0.2.1")
    assert brake.wait_s("192.0.2.1") == 60
    assert brake.wait_s("192.0.2.2") == 0
    brake.record_right("192.0.2.1")
    assert brake.wait_s("192.0.2.1") == 0


def test_one_party_has_many_addresses_of_ipv6():
    brake = Brake(clock=lambda: 0.0)
    for number in range(6):
        brake.record_wrong(f"2001:db8::{number}")
    assert brake.wait_s("2001:db8::ffff") == 2
    assert brake.wait_s("2001:db8:0:1::") == 0


def test_wrong_passwords_are_forgotten_after_an_hour_and_take_little_room():
    now = [0.0]
    brake = Brake(clock=lambda: now[0])
    assert [brake.record_wrong("192.0.2.1") for _ in range(3)] == [1, 2, 3]
    now[0] = 3601
    assert brake.record_wrong("192.0.2.1") == 1
    for number in range(20_000):
        brake.record_wrong(f"10.0.{number // 256}.{number % 256}")
    assert len(brake._wrong) == 10_000


def test_a_login_that_was_ended_stays_so_after_a_restart(tmp_path):
    file = tmp_path / "ended.json"
    ended = EndedLogins(file)
    ended.end("cookie")
    assert ended.has_ended("cookie")
    assert not ended.has_ended("another")
    assert EndedLogins(file).has_ended("cookie")
    assert "cookie" not in file.read_text()  # who reads the file cannot use it
    file.write_text(json.dumps(dict.fromkeys(json.loads(file.read_text()), 1.0)))
    again = EndedLogins(file)
    again.end("another")
    assert len(json.loads(file.read_text())) == 1  # what has expired is dropped
