"""The whole job by clicks: a dataset made, a model trained on it, compared and exported; jobs that nothing loses."""

import json
import os
import re
import shutil
import signal
import time
import urllib.request

import onnx
import pytest
from dashboards import dashboard
from playwright.sync_api import expect

import heimdall_lab as hl
from heimdall_lab.app.pages.frame import PAGES
from heimdall_lab.app.service import jobs

MOST_S = 120  # for what a process of its own does, on a busy machine


@pytest.fixture(scope="module")
def root(made, tmp_path_factory):
    """A data folder with the dataset ``los``, with IQ, which the tests share."""
    return shutil.copytree(made, tmp_path_factory.mktemp("pages") / "data")


@pytest.fixture(scope="module")
def bare(root):
    """Another dataset in it, ``bare``, without IQ."""
    hl.generate(hl.preset("uhf_mixed", num_samples=4, name="bare"), out=root / "bare", progress=False)


@pytest.fixture(scope="module")
def url(root):
    """Address of a server over it, which the tests share, too."""
    with dashboard(root.parent) as (_, address):
        yield address


def fill(page, label, value):
    field = page.get_by_label(label, exact=True)
    field.fill(str(value))
    field.press("Enter")


def ask_for(page, name, scenes, **fields):
    """Create a dataset by the dialog."""
    page.get_by_role("button", name="New dataset").click()
    page.get_by_label("name", exact=True).wait_for()
    fill(page, "name", name)
    fill(page, "num samples", scenes)
    for label, value in fields.items():
        fill(page, label.replace("_", " "), value)
    page.get_by_role("button", name="Generate").click()


def job_of(url, folder):
    """The job that makes a folder, once it is listed."""
    return wait_until(lambda: [job for job in listed(url) if job["task"]["folder"] == folder])[0]


def listed(url):
    with urllib.request.urlopen(f"{url}api/v1/jobs") as answer:
        return json.load(answer)


def wait_until(true, seconds=MOST_S):
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return found


@pytest.mark.slow
def test_every_page_opens_from_every_other(page, url):
    shown = {  # when a page is there, what it reads from files included
        "datasets": page.get_by_role("gridcell", name="los", exact=True),
        "geometry": page.get_by_text("Best place for one more receiver"),
        "features": page.get_by_text("Nothing is selected"),
        "train": page.get_by_role("button", name="triangulation", exact=True),
        "compare": page.get_by_text(re.compile("24 scenes, . methods")),
        "locate": page.get_by_text("Choose recordings").first,
    }
    page.goto(url)
    for name in [*PAGES, next(iter(PAGES))]:
        page.get_by_role("link", name=name.capitalize(), exact=True).click()
        expect(page).to_have_url(f"{url}{name}")
        expect(page.get_by_role("banner")).to_contain_text(name)
        page.locator("#loader").wait_for(state="hidden")
        expect(shown[name]).to_be_visible()


@pytest.mark.slow  # its steps one by one: below, in test_app_train.py and test_app_compare.py
def test_a_dataset_is_made_a_model_trained_compared_and_exported(page, url):
    page.goto(f"{url}datasets")
    ask_for(page, "clicked", 40, shard_size=20)
    expect(page.get_by_text("generating clicked")).to_be_visible()
    expect(page.get_by_role("row", name=re.compile("clicked.*complete"))).to_be_visible()
    page.goto(f"{url}train")
    page.get_by_role("button", name="triangulation", exact=True).wait_for()
    page.get_by_role("combobox", name="dataset").click()
    page.get_by_role("menuitem", name="clicked").click()
    page.get_by_role("button", name="triangulation", exact=True).click()
    page.get_by_role("button", name="Training", exact=True).click()
    fill(page, "epochs", 2)
    page.get_by_role("button", name="Train", exact=True).click()
    expect(page.get_by_text("triangulation on clicked, finished")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("button", name="Export ONNX").click()
    exported = onnx.load(download.value.path())
    assert "clicked" in {each.key: each.value for each in exported.metadata_props}["dataset"]
    page.get_by_role("link", name="Compare").last.click()
    expect(page).to_have_url(f"{url}compare?dataset=clicked")
    trained = page.get_by_label("runs/triangulation-clicked")
    expect(trained).to_be_visible()
    trained.check()
    page.get_by_role("button", name="Compare", exact=True).click()
    row = page.get_by_role("row", name=re.compile("^triangulation .* 30,598"))
    expect(row).to_be_visible()
    expect(page.get_by_role("row", name=re.compile("tdoa_robust"))).to_be_visible()


@pytest.mark.slow
@pytest.mark.usefixtures("bare")
def test_incompatible_choices_are_disabled_with_the_reason(page, url):
    page.goto(f"{url}train")
    page.get_by_role("button", name="triangulation", exact=True).wait_for()
    page.get_by_role("combobox", name="dataset").click()
    page.get_by_role("menuitem", name="los", exact=True).click()
    expect(page.get_by_role("button", name="localization_net")).to_be_disabled()
    expect(page.get_by_role("button", name="iq_vggnet")).to_be_enabled()
    expect(page.get_by_text("it takes feature_based")).to_be_visible()
    expect(page.get_by_text(re.compile(r"ConvNeXt.* 1 of \d datasets compatible"))).to_be_visible()


@pytest.mark.slow
def test_a_bad_value_is_refused_beside_its_field(page, url, root):
    page.goto(f"{url}datasets")
    page.get_by_role("button", name="New dataset").click()
    page.get_by_label("name", exact=True).wait_for()
    fill(page, "num samples", 0)
    expect(page.get_by_text("Input should be greater than or equal to 1")).to_be_visible()
    expect(page.get_by_role("button", name="Generate")).to_be_disabled()
    fill(page, "num samples", 8)
    expect(page.get_by_role("button", name="Generate")).to_be_enabled()
    fill(page, "name", "../outside")
    expect(page.get_by_role("button", name="Generate")).to_be_disabled()
    fill(page, "name", "los")
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_text(re.compile("holds a dataset with another"))).to_be_visible()
    assert not (root.parent / "outside").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("bare")
def test_one_dataset_after_the_other_is_looked_into(page, url):
    page.goto(f"{url}datasets")
    for name, scenes in (("los", 24), ("bare", 4), ("los", 24)):
        page.get_by_role("gridcell", name=name, exact=True).click()
        expect(page.get_by_text(f"of {scenes} scenes")).to_be_visible()
        expect(page.locator(".bk-Canvas").first).to_be_visible()
    page.get_by_role("button", name="Spectrograms").click()
    expect(page.locator(".bk-Figure")).to_have_count(7)
    fill(page, "scene", 77)
    expect(page.get_by_text("give one of 0 … 23")).to_be_visible()
    fill(page, "scene", 3)
    page.get_by_role("button", name="Waterfall").click()
    expect(page.get_by_text("give one of 0 … 23")).to_be_hidden()
    expect(page.locator(".bk-Figure")).to_have_count(1)


@pytest.mark.slow
def test_a_reload_finds_the_job_and_cancel_ends_it(page, url, root):
    page.goto(f"{url}datasets")
    ask_for(page, "long", 20_000)
    expect(page.get_by_text("generating long")).to_be_visible()
    page.reload()
    expect(page.get_by_text("generating long")).to_be_visible()
    expect(page.get_by_text(re.compile("scenes/s, .* left"))).to_be_visible()
    page.get_by_role("button", name="Log", exact=True).click()
    expect(page.get_by_text(re.compile(r"long: \d+/20000 "))).to_be_visible()
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_text("generating long")).to_be_hidden()
    wait_until(lambda: job_of(url, "long")["state"] == "cancelled")
    job = root / "jobs" / job_of(url, "long")["id"]
    wait_until(lambda: not jobs._is_running(job))  # it finishes the shard under way
    expect(page.get_by_role("row", name=re.compile("long.*unfinished"))).to_be_visible()
    page.get_by_role("row", name=re.compile("long.*unfinished")).click()
    page.get_by_role("button", name="Delete", exact=True).click()
    page.get_by_role("button", name="Delete for good").click()
    expect(page.get_by_role("row", name=re.compile("long"))).to_be_hidden()
    wait_until(lambda: not (root / "long").exists())


@pytest.mark.slow  # the same without a browser: test_jobs.py
def test_a_job_outlives_a_killed_server_and_resumes_if_it_was_killed_too(page, serving, tmp_path):
    with serving() as (server, url):
        page.goto(f"{url}datasets")
        ask_for(page, "survivor", 1500)
        wait_until(lambda: job_of(url, "survivor")["progress"]["done"])
        os.kill(server.pid, signal.SIGKILL)
        server.wait()
    root = tmp_path / "data"
    [job] = jobs.list_jobs(root)
    assert job.state == "running"
    os.kill(int((root / "jobs" / job.id / "pid").read_text()), signal.SIGKILL)
    wait_until(lambda: jobs.find_job(root, job.id).state == "queued")
    with serving() as (_, url):
        page.goto(f"{url}datasets")
        expect(page.get_by_text("generating survivor")).to_be_visible()
        wait_until(lambda: job_of(url, "survivor")["state"] == "finished")
        expect(page.get_by_role("row", name=re.compile("survivor.*complete"))).to_be_visible()
    second = json.loads((root / "jobs" / job.id / "attempt.json").read_text())
    assert second["number"] == 2
    assert second["done_before"] > 0
