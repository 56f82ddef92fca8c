"""Joint fixes and clocks of datasets: simulated recordings, references, and what cannot be calibrated."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import heimdall_lab as hl
from heimdall_lab.core import geodesy
from heimdall_lab.core.units import SPEED_OF_LIGHT
from heimdall_lab.datasets import schema
from heimdall_lab.localization import bounds, errors, sentences
from heimdall_lab.localization.remedies import remedies
from heimdall_lab.signals.measurements import with_measurements

VOICE = {"voice_ratio": 1.0, "tone_ratio": 0.0, "dual_tone_ratio": 0.0, "noise_ratio": 0.0}
MEASURED = [*schema.MEASURED, *schema.MEASURED_BESIDE]


def generate(preset: str = "websdr_blind", **changes: object) -> xr.Dataset:
    fields = {"data_type": "feature_based", "signal": VOICE, "seed": 5, **changes}
    return hl.generate(hl.preset(preset, **fields), progress=False).drop_vars(["features", "spectrogram"])


@pytest.fixture(scope="module")
def blind() -> xr.Dataset:
    """Six recordings of ten unknown emissions."""
    return generate(num_samples=60)


@pytest.fixture(scope="module")
def referenced() -> xr.Dataset:
    """Ten recordings of a reference and two unknown emissions."""
    return generate(num_samples=30, recording={"emissions": 3, "references": 1})


@pytest.fixture(scope="module")
def fixes(blind: xr.Dataset) -> xr.Dataset:
    return hl.locate(blind, "tdoa_joint")


def exact(dataset: xr.Dataset, random: np.random.Generator, sigma_s: float = 5e-8) -> xr.Dataset:
    """Delays of the truth with errors of one standard deviation, of all receivers, in the place of those measured."""
    arrival_s = (dataset.propagation_delay + dataset.clock_offset).values
    arrival_s = arrival_s + sigma_s * random.standard_normal(arrival_s.shape)
    reference = dataset.reference_receiver.values[:, None]
    delay_s = arrival_s - np.take_along_axis(arrival_s, reference, axis=1)
    everywhere = np.ones_like(delay_s)
    links = ("sample", "receiver")
    dataset = dataset.drop_vars(schema.MEASURED_OF, errors="ignore")
    return dataset.assign(
        tdoa_s=(links, delay_s, dataset.tdoa_s.attrs),
        toa_std_s=(links, sigma_s * everywhere, dataset.toa_std_s.attrs),
        tdoa_std_s=(links, np.sqrt(2) * sigma_s * everywhere, dataset.tdoa_std_s.attrs),
        rival_delay_s=(links, np.nan * everywhere, dataset.rival_delay_s.attrs),
        heard=(links, np.full(delay_s.shape, True)),
    )


def test_blind_recordings_are_located_at_the_joint_bound(blind: xr.Dataset, fixes: xr.Dataset) -> None:
    """Of IQ as volunteers record it: no clock, no reference; levels alone are off by tens of km."""
    judged, bound_m = errors.position_errors(blind, fixes), bounds.scene_crlb(blind).crlb_rmse.values
    found = fixes.converged.values
    assert found.mean() >= 0.95
    error_m = judged.error.values[found]
    assert np.median(error_m) < 200
    assert np.quantile(error_m, 0.9) < 1.2e3
    good = found & (bound_m < 2e3)
    ratio = np.sqrt(np.mean((judged.error.values / bound_m)[good] ** 2))
    assert 0.7 < ratio < 1.3
    assert (judged.level.values[found] < 0.99).mean() > 0.9
    predicted_m = np.sqrt(np.trace(fixes.covariance.values, axis1=1, axis2=2))
    assert np.median(predicted_m[good] / bound_m[good]) == pytest.approx(1.0, abs=0.15)


def test_the_budget_says_the_share_of_the_clocks(blind: xr.Dataset, fixes: xr.Dataset) -> None:
    found = fixes.isel(sample=fixes.converged.values)
    variance = (found.budget**2).sum("cause")
    np.testing.assert_allclose(variance, np.trace(found.covariance.values, axis1=1, axis2=2), rtol=1e-3)
    share = (found.budget.sel(cause="clocks") ** 2 / variance).values
    assert ((share > 0) & (share < 1)).all()
    assert 0.1 < np.median(share) < 0.9
    by_receiver = np.sqrt((found.receiver_budget.sel(cause="clocks") ** 2).sum("receiver"))
    np.testing.assert_allclose(by_receiver, found.budget.sel(cause="clocks"), rtol=1e-6)
    assert "clocks" in sentences.budget_sentence(blind, fixes, int(found.sample[0]))


def test_gps_clocks_help_as_much_as_the_bound_says(blind: xr.Dataset, fixes: xr.Dataset) -> None:
    """The remedy takes clocks as independent, so that it is right in the median, and in few scenes far off."""
    rows = np.flatnonzero(fixes.converged.values)
    told = remedies(blind.isel(sample=rows), fixes.isel(sample=rows))
    before_m, after_m = (
        bounds.scene_crlb(blind.assign_attrs(clock_sigma_s=sigma_s)).crlb_rmse.values[rows]
        for sigma_s in (blind.attrs["clock_sigma_s"], 50e-9)
    )
    off = [
        remedy.ratio / ratio
        for remedy, ratio in zip(told, after_m / before_m, strict=True)
        if remedy is not None and remedy.words == "GPS clocks at all receivers"
    ]
    assert len(off) >= 10
    assert np.median(off) == pytest.approx(1.0, abs=0.25)
    assert np.quantile(off, 0.1) > 0.5


def test_references_are_where_they_are_reported_and_tell_the_clocks(referenced: xr.Dataset) -> None:
    fixes, known = hl.locate(referenced, "tdoa_joint"), schema.references(referenced)
    assert known.sum() == 10
    assert fixes.converged.values[known].all()
    for name in ("latitude", "longitude"):
        np.testing.assert_allclose(fixes[name].values[known], referenced[f"reported_{name}"].values[known], atol=1e-9)
    judged = errors.position_errors(referenced, fixes)
    assert judged.error.isnull().values.tolist() == known.tolist()
    found = fixes.converged.values & ~known
    assert found.sum() >= 15
    assert np.median(judged.error.values[found]) < 400
    nobody = referenced.drop_vars([f"reported_{name}" for name in ("latitude", "longitude", "altitude")])
    blind_m = np.trace(hl.locate(nobody, "tdoa_joint").covariance.values, axis1=1, axis2=2)
    assert (np.trace(fixes.covariance.values, axis1=1, axis2=2)[found] < blind_m[found]).all()


def test_clocks_are_told_with_their_errors(blind: xr.Dataset) -> None:
    told = hl.clocks(blind)
    assert told.sizes == {"recording": 6, "receiver": 7}
    assert told.recording.values.tolist() == sorted(set(blind.recording.values.tolist()))
    assert told.offset.attrs["units"] == "s"
    assert told.rate.attrs["units"] == "1"
    assert (told.emissions == 10).all()
    assert (told.references == 0).all()
    assert told.observable.mean() > 0.9
    assert (told.component.where(told.observable, 0) == 0).all()
    assert told.offset.isnull().equals(~told.observable)
    normalised = {"offset": [], "rate": []}
    for number in told.recording.values:
        rows, row = blind.recording.values == number, told.sel(recording=number)
        seen = row.observable.values
        for name, values in normalised.items():
            truth = blind[f"clock_{name}"].values[rows].mean(axis=0)[seen]
            off = row[name].values[seen] - (truth - truth.mean())
            values.append(off / row[f"{name}_std"].values[seen])
    offsets, rates = (np.concatenate(values) for values in normalised.values())
    assert np.sqrt(np.mean(offsets**2)) == pytest.approx(1.0, abs=0.4)
    assert np.sqrt(np.mean(rates**2)) < 1.5
    assert float(told.offset_std.median()) < 500e-9


def test_synchronised_scenes_are_located_as_by_least_squares() -> None:
    """Where each scene is its own recording, and clocks are known, it is one method of many."""
    scenes = hl.generate(hl.preset("los_sync", num_samples=20, seed=2, data_type="feature_based"), progress=False)
    assert "recording" not in scenes
    assert "tdoa_joint" not in hl.methods(scenes)
    joint, alone = (hl.locate(scenes, method) for method in ("tdoa_joint", "tdoa_robust"))
    both = (joint.converged & alone.converged).values
    assert both.sum() >= 15
    for name in ("east", "north"):
        np.testing.assert_allclose(joint[name].values[both], alone[name].values[both], atol=1.0)
    np.testing.assert_allclose(joint.covariance.values[both], alone.covariance.values[both], rtol=0.02, atol=1.0)
    np.testing.assert_allclose(joint.misfit.values[both], alone.misfit.values[both], rtol=0.02, atol=0.02)


def test_order_and_other_recordings_do_not_matter(blind: xr.Dataset, fixes: xr.Dataset) -> None:
    random = np.random.default_rng(3)
    receivers = random.permutation(7)
    turned = blind.isel(sample=random.permutation(60), receiver=receivers)
    moved = np.argsort(receivers)[turned.reference_receiver.values]
    turned = turned.assign(reference_receiver=("sample", moved, blind.reference_receiver.attrs))
    assert "tdoa_joint" in hl.methods(turned)
    again = hl.locate(turned, "tdoa_joint").sel(sample=fixes.sample)
    assert (again.status == fixes.status).mean() > 0.98
    both = (again.converged & fixes.converged).values
    for name in ("east", "north"):
        np.testing.assert_allclose(again[name].values[both], fixes[name].values[both], atol=0.5)
    one = hl.locate(blind.isel(sample=slice(10, 20)), "tdoa_joint")
    np.testing.assert_allclose(one.latitude, fixes.latitude[10:20], atol=1e-6)


def with_receivers(dataset: xr.Dataset, receivers: list[int]) -> xr.Dataset:
    """Those alone, the first of them the reference."""
    few = dataset.isel(receiver=receivers)
    reference = np.zeros(few.sizes["sample"], dtype=int)
    return few.assign(
        tdoa_s=(few.tdoa_s - few.tdoa_s.isel(receiver=0)).assign_attrs(few.tdoa_s.attrs),
        reference_receiver=("sample", reference, dataset.reference_receiver.attrs),
    )


def few_receivers(blind: xr.Dataset) -> xr.Dataset:
    return with_receivers(exact(blind, np.random.default_rng(1)), [0, 4, 6])


def few_emissions(blind: xr.Dataset) -> xr.Dataset:
    dataset = with_receivers(exact(blind, np.random.default_rng(1)), [0, 1, 4, 5, 6])
    return dataset.isel(sample=dataset.recording_time.values < dataset.recording_time.values[2])


def one_emission(blind: xr.Dataset) -> xr.Dataset:
    return exact(blind, np.random.default_rng(1)).isel(sample=slice(None, None, 10))


def apart(blind: xr.Dataset) -> xr.Dataset:
    """Three receivers hear the first five emissions, the other four the others."""
    dataset = exact(blind, np.random.default_rng(1)).isel(sample=slice(10))
    first = (np.arange(10) < 5)[:, None] == (np.arange(7) < 3)
    reference = np.where(np.arange(10) < 5, 0, 3)
    delay = dataset.tdoa_s.values
    delay = delay - np.take_along_axis(delay, reference[:, None], axis=1)
    return dataset.assign(
        heard=(("sample", "receiver"), first),
        tdoa_s=(("sample", "receiver"), delay, dataset.tdoa_s.attrs),
        reference_receiver=("sample", reference, dataset.reference_receiver.attrs),
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (few_receivers, "3 receivers cannot calibrate themselves; "),
        (few_emissions, "5 receivers cannot calibrate themselves by 2 emissions; record 3 or more, or "),
        (one_emission, "7 receivers cannot calibrate themselves by 1 emission; record 2 or more, or "),
        (apart, "3 receivers cannot calibrate themselves, and share no emission with the 4 others; "),
    ],
)
def test_what_cannot_be_calibrated_is_refused_and_says_why(
    blind: xr.Dataset, change: Callable[[xr.Dataset], xr.Dataset], said: str
) -> None:
    dataset = change(blind)
    fixes = hl.locate(dataset, "tdoa_joint", strict=True)
    refused = fixes.status.values == "uncalibrated"
    assert refused[0]
    if change is not apart:
        assert refused.all()
        assert not hl.clocks(dataset, strict=True).observable.any()
    else:
        assert refused[:5].all()
        assert (fixes.status.values[5:] != "uncalibrated").any()
        told = hl.clocks(dataset, strict=True)
        assert told.component.values.tolist() == [[0, 0, 0, 1, 1, 1, 1]]
        assert told.observable.values.tolist() == [[False] * 3 + [True] * 4]
    sample = int(dataset.sample[0])
    sentence = sentences.status_sentence(dataset, fixes, sample)
    assert sentence.startswith(f"No fix by tdoa_joint: {said}name a reference; the middle of")


@pytest.mark.slow
def test_receivers_on_a_line_have_mirror_images(blind: xr.Dataset) -> None:
    """Which cost exactly the same: every emission is ambiguous, and its rival is on the other side."""
    count = blind.sizes["receiver"]
    along_m = np.linspace(-60e3, 60e3, count) + 3e3 * (-1.0) ** np.arange(count)
    latitude, longitude = geodesy.displace(np.full(count, 45.0), np.full(count, 8.3), np.zeros(count), along_m)
    line = blind.assign(
        receiver_latitude=blind.receiver_latitude * 0 + latitude,
        receiver_longitude=blind.receiver_longitude * 0 + longitude,
        receiver_altitude=blind.receiver_altitude * 0 + 200.0,
        transmitter_longitude=8.3 + 0.2 + 0.05 * np.abs(blind.transmitter_longitude - 8.3),
    )
    receivers, transmitter = bounds.transmitter_frame(line)
    distance_m = np.linalg.norm(receivers - transmitter[:, None], axis=-1)
    line = line.assign(propagation_delay=blind.propagation_delay * 0 + distance_m / SPEED_OF_LIGHT)
    for name in ("receiver_latitude", "receiver_longitude", "receiver_altitude", "propagation_delay"):
        line[name].attrs = blind[name].attrs
    line["transmitter_longitude"].attrs = blind["transmitter_longitude"].attrs
    line = exact(line, np.random.default_rng(2)).assign_attrs(link_sigma_db=np.nan)
    fixes = hl.locate(line, "tdoa_joint", strict=True)
    assert not fixes.converged.any()
    assert (fixes.status == "ambiguous").mean() > 0.9
    sides = np.sign(fixes.longitude - 8.3), np.sign(fixes.rival_longitude.isel(rival=0) - 8.3)
    ambiguous = (fixes.status == "ambiguous").values
    assert (sides[0] == -sides[1]).values[ambiguous].mean() > 0.95


def test_a_late_receiver_is_noticed_or_left_out(blind: xr.Dataset) -> None:
    """100 µs at one receiver in one emission: its fix is right, or says that something is wrong."""
    dataset = exact(blind, np.random.default_rng(4)).isel(sample=slice(10))
    delay = dataset.tdoa_s.copy()
    receiver = (int(dataset.reference_receiver[2]) + 1) % 7
    delay[2, receiver] += 100e-6
    fixes = hl.locate(dataset.assign(tdoa_s=delay), "tdoa_joint")
    judged = errors.position_errors(dataset, fixes)
    assert fixes.converged.sum() >= 9
    found = fixes.converged.values
    assert (judged.level.values[found] < 0.999).all()


@pytest.mark.slow
def test_late_links_are_located_as_far_as_their_law_goes() -> None:
    """30 % of the links late by 8 µs, 2.4 km, in the mean: most fixes are nearer, and their ellipses say how near."""
    late = generate("nlos_blind", num_samples=40, recording={"emissions": 20})
    fixes = hl.locate(late, "tdoa_joint")
    judged, found = errors.position_errors(late, fixes), fixes.converged.values
    assert found.mean() > 0.8
    assert np.median(judged.error.values[found]) < 1.2e3
    assert (judged.level.values[found] < 0.95).mean() > 0.75
    assert np.isfinite(fixes.covariance).all()


def test_no_samples_have_no_clocks(blind: xr.Dataset) -> None:
    with pytest.raises(ValueError, match=r"^dataset: holds no samples; give at least one$"):
        hl.clocks(with_measurements(blind).isel(sample=slice(0)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recording", "samples", "median_m"),
    [({"emissions": 2, "references": 1}, 240, 165), ({"emissions": 10}, 400, 130), ({"emissions": 20}, 600, 90)],
)
def test_voice_on_the_italian_network_is_located_as_well_as_stated(
    recording: dict, samples: int, median_m: float
) -> None:
    dataset = generate(num_samples=samples, recording=recording, seed=11)
    fixes, known = hl.locate(dataset, "tdoa_joint"), schema.references(dataset)
    judged, bound_m = errors.position_errors(dataset, fixes), bounds.scene_crlb(dataset).crlb_rmse.values
    found = fixes.converged.values & ~known
    error_m = judged.error.values[found]
    assert found.sum() / (~known).sum() >= 0.9
    assert np.median(error_m) <= median_m
    assert np.quantile(error_m, 0.9) <= 1.2e3
    good = found & (bound_m < 2e3)
    assert np.sqrt(np.mean((judged.error.values / bound_m)[good] ** 2)) <= 1.1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("channel", "stated"),
    [
        ({"clock": "gpsdo", "one_crystal": True}, {"steered_clocks": 1}),
        ({"clock": "gps_stamped"}, {"steered_clocks": 1, "window_clock_sigma_s": 200e-9}),
        ({"clock": "ntp", "clock_rate_max_ppm": 0.5}, {"clock_rate_sigma": 0.5e-6 / 3**0.5}),
        ({"clock": "none", "stamp_jitter_s": 300e-9}, {"window_clock_sigma_s": 300e-9}),
    ],
)
def test_one_method_is_at_the_bound_of_every_class_of_clocks(channel: dict, stated: dict) -> None:
    """Steered, stamped, with rates that frequencies do not tell, and with stamps that err in every window."""
    plain = {"one_crystal": False, "clock_adev": 0}
    dataset = generate(num_samples=100, channel=plain | channel)
    for name, value in stated.items():
        assert dataset.attrs[name] == pytest.approx(value)
    fixes, bound_m = hl.locate(dataset, "tdoa_joint"), bounds.scene_crlb(dataset).crlb_rmse.values
    judged, good = errors.position_errors(dataset, fixes), fixes.converged.values & (bound_m < 2e3)
    assert good.mean() > 0.9
    assert np.sqrt(np.mean((judged.error.values / bound_m)[good] ** 2)) == pytest.approx(1.0, abs=0.15)
    assert judged.mahalanobis_squared.values[good].mean() / 2 == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize(
    ("number", "blind_m", "biased_m"),
    [
        (1, 58, 56),
        (2, 44, 46),
        (3, 52, 51),
        (4, 52, 51),
    ],
)
@pytest.mark.slow
def test_real_aircraft_calibrate_sensors_without_common_time(
    real: Path, number: int, blind_m: float, biased_m: float
) -> None:
    """Offsets of 10 ms and rates of 1 ppm are added to synchronised sensors; and their own biases are solved for."""
    folder = real / "locards"
    table = hl.read_locards(folder / f"set_{number}.csv", folder / "sensors.csv")
    random, receivers = np.random.default_rng(number), table.sizes["receiver"]
    offset_s, rate = random.uniform(-10e-3, 10e-3, receivers), random.uniform(-1e-6, 1e-6, receivers)
    clock_s = offset_s + rate * table.recording_time.values[:, None]
    clock_s = clock_s - np.take_along_axis(clock_s, table.reference_receiver.values[:, None], axis=1)
    jitter = {"window_clock_sigma_s": 80e-9}  # of single messages
    free = {"clock_sigma_s": 10e-3 / 3**0.5, "clock_rate_sigma": 1e-6 / 3**0.5, "max_clock_offset_s": 10e-3}
    loose = table.assign(tdoa_s=(table.tdoa_s + clock_s).assign_attrs(table.tdoa_s.attrs)).assign_attrs(free | jitter)
    biased = table.assign_attrs({"clock_sigma_s": np.hypot(150e-9, 80e-9)} | jitter)
    for dataset, largest_m in ((loose, blind_m), (biased, biased_m)):
        fixes = hl.locate(dataset, "tdoa_joint", strict=True)
        assert fixes.converged.mean() > 0.95
        judged = errors.position_errors(dataset, fixes)
        assert float(judged.error.median()) <= largest_m
        assert (judged.level.values[fixes.converged.values] < 0.99).mean() > 0.95
