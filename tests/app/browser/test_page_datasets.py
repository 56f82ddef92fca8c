"""Several people look at datasets at once, in a browser each."""

import shutil
import time

import pytest
from playwright.sync_api import expect

import heimdall_lab as hl

NAMES = ["first", "second", "third"]

# Clicks one row after the other five times a second, while the pages beside it do the same.
CLICK_ROWS = """names => {
    const cells = root => [...root.querySelectorAll("*")].flatMap(element =>
        (element.role == "gridcell" ? [element] : []).concat(element.shadowRoot ? cells(element.shadowRoot) : []));
    let count = 0;
    window.clicking = setInterval(() => {
        const name = names[count++ % names.length];
        cells(document).find(cell => cell.textContent.trim() == name)?.click();
    }, 200);
}"""


@pytest.mark.slow  # threads that open and close files: tests/datasets/test_netcdf.py
def test_three_pages_that_click_rows_at_once_leave_the_server_alive(visitor, three_pages, serving, tmp_path):
    config = hl.preset("los_sync", num_samples=24, seed=5, shard_size=1, signal={"duration_s": 0.05})
    hl.generate(config, tmp_path / "data" / NAMES[0], progress=False)
    for name in NAMES[1:]:
        shutil.copytree(tmp_path / "data" / NAMES[0], tmp_path / "data" / name)
    with serving() as (process, url):
        for page in three_pages:
            page.goto(f"{url}datasets")
        for page in three_pages:
            page.get_by_role("gridcell", name=NAMES[-1], exact=True).wait_for()
        for page in three_pages:
            page.evaluate(CLICK_ROWS, NAMES)
        deadline = time.monotonic() + 40
        while time.monotonic() < deadline:
            three_pages[0].wait_for_timeout(500)
            assert process.poll() is None
        for page in three_pages:
            expect(page.get_by_text("of 24 scenes")).to_be_attached()
            expect(page.get_by_role("alert")).to_have_count(0)
            page.close()  # before the server, whose end it would report
        later = visitor.new_page()
        later.goto(f"{url}datasets")
        later.get_by_role("gridcell", name=NAMES[0], exact=True).click()
        expect(later.get_by_text("of 24 scenes")).to_be_visible()
        later.close()
        assert process.poll() is None
