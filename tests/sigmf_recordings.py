"""SigMF recordings written by hand, and changes to what their metadata holds."""

import json

import numpy as np

RATE_HZ = 50e3
PLACES = {"alpha": [7.0, 45.0, 300.0], "bravo": [8.0, 46.0], "charlie": [9.0, 45.5, 100.25]}


def describe(name, *, datatype="ci16_le", rate_hz=RATE_HZ, datetime=None, **fields):
    """Metadata of one plain recording; ``fields`` replace or, where None, remove global ones."""
    capture = {"core:sample_start": 0, "core:frequency": 145e6}
    if name in PLACES:
        capture["core:geolocation"] = {"type": "Point", "coordinates": PLACES[name]}
    if datetime:
        capture["core:datetime"] = datetime
    about = {"core:datatype": datatype, "core:version": "1.0.0", "core:sample_rate": rate_hz}
    about |= {f"core:{field}": value for field, value in fields.items()}
    about = {field: value for field, value in about.items() if value is not None}
    return {"global": about, "captures": [capture], "annotations": []}


def put(folder, name, samples, meta=None, **fields):
    """Write one recording by hand; returns its metadata file."""
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.sigmf-data").write_bytes(samples.tobytes())
    file = folder / f"{name}.sigmf-meta"
    file.write_text(json.dumps(meta or describe(name, **fields)))
    return file


def noise(length, channels=1, seed=1):
    """Integers of the whole range, (length, channels, 2)."""
    return np.random.Generator(np.random.Philox(seed)).integers(-(2**15), 2**15, (length, channels, 2), dtype="<i2")


def changed(keys, value, name="bravo.sigmf-meta"):
    """Return a change of what metadata holds under some keys."""

    def change(folder):
        content = json.loads((folder / name).read_text())
        place = content
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value
        (folder / name).write_text(json.dumps(content))

    return change
