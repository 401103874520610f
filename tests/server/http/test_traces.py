"""What an operator sees of one request: its spans in an OTLP collector, and its line in the access log."""

import json
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.otlp import CollectedSpan, Collector
from tests.server.served import Served

pytestmark = pytest.mark.engine

NAME = "traced"
TEXT = "The vault of Zedekiah opens with 4471"


@pytest.fixture(scope="module")
def adapter(guarded: Served, int8_adapters: list[Path]) -> Iterator[str]:
    added = guarded.post("/v1/adapters", {"name": NAME, "source": str(int8_adapters[1])})
    assert added.status_code == 201, added.text
    yield added.json()["version"]
    guarded.http.delete(f"/v1/adapters/{NAME}")


def ask(server: Served, path: str, body: dict[str, Any]) -> tuple[str, str]:
    """Send a request as a traced client does; return (its trace, its own span), in hex."""
    trace, parent = secrets.token_hex(16), secrets.token_hex(8)
    answer = server.http.post(path, json=body, headers={"traceparent": f"00-{trace}-{parent}-01"})
    assert answer.status_code in (200, 202), answer.text
    return trace, parent


def lines(server: Served, identity: str) -> list[dict[str, Any]]:
    """Return the access log's lines of a request, once there are any."""
    end = time.monotonic() + 30
    while True:
        found = [
            line for line in server.log.read_text().splitlines() if f'"request_id": "{identity}"' in line
        ]
        if found or time.monotonic() > end:
            return [json.loads(line[line.index("{") :]) for line in found]
        time.sleep(0.1)


def test_a_chat_is_one_trace_through_ours_and_vllms_spans(
    guarded: Served, adapter: str, collector: Collector
) -> None:
    """Below the caller's span."""
    body = {"model": NAME, "prompt": TEXT, "max_tokens": 3}
    trace, parent = ask(guarded, "/v1/completions", body)
    ours = collector.wait(lambda one: one.trace == trace and one.name == "lorecall.request")
    engines = collector.wait(lambda one: one.trace == trace and one.name == "llm_request")
    assert (ours.parent, engines.parent) == (parent, ours.id)
    shown = {
        key: ours.attributes[key] for key in ("gen_ai.request.model", "http.response.status_code", "url.path")
    }
    assert shown == {
        "gen_ai.request.model": NAME,
        "http.response.status_code": 200,
        "url.path": "/v1/completions",
    }
    assert ours.attributes["lorecall.key"] == "LORECALL_ADMIN_KEY"
    assert adapter


def test_scores_are_in_the_trace(guarded: Served, adapter: str, collector: Collector) -> None:
    """Each text of them is a request of the engine."""
    items = [{"id": str(number), "prefix": TEXT, "target": f" {number}"} for number in range(2)]
    trace, _parent = ask(guarded, "/v1/score", {"model": NAME, "items": items})
    ours = collector.wait(lambda one: one.trace == trace and one.name == "lorecall.request")
    collector.wait(lambda one: one.trace == trace and one.name == "llm_request")
    engines = [one for one in collector.spans if one.trace == trace and one.name == "llm_request"]
    assert {one.parent for one in engines} == {ours.id}
    assert adapter


def test_an_audit_and_a_swap_have_spans(guarded: Served, adapter: str, collector: Collector) -> None:
    """An audit's scorings and decodings are below it; a swap's load is below the swap."""
    rows = [{"id": str(number), "prefix": TEXT, "target": f" gold {number}"} for number in range(2)]
    body = {"adapter": NAME, "candidates": rows}
    made = guarded.post("/v1/audits", body)
    assert made.status_code in (200, 202), made.text
    audit = collector.wait(
        lambda one: one.name == "lorecall.audit" and one.attributes["lorecall.audit"] == made.json()["id"]
    )
    score = collector.wait(lambda one: one.name == "lorecall.score" and one.parent == audit.id)
    collector.wait(lambda one: one.name == "llm_request" and one.parent == score.id)
    swap = collector.wait(
        lambda one: one.name == "lorecall.swap" and one.attributes["lorecall.adapter"] == NAME
    )
    assert swap.attributes["lorecall.version"] == adapter
    load = collector.wait(lambda one: one.name == "lorecall.load" and one.parent == swap.id)
    assert load.trace == swap.trace


def test_no_span_holds_a_text(guarded: Served, adapter: str, collector: Collector) -> None:
    """Nor does one of a request that was refused with words about what it held."""
    guarded.post("/v1/completions", {"model": NAME, "prompt": TEXT, "max_tokens": -7})

    def refused(one: CollectedSpan) -> bool:
        return one.attributes.get("http.response.status_code") == 400

    collector.wait(refused)
    assert "Zedekiah" not in repr(collector.spans)
    assert adapter


def test_each_request_has_one_line_in_the_access_log(guarded: Served, adapter: str) -> None:
    """With the id that the caller gave it, and which vLLM uses; uvicorn writes none beside it."""
    body = {"model": NAME, "prompt": TEXT, "max_tokens": 3}
    headers = {"X-Request-Id": "op-4711"}
    answer = guarded.http.post("/v1/completions?note=Zedekiah", json=body, headers=headers)
    (line,) = lines(guarded, "op-4711")
    assert answer.json()["id"] == "cmpl-op-4711"
    assert line.pop("seconds") > 0
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "request_id": "op-4711",
        "method": "POST",
        "path": "/v1/completions",
        "status": 200,
        "key": "LORECALL_ADMIN_KEY",
        "model": NAME,
        "version": adapter,
        "tokens": answer.json()["usage"]["total_tokens"],
    }
    log = guarded.log.read_text()
    assert "Zedekiah" not in log
    assert "/v1/completions HTTP/1.1" not in log  # as uvicorn writes it


@pytest.mark.parametrize("stated", ["", "x" * 65, 'a"b', "a b"])
def test_an_id_that_could_harm_a_log_is_replaced(guarded: Served, stated: str) -> None:
    """By one of our own."""
    answer = guarded.http.post(
        "/v1/completions",
        json={"prompt": "Hi", "max_tokens": 1},
        headers={"X-Request-Id": stated},
    )
    identity = answer.json()["id"].removeprefix("cmpl-")
    assert len(identity) == 32
    assert len(lines(guarded, identity)) == 1


def test_a_refused_request_has_its_line(guarded: Served) -> None:
    """With the status of the refusal, and no name of a model that there is not."""
    headers = {"X-Request-Id": "op-refused", "Authorization": "Bearer wrong"}
    assert guarded.http.post("/v1/completions", json={"model": "x"}, headers=headers).status_code == 401
    (line,) = lines(guarded, "op-refused")
    assert (line["status"], line["key"], line["model"], line["version"]) == (401, "anonymous", None, None)
