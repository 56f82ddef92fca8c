"""Height of the ground, from SRTM and GeoTIFF tiles."""
