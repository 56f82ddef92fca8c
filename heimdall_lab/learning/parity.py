"""Comparison of two programs of one localizer, such as PyTorch and ONNX, on random scenes."""

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from heimdall_lab.core.arrays import Array
from heimdall_lab.localization.learned.inputs import FEATURES

Predictor = Callable[[Mapping[str, Array]], tuple[Array, Array]]

_RADIUS_KM = 40.0  # standard deviation of positions along either axis
_ABSENT = 0.2  # share of receivers that are padding
_SILENT = 0.1  # share of present receivers that do not hear the signal
_NOISE_KM = 0.3
_MIN_SCALE_KM = 1.0  # smallest divisor of differences


def random_scenes(
    names: Iterable[str],
    scenes: int,
    receivers: int,
    *,
    seed: int,
    window: int | None = None,
    max_receivers: int | None = None,
    features: tuple[Array, Array] = (0.0, 1.0),
) -> dict[str, Array]:
    """Draw arrays as `inputs.arrays` gives them: time differences fit the positions, all else is noise.

    ``window`` is the number of instants of ``iq``, ``features`` the mean and deviation of the features, (F,) each;
    receivers beyond ``max_receivers`` are padding.
    """
    rng = np.random.Generator(np.random.Philox(seed))
    shape = (scenes, receivers)
    present = rng.random(shape) >= _ABSENT
    present[:, 0] = True
    present[:, max_receivers or receivers :] = False
    position = rng.normal(0, _RADIUS_KM, (*shape, 2))
    position -= np.mean(position, axis=1, where=present[..., None], keepdims=True)
    mean, deviation = features
    made = {
        "present": present,
        "position": position,
        "features": mean + deviation * rng.normal(size=(*shape, len(FEATURES))),
        "spectrogram": rng.normal(-130, 15, (*shape, 128, 32)),
        "iq": 1e-5 * rng.lognormal(size=(*shape, 1, 1)) * rng.normal(size=(*shape, 2, window or 1)),
    }
    for name, values in _link_features(rng, position, present).items():
        made["features"][..., FEATURES.index(name)] = values
    absent = {name: ~present.reshape(*shape, *[1] * (values.ndim - 2)) for name, values in made.items()}
    return {
        name: present if name == "present" else np.where(absent[name], 0, made[name]).astype(np.float32)
        for name in names
    }


def largest_difference(first: Predictor, second: Predictor, batches: Iterable[Mapping[str, Array]]) -> float:
    """Return the largest difference of positions and factors of two programs; NaN where either is NaN.

    It is divided by the larger of the network's size, the root mean square distance of its receivers from their
    centroid, and the position's distance from there.
    """
    return float(np.max([_difference(first, second, batch) for batch in batches]))


def _link_features(rng: np.random.Generator, position: Array, present: Array) -> dict[str, Array]:
    """Measurements of the links to one transmitter of each scene, (S, R) each."""
    heard = present & (rng.random(present.shape) >= _SILENT)
    reference = np.arange(present.shape[1]) == heard.argmax(axis=1)[:, None]
    transmitter = rng.normal(0, _RADIUS_KM, (len(present), 1, 2))
    range_km = np.linalg.norm(position - transmitter, axis=-1) + rng.normal(0, _NOISE_KM, present.shape)
    log_sigma = np.log(_NOISE_KM) + rng.normal(0, 0.5, present.shape)
    return {
        "heard": heard,
        "reference": reference,
        "range_difference_km": np.where(heard, range_km - range_km.sum(axis=1, where=reference, keepdims=True), 0.0),
        "log_sigma": log_sigma,
        "log_sigma_on_time": log_sigma - rng.random(present.shape),
        "nlos_ratio": np.full(present.shape, rng.random()),
        "nlos_excess_km": np.full(present.shape, rng.random()),
    }


def _difference(first: Predictor, second: Predictor, batch: Mapping[str, Array]) -> float:
    (position, cholesky), (other_position, other_cholesky) = first(batch), second(batch)
    square = (batch["position"].astype(np.float64) ** 2).sum(axis=-1)
    size = np.sqrt(square.sum(axis=-1) / np.maximum(batch["present"].sum(axis=-1), 1))
    scale = np.maximum.reduce([size, np.linalg.norm(position, axis=-1), np.full(len(size), _MIN_SCALE_KM)])
    difference = np.concatenate([position - other_position, cholesky - other_cholesky], axis=-1)
    return float(np.max(np.abs(difference) / scale[:, None]))
