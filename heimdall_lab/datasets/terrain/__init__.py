"""Height of the ground, from SRTM and GeoTIFF tiles.

`tiles` finds, reads and fetches tiles; `heights` interpolates them at points and along great circles. A new format of
tiles goes to `tiles`.
"""

from heimdall_lab.datasets.terrain.heights import height_m, profiles
from heimdall_lab.datasets.terrain.tiles import Heights, MissingTilesError, fetch_terrain, open_terrain, tile_name

__all__ = [
    "Heights",
    "MissingTilesError",
    "fetch_terrain",
    "height_m",
    "open_terrain",
    "profiles",
    "tile_name",
]
