"""Scenes for training, validation and test, split by a hash of each scene's seed."""

from hashlib import blake2b

import numpy as np
import xarray as xr

from heimdall_lab.core.text import quoted

SHARES = {"train": 0.70, "validation": 0.15, "test": 0.15}

_RANGE = 2.0**64


def split_of(seed: int, number: np.ndarray) -> np.ndarray:
    """Name the split of each scene.

    A scene's own seed is the pair of its dataset's seed and its number, or that of its recording, whose scenes share
    their clocks. The split depends on nothing else: longer datasets of a seed, and other configurations of it, put a
    scene where the shorter ones do.

    Parameters
    ----------
    seed : int
        Of the dataset.
    number : (S,) int
        Of the scenes, as `numbers` tells them.

    Returns
    -------
    (S,) str
        Of `SHARES`.

    >>> split_of(7, np.arange(4)).tolist()
    ['train', 'validation', 'train', 'train']
    """
    place = np.array([_uniform_hash(seed, int(one)) for one in number]).reshape(-1)
    upper = np.cumsum(list(SHARES.values()))[:-1]
    return np.array(list(SHARES))[np.searchsorted(upper, place, side="right")]


def numbers(dataset: xr.Dataset) -> np.ndarray:
    """Numbers (S,) by which scenes are split: of their recordings, or where each is its own, of themselves."""
    return dataset["recording" if "recording" in dataset else "sample"].values


def select(dataset: xr.Dataset, split: str) -> xr.Dataset:
    """Keep the scenes of one split.

    Raises
    ------
    ValueError
        If the split is unknown, the dataset was not simulated, or holds no scene of the split.
    """
    if split not in SHARES:
        raise ValueError(f"split: {quoted(split)} is unknown; choose one of {', '.join(SHARES)}")
    if "seed" not in dataset.attrs:
        raise ValueError("seed: is not among the dataset's attributes; only simulated datasets have splits")
    rows = np.flatnonzero(split_of(int(dataset.attrs["seed"]), numbers(dataset)) == split)
    if not len(rows):
        raise ValueError(f"split: {scenes_text(dataset)} are too few for one in {quoted(split)}; generate more")
    return dataset.isel(sample=rows)


def scenes_text(dataset: xr.Dataset) -> str:
    """Say how many scenes there are, and in how many recordings, which splits keep whole."""
    scenes = f"{dataset.sizes['sample']} scenes"
    return f"{scenes} in {len(np.unique(numbers(dataset)))} recordings" if "recording" in dataset else scenes


def evenly_spaced(dataset: xr.Dataset, most: int) -> xr.Dataset:
    """Keep at most ``most`` scenes, evenly spaced over all; of recordings whole ones, where one is not longer.

    Raises
    ------
    ValueError
        If ``most`` is below 1.
    """
    if most < 1:
        raise ValueError(f"most: is {most}; keep at least 1 scene")
    count = dataset.sizes["sample"]
    if count <= most:
        return dataset
    number, recording, emissions = np.unique(numbers(dataset), return_inverse=True, return_counts=True)
    kept = most // int(emissions.max())
    if "recording" not in dataset or not kept:
        return dataset.isel(sample=_evenly(count, most))
    return dataset.isel(sample=np.isin(recording, _evenly(len(number), kept)))


def _evenly(count: int, most: int) -> np.ndarray:
    """At most ``most`` of the numbers below a count, evenly spaced."""
    return np.arange(min(count, most)) * count // min(count, most)


def _uniform_hash(seed: int, number: int) -> float:
    """Spread a scene's seed evenly over 0 to 1."""
    digest = blake2b(f"{seed}/{number}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / _RANGE
