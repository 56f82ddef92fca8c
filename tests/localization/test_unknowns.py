"""What is not known, or not observed, is no confident fix: it is said so, and what cannot be measured is refused."""

import numpy as np
import pytest
import xarray as xr

import heimdall_lab as hl
from heimdall_lab.datasets import schema
from heimdall_lab.localization import errors
from heimdall_lab.signals import pairs


@pytest.fixture(scope="module")
def scenes():
    """Thirty scenes as they are measured, without IQ."""
    config = hl.preset("los_sync", num_samples=30, seed=9, data_type="feature_based")
    return hl.generate(config, backend="numpy", progress=False)


@pytest.fixture(scope="module")
def with_iq():
    return hl.generate(hl.preset("los_sync", num_samples=2, seed=9, signal={"duration_s": 0.02}), progress=False)


def hears_only(scenes: xr.Dataset, count: int) -> xr.Dataset:
    """The reference and the receivers after it, `count` in all."""
    after = (scenes.receiver - scenes.reference_receiver) % scenes.sizes["receiver"]
    return scenes.assign(heard=(scenes.heard & (after < count)).transpose("sample", "receiver"))


def changed(scenes: xr.Dataset, name: str, value: float, where: xr.DataArray) -> xr.Dataset:
    return scenes.assign({name: scenes[name].where(~where, value).assign_attrs(scenes[name].attrs)})


@pytest.mark.parametrize("method", ["strongest", "rss_ml"])
def test_unknown_levels_are_left_out(scenes, method):
    """As if those receivers did not hear at all, but for what a silent receiver tells."""
    weakest = scenes.receiver == scenes.rssi_dbm.argmin("receiver")
    unknown = changed(scenes, "rssi_dbm", np.nan, weakest)
    unknown = changed(unknown, "snr_db", np.nan, weakest)
    found = hl.locate(unknown, method)
    assert np.isfinite(found.latitude).all()
    assert found.converged.all()
    error_m = errors.position_errors(scenes, found).error
    assert float(error_m.median()) < 1.3 * float(
        errors.position_errors(scenes, hl.locate(scenes, method)).error.median()
    )
    nothing = hl.locate(changed(scenes, "rssi_dbm", np.nan, scenes.receiver_present), method)
    assert not nothing.converged.any()
    assert np.isfinite(nothing.latitude).all()


@pytest.mark.parametrize("method", ["tdoa_ls", "tdoa_robust"])
def test_no_shadowing_is_no_obstacle(scenes, method):
    assert hl.locate(scenes.assign_attrs(link_sigma_db=0.0), method).converged.mean() > 0.9


def test_levels_that_contradict_what_is_said_of_shadowing_are_no_fix(scenes):
    """There are 5 dB of it, and none is said."""
    found = hl.locate(scenes.assign_attrs(link_sigma_db=0.0), "rss_ml")
    assert found.status.isin(["link", "misfit"]).mean() > 0.9
    assert np.isfinite(found.latitude).all()


@pytest.mark.parametrize("method", ["tdoa_ls", "tdoa_robust"])
@pytest.mark.parametrize("name", ["clock_sigma_s", "path_delay_sigma_s"])
def test_delays_of_unknown_worth_are_no_fix(scenes, method, name):
    found = hl.locate(scenes.assign_attrs({name: np.nan}), method)
    assert not found.converged.any()
    assert np.isfinite(found.latitude).all()


def test_one_unknown_clock_leaves_the_others(scenes):
    sigma_s = [50e-9] * 6 + [np.nan]
    found = hl.locate(scenes.assign_attrs(clock_sigma_s=sigma_s), "tdoa_ls")
    silent = scenes.assign(heard=scenes.heard & (scenes.receiver < 6))
    alone = hl.locate(silent.assign_attrs(clock_sigma_s=sigma_s), "tdoa_ls")
    assert found.converged.mean() > 0.8
    np.testing.assert_allclose(found.east, alone.east, atol=1e-3)


def test_sigmas_of_other_receivers_are_refused(scenes):
    with pytest.raises(ValueError, match=r"clock_sigma_s: holds 7 values for 5 receivers"):
        hl.locate(scenes.isel(receiver=slice(5)).assign_attrs(clock_sigma_s=[50e-9] * 7), "tdoa_ls")


@pytest.mark.parametrize("method", ["tdoa_ls", "tdoa_robust"])
def test_two_places_do_not_make_a_fix_of_three_receivers(scenes, method):
    """Three that hear, two of them on one spot: one direction is not observed, whatever rounding makes of it."""
    three = hears_only(scenes, 3)
    after = (three.receiver - three.reference_receiver) % 7
    doubled = three
    for name in ("receiver_latitude", "receiver_longitude", "receiver_altitude"):
        of_second = three[name].where(after == 1).max("receiver")
        doubled = doubled.assign({name: three[name].where(after != 2, of_second).assign_attrs(three[name].attrs)})
    assert not hl.locate(doubled, method).converged.any()


@pytest.mark.parametrize("method", ["tdoa_ls", "tdoa_robust"])
@pytest.mark.parametrize("count", [4, 5, 7])
def test_delays_that_contradict_each_other_are_no_fix(scenes, method, count):
    """Delays within ±100 km at random: any three fit some position, the others tell."""
    rng = np.random.Generator(np.random.Philox(count))
    random_s = rng.uniform(-1e5, 1e5, scenes.tdoa_s.shape) / 299792458.0
    is_reference = (scenes.receiver == scenes.reference_receiver).transpose("sample", "receiver").values
    confused = hears_only(scenes, count).assign(tdoa_s=scenes.tdoa_s.copy(data=np.where(is_reference, 0.0, random_s)))
    assert hl.locate(confused, method).converged.mean() < 0.1


@pytest.mark.parametrize("method", ["centroid", "strongest"])
@pytest.mark.parametrize("count", [1, 2])
def test_few_receivers_do_not_claim_to_know_the_place(scenes, method, count):
    few = hears_only(scenes, count)
    squared = errors.position_errors(few, hl.locate(few, method)).mahalanobis_squared
    assert float((squared <= 5.99).mean()) > 0.6
    assert float(squared.max()) < 60


@pytest.mark.parametrize("name", ["sample_rate_hz", "max_clock_offset_s", "max_frequency_offset_hz", "min_snr_db"])
def test_what_measuring_needs_is_asked_for(with_iq, name):
    with pytest.raises(ValueError, match=f"{name}: is nan; set it"):
        pairs.pair_features(with_iq.assign_attrs({name: np.nan}))


def test_too_little_is_refused(scenes, with_iq):
    with pytest.raises(ValueError, match=r"time: 40 samples are too few to measure"):
        pairs.pair_features(with_iq.isel(time=slice(40)))
    with pytest.raises(ValueError, match="holds no samples"):
        hl.locate(scenes.isel(sample=slice(0)), "tdoa_ls")
    with pytest.raises(ValueError, match="methods: none is given"):
        hl.compare(scenes, [])
    with pytest.raises(ValueError, match="data_type iq_raw"):
        hl.iq(scenes)
    with pytest.raises(ValueError, match="features: are not in the dataset"):
        hl.features(scenes.drop_vars(["features", "spectrogram"]))
    assert list(hl.compare(scenes.isel(sample=slice(2)), "centroid").method) == ["centroid"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.assign(receiver_altitude=d.receiver_altitude * np.nan), "receiver_altitude: is not finite"),
        (lambda d: d.assign(iq_full_scale=d.iq_full_scale * np.nan), "iq_full_scale: is not finite"),
        (lambda d: d.assign(receiver_present=d.receiver_present & (d.sample != 1)), "all receivers of sample 1"),
        (lambda d: d.drop_vars("receiver_name"), "'receiver_name' is missing"),
    ],
)
def test_datasets_that_lack_the_receivers_are_refused(with_iq, change, message):
    with xr.set_options(keep_attrs=True), pytest.raises(schema.SchemaError, match=message):
        schema.check(change(with_iq))
