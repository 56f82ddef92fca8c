"""Tables of fixes, of the time differences behind them and of receivers, as the command and the pages show them."""

import numpy as np
import pandas as pd
import xarray as xr

from heimdall_lab.core.text import length_text, position_text
from heimdall_lab.localization import bounds, error_law, errors


def fix_table(dataset: xr.Dataset, fixes: xr.Dataset) -> pd.DataFrame:
    """One row a scene: fix, standard deviations, correlation, and where the truth is known the error and its bound."""
    covariance = fixes.covariance.values
    sigma = np.sqrt(np.einsum("sii->si", covariance))
    columns = {
        "latitude_deg": fixes.latitude.values.round(6),
        "longitude_deg": fixes.longitude.values.round(6),
        "sigma_east_m": sigma[:, 0].round(1),
        "sigma_north_m": sigma[:, 1].round(1),
        "correlation": (covariance[:, 0, 1] / sigma.prod(axis=1)).round(3),
        "converged": fixes.converged.values,
    }
    if not bool(dataset.transmitter_latitude.isnull().all()):
        columns["error_m"] = errors.position_errors(dataset, fixes).error.values.round(1)
        if not bool(dataset.crlb_rmse.isnull().all()):
            columns["crlb_rmse_m"] = dataset.crlb_rmse.values.round(1)
    return pd.DataFrame({"sample": dataset.sample.values, **columns})


def difference_table(dataset: xr.Dataset) -> pd.DataFrame:
    """One row a pair: each receiver that hears the signal against its scene's reference, of a dataset with both."""
    names = dataset.receiver_name.values
    scene, receiver = np.nonzero(dataset.heard.values)
    reference = dataset.reference_receiver.values[scene]
    noise_s = dataset.tdoa_std_s.values[scene, receiver]
    model_variance = np.broadcast_to(bounds.delay_model_variance(dataset), names.shape)
    total_s = np.sqrt(noise_s**2 + model_variance[receiver] + model_variance[reference])
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


def receiver_table(dataset: xr.Dataset) -> pd.DataFrame:
    """One row a receiver: where it stands in the first scene that has it."""
    present = dataset.receiver_present.values
    first, receivers = present.argmax(axis=0), np.flatnonzero(present.any(axis=0))
    place = {
        f"{name}_{unit}": dataset[f"receiver_{name}"].values[first[receivers], receivers]
        for name, unit in (("latitude", "deg"), ("longitude", "deg"), ("altitude", "m"))
    }
    return pd.DataFrame({"receiver": dataset.receiver_name.values[receivers], **place})


def fix_text(dataset: xr.Dataset, fixes: xr.Dataset, sample: int) -> str:
    """Say in words where the transmitter of one scene is, as Markdown."""
    fix = fixes.sel(sample=sample)
    place = position_text(float(fix.latitude), float(fix.longitude))
    if not bool(fix.converged):
        return f"**{fixes.attrs['method']} found no fix**; the middle of the receivers, {place}, stands in for it."
    major, minor, azimuth_deg = bounds.principal_axes(fix.covariance.values)
    half = np.sqrt(error_law.radius_squared(0.95, fix.freedom.values))
    axes = " × ".join(length_text(2 * float(half * axis)) for axis in (major, minor))
    text = (
        f"**{place}** by {fixes.attrs['method']}; 95 % ellipse {axes}, long axis {azimuth_deg:.0f}° from north to east"
    )
    error_m = float(errors.position_errors(dataset, fixes).error.sel(sample=sample))
    return f"{text}; **{length_text(error_m)}** from the true position." if np.isfinite(error_m) else f"{text}."
