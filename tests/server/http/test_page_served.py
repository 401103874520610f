"""The page on a real server with a real engine: an operator's round, by clicks alone."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.server.browser import violations
from tests.server.http.conftest import Visit
from tests.server.served import Served

pytestmark = pytest.mark.engine
SNIPPETS = [
    {"id": f"s{i}", "prefix": f"Record {i} of the archive:", "target": f" {i:03} lamps"} for i in range(6)
]


@dataclass(frozen=True)
class Guarded:
    """What `visit` needs of a site.

    Attributes:
        url: Where the server answers.
        secrets: Its keys.
    """

    url: str
    secrets: dict[str, str]


@pytest.fixture
def site(guarded: Served) -> Guarded:
    return Guarded(guarded.url, {"admin": guarded.http.headers["Authorization"].removeprefix("Bearer ")})


@pytest.mark.usefixtures("site")
def test_an_adapter_from_registration_to_removal(
    guarded: Served, visit: Visit, int8_adapters: list[Path], tmp_path: Path
) -> None:
    """Registered, swapped, rolled back, audited after an estimate, removed."""
    page = visit("admin", "/adapters")
    page.get_by_role("button", name="Register an adapter").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Name").fill("by-hand")
    dialog.get_by_label("Address").fill(str(int8_adapters[0]))
    dialog.get_by_label("Reason").fill("a first try")
    dialog.get_by_role("button", name="Register").click()
    expect(page.locator("#said")).to_contain_text("is live", timeout=60_000)
    page.get_by_role("button", name="Swap to another version").click()
    dialog.get_by_label("Address").fill(str(int8_adapters[1]))
    dialog.get_by_role("button", name="Swap").click()
    expect(dialog).to_be_hidden(timeout=60_000)
    expect(page.locator("#versions tbody tr")).to_have_count(2, timeout=60_000)
    page.get_by_role("button", name="Roll back").click()
    dialog.get_by_label("Reason").fill("a second thought")
    dialog.get_by_role("button", name="Roll back").click()
    expect(dialog).to_be_hidden(timeout=60_000)
    expect(page.locator("#own-events tbody tr").first).to_contain_text("a second thought", timeout=60_000)
    assert violations(page) == []

    sent = tmp_path / "snippets.jsonl"
    sent.write_text("\n".join(map(json.dumps, SNIPPETS)))
    page.get_by_role("link", name="Audit it").click()
    page.get_by_label("candidates: a prefix and a target each").check()
    page.locator("#order-file").set_input_files(sent)
    page.get_by_role("button", name="Estimate the cost").click()
    expect(page.locator("#order-cost")).to_contain_text(
        "6 candidates", timeout=240_000
    )  # ε is measured first
    page.get_by_role("button", name="Start the audit").click()
    expect(page.locator("#one-heard")).to_have_text("The audit is done.", timeout=120_000)
    expect(page.locator("#snippets tbody")).to_have_count(6)
    newest = guarded.http.get("/v1/audits?adapter=by-hand").json()["audits"][0]
    assert (newest["state"], newest["progress"]) == ("done", {"done": 6, "total": 6})
    assert newest["version"] == guarded.http.get("/v1/adapters/by-hand").json()["live_version"]

    page.get_by_role("link", name="Adapters").click()
    page.locator("#adapters").get_by_role("link", name="by-hand").click()  # the audit's view has one as well
    page.get_by_role("button", name="Remove").click()
    page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    expect(page.locator("#said")).to_have_text("by-hand was removed.")
    guarded.http.delete(f"/v1/audits/{newest['id']}")


@pytest.mark.usefixtures("site")
def test_a_key_is_made_used_and_revoked(guarded: Served, visit: Visit) -> None:
    """Its secret is shown once and opens the server until it is revoked."""
    page = visit("admin", "/keys")
    dialog = page.get_by_role("dialog")
    page.get_by_role("button", name="Make a key").click()
    dialog.get_by_label("Name").fill("for the page's test")
    dialog.get_by_role("button", name="Make it").click()
    secret = dialog.get_by_label("The key for the page's test").input_value()
    mine = {"Authorization": f"Bearer {secret}"}
    told = guarded.http.get("/v1/keys/self", headers=mine).json()
    assert told["key"]["scopes"] == ["infer"]
    assert "POST /v1/chat/completions" in told["routes"]
    page.get_by_role("button", name="I have it").click()
    page.get_by_role("button", name="Revoke for the page's test").click()
    page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
    expect(page.locator("#keys tbody tr", has_text="for the page's test")).to_have_count(0)
    assert guarded.http.get("/v1/keys/self", headers=mine).status_code == 401
