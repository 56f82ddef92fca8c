"""The page that locates recordings in a browser: files in, a fix out."""

import pytest
from playwright.sync_api import expect

import heimdall_lab as hl


@pytest.fixture
def opened(page, served, tmp_path):
    page.goto(served("locate", tmp_path / "root"))
    return page  # its tests upload as soon as there is a button, before the page has loaded


def test_recordings_are_located_and_downloaded(opened, small_dataset, tmp_path):
    collection = hl.write_sigmf(small_dataset.isel(sample=slice(1)), tmp_path / "recorded")
    opened.locator("input[type=file]").first.set_input_files(sorted(collection.parent.iterdir()))
    expect(opened.get_by_text("files, ")).to_be_visible()
    opened.get_by_role("button", name="Locate", exact=True).click()
    expect(opened.get_by_text("by tdoa_ls; 95 % ellipse")).to_be_visible()
    assert [path.name for path in (tmp_path / "root").rglob("*")] == ["uploads"]  # empty again
    with opened.expect_download() as download:
        opened.get_by_text("Download GeoJSON").click()
    assert '"FeatureCollection"' in download.value.path().read_text()


def test_a_broken_recording_is_told_in_the_page(opened, tmp_path):
    broken = tmp_path / "broken.sigmf-meta"
    broken.write_text("{")
    opened.locator("input[type=file]").first.set_input_files(broken)
    expect(opened.get_by_text("1 file, ")).to_be_visible()
    opened.get_by_role("button", name="Locate", exact=True).click()
    expect(opened.get_by_text("broken.sigmf-meta: ")).to_be_visible()


@pytest.mark.slow
def test_files_above_the_limit_are_refused_and_the_page_lives_on(opened, tmp_path):
    large = [tmp_path / f"{name}.wav" for name in "ab"]
    for file in large:
        with file.open("wb") as written:
            written.truncate(110_000_000)
    opened.locator("input[type=file]").first.set_input_files(large)
    expect(opened.get_by_text("larger than 200 MB together")).to_be_visible()
    small = tmp_path / "small.wav"
    small.write_bytes(b"x")
    opened.locator("input[type=file]").first.set_input_files(small)
    expect(opened.get_by_text("1 file, ")).to_be_visible()
