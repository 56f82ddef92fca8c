"""How much memory the server of the dashboard holds while pages are visited and requests are answered, and afterwards.

Run: PYTHONPATH=tests python benchmarks/server_memory.py [visits [requests]], by default 500 and 300, some 12 minutes.
It prints the memory of each minute, and exits with 1 where the server holds more than 700 MB, or where the minutes of
the last half differ by more than 5 %.

A visit is what a browser does without drawing: it fetches the page, opens its websocket, says that it is ready, and
leaves after some seconds; three do so at once. One visit in fifty is by Chromium, where that is there.
"""

import asyncio
import importlib.util
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import httpx
import numpy as np
import psutil
from dashboards import close_page, dashboard, open_page

import heimdall_lab as hl

PAGES = ("datasets", "geometry", "features", "train", "compare", "locate")
REQUESTS = ("datasets", "jobs", "training/architectures", "training/architectures?dataset=los", "openapi.json")
LIMIT_MB, FLAT = 700, 0.05
STAY_S, AT_ONCE = 2.5, 3  # of visits; pages refresh themselves each second
BROWSER_EVERY = 50  # visits
QUIET_S = 90.0  # after which closed pages are forgotten, and processes beside the server have ended


async def visit(url: str, stay_s: float, on_text: Callable[[str], object] = lambda _: None) -> None:
    """Open a page, and leave it after so many seconds; ``on_text`` takes what the server sends."""
    page = await open_page(url)
    end_s = time.monotonic() + stay_s
    while (left_s := end_s - time.monotonic()) > 0:
        try:
            on_text(await asyncio.wait_for(page.read_message(), left_s))
        except TimeoutError:
            break
    await close_page(page)


def visit_by_browser(url: str) -> None:
    """Open a page in Chromium, and leave it when it is drawn."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_context(bypass_csp=True).new_page()
        page.goto(url)
        page.wait_for_function("Bokeh.documents[0]?.is_idle", timeout=120_000)
        browser.close()


def make_data(root: Path) -> None:
    """Make a dataset, and a run that was trained on it."""
    config = hl.preset("los_sync", num_samples=60, seed=3, signal={"duration_s": 0.05})
    hl.generate(config, out=root / "los", progress=False)
    hl.train(root / "los", "triangulation", out=root / "runs" / "first", progress=False, epochs=2, batch_size=16)


class Meter:
    """Memory of the server and of the processes beside it, sampled while it is used."""

    def __init__(self, process_id: int) -> None:
        self.server = psutil.Process(process_id)
        self.began_s = time.monotonic()
        self.samples: list[tuple[int, float, float]] = []  # minute, MB of the server, and of others

    def sample(self) -> None:
        """Note the memory of this moment."""
        others = 0.0
        for child in self.server.children(recursive=True):
            try:
                others += child.memory_info().rss
            except psutil.NoSuchProcess:  # it has just ended
                continue
        minute = int((time.monotonic() - self.began_s) / 60)
        self.samples.append((minute, self.server.memory_info().rss / 1e6, others / 1e6))

    def cpu_s(self) -> float:
        """Processor time that the server has taken."""
        return sum(self.server.cpu_times()[:2])

    def by_minute(self) -> dict[int, tuple[float, float, float]]:
        """Mean and largest memory of the server, and the largest of others, MB, of each minute."""
        table = {}
        for minute in sorted({minute for minute, _, _ in self.samples}):
            server, others = np.array([sample[1:] for sample in self.samples if sample[0] == minute]).T
            table[minute] = server.mean(), server.max(), others.max()
        return table


def use(url: str, meter: Meter, visits: int, requests: int) -> None:
    """Visit the pages in turn, and ask for something between them."""
    has_browser = importlib.util.find_spec("playwright") is not None and shutil.which("chromium") is not None
    names, paths, made, asked = cycle(PAGES), cycle(REQUESTS), 0, 0

    async def visit_at_once(count: int) -> None:
        await asyncio.gather(*(visit(f"{url}{next(names)}", STAY_S) for _ in range(count)))

    while made < visits:
        count = min(AT_ONCE, visits - made)
        asyncio.run(visit_at_once(count))
        if has_browser and made // BROWSER_EVERY < (made + count) // BROWSER_EVERY:
            visit_by_browser(f"{url}{next(names)}")
        made += count
        while asked < made * requests / visits:
            httpx.get(f"{url}api/v1/{next(paths)}", timeout=120).raise_for_status()
            asked += 1
        meter.sample()


def watch_open_pages(url: str, meter: Meter, seconds: float) -> tuple[float, int]:
    """Share of a core that six open pages take while nothing changes, and texts that are sent to them meanwhile."""
    texts: list[float] = []

    async def watch() -> tuple[float, int]:
        settle_s = 25.0
        stay_s = settle_s + seconds + 5
        note = lambda _: texts.append(time.monotonic())  # noqa: E731
        opened = [asyncio.create_task(visit(f"{url}{name}", stay_s, note)) for name in PAGES]
        await asyncio.sleep(settle_s)
        began_s, before_s = time.monotonic(), meter.cpu_s()
        await asyncio.sleep(seconds)
        share = (meter.cpu_s() - before_s) / (time.monotonic() - began_s)
        sent = sum(began_s <= at_s <= began_s + seconds for at_s in texts)
        await asyncio.gather(*opened)
        return share, sent

    return asyncio.run(watch())


def main(visits: int = 500, requests: int = 300) -> int:
    """Use a server, and print what it held; 1 if that is too much, or still rises."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HEIMDALL_LAB_DATA"] = str(Path(folder) / "data")  # where runs are tracked, and what is served
        make_data(Path(folder) / "data")
        with dashboard(Path(folder)) as (process, url):
            meter = Meter(process.pid)
            meter.sample()
            print(f"fresh: {meter.samples[0][1]:.0f} MB")
            use(url, meter, visits, requests)
            table = meter.by_minute()
            print("minute | mean, MB | largest, MB | other processes, MB")
            for minute, (mean, largest, others) in table.items():
                print(f"{minute + 1:6} | {mean:8.0f} | {largest:11.0f} | {others:19.0f}")
            time.sleep(QUIET_S)
            before_s = meter.cpu_s()
            time.sleep(30)
            meter.sample()
            print(f"{QUIET_S + 30:.0f} s later: {meter.samples[-1][1]:.0f} MB, others {meter.samples[-1][2]:.0f} MB, "
                  f"{(meter.cpu_s() - before_s) / 30:.1%} of a core")  # fmt: skip
            share, sent = watch_open_pages(url, meter, 30)
            print(f"six pages open, nothing changes: {share:.1%} of a core, {sent} texts sent in 30 s")
    means = [mean for mean, _, _ in table.values()]
    last = means[len(means) // 2 :]
    most, spread = max(largest for _, largest, _ in table.values()), (max(last) - min(last)) / min(last)
    print(f"largest: {most:.0f} MB; the last half differs by {spread:.1%}")
    return int(most > LIMIT_MB or spread > FLAT)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
