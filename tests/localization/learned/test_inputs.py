"""What learned localizers see of a scene, against what it was made of."""

import numpy as np
import pytest

import heimdall_lab as hl
from heimdall_lab.datasets import schema
from heimdall_lab.localization import observations
from heimdall_lab.localization.learned import inputs
from heimdall_lab.signals import pairs


@pytest.fixture(scope="module")
def padded():
    """Scenes of five to seven receivers and slots for nine, as `inputs` wants them for every kind of array."""
    geometry = {"placement": "random", "num_receivers_min": 5, "num_receivers_max": 7}
    config = hl.preset(
        "los_sync", num_samples=6, seed=4, max_receivers=9, geometry=geometry, signal={"duration_s": 0.02}
    )
    dataset = hl.generate(config, progress=False)
    return dataset.merge(hl.features(dataset)[["spectrogram"]])


@pytest.fixture(scope="module")
def measured(padded):
    return pairs.pair_features(padded)


@pytest.fixture(scope="module")
def made(padded, measured):
    return inputs.arrays(padded.assign(measured), inputs.ARRAYS)


def test_shapes_and_types(padded, made):
    samples, receivers = padded.sizes["sample"], padded.sizes["receiver"]
    shapes = {
        "iq": (2, padded.sizes["time"]),
        "features": (len(inputs.FEATURES),),
        "spectrogram": (128, 32),
        "position": (2,),
        "present": (),
    }
    assert {name: array.shape for name, array in made.items()} == {
        name: (samples, receivers, *rest) for name, rest in shapes.items()
    }
    assert {name: str(array.dtype) for name, array in made.items()} == {
        name: "bool" if name == "present" else "float32" for name in shapes
    }


def test_features_have_names_of_their_own():
    assert len(set(inputs.FEATURES)) == len(inputs.FEATURES)
    assert len(inputs.FEATURES) > len(schema.FEATURES) * len(schema.STATISTICS)


def test_nothing_is_where_no_receiver_is_and_all_is_finite(padded, made):
    absent = ~padded.receiver_present.values
    assert absent.any()
    for array in made.values():
        assert np.isfinite(array).all()
        assert (array[absent] == 0).all()
        assert (array[~absent] != 0).any()


def test_positions_are_those_of_the_receivers(padded, measured, made):
    """Through the inverse of the plane at each one's altitude, to a centimetre: single precision of kilometres."""
    known = observations.from_dataset(padded.assign(measured))
    for number in range(padded.sizes["receiver"]):
        level = known._replace(transmitter_altitude_m=known.altitude_m[:, number])
        plane = made["position"][:, [number]].astype(float) * 1e3
        latitude, longitude = observations.from_tangent_plane(level, plane)
        present = padded.receiver_present.values[:, number]
        np.testing.assert_allclose(latitude[present, 0], known.latitude_deg[present, number], atol=1e-7)
        np.testing.assert_allclose(longitude[present, 0], known.longitude_deg[present, number], atol=1e-7)


def test_target_is_the_true_position(padded, measured):
    """Through the inverse of the plane, at the altitude that estimators assume."""
    plane = inputs.target(padded.assign(measured))
    assert plane.dtype == np.float32
    latitude, longitude = observations.from_tangent_plane(
        observations.from_dataset(padded.assign(measured)), plane[:, None].astype(float) * 1e3
    )
    np.testing.assert_allclose(latitude[:, 0], padded.transmitter_latitude, atol=1e-7)
    np.testing.assert_allclose(longitude[:, 0], padded.transmitter_longitude, atol=1e-7)


def test_target_of_unknown_transmitters_is_nan(padded, measured):
    unknown = padded.assign(transmitter_latitude=padded.transmitter_latitude * np.nan)
    assert np.isnan(inputs.target(unknown.assign(measured))).all()


def test_truth_is_not_seen(padded, measured, made):
    """All that only the simulator knows is NaN or False here, and nothing changes."""
    links = ["propagation_delay", "excess_delay", "clock_offset", "frequency_offset", "received_power", "snr", "fading"]
    blind = padded.assign({name: padded[name] * np.nan for name in [*links, "transmitter_power", "crlb_rmse"]})
    blind = blind.assign({name: padded[name] * np.nan for name in ("transmitter_latitude", "transmitter_longitude")})
    blind = blind.assign({name: padded[name] & False for name in ("signal_present", "line_of_sight")})
    for name, array in inputs.arrays(blind.assign(measured), inputs.ARRAYS).items():
        np.testing.assert_array_equal(array, made[name])


def test_receivers_in_another_order_are_the_same_receivers(padded, made):
    order = [3, 1, 8, 0, 6, 2, 7, 5, 4]
    turned = padded.isel(receiver=order)
    for name, array in inputs.arrays(turned.assign(pairs.pair_features(turned)), inputs.ARRAYS).items():
        np.testing.assert_allclose(array, made[name][:, order], rtol=2e-5, atol=2e-5, err_msg=name)


def test_windows_are_the_same_instants_of_every_receiver(padded, measured, made):
    window = slice(200, 456)
    cut = inputs.arrays(padded.assign(measured), ["iq"], window)["iq"]
    np.testing.assert_array_equal(cut, made["iq"][..., window])


def test_iq_is_that_of_the_dataset(padded, made):
    expected = hl.iq(padded).values
    present = padded.receiver_present.values
    np.testing.assert_allclose((made["iq"][:, :, 0] + 1j * made["iq"][:, :, 1])[present], expected[present], rtol=1e-6)


def test_features_are_measured_where_they_are_not_stored(padded, measured, made):
    bare = padded.drop_vars("features")
    assert "features" in padded
    np.testing.assert_allclose(
        inputs.arrays(bare.assign(measured), ["features"])["features"], made["features"], rtol=1e-5, atol=1e-5
    )


def test_features_of_links_are_what_was_measured(padded, measured, made):
    of = {name: made["features"][..., number] for number, name in enumerate(inputs.FEATURES)}
    present, heard = padded.receiver_present.values, measured.heard.values
    np.testing.assert_array_equal(of["heard"], heard & present)
    assert (of["reference"].argmax(axis=1) == measured.reference_receiver.values).all()
    assert (of["reference"].sum(axis=1) == 1).all()
    difference_km = measured.tdoa_s.values * 299_792.458
    np.testing.assert_allclose(of["range_difference_km"][heard], difference_km[heard], rtol=1e-6)
    assert (of["level_db"] * heard).sum(axis=1) == pytest.approx(0, abs=1e-3)
    sigma_km = np.hypot(measured.toa_std_s, padded.attrs["clock_sigma_s"]).values * 299_792.458
    assert (of["log_sigma"][heard] >= np.log(np.maximum(sigma_km, 1e-3))[heard] - 1e-5).all()


def test_amplitudes_are_in_decibels(padded, made):
    number = inputs.FEATURES.index("envelope_mean_mean")
    stored = padded.features.sel(feature="envelope_mean", statistic="mean").values
    present = padded.receiver_present.values
    np.testing.assert_allclose(made["features"][..., number][present], 20 * np.log10(stored[present]), rtol=1e-5)


def test_what_the_dataset_lacks_is_named(padded, measured):
    with pytest.raises(ValueError, match=r"^iq: is not in the dataset; generate one with data_type iq_raw"):
        inputs.arrays(padded.drop_vars("iq").assign(measured), ["iq"])
    with pytest.raises(ValueError, match=r"^spectrogram: is not in the dataset; add it with hl.features"):
        inputs.arrays(padded.drop_vars("spectrogram").assign(measured), ["spectrogram"])
    with pytest.raises(ValueError, match=r"^features: are not in the dataset, nor is IQ"):
        inputs.arrays(padded.drop_vars(["iq", "features"]).assign(measured), ["features"])
