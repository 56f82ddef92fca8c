"""Height of the ground, from SRTM and GeoTIFF tiles."""

from heimdall_lab.datasets.terrain.heights import height_m, profiles
from heimdall_lab.datasets.terrain.tiles import Heights, MissingTilesError, fetch_terrain, open_folder, tile_name

__all__ = [
    "Heights",
    "MissingTilesError",
    "fetch_terrain",
    "height_m",
    "open_folder",
    "profiles",
    "tile_name",
]
