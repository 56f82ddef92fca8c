import numpy as np
import pytest

import heimdall_lab as hl
from heimdall_lab.datasets import schema


def test_check_returns_the_dataset_itself(small_dataset):
    assert schema.check(small_dataset) is small_dataset


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.drop_vars("snr"), "'snr' is missing"),
        (lambda d: d.assign(iq=d.iq.astype(float)), "iq: dtype is float64"),
        (lambda d: d.assign(snr=d.snr.T), r"snr: dimensions are \('receiver', 'sample'\)"),
        (lambda d: d.assign(snr=d.snr.assign_attrs(units="W")), "snr: units are 'W', expected 'dB'"),
        (lambda d: d.assign(receiver_latitude=d.receiver_latitude + 60), "receiver_latitude: 105"),
        (lambda d: d.assign_coords(component=["q", "i"]), "component"),
        (lambda d: d.assign_attrs(propagation="sky"), "propagation: 'sky'"),
        (lambda d: d.assign_attrs(level_law="hata"), "level_law: 'hata'"),
        (lambda d: d.assign_attrs(path_delay_sigma_s=-1e-6), "path_delay_sigma_s: is -1e-06; give 0 s or more"),
        (lambda d: d.assign_attrs(reflection_height_m=300.0), r"reflection_height_m: is 300.0; give 50000 to 1e\+06 m"),
        (lambda d: d.assign_attrs(reflection_height_sigma_m=np.nan), "reflection_height_sigma_m: is nan; give 0"),
        (lambda d: d.drop_attrs().assign_attrs(propagation="sky"), "centre_frequency_hz"),
    ],
)
def test_breaches_are_named(small_dataset, change, message):
    with pytest.raises(schema.SchemaError, match=message):
        schema.check(change(small_dataset))


def test_iq_decodes_to_root_milliwatts(small_dataset):
    voltage = hl.iq(small_dataset)
    assert voltage.dims == ("sample", "receiver", "time")
    assert voltage.dtype == np.complex64
    first = small_dataset.isel(sample=0, receiver=0)
    expected = (first.iq[0].values + 1j * first.iq[1].values) * float(first.iq_full_scale) / 32767
    np.testing.assert_allclose(voltage[0, 0], expected, rtol=1e-6)


def test_padded_receivers_are_absent_and_unknown(small):
    padded = hl.generate(small.model_copy(update={"max_receivers": 9, "num_samples": 2}), progress=False)
    missing = padded.isel(receiver=[7, 8])
    assert not missing.receiver_present.any()
    assert (missing.iq == 0).all()
    assert missing[["iq_full_scale", "snr", "propagation_delay", "received_power", "receiver_latitude"]].isnull().all()
    assert not missing.signal_present.any()
