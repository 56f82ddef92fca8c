"""Trained localizers among the methods: what they are given, what becomes of what they find, and how they are named."""

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from measured_delays import measured

import heimdall_lab as hl
from heimdall_lab.datasets import splits
from heimdall_lab.localization import leaderboard, learned, observations
from heimdall_lab.localization.leaderboard import leaderboard_text
from heimdall_lab.localization.learned import fixes, inputs
from heimdall_lab.signals import pairs

FACTOR = (2.0, 1.5, 0.5)  # km


@dataclass
class Fixed:
    """Finds the same east and north in every scene, and keeps what it was given."""

    position: tuple[float, float] = (3.0, -4.0)
    cholesky: tuple[float, float, float] = FACTOR
    name: str = "triangulation"
    num_parameters: int = 7
    inputs: tuple[str, ...] = ("position", "present")
    window: int | None = None
    max_receivers: int | None = None
    freedom: float = np.inf
    about: dict = field(default_factory=dict)
    given: list = field(default_factory=list)

    def __call__(self, arrays):
        self.given.append(arrays)
        count = len(arrays["present"])
        return np.tile(self.position, (count, 1)), np.tile(self.cholesky, (count, 1))


def test_positions_and_covariances_are_those_found(small_dataset):
    fixes = hl.locate(small_dataset, Fixed())
    assert fixes.attrs["method"] == "triangulation"
    np.testing.assert_allclose(fixes.east, 3e3, atol=1e-3)
    np.testing.assert_allclose(fixes.north, -4e3, atol=1e-3)
    factor = np.array([[2.0, 0.0], [1.5, 0.5]]) * 1e3
    np.testing.assert_allclose(fixes.covariance, np.tile(factor @ factor.T, (12, 1, 1)))


def test_scenes_come_in_batches_and_in_order(small_dataset, monkeypatch):
    predictor = Fixed(inputs=("features", "position", "present"))
    monkeypatch.setattr(fixes, "_BATCH", 5)
    hl.locate(small_dataset, predictor)
    assert [len(arrays["present"]) for arrays in predictor.given] == [5, 5, 2]
    expected = inputs.arrays(small_dataset.assign(pairs.pair_features(small_dataset)), predictor.inputs)
    for name in predictor.inputs:
        np.testing.assert_array_equal(np.concatenate([arrays[name] for arrays in predictor.given]), expected[name])


def test_iq_is_of_the_middle_of_the_window(small_dataset):
    predictor = Fixed(inputs=("iq",), window=100)
    hl.locate(small_dataset, predictor)
    first = (small_dataset.sizes["time"] - 100) // 2
    voltage = hl.iq(small_dataset).values[..., first : first + 100]
    np.testing.assert_allclose(predictor.given[0]["iq"][:, :, 0], voltage.real, rtol=1e-5)


@pytest.mark.parametrize(
    "failing",
    [{"position": (600.0, 0.0)}, {"cholesky": (600.0, 0.0, 1.0)}],
    ids=["out of reach", "unknown"],
)
def test_the_centroid_stands_in_for_failures(small_dataset, failing):
    fixes, centroid = hl.locate(small_dataset, Fixed(**failing)), hl.locate(small_dataset, "centroid")
    assert not fixes.converged.any()
    for name in ("latitude", "longitude", "covariance"):
        np.testing.assert_allclose(fixes[name], centroid[name])


def test_the_centroid_stands_in_where_there_is_no_number(small_dataset):
    class Failing(Fixed):
        def __call__(self, arrays):
            position, cholesky = super().__call__(arrays)
            position[3, 0], cholesky[5, 2] = np.nan, np.nan
            return position, cholesky

    fixes, centroid = hl.locate(small_dataset, Failing()), hl.locate(small_dataset, "centroid")
    for name in ("latitude", "longitude", "covariance"):
        np.testing.assert_allclose(fixes[name][[3, 5]], centroid[name][[3, 5]])
    assert not fixes.converged[[3, 5]].any()


def test_without_any_signal_there_is_no_fix(small_dataset):
    measured = pairs.pair_features(small_dataset)
    deaf = measured.assign(heard=measured.heard & (measured.sample != 3))
    found = hl.locate(small_dataset.assign(deaf), Fixed())
    assert np.flatnonzero(found.status == "silent").tolist() == [3]


def near(dataset, off_km):
    """A localizer that finds the first scene's transmitter, so many km off, and is sure of 1 km."""
    known = observations.from_dataset(dataset.assign(pairs.pair_features(dataset)))
    east, north = observations.tangent_plane(
        known, dataset.transmitter_latitude.values, dataset.transmitter_longitude.values
    )[0]
    return Fixed(position=(east / 1e3 + off_km, north / 1e3), cholesky=(1.0, 0.0, 1.0))


@pytest.mark.parametrize(("off_km", "status"), [(0.0, "ok"), (8.0, "misfit")])
def test_a_fix_that_is_not_where_the_delays_meet_is_said_to_be_none(small_dataset, off_km, status):
    scene = small_dataset.isel(sample=[0])
    assert hl.locate(scene, near(scene, off_km)).status.values.tolist() == [status]


def test_delays_that_contradict_each_other_are_no_learned_fix(small_dataset):
    scene = small_dataset.isel(sample=[0])
    measured = pairs.pair_features(scene)
    late = measured.assign(tdoa_s=measured.tdoa_s + 60e-6 * (measured.receiver == 2))
    assert hl.locate(scene.assign(late), near(scene, 0.0)).status.values.tolist() == ["link"]


@pytest.mark.parametrize(("sigma_km", "status"), [(1.0, "ambiguous"), (100.0, "ok")])
def test_a_fix_that_excludes_a_mirror_image_is_ambiguous(sigma_km, status):
    """Receivers on a meridian: delays are those of two places, and nothing else tells them apart."""
    latitude = np.array([44.5, 44.7, 44.95, 45.2, 45.5])
    receivers = np.stack([latitude, np.full(5, 8.0)], axis=-1)[None]
    dataset = measured(receivers, np.array([[45.05, 8.4]]), np.zeros((1, 5)))
    east, north = observations.tangent_plane(observations.from_dataset(dataset), np.array([45.05]), np.array([8.4]))[0]
    found = hl.locate(dataset, Fixed(position=(east / 1e3, north / 1e3), cholesky=(sigma_km, 0.0, sigma_km)))
    assert found.status.values.tolist() == [status]


@pytest.mark.parametrize(
    "changes",
    [
        {"clock_sigma_s": 1e-3},
        {"nlos_ratio": 0.3, "nlos_excess_mean_s": 2e-6},
        {"propagation": "ground_wave"},
        {"transmitter_altitude_m": 9000.0},
    ],
)
def test_scenes_unlike_those_of_the_training_are_no_fix(small_dataset, small, changes):
    """By clocks, late links, propagation and altitude, though the localizer is right; as it was trained it is a fix."""
    scene = small_dataset.isel(sample=[0])
    predictor = near(scene, 0.0)
    predictor.about["config"] = small.model_dump(mode="json")
    assert hl.locate(scene, predictor).converged.all()
    assert hl.locate(scene.assign_attrs(changes), predictor).status.values.tolist() == ["untrained"]


def test_the_law_of_a_learned_fix_stays_where_delays_meet_nowhere(small_dataset):
    """As with free clocks, where levels alone locate: nothing contradicts it, and its ellipses are its own."""
    measured = pairs.pair_features(small_dataset)
    loose = small_dataset.assign(measured).assign_attrs(clock_sigma_s=np.nan)
    found = hl.locate(loose, Fixed(freedom=5.0))
    assert found.converged.all()
    assert (found.freedom == 5.0).all()
    assert (found.checked == "no").all()


def test_a_network_many_times_the_size_of_the_training_is_no_fix(small_dataset):
    scene = small_dataset.isel(sample=[0])
    predictor = near(scene, 0.0)
    geometry = {"placement": "random", "extent_km": 20.0}
    predictor.about["config"] = hl.preset("los_sync", geometry=geometry, max_receivers=10).model_dump(mode="json")
    assert hl.locate(scene, predictor).status.values.tolist() == ["untrained"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"about": {"sample_rate_hz": 48e3}}, "sample_rate_hz: is 50000, and triangulation was trained at 48000"),
        ({"max_receivers": 6}, "receiver_present: 7 receivers are in one scene, and triangulation takes at most 6"),
        ({"inputs": ("iq",), "window": 5000}, "iq: has 1000 instants, and triangulation takes 5000"),
        ({"inputs": ("spectrogram",)}, "spectrogram: is not in the dataset"),
    ],
)
def test_datasets_that_do_not_fit_are_refused(small_dataset, settings, message):
    with pytest.raises(ValueError, match=message):
        hl.locate(small_dataset, Fixed(**settings))


def test_localizers_of_iq_need_iq(small_dataset):
    measured = pairs.pair_features(small_dataset)
    bare = small_dataset.drop_vars("iq").merge(measured)
    with pytest.raises(ValueError, match="iq: is not in the dataset"):
        hl.locate(bare, Fixed(inputs=("iq",), window=100))


def test_what_is_no_method_is_refused(small_dataset):
    with pytest.raises(
        ValueError, match=r"method: 'model\.pt' is unknown; choose one of centroid, .*, or an \.onnx file"
    ):
        hl.locate(small_dataset, "model.pt")
    with pytest.raises(ValueError, match=r"method: '.*model\.pt' is no ONNX file; export the model"):
        hl.locate(small_dataset, Path("model.pt"))
    with pytest.raises(ValueError, match="method: a int cannot locate"):
        hl.locate(small_dataset, 3)


def test_names_tell_methods_of_one_architecture_apart():
    paths = [Path("a/model.onnx"), "b/model.onnx", "b/other.onnx", "c/triangulation_small.onnx"]
    runs = [SimpleNamespace(folder=Path("runs/first")), Fixed(), Fixed()]
    predictors = [Fixed() for _ in range(7)]
    assert learned.labels([*paths, *runs], predictors) == [
        "triangulation (a)",
        "triangulation (b)",
        "triangulation (other)",
        "triangulation_small",
        "triangulation (first)",
        "triangulation (6)",
        "triangulation (7)",
    ]
    same = [
        Path("a/triangulation_small.onnx"),
        Path("b/triangulation_small.onnx"),
        Path("triangulation_big/model.onnx"),
    ]
    assert learned.labels(same, predictors[:3]) == [
        "triangulation_small (a)",
        "triangulation_small (b)",
        "triangulation_big",
    ]
    assert learned.labels([paths[0], runs[1]], [Fixed(), Fixed(name="iq_vggnet")]) == ["triangulation", "iq_vggnet"]


def test_the_leaderboard_has_learned_methods_with_their_weights(small_dataset, onnx_file, trained):
    run = SimpleNamespace(trained=trained)
    board = hl.compare(small_dataset, ["centroid", onnx_file, str(onnx_file), run, Fixed(name="other")])
    assert list(board.method.values) == ["centroid", "triangulation (small)", "triangulation", "other"]
    assert list(board.parameters.values) == [0, trained.num_parameters, trained.num_parameters, 7]
    np.testing.assert_allclose(board.error[1], board.error[2], atol=1)
    assert np.isfinite(leaderboard.table(board).query("by == 'all'").parameters).all()


def test_scenes_of_the_training_are_counted(small_dataset, small):
    split = splits.split_of(small.seed, small_dataset.sample.values)
    fitted = Fixed(about={"dataset_seed": small.seed})
    elsewhere = Fixed(name="tdoa_unrolled", about={"dataset_seed": small.seed + 1})
    board = hl.compare(small_dataset, ["centroid", fitted, elsewhere])
    assert list(board.seen.values) == [0, (split != "test").mean(), 0]
    text = leaderboard_text(board).splitlines()
    share = f"{100 * (split != 'test').mean():.2g} %"
    assert text[-1] == (
        f"Beware: triangulation was trained with or chosen by {share} of these samples; compare on the test split."
    )
    assert "Beware" not in "".join(text[:-1])
    tested = hl.compare(splits.select(small_dataset, "test"), [fitted])
    assert tested.seen.item() == 0
    assert "Beware" not in leaderboard_text(tested)


def test_what_does_not_fit_is_told_before_anything_is_located(small_dataset):
    assert learned.incompatibilities({"any": Fixed()}, small_dataset) == {}
    reasons = learned.incompatibilities({"any": Fixed(), "few": Fixed(max_receivers=6)}, small_dataset)
    assert list(reasons) == ["few"]
    assert "takes at most 6" in reasons["few"]
    bare = small_dataset.drop_vars("iq").merge(pairs.pair_features(small_dataset))
    reasons = learned.incompatibilities({"of_iq": Fixed(inputs=("iq",), window=100)}, bare)
    assert "iq: is not in the dataset" in reasons["of_iq"]


@pytest.mark.slow
@pytest.mark.parametrize("name", hl.pretrained())
def test_pretrained_localizers_do_better_than_the_centroid_on_receivers_that_they_never_saw(name):
    """Each on the scenario that it is named after."""
    model = learned.predictor(hl.pretrained()[name])
    scenario = name.removeprefix(f"{model.name}_")
    scenes = hl.generate(hl.preset(scenario, num_samples=60, seed=7), progress=False)
    assert model.about["dataset"] == scenario
    board = hl.compare(scenes, ["centroid", model])
    assert board.seen.values.tolist() == [0, 0]
    assert board.median_error[1] < board.median_error[0]
    assert board.coverage_95[1] > 0.8
