"""Fixtures of the tests of losses over terrain."""

from height_tiles import plane_folder, riviera  # noqa: F401  fixtures
