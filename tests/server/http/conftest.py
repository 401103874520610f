"""What tests of the routes share."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest
from lorecall.adapters.registry.registry import Registry
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.server.browser import chromium

if TYPE_CHECKING:
    from tests.server.page_site import PageSite


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for the tests of a module; no longer, since no other loop can run in its thread meanwhile."""
    expect.set_options(timeout=20_000)  # an idle page looks every five seconds, on a machine that may be busy
    with chromium() as running:
        yield running


class Visit(Protocol):
    """Opens a view of the module's site in a new tab, with a caller's key, which is typed in."""

    def __call__(self, caller: str, view: str, **context: Any) -> Page:
        """Return the tab, once the view is there."""


@pytest.fixture
def visit(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Visit]:
    """Visits to the module's `site`; the page asks nobody else, has no error or cookie, no key in an address."""
    site: PageSite = request.getfixturevalue("site")
    contexts: list[BrowserContext] = []
    asked: list[str] = []
    wrong: list[str] = []

    def go(caller: str, view: str, **context: Any) -> Page:
        contexts.append(browser.new_context(**context))
        page = contexts[-1].new_page()
        page.on("request", lambda one: asked.append(one.url))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(f"{site.url}/audit/#{view}")
        page.get_by_label("API key").fill(site.secrets[caller])
        page.get_by_role("button", name="Use").click()
        expect(page.locator("body[data-ready]")).to_be_attached()
        return page

    yield go
    assert wrong == []
    assert all(url.startswith((site.url, "blob:")) for url in asked)
    assert not [url for url in asked if any(secret in url for secret in site.secrets.values())]
    for context in contexts:
        assert context.cookies() == []
        context.close()


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    opened = Registry(f"sqlite:///{tmp_path / 'registry.db'}")
    yield opened
    opened.close()
