"""The page's audits: estimated, ordered with a file, followed while they run, cancelled, read."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.audit.conftest import memory_of, phone
from tests.server.browser import violations
from tests.server.http.conftest import Visit
from tests.server.page_site import PageSite, page_site

PAIRS = tuple(phone(i) for i in range(8))
ITEMS = [{"id": i.id, "prefix": i.prefix, "target": i.target} for i in PAIRS]
LEAKY = 8


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageSite]:
    with page_site(tmp_path_factory.mktemp("audits"), {LEAKY: memory_of(PAIRS)}) as running:
        running.add("acme-clean", 2)
        running.add("acme-leaky", LEAKY)
        yield running


@pytest.fixture
def training(tmp_path: Path) -> Path:
    """A training file of prompts and completions."""
    path = tmp_path / "train.jsonl"
    rows = (json.dumps({"prompt": i.prefix, "completion": i.target}) for i in PAIRS)
    path.write_text("\n".join(rows))
    return path


def test_from_estimate_to_verdict(site: PageSite, visit: Visit, training: Path) -> None:
    """A training file, controls made from it, framings and a policy: what it costs first, then the audit."""
    page = visit("audit", "adapter=acme-leaky")
    page.get_by_role("link", name="Audit it").click()
    expect(page.get_by_role("heading", name="New audit")).to_be_focused()
    expect(page.get_by_label("Name", exact=True)).to_have_value("acme-leaky")
    start = page.get_by_role("button", name="Start the audit")
    page.locator("#order-file").set_input_files(training)
    page.get_by_label("Controls", exact=True).select_option("synthesis")
    page.get_by_label("How many").fill("12")
    page.get_by_label("chat: through the chat template").check()
    page.get_by_label("Certified").fill("3")
    page.get_by_text("More", exact=True).click()
    page.get_by_label("Show texts in the report").check()
    expect(start).to_be_hidden()
    page.get_by_role("button", name="Estimate the cost").click()
    cost = page.locator("#order-cost")
    expect(cost).to_contain_text("8 candidates and 12 controls")
    expect(cost).to_contain_text("40 answers to decode")  # twenty in two framings
    assert violations(page) == []
    page.get_by_label("Certified").fill("4")
    expect(start).to_be_hidden()  # what was estimated is no longer what would be ordered
    page.get_by_role("button", name="Estimate the cost").click()
    start.click()
    expect(page.locator("#said")).to_have_text("The audit of acme-leaky was ordered.")
    expect(page.locator("#one-gate")).to_contain_text("8 candidates certified, where the policy allows 4")
    expect(page.locator("#one-lead")).to_contain_text(
        "8 snippets of train.jsonl as raw, chat; ordered by audit"
    )
    expect(page.locator("#snippets tbody")).to_have_count(20)
    first = page.locator("#snippets tbody").first
    expect(first).to_contain_text("certified")
    first.get_by_role("button").press("Enter")
    expect(first.get_by_role("button")).to_have_attribute("aria-expanded", "true")
    assert violations(page) == []
    with site.http() as client:
        made = client.get("/v1/audits").json()["audits"][0]
    assert made["settings"]["policy"] == {
        "max_certified": 4,
        "max_recalled": 0,
        "max_near_verbatim": 0,
        "max_rate": None,
    }
    assert not [text for text in (made["inputs"], page.url) if PAIRS[0].target in str(text)]


def test_a_file_is_dropped(visit: Visit) -> None:
    """Candidates on the drop zone are those of the input; controls come from a second file."""
    page = visit("audit", "order=acme-clean")
    page.get_by_label("candidates: a prefix and a target each").check()
    content = "\n".join(map(json.dumps, ITEMS))
    dropped = page.evaluate_handle(
        "text => { const all = new DataTransfer(); all.items.add(new File([text], 'mine.jsonl')); return all; }",
        content,
    )
    page.locator(".drop").first.dispatch_event("drop", {"dataTransfer": dropped})
    page.get_by_label("Controls", exact=True).select_option("file")
    others = [
        {"id": i.id, "prefix": i.prefix, "target": i.target} for i in (phone(i, salt=3) for i in range(5))
    ]
    sent = "\n".join(map(json.dumps, others)).encode()
    page.get_by_label("The file of controls").set_input_files(
        {"name": "controls.jsonl", "mimeType": "application/jsonl", "buffer": sent}
    )
    page.get_by_role("button", name="Estimate the cost").click()
    expect(page.locator("#order-cost")).to_contain_text("8 candidates and 5 controls")
    page.get_by_role("button", name="Start the audit").click()
    expect(page.locator("#one-gate")).to_contain_text("Passes")
    expect(page.locator("#one-lead")).to_contain_text("mine.jsonl")


def test_what_is_wrong_is_said_before_anything_is_ordered(
    site: PageSite, visit: Visit, tmp_path: Path
) -> None:
    """Without a file, with a bad one, for an unknown adapter: in words, beside the form, and no audit is made."""
    with site.http() as client:
        before = len(client.get("/v1/audits").json()["audits"])
    page = visit("audit", "order=acme-clean")
    page.locator("#order-file").evaluate("one => one.required = false")
    page.get_by_role("button", name="Estimate the cost").click()
    wrong = page.locator("#order-wrong")
    expect(wrong).to_have_text("Choose a file first.")
    bad = tmp_path / "train.jsonl"
    bad.write_text('{"messages": "of the vault"}')
    page.locator("#order-file").set_input_files(bad)
    page.get_by_role("button", name="Estimate the cost").click()
    expect(wrong).to_contain_text("train.jsonl")
    expect(wrong).not_to_contain_text("vault")
    bad.write_text('{"prompt": "a", "completion": "b"}')
    page.locator("#order-file").set_input_files(bad)
    page.get_by_text("More", exact=True).click()
    page.get_by_label("A whole policy").fill("max_certified: 0")
    page.get_by_role("button", name="Estimate the cost").click()
    expect(wrong).to_have_text("The policy is not JSON.")
    page.get_by_label("A whole policy").fill('{"max_certfied": 0}')
    page.get_by_role("button", name="Estimate the cost").click()
    expect(wrong).to_contain_text("which may mean 'max_certified'")
    page.get_by_label("A whole policy").fill('{"min_controls": 100}')
    page.get_by_label("Name", exact=True).fill("nobody")
    page.get_by_role("button", name="Estimate the cost").click()
    expect(wrong).to_contain_text("no adapter 'nobody'")
    with site.http() as client:
        assert len(client.get("/v1/audits").json()["audits"]) == before


def progress(page: Page) -> float:
    """How far the bar is."""
    return float(page.locator("#one-progress").evaluate("bar => bar.value / bar.max"))


def test_progress_is_live_and_an_audit_can_be_cancelled(site: PageSite, visit: Visit) -> None:
    """Without a click the page follows; a screen reader hears states and quarters; what was recorded stays."""
    with site.engines.held(), site.http() as client:
        made = client.post("/v1/audits", json={"adapter": "acme-leaky", "candidates": ITEMS}).json()
        page = visit("audit", f"audit={made['id']}")
        expect(page.locator("#one-heard")).to_contain_text("The audit is")
        expect(page.locator("#one-running")).to_be_visible()
        assert progress(page) == 0
        assert violations(page) == []
        page.get_by_role("button", name="Cancel").click()
        dialog = page.get_by_role("dialog")
        dialog.get_by_role("button", name="Cancel the audit").click()
        expect(page.locator("#one-heard")).to_have_text("The audit is cancelled.")
        expect(page.get_by_role("button", name="Cancel")).to_have_count(0)
        assert client.get(f"/v1/audits/{made['id']}").json()["state"] == "cancelled"
        other = client.post("/v1/audits", json={"adapter": "acme-clean", "candidates": ITEMS}).json()
        page.evaluate("id => { location.hash = `audit=${id}` }", other["id"])
        expect(page.locator("#one-title")).to_contain_text("acme-clean")
        expect(page.locator("#one-running")).to_be_visible()
        site.engines.hold.set()
        expect(page.locator("#one-heard")).to_have_text("The audit is done.", timeout=20_000)
        expect(page.locator("#one-running")).to_be_hidden()
        expect(page.locator("#snippets tbody")).to_have_count(8)


def test_capacity_is_of_what_is_live(site: PageSite, visit: Visit) -> None:
    """A name that was rolled back counts with the version that answers, though the other one was audited later.

    The view asks for the sets and their law, not for all names.
    """
    asked = [*ITEMS[:3], {"id": "mine", "prefix": "of this test ", "target": "alone"}]
    for rank in (3, 4, LEAKY):
        site.add(f"acme-r{rank}", rank)
        site.audit(f"acme-r{rank}", "ranks.jsonl", candidates=asked, show_text=True)
    site.add("acme-r3", 6)
    digest = site.audit("acme-r3", "ranks.jsonl", candidates=asked, show_text=True)["candidate_set"]

    def ranks() -> list[list[int]]:
        with site.http() as client:
            (shown,) = (
                one
                for one in client.get("/v1/capacity/sets").json()["sets"]
                if one["candidate_set"] == digest
            )
            (every,) = (
                one for one in client.get("/v1/capacity").json()["laws"] if one["candidate_set"] == digest
            )
            law = client.get(f"/v1/capacity/sets/{digest}/law").json()
        assert law == every
        return [[row["rank"] for row in shown["rows"]], [at["rank"] for at in law["law"]["ranks"]]]

    assert ranks() == [[4, 6, LEAKY]] * 2
    with site.http() as client:
        client.post("/v1/adapters/acme-r3/rollback")
    assert ranks() == [[3, 4, LEAKY]] * 2
    page = visit("audit", "/audits")
    sent: list[str] = []
    page.on("request", lambda one: sent.append(one.url))
    page.get_by_role("link", name="Capacity").click()
    page.locator("#sets").select_option(digest)
    expect(page.locator("#stops button b")).to_have_text(["3", "4", str(LEAKY)])
    expect(page.locator("#law-ranks li")).to_have_count(3)
    assert not [url for url in sent if "/v1/adapters" in url or url.endswith("/v1/capacity")]
    with site.http() as client:
        assert client.get(f"/v1/capacity/sets/{'0' * 64}/law").status_code == 404


def test_an_audit_is_removed(site: PageSite, visit: Visit) -> None:
    """By a key that may; it asks first, and what is left is the tombstone with who did it."""
    made = site.audit("acme-clean", candidates=ITEMS[:2])
    page = visit(
        "adapters", f"audit={made['id']}"
    )  # sees the state of an audit that admits, and removes none
    expect(page.locator("#one-title")).to_contain_text("acme-clean")
    expect(page.get_by_role("button", name="Remove")).to_have_count(0)
    page = visit("audit", f"audit={made['id']}")
    page.get_by_role("button", name="Remove").click()
    dialog = page.get_by_role("dialog")
    assert violations(page) == []
    dialog.get_by_role("button", name="Cancel").click()
    expect(dialog).to_be_hidden()
    page.get_by_role("button", name="Remove").click()
    dialog.get_by_role("button", name="Remove").click()
    expect(page.locator("#said")).to_have_text("The audit was removed.")
    expect(page.locator("#audits-title")).to_be_focused()
    with site.http() as client:
        assert client.get(f"/v1/audits/{made['id']}").status_code == 404
        (gone,) = client.get("/v1/audits?removed=true").json()["removed"]
    assert (gone["id"], gone["removed_by"]) == (made["id"], "audit")


def test_older_audits_come_by_pages(site: PageSite, visit: Visit) -> None:
    """Fifty at a time; the newest stay fresh above them."""
    with ThreadPoolExecutor(20) as pool:
        list(pool.map(lambda _: site.audit("acme-clean", candidates=ITEMS[:1]), range(60)))
    page = visit("audit", "/audits")
    rows = page.locator("#audits tbody tr")
    expect(rows).to_have_count(50)
    page.get_by_role("button", name="Older").click()
    expect(rows.nth(60)).to_be_visible()
    expect(page.get_by_role("button", name="Older")).to_be_hidden()
    assert violations(page) == []
