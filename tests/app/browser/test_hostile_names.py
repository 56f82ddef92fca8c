"""Names and messages that are scripts are shown as they are by every page and by the report, and none runs."""

import json
import shutil
from contextlib import contextmanager
from dataclasses import replace

import pytest
from dashboards import dashboard, submitted
from playwright.sync_api import expect

import heimdall_lab as hl
from heimdall_lab.app.service import tasks
from heimdall_lab.core.receivers import italian_network
from heimdall_lab.learning.export import export_onnx
from heimdall_lab.learning.registry import ARCHITECTURES

HOSTILE = "<img src=x onerror=alert(1)>"  # also a name of a file, and short enough for that of a station
PAIRS = "</script><script>alert(1)</script>"


@pytest.fixture
def hostile_page(as_visitor):
    """A page, of options, in which no dialog may open and no element may be made of a name."""

    @contextmanager
    def opened(**options):
        with as_visitor(**options) as context:
            context.clear_cookies()
            page, dialogs = context.new_page(), []
            page.on("dialog", lambda dialog: (dialogs.append(page.url), dialog.dismiss()))
            yield page
            assert page.locator("img[src=x]").count() == 0
        assert dialogs == []

    return opened


@pytest.fixture(scope="module")
def config():
    """A small dataset of stations with such names."""
    stations = [
        station.model_copy(update={"name": f"{number}{PAIRS if number % 2 else HOSTILE}"})
        for number, station in enumerate(italian_network())
    ]
    return hl.preset(
        "los_sync", num_samples=12, seed=3, shard_size=4, signal={"duration_s": 0.02}, geometry={"receivers": stations}
    )


@pytest.fixture(scope="module")
def root(config, trained, tmp_path_factory):
    """A data folder in which everything that has a name has such a one."""
    root = tmp_path_factory.mktemp("hostile") / "data"
    hl.generate(config, out=root / HOSTILE, progress=False)
    shutil.copytree(root / HOSTILE, root / f"broken{HOSTILE}")
    (root / f"broken{HOSTILE}" / "dataset.json").write_text(json.dumps({"version": HOSTILE}))
    (root / "networks").mkdir()
    (root / "networks" / f"{HOSTILE}.csv").write_text(f"name,latitude_deg,longitude_deg\n{HOSTILE},45,900\n")
    for name in ("fits", "broken"):
        (root / "runs" / f"{name}{HOSTILE}").mkdir(parents=True)
    about = {**trained.about, "dataset": HOSTILE, "description": HOSTILE}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ARCHITECTURES, HOSTILE, ARCHITECTURES["triangulation"])
        run = root / "runs" / f"fits{HOSTILE}"
        export_onnx(replace(trained, architecture=HOSTILE, about=about), run / "model.onnx")
    (root / "runs" / f"broken{HOSTILE}" / "model.onnx").write_text(HOSTILE)
    training = tasks.Training(folder="run", dataset=HOSTILE, architecture=HOSTILE)
    for number, task in enumerate([tasks.Generation(folder="other", config=config), training]):
        ended = {"state": "failed", "message": HOSTILE + PAIRS, "at": "2020-01-01T00:00:02+00:00"}
        (submitted(root, task, number) / "ended.json").write_text(json.dumps(ended))
        (root / "jobs" / f"20200101T000000000000-{number:04x}" / "log.txt").write_text(HOSTILE + PAIRS)
    return root


@pytest.mark.slow  # of each component by itself: test_texts.py
def test_no_page_runs_a_name_even_without_a_policy_for_scripts(hostile_page, root, tmp_path):
    recording = tmp_path / "a&amp;b.sigmf-meta"
    recording.write_text(json.dumps({"global": {"core:datatype": HOSTILE}, "captures": [], "annotations": []}))
    samples = recording.with_suffix(".sigmf-data")
    samples.write_bytes(b"samples")
    with dashboard(root.parent) as (_, url), hostile_page(bypass_csp=True) as page:
        page.goto(f"{url}datasets")
        expect(page.get_by_text(HOSTILE + PAIRS).first).to_be_visible()
        page.get_by_role("button", name="Log", exact=True).first.click()
        page.get_by_role("gridcell", name=HOSTILE, exact=True).click()
        expect(page.get_by_text("of 12 scenes")).to_be_visible()
        expect(page.locator(".bk-Canvas").first).to_be_visible()
        page.get_by_role("button", name="Delete", exact=True).click()
        expect(page.get_by_text(f"{HOSTILE}: ")).to_be_visible()
        page.get_by_role("button", name="Keep it").click()
        page.get_by_role("button", name="New dataset").click()
        expect(page.get_by_text(f"name: '{HOSTILE}'")).to_be_visible()
        page.goto(f"{url}geometry")
        page.get_by_role("combobox", name="Network").click()
        page.get_by_role("menuitem", name=HOSTILE).click()
        expect(page.get_by_text(f"name: '{HOSTILE}'").first).to_be_visible()
        page.goto(f"{url}features")
        expect(page.locator(".bk-Canvas").first).to_be_visible()
        page.goto(f"{url}train")
        expect(page.get_by_text(f"training {HOSTILE} on {HOSTILE}, run run")).to_be_visible()
        page.goto(f"{url}compare?dataset={HOSTILE}{PAIRS}")
        expect(page.get_by_text(f"dataset: '{HOSTILE}{PAIRS}'")).to_be_attached()
        page.goto(f"{url}compare")
        expect(page.get_by_text(f"/broken{HOSTILE}/model.onnx' is damaged").last).to_be_visible()
        page.get_by_label(f"runs/fits{HOSTILE}", exact=True).check()
        for name in ("centroid", "strongest", "rss_ml", "dpd"):
            page.get_by_label(name, exact=True).uncheck()
        page.get_by_role("button", name="Compare", exact=True).click()
        expect(page.get_by_role("gridcell", name=HOSTILE).first).to_be_visible()
        for tab in ("Error distribution", "Error map", "Scene"):
            page.get_by_role("tab", name=tab).click()
            expect(page.locator(".bk-Canvas").first).to_be_visible()
        page.get_by_role("tab", name="Leaderboard").click()
        with page.expect_download(timeout=120_000) as download:
            page.get_by_text("Report (HTML)").click()
        page.goto(f"{url}locate")
        upload = page.locator("input[type=file]").first
        upload.set_input_files({"name": HOSTILE, "mimeType": "", "buffer": b"x"})
        expect(page.get_by_text("1 file, ")).to_be_visible()
        page.get_by_role("button", name="Locate", exact=True).click()
        expect(page.get_by_text(f"{HOSTILE}: is no recording")).to_be_visible()
        upload.set_input_files([recording, samples])
        expect(page.get_by_text("2 files, ")).to_be_visible()
        page.get_by_role("button", name="Locate", exact=True).click()
        expect(page.get_by_text(f"a&amp;b.sigmf-meta: core:datatype: '{HOSTILE}'")).to_be_visible()
        report = shutil.copy(download.value.path(), tmp_path / "report.html")
        page.goto(report.as_uri())
        expect(page.get_by_text(f"7 receivers: 0{HOSTILE}, 1{PAIRS}")).to_be_visible()
        expect(page.locator(".bk-Canvas")).not_to_have_count(0)


@pytest.mark.slow  # the headers by themselves: test_server.py
def test_browsers_run_no_script_but_the_servers_own(hostile_page, root):
    with dashboard(root.parent) as (_, url), hostile_page() as page:
        page.goto(f"{url}datasets")
        page.get_by_role("button", name="New dataset").wait_for()
        ran = page.evaluate(
            """async () => {
                window.ran = []
                const refused = []
                document.addEventListener("securitypolicyviolation", event => refused.push(event.violatedDirective))
                document.body.insertAdjacentHTML("beforeend", "<img src=y onerror='window.ran.push(1)'>")
                const script = document.createElement("script")
                script.textContent = "window.ran.push(2)"
                document.body.append(script)
                setTimeout(() => eval("window.ran.push(3)"))  // later: what Playwright calls itself may do so
                const form = document.createElement("form")
                form.action = "https://example.org/"
                document.body.append(form)
                form.submit()
                await new Promise(resolve => setTimeout(resolve, 1000))
                return [window.ran, new Set(refused).size]
            }"""
        )
        assert ran[0] == []
        assert ran[1] >= 3


@pytest.mark.slow
def test_the_button_logs_out(page, tmp_path):
    with dashboard(tmp_path, "--basic-auth", "right") as (_, url):
        page.goto(f"{url}compare")
        page.get_by_label("Name").fill("ada")
        page.get_by_label("Password").fill("right")
        page.get_by_role("button", name="Log in").click()
        expect(page).to_have_url(f"{url}compare")
        page.get_by_text("Log out").click()
        expect(page.get_by_text("You are logged out.")).to_be_visible()
        page.goto(f"{url}compare")
        expect(page.get_by_role("button", name="Log in")).to_be_visible()
