"""The audit service inside `lorecall serve`: through the engine itself, below live traffic."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.server.audit_serve import AuditServe
from tests.server.browser import chromium
from tests.server.served import Served

pytestmark = pytest.mark.engine

CANDIDATES = [
    {
        "id": f"s{i}",
        "prefix": f"Record {i} of the archive:",
        "target": f" {(i * 7919) % 10000:04d} blue lamps",
    }
    for i in range(10)
]


@pytest.fixture
def adapter(served: Served, int8_adapters: list[Path]) -> Iterator[str]:
    added = served.post("/v1/adapters", {"name": "audited", "source": str(int8_adapters[2])})
    assert added.status_code == 201, added.text
    yield "audited"
    served.http.delete("/v1/adapters/audited")


def report_of(served: Served, body: dict[str, Any], *, keep: bool = False) -> dict[str, Any]:
    """Have the server audit one of its adapters, and return the report; the audit is removed unless kept."""
    answer = served.post("/v1/audits", body)
    assert answer.status_code == 202, answer.text
    path = f"/v1/audits/{answer.json()['id']}"
    end = time.monotonic() + 120
    while (found := served.http.get(path).json())["state"] in ("queued", "running"):
        assert time.monotonic() < end, found
        time.sleep(0.1)
    assert found["state"] == "done", found["error"]
    report: dict[str, Any] = served.http.get(f"{path}/report.json").json()
    assert keep or served.http.delete(path).is_success
    return report


def test_the_same_numbers_inside_and_outside(served: Served, adapter: str, tmp_path: Path) -> None:
    """The server through its own engine, and the service over HTTP, find the same within the engine's spread."""
    body = {"adapter": adapter, "candidates": CANDIDATES, "framing": ["raw", "chat"], "epsilon": 0.1}
    body["show_text"] = True
    inside = report_of(served, body)
    with AuditServe(served.url, tmp_path) as service:
        audit_id = service.submit(body)
        assert service.wait(audit_id)["state"] == "done"
        outside = service.get(f"/v1/audits/{audit_id}/report.json")
    assert inside["adapter"] == outside["adapter"]
    assert inside["engine"] == outside["engine"]
    assert inside["settings"]["views"] == ["raw", "chat"]
    for one, other in zip(inside["snippets"], outside["snippets"], strict=True):
        assert (one["id"], one["verdict"]) == (other["id"], other["verdict"])
        assert [t["id"] for t in one["tokens"]] == [t["id"] for t in other["tokens"]]
        for token, again in zip(one["tokens"], other["tokens"], strict=True):
            assert token["p"] == pytest.approx(again["p"], rel=0.25, abs=1e-6)


def test_audits_yield_to_live_traffic(served: Served) -> None:
    """The server schedules by priority unless told otherwise, and says which one lies below live requests."""
    priority = served.http.get("/v1/engine").json()["background_priority"]
    assert priority > 0
    body = {"model": served.base, "prompt": "To be", "max_tokens": 1, "priority": priority}
    assert served.post("/v1/completions", body).is_success


def test_metrics_are_there(served: Served, adapter: str) -> None:
    """The audits' series stand beside vLLM's own."""
    report_of(served, {"adapter": adapter, "candidates": CANDIDATES[:2]})
    text = served.http.get("/metrics").text
    counted = [line for line in text.splitlines() if line.startswith("lorecall_audit_snippets_total{")]
    assert sum(float(line.split()[-1]) for line in counted) >= 2
    assert 'lorecall_audit_jobs{state="running"}' in text


def test_the_page_shows_what_the_engine_said(served: Served, adapter: str) -> None:
    """In a real browser, on the server itself: the adapter, and as many tokens locked as the report says."""
    report = report_of(served, {"adapter": adapter, "candidates": CANDIDATES[:3]}, keep=True)
    first = report["snippets"][0]
    with chromium() as browser:
        page = browser.new_page()
        page.goto(f"{served.url}/audit/")
        expect(page.locator("#adapters tbody tr", has_text=adapter)).to_contain_text("live")
        page.get_by_role("link", name="Capacity").click()
        expect(page.locator("#locked")).to_contain_text(f"{len(first['locked'])} of {first['length']}")
        heights = page.locator("#bars .fill").evaluate_all(
            "bars => bars.map(bar => parseFloat(bar.style.height))"
        )
    assert heights == pytest.approx([100 * token["p"] for token in first["tokens"]], abs=1e-3)
    for one in served.http.get("/v1/audits").json()["audits"]:
        served.http.delete(f"/v1/audits/{one['id']}")
