"""Pictures of all pages, light and dark, as a visitor with some datasets and a trained model sees them.

``make screenshots`` writes them to ``data/screenshots``.
"""

import contextlib
import re
import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

sys.path.insert(0, str(Path(__file__).parents[2]))

from dashboards import dashboard

import heimdall_lab as hl
from heimdall_lab.app.pages.frame import PAGES

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
OUT = Path("data", "screenshots").absolute()
SETTLED_MS = 1500


def prepare(folder: Path) -> None:
    """Make what the pages show: datasets of both types and a finished run."""
    root = folder / "data"
    hl.generate(hl.preset("los_sync", num_samples=200, seed=7), out=root / "los_sync", progress=False)
    hl.generate(hl.preset("uhf_mixed", num_samples=60), out=root / "uhf_mixed", progress=False)
    hl.generate(hl.preset("nlos_sync", num_samples=96, shard_size=32), out=root / "nlos_sync", progress=False)
    tracked = {"out": root / "runs" / "triangulation-los_sync", "epochs": 15, "progress": False}
    with contextlib.chdir(folder):  # below which runs are tracked
        hl.train(root / "los_sync", "triangulation", **tracked)


def datasets(page: Page) -> None:
    """Look into a dataset."""
    page.get_by_role("gridcell", name="los_sync", exact=True).first.click()
    page.get_by_role("button", name="Waterfall").wait_for()


def geometry(page: Page) -> None:
    """Ask for the numbers of a point."""
    page.get_by_text("Best place for one more receiver").wait_for()


def features(page: Page) -> None:
    """Wait for the pictures."""
    page.locator(".bk-Canvas").first.wait_for()


def train(page: Page) -> None:
    """See how a run learned."""
    page.get_by_role("tab", name="Runs").click()
    page.get_by_text(re.compile("finished, median error")).or_(page.get_by_role("gridcell").first).first.wait_for()
    page.get_by_role("gridcell", name="triangulation-los_sync").click()


def compare(page: Page) -> None:
    """Rank the methods."""
    page.get_by_text("methods: about").wait_for()
    page.get_by_role("button", name="Compare", exact=True).click()
    page.get_by_text("Leaderboard (CSV)").wait_for(timeout=120_000)


def locate(page: Page) -> None:
    """See what is asked for."""
    page.get_by_role("button", name="Locate").wait_for()


STEPS = {step.__name__: step for step in (datasets, geometry, features, train, compare, locate)}


def main() -> None:
    """Write the pictures."""
    OUT.mkdir(parents=True, exist_ok=True)
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        folder = Path(temporary)
        prepare(folder)
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        with dashboard(folder) as (_, url):
            for theme in ("light", "dark"):
                page = browser.new_page(viewport={"width": 1280, "height": 800})
                for name in PAGES:
                    page.goto(f"{url}{name}")
                    page.locator("#loader").wait_for(state="hidden")
                    if theme == "dark":
                        page.get_by_role("button", name="Toggle theme").click()
                    STEPS[name](page)
                    page.mouse.move(640, 5)
                    page.wait_for_timeout(SETTLED_MS)
                    page.screenshot(path=OUT / f"{name}_{theme}.png")
                    print(OUT / f"{name}_{theme}.png")
                page.close()
        browser.close()


if __name__ == "__main__":
    main()
