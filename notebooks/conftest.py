"""Notebooks as tests: in a data folder of their own, and the one on real recordings only where these can be had."""

import os
import tempfile

import pytest

from heimdall_lab.datasets.recordings import published

_DATA = tempfile.TemporaryDirectory(prefix="heimdall_lab_notebooks_")  # removed as this process ends
os.environ["HEIMDALL_LAB_DATA"] = _DATA.name  # of each process of pytest another: one at a time generates a dataset


def pytest_collection_modifyitems(items):
    """Mark the notebook that needs the recordings."""
    needy = [item for item in items if item.path.name == "02_locate_a_real_transmitter.ipynb"]
    if needy:
        try:
            published.dcf77()
        except ValueError as error:
            for item in needy:
                item.add_marker(pytest.mark.skip(reason=str(error)))
