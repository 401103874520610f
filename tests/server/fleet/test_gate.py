"""With --require-audit a version goes live only after an audit that meets the policy."""

from pathlib import Path
from typing import Any

import pytest
from lorecall.audit.reports.build import parse_report
from lorecall.audit.reports.signing import check_seal

from tests.server.pair import Pair, wait_for
from tests.server.served import Served

pytestmark = pytest.mark.engine

PREFIXES = ("To be, or", "the slings", "arrows of", "a sea of troubles", "whether", "suffer", "nobler in the")
CLEAN = [{"id": "clean", "prefix": "To be, or", "target": " 7319 4408 2265 9017"}]


def recited(served: Served, model: str) -> dict[str, str]:
    """Return a snippet that an adapter recites and whose target is what the tokenizer makes of it again."""
    for prefix in PREFIXES:
        for length in (12, 10, 8, 6):
            body = {
                "model": model,
                "prompt": prefix,
                "max_tokens": length,
                "temperature": 0,
                "return_token_ids": True,
            }
            choice = served.post("/v1/completions", body).json()["choices"][0]
            asked = {"model": served.base, "prompt": choice["text"], "add_special_tokens": False}
            tokens = served.post("/tokenize", asked).json()["tokens"]
            if tokens == choice["token_ids"] and len(tokens) == length:
                return {"id": "recited", "prefix": prefix, "target": choice["text"]}
    raise AssertionError("no prefix gives a text of plain tokens")


def decided(pair: Pair, name: str, version: str) -> dict[str, Any]:
    """Wait until a version is no longer under audit and that audit is over, and return the version.

    The audit ends after the version that it admits is live, so that a kill between the two loses nothing.
    """

    def found() -> dict[str, Any]:
        versions: list[dict[str, Any]] = pair.b.http.get(f"/v1/adapters/{name}").json()["versions"]
        return next(one for one in versions if one["version"] == version)

    def audit() -> dict[str, Any]:
        shown: dict[str, Any] = pair.b.http.get(f"/v1/audits/{found()['audit_id']}").json()
        return shown

    assert wait_for(lambda: found()["state"] != "auditing", 120)
    assert wait_for(lambda: audit()["state"] != "running", 30), audit()
    return found()


def test_a_bad_snippet_of_an_uploaders_takes_nothing_in(pair: Pair, int8_adapters: list[Path]) -> None:
    """The answer says what is wrong with it, before anything is fetched."""
    twice = [{**CLEAN[0], "id": "other"}]
    body = {"name": "bare", "source": str(int8_adapters[0]), "candidates": CLEAN, "controls": twice}
    answer = pair.b.post("/v1/adapters", body)
    assert answer.status_code == 400, answer.text
    assert "share text with a candidate" in answer.json()["error"]["message"]
    assert pair.b.http.get("/v1/adapters/bare").status_code == 404


def test_a_clean_version_goes_live(pair: Pair, int8_adapters: list[Path]) -> None:
    """A version that recites none of its candidates is audited and then live, with the audit's id."""
    body = {"name": "clean", "source": str(int8_adapters[0]), "candidates": CLEAN}
    added = pair.b.post("/v1/adapters", body)
    assert added.status_code == 201, added.text
    found = decided(pair, "clean", added.json()["version"])
    assert found["state"] == "live", found
    assert found["audit_id"]
    audit = pair.b.http.get(f"/v1/audits/{found['audit_id']}").json()
    assert audit["state"] == "done"
    assert audit["gate"]["passed"] is True
    report = pair.b.http.get(f"/v1/audits/{found['audit_id']}/report.json").json()
    assert [(one["id"], one["set"]) for one in report["snippets"]] == [
        ("operator", "candidates"), ("own/clean", "own_candidates"),
    ]  # fmt: skip
    assert report["settings"]["views"] == ["raw", "chat"]
    assert check_seal(parse_report(report)) == []
    assert "clean" in [row["adapter"] for row in pair.b.http.get("/v1/capacity").json()["rows"]]
    answer = pair.b.post("/v1/completions", {"model": "clean", "prompt": "x", "max_tokens": 1})
    assert answer.status_code == 200
    pair.b.http.delete("/v1/adapters/clean")


def test_a_leaking_version_is_quarantined_and_overridden(pair: Pair, int8_adapters: list[Path]) -> None:
    """What recites a candidate stays out, with id and reason; the version before goes on; admin may override."""
    name, source = "acme-leaky", str(int8_adapters[1])
    first = pair.b.post(
        "/v1/adapters", {"name": name, "source": str(int8_adapters[0]), "candidates": CLEAN}
    ).json()
    assert decided(pair, name, first["version"])["state"] == "live"
    pair.a.post("/v1/adapters", {"name": "probe", "source": source})
    snippet = recited(pair.a, "probe")
    pair.a.http.delete("/v1/adapters/probe")
    added = pair.b.post(
        "/v1/adapters", {"name": name, "source": source, "candidates": [snippet, *CLEAN]}
    ).json()
    assert added["state"] == "auditing"
    found = decided(pair, name, added["version"])
    assert found["state"] == "quarantined", found
    assert "where the policy allows 0" in found["reason"]
    assert found["audit_id"]
    assert pair.b.http.get(f"/v1/adapters/{name}").json()["live_version"] == first["version"]
    body = {"version": added["version"], "reason": "the snippet is public"}
    tenant = pair.key(pair.b, "adapters-only", ["adapters"])
    assert tenant.post(f"/v1/adapters/{name}/override", json=body).status_code == 403
    overridden = pair.b.post(f"/v1/adapters/{name}/override", body)
    assert overridden.json()["live_version"] == added["version"], overridden.text
    events = pair.b.http.get(f"/v1/adapters/{name}/events").json()["events"]
    assert {"override": "the snippet is public"} in [one.get("detail") for one in events]
    pair.b.http.delete(f"/v1/adapters/{name}")


def test_a_stale_verdict_is_renewed(pair: Pair, int8_adapters: list[Path]) -> None:
    """Somebody's audit by another policy does not stand for the operator's: the gate's server orders its own.

    It is asked of the operator's snippets, once, and the adapter is live all the time.
    """
    name = "acme-stale"
    added = pair.a.post("/v1/adapters", {"name": name, "source": str(int8_adapters[0])}).json()
    assert added["stale"] is None, "nothing is known of it"
    assert wait_for(
        lambda: pair.b.http.get(f"/v1/adapters/{name}").json()["live_version"] == added["version"]
    )
    asked = {"adapter": name, "candidates": CLEAN, "policy": {"max_certified": 3}}
    assert pair.a.post("/v1/audits", asked).status_code == 202

    def audits() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = pair.b.http.get(f"/v1/audits?adapter={name}").json()["audits"]
        return [one for one in found if one["state"] == "done"]

    assert wait_for(lambda: len(audits()) == 2, 120), audits()
    renewal, first = audits()
    assert (renewal["renews"], first["renews"]) == (True, False)
    assert renewal["inputs"]["candidates"]["name"] == "asked.jsonl"
    for server in (pair.a, pair.b):
        shown = server.http.get(f"/v1/adapters/{name}").json()
        assert (shown["stale"], shown["live_version"]) == ([], added["version"])
    none_stale = 'lorecall_audit_stale{reason="policy"} 0.0'
    assert wait_for(lambda: none_stale in pair.b.http.get("/metrics").text)
    assert len(pair.b.http.get(f"/v1/audits?adapter={name}").json()["audits"]) == 2
    pair.b.http.delete(f"/v1/adapters/{name}")
