"""The datasets of the table, and what is disturbed in each."""

import os
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xarray as xr

import heimdall_lab as hl
from heimdall_lab.localization import bounds, delay_law
from heimdall_lab.localization.altitude import altitude_prior
from honesty.disturbances import DISTURBANCES, DISTURBED

SEED = 901  # not one that pretrained localizers learned from
DCF77_DEG = (50.0152, 9.0112)
_LOCARDS_SETS = (1, 2, 3, 4)
_REAL = "HEIMDALL_LAB_REAL"


class Row(NamedTuple):
    """One dataset and what is disturbed in it."""

    dataset: str  # of SIMULATED or REAL
    disturbance: str  # of DISTURBANCES

    @property
    def title(self) -> str:
        """Name in the table."""
        about = f", {DISTURBANCES[self.disturbance].title}" if self.disturbance != "none" else ""
        return f"{TITLES[self.dataset][0]}{about}"


SIMULATED = {  # preset, and fields that differ from it
    "los_sync": ("los_sync", {}),
    "random": (
        "los_sync",
        {"geometry": {"placement": "random", "num_receivers_min": 5, "num_receivers_max": 8}, "max_receivers": 8},
    ),
    "nlos_sync": ("nlos_sync", {}),
    "websdr": ("websdr", {}),
    "iq_test": ("iq_test", {}),
    "uhf_mixed": ("uhf_mixed", {}),
}


def _locards(folder: Path, number: int) -> xr.Dataset:
    return hl.read_locards(folder / "locards" / f"set_{number}.csv", folder / "locards" / "sensors.csv")


def _dcf77(folder: Path) -> xr.Dataset:
    """Windows of 2 s of the recordings of 2020."""
    kiwi = folder / "kiwisdr_dcf77_2020"
    return hl.read_kiwi(sorted(kiwi.glob("*.wav")), kiwi / "receivers.csv", window_s=2.0, transmitter=DCF77_DEG)


REAL: dict[str, Callable[[Path], xr.Dataset]] = {  # functions from the folder of real measurements to a dataset
    **{f"locards_{number}": partial(_locards, number=number) for number in _LOCARDS_SETS},
    "dcf77_2020": _dcf77,
}
_AIRCRAFT = (
    "Messages of aircraft, each received by five GPS-disciplined sensors; the truth is their reported positions, known "
    "to 70 m along either axis, which coverage allows for and the bound does not."
)
TITLES = {  # what each dataset is called, and what it is
    "los_sync": (
        "`los_sync`",
        "The preset: seven receivers of 120 km, clocks with a standard deviation of 50 ns, clear paths.",
    ),
    "random": (
        "random geometry",
        "`los_sync` with five to eight receivers at random places, other ones in each scene.",
    ),
    "nlos_sync": ("`nlos_sync`", "The preset: 30 % of the links are late by 8 µs in the mean, with echoes and fading."),
    "websdr": ("`websdr`", "The preset: clocks run free, so that levels alone can locate."),
    "iq_test": (
        "`iq_test`",
        "The preset: as `los_sync`, with diffraction over a smooth Earth.",
    ),
    "uhf_mixed": ("`uhf_mixed`", "The preset: 432 MHz, mixed waveforms, echoes, fading and late links, without IQ."),
    **{f"locards_{number}": (f"LocaRDS, set {number}", _AIRCRAFT) for number in _LOCARDS_SETS},
    "dcf77_2020": (
        "DCF77, 2020",
        "Three KiwiSDRs recorded the transmitter at 77.5 kHz; windows of 2 s, ground waves. They share one geometry "
        "and its errors, so they are no independent trials: one delay is 9.5 µs late in all of them, so that the whole "
        "recording is at the edge of its 95 % ellipse, and windows scatter about that by 2 to 5 µs where 1.5 µs of "
        "noise is predicted, which puts a third of them beyond.",
    ),
}
_OF_FEW_LINKS = ("clock_2us", "clock_10us", "clock_60us", "misplaced_1km", "misplaced_5km")
ROWS = (
    *(Row(name, "none") for name in SIMULATED),
    *(Row("los_sync", disturbance) for disturbance in DISTURBANCES if disturbance != "none"),
    *(Row("random", disturbance) for disturbance in _OF_FEW_LINKS),
    *(Row(name, "none") for name in REAL),
)


def real_folder() -> Path | None:
    """Folder of the real measurements, None where there is none."""
    return Path(os.environ[_REAL]) if os.environ.get(_REAL) else None


def disturbed_dataset(row: Row, scenes: int) -> xr.Dataset:
    """Make a row's dataset, of so many scenes where it is simulated; real sets have as many as they have."""
    return DISTURBANCES[row.disturbance].disturb(_undisturbed(row.dataset, scenes))


@lru_cache(maxsize=1)
def _undisturbed(name: str, scenes: int) -> xr.Dataset:
    if name in SIMULATED:
        preset, fields = SIMULATED[name]
        return hl.generate(hl.preset(preset, num_samples=scenes, seed=SEED, **fields), progress=False)
    folder = real_folder()
    if folder is None:
        raise ValueError(f"{_REAL}: is not set; name the folder of the real measurements")
    return REAL[name](folder)


def bound_m(dataset: xr.Dataset) -> np.ndarray:
    """Cramér-Rao bound of each scene (S,), of the links that are not disturbed, from what is stated of them.

    Where links are late, it is that of a genie who is told which are, else that of normal errors.
    Of real ones, from the predicted standard deviations of their delays, for the SNR is not known; their links are
    taken for straight lines.
    """
    if "config" in dataset.attrs:
        with_signal = dataset.signal_present & ~dataset.get(DISTURBED, xr.zeros_like(dataset.signal_present))
        law = "genie" if delay_law.has_late_links(dataset.attrs) else "normal"
        return bounds.scene_crlb(dataset.assign(signal_present=with_signal), law).crlb_rmse.values
    receivers, transmitter = bounds.transmitter_frame(dataset)
    sigma_s = np.sqrt(dataset.toa_std_s.values**2 + bounds.delay_model_variance(dataset))
    covariance = bounds.crlb(
        np.where(dataset.heard.values[..., None], receivers, np.nan),
        transmitter,
        toa_sigma_s=sigma_s,
        altitude_sigma_m=None if dataset.attrs["propagation"] == "ground_wave" else altitude_prior(dataset)[1],
    )
    return np.sqrt(np.trace(covariance, axis1=1, axis2=2))
