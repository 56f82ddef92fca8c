"""Links are selected in one picture and marked in all, in a browser."""

import pytest
from playwright.sync_api import expect

from heimdall_lab.app.pages.features import Features


def drag(page, box, left, right):
    """Draw a box across a figure, between shares of its width."""
    x, y = (box["x"] + box["width"] * share for share in (left, right)), box["y"] + box["height"] / 2
    start, end = x
    page.mouse.move(start, y - 30)
    page.mouse.down()
    page.mouse.move((start + end) / 2, y)
    page.mouse.move(end, y + 30)
    page.mouse.up()


@pytest.mark.slow
def test_a_selection_is_counted_and_cleared(page, served, data_folder):
    viewers = []
    page.goto(served("features", data_folder, lambda **given: viewers.append(Features(**given)) or viewers[-1]))
    figures = page.locator(".bk-Figure")
    expect(figures).to_have_count(5)
    expect(page.get_by_text("Nothing is selected")).to_be_visible()
    drag(page, figures.nth(2).bounding_box(), 0.3, 0.6)  # the first histogram
    expect(page.get_by_text("links, of")).to_be_visible()
    viewer = viewers[-1]
    chosen = viewer.table.rssi_dbm.iloc[viewer.selected]
    between = viewer.table.rssi_dbm.between(chosen.min(), chosen.max())
    assert 0 < len(chosen) == between.sum() < len(viewer.table)
    counted = [pane.object.renderers[1].data_source for pane in viewer._histograms]  # what the browser writes there
    for _ in range(300):  # ends hangs only
        found = [int(sum(bins.data["selected"])) for bins in counted]
        if found == [len(chosen)] * 3:
            break
        page.wait_for_timeout(100)
    assert found == [len(chosen)] * 3
    page.get_by_role("button", name="Clear selection").click()
    expect(page.get_by_text("Nothing is selected")).to_be_visible()
    page.get_by_role("tab", name="Against the truth").click()
    expect(page.get_by_text("On the dashed line a feature is the truth.")).to_be_visible()
