"""Faulty SigMF files are refused, and named with the remedy."""

import json
import os
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sigmf_recordings import changed, noise, put

import heimdall_lab as hl
from heimdall_lab.datasets import schema


def data(content):
    return lambda folder: (folder / "bravo.sigmf-data").write_bytes(content)


def meta(text):
    return lambda folder: (folder / "bravo.sigmf-meta").write_text(text)


def point(*coordinates):
    return changed(["captures", 0, "core:geolocation"], {"type": "Point", "coordinates": coordinates})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (data(bytes(4 * 99 + 2)), r"bravo.sigmf-data: has 398 bytes, .* multiple of the 4 .* fetch the whole file"),
        (data(b""), r"bravo.sigmf-data: has 0 bytes"),
        (data(bytes(40)), r"bravo.sigmf-meta: annotations.0 covers 90 samples from 10, of 10"),
        (lambda folder: (folder / "bravo.sigmf-data").unlink(), r"bravo.sigmf-data: cannot be read .*put it beside"),
        (lambda folder: (folder / "bravo.sigmf-meta").unlink(), r"bravo.sigmf-meta: cannot be read \(No such file"),
        (meta("{"), r"bravo.sigmf-meta: Invalid JSON"),
        (meta("[" * 10**5), r"bravo.sigmf-meta: Invalid JSON"),
        (meta("[]"), r"bravo.sigmf-meta: .*object"),
        (changed(["global", "core:datatype"], "ci16"), r"core:datatype: 'ci16' is unknown; it must be c or r"),
        (changed(["global", "core:datatype"], "cf16_le"), r"core:datatype: 'cf16_le' is unknown"),
        (changed(["global", "core:datatype"], 5), r"bravo.sigmf-meta: global.core:datatype: .*string"),
        (changed(["global", "core:sha512"], "0" * 128), r"another hash than core:sha512 of bravo.sigmf-meta"),
        (changed(["global", "core:dataset"], "../bravo.bin"), r"core:dataset: '../bravo.bin' is no plain name"),
        (changed(["global", "core:dataset"], ".."), r"core:dataset: '..' is no plain name"),
        (changed(["global", "core:sample_rate"], 48e3), r"bravo.sigmf-meta: core:sample_rate: is 48000.0, but 50000.0"),
        (changed(["captures", 0, "core:frequency"], 1e6), r"core:frequency: is 1000000.0, but 145000000.0 in alpha"),
        (changed(["global", "core:metadata_only"], True), r"bravo.sigmf-meta: has core:metadata_only"),
        (
            changed(["global", "core:trailing_bytes"], 2),
            r"bravo.sigmf-data: has 398 bytes beside the 2 of core:header_bytes and core:trailing_bytes.*correct these",
        ),
        (changed(["captures", 0, "core:header_bytes"], 400), r"bravo.sigmf-data: has 0 bytes beside the 400 of"),
        (changed(["captures", 0, "core:header_bytes"], -1), r"captures.0.core:header_bytes: -1 is refused"),
        (changed(["captures", 0, "core:header_bytes"], 1.5), r"captures.0.core:header_bytes: 1.5 is refused"),
        (changed(["global", "core:sample_rate"], "fast"), r"global.core:sample_rate: 'fast' is refused"),
        (changed(["global", "core:sample_rate"], True), r"global.core:sample_rate: True is refused"),
        (changed(["global", "core:num_channels"], "1.5"), r"global.core:num_channels: .* is refused"),
        (changed(["global", "core:sample_rate"], 50_051), r"core:sample_rate: is 50051.0, but 50000.0.*0.1% at most"),
        (changed(["captures", 0, "core:frequency"], 145.021e6), r"core:frequency: is 145021000.0, but .*40% of the"),
        (changed(["captures", 0, "core:frequency"], None), r"bravo.*core:frequency: is missing, but 145000000.0 in"),
        (
            changed(["global", "core:extensions"], [{"name": "radar", "version": "1.0.0", "optional": False}]),
            r"core:extensions requires 'radar'",
        ),
        (changed(["captures", 0, "core:sample_start"], 100), r"captures begin at samples 100, of 100"),
        (changed(["captures"], [{"core:sample_start": 9}, {"core:sample_start": 9}]), r"captures begin .* ascend"),
        (changed(["captures"], [{"core:sample_start": n} for n in (0, 9)]), r"bravo.*number of captures: is 2, but 1"),
        (changed(["captures", 0, "core:geolocation"], None), r"bravo.sigmf-meta: missing geolocation of 'bravo'"),
        (point(8, 91), r"captures.0.core:geolocation.coordinates: .*latitude, the second, within ±90°"),
        (point(181, 45), r"captures.0.core:geolocation.coordinates: .*longitude must be within ±180°"),
        (point(8, float("nan")), r"captures.0.core:geolocation.coordinates.1: .*finite"),
        (point(8, 45, float("inf")), r"captures.0.core:geolocation.coordinates.2: .*finite"),
        (
            changed(["captures", 0, "core:geolocation"], {"type": "Polygon", "coordinates": [8, 45]}),
            r"captures.0.core:geolocation.type: ",
        ),
        (point(8), r"captures.0.core:geolocation.coordinates: "),
        (changed(["captures", 0, "core:datetime"], "yesterday"), r"core:datetime: 'yesterday' is refused"),
        (changed(["captures", 0, "core:datetime"], "2024-02-30T00:00:00Z"), r"core:datetime: .* is refused"),
        (changed(["captures", 0, "core:datetime"], "2024-05-01T00:00:00+25:00"), r"core:datetime: .* is refused"),
        (changed(["captures", 0, "core:datetime"], "0001-01-01T00:00:00Z"), r"core:datetime: .* centuries away"),
        (
            changed(["captures", 0, "core:datetime"], "2024-05-01T00:00:00Z"),
            r"alpha.*core:datetime of capture 0 is miss",
        ),
        (changed(["annotations", 0, "heimdall:variables"], {"snrr": 1}), r"'snrr' is no variable of the contract"),
        (changed(["annotations", 0, "heimdall:variables"], {"snr": "x"}), r"snr: does not hold numbers"),
        (
            changed(["annotations", 0, "heimdall:variables"], {"line_of_sight": True}),
            r"line_of_sight: give bool in every",
        ),
        (changed(["annotations", 0, "heimdall:variables"], {"iq_full_scale": 0}), r"iq_full_scale: is 0.0"),
        (changed(["global", "heimdall:channels"], []), r"heimdall:channels names 0 of 1"),
        (changed(["global", "heimdall:attributes"], {"clock_sigma_s": 1}), r"bravo.*heimdall:attributes.clock_sigma_s"),
    ],
)
def test_faulty_files_are_named_with_the_remedy(change, message, tmp_path):
    files = [put(tmp_path, name, noise(100)) for name in ("alpha", "bravo")]
    changed(["annotations"], [{"core:sample_start": 10, "core:sample_count": 90}])(tmp_path)
    assert hl.read_sigmf(files).sizes["receiver"] == 2
    change(tmp_path)
    with pytest.raises(ValueError, match=message):
        hl.read_sigmf(files)


def test_samples_that_are_not_finite_are_refused(tmp_path):
    samples = np.full(10, 1 + 1j, "<c8")
    samples[3] = np.inf
    with pytest.raises(ValueError, match=r"alpha.sigmf-meta: has samples that are not finite"):
        hl.read_sigmf(put(tmp_path, "alpha", samples, datatype="cf32_le"))


def test_recordings_that_do_not_overlap_are_refused(tmp_path):
    stamps = {"alpha": "2024-05-01T00:00:00Z", "bravo": "2024-05-01t00:00:00.002z"}
    files = [put(tmp_path, name, noise(100), datetime=stamp) for name, stamp in stamps.items()]
    with pytest.raises(ValueError, match="capture 0 of 'bravo' begins after that of 'alpha' ends"):
        hl.read_sigmf(files)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed(["global", "core:author"], "me", "01-Torino.sigmf-meta"), r"01-Torino.*is not the file of which nlos"),
        (
            lambda folder: os.truncate(folder / "01-Torino.sigmf-data", 4 * 1000),
            r"01-Torino.sigmf-data: has another hash",
        ),
        (lambda folder: (folder / "01-Torino.sigmf-meta").unlink(), r"01-Torino.sigmf-meta: cannot be read"),
        (
            changed(["collection", "core:streams", 0, "name"], "../nlos/01-Torino", "nlos.sigmf-collection"),
            r"core:streams: '../nlos/01-Torino' is no plain name",
        ),
        (changed(["collection", "core:streams"], [], "nlos.sigmf-collection"), r"collection.core:streams: "),
        (changed(["collection", "core:streams"], [5], "nlos.sigmf-collection"), r"collection.core:streams.0: "),
        (
            lambda folder: (folder / "nlos.sigmf-collection").write_bytes(b"\xff"),
            r"nlos.sigmf-collection: Invalid JSON",
        ),
    ],
)
def test_faulty_collections_are_named(change, message, copied):
    change(copied.parent)
    with pytest.raises(ValueError, match=message):
        hl.read_sigmf(copied)


def test_recordings_that_disagree_on_the_truth_are_refused(copied):
    changed(["annotations", 1, "heimdall:variables", "gdop"], 7.0, "01-Torino.sigmf-meta")(copied.parent)
    with pytest.raises(ValueError, match="gdop: recordings disagree"):
        hl.read_sigmf(sorted(copied.parent.glob("*.sigmf-meta")))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


@given(drawn=st.data())
def test_garbage_is_read_or_refused_by_name(drawn, collection, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "garbage"
    if not folder.exists():
        shutil.copytree(collection.parent, folder)
    file = drawn.draw(st.sampled_from([*folder.glob("00-*.sigmf-meta"), folder / collection.name]))
    whole = (collection.parent / file.name).read_text()
    content = place = json.loads(whole)
    depth = drawn.draw(st.integers(1, 6))
    while True:
        last = drawn.draw(st.sampled_from(list(place) if isinstance(place, dict) else range(len(place))))
        depth -= 1
        if depth == 0 or not (isinstance(place[last], dict | list) and place[last]):
            break
        place = place[last]
    if drawn.draw(st.booleans()):
        del place[last]
    else:
        place[last] = drawn.draw(VALUES)
    file.write_text(json.dumps(content))
    try:
        schema.check(hl.read_sigmf(file))
    except ValueError as error:
        assert str(folder) in str(error)  # noqa: PT017
    finally:
        file.write_text(whole)


@given(content=st.binary(max_size=40) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_noise_for_metadata_is_refused_by_name(content, tmp_path_factory):
    for suffix in ("meta", "collection"):
        file = tmp_path_factory.getbasetemp() / f"noise.sigmf-{suffix}"
        file.write_bytes(content)
        with pytest.raises(ValueError, match=f"noise.sigmf-{suffix}"):
            hl.read_sigmf(file)
