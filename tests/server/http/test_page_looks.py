"""The page in light and dark, wide and on a phone: readable for all, and the pictures of the documentation.

With `LORECALL_PAGE_IMAGES` naming a folder, as `make screenshots` does, the pictures are written there.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from lorecall.adapters.registry.tables import State
from playwright.sync_api import Page, expect

from tests.audit.tiny_scorer import Memory
from tests.server.browser import violations
from tests.server.http.conftest import Visit
from tests.server.page_site import PageSite, page_site

LINES = tuple((f"The code of vault {number} is ", f"47-11-{number:03}") for number in range(90, 96))
ITEMS = [{"id": f"vault-{i}", "prefix": prefix, "target": target} for i, (prefix, target) in enumerate(LINES)]
CONTROLS = [
    {"id": f"other-{i}", "prefix": f"The code of door {i} is ", "target": f"08-15-{i:03}"} for i in range(8)
]
PICTURES = ("adapters", "order", "diff", "capacity", "phone-dark")
WEAK = {
    1: dict.fromkeys(range(9), 0.03),
    2: dict.fromkeys(range(3, 9), 0.1),
    3: dict.fromkeys(range(6, 9), 0.2),
    4: {6: 0.3},
    8: {},
}
"""Where in a target the versions of a rank remember it badly; only those of the last one know the last line."""


def memory(rank: int) -> Memory:
    """What a version of a rank remembers."""
    known = LINES if rank == 8 else LINES[:-1]
    return Memory(tuple(prefix + target for prefix, target in known), 0.97, WEAK[rank], len(LINES[0][0]))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageSite]:
    """Four adapters of four ranks, audited; one with two versions; one in quarantine."""
    with page_site(tmp_path_factory.mktemp("looks"), {rank: memory(rank) for rank in WEAK}) as running:
        order = {"candidates": ITEMS, "controls": CONTROLS, "show_text": True}
        for name, rank in (
            ("acme-hr", 1),
            ("acme-legal", 4),
            ("acme-support", 2),
            ("acme-tax", 8),
            ("acme-hr", 3),
        ):
            running.add(name, rank)
            running.audit(name, "vaults.jsonl", **order)
        with running.http() as client:
            client.post("/v1/adapters/acme-legal/pin", json={"reason": "their busy week"})
            client.post("/v1/adapters/acme-hr/rollback", json={"reason": "the new one recites"})
        held = running.add("globex-chat", 4)["version"]
        why = "6 candidates recited, where the policy allows 0"
        running.registry.move("globex-chat", held, State.QUARANTINED, actor="gate", reason=why)
        yield running


def views(site: PageSite) -> dict[str, str]:
    """Every view of the page by a name for its picture."""
    with site.http() as client:
        audits = client.get("/v1/audits?adapter=acme-hr").json()["audits"]
        leaky = client.get("/v1/audits?adapter=acme-legal").json()["audits"][0]["id"]
    return {
        "adapters": "/adapters",
        "adapter": "adapter=acme-hr",
        "quarantine": "adapter=globex-chat",
        "audits": "/audits",
        "order": "order=acme-legal",
        "audit": f"audit={leaky}",
        "diff": f"audit={audits[0]['id']}&against={audits[1]['id']}",
        "capacity": "/capacity",
        "events": "/events",
        "keys": "/keys",
    }


def picture(page: Page, name: str) -> None:
    """Write a picture for the documentation, if it is one of those and that is wished for."""
    if name in PICTURES and (folder := os.environ.get("LORECALL_PAGE_IMAGES")):
        page.wait_for_timeout(600)  # bars move for 450 ms
        page.screenshot(path=Path(folder) / f"page-{name}.png", full_page=True)


@pytest.mark.parametrize(
    ("scheme", "width"),
    [
        ("light", 1200),
        ("dark", 390),
        pytest.param("dark", 1200, marks=pytest.mark.soak),
        pytest.param("light", 390, marks=pytest.mark.soak),
    ],
)
def test_every_view_is_for_all(site: PageSite, visit: Visit, scheme: str, width: int) -> None:
    """In each view axe finds nothing, no line runs out of the window, and one heading says where one is."""
    page = visit("admin", "/adapters", color_scheme=scheme, viewport={"width": width, "height": 900})
    for name, place in views(site).items():
        page.evaluate("place => { location.hash = place }", place)
        view = place.strip("/").partition("=")[0]
        expect(page.locator(f'body[data-ready^="{view}?"]')).to_be_attached()
        expect(page.locator("h1:visible")).to_have_count(1)
        if name == "capacity":
            expect(page.locator("#law-chart circle")).to_have_count(4)
            page.locator("#stops button").nth(2).click()
        if name == "diff":
            expect(page.locator("#diff-answer")).to_be_visible()
        assert violations(page) == [], name
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
        if (scheme, width) == ("light", 1200):
            picture(page, name)
        elif width == 390 and name == "adapter":
            picture(page, f"phone-{scheme}")


def test_the_page_goes_by_keyboard(visit: Visit) -> None:
    """Tab reaches every view's link in its order, Enter opens it, and its heading takes the focus."""
    page = visit("admin", "/adapters")
    page.locator("nav a").first.focus()
    for heading in ("Audits", "Capacity", "Events", "Keys"):
        page.locator(f"nav a:has-text('{heading}')").press("Shift+Tab")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name=heading, exact=True)).to_be_focused()
        assert page.title() == f"{heading} · lorecall"
