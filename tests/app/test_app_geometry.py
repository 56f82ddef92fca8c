"""The page of a network: what it shows is what the package computes, and what is refused leaves it as it was."""

import asyncio

import numpy as np
import pytest
from bokeh.events import Tap
from dashboards import until

import heimdall_lab as hl
from heimdall_lab.app.pages import geometry
from heimdall_lab.app.pages.geometry import ITALY, Geometry
from heimdall_lab.core.receivers import italian_network, load_network, receivers_csv, save_network
from heimdall_lab.simulation import coverage

pytestmark = pytest.mark.usefixtures("one_loop")


@pytest.fixture(autouse=True)
def no_debounce(monkeypatch):
    """Do not wait for further changes where there are none."""
    monkeypatch.setattr(geometry, "_DEBOUNCE_S", 0.0)


@pytest.fixture
def page(tmp_path):
    return Geometry(tmp_path)


def layer(page, name):
    return next(renderer for renderer in page._figure.renderers if renderer.name == name)


def shown(page):
    return np.asarray(layer(page, "field").data_source.data["image"][0])


def expected(receivers, variable, area, **channel):
    """The map by the package itself, from a configuration made here."""
    listed = [receiver.model_dump() for receiver in receivers]
    channel = {"clock": "gpsdo", "diffraction": "smooth_earth"} | channel
    gate = {"min_receivers": 3}
    config = hl.preset("los_sync", max_receivers=15, geometry={"receivers": listed}, channel=channel, gate=gate)
    (west, east), (south, north) = area
    return coverage.bound_map(config, np.linspace(south, north, 100), np.linspace(west, east, 100))[variable].values


def dragged(page, name, longitude_deg, latitude_deg):
    source = layer(page, "receivers").data_source
    data = {column: np.array(values) for column, values in source.data.items()}
    row = list(data["receiver"]).index(name)
    data["longitude_deg"][row], data["latitude_deg"][row] = longitude_deg, latitude_deg
    source.data = data


@pytest.mark.parametrize("quantity", ["gdop", "crlb_rmse", "cep50"])
def test_the_map_is_that_of_the_package(page, quantity):
    page.quantity = quantity
    np.testing.assert_allclose(shown(page), expected(italian_network(), quantity, page._area), rtol=1e-6)


@pytest.mark.parametrize("channel", [{"clock": "ntp"}, {"clock": "none"}, {"diffraction": "none"}])
def test_the_map_follows_the_controls(page, channel):
    page.param.update(**channel)
    np.testing.assert_allclose(shown(page), expected(page.receivers, "crlb_rmse", page._area, **channel), rtol=1e-6)


def test_more_power_lowers_the_bound_and_a_higher_threshold_blanks(page):
    before = shown(page)
    page.power_dbm = 20.0
    assert np.nanmean(shown(page)) > np.nanmean(before)
    page.min_snr_db = 60.0
    assert np.isnan(shown(page)).all()


def test_a_dragged_receiver_moves_the_map_and_the_table_but_not_the_area(page):
    area, figure = page._area, page._figure
    dragged(page, "Torino", 8.2, 44.7)
    torino = page.receivers[2]
    assert (torino.longitude_deg, torino.latitude_deg, torino.altitude_m) == (8.2, 44.7, 250)
    assert page._table.value.longitude_deg[2] == 8.2
    np.testing.assert_allclose(shown(page), expected(page.receivers, "crlb_rmse", area), rtol=1e-6)
    assert page._area == area
    assert page._figure is figure


def test_a_receiver_dragged_too_far_goes_back_and_says_why(page):
    before = shown(page)
    dragged(page, "Torino", 25.0, 44.7)
    assert "span more than 10 degrees" in page._alert.object
    assert page._alert.visible
    assert page.receivers == italian_network()
    assert layer(page, "receivers").data_source.data["longitude_deg"][2] == 7.672
    np.testing.assert_array_equal(shown(page), before)
    dragged(page, "Torino", 7.7, 45.0)
    assert not page._alert.visible


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("latitude_deg", 95.0, "latitude_deg: 95.0 is refused"),
        ("longitude_deg", None, "longitude_deg"),
        ("altitude_m", 1e6, "altitude_m"),
        ("name", "Genova", "two have the same name"),
        ("name", "", "name"),
    ],
)
def test_a_cell_that_is_refused_is_told_and_put_back(page, column, value, message):
    page._on_edit(0, column, value)
    assert message in page._alert.object
    assert page._table_alert.visible
    assert page._table_alert.object == page._alert.object
    assert page.receivers == italian_network()
    assert page._table.value[column][0] == getattr(italian_network()[0], column)


@pytest.mark.slow
def test_networks_have_3_to_15_receivers(page):
    for name in [receiver.name for receiver in page.receivers][:4]:
        page.remove(name)
    page.remove(page.receivers[0].name)
    assert len(page.receivers) == 3
    assert "at least 3" in page._alert.object
    for number in range(13):
        page.add(45.0 + number / 100, 8.0)
    assert len(page.receivers) == 15
    assert "more than 15" in page._alert.object
    assert page._add_best.disabled


def test_receivers_at_two_places_are_refused(page):
    page.set_receivers([receiver.model_dump() for receiver in italian_network()[:3]])
    dragged(page, "Torino", 7.27, 45.03)
    assert "stand at 2 places" in page._alert.object
    assert len({(r.latitude_deg, r.longitude_deg) for r in page.receivers}) == 3


def test_the_best_site_is_that_of_the_package_and_is_added(page):
    star = layer(page, "site").data_source.data
    place = float(star["latitude_deg"][0]), float(star["longitude_deg"][0])
    area = [np.linspace(*limits, 25) for limits in page._area[::-1]]
    found = coverage.best_site(page._config, *area)
    assert place == (float(found.best_latitude), float(found.best_longitude))
    gain = 1 - float(found.mean_rmse.min() / found.mean_rmse_now)
    assert f"{gain:.0%}" in page._site_note.object
    before = np.nanmean(shown(page))
    page._add_best.clicks += 1
    assert len(page.receivers) == 8
    assert page.receivers[-1].name == "R1"
    assert np.nanmean(shown(page)) < before


def test_a_click_tells_the_numbers_of_a_point(page):
    page._figure._trigger_event(Tap(page._figure, x=8.1, y=44.9))
    point = coverage.bound_map(page._config, np.array([44.9]), np.array([8.1]))
    assert f"GDOP {float(point.gdop[0, 0]):.2f}" in page._point_note.object
    assert "7 of 7 receivers with signal" in page._point_note.object
    outline = layer(page, "ellipse").data_source.data
    assert len(outline["longitude_deg"]) > 10
    assert min(outline["longitude_deg"]) < 8.1 < max(outline["longitude_deg"])


def test_clicks_add_and_remove(page):
    page.click = "Add"
    page._figure._trigger_event(Tap(page._figure, x=8.1, y=44.9))
    assert (page.receivers[-1].longitude_deg, page.receivers[-1].latitude_deg) == (8.1, 44.9)
    page.click = "Remove"
    page._figure._trigger_event(Tap(page._figure, x=8.3, y=44.9))
    assert len(page.receivers) == 8
    page._figure._trigger_event(Tap(page._figure, x=8.101, y=44.901))
    assert page.receivers == italian_network()


def test_the_area_follows_on_demand(page):
    dragged(page, "Torino", 6.0, 45.0)
    before = page._area
    page.set_receivers(page._rows(), fit=True)
    assert page._area[0][0] < 6.0 < before[0][0]
    assert page._figure.x_range.start == page._area[0][0]


def test_saving_asks_before_it_replaces_and_refuses_names_beside_the_field(page, tmp_path):
    page._name.value = "../x"
    asyncio.run(page.save())
    assert page._name.error_state
    assert "letters" in page._name.helper_text
    assert list(tmp_path.iterdir()) == []
    page._name.value = "mine"
    asyncio.run(page.save())
    assert not page._name.error_state
    assert load_network(tmp_path, "mine") == italian_network()
    page.remove("Torino")
    asyncio.run(page.save())
    assert page._replace_dialog.open
    assert len(load_network(tmp_path, "mine")) == 7
    asyncio.run(page.save(replace=True))
    assert not page._replace_dialog.open
    assert len(load_network(tmp_path, "mine")) == 6


def test_saved_networks_are_chosen_and_fitted(tmp_path):
    far = [r.model_copy(update={"longitude_deg": r.longitude_deg + 20}) for r in italian_network()]
    save_network(far, tmp_path, "far")
    again = Geometry(tmp_path)
    assert again._choice.options == [ITALY, "far"]
    again._choice.value = "far"
    assert again.receivers == tuple(far)
    assert again._area[0][0] > 26


def test_an_uploaded_network_is_shown_or_refused_by_the_line_at_fault(page):
    page._on_upload({"mine.csv": bytearray(receivers_csv(italian_network()[:4]).encode())})
    assert len(page.receivers) == 4
    page._on_upload({"bad.csv": bytearray(b"name,latitude_deg,longitude_deg\nA,45,seven\n")})
    assert "bad.csv line 2: longitude_deg" in page._alert.object
    assert len(page.receivers) == 4


def test_a_dark_page_keeps_the_data_and_changes_the_ink(page):
    before = shown(page)
    page.dark = True
    np.testing.assert_array_equal(shown(page), before)
    assert layer(page, "names").glyph.text_color == "#ffffff"


def test_bandwidths_that_contradict_each_other_are_told(page):
    page.rms_bandwidth_khz = 10.0
    assert "exceeds half" in page._alert.object


@pytest.mark.parametrize("changes", [[("min_snr_db", 60.0)], [("power_dbm", -60.0), ("min_snr_db", -30.0)]])
def test_controls_at_their_bounds_draw_a_map(page, changes):
    for name, value in changes:
        page.param.update(**{name: value})
    assert not page._alert.visible
    np.testing.assert_array_equal(shown(page), page.bound.crlb_rmse.values.astype(np.float32))


def test_what_cannot_be_drawn_or_sought_is_told(page, monkeypatch):
    def refused(*_):
        raise ValueError("bound: is refused; change it")

    monkeypatch.setattr(coverage, "best_site", refused)
    page.power_dbm = 36.0
    assert page._alert.object == "bound: is refused; change it"
    assert page._alert.visible
    assert "could not be found" in page._site_note.object
    assert page._add_best.disabled
    page._alert.visible = False
    monkeypatch.setattr(geometry.plots, "redraw_network", refused)
    page.quantity = "gdop"
    assert page._alert.visible


@pytest.mark.slow
def test_the_best_site_is_sought_once_after_changes_end(tmp_path, monkeypatch):
    sought = []
    best_site = coverage.best_site
    monkeypatch.setattr(coverage, "best_site", lambda *arguments: sought.append(arguments) or best_site(*arguments))
    monkeypatch.setattr(geometry, "_DEBOUNCE_S", 0.3)

    async def steps():
        page = Geometry(tmp_path)
        for power_dbm in (36.0, 35.0, 34.0):
            page.power_dbm = power_dbm
            await asyncio.sleep(0.02)
        for _ in range(50):
            await asyncio.sleep(0.1)
            if page._site is not None:
                break

    asyncio.run(steps())
    assert [arguments[-1].power_dbm for arguments in sought] == [34.0]


@pytest.mark.slow
def test_a_page_with_an_event_loop_ends_with_the_site_of_the_last_network(tmp_path):
    async def steps():
        page = Geometry(tmp_path)
        for longitude_deg in (7.7, 7.8, 7.9):
            dragged(page, "Torino", longitude_deg, 45.0)
        found = coverage.best_site(page._config, *(np.linspace(*limits, 25) for limits in page._area[::-1]))
        await until(lambda: page._site == (float(found.best_longitude), float(found.best_latitude)))
        await asyncio.sleep(0.5)  # nothing comes after it
        assert page._site == (float(found.best_longitude), float(found.best_latitude))

    asyncio.run(steps())
