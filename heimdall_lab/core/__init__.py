"""What all else stands on: numbers, positions, files, words and the configuration; arrays alone, no labels.

- `config`, `presets`, `receivers`: the configuration of a dataset, its presets, networks of receivers.
- `checked`, `extras`: what pydantic refuses in one line; which extra brings a package that is missing.
- `arrays`, `compiled`, `philox`, `interpolation`: NumPy or CuPy, numba, random draws, values between samples.
- `geodesy`, `units`, `diffraction`: coordinates on the ellipsoid; constants and decibels; ITU-R P.1812 over one link.
- `files`, `text`, `progress`: files written whole and the data folder; words for numbers; progress, Ctrl-C and loggers.
"""
