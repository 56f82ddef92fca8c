"""Links, one transmitter heard by one receiver each, as rows of a table: features beside conditions and truth."""

import numpy as np
import pandas as pd
import xarray as xr

from heimdall_lab.core.text import quoted
from heimdall_lab.datasets import schema

FEATURE_TRUTH = {  # features of which the truth is stored: the variables whose sum it is
    "rssi_dbm": ("received_power",),
    "snr_db": ("snr",),
    "noise_floor_dbm": ("noise_power",),
    "frequency_offset_hz": ("frequency_offset", "doppler"),
    "bandwidth_hz": ("occupied_bandwidth",),
}

_LINE_OF_SIGHT = {True: "yes", False: "no"}


def links(dataset: xr.Dataset, statistic: str = "mean", most: int | None = None) -> pd.DataFrame:
    """List the links that have signal, with their features and what these depend on: a row for each (sample, receiver).

    Columns: ``sample``, ``receiver`` (name), ``transmitter_latitude``, ``transmitter_longitude`` (degrees),
    ``waveform``, ``snr`` (dB), ``line_of_sight`` (yes, no, unknown), each of `schema.FEATURES` as a statistic over the
    chunks of the window, and ``true_…`` of each of `FEATURE_TRUTH`, NaN where it is unknown. At most ``most`` links are
    taken, evenly spread over all, whose number is the attribute ``links``. ValueError if the dataset holds no features
    or no link with signal, the statistic is unknown, or ``most`` is below 1.
    """
    if "features" not in dataset:
        raise ValueError("features: are not in the dataset; merge what hl.features measures into it")
    if statistic not in schema.STATISTICS:
        raise ValueError(f"statistic: {quoted(statistic)} is unknown; choose one of {', '.join(schema.STATISTICS)}")
    if most is not None and most < 1:
        raise ValueError(f"most: is {most}; give at least 1 link")
    with_signal = dataset.receiver_present & dataset.get("signal_present", dataset.receiver_present)
    sample, receiver = np.nonzero(with_signal.transpose("sample", "receiver").values)
    if not len(sample):
        raise ValueError("signal_present: is False on every link; lower gate.min_snr_db and generate again")
    count = len(sample)
    if most is not None and most < count:
        kept = np.arange(most) * count // most
        sample, receiver = sample[kept], receiver[kept]

    def of_links(name: str) -> np.ndarray:
        values = dataset[name].values
        return values[sample, receiver] if values.ndim == 2 else values[sample]

    link_features = dataset.features.sel(statistic=statistic).transpose("sample", "receiver", "feature").values
    known = "line_of_sight" in dataset
    chosen_features = link_features[sample, receiver]  # (links, feature)
    line_of_sight = [_LINE_OF_SIGHT[bool(clear)] for clear in of_links("line_of_sight")] if known else None
    table = pd.DataFrame(
        {
            "sample": of_links("sample"),
            "receiver": dataset.receiver_name.values.astype(str)[receiver],
            "transmitter_latitude": of_links("transmitter_latitude"),
            "transmitter_longitude": of_links("transmitter_longitude"),
            "waveform": of_links("waveform").astype(str),
            "snr": of_links("snr"),
            "line_of_sight": line_of_sight or "unknown",
            **{str(name): chosen_features[:, column] for column, name in enumerate(dataset.feature.values)},
            **{f"true_{name}": sum(map(of_links, parts)) for name, parts in FEATURE_TRUTH.items()},
        }
    )
    table.attrs["links"] = count
    return table


def agreement(table: pd.DataFrame) -> pd.DataFrame:
    """Measure how features in a table of `links` differ from the truth: a row for each feature of `FEATURE_TRUTH`.

    Columns: ``feature``, ``units``, ``links`` on which both are known, ``bias``, the median of feature minus truth, and
    ``spread``, half of the interval that holds the middle 68 % of these differences; NaN where no truth is known.
    """
    rows = []
    for name in FEATURE_TRUTH:
        difference = (table[name] - table[f"true_{name}"]).dropna()
        low, middle, high = difference.quantile([0.16, 0.5, 0.84])
        rows.append((name, schema.FEATURES[name][0], len(difference), middle, (high - low) / 2))
    return pd.DataFrame(rows, columns=["feature", "units", "links", "bias", "spread"])


def common_receivers(dataset: xr.Dataset) -> dict[str, tuple[float, float]]:
    """Longitude and latitude of the receivers, by name, if they stand where they do in all samples; else nothing."""
    position = np.stack([dataset[f"receiver_{name}"].values for name in ("longitude", "latitude")], axis=-1)
    used = dataset["receiver_present"].values.any(axis=0)
    position = position[:, used]  # (S, P, 2)
    first = np.nanmax(position, axis=0)
    if not (np.isnan(position) | (position == first)).all():
        return {}
    names = dataset["receiver_name"].values.astype(str)[used]
    return {str(name): (float(x), float(y)) for name, (x, y) in zip(names, first, strict=True)}
