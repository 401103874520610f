"""A real headless Chromium, Debian's own, driven by Playwright."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = Path("/usr/bin/chromium")
QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)

AXE = Path(__file__).parents[2] / ".cache" / "tools" / "axe.min.js"
FOUND = "axe.run().then(r => r.violations.map(v => `${v.id}: ${v.nodes.map(n => n.target).join(', ')}`))"


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser for the time of the block; skips where it is not installed."""
    if not CHROMIUM.exists():
        pytest.skip("chromium is not installed: see requirements/apt.txt")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        yield browser
        browser.close()


def violations(page: Page) -> list[str]:
    """What axe finds that keeps people out; it comes in through the debugger: the page lets no script in."""
    if not AXE.exists():
        pytest.skip("axe is not here: run `make tools`")
    door = page.context.new_cdp_session(page)
    question = {"expression": f"{AXE.read_text()};{FOUND}", "awaitPromise": True, "returnByValue": True}
    answer = door.send("Runtime.evaluate", question)["result"]
    door.detach()
    assert "value" in answer, answer
    return list(answer["value"])
