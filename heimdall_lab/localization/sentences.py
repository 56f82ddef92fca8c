"""What is said of fixes in plain sentences: where, whether it is a fix, how uncertain and by what, what would help.

All take one scene's label along ``sample``, the dataset as it was located, and the fixes of one method as
`estimators.locate` returns them.
"""

from typing import NamedTuple

import numpy as np
import xarray as xr

from heimdall_lab.core import geodesy
from heimdall_lab.core.text import delay_text, length_text, microseconds_text, position_text
from heimdall_lab.core.units import SPEED_OF_LIGHT
from heimdall_lab.datasets import schema
from heimdall_lab.datasets.recordings.propagation import mean_separation_m
from heimdall_lab.localization import altitude, ellipses, error_law, errors, stations
from heimdall_lab.localization.joint.refusals import calibration_sentence
from heimdall_lab.localization.observations import MAX_RANGE_M, STATUS
from heimdall_lab.localization.remedies import LEAST_GAIN, remedies
from heimdall_lab.signals.measurements import with_measurements

SHORT_STATUS = {  # of what is no fix, for legends
    "silent": "silent",
    "unobserved": "unobserved",
    "far": "too far",
    "misfit": "misfit",
    "link": "one bad link",
    "ambiguous": "ambiguous",
    "noise": "only noise",
    "clocks": "loose clocks",
    "uncalibrated": "uncalibrated",
    "repeating": "repeats itself",
    "carrier": "carrier",
    "untrained": "untrained",
}
CHECKED = {"yes": "checked", "weakly": "checked weakly", "no": "unchecked"}
JOINED = (  # of several windows of one recording
    "Windows of one recording have the errors of clocks, paths, positions and heights in common: "
    "joining them makes the noise smaller, and nothing else."
)
_PATHS = {
    "line_of_sight": "straight lines",
    "ground_wave": "geodesics of ground waves",
    "sky_wave": "single hops by the ionosphere",
}
_LEAST_SHARE = 0.05  # of the uncertainty, below which a cause of it is left out
_SAME_PLACE_M = 1.0


class Rival(NamedTuple):
    """Another place that fits as well."""

    latitude_deg: float
    longitude_deg: float
    distance_m: float  # from the fix

    def __str__(self) -> str:
        """Write the place and how far it is."""
        return f"{position_text(self.latitude_deg, self.longitude_deg)}, {length_text(self.distance_m)} away"


def fix_text(dataset: xr.Dataset, fixes: xr.Dataset, sample: int) -> str:
    """Say in words where the transmitter of one scene is, how sure that is, and by what, as paragraphs of Markdown."""
    fix = fixes.sel(sample=sample)
    error_m = float(errors.position_errors(dataset, fixes).error.sel(sample=sample))
    status, *uncertainty = (say(dataset, fixes, sample) for say in (status_sentence, budget_sentence, remedy_sentence))
    budget = " ".join(filter(None, (*uncertainty, _reference_sentence(dataset, sample))))
    off = f"**{length_text(error_m)}** from the true position"
    if str(fix.status.values) != "ok":
        off = f" That is {off}." if np.isfinite(error_m) else ""
        return f"**No fix**{status.removeprefix('No fix')}{off}\n\n{budget}"
    place = position_text(float(fix.latitude), float(fix.longitude))
    major, minor, azimuth_deg = ellipses.principal_axes(fix.covariance.values)
    half = np.sqrt(error_law.radius_squared(0.95, fix.freedom.values))
    axes = " × ".join(length_text(2 * float(half * axis)) for axis in (major, minor))
    text = (
        f"**{place}** by {fixes.attrs['method']}; 95 % ellipse {axes}, long axis {azimuth_deg:.0f}° from north to east"
    )
    return f"{text}{f'; {off}' if np.isfinite(error_m) else ''}.\n\n{status}\n\n{budget}"


def status_sentence(dataset: xr.Dataset, fixes: xr.Dataset, sample: int) -> str:
    """Say whether a method found the transmitter and how far that is checked, or why not and what its best guess is."""
    fix = fixes.sel(sample=sample)
    method, status = fixes.attrs["method"], str(fix.status.values)
    if status == "ok":
        return f"{method} found this place, {_check(fix)}."
    place = position_text(float(fix.latitude), float(fix.longitude))
    stands_in = _is_centroid(dataset.sel(sample=sample), fix)
    candidate = (
        f"the middle of the receivers, {place}, stands in for it" if stands_in else f"the best candidate is {place}"
    )
    return f"No fix by {method}: {_reason(dataset, fix, method, status)}; {candidate}."


def budget_sentence(dataset: xr.Dataset, fixes: xr.Dataset, sample: int) -> str:
    """Say how uncertain a fix is, by what, the largest first, and what is assumed of the height."""
    fix, scene = fixes.sel(sample=sample), dataset.sel(sample=[sample])
    if not _is_told(scene.isel(sample=0), fix):
        return "How far the transmitter is from there cannot be told."
    height = _height(scene, fix)
    text = f"Uncertainty {length_text(_spread_m(fix))}{'' if str(fix.status.values) == 'ok' else ' if that is right'}"
    contributions = fix.budget.to_series().sort_values(ascending=False)
    causes = [
        f"{str(cause).replace('_', ' ')} {length_text(value_m)}"
        for cause, value_m in contributions.items()
        if value_m > _LEAST_SHARE * np.sqrt((contributions**2).sum())
    ]
    return f"{text}: {', '.join(causes)}{height}." if causes else f"{text}, by the scatter of the receivers."


def paths_sentence(dataset: xr.Dataset) -> str:
    """Say what the paths of signals are taken for, and how well their delays are known."""
    frequency_hz, sigma_s = (float(dataset.attrs[name]) for name in ("centre_frequency_hz", "path_delay_sigma_s"))
    at = f" at {frequency_hz / 1e3:,.6g} kHz" if np.isfinite(frequency_hz) else ""
    known = f"known to {microseconds_text(sigma_s)}" if sigma_s > 0 else "known exactly"
    known = "not known" if np.isnan(sigma_s) else known
    return f"Paths{at} are taken for {_PATHS[dataset.attrs['propagation']]}, with delays {known}."


def clocks_sentence(dataset: xr.Dataset) -> str:
    """Say what recordings begin by, where that is no measured clock, and what it leaves of time differences.

    Empty where a dataset does not name what tells its time.
    """
    if "clock_source" not in dataset.attrs:
        return ""
    source = ", ".join(dict.fromkeys(np.atleast_1d(dataset.attrs["clock_source"]).tolist()))
    sigma_s = float(np.max(dataset.attrs["clock_sigma_s"]))
    path_m = sigma_s * SPEED_OF_LIGHT
    apart_m = mean_separation_m(*(dataset[f"receiver_{name}"].values for name in ("latitude", "longitude")))
    good_to = microseconds_text(sigma_s) if sigma_s < 1e-3 else f"{sigma_s * 1e3:,.3g} ms"
    said = f"Clocks ({source}) count as good to {good_to}, {length_text(path_m)} of path"
    if path_m < apart_m:
        return f"{said}."
    return f"{said}: more than the {length_text(apart_m)} between receivers, so time differences tell nothing here."


def solved_clocks_sentence(clocks: xr.Dataset, fixes: xr.Dataset | None = None) -> str:
    """Say how many clocks recordings tell, by what and how well, as `joint.clocks` has it, and what that is of fixes.

    Of fixes by ``tdoa_joint`` it is the share of their variance that the clocks make.
    """
    hears = clocks.component.values >= 0
    told = hears & clocks.observable.values
    references = int(clocks.references.sum())
    unknown = int(clocks.emissions.sum()) - references
    sources = [
        f"{count:,} {noun}{'s' * (count != 1)}"
        for count, noun in ((references, "reference"), (unknown, "unknown transmitter"))
        if count
    ]
    if not sources:
        return "Clocks: no emission is heard that would tell them."
    recordings = f" in {clocks.sizes['recording']:,} recordings" if clocks.sizes["recording"] > 1 else ""
    tell = "tells" if references + unknown == 1 else "tell"
    which = f"{told.sum():,} of {hears.sum():,} offsets of receivers"
    said = f"Clocks: {' and '.join(sources)}{recordings} {tell} {which}"
    if not told.any():
        return f"{said}."
    std_s = float(np.median(clocks.offset_std.values[told]))
    said += f", ± {f'{1e9 * std_s:,.0f} ns' if std_s < 1e-5 else delay_text(std_s)}"
    share = np.zeros(0) if fixes is None else _clocks_share(fixes)
    if not len(share):
        return f"{said}."
    whose = "this fix's variance" if len(share) == 1 else f"the variance of {len(share):,} fixes, in the median"
    return f"{said}; {100 * np.median(share):.0f} % of {whose}."


def _clocks_share(fixes: xr.Dataset) -> np.ndarray:
    """Share of clocks in the variance of each converged fix that has any."""
    square = fixes.budget.isel(sample=fixes.converged.values) ** 2
    total = square.sum("cause").values
    return np.asarray(square.sel({"cause": "clocks"}).values[total > 0] / total[total > 0])


def left_out_sentence(dataset: xr.Dataset) -> str:
    """Name the stations that are left out, and why; empty where there are none."""
    reasons = stations.left_out(dataset)
    return f"Left out: {'; '.join(f'{name}: {reason}' for name, reason in reasons.items())}." if reasons else ""


def references_sentence(dataset: xr.Dataset) -> str:
    """Say how many scenes have a position that is known beforehand; empty where there are none."""
    references, scenes = int(schema.references(dataset).sum()), dataset.sizes["sample"]
    if not references:
        return ""
    whole = "The one scene" if scenes == 1 else f"All {scenes:,} scenes"
    which = whole if references == scenes else f"{references:,} of {scenes:,} scenes"
    noun = "is a reference, whose position is" if references == 1 else "are references, whose positions are"
    without = "no error is given of it" if references == 1 else "no errors are given of them"
    return f"{which} {noun} known beforehand{f': {without}' if _has_truth(dataset) else ''}."


def noise_sentence(dataset: xr.Dataset) -> str:
    """Name the receivers whose noise cannot be told from the signal; empty where there are none, or nobody says."""
    if "noise_known" not in dataset:
        return ""
    unknown = (dataset.receiver_present & dataset.heard & ~dataset.noise_known).any("sample").values
    names = ", ".join(map(str, dataset.receiver_name.values[unknown]))
    return f"Noise cannot be told from the signal at {names}: the SNR there may be far off." if names else ""


def remedy_sentence(dataset: xr.Dataset, fixes: xr.Dataset, sample: int) -> str:
    """Say what would make the uncertainty of a fix smaller, and how much; empty where its causes are not known."""
    scene, fix = dataset.sel(sample=[sample]), fixes.sel(sample=sample)
    if not _is_told(scene.isel(sample=0), fix):
        return ""
    (remedy,) = remedies(with_measurements(scene), fixes.sel(sample=[sample]))
    if remedy is None:
        return ""
    if remedy.ratio > 1 - LEAST_GAIN:
        return (
            "No better clock, position or window at these receivers, no known altitude and no further receiver would "
            "make it smaller by more than a tenth."
        )
    change, remaining = _reduction(remedy.ratio), length_text(remedy.ratio * _spread_m(fix))
    return f"{remedy.words[0].upper()}{remedy.words[1:]} would {change}, to {remaining}."


def summary_sentence(dataset: xr.Dataset, fixes: xr.Dataset) -> str:
    """Say of how many scenes there are fixes, how far these are checked, and why there are none of the others."""
    status, checked = fixes.status.values, fixes.checked.values[fixes.status.values == "ok"]
    counts = {words: int((checked == code).sum()) for code, words in CHECKED.items()}
    how = ", ".join(f"{count:,} {words}" for words, count in counts.items() if count)
    assumed = ", assuming near the ground" if _is_assumed(dataset) else ""
    found = f"{len(checked):,} of {len(status):,} scenes have a fix{f' ({how})' if how else ''}{assumed}"
    missing = {reason: int((status == code).sum()) for code, reason in STATUS.items() if code != "ok"}
    return "; ".join([found, *(f"{count:,} none: {reason}" for reason, count in missing.items() if count)]) + "."


def rivals(fix: xr.Dataset) -> list[Rival]:
    """Other places that fit one scene as well, the best first."""
    latitude, longitude = (fix[f"rival_{name}"].values for name in ("latitude", "longitude"))
    distance_m, _ = geodesy.geodesic(fix.latitude.values, fix.longitude.values, latitude, longitude)
    places = zip(*(values.tolist() for values in (latitude, longitude, distance_m)), strict=True)
    return [Rival(*place) for place in places if np.isfinite(place[2])]


def suspect_name(dataset: xr.Dataset, fix: xr.Dataset) -> str | None:
    """Name of the receiver whose measurement agrees least with the others in one scene; None where it is not known."""
    suspect = int(fix.suspect)
    return str(dataset.receiver_name.values[suspect]) if suspect >= 0 else None


def _reference_sentence(dataset: xr.Dataset, sample: int) -> str:
    """Say that one scene is a reference; empty where it is none."""
    is_reference = schema.references(dataset.sel(sample=[sample]))[0]
    without = ", so no error is given" if _has_truth(dataset) else ""
    return f"It is a reference: its position is known beforehand{without}." if is_reference else ""


def _has_truth(dataset: xr.Dataset) -> bool:
    """Whether some true position is known."""
    return bool(np.isfinite(dataset.transmitter_latitude + dataset.transmitter_longitude).any())


def _check(fix: xr.Dataset) -> str:
    checked, moved_m = str(fix.checked.values), float(fix.undetected_m)
    if checked == "no":
        return f"{CHECKED['no']}: no measurement is left over that would tell a faulty one"
    if np.isfinite(moved_m):
        by = f"a fault of one receiver just below notice would move it by up to {length_text(moved_m)}"
    else:
        by = "a fault of one receiver would go unnoticed, however far it moves it"
    return f"{CHECKED[checked]}: {by}"


def _reason(dataset: xr.Dataset, fix: xr.Dataset, method: str, status: str) -> str:
    """Why it is no fix, naming what is known of it."""
    name, others = suspect_name(dataset, fix), rivals(fix)
    suspected = f"the {'level' if method == 'rss_ml' else 'delay'} of {name}"
    if status == "link" and name is not None:
        return f"{suspected} contradicts the others"
    if status == "uncalibrated":
        return calibration_sentence(dataset, int(fix.sample))
    if status == "misfit" and name is not None:
        return f"{STATUS[status]}, {suspected} most"
    if status == "ambiguous" and others:
        nearest = min(others, key=lambda rival: rival.distance_m)
        return (
            f"{STATUS[status]}, {nearest}"
            if len(others) == 1
            else f"{len(others)} other places fit as well, the nearest {nearest}"
        )
    return STATUS[status]


def _height(scene: xr.Dataset, fix: xr.Dataset) -> str:
    """Height of reflection, or that the transmitter's altitude is assumed."""
    if scene.attrs["propagation"] == "sky_wave":
        height_km, sigma_km = (float(fix[f"reflection_height{name}_m"]) / 1e3 for name in ("", "_sigma"))
        return f"; one hop by the ionosphere {height_km:,.0f} ± {sigma_km:,.0f} km high" if sigma_km > 0 else ""
    if not _is_assumed(scene):
        return ""
    (mean_m,), (sigma_m,) = altitude.altitude_prior(scene)
    mean, sigma = (f"{float(f'{value:.2g}'):,.0f}" for value in (mean_m, sigma_m))
    return f"; assuming near the ground ({mean} ± {sigma} m)".replace("-", "−")


def _reduction(ratio: float) -> str:
    """Say what a remedy does to an uncertainty that is so many times as large with it as without.

    >>> _reduction(0.75), _reduction(0.48), _reduction(0.3), _reduction(0.0004)
    ('make it 25 % smaller', 'halve it', 'make it 3.3 times smaller', 'make it 2,500 times smaller')
    """
    if round(ratio, 1) == 0.5:
        return "halve it"
    if ratio > 0.5:
        return f"make it {100 * (1 - ratio):.0f} % smaller"
    return f"make it {float(f'{1 / ratio:.2g}'):,.10g} times smaller"


def _spread_m(fix: xr.Dataset) -> float:
    """Predicted rms error of one scene's fix."""
    return float(np.sqrt(np.trace(fix.covariance.values)))


def _is_told(scene: xr.Dataset, fix: xr.Dataset) -> bool:
    """Whether it is known how uncertain one scene's fix is, or its best candidate."""
    is_within_reach = _spread_m(fix) < MAX_RANGE_M[scene.attrs["propagation"]]
    return str(fix.status.values) == "ok" or (is_within_reach and not _is_centroid(scene, fix))


def _is_assumed(dataset: xr.Dataset) -> bool:
    """Whether the altitude matters in some scene, and nobody has said it."""
    return dataset.attrs["propagation"] == "line_of_sight" and bool(altitude.is_near_ground(dataset).any())


def _is_centroid(scene: xr.Dataset, fix: xr.Dataset) -> bool:
    """Whether the middle of the receivers that hear the signal is in the place of one scene's fix."""
    present = scene.receiver_present.values
    hears = present & scene.get("heard", scene.get("signal_present", scene.receiver_present)).values
    hears = hears if hears.any() else present
    latitude, longitude = (scene[f"receiver_{name}"].values[hears] for name in ("latitude", "longitude"))
    middle = longitude[0] + geodesy.wrapped(longitude - longitude[0]).mean()
    distance_m, _ = geodesy.geodesic(fix.latitude.values, fix.longitude.values, latitude.mean(), middle)
    return bool(distance_m < _SAME_PLACE_M)
