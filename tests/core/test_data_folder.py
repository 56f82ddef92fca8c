"""One data folder: the one that is given, else that of the environment, else ``data`` here."""

from pathlib import Path

from heimdall_lab.core.files import data_folder


def test_the_given_folder_comes_before_the_environment_and_that_before_the_default(monkeypatch):
    monkeypatch.setenv("HEIMDALL_LAB_DATA", "/elsewhere")
    assert data_folder("given") == Path("given")
    assert data_folder() == Path("/elsewhere")
    monkeypatch.delenv("HEIMDALL_LAB_DATA")
    assert data_folder() == Path("data")
