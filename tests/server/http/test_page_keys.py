"""The page's keys and events, and what of the page a key that may do less is shown."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from tests.server.browser import violations
from tests.server.http.conftest import Visit
from tests.server.page_site import PageSite, page_site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageSite]:
    with page_site(tmp_path_factory.mktemp("keys"), {}) as running:
        running.add("acme-tax", 4)
        running.add("globex-chat", 8)
        yield running


def test_a_key_is_made_and_shown_once(site: PageSite, visit: Visit) -> None:
    """By keyboard alone; its secret works, and once the dialog is closed it is nowhere on the page."""
    page = visit("admin", "/keys")
    page.get_by_role("button", name="Make a key").focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="Make a key")
    expect(dialog.get_by_label("Name")).to_be_focused()
    page.keyboard.type("night audits")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")  # not `infer`
    for _ in range(2):
        page.keyboard.press("Tab")
    page.keyboard.press("Space")  # but `audit`
    dialog.get_by_label("Which models it sees").fill("acme-*, base")
    dialog.get_by_label("Limit: requests a minute").fill("50")
    dialog.get_by_label("Where it may add adapters from").fill("hf://acme, s3://acme/models")
    assert violations(page) == []
    page.keyboard.press("Enter")
    shown = page.get_by_role("dialog", name="The key night audits")
    secret = shown.get_by_label("The key night audits").input_value()
    assert secret.startswith("lorecall-")
    assert violations(page) == []
    page.keyboard.press("Escape")
    expect(shown).to_be_hidden()
    assert secret not in page.content()
    row = page.locator("#keys tbody tr", has_text="night audits")
    for text in ("audit", "acme-*, base", "50 requests a minute", "never"):
        expect(row).to_contain_text(text)
    site.secrets["night"] = secret
    with site.http("night") as client:
        key = client.get("/v1/keys/self").json()["key"]
    assert (key["name"], key["scopes"], key["adapters"]) == ("night audits", ["audit"], ["acme-*", "base"])
    assert key["limits"]["requests_per_minute"] == 50
    assert key["sources"] == ["hf://acme", "s3://acme/models"]
    row.get_by_role("button", name="Revoke night audits").click()
    page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
    expect(row).to_have_count(0)
    with site.http("night") as client:
        assert client.get("/v1/keys/self").status_code == 401


def test_what_the_server_refuses_stays_in_the_dialog(visit: Visit) -> None:
    """With its words, and with what was typed; nothing is made."""
    page = visit("admin", "/keys")
    page.get_by_role("button", name="Make a key").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Name").fill("crooked")
    dialog.get_by_label("Which models it sees").fill("acme{1}")
    dialog.get_by_role("button", name="Make it").click()
    expect(dialog.get_by_role("alert")).to_contain_text("acme{1}")
    expect(dialog.get_by_label("Name")).to_have_value("crooked")
    dialog.get_by_role("button", name="Cancel").click()
    expect(page.locator("#keys tbody tr", has_text="crooked")).to_have_count(0)


@pytest.mark.parametrize(
    ("caller", "views"),
    [
        ("admin", ["Adapters", "Audits", "Capacity", "Events", "Keys"]),
        ("adapters", ["Adapters", "Events"]),
        ("audit", ["Adapters", "Audits", "Capacity"]),
        ("infer", ["Adapters"]),
        ("stranger", ["Adapters", "Audits", "Capacity", "Events"]),
    ],
)
def test_what_a_key_may_not_do_is_absent(visit: Visit, caller: str, views: list[str]) -> None:
    """Views, and steps in them; the address of a view that it may not see leads to one that it may."""
    page = visit(caller, "/keys")
    assert page.get_by_role("navigation").get_by_role("link").all_inner_texts() == views
    page.get_by_role("link", name="Adapters").click()
    expect(page.locator("#adapters tbody tr").first).to_be_visible()
    register = page.get_by_role("button", name="Register an adapter")
    expect(register).to_be_visible(visible=caller in ("admin", "adapters", "stranger"))
    names = ["globex-chat"] if caller == "stranger" else ["acme-tax", "globex-chat"]
    assert page.locator("#adapters td.name").all_inner_texts() == names
    page.get_by_role("link", name="globex-chat").click()
    steps = page.locator("#adapter-steps").locator("button, a")
    expect(page.locator("#adapter-facts")).to_contain_text("live")
    wanted = {
        "admin": ["Audit it", "Swap to another version", "Pin", "Remove"],
        "adapters": ["Swap to another version", "Pin", "Remove"],
        "audit": ["Audit it"],
        "infer": [],
        "stranger": ["Audit it", "Swap to another version", "Pin", "Remove"],
    }
    assert steps.all_inner_texts() == wanted[caller]


def test_events_say_who_did_what_and_why(site: PageSite, visit: Visit) -> None:
    """Newest first, older ones on demand; who sees only some adapters sees their events alone."""
    for number in range(60):
        site.registry.record_event("refuse", "acme-tax", actor="ann", reason=f"too large, {number}")
    with site.http() as client:
        client.post("/v1/adapters/globex-chat/pin", json={"reason": "their busy week"})
    page = visit("admin", "/events")
    rows = page.locator("#events tbody tr")
    expect(rows.first).to_contain_text("pin")
    expect(rows.first).to_contain_text("their busy week")
    expect(rows).to_have_count(50)
    page.get_by_role("button", name="Older").click()
    expect(rows.nth(60)).to_be_visible()
    expect(rows.last).to_contain_text("add-key")
    own = visit("stranger", "/events").locator("#events tbody tr")
    expect(own.first).to_contain_text("their busy week")
    assert not [text for text in own.all_inner_texts() if "globex-chat" not in text]


def test_a_key_is_forgotten(visit: Visit) -> None:
    """The tab loses it at once."""
    page = visit("admin", "/keys")
    expect(page.locator("#own-name")).to_have_text("admin · admin")
    page.get_by_role("button", name="Forget key").click()
    expect(page.locator("#notice")).to_contain_text("asks for an API key")
    assert page.evaluate("sessionStorage.length + localStorage.length") == 0
