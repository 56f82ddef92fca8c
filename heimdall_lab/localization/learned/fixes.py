"""Fixes of trained localizers, from files or in memory, as the classical estimators give them."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import xarray as xr

from heimdall_lab.core import geodesy
from heimdall_lab.core.arrays import Array, batch_slices
from heimdall_lab.core.config import Config
from heimdall_lab.core.text import quoted
from heimdall_lab.core.units import SPEED_OF_LIGHT
from heimdall_lab.datasets import schema, splits
from heimdall_lab.localization import baselines, error_law, information, integrity, observations, tdoa
from heimdall_lab.localization.altitude import altitude_prior
from heimdall_lab.localization.integrity import Evidence
from heimdall_lab.localization.learned import inputs, onnx_model
from heimdall_lab.localization.observations import Fix, Observations
from heimdall_lab.signals.measurements import with_measurements

SUFFIX = ".onnx"  # tells a path from the name of a method

_DEFAULT_STEM = "model"  # file name without ending in the folder of every run

_SIMILAR = 3.0  # factor up to which clocks, late links and extents are like those of a training
_SIMILAR_ALTITUDE_M = 1000.0  # beyond those of a training, up to which altitudes are like them

_BATCH = 256  # scenes whose arrays are in memory at a time
_KM2 = 1e6  # m²
_LEAST_FACTOR_KM = 1e-7  # of a Cholesky factor on its diagonal: networks here give more
_LEAST_RATIO = 1e-6  # of the last to the one beside it, so that numbers can tell the covariance from a singular one
_UNBOUNDED_KM = (1e6, 0.0, 1e6)


class Predictor(Protocol):
    """A trained localizer: `onnx_model.OnnxLocalizer`, or `learning.trained.Trained`."""

    @property
    def name(self) -> str:
        """Name in leaderboards."""

    @property
    def num_parameters(self) -> int:
        """Number of weights."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Arrays of `inputs.ARRAYS` that it takes."""

    @property
    def window(self) -> int | None:
        """Instants of IQ that it takes; None if it takes no IQ."""

    @property
    def max_receivers(self) -> int | None:
        """Most receivers of a scene that it can tell apart; None if there is no limit."""

    @property
    def freedom(self) -> float:
        """Degrees of freedom of the law of its errors (`error_law`)."""

    @property
    def about(self) -> dict[str, Any]:
        """What it was trained on."""

    def __call__(self, arrays: Mapping[str, Array]) -> tuple[Array, Array]:
        """Locate scenes: positions (S, 2) km and Cholesky factors (S, 3) km."""


class HasTrained(Protocol):
    """An object with a trained localizer, such as the result of a training."""

    @property
    def trained(self) -> Predictor:
        """The localizer."""


def predictor(method: str | Path | Predictor | HasTrained) -> Predictor:
    """Open a trained localizer, or take it from an object that has one.

    Parameters
    ----------
    method : path, predictor, or what holds one
        Paths are of ONNX files.

    Raises
    ------
    ValueError
        If it is none of these.
    FileNotFoundError
        If there is no such file.
    """
    if isinstance(method, str | Path):
        if not is_path(method):
            named = quoted(Path(method))
            raise ValueError(f"method: {named} is no ONNX file; export the model to a file that ends in .onnx")
        return onnx_model.open_model(method)
    found: Any = getattr(method, "trained", method)
    if not callable(found) or not all(hasattr(found, name) for name in ("name", "inputs", "about")):
        kind = type(method).__name__
        raise ValueError(f"method: a {kind} cannot locate; give a name, the path of an ONNX file or a trained model")
    return found


def is_path(method: Any) -> bool:
    """Tell the path of a model from the name of a method."""
    return isinstance(method, str | Path) and Path(method).suffix == SUFFIX


def pretrained() -> dict[str, Path]:
    """Name the trained localizers that come with this package, and the ONNX file of each.

    Returns
    -------
    dict of str to Path
        In alphabetical order; a name is that of the architecture and of the preset that it was trained on.

    Examples
    --------
    >>> all(path.stem == name for name, path in pretrained().items())
    True
    """
    installed = Path(str(resources.files("heimdall_lab") / "pretrained"))
    in_source_tree = Path(__file__).parents[3] / "data" / "models"
    folder = installed if installed.is_dir() else in_source_tree
    return {path.stem: path for path in sorted(folder.glob(f"*{SUFFIX}"))}


def incompatibilities(predictors: Mapping[str, Predictor], dataset: xr.Dataset) -> dict[str, str]:
    """Reasons why localizers cannot locate in a dataset, the messages of `arrays`, by their names; of others none."""
    dataset = dataset.assign(receiver_present=dataset["receiver_present"].compute())
    scene = dataset.isel(sample=slice(1)).load()
    scene.encoding = {}  # of no folder, in which more would be measured, and kept
    with suppress(ValueError):  # which `arrays` raises again
        scene = with_measurements(scene)
    reasons = {}
    for name, predictor in predictors.items():
        try:
            _check(predictor, dataset)
            arrays(predictor, scene)
        except ValueError as error:
            reasons[name] = str(error)
    return reasons


def labels(methods: Sequence[Any], predictors: Sequence[Predictor]) -> list[str]:
    """Name trained localizers by their architecture, or by a file whose name begins with that and an underscore.

    Where several share a name, their file or folder is added. A file that is named as training names every model is
    called by its folder.

    Parameters
    ----------
    methods : sequence
        As `predictor` takes them.
    predictors : sequence of Predictor
        What it made of each.

    Returns
    -------
    list of str
        All different.
    """
    candidates = [
        _label_candidates(*each) for each in zip(methods, predictors, range(1, 1 + len(predictors)), strict=True)
    ]
    chosen = [names[0] for names in candidates]
    for step in range(1, len(candidates[0]) if candidates else 0):
        chosen = [
            names[step] if chosen.count(name) > 1 else name for names, name in zip(candidates, chosen, strict=True)
        ]
    return chosen


def share_in_training(predictor: Predictor, dataset: xr.Dataset) -> float:
    """Share of a dataset's scenes that the localizer was trained or validated on: errors on these are biased.

    Scenes are identified by the dataset's seed and their number, or that of their recording; what was received has
    none. References are left out, as of training and of every error statistic; 0 where there is nothing else.
    """
    seed = dataset.attrs.get("seed")
    if seed is None or predictor.about.get("dataset_seed") != int(seed):
        return 0.0
    numbers = splits.numbers(dataset)[~schema.references(dataset)]
    return float((splits.split_of(int(seed), numbers) != "test").mean()) if len(numbers) else 0.0


def arrays(predictor: Predictor, dataset: xr.Dataset) -> dict[str, Array]:
    """Make the inputs of a localizer; of IQ, the middle of the window.

    Parameters
    ----------
    predictor : Predictor
    dataset : xr.Dataset
        Of the contract; truth variables are not read.

    Returns
    -------
    dict of str to array
        As `inputs.arrays` gives them, ``present`` among them.

    Raises
    ------
    ValueError
        If the dataset lacks what the localizer takes, or has another sample rate or more receivers than it can take.
    """
    _check(predictor, dataset)
    window = _window(predictor, dataset)
    return inputs.arrays(with_measurements(dataset), {*predictor.inputs, "present"}, window)


def fix(predictor: Predictor, known: Observations, dataset: xr.Dataset) -> tuple[Fix, Evidence]:
    """Locate every scene of a dataset.

    A fix is a failure where no receiver hears the signal, where its distance from the receivers or its standard
    deviation exceeds `observations.MAX_RANGE_M`, where the scene is unlike those of the training, and where the delays
    contradict it, or each other, or meet as well at another place that it excludes.

    Parameters
    ----------
    predictor : Predictor
    known : Observations
        Of the dataset.
    dataset : xr.Dataset
        Of the contract, with what was measured of its signals; truth variables are not read.

    Raises
    ------
    ValueError
        As `arrays` does.
    """
    _check(predictor, dataset)
    names, window = {*predictor.inputs, "present"}, _window(predictor, dataset)
    parts = [
        predictor(inputs.arrays(dataset.isel(sample=rows), names, window))
        for rows in batch_slices(dataset.sizes["sample"], _BATCH)
    ]
    found_at, factor = (np.concatenate([part[of] for part in parts]) for of in (0, 1))
    position, cholesky = _usable(predictor.name, found_at, factor, known.heard.any(axis=1))
    covariance = _covariance(cholesky)
    spread_m = np.sqrt(np.trace(covariance, axis1=1, axis2=2))
    reach_m = np.maximum(np.linalg.norm(position, axis=1) * 1e3, spread_m)
    silent, far = ~known.heard.any(axis=1), ~(reach_m < observations.MAX_RANGE_M[known.propagation])
    plane = np.where((silent | far)[:, None], 0.0, position) * 1e3
    latitude, longitude = (degrees[:, 0] for degrees in observations.from_tangent_plane(known, plane[:, None]))
    delays_alone, evidence = tdoa.tdoa_ls(known)
    excluded = _excludes(latitude, longitude, covariance, predictor.freedom, delays_alone)
    reasons = {
        "silent": silent,
        "far": far,
        "untrained": unlike_training(predictor, dataset),
        "misfit": delays_alone.converged & excluded[:, 0] & (not evidence.expects_late),
        "ambiguous": (delays_alone.status == "ambiguous") & excluded.any(axis=1),
    }
    status = np.select(list(reasons.values()), list(reasons), "ok")
    fix = baselines.fix_without_rivals(known, latitude, longitude, covariance, status)
    fix = baselines.centroid_where(silent | far, fix, known)
    # Delays that meet nowhere cannot contradict each other, nor a fix that the receivers' middle stands in for.
    meeting = ~(silent | far | np.isin(delays_alone.status, integrity.STAND_IN))
    return fix, evidence._replace(
        used=evidence.used & meeting[:, None],
        has_own_covariance=True,
        has_own_sensitivity=True,
        knows_height=True,
        least_scale=1.0,
    )


def _usable(name: str, position: Array, cholesky: Array, audible: Array) -> tuple[Array, Array]:
    """Positions (S, 2) km and factors (S, 3) km, the latter beyond any range where there is no position or covariance.

    Raises
    ------
    ValueError
        If that is so in all scenes in which a signal is heard (S,).
    """
    first, between, last = cholesky.T
    is_usable = np.isfinite(position).all(axis=1) & np.isfinite(cholesky).all(axis=1)
    is_usable &= (first >= _LEAST_FACTOR_KM) & (last >= np.maximum(_LEAST_FACTOR_KM, _LEAST_RATIO * np.abs(between)))
    if audible.any() and not is_usable[audible].any():
        raise ValueError(
            f"{name}: gives no finite position with a covariance that can be inverted in any of {audible.sum()} "
            "scenes; train it again"
        )
    return np.where(is_usable[:, None], position, 0.0), np.where(is_usable[:, None], cholesky, _UNBOUNDED_KM)


def _excludes(latitude: Array, longitude: Array, covariance: Array, freedom: float, delays_alone: Fix) -> Array:
    """Whether positions (S,) are further from places where delays meet than both uncertainties allow, (S, K) bool."""
    best = np.stack([delays_alone.latitude_deg, delays_alone.longitude_deg], axis=-1)[:, None]
    places = np.concatenate([best, delays_alone.rivals], axis=1)
    distance, azimuth_deg = geodesy.geodesic(places[..., 0], places[..., 1], latitude[:, None], longitude[:, None])
    direction = np.radians(azimuth_deg)
    apart = distance[..., None] * np.stack([np.sin(direction), np.cos(direction)], axis=-1)
    both = information.inverse(covariance + delays_alone.covariance)
    squared = np.einsum("ski,sij,skj->sk", apart, both, apart)
    limit = error_law.radius_squared(1 - integrity.FALSE_ALARM, freedom)
    return np.isfinite(places).all(axis=-1) & (np.nan_to_num(squared, nan=np.inf) > limit)


def unlike_training(predictor: Predictor, dataset: xr.Dataset) -> Array:
    """Whether each scene is unlike those that a localizer learned from, (S,) bool.

    By what is known without any signal: propagation, clocks, late links, altitude, and how large the network is. It
    takes these for those of its training wherever it is used. And by delays that are worth nothing, as of carriers,
    where it takes delays.
    """
    scenes = dataset.sizes["sample"]
    if predictor.about.get("config") is None:
        return np.zeros(scenes, dtype=bool)
    config, known = Config.model_validate(predictor.about["config"]), dataset.attrs
    late_s = known["nlos_ratio"] * known["nlos_excess_mean_s"]
    learned_late_s = config.channel.nlos_ratio * config.channel.nlos_excess_mean_s
    alike = (
        known["propagation"] == "line_of_sight"
        and _similar(np.max(known["clock_sigma_s"]), config.channel.clock_sigma_s)
        and (late_s == learned_late_s or _similar(late_s, learned_late_s))
    )
    low_m, high_m = (getattr(config.geometry, f"transmitter_altitude_{end}_m") for end in ("min", "max"))
    mean_m, sigma_m = altitude_prior(dataset)
    beyond_m = np.maximum(low_m - mean_m, mean_m - high_m) + sigma_m
    too_high = beyond_m > _SIMILAR_ALTITUDE_M
    reach_m = _reach_m(*(dataset[f"receiver_{name}"].values for name in ("latitude", "longitude")))
    too_large = reach_m > _SIMILAR * _learned_reach_m(config)
    heard_only = dataset["heard"].values & np.isnan(dataset["toa_std_s"].values)
    if "rival_delay_s" in dataset and np.max(known["clock_sigma_s"]) * SPEED_OF_LIGHT > _learned_reach_m(config):
        heard_only &= np.isnan(dataset["rival_delay_s"].values)  # with such clocks, no delay has said anything
    unlike: Array = too_high | too_large | heard_only.any(axis=1) & ("features" in predictor.inputs)
    return unlike if alike else np.ones(scenes, dtype=bool)


def _similar(value: float, learned: float) -> bool:
    """Whether a positive number is within a factor _SIMILAR of another."""
    return learned / _SIMILAR <= value <= learned * _SIMILAR


def _reach_m(latitude_deg: Array, longitude_deg: Array) -> Array:
    """Distance of the outermost of the receivers (..., R) from the middle of all, (...)."""
    middle = geodesy.tangent_plane_origin(latitude_deg, longitude_deg)
    distance_m, _ = geodesy.geodesic(middle[0][..., None], middle[1][..., None], latitude_deg, longitude_deg)
    reach_m: Array = np.nanmax(distance_m, axis=-1)
    return reach_m


def _learned_reach_m(config: Config) -> float:
    """The same, of the networks of a training at the most."""
    geometry = config.geometry
    if geometry.placement != "fixed":
        return geometry.extent_km * 1e3 / np.sqrt(2)
    degrees = np.array([(each.latitude_deg, each.longitude_deg) for each in geometry.receivers])
    return float(_reach_m(*degrees.T))


def _label_candidates(method: Any, predictor: Predictor, number: int) -> list[str]:
    """Candidate names, each more specific than the one before."""
    name, place = predictor.name, method if isinstance(method, str | Path) else getattr(method, "folder", None)
    if place is None:
        return [name, name, name, f"{name} ({number})"]
    path = Path(place).with_suffix("") if is_path(place) else Path(place)
    parts = (path.parent if path.name == _DEFAULT_STEM else path).parts[-2:]
    if is_path(place) and parts and parts[-1].startswith(f"{name}_"):
        name, parts = parts[-1], parts[:-1]
    last, both = (f"{name} ({text})" if text else name for text in ("".join(parts[-1:]), "/".join(parts)))
    return [name, last, both, f"{name} ({number})"]


def _covariance(cholesky: Array) -> Array:
    """Covariances (S, 2, 2) m² of factors (S, 3) km."""
    first, between, last = cholesky.T
    factor = np.stack([first, np.zeros_like(first), between, last], axis=-1).reshape(-1, 2, 2)
    return factor @ factor.transpose(0, 2, 1) * _KM2


def _window(predictor: Predictor, dataset: xr.Dataset) -> slice | None:
    """Instants in the middle of the IQ."""
    if predictor.window is None or "iq" not in dataset:
        return None
    spare = dataset.sizes["time"] - predictor.window
    if spare < 0:
        raise ValueError(
            f"iq: has {dataset.sizes['time']} instants, and {predictor.name} takes {predictor.window}; "
            "give longer recordings"
        )
    return slice(spare // 2, spare // 2 + predictor.window)


def _check(predictor: Predictor, dataset: xr.Dataset) -> None:
    trained_hz, rate_hz = predictor.about.get("sample_rate_hz"), dataset.attrs["sample_rate_hz"]
    if trained_hz is not None and not np.isclose(rate_hz, trained_hz, rtol=1e-6):
        raise ValueError(
            f"sample_rate_hz: is {rate_hz:g}, and {predictor.name} was trained at {trained_hz:g}; "
            "resample the recordings, or train a model at their rate"
        )
    most = int(dataset["receiver_present"].sum("receiver").max())
    if predictor.max_receivers is not None and most > predictor.max_receivers:
        raise ValueError(
            f"receiver_present: {most} receivers are in one scene, and {predictor.name} takes at most "
            f"{predictor.max_receivers}; leave some out, or train it with a larger max_receivers"
        )
