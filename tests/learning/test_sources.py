"""What identifies a dataset that is trained on: all that it holds, wherever it is held."""

import tracemalloc

import dask.array
import numpy as np
import pytest
import xarray as xr

import heimdall_lab as hl
from heimdall_lab.core.files import StoreError
from heimdall_lab.learning import sources
from heimdall_lab.learning.options import options_for
from heimdall_lab.learning.run_folder import default_folder, run_identity
from heimdall_lab.learning.sources import open_source


def run_folder(dataset):
    source = open_source(dataset)
    return default_folder("iq_vggnet", run_identity(source, "iq_vggnet", {}, options_for("iq_vggnet", {})))


def one_bit(dataset):
    iq = dataset.iq.copy(deep=True)
    iq.values[-1, 0, 1, -1] ^= 1
    return dataset.assign(iq=iq)


@pytest.mark.parametrize(
    "change",
    [
        one_bit,
        lambda dataset: dataset.assign(iq=dataset.iq.astype(np.int32)),
        lambda dataset: dataset.assign(snr=dataset.snr.astype(np.float32)),
        lambda dataset: dataset.assign_coords(receiver_name=("receiver", list("abcdefg"))),
        lambda dataset: dataset.assign_coords(sample=dataset.sample + 1),
        lambda dataset: dataset.assign(waveform=dataset.waveform.where(dataset.sample > 0, "tone").astype(str)),
        lambda dataset: dataset.assign(snr=dataset.snr.assign_attrs(source="measured")),
        lambda dataset: dataset.assign_attrs(clock_sigma_s=np.full(7, 1e-7) * (1 + 1e-12)),
        lambda dataset: dataset.drop_vars("shadowing"),
    ],
    ids=["iq", "iq dtype", "dtype", "names", "coordinate", "text", "attribute", "small step", "fewer"],
)
def test_whatever_differs_gives_another_identity_and_another_folder(small_dataset, change):
    dataset = small_dataset.assign_attrs(clock_sigma_s=np.full(7, 1e-7))
    assert run_folder(dataset) == run_folder(dataset.copy(deep=True))
    assert run_folder(change(dataset)) != run_folder(dataset)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (np.zeros((2, 6)), np.zeros((6, 2))),
        (np.zeros(4, dtype=np.int64), np.zeros(4)),
        (np.array(["a", "b"], dtype="<U1"), np.array(["ab"], dtype="<U2")),
        (np.array(["a', 'b"], dtype=object), np.array(["a", "b"], dtype=object)),
        (np.array(["1", "2"], dtype=object), np.array([1, 2], dtype=object)),
        (np.array(["a", "b"], dtype=object), np.array(["a", "c"], dtype=np.dtypes.StringDType())),
    ],
)
def test_equal_bytes_of_another_shape_type_or_name_are_told_apart(one, other):
    def checksum(values, name="x", dims=("p", "q")):
        return sources.content_checksum(xr.Dataset({name: (dims[: values.ndim], values)}))

    assert checksum(one) == checksum(one.copy())
    assert checksum(one) != checksum(other)
    assert checksum(one) != checksum(one, name="y")
    assert checksum(one) != checksum(one, dims=("q", "p"))


def test_the_same_texts_in_another_type_of_array_are_the_same():
    texts = np.array(["tone", "voice"])
    alike = [texts, texts.astype("<U9"), texts.astype(object), texts.astype(np.dtypes.StringDType())]
    datasets = [xr.Dataset({"waveform": ("sample", each)}) for each in [*alike, np.array(list(texts), dtype=object)]]
    assert len({sources.content_checksum(each) for each in datasets}) == 1


@pytest.mark.slow
def test_identity_does_not_depend_on_where_scenes_are_nor_on_how_many_are_hashed_at_a_time(
    small, small_dataset, tmp_path, monkeypatch
):
    hl.generate(small, tmp_path / "out", progress=False)
    changed = [each.assign(iq=each.iq ^ 1) for each in (small_dataset, hl.open_dataset(tmp_path / "out"))]
    assert changed[1].iq.chunks is not None
    wanted = open_source(changed[0]).checksum
    for block_bytes in (1, 10**5, 10**9):
        monkeypatch.setattr(sources, "_BLOCK_BYTES", block_bytes)
        assert {open_source(each).checksum for each in changed} == {wanted}


def test_large_signals_are_hashed_a_few_scenes_at_a_time(monkeypatch):
    monkeypatch.setattr(sources, "_BLOCK_BYTES", 4 * 2**20)
    scene = dask.array.ones((64, 2**20), dtype=np.uint8, chunks=(1, -1))
    tracemalloc.start()
    try:
        sources.content_checksum(xr.Dataset({"iq": (("sample", "time"), scene)}))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 2**20 < peak < 20 * 2**20


@pytest.mark.slow
def test_an_opened_dataset_with_other_coordinates_is_not_that_of_its_folder(small, tmp_path):
    hl.generate(small, tmp_path / "out", progress=False)
    dataset = hl.open_dataset(tmp_path / "out")
    assert open_source(dataset).folder == tmp_path / "out"
    renamed = dataset.assign_coords(receiver_name=("receiver", list("abcdefg")))
    measured = dataset.assign(snr=dataset.snr.assign_attrs(source="measured"))
    for other in (renamed, measured):
        assert open_source(other).folder is None
        assert open_source(other).checksum != open_source(dataset).checksum


def test_a_lazy_dataset_whose_shards_vanished_is_told(small, tmp_path):
    hl.generate(small, tmp_path / "out", progress=False)
    dataset = hl.open_dataset(tmp_path / "out")
    changed = dataset.assign(iq=dataset.iq ^ 1)
    dataset.close()
    for path in (tmp_path / "out").iterdir():
        path.unlink()
    with pytest.raises(StoreError, match=r"dataset: .*cannot be read .*open"):
        open_source(changed)
