"""Loggers of other libraries are quiet inside a block and as before after it, however it ends."""

import logging

import pytest

from heimdall_lab.core.progress import quiet_loggers


def fail_quietly(first, second):
    with quiet_loggers(first.name, second.name, level=logging.ERROR):
        assert not first.isEnabledFor(logging.WARNING)
        assert second.isEnabledFor(logging.ERROR)
        raise KeyError


def test_levels_are_raised_inside_the_block_and_restored_after_an_error():
    first, second = logging.getLogger("heimdall_lab.tests.first"), logging.getLogger("heimdall_lab.tests.second")
    first.setLevel(logging.DEBUG)
    with pytest.raises(KeyError):
        fail_quietly(first, second)
    assert (first.level, second.level) == (logging.DEBUG, logging.NOTSET)
