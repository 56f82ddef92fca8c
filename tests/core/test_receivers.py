"""Networks in a folder: what is written is read back, and nothing is written elsewhere."""

import pytest

from heimdall_lab.core.checked import ConfigError
from heimdall_lab.core.config import Geometry
from heimdall_lab.core.receivers import (
    Receiver,
    italian_network,
    load_network,
    parse_receivers,
    receivers_csv,
    save_network,
    saved_networks,
)


def test_what_is_saved_is_read_back(tmp_path):
    odd = Receiver(name='a, "b"\nc é', latitude_deg=-1 / 3, longitude_deg=0.1 + 0.2, altitude_m=-1.5)
    network = (*italian_network(), odd)
    save_network(network, tmp_path, "with_odd-1")
    assert load_network(tmp_path, "with_odd-1") == network
    assert saved_networks(tmp_path) == ["with_odd-1"]
    assert [path.name for path in (tmp_path / "networks").iterdir()] == ["with_odd-1.csv"]


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a b", ".hidden", "é", "x\n", "/etc/x", "a.csv"])
def test_names_that_lead_elsewhere_are_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="letters"):
        save_network(italian_network(), tmp_path, name)
    assert list(tmp_path.iterdir()) == []


def test_a_network_is_replaced_only_if_asked(tmp_path):
    save_network(italian_network(), tmp_path, "x")
    with pytest.raises(ConfigError, match="exists"):
        save_network(italian_network()[:3], tmp_path, "x")
    assert len(load_network(tmp_path, "x")) == 7
    save_network(italian_network()[:3], tmp_path, "x", replace=True)
    assert len(load_network(tmp_path, "x")) == 3


def test_what_could_not_be_written_leaves_the_old_network_alone(tmp_path, monkeypatch):
    file = save_network(italian_network(), tmp_path, "x")
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError("no space is left")))
    with pytest.raises(OSError, match="no space is left"):
        save_network(italian_network()[:3], tmp_path, "x", replace=True)
    assert list(file.parent.iterdir()) == [file]
    assert load_network(tmp_path, "x") == italian_network()


def test_what_is_stated_of_positions_goes_with_the_network():
    listed = [receiver.model_dump() for receiver in italian_network()]
    assert all("position_std_m" not in row for row in listed)
    stated = Geometry(receivers=[row | {"position_std_m": 20.0} for row in listed[:3]] + listed[3:])
    assert stated.position_std_m == (20.0, 20.0, 20.0, 0.0, 0.0, 0.0, 0.0)
    assert Geometry.model_validate_json(stated.model_dump_json()) == stated
    assert parse_receivers(receivers_csv(stated.receivers).encode(), "again") == stated.receivers
    with pytest.raises(ValueError, match="states a position_std_m of 20000, more than 10000 m"):
        Geometry(receivers=[row | {"position_std_m": 20e3} for row in listed])


def test_errors_of_an_upload_call_the_file_by_its_name():
    content = b"name,latitude_deg,longitude_deg\nA,45,7\nB,95,7\n"
    with pytest.raises(ConfigError, match=r"receivers: mine\.csv line 3: latitude_deg: '95' is refused"):
        parse_receivers(content, "mine.csv")
