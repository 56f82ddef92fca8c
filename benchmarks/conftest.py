"""Fixtures of the tests that benchmarks need too."""

from dashboards import one_loop  # noqa: F401
