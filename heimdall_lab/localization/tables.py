"""Tables of fixes, of the time differences behind them and of receivers, as the command and the pages show them."""

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from heimdall_lab.core.text import json_number, length_text
from heimdall_lab.datasets import schema
from heimdall_lab.localization import bounds, delay_law, errors
from heimdall_lab.localization.sentences import rivals, suspect_name


def fix_table(dataset: xr.Dataset, fixes: xr.Dataset) -> pd.DataFrame:
    """One row a scene: fix, standard deviations, correlation, status, and where the truth is known error and bound.

    Of emissions of recordings the frequency is shown, too. Where there are references, ``reference`` marks them; what
    they are located by is no test, and they have no error.
    """
    covariance = fixes.covariance.values
    sigma = np.sqrt(np.einsum("sii->si", covariance))
    columns = _emission_columns(dataset) | {
        "latitude_deg": fixes.latitude.values.round(6),
        "longitude_deg": fixes.longitude.values.round(6),
        "sigma_east_m": sigma[:, 0].round(1),
        "sigma_north_m": sigma[:, 1].round(1),
        "correlation": (covariance[:, 0, 1] / sigma.prod(axis=1)).round(3),
        "converged": fixes.converged.values,
        "status": fixes.status.values,
        "checked": fixes.checked.values,
        "misfit": fixes.misfit.values.round(2),
    }
    if not bool(dataset.transmitter_latitude.isnull().all()):
        columns["error_m"] = errors.position_errors(dataset, fixes).error.values.round(1)
        columns |= _bound_columns(dataset)
    return pd.DataFrame({"sample": dataset.sample.values, **columns})


def _emission_columns(dataset: xr.Dataset) -> dict[str, Any]:
    """Frequency of each emission, where the dataset tells it, and whether its transmitter stands at a known place."""
    columns: dict[str, Any] = {}
    if "centre_frequency" in dataset:
        columns["frequency_mhz"] = (dataset["centre_frequency"].values / 1e6).round(6)
    if (known := schema.references(dataset)).any():
        columns["reference"] = known
    return columns


def _bound_columns(dataset: xr.Dataset) -> dict[str, Any]:
    """Bounds that errors are to be judged by: of the dataset itself, the genie's where links are late, joint ones."""
    law = "genie" if delay_law.has_late_links(dataset.attrs) else "normal"
    if law == "genie" or bounds.emissions_share_clocks(dataset.attrs):
        truth = dataset.drop_vars(["iq", "features", "spectrogram"], errors="ignore").compute()
        bound_m = bounds.scene_crlb(truth, law).crlb_rmse.values
    else:
        bound_m = dataset.crlb_rmse.values
    return {} if np.isnan(bound_m).all() else {f"crlb_rmse{delay_law.SUFFIXES[law]}_m": bound_m.round(1)}


def fix_record(dataset: xr.Dataset, fix: xr.Dataset) -> dict[str, Any]:
    """What is said of one scene's fix beside its place, as JSON values: what is unknown or infinite is null."""
    return {
        "status": str(fix.status.values),
        "checked": str(fix.checked.values),
        "misfit": json_number(fix.misfit),
        "suspect": suspect_name(dataset, fix),
        "undetected_m": json_number(fix.undetected_m),
        "altitude_m": json_number(fix.altitude_m),
        "altitude_sigma_m": json_number(fix.altitude_sigma_m),
        "reflection_height_m": json_number(fix.reflection_height_m),
        "reflection_height_sigma_m": json_number(fix.reflection_height_sigma_m),
        "covariance_m2": [[json_number(value) for value in row] for row in fix.covariance.values],
        "freedom": json_number(fix.freedom),
        "budget_m": {str(cause): json_number(value) for cause, value in fix.budget.to_series().items()},
        "receiver_budget_m": _receiver_budgets(dataset, fix),
    }


def budget_table(dataset: xr.Dataset, fixes: xr.Dataset, sample: int) -> pd.DataFrame:
    """One row a cause of the error of one scene's fix, the largest first, then all of them together.

    The columns are ``cause``; ``rms_error_m``; ``share_percent``, of the variance, which is what adds up; and
    ``most_by``, the receiver that adds most to it, with its own part, – where none is known or the cause is no
    receiver's. Without rows where the causes are not known.
    """
    fix = fixes.sel(sample=sample)
    budget = fix.budget.to_series().sort_values(ascending=False, kind="stable")
    if not np.isfinite(budget).all():
        return pd.DataFrame(columns=["cause", "rms_error_m", "share_percent", "most_by"])
    total_m2 = (budget**2).sum()
    most_by = [_most_by(dataset, fix.receiver_budget.sel(cause=cause)) for cause in budget.index]
    return pd.DataFrame(
        {
            "cause": [str(cause).replace("_", " ") for cause in budget.index] + ["in all"],
            "rms_error_m": [*budget.round(2), round(np.sqrt(total_m2), 2)],
            "share_percent": [*(100 * budget**2 / total_m2).round(1), 100.0],
            "most_by": [*most_by, "–"],
        }
    )


def detail_table(dataset: xr.Dataset, fixes: xr.Dataset, sample: int) -> pd.DataFrame:
    """What a scene's fix is made of, in words: its error by causes, altitude, how far it is checked, other places."""
    fix = fixes.sel(sample=sample)
    altitude_m, sigma_m, freedom = (float(fix[name]) for name in ("altitude_m", "altitude_sigma_m", "freedom"))
    rows = {f"error by {str(cause).replace('_', ' ')}": length_text(m) for cause, m in fix.budget.to_series().items()}
    rows["altitude"] = f"{altitude_m:,.0f} ± {sigma_m:,.0f} m" if np.isfinite(sigma_m) else "–"
    height_m, height_sigma_m = (float(fix[f"reflection_height{name}_m"]) for name in ("", "_sigma"))
    if np.isfinite(height_sigma_m):
        rows["height of reflection"] = f"{height_m / 1e3:,.0f} ± {height_sigma_m / 1e3:,.0f} km"
    rows["law of errors"] = "normal" if np.isinf(freedom) else f"Student's with {freedom:.3g} degrees of freedom"
    rows["χ² per degree of freedom"] = f"{float(fix.misfit):.2f}" if np.isfinite(fix.misfit) else "–"
    rows["receiver that agrees least"] = suspect_name(dataset, fix) or "–"
    rows["shift by a fault just below notice"] = length_text(float(fix.undetected_m))
    places = [str(rival) for rival in rivals(fix)]
    rows |= {f"other place {number}": place for number, place in enumerate(places, start=1)}
    return pd.DataFrame({"quantity": list(rows), "value": list(rows.values())})


def difference_table(dataset: xr.Dataset) -> pd.DataFrame:
    """One row a pair: each receiver that hears the signal against its scene's reference, of a dataset with both."""
    names = dataset.receiver_name.values
    scene, receiver = np.nonzero(dataset.heard.values)
    reference = dataset.reference_receiver.values[scene]
    noise_s = dataset.tdoa_std_s.values[scene, receiver]
    model_variance = bounds.delay_model_variance(dataset)
    total_s = np.sqrt(noise_s**2 + model_variance[scene, receiver] + model_variance[scene, reference])
    table = pd.DataFrame(
        {
            "sample": dataset.sample.values[scene],
            "receiver": names[receiver],
            "later_than": names[reference],
            "tdoa_us": (dataset.tdoa_s.values[scene, receiver] * 1e6).round(3),
            "noise_std_us": (noise_s * 1e6).round(3),
            "total_std_us": (total_s * 1e6).round(3),
        }
    )
    return table[receiver != reference]


def clock_table(clocks: xr.Dataset) -> pd.DataFrame:
    """One row a recording and receiver that hears something, of what `joint.clocks` tells: offsets, rates, their σ."""
    count, receivers = clocks.offset.shape
    columns = {
        "recording": np.repeat(clocks["recording"].values, receivers),
        "receiver": np.tile(clocks["receiver_name"].values, count),
        "offset_us": (1e6 * clocks.offset.values.ravel()).round(3),
        "offset_std_us": (1e6 * clocks.offset_std.values.ravel()).round(3),
        "rate_ppb": (1e9 * clocks.rate.values.ravel()).round(3),
        "rate_std_ppb": (1e9 * clocks.rate_std.values.ravel()).round(3),
        "observable": clocks.observable.values.ravel(),
        "component": clocks.component.values.ravel(),
    }
    table = pd.DataFrame(columns)[columns["component"] >= 0]
    return table.dropna(axis="columns", how="all").reset_index(drop=True)


def _most_by(dataset: xr.Dataset, parts: xr.DataArray) -> str:
    """Receiver that adds most to one cause of an error, and how much; parts (receiver) m."""
    parts_m = np.nan_to_num(parts.values)
    most = int(parts_m.argmax())
    return f"{dataset.receiver_name.values[most]}, {length_text(parts_m[most])}" if parts_m[most] > 0 else "–"


def _receiver_budgets(dataset: xr.Dataset, fix: xr.Dataset) -> dict[str, dict[str, float]]:
    """What each receiver that a fix rests on adds to its rms error, by cause, m."""
    parts = fix.receiver_budget.transpose("receiver", "cause").values  # (R, BUDGET)
    causes = fix.cause.values.astype(str).tolist()
    return {
        str(dataset.receiver_name.values[receiver]): {
            cause: float(value) for cause, value in zip(causes, parts[receiver], strict=True) if np.isfinite(value)
        }
        for receiver in np.flatnonzero((parts > 0).any(axis=1))
    }


def receiver_table(dataset: xr.Dataset) -> pd.DataFrame:
    """One row a receiver: where it stands in the first scene that has it."""
    present = dataset.receiver_present.values
    first, receivers = present.argmax(axis=0), np.flatnonzero(present.any(axis=0))
    place = {
        f"{name}_{unit}": dataset[f"receiver_{name}"].values[first[receivers], receivers]
        for name, unit in (("latitude", "deg"), ("longitude", "deg"), ("altitude", "m"))
    }
    position_m = np.broadcast_to(bounds.position_sigma_m(dataset), present.shape)
    place["position_std_m"] = position_m[first[receivers], receivers]
    return pd.DataFrame({"receiver": dataset.receiver_name.values[receivers], **place})
