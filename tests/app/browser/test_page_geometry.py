"""The page of a network in a browser."""

import pytest
from playwright.sync_api import expect

# Watches the source of the map's colours, and tells where the figure and a receiver are on the screen.
WATCH = """() => {
  const models = [...Bokeh.documents[0]._all_models.values()];
  const layer = (name) => models.find((model) => model.type === "GlyphRenderer" && model.name === name);
  window.changes = 0;
  layer("field").data_source.properties.data.change.connect(() => { window.changes += 1; });
  window.receivers = layer("receivers").data_source;
  window.figure = models.find((model) => model.type === "Figure");
  window.field = layer("field").data_source;
}"""
PLACE = """(index) => {
  const walk = (view) => view.model === window.figure ? view : (view.child_views ?? []).map(walk).find((one) => one);
  const view = [...Bokeh.index.roots ?? Object.values(Bokeh.index)].map(walk).find((one) => one);
  const left = view.canvas_view.el.getBoundingClientRect(), frame = view.frame.bbox, columns = window.receivers.data;
  const share = (value, range) => (value - range.start) / (range.end - range.start);
  return [left.left + frame.left + frame.width * share(columns.longitude_deg[index], window.figure.x_range),
          left.top + frame.top + frame.height * (1 - share(columns.latitude_deg[index], window.figure.y_range))];
}"""


@pytest.fixture
def opened(page, served, tmp_path):
    page.goto(served("geometry", tmp_path))
    expect(page.get_by_text("Best place for one more receiver")).to_be_visible()
    page.wait_for_function("Bokeh.documents[0]?.is_idle")  # laid out
    page.evaluate(WATCH)
    return page


def drag(page, index, right_px):
    x, y = page.evaluate(PLACE, index)
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + right_px, y, steps=5)
    page.evaluate("window.changes = 0")
    page.mouse.up()
    page.wait_for_function("window.changes > 0")
    page.wait_for_timeout(500)


def test_the_map_follows_a_drag_and_keeps_its_zoom(opened):
    before = opened.evaluate("window.receivers.data.longitude_deg[2]")
    limits = opened.evaluate("[window.figure.x_range.start, window.figure.x_range.end]")
    figure = opened.evaluate("window.figure.id")
    for right_px in (40, -40, 40):
        drag(opened, 2, right_px)
    assert opened.evaluate("window.receivers.data.longitude_deg[2]") > before + 0.05
    assert opened.evaluate("[window.figure.x_range.start, window.figure.x_range.end]") == limits
    assert opened.evaluate("window.figure.id") == figure


def test_a_click_tells_a_point_and_adds_a_receiver(opened):
    x, y = opened.evaluate(PLACE, 2)
    opened.mouse.click(x + 60, y + 60)
    expect(opened.get_by_text("receivers with signal")).to_be_visible()
    opened.get_by_role("button", name="Add", exact=True).click()
    opened.wait_for_timeout(500)
    opened.mouse.click(x + 60, y + 60)
    opened.wait_for_function("window.receivers.data.receiver.length === 8")


@pytest.mark.slow
def test_a_name_that_leads_elsewhere_is_refused_beside_the_field(opened, tmp_path):
    opened.get_by_label("Save as").fill("../x")
    opened.get_by_role("button", name="Save", exact=True).click()
    expect(opened.get_by_text("is refused: use letters")).to_be_visible()
    opened.get_by_label("Save as").fill("mine")
    opened.get_by_role("button", name="Save", exact=True).click()
    expect(opened.get_by_text("Saved as networks/mine.csv")).to_be_visible()
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["mine.csv"]
