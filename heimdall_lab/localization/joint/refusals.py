"""Why receivers without common time cannot calibrate themselves, in words, and what would help."""

import math

import numpy as np
import xarray as xr

from heimdall_lab.datasets import schema
from heimdall_lab.localization.joint.observability import PLACE_UNKNOWNS, components
from heimdall_lab.signals.measurements import with_measurements


def calibration_sentence(dataset: xr.Dataset, sample: int) -> str:
    """Say of the recording of one scene, by its label, why its receivers are not calibrated; no capital, no full stop.

    It is for scenes of the status ``uncalibrated``.
    """
    numbers = dataset["recording"].values if "recording" in dataset else dataset["sample"].values
    position = int(np.flatnonzero(dataset["sample"].values == sample)[0])
    rows = np.flatnonzero(numbers == numbers[position])
    recording = with_measurements(dataset.isel(sample=rows))
    used = recording.heard.values & np.isfinite((recording.tdoa_s + recording.toa_std_s).values)  # (S, R)
    component = components((used.T.astype(int) @ used)[None])[0]
    scene = int(np.flatnonzero(rows == position)[0])
    if not used[scene].any():
        return "no delay of this emission is known"
    member = component == component[used[scene].argmax()]
    heard = (used & member).sum(axis=1) > 0
    references = int((heard & schema.references(recording)).sum())
    others = int(((component >= 0) & ~member).sum())
    apart = f", and share no emission with the {others} others" if others else ""
    return _reason(int(member.sum()), int(heard.sum()), references, apart)


def _reason(receivers: int, emissions: int, references: int, apart: str) -> str:
    """Say why so many receivers that share emissions cannot be compared.

    >>> _reason(5, 2, 0, "")
    '5 receivers cannot calibrate themselves by 2 emissions; record 3 or more, or name a reference'
    >>> _reason(4, 9, 1, "")
    '4 receivers cannot calibrate themselves by 1 reference, which not all of them hear; name one that they hear'
    """
    cannot = f"{receivers} receiver{'s' * (receivers != 1)} cannot calibrate themselves"
    if references:
        which = "1 reference, which" if references == 1 else f"{references} references, which"
        return f"{cannot} by {which} not all of them hear{apart}; name one that they hear"
    if receivers <= PLACE_UNKNOWNS:
        return f"{cannot}{apart}; name a reference"
    by = f" by {emissions} emission{'s' * (emissions != 1)}"
    # S (R − 3) delays more than places and times need are to be more than R − 1 offsets.
    needed = math.ceil(receivers / (receivers - PLACE_UNKNOWNS))
    if emissions < needed:
        return f"{cannot}{by}{apart}; record {needed} or more, or name a reference"
    return f"{cannot}{by}, of which too few are heard by enough of them{apart}; record more, or name a reference"
