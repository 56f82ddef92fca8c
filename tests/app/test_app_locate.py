"""The page that locates recordings: what it finds is what the package finds, and uploads leave nothing behind."""

import asyncio
import io
import json
import tarfile

import holoviews as hv
import numpy as np
import pandas as pd
import pytest
from wav_recordings import hdsdr_bytes

import heimdall_lab as hl
from heimdall_lab.app.pages import locate
from heimdall_lab.app.pages.locate import MAX_UPLOAD_BYTES, Locate
from heimdall_lab.app.parts import uploads
from heimdall_lab.app.parts.uploads import FileInput, UploadFolder, safe_name
from heimdall_lab.core.text import length_text
from heimdall_lab.datasets.recordings import propagation
from heimdall_lab.localization import errors
from heimdall_lab.localization.sentences import budget_sentence, paths_sentence, remedy_sentence, status_sentence
from heimdall_lab.localization.tables import budget_table, difference_table
from heimdall_lab.signals.measurements import with_measurements

pytestmark = pytest.mark.usefixtures("one_loop")

DCF77 = "50.0152, 9.0112"


def contents(paths):
    return {path.name: bytearray(path.read_bytes()) for path in paths}


def left(folder):
    """What uploads have left."""
    return list((folder / "uploads").iterdir())


def located(page, files, receivers=None):
    """Upload files and press Locate."""

    async def steps():
        await page.set_recordings(files)
        if receivers is not None:
            page.set_receivers({"receivers.csv": bytearray(receivers)})
        await page.locate()

    asyncio.run(steps())


@pytest.fixture(scope="module")
def recorded(small_dataset, tmp_path_factory):
    """Files of a SigMF collection of two scenes, and their dataset."""
    dataset = small_dataset.isel(sample=slice(2))
    collection = hl.write_sigmf(dataset, tmp_path_factory.mktemp("recorded") / "two")
    return contents(sorted(collection.parent.iterdir())), dataset


@pytest.fixture
def page(tmp_path):
    return Locate(tmp_path)


def test_a_collection_is_located_as_by_the_package(page, recorded, tmp_path):
    files, dataset = recorded
    located(page, files)
    assert not page._alert.visible, page._alert.object
    expected = hl.locate(dataset, "tdoa_ls")
    np.testing.assert_allclose(page.fixes.latitude, expected.latitude, rtol=1e-12)
    np.testing.assert_allclose(page.fixes.longitude, expected.longitude, rtol=1e-12)
    assert left(tmp_path) == []
    assert page.param.sample.objects == [0, 1]
    assert len(page._fix_rows.value) == 2
    assert len(page._difference_rows.value) > 2
    assert list(page._receiver_rows.value.receiver) == list(dataset.receiver_name.values)


@pytest.mark.slow
def test_pairs_and_archives_are_read_alike(page, recorded, tmp_path):
    files, dataset = recorded
    expected = hl.locate(dataset, "tdoa_ls").latitude
    pairs = {name: content for name, content in files.items() if not name.endswith("-collection")}
    times = {f"12:00:00_{name}": content for name, content in pairs.items()}
    for given in (pairs, times, {"two.sigmf": packed(files)}, {"two.tar.gz": packed(files, "w:gz")}):
        located(page, given)
        assert not page._alert.visible, page._alert.object
        np.testing.assert_allclose(np.sort(page.fixes.latitude), np.sort(expected), atol=1e-6)
        assert left(tmp_path) == []


def packed(files, mode="w"):
    """A SigMF archive."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode=mode) as members:
        for name, content in files.items():
            member = tarfile.TarInfo(f"folder/{name}")
            member.size = len(content)
            members.addfile(member, io.BytesIO(content))
    return bytearray(archive.getvalue())


def test_an_archive_is_read_again_after_it_was_refused(page, recorded):
    files, dataset = recorded
    archive = packed(files)
    page.window = "3600"
    located(page, {"two.sigmf": archive})
    assert page.fixes is None
    first = page._alert.object
    asyncio.run(page.locate())
    assert page._alert.object == first
    assert "there twice" not in first
    page.window = ""
    asyncio.run(page.locate())
    assert not page._alert.visible, page._alert.object
    np.testing.assert_allclose(page.fixes.latitude, hl.locate(dataset, "tdoa_ls").latitude, rtol=1e-6)


def test_an_archive_that_ends_early_is_refused_alike_each_time(page, recorded):
    archive = packed(recorded[0])
    located(page, {"two.sigmf": archive[: len(archive) // 2]})
    asyncio.run(page.locate())
    assert "two.sigmf: is no SigMF archive" in page._alert.object


def test_what_an_archive_unpacks_to_is_limited_as_uploads_are(page, recorded, monkeypatch):
    monkeypatch.setattr(locate, "MAX_UPLOAD_BYTES", 10_000)
    located(page, {"two.sigmf.gz": packed(recorded[0], "w:gz")})
    assert "two.sigmf.gz: holds more than the 0.01 MB" in page._alert.object


def test_what_a_page_leaves_does_not_take_the_folder_from_another(tmp_path, monkeypatch):
    one, other = UploadFolder(tmp_path), UploadFolder(tmp_path)
    remove_old = other._remove_old
    monkeypatch.setattr(other, "_remove_old", lambda: (one.clear(), remove_old()))
    assert other.replace({"a": bytearray(b"x")})[0].read_bytes() == b"x"


@pytest.mark.slow
def test_dcf77_is_found_in_three_recordings(page, real, tmp_path):
    folder = real / "kiwisdr_dcf77_2020"
    page.position = DCF77
    located(page, contents(folder.glob("*.wav")), (folder / "receivers.csv").read_bytes())
    assert not page._alert.visible, page._alert.object
    direct = hl.read_kiwi(sorted(folder.glob("*.wav")), folder / "receivers.csv", transmitter=(50.0152, 9.0112))
    expected = float(errors.position_errors(direct, hl.locate(direct, "tdoa_ls")).error[0])
    assert page._fix_rows.value.error_m[0] == pytest.approx(expected, abs=0.1)
    assert expected < 5e3
    assert "from the true position" in page._summary.object
    points = {f["properties"]["kind"]: f for f in json.load(page._geojson_file())["features"]}
    assert points["transmitter"]["geometry"]["coordinates"] == [9.0112, 50.0152]
    assert points["fix"]["properties"]["method"] == "tdoa_ls"
    assert left(tmp_path) == []


def test_wavs_of_sdr_programs_are_read_and_their_clocks_are_said(page):
    rng = np.random.Generator(np.random.Philox(6))
    content = hdsdr_bytes(lambda t: 0.1 * rng.standard_normal((len(t), 2)) @ [1, 1j], 12_000, seconds=0.1)
    table = b"name,latitude_deg,longitude_deg\nnorth,46.0001,7.0001\neast,45.0001,8.0001\nwest,45.0001,6.0001\n"
    located(
        page, {f"{name}_HDSDR_20160101_231914Z_RF.wav": bytearray(content) for name in ("north", "east", "west")}, table
    )
    assert not page._alert.visible, page._alert.object
    assert "time differences tell nothing here" in page._summary.object
    assert not page.fixes.converged.any()


def test_another_method_needs_no_other_upload(page, recorded):
    files, dataset = recorded
    located(page, files)
    page.method = "centroid"
    asyncio.run(page.locate())
    np.testing.assert_allclose(page.fixes.latitude, hl.locate(dataset, "centroid").latitude, rtol=1e-12)
    page.window = "0.01"
    asyncio.run(page.locate())
    assert "upload them again" in page._fields["window"].helper_text


@pytest.mark.slow
def test_what_is_stated_anew_is_measured_before_tables_show_it(page, recorded):
    """What is stated changes what is measured: fixes and differences are the package's each time."""
    files, dataset = recorded
    located(page, files)
    assumed = page._difference_rows.value.copy()
    for stated in ({"path_delay": "5000"}, {"propagation": "ground_wave", "path_delay": ""}, {"propagation": ""}):
        for name, value in stated.items():
            setattr(page, name, value)
        asyncio.run(page.locate())
        assert not page._alert.visible, page._alert.object
        paths = page.propagation or None, 5e-3 if page.path_delay else None
        expected = with_measurements(propagation.restated(dataset, *paths))
        assert paths_sentence(expected) in page._summary.object
        assert page.dataset.measured_of.equals(expected.measured_of)
        shown = difference_table(expected)
        for column in shown.columns.intersection(page._difference_rows.value.columns):
            assert page._difference_rows.value[column].tolist() == pytest.approx(shown[column].tolist(), nan_ok=True)
        np.testing.assert_allclose(page.fixes.covariance, hl.locate(expected, "tdoa_ls").covariance, rtol=1e-9)
    assert page._difference_rows.value.equals(assumed)


@pytest.mark.parametrize("view", ["Lines", "Network", "Ellipse"])
def test_every_view_draws_the_fix(page, recorded, view):
    located(page, recorded[0])
    page.view = view
    assert any(label.startswith("tdoa_ls") for label in (layer.label for layer in page._pane.object))


def test_a_model_of_another_rate_says_so(page, recorded):
    page.method = next(path for path in page.param.method.objects if "localiz" in path or "websdr" in path)
    files, _ = recorded
    broken = dict(files)
    for name in files:
        if name.endswith(("-meta", "-collection")):
            broken[name] = bytearray(
                bytes(files[name]).replace(b'"core:sample_rate": 50000.0', b'"core:sample_rate": 48e3')
            )
    broken = {name: content for name, content in broken.items() if not name.endswith("-collection")}
    located(page, broken)
    assert "was trained at 50000" in page._alert.object


def test_trained_models_are_offered(tmp_path):
    run = tmp_path / "runs" / "mine"
    run.mkdir(parents=True)
    (run / "model.onnx").write_bytes(b"")
    names = Locate(tmp_path).param.method.names
    assert set(hl.methods()) <= set(names)
    assert set(hl.pretrained()) <= set(names)
    assert names["runs/mine"] == str(run / "model.onnx")


@pytest.mark.parametrize(
    ("position", "message"),
    [("50", "is not latitude, longitude"), ("9,x", "is not latitude"), ("91, 9", "within ±90°"), ("nan, 1", "within")],
)
def test_a_position_that_is_none_is_told_beside_the_field(page, recorded, position, message):
    page.position = position
    located(page, recorded[0])
    field = page._fields["position"]
    assert field.error_state
    assert message in field.helper_text
    assert page.fixes is None
    page.position = ""
    asyncio.run(page.locate())
    assert not field.error_state
    assert page.fixes is not None


def test_an_altitude_is_given_in_metres_with_its_standard_deviation(page, recorded):
    files, dataset = recorded
    page.altitude = "9000 ± 300"
    located(page, files)
    assert not page._alert.visible, page._alert.object
    expected = hl.locate(dataset, "tdoa_ls", altitude_m=9000, altitude_sigma_m=300)
    np.testing.assert_allclose(page.fixes.altitude_sigma_m, expected.altitude_sigma_m, rtol=1e-6)
    np.testing.assert_allclose(page.fixes.latitude, expected.latitude, rtol=1e-9)
    page.altitude = "high"
    asyncio.run(page.locate())
    field = page._fields["altitude"]
    assert field.error_state
    assert field.helper_text == "'high' is no altitude in metres, as 9000, or 9000+-3000 with its standard deviation"


def test_the_page_says_what_a_fix_is_worth_and_of_what_its_error_is(page, recorded):
    files, dataset = recorded
    located(page, files)
    fixes = hl.locate(dataset, "tdoa_ls")
    place, status, budget, paths, *_ = page._summary.object.split("\n\n")
    assert paths == paths_sentence(dataset)
    assert place.startswith("**4")
    assert status == status_sentence(dataset, fixes, 0)
    assert budget == f"{budget_sentence(dataset, fixes, 0)} {remedy_sentence(dataset, fixes, 0)}"
    assert list(page._fix_rows.value.status) == list(fixes.status)
    details = page._detail_rows.value.set_index("quantity").value
    assert details["error by noise"] == length_text(float(fixes.budget.sel(sample=0, cause="noise")))
    page.sample = 1
    assert status_sentence(dataset, fixes, 1) in page._summary.object
    pd.testing.assert_frame_equal(page._budget_rows.value, budget_table(dataset, fixes, 1))
    page.view = "Budget"
    bars = page._pane.object.traverse(lambda layer: layer, [hv.Bars])[0]
    in_all = np.sqrt(np.trace(fixes.covariance.sel(sample=1)))
    assert bars.dimension_values("rms_error").max() == pytest.approx(in_all)
    page.dark = True
    page.view = "Lines"
    assert not page._alert.visible


@pytest.mark.parametrize("window", ["x", "0", "-1", "nan", "1e9"])
def test_a_window_that_is_none_is_told_beside_the_field(page, recorded, window):
    page.window = window
    located(page, recorded[0])
    assert page._fields["window"].error_state
    assert page.fixes is None


def test_windows_are_fixed_one_by_one(page, recorded):
    page.window = "0.01"
    located(page, recorded[0])
    assert page.fixes.sizes["sample"] == 4
    assert page._joined.visible


def test_a_broken_recording_is_refused_by_its_name(page, recorded, tmp_path):
    files = dict(recorded[0])
    name = next(name for name in files if name.endswith("-data"))
    files[name] = files[name][:-3]
    located(page, files)
    assert page._alert.object.startswith(name)
    assert str(tmp_path) not in page._alert.object
    assert page.fixes is None
    page.discard()
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "none are uploaded"),
        ({"notes.txt": b"x"}, r"notes.txt: is no recording"),
        ({"a.wav": b"x"}, "receivers: are missing"),
        ({"a.wav": b"x", "b.sigmf-meta": b"{}"}, "mixed"),
        ({"a.sigmf-data": b"x"}, "none ends in .sigmf-meta"),
        ({"a.sigmf": b"x" * 600}, "a.sigmf: is no SigMF archive"),
        ({"a.sigmf-meta": b"{"}, "a.sigmf-meta"),
    ],
)
def test_files_that_are_no_recordings_are_told(page, files, message):
    located(page, {name: bytearray(content) for name, content in files.items()})
    assert page._alert.visible
    assert message in page._alert.object


def test_new_recordings_take_the_place_of_the_old(page, recorded, tmp_path):
    located(page, recorded[0])
    asyncio.run(page.set_recordings({"a.wav": bytearray(b"x")}))
    assert page.fixes is None
    assert page._download.disabled
    asyncio.run(page.set_recordings({"b.wav": bytearray(b"x")}))
    assert [path.name for path in tmp_path.rglob("*.wav")] == ["b.wav"]


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a\\b", "..", ".", "", "a\x00b", "x" * 300])
def test_names_that_lead_elsewhere_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="rename the file"):
        safe_name(name)
    with pytest.raises(ValueError, match="rename the file"):
        UploadFolder(tmp_path / "inner").replace({name: bytearray(b"x")})
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_names_of_recordings_may_hold_colons(tmp_path):
    (path,) = UploadFolder(tmp_path).replace({"north_12:00:00.sigmf-data": bytearray(b"x")})
    assert path.name == "north_12:00:00.sigmf-data"


class Browser:
    """The browser's side of an upload."""

    def __init__(self, limit_bytes):
        self.received, self.refused = [], []
        self.widget = FileInput(self.received.append, self.refused.append, limit_bytes, "use less", multiple=True)

    def send(self, *pieces):
        self.widget._handle_msg({"status": "initializing"})
        for number, (name, data) in enumerate(pieces, start=1):
            piece = {"name": name, "chunk": number, "total_chunks": 9, "mime_type": "", "data": data}
            self.widget._handle_msg({"status": "upload_event", **piece})
        self.widget._handle_msg({"status": "finished"})


def test_pieces_are_put_together():
    browser = Browser(10)
    browser.send(("a", b"12"), ("a", b"34"), ("b", b"5"))
    assert browser.received == [{"a": b"1234", "b": b"5"}]
    assert browser.refused == []


def test_files_that_are_too_large_together_are_refused_and_forgotten():
    browser = Browser(10)
    browser.send(("a", b"123456"), ("b", b"78901"), ("b", b"2"))
    assert browser.received == []
    assert browser.refused == ["upload: the files are larger than 1e-05 MB together; use less"]
    assert browser.widget._contents == {}
    browser.send(("a", b"1234567890"))
    assert browser.received == [{"a": b"1234567890"}]


def test_what_the_browser_refuses_is_told():
    browser = Browser(MAX_UPLOAD_BYTES)
    browser.widget._handle_msg({"status": "error", "error": 'File "a" (238.42 MB) exceeds maximum file size'})
    assert browser.refused == ["upload: the files are larger than 200 MB together; use less"]


def test_what_a_killed_server_left_is_removed_after_a_day(tmp_path, monkeypatch):
    old = tmp_path / "uploads" / "old"
    old.mkdir(parents=True)
    (old / "x.wav").write_bytes(b"x")
    uploaded = UploadFolder(tmp_path)
    uploaded.replace({"a": bytearray(b"x")})
    assert old.exists()
    monkeypatch.setattr(uploads, "_MAX_AGE_S", -1.0)
    uploaded.replace({"a": bytearray(b"x")})
    assert not old.exists()
    uploaded.clear()
    assert left(tmp_path) == []
