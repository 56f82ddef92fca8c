"""Methods are compared by a click, and a click on the error map opens a scene, in a browser."""

from functools import partial

from playwright.sync_api import expect

from heimdall_lab.app.pages.compare import Compare


def test_from_the_question_to_one_scene(page, served, data_folder):
    page.goto(served("compare", data_folder, partial(Compare, methods=["tdoa_ls", "centroid"])))
    expect(page.get_by_text("24 scenes, 2 methods")).to_be_visible()
    page.get_by_role("button", name="Compare").click()
    expect(page.get_by_role("tab", name="Leaderboard")).to_be_visible()
    cells = page.locator(".tabulator-row [tabulator-field=method]")
    expect(cells).to_have_text(["tdoa_ls", "centroid"])
    with page.expect_download() as csv:
        page.get_by_text("Leaderboard (CSV)").click()
    assert csv.value.path().read_text(encoding="utf-8").startswith("method,by,bin")
    for tab in ("Error distribution", "Honest ellipses", "By conditions"):
        page.get_by_role("tab", name=tab).click()
        expect(page.locator(".bk-Figure:visible")).to_have_count(1)
    page.get_by_role("tab", name="Error map").click()
    figure = page.locator(".bk-Figure:visible")
    expect(figure).to_have_count(1)
    page.wait_for_timeout(500)  # drawn after it is there
    box = figure.bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.4, box["y"] + box["height"] * 0.5)
    expect(page.get_by_role("tab", name="Scene")).to_have_attribute("aria-selected", "true")
    expect(page.locator(".bk-Figure:visible")).to_have_count(1)
