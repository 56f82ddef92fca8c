import pytest

from heimdall_lab.core.receivers import read_receivers
from heimdall_lab.datasets.recordings import published

POSITIONS = {
    "HB9ODP": "d.HB9ODP = struct('coord', [46.499351,8.798828], 'host', 'hb9odp.proxy.kiwisdr.com', 'port', 8073);\n",
    "JO51xl": "d.JO51xl = struct('coord', [51.466044,11.977189], 'host', 'db0hal.dyndns.org', 'port', 8073);\n",
    "pa0rdt": "d.pa0rdt = struct('coord', [51.500500,3.600690], 'host', '83.162.220.82', 'port', 8073);\n",
}


def test_environment_variable_comes_first(real, tmp_path):
    files, receivers = published.dcf77(tmp_path)
    assert len(files) == 3
    assert receivers.parent == real / "kiwisdr_dcf77_2020"
    assert list(tmp_path.iterdir()) == []


def test_recordings_are_fetched_once_checked_and_equal_to_the_local_ones(real, server, tmp_path, monkeypatch):
    url, folder = server
    local = real / "kiwisdr_dcf77_2020"
    (folder / "iq").mkdir()
    (folder / "gnss_pos").mkdir()
    for file in local.glob("*.wav"):
        (folder / "iq" / file.name).write_bytes(file.read_bytes())
    for name, text in POSITIONS.items():
        (folder / "gnss_pos" / f"{name}.txt").write_text(text)
    monkeypatch.delenv("HEIMDALL_LAB_REAL")
    files, receivers = published.dcf77(tmp_path / "cache", url)
    assert [file.read_bytes() for file in files] == [file.read_bytes() for file in sorted(local.glob("*.wav"))]
    assert read_receivers(receivers) == read_receivers(local / "receivers.csv")
    again, _ = published.dcf77(tmp_path / "cache", "http://127.0.0.1:9/")
    assert again == files


def test_a_changed_file_is_refused(server, tmp_path, monkeypatch):
    url, folder = server
    (folder / "iq").mkdir()
    (folder / "iq" / "20200813T065220Z_77500_HB9ODP_iq.wav").write_bytes(b"something else")
    monkeypatch.delenv("HEIMDALL_LAB_REAL", raising=False)
    with pytest.raises(ValueError, match=r"cannot be fetched.*HEIMDALL_LAB_REAL"):
        published.dcf77(tmp_path / "cache", url)


def test_a_missing_network_is_explained(tmp_path, monkeypatch):
    monkeypatch.delenv("HEIMDALL_LAB_REAL", raising=False)
    with pytest.raises(ValueError, match="connect to the network, or put them in a folder kiwisdr_dcf77_2020"):
        published.dcf77(tmp_path / "cache", "http://127.0.0.1:9/")


def test_an_empty_folder_in_the_environment_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("HEIMDALL_LAB_REAL", str(tmp_path))
    with pytest.raises(ValueError, match=r"holds no kiwisdr_dcf77_2020.*correct or unset it"):
        published.dcf77()


def test_tables_of_aircraft_are_fetched_once_and_equal_to_the_local_ones(real, server, tmp_path, monkeypatch):
    url, folder = server
    for file in (real / "locards").glob("*.csv"):
        (folder / file.name).write_bytes(file.read_bytes())
    tables, sensors = published.locards()
    monkeypatch.delenv("HEIMDALL_LAB_REAL")
    fetched, fetched_sensors = published.locards(tmp_path / "cache", url)
    assert [file.read_bytes() for file in (*fetched, fetched_sensors)] == [f.read_bytes() for f in (*tables, sensors)]
    assert published.locards(tmp_path / "cache", "http://127.0.0.1:9/") == (fetched, fetched_sensors)
    with pytest.raises(ValueError, match="put them in a folder locards"):
        published.locards(tmp_path / "other", "http://127.0.0.1:9/")
