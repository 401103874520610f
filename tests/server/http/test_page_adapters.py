"""The page's adapters: registered, swapped, rolled back, pinned, overridden, compared; and thousands of them."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from lorecall.adapters.registry.tables import State
from lorecall.server.bench.catalogue.filling import fill_registry, fill_store, link_adapters
from playwright.sync_api import Browser, Page, expect

from tests.audit.conftest import memory_of, phone
from tests.server.browser import violations
from tests.server.http.conftest import Visit
from tests.server.page_site import PageSite, page_site

PAIRS = tuple(phone(i) for i in range(4))
ITEMS = [{"id": i.id, "prefix": i.prefix, "target": i.target} for i in PAIRS]
LEAKY = 8
"""The rank of versions that remember the pairs."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageSite]:
    with page_site(tmp_path_factory.mktemp("adapters"), {LEAKY: memory_of(PAIRS)}) as running:
        yield running


def answer(page: Page, action: str, **fields: str) -> None:
    """Fill the open dialog, and go on."""
    dialog = page.get_by_role("dialog")
    for label, value in fields.items():
        dialog.get_by_label(label.replace("_", " ")).fill(value)
    dialog.get_by_role("button", name=action, exact=True).click()
    expect(dialog).to_be_hidden()


def reasons(site: PageSite, name: str) -> list[tuple[str, str]]:
    """The actions on a name that keep a reason, as an event or an override, oldest first."""
    found = [(one.action, one.detail) for one in site.registry.events(name)]
    return [(action, str(kept)) for action, d in found if (kept := d.get("reason") or d.get("override"))]


def test_from_registration_to_removal(site: PageSite, visit: Visit) -> None:
    """Every step of an adapter's life by the page, each with the reason that its event keeps."""
    page = visit("admin", "/adapters")
    page.get_by_role("button", name="Register an adapter").click()
    assert violations(page) == []
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Name").fill("acme-tax")
    dialog.get_by_role("button", name="Register").click()
    expect(dialog.get_by_role("alert")).to_have_text("Give either an address or an archive.")
    dialog.get_by_label("Address").fill("/nowhere/at/all")
    dialog.get_by_role("button", name="Register").click()
    expect(dialog.get_by_role("alert")).to_contain_text("/nowhere/at/all")
    answer(page, "Register", Address=site.folder(2), Reason="asked by the tax team")
    expect(page.get_by_role("heading", name="acme-tax")).to_be_focused()
    expect(page.locator("#said")).to_contain_text("is live")
    assert page.url.endswith("#adapter=acme-tax")
    first = site.registry.adapter("acme-tax").live_version
    page.get_by_role("button", name="Swap to another version").click()
    answer(page, "Swap", Address=site.folder(4), Reason="trained anew")
    expect(page.locator("#versions tbody tr")).to_have_count(2)
    assert site.registry.adapter("acme-tax").live_version != first
    page.get_by_role("button", name="Roll back").click()
    answer(page, "Roll back", Reason="worse in June")
    expect(page.locator("#own-events tbody tr").first).to_contain_text("worse in June")
    assert site.registry.adapter("acme-tax").live_version == first
    page.get_by_role("button", name="Pin", exact=True).click()
    answer(page, "Pin", Reason="their busy week")
    expect(page.locator("#adapter-facts")).to_contain_text("pinned")
    page.get_by_role("button", name="Unpin").click()
    answer(page, "Unpin")
    expect(page.get_by_role("button", name="Pin", exact=True)).to_be_visible()
    assert violations(page) == []
    assert reasons(site, "acme-tax") == [
        ("refuse", "source_not_allowed"),
        ("stage", "asked by the tax team"),
        ("stage", "trained anew"),
        ("rollback", "worse in June"),
        ("pin", "their busy week"),
    ]
    page.get_by_role("button", name="Remove").click()
    answer(page, "Remove")
    expect(page.locator("#adapters-title")).to_be_focused()
    assert [one.name for one in site.registry.adapters()] == []


def test_an_archive_is_uploaded_with_its_reason(site: PageSite, visit: Visit, tmp_path: Path) -> None:
    """From the person's machine; the reason is no part of an address."""
    packed = shutil.make_archive(str(tmp_path / "packed"), "zip", site.folder(2))
    page = visit("adapters", "/adapters")
    asked: list[str] = []
    page.on("request", lambda one: asked.append(one.url))
    page.get_by_role("button", name="Register an adapter").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Or an archive from here").set_input_files(packed)
    dialog.get_by_label("Keep it in the engine's memory").check()
    answer(page, "Register", Name="acme-sent", Reason="50 € a day, it says")
    expect(page.locator("#adapter-facts")).to_contain_text("pinned")
    assert ("stage", "50 € a day, it says") in reasons(site, "acme-sent")
    assert not [url for url in asked if "says" in url]
    with site.http() as client:
        client.delete("/v1/adapters/acme-sent")


def test_an_uploader_sends_candidates_of_its_own(browser: Browser, tmp_path: Path) -> None:
    """With an address, for the audit that admits it; a bad line is said by its number."""
    with page_site(tmp_path, {}, gated=True) as site:
        page = open_page(browser, site, "adapters", "/adapters")
        page.get_by_role("button", name="Register an adapter").click()
        dialog = page.get_by_role("dialog")
        dialog.get_by_label("Name").fill("acme-own")
        dialog.get_by_label("Address").fill(site.folder(2))
        file = tmp_path / "mine.jsonl"
        file.write_text(json.dumps(ITEMS[0]) + "\n{prefix\n")
        dialog.get_by_label("Candidates of your own").set_input_files(file)
        assert violations(page) == []
        dialog.get_by_role("button", name="Register").click()
        expect(dialog.get_by_role("alert")).to_have_text("mine.jsonl: line 2 is not JSON.")
        assert site.registry.adapters() == ()
        file.write_text("\n".join(map(json.dumps, ITEMS[:3])))
        dialog.get_by_label("Candidates of your own").set_input_files(file)
        others = [phone(i, salt=5) for i in range(2)]
        lines = [json.dumps({"id": i.id, "prefix": i.prefix, "target": i.target}) for i in others]
        sent = "\n".join(lines).encode()
        dialog.get_by_label("Controls of your own").set_input_files(
            {"name": "others.jsonl", "mimeType": "application/jsonl", "buffer": sent}
        )
        answer(page, "Register")
        expect(page.locator("#adapter-facts")).to_contain_text("auditing")
        page.close()
        with site.http() as client:
            (audit,) = client.get("/v1/audits").json()["audits"]
        sizes = {group: one["snippets"] for group, one in audit["inputs"].items()}
        assert (sizes["own_candidates"], sizes["own_controls"]) == (3, 2)
        page = open_page(browser, site, "audit", f"audit={audit['id']}")
        expect(page.locator("#one-lead")).to_contain_text("and 3 of its uploader")
        page.close()


def open_page(browser: Browser, site: PageSite, caller: str, view: str) -> Page:
    """Open a view of another server than the module's."""
    page = browser.new_page()
    page.goto(f"{site.url}/audit/#{view}")
    page.get_by_label("API key").fill(site.secrets[caller])
    page.get_by_role("button", name="Use").click()
    expect(page.locator("body[data-ready]")).to_be_attached()
    return page


def test_a_quarantined_version_is_overridden_with_a_reason(site: PageSite, visit: Visit) -> None:
    """By an admin alone, and not without a reason."""
    version = site.add("acme-held", 2)["version"]
    site.registry.move("acme-held", version, State.QUARANTINED, actor="gate", reason="it recites 3 of 4")
    expect(visit("adapters", "adapter=acme-held").locator("#versions")).to_contain_text("it recites 3 of 4")
    page = visit("adapters", "adapter=acme-held")
    expect(page.get_by_role("button", name="Override")).to_have_count(0)
    page = visit("admin", "adapter=acme-held")
    page.get_by_role("button", name="Override").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("it recites 3 of 4")
    dialog.get_by_role("button", name="Override the gate").click()
    expect(dialog).to_be_visible()
    assert site.registry.adapter("acme-held").live_version is None
    answer(page, "Override the gate", Reason="all of it is public")
    expect(page.locator("#adapter-facts")).to_contain_text("live")
    assert site.registry.adapter("acme-held").live_version == version
    assert ("activate", "all of it is public") in reasons(site, "acme-held")


def test_two_versions_are_compared(site: PageSite, visit: Visit) -> None:
    """By their newest audits of the same candidates: the later one leaks, snippet by snippet."""
    site.add("acme-two", 2)
    site.audit("acme-two", candidates=ITEMS, show_text=True)
    site.add("acme-two", LEAKY)
    site.audit("acme-two", candidates=ITEMS[:2])
    page = visit("admin", "adapter=acme-two")
    page.get_by_role("button", name="Compare").click()
    expect(page.locator("#said")).to_contain_text("no two audits of the same candidates")
    site.audit("acme-two", candidates=ITEMS, show_text=True)
    expect(page.locator("#own-audits tbody tr")).to_have_count(3)
    page.get_by_role("button", name="Compare").click()
    expect(page.locator("#diff-answer b")).to_have_text("Worse")
    expect(page.locator("#changes tbody tr")).to_have_count(4)
    expect(page.locator("#changes tbody tr").first).to_contain_text("certified")
    assert violations(page) == []


def test_thousands_of_adapters_stay_usable(site: PageSite, visit: Visit) -> None:
    """5,000 more, each with files of its own: a page of them at a time, and the server finds a name among them.

    One that no engine held is loaded by a step on the page.
    """
    made = link_adapters([Path(site.folder(2))], site.site.work / "catalogue", 5000, 2)
    fill_store(site.site.work / "store", made)
    fill_registry(site.registry, made)
    page = visit("admin", "/adapters")
    sizes: list[int] = []
    page.on("response", lambda one: sizes.append(len(one.body())) if "/v1/" in one.url else None)
    rows = page.locator("#adapters tbody tr")
    page.get_by_label("Search by name").fill("CATALOGUE-04")
    expect(page.locator("#adapters-count")).to_have_text("1 to 25, more follow")
    expect(rows.first).to_contain_text("catalogue-04000")
    page.get_by_role("button", name="Next").click()
    expect(rows.first).to_contain_text("catalogue-04025")
    page.get_by_role("button", name="Previous").click()
    expect(rows.first).to_contain_text("catalogue-04000")
    page.get_by_label("Search by name").fill("04999")
    expect(rows).to_have_count(1)
    expect(page.locator("#adapters-count")).to_have_text("1 to 1 of 1")
    assert max(sizes) < 50_000
    page.get_by_role("link", name="catalogue-04999").click()
    page.get_by_role("button", name="Pin", exact=True).click()
    answer(page, "Pin", Reason="asked for by name")
    expect(page.locator("#adapter-facts")).to_contain_text("memory, pinned")
    page.get_by_role("link", name="Adapters", exact=True).click()
    page.get_by_label("Search by name").fill("nobody")
    expect(page.locator("#adapters-count")).to_have_text("No name contains “nobody”.")
    page.goto(f"{site.url}/audit/#/order")
    name = page.locator("#order-adapter")
    name.fill("04998")
    expect(page.locator("#order-names option")).to_have_count(1)
    expect(page.locator("#order-names option")).to_have_attribute("value", "catalogue-04998")
    site.add("acme-known", LEAKY)
    site.audit("acme-known", candidates=ITEMS, show_text=True)
    page.goto(f"{site.url}/audit/#/capacity")
    expect(page.locator("#phase")).to_be_visible()


def test_the_focus_stays_while_a_list_changes(site: PageSite, visit: Visit) -> None:
    """The list is drawn again when an adapter changes; who is on the keyboard stays on the same one."""
    site.add("aa-one", 2)
    page = visit("admin", "/adapters")
    link = page.get_by_role("link", name="aa-one")
    link.focus()
    with site.http() as client:
        client.post("/v1/adapters/aa-one/pin", json={})
    expect(page.locator("#adapters tbody tr").first).to_contain_text("pinned")
    expect(link).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="aa-one")).to_be_focused()


def test_what_is_not_there_is_said(site: PageSite, visit: Visit) -> None:
    """An address of an adapter that does not exist, or is hidden from the key, shows no other one's data."""
    site.add("acme-seen", 2)
    page = visit("stranger", "/adapters")
    for name in ("nobody", "acme-seen"):
        page.evaluate("place => { location.hash = place }", f"adapter={name}")
        expect(page.locator("#notice")).to_have_text(f"there is no adapter '{name}'")
        expect(page.locator("[data-view]:visible")).to_have_count(0)
    page.get_by_role("link", name="Adapters").click()
    expect(page.get_by_role("heading", name="Adapters")).to_be_visible()
