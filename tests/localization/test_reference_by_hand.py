"""Reference, target, reference: recorded without common time, written, read back, and located by the references."""

import numpy as np
import pytest

import heimdall_lab as hl
from heimdall_lab.core import geodesy
from heimdall_lab.core.units import SPEED_OF_LIGHT, db_to_linear
from heimdall_lab.localization import bounds, errors
from heimdall_lab.signals.measurements import with_measurements
from heimdall_lab.signals.spectra import delay_sigma_s

CLOCK_S = 3e-9  # of interpolation between two references 1 s before and after: a TCXO of 1e-9 walks by some ns
VOICE = {"voice_ratio": 1.0, "tone_ratio": 0.0, "dual_tone_ratio": 0.0}  # without pauses


def recorded(recordings, folder, seed):
    """Recordings of three emissions each, the first and the last from known places, as files give them back."""
    config = hl.preset(
        "websdr_reference",
        num_samples=3 * recordings,
        seed=seed,
        recording={"emissions": 3, "references": 2, "frequency_span_hz": 2e6, "gap_s": 0.5},
        signal={"duration_s": 0.25, **VOICE, "transmitter_power_max_dbm": 47.0},
        gate={"min_receivers": 7, "min_snr_db": 10.0, "max_gdop": 20.0},
    )
    return hl.read_sigmf(hl.write_sigmf(hl.generate(config, progress=False), folder))


def geometric_delays(dataset):
    """Delays (S, R) from where references are said to stand, s."""
    places = (dataset[f"reported_{name}"].values[:, None] for name in ("latitude", "longitude", "altitude"))
    receivers = (dataset[f"receiver_{name}"].values for name in ("latitude", "longitude", "altitude"))
    return geodesy.length(geodesy.ecef(*receivers) - geodesy.ecef(*places)) / SPEED_OF_LIGHT


def by_references(dataset):
    """The targets, with their delays less what the clocks of both references show, half-way between these.

    Returned with the errors of noise of the references' mean, (S, R) s, by their truth.
    """
    measured = with_measurements(dataset)
    first, target, last = (measured.isel(sample=slice(place, None, 3)) for place in range(3))
    np.testing.assert_allclose(
        (first.recording_time.values + last.recording_time.values) / 2, target.recording_time.values
    )
    common = target.reference_receiver.values[:, None]
    clock_s, variance, noise = np.zeros(target.tdoa_s.shape), np.zeros(target.tdoa_s.shape), 0.0
    heard, present = target.heard.values, target.signal_present.values
    for reference in (first, last):
        late_s = reference.tdoa_s.values - geometric_delays(reference)
        clock_s += (late_s - np.take_along_axis(late_s, common, axis=1)) / 2
        variance += reference.toa_std_s.values**2 / 4
        heard, present = heard & reference.heard.values, present & reference.signal_present.values
        bandwidths = (reference[f"{kind}_bandwidth"].values[:, None] for kind in ("occupied", "rms"))
        noise += delay_sigma_s(db_to_linear(reference.snr.values), *bandwidths, dataset.attrs["duration_s"]) ** 2 / 4
    heard = heard & np.take_along_axis(heard, common, axis=1)
    toa_std_s = np.sqrt(target.toa_std_s.values**2 + variance)
    total_s = np.hypot(toa_std_s, np.take_along_axis(toa_std_s, common, axis=1))
    own = np.arange(heard.shape[1]) == common
    corrected = {
        "tdoa_s": target.tdoa_s.values - clock_s,
        "toa_std_s": toa_std_s,
        "tdoa_std_s": np.where(own, 0.0, total_s),
        "heard": heard,
        "signal_present": present,
    }
    located = target.drop_vars(["iq", "iq_full_scale", "measured_of"]).assign(
        {name: target[name].copy(data=values) for name, values in corrected.items()}
    )
    return located.assign_attrs(clock_sigma_s=CLOCK_S, max_clock_offset_s=1e-6), np.sqrt(noise)


def bound_m(targets, reference_noise_s):
    """Bound of each target's error for known clocks (S,) m, and with the references' noise besides."""
    targets = targets.assign_attrs(config="{}")  # by which emissions would share unknown clocks
    of_each = [
        bounds.scene_crlb(
            targets.isel(sample=[row]).assign_attrs(clock_sigma_s=np.hypot(CLOCK_S, np.nan_to_num(noise_s)).tolist())
        ).crlb_rmse.values[0]
        for row, noise_s in enumerate(reference_noise_s)
    ]
    return bounds.scene_crlb(targets).crlb_rmse.values, np.array(of_each)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    return recorded(10, tmp_path_factory.mktemp("references") / "sigmf", 11)


def rms(values):
    return float(np.sqrt(np.mean(np.square(values))))


@pytest.mark.slow
def test_references_before_and_after_are_worth_common_clocks(recordings):
    """Errors against the bound of known clocks with the noise of the references' mean, σ² + (σ1² + σ2²) / 4."""
    targets, reference_noise_s = by_references(recordings)
    fixes = hl.locate(targets, "tdoa_ls")
    error_m = errors.position_errors(targets, fixes).error.values
    known_m, with_references_m = bound_m(targets, reference_noise_s)
    assert fixes.converged.all()
    assert rms(error_m / with_references_m) < 1.3
    assert rms(error_m) < 1.3 * rms(with_references_m)
    # What the subtraction costs: references that are as weak as targets take the same share as these.
    assert 1.2 < rms(with_references_m) / rms(known_m) < 2.5


def test_targets_have_no_fix_without_references(recordings):
    fixes = hl.locate(recordings.isel(sample=slice(1, None, 3)), "tdoa_ls")
    sigma_m = np.sqrt(np.trace(fixes.covariance.values, axis1=1, axis2=2))
    assert not (fixes.converged.values & (sigma_m < 10e3)).any()
