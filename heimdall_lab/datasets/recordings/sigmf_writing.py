"""Datasets as SigMF collections."""

import json
import math
import re
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from heimdall_lab.core.files import file_checksum, new_folder, write_atomically
from heimdall_lab.core.text import quoted
from heimdall_lab.datasets import schema
from heimdall_lab.datasets.recordings.sigmf_files import NAMESPACE, VERSION, Scalar
from heimdall_lab.datasets.recordings.sigmf_stored import COLLECTION, DATA, META, SigmfError

_BATCH_IQ_SAMPLES = 2**22
_EXTENSIONS = [{"name": NAMESPACE, "version": "1.0.0", "optional": True}]
_COORDS = {"sample", "receiver", "receiver_name", "component", "time", "start_time"}
_CORE_VARIABLES = {"iq", "receiver_latitude", "receiver_longitude", "receiver_altitude"}  # with a field in SigMF
_LABELS = {  # coordinates that number and name: kinds of dtype, and a text for them
    "sample": ("iu", "whole numbers"),
    "receiver": ("iu", "whole numbers"),
    "receiver_name": ("TUO", "text"),
}
_CORE_ATTRIBUTES = {"centre_frequency_hz", "sample_rate_hz"}  # with a field in SigMF


def write_sigmf(dataset: xr.Dataset, folder: str | Path) -> Path:
    """Write a dataset as a SigMF collection, with one recording a receiver and one capture a sample.

    The samples are ``ci16_le``, bit by bit those of ``iq``. What SigMF has no field for is in fields of the namespace
    ``heimdall``: the attributes, and in an annotation of every capture the variables of the contract, truth and
    ``iq_full_scale`` among them. `read_sigmf` gives all of it back without loss. Features, spectrograms and differences
    follow from the samples and are not written. The folder appears when it is whole.

    Parameters
    ----------
    dataset
        Of the contract, with ``iq``; it may be lazy.
    folder
        To make; it must not exist, or be empty.

    Returns
    -------
    Path
        Of the collection.

    Raises
    ------
    SigmfError
        The folder holds something, or the dataset something that the collection would lose.
    UnwritableError
        The folder cannot be written, or has no room.

    Source
    ------
    SigMF specification 1.2.6, sigmf.org.
    """
    derived = {*schema.SIGNALS["feature_based"], "feature", "feature_units", "statistic", "frequency", "frame"}
    dataset = schema.check(dataset).drop_vars(derived, errors="ignore")
    _check_lossless(dataset)
    target = Path(folder).absolute()
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise SigmfError(f"folder: {quoted(folder)} holds something already; choose another one")
    with new_folder(target, "folder", dataset.iq.nbytes) as temporary:
        collection = {
            "core:version": VERSION,
            "core:description": str(dataset.attrs.get("title", "recordings of several receivers")),
            "core:extensions": _EXTENSIONS,
            "core:streams": [
                _write_recording(dataset, index, temporary, target.name) for index in range(dataset.sizes["receiver"])
            ],
        }
        _write_json(temporary / f"{target.name}{COLLECTION}", {"collection": collection})
    return target / f"{target.name}{COLLECTION}"


def _check_lossless(dataset: xr.Dataset) -> None:
    if "iq" not in dataset or 0 in dataset.iq.shape:
        raise SigmfError("iq: is missing or empty; SigMF holds samples, so give a dataset with iq")
    if dataset.iq.dtype != np.int16:
        raise SigmfError(f"iq: dtype is {dataset.iq.dtype}; convert it to int16")
    surplus = sorted({str(name) for name in dataset.variables} - set(schema.VARIABLES) - _COORDS)
    if surplus:
        raise SigmfError(f"{surplus[0]}: is not of the contract and would be lost; leave it out with drop_vars")
    for name in ("latitude", "longitude", "altitude"):
        if not np.isfinite(dataset[f"receiver_{name}"].values[dataset.receiver_present.values]).all():
            raise SigmfError(f"receiver_{name}: is not finite for a receiver that is present; set it")
    _check_coordinates(dataset)
    for name, value in dataset.attrs.items():
        kept = _to_json(value)
        if not all(isinstance(item, Scalar) for item in (kept if isinstance(kept, list) else [kept])):
            raise SigmfError(
                f"attribute {quoted(name)}: is {quoted(value)}; collections keep numbers, text, lists of them: "
                "write text"
            )


def _check_coordinates(dataset: xr.Dataset) -> None:
    for name, (kinds, what) in _LABELS.items():
        if name not in dataset.coords or dataset[name].dtype.kind not in kinds:
            raise SigmfError(f"{name}: does not hold {what} for labels; give them with assign_coords")
    count = dataset["time"] * dataset.attrs["sample_rate_hz"]
    if not np.allclose(count, np.arange(dataset.sizes["time"]), rtol=0, atol=1e-3):
        raise SigmfError(
            "time: does not count from 0 in steps of 1 / sample_rate_hz, as in SigMF; correct either, and emission_time"
        )
    if "start_time" in dataset.coords and dataset["start_time"].isnull().any():
        raise SigmfError("start_time: is not known of every sample; leave it out with drop_vars")


def _write_recording(dataset: xr.Dataset, index: int, folder: Path, collection: str) -> dict[str, str]:
    """Write one receiver's data and metadata; returns its entry for the collection."""
    receiver = dataset.isel(receiver=index)
    title = str(receiver.receiver_name.values)
    name = "-".join([f"{index:02d}", *re.findall("[A-Za-z0-9]+", title)])
    data, meta = folder / f"{name}{DATA}", folder / f"{name}{META}"
    write_atomically(data, lambda path: _write_samples(receiver.iq, path))
    with_fields = _CORE_ATTRIBUTES if "centre_frequency" not in dataset else {"sample_rate_hz"}
    shared = {key: value for key, value in dataset.attrs.items() if key not in with_fields}
    own = {key: value for key, value in shared.items() if np.shape(value) == (dataset.sizes["receiver"],)}
    about = {
        "core:datatype": "ci16_le",
        "core:sample_rate": float(dataset.attrs["sample_rate_hz"]),
        "core:version": VERSION,
        "core:sha512": file_checksum(data, "sha512"),
        "core:collection": collection,
        "core:description": title,
        "core:recorder": _generator(),
        "core:extensions": _EXTENSIONS,
        f"{NAMESPACE}:channels": [
            {
                "name": title,
                "label": int(receiver.receiver),
                "attributes": {key: _to_json(value[index]) for key, value in own.items()},
            }
        ],
        f"{NAMESPACE}:attributes": {key: _to_json(value) for key, value in shared.items() if key not in own},
    }
    captures, annotations = _captures_and_annotations(receiver)
    _write_json(meta, {"global": about, "captures": captures, "annotations": annotations})
    return {"name": name, "hash": file_checksum(meta, "sha512")}


def _captures_and_annotations(receiver: xr.Dataset) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Make one capture of every sample of one receiver, and the annotation with all else that is known of it."""
    held = [name for name in schema.VARIABLES if name in receiver and name not in _CORE_VARIABLES]
    stated_once = {name: receiver[name].expand_dims(sample=receiver.sample) for name in held if not receiver[name].dims}
    known = {name: _to_json(stated_once.get(name, receiver[name]).values) for name in held}
    position = [receiver[f"receiver_{name}"].values.tolist() for name in ("longitude", "latitude", "altitude")]
    stamps = np.datetime_as_string(receiver.start_time.values, unit="ns") if "start_time" in receiver.coords else None
    length, centres_hz, places = receiver.sizes["time"], _centres_hz(receiver), _places(receiver)
    captures, annotations = [], []
    for row, sample in enumerate(receiver.sample.values.tolist()):
        capture: dict[str, Any] = {"core:sample_start": row * length, f"{NAMESPACE}:sample": sample}
        if math.isfinite(centres_hz[row]):
            capture["core:frequency"] = centres_hz[row]
        if places is not None:
            capture["core:global_index"] = places[row]
        if stamps is not None:
            capture["core:datetime"] = f"{stamps[row]}Z"
        coordinates = [axis[row] for axis in position]
        if np.isfinite(coordinates).all():
            capture["core:geolocation"] = {"type": "Point", "coordinates": coordinates}
        captures.append(capture)
        annotation = {
            "core:sample_start": row * length,
            "core:sample_count": length,
            "core:label": str(known["waveform"][row]),
            "core:generator": _generator(),
            f"{NAMESPACE}:variables": {name: values[row] for name, values in known.items()},
        }
        annotations.append(annotation)
    return captures, annotations


def _centres_hz(receiver: xr.Dataset) -> list[float]:
    """Frequency that the receiver is tuned to in every sample: that of the emission, or of all of them."""
    of_all_hz = float(receiver.attrs["centre_frequency_hz"])
    if "centre_frequency" not in receiver:
        return [of_all_hz] * receiver.sizes["sample"]
    own_hz: list[float] = receiver["centre_frequency"].fillna(of_all_hz).values.tolist()
    return own_hz


def _places(receiver: xr.Dataset) -> list[int] | None:
    """Number of the first value of every sample since its recording begins; None where these are no emissions."""
    if "centre_frequency" not in receiver or "recording_time" not in receiver:
        return None
    count = receiver["recording_time"].values * receiver.attrs["sample_rate_hz"]
    return np.rint(count).astype(int).tolist() if (count >= 0).all() else None


def _write_samples(iq: xr.DataArray, path: Path) -> None:
    """Write (sample, component, time) as I and Q in turn, some samples at a time."""
    rows = max(1, _BATCH_IQ_SAMPLES // iq.sizes["time"])
    with path.open("wb") as file:
        for first in range(0, iq.sizes["sample"], rows):
            batch = iq.isel(sample=slice(first, first + rows)).transpose("sample", "time", "component").values
            file.write(np.ascontiguousarray(batch, dtype="<i2").tobytes())


def _write_json(path: Path, content: dict[str, Any]) -> None:
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _to_json(value: Any) -> Any:
    """Arrays and numbers as JSON has them: NaN is null, and infinity is text."""
    value = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
    if isinstance(value, list | tuple):
        return [_to_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else f"{'-' if value < 0 else ''}Infinity"
    return value


@cache  # reading the version takes longer than all else of a capture
def _generator() -> str:
    return f"heimdall_lab {version('heimdall_lab')}"
