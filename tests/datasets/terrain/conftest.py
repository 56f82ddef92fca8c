"""Fixtures of the tests of heights and tiles."""

from height_tiles import plane_folder, riviera  # noqa: F401  fixtures
