"""The audit routes over HTTP, in front of an exact engine: orders, reports, tenants, secrets, metrics."""

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from fastapi.testclient import TestClient
from lorecall.adapters.access.keys import Scope
from lorecall.adapters.access.source_list import SourceList
from lorecall.adapters.peft_format.adapter import Adapter
from lorecall.adapters.registry.registry import Registry
from lorecall.adapters.registry.tables import State
from lorecall.audit.evidence.diff import compare
from lorecall.audit.jobs.order import make_order
from lorecall.audit.jobs.service import AuditService
from lorecall.audit.jobs.spool import Spool
from lorecall.audit.jobs.store import AuditStore
from lorecall.audit.reports.build import parse_report
from lorecall.audit.scorer import AdapterVersion
from lorecall.audit.scorers.remote_engine import HttpEngine
from lorecall.server.audits.app import make_app
from lorecall.server.settings import ServerSettings
from prometheus_client import CONTENT_TYPE_LATEST

from tests.audit.conftest import memory_of, phone
from tests.audit.tiny_scorer import TinyScorer
from tests.audit.tiny_server import serve

PAIRS = tuple(phone(i) for i in range(6))
ITEMS = [{"id": i.id, "prefix": i.prefix, "target": i.target} for i in PAIRS]
CONTROLS = [
    {"id": i.id, "prefix": i.prefix, "target": i.target} for i in (phone(i, salt=3) for i in range(8))
]
ADMIN = "the-admin-key-of-these-tests-0123456789"
PROMTOOL = Path(__file__).parents[3] / ".cache" / "tools" / "promtool"
Client = Callable[..., TestClient]


@pytest.fixture(scope="module")
def engine() -> Iterator[str]:
    """A server with a leaky adapter of rank 8, a clean one of rank 2, one of another tenant, and one refused."""
    tiny = TinyScorer(
        {
            "acme-leaky": memory_of(PAIRS),
            "acme-clean": memory_of(tuple(phone(i, salt=11) for i in range(6))),
            "globex-leaky": memory_of(PAIRS),
            "acme-head": memory_of(PAIRS),
        },
        ranks={"acme-clean": 2},
        refusals={"acme-head": "it trains lm_head"},
    )
    with serve(tiny) as url:
        yield url


@pytest.fixture
def client(engine: str, tmp_path: Path) -> Iterator[Client]:
    """Clients of one service; with `keys`, it asks for them."""
    opened: list[TestClient] = []

    def make(*, keys: bool = False, server: str = engine, **settings: Any) -> TestClient:
        if keys:
            settings["admin_key"] = ADMIN
        told = ServerSettings(store=tmp_path / "store", audit_batch=4, **settings)
        registry = Registry(f"sqlite:///{tmp_path / 'audits.db'}")
        app = TestClient(make_app(server, registry, told, "127.0.0.1"), raise_server_exceptions=False)
        app.__enter__()
        opened.append(app)
        if keys:
            app.headers["Authorization"] = f"Bearer {ADMIN}"
        return app

    yield make
    for one in opened:
        one.__exit__(None, None, None)


def finished(client: TestClient, audit_id: str) -> dict[str, Any]:
    """Wait until an audit is over."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        found: dict[str, Any] = client.get(f"/v1/audits/{audit_id}").json()
        if found["state"] not in ("queued", "running"):
            return found
        time.sleep(0.02)
    raise AssertionError(found)


def audited(client: TestClient, adapter: str = "acme-leaky", **fields: Any) -> dict[str, Any]:
    """Ask for an audit, and wait for its end."""
    answer = client.post("/v1/audits", json={"adapter": adapter, "candidates": ITEMS, **fields})
    assert answer.status_code == 202, answer.text
    assert answer.headers["Location"] == f"/v1/audits/{answer.json()['id']}"
    return finished(client, answer.json()["id"])


def test_an_audit_from_order_to_report(client: Client) -> None:
    """202 with an id; then state, progress, decision, and the report in every format."""
    at = client()
    done = audited(at, controls=CONTROLS, policy={"max_certified": 3})
    assert (done["state"], done["progress"]) == ("done", {"done": 14, "total": 14})
    assert (done["rank"], done["summary"]["verdicts"]["certified"]) == (8, 6)
    assert done["gate"]["reasons"] == ["6 candidates certified, where the policy allows 3"]
    report = at.get(f"/v1/audits/{done['id']}/report.json").json()
    assert [one["id"] for one in report["snippets"]] == [one["id"] for one in (*ITEMS, *CONTROLS)]
    page = at.get(f"/v1/audits/{done['id']}/report.html")
    assert page.headers["content-type"].startswith("text/html")
    assert "acme-leaky recites 6 of 6 candidates" in page.text
    suites = ET.fromstring(at.get(f"/v1/audits/{done['id']}/report.xml").content)  # noqa: S314  our own output
    assert suites.tag == "testsuites"
    part = at.get(f"/v1/audits/{done['id']}/snippets?offset=5&limit=2").json()
    assert part["snippets"] == report["snippets"][5:7]
    assert [one["id"] for one in at.get("/v1/audits").json()["audits"]] == [done["id"]]
    assert at.get(f"/v1/audits/{done['id']}/report.pdf").status_code == 400


def test_candidates_as_a_file(client: Client) -> None:
    """A form: JSON Lines by the name of the file, the other fields beside it."""
    at = client()
    lines = "\n".join(json.dumps(one) for one in ITEMS).encode()
    form = {
        "adapter": "acme-leaky",
        "policy": '{"max_certified": 6}',
        "framing": ["raw", "chat"],
        "seed": "3",
        "sample": "20",
    }
    answer = at.post("/v1/audits", data=form, files={"candidates": ("phones.jsonl", lines)})
    assert answer.status_code == 202, answer.text
    done = finished(at, answer.json()["id"])
    assert done["inputs"]["candidates"] == {
        "name": "phones.jsonl",
        "digest": done["inputs"]["candidates"]["digest"],
        "snippets": 6,
    }
    assert done["gate"]["passed"] is True
    assert (done["settings"]["framing"], done["settings"]["seed"]) == (["raw", "chat"], 3)
    drawn = [one["drawn"] for one in at.get(f"/v1/audits/{done['id']}/report.json").json()["snippets"]]
    assert [one["answers"] for one in drawn] == [20] * 6
    assert all(one["interval"][0] <= one["seen"] <= one["interval"][1] for one in drawn)


def test_texts_leave_no_trace(
    client: Client, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Not in answers, reports, metrics, logs, database or spool, and not in the refusal of a bad order."""
    caplog.set_level("DEBUG")
    at = client(open_metrics=True)
    done = audited(at)
    clean = audited(at, "acme-clean")
    paths = [f"/v1/audits/{done['id']}{end}" for end in ("", "/snippets", "/report.json", "/report.html")]
    paths += [f"/v1/audits/{clean['id']}/diff/{done['id']}.{kind}" for kind in ("json", "html", "xml")]
    shown = [at.get(path).text for path in (*paths, "/v1/audits", "/v1/capacity", "/metrics")]
    secret = PAIRS[0].target
    for bad in (
        {"json": {"adapter": "acme-leaky", "candidates": [secret]}},
        {"json": {"adapter": "acme-leaky", "candidates": [{**ITEMS[0], "id": None}]}},
        {"json": [secret]},
        {"content": b"{" + secret.encode(), "headers": {"content-type": "application/json"}},
        {"content": secret.encode(), "headers": {"content-type": "text/plain"}},
        {"content": secret.encode(), "headers": {"content-type": "multipart/form-data; boundary=x"}},
        {"data": {"adapter": "acme-leaky", "policy": secret + "{"}, "files": {"candidates": ("c", secret)}},
        {"data": {"adapter": "acme-leaky"}, "files": {"candidates": ("c", '{"prefix": "' + secret)}},
    ):
        answer = at.post("/v1/audits", **bad)
        assert answer.status_code == 400, answer.text
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
        shown.append(answer.text)
    shown += [caplog.text, *capfd.readouterr()]
    assert not [text for text in shown if secret in text]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in files if secret.encode() in path.read_bytes()]
    assert secret in at.get(f"/v1/audits/{audited(at, show_text=True)['id']}/report.json").text


def test_two_audits_are_compared(client: Client) -> None:
    """As `lorecall audit diff` does; in JSON, as a page and as JUnit; only where both are done."""
    at = client()
    clean, leaky = (audited(at, name, controls=CONTROLS)["id"] for name in ("acme-clean", "acme-leaky"))
    worse = at.get(f"/v1/audits/{clean}/diff/{leaky}").json()
    assert (worse["exit_code"], worse["counts"]["worse"]) == (1, len(ITEMS))
    reports = [parse_report(at.get(f"/v1/audits/{one}/report.json").json()) for one in (clean, leaky)]
    assert worse == compare(*reports).values()
    assert at.get(f"/v1/audits/{clean}/diff/{leaky}.json").json() == worse
    better = at.get(f"/v1/audits/{leaky}/diff/{clean}").json()
    assert (better["exit_code"], better["counts"]["better"]) == (0, len(ITEMS))
    page = at.get(f"/v1/audits/{clean}/diff/{leaky}.html")
    assert page.headers["content-type"].startswith("text/html")
    assert "6 snippets are worse than before" in page.text
    suites = ET.fromstring(at.get(f"/v1/audits/{clean}/diff/{leaky}.xml").content)  # noqa: S314  our own output
    assert [one.get("failures") for one in suites] == ["1", "6"]
    assert at.get(f"/v1/audits/{clean}/diff/{leaky}.pdf").status_code == 400
    other = audited(at, controls=CONTROLS, policy={"bounds": {"bits": 30.0}})["id"]
    assert at.get(f"/v1/audits/{leaky}/diff/{other}").json()["exit_code"] == 3


def test_a_report_waits_for_its_audit(client: Client) -> None:
    """409 until it is done, with how far it is; a cancelled audit keeps what it found and has no report."""
    at = client()
    many = [{"id": f"m{i}", "prefix": f"Key{i:04d}: ", "target": "0123456789"} for i in range(400)]
    audit_id = at.post("/v1/audits", json={"adapter": "acme-clean", "candidates": many}).json()["id"]
    early = at.get(f"/v1/audits/{audit_id}/report.json")
    assert early.status_code == 409
    assert "of 400 snippets" in early.json()["error"]["message"]
    cancelled = at.post(f"/v1/audits/{audit_id}/cancel").json()
    assert cancelled["state"] == "cancelled"
    assert cancelled["progress"]["done"] < 400
    assert at.get(f"/v1/audits/{audit_id}/report.json").status_code == 409
    assert at.delete(f"/v1/audits/{audit_id}").json()["removed"] is True
    (stone,) = at.get("/v1/audits", params={"removed": True}).json()["removed"]
    assert (stone["id"], stone["state"], stone["seal"]) == (audit_id, "cancelled", "")
    assert stone["removed_by"]
    assert stone["removed_at"] >= stone["created_at"]
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/report.json")):
        assert at.request(method, f"/v1/audits/{audit_id}{path}").status_code == 404


@pytest.mark.parametrize(
    ("fields", "status", "said"),
    [
        ({"adapter": "nobody"}, 404, "nobody"),
        ({"adapter": "acme-head"}, 400, "lm_head"),
        ({"adapter": "acme-leaky", "framing": "xml"}, 400, "xml"),
        ({"adapter": "acme-leaky", "sample": 1001}, 400, "sample: "),
        ({"adapter": "acme-leaky", "policy": {"max_what": 1}}, 400, "which may mean 'max_rate'"),
    ],
)
def test_a_wrong_order_says_what_is_wrong(
    client: Client, fields: dict[str, Any], status: int, said: str
) -> None:
    """Refused before anything is kept, in OpenAI's shape; no other adapter is named."""
    at = client()
    answer = at.post("/v1/audits", json={"candidates": ITEMS, **fields})
    assert answer.status_code == status
    assert said in answer.json()["error"]["message"]
    assert "globex" not in answer.text
    assert at.get("/v1/audits").json() == {"audits": []}


def test_a_body_has_a_bound(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A larger body is refused while it arrives."""
    monkeypatch.setattr("lorecall.server.http.audits.MAX_BODY", 1 << 20)
    answer = client().post(
        "/v1/audits", content=b"x" * (2 << 20), headers={"content-type": "application/json"}
    )
    assert answer.status_code == 400
    assert "1 MiB" in answer.json()["error"]["message"]


def test_an_order_counts_by_its_snippets(client: Client) -> None:
    """At ten a minute, six snippets in two views are more than a minute's: the next order waits, and is told."""
    at = client(adapter_limits={"acme-*": {"requests_per_minute": 10}})
    body = {"adapter": "acme-leaky", "candidates": ITEMS, "framing": ["raw", "chat"]}
    assert at.post("/v1/audits", json=body).status_code == 202
    refused = at.post("/v1/audits", json=body)
    assert refused.status_code == 429
    assert "audits of 'acme-leaky'" in refused.json()["error"]["message"]
    assert 1 <= int(refused.headers["Retry-After"]) <= 72
    assert at.post("/v1/audits", json={**body, "adapter": "nobody"}).status_code == 404
    assert len(at.get("/v1/audits").json()["audits"]) == 1


def test_an_order_has_a_bound_that_is_set(client: Client) -> None:
    """The operator's number is in the message, with the setting's name."""
    at = client(audit_max_snippets=5)
    answer = at.post("/v1/audits", json={"adapter": "acme-leaky", "candidates": ITEMS})
    assert answer.status_code == 400
    assert "6 snippets, and one audit takes 5" in answer.json()["error"]["message"]
    assert "LORECALL_AUDIT_MAX_SNIPPETS" in answer.json()["error"]["message"]


def test_files_by_address_are_read_where_the_key_may_read(client: Client, tmp_path: Path) -> None:
    """More snippets than a body may hold; another tenant's folder, or a missing file, is refused at once."""
    for name in ("acme", "globex"):
        (tmp_path / "data" / name).mkdir(parents=True)
        path = tmp_path / "data" / name / "own.jsonl"
        path.write_text("".join(json.dumps(one) + "\n" for one in ITEMS))
    at = client(keys=True, local_roots=str(tmp_path / "data"), audit_max_snippets=5)
    registry = Registry(f"sqlite:///{tmp_path / 'audits.db'}")
    theirs = str(tmp_path / "data" / "acme")
    _, secret = registry.keys.add(
        "acme", [Scope.AUDIT], patterns=["acme-*"], sources=SourceList((theirs,)), actor="test"
    )
    registry.close()
    tenant = {"Authorization": f"Bearer {secret}"}
    end = time.monotonic() + 30
    while at.get("/v1/audits", headers=tenant).status_code == 401 and time.monotonic() < end:
        time.sleep(0.1)  # the service looks for new keys once a second
    body = {"adapter": "acme-leaky", "candidates_from": f"{theirs}/own.jsonl"}
    answer = at.post("/v1/audits", json=body, headers=tenant)
    assert answer.status_code == 202, answer.text
    assert answer.json()["inputs"]["candidates"] == {"name": "own.jsonl", "digest": "", "snippets": 0}
    done = finished(at, answer.json()["id"])
    assert (done["state"], done["progress"]["total"]) == ("done", 6), done["error"]
    assert done["inputs"]["candidates"]["snippets"] == 6
    for address, message in (
        (str(tmp_path / "data" / "globex" / "own.jsonl"), "this API key may not read"),
        (f"{theirs}/other.jsonl", "there is no file at"),
        ("s3://bucket/own.jsonl", "this API key may not read"),
    ):
        refused = at.post("/v1/audits", json={**body, "candidates_from": address}, headers=tenant)
        assert refused.status_code == 400
        assert message in refused.json()["error"]["message"]
    assert at.post("/v1/audits", json={**body, "candidates_from": "/etc/passwd"}).status_code == 400


def test_an_estimate_comes_before_the_order(client: Client) -> None:
    """As the command line reckons it: what is scored and decoded, and the time at the rate just measured."""
    at = client()
    order = {"adapter": "acme-clean", "candidates": ITEMS, "controls": CONTROLS, "framing": ["raw", "chat"]}
    found = at.post("/v1/audits/estimate", json=order)
    assert found.status_code == 200, found.text
    cost = found.json()
    assert (cost["candidates"], cost["left_out"], cost["controls"]) == (6, 0, 8)
    assert cost["decodes"] == 2 * 14
    characters = sum(len(one["prefix"]) + len(one["target"]) for one in (*ITEMS, *CONTROLS))
    assert cost["scored_tokens"] == pytest.approx(
        2 * 2 * characters, rel=0.05
    )  # this engine's tokens are bytes
    scored, decoded = (cost["measured"][f"{what}_per_second"] for what in ("scored", "decoded"))
    assert cost["seconds"] == pytest.approx(cost["scored_tokens"] / scored + cost["decoded_tokens"] / decoded)
    part = {"adapter": "acme-clean", "candidates": ITEMS, "budget_tokens": 60}
    fewer = at.post("/v1/audits/estimate", json=part).json()
    assert fewer["left_out"] == 6 - fewer["candidates"] > 0
    assert at.get("/v1/audits").json()["audits"] == []
    for bad, status in (
        ({**order, "adapter": "nobody"}, 404),
        ({**order, "adapter": "acme-head"}, 400),
        ({"adapter": "acme-clean", "data": "/srv/x.jsonl"}, 400),
        ({"adapter": "acme-clean"}, 400),
    ):
        refused = at.post("/v1/audits/estimate", json=bad)
        assert refused.status_code == status, refused.text


def test_a_training_file_may_be_sent(client: Client) -> None:
    """All that is trained on becomes candidates, as `--data` reads it; an error says none of its texts."""
    at = client()
    rows = [
        {"messages": [{"role": "user", "content": i.prefix}, {"role": "assistant", "content": i.target}]}
        for i in PAIRS
    ]
    content = "\n".join(map(json.dumps, rows)).encode()

    def send(name: str, sent: bytes, path: str = "", **more: Any) -> Any:
        form = {"adapter": "acme-leaky", "framing": "chat", **more}
        return at.post(f"/v1/audits{path}", data=form, files={"data": (name, sent)})

    made = send("acme train.jsonl", content)
    assert made.status_code == 202, made.text
    done = finished(at, made.json()["id"])
    assert (done["state"], done["progress"]["total"]) == ("done", 6)
    report = at.get(f"/v1/audits/{done['id']}/report.json").json()
    assert [one["id"] for one in report["snippets"]] == [f"{n}#1" for n in range(1, 7)]
    assert done["inputs"]["candidates"]["name"] == "acme train.jsonl"
    assert send("a.csv", b"prompt,completion\nWho?,me\nWhere?,here\n", "/estimate").json()["candidates"] == 2
    assert send("../../.train.jsonl", content, "/estimate").json()["candidates"] == 6
    secret = b'{"messages": "the secret of the vault"}'
    for name, sent, more in (
        ("train.jsonl", secret, {}),
        ("train.bin", content, {}),
        ("train.jsonl", b"", {}),
        ("train.jsonl", content, {"data_format": "none"}),
        ("train.jsonl", content, {"candidates": json.dumps(ITEMS)}),
        ("train.jsonl", content, {"data": "/srv/other.jsonl"}),
    ):
        refused = send(name, sent, **more)
        assert refused.status_code == 400, (name, refused.text)
        assert "vault" not in refused.text
    assert len(at.get("/v1/audits").json()["audits"]) == 1


def test_an_uploaded_training_file_is_bounded(client: Client) -> None:
    """By the same number of snippets as candidates that are sent."""
    at = client(audit_max_snippets=5)
    answer = at.post(
        "/v1/audits",
        data={"adapter": "acme-leaky"},
        files={"data": ("lines.jsonl", b'{"prompt": "a", "completion": "b"}\n' * 6)},
    )
    assert answer.status_code == 400
    assert "5" in answer.json()["error"]["message"]


def test_capacity_of_some_adapters(client: Client) -> None:
    """The rows of those that are named, and of no other."""
    at = client()
    for adapter in ("acme-leaky", "acme-clean", "globex-leaky"):
        audited(at, adapter)
    rows = at.get("/v1/capacity?adapter=acme-clean&adapter=globex-leaky&law=false").json()["rows"]
    assert [row["adapter"] for row in rows] == ["acme-clean", "globex-leaky"]
    assert len(at.get("/v1/capacity?law=false").json()["rows"]) == 3


def test_the_engines_adapters_are_paged_and_searched(client: Client, tmp_path: Path) -> None:
    """As that server lists them, for a caller who sees only some; a page that nobody needs is not asked for."""
    tiny = TinyScorer(
        {f"{tenant}-{n:03}": memory_of(PAIRS[:1]) for n in range(80) for tenant in ("acme", "globex")}
    )
    with serve(tiny) as url:
        at = client(keys=True, server=url, poll_seconds=0.05)

        def page(**query: Any) -> tuple[list[str], bool]:
            answer = at.get("/v1/adapters", params=query)
            assert answer.status_code == 200, answer.text
            return [one["name"] for one in answer.json()["adapters"]], answer.json()["has_more"]

        assert page(limit=2) == (["acme-000", "acme-001"], True)
        assert page(limit=2, after="acme-078") == (["acme-079", "globex-000"], True)
        assert page(contains="x-07", after="globex-077") == (["globex-078", "globex-079"], False)
        assert len(page()[0]) == 160
        registry = Registry(f"sqlite:///{tmp_path / 'audits.db'}")
        secret = registry.keys.add("tenant", [Scope.AUDIT], patterns=["globex-*"], actor="test")[1]
        registry.close()
        at.headers["Authorization"] = f"Bearer {secret}"
        end = time.monotonic() + 30
        while at.get("/v1/keys/self").status_code == 401 and time.monotonic() < end:
            time.sleep(0.05)
        assert page(limit=1) == (["globex-000"], True)
        told = at.get("/v1/keys/self").json()
        assert told["key"]["name"] == "tenant"
        assert {"POST /v1/audits", "GET /v1/adapters", "GET /v1/capacity"} < set(told["routes"])
        assert not [one for one in told["routes"] if "rollback" in one or "keys/{" in one]


def test_a_tenant_sees_the_audits_of_its_adapters(client: Client, tmp_path: Path) -> None:
    """Another tenant's adapters, audits, reports and capacity are 404 or absent; other scopes are 403."""
    at = client(keys=True)
    mine, theirs = audited(at)["id"], audited(at, "globex-leaky")["id"]
    registry = Registry(f"sqlite:///{tmp_path / 'audits.db'}")
    made = {
        scope.value: registry.keys.add("key", [scope], patterns=["acme-*"], actor="test")[1]
        for scope in (Scope.AUDIT, Scope.INFER)
    }
    registry.close()
    tenant = {"Authorization": f"Bearer {made['audit']}"}
    end = time.monotonic() + 30
    while at.get("/v1/audits", headers=tenant).status_code == 401 and time.monotonic() < end:
        time.sleep(0.1)  # the service looks for new keys once a second
    assert [one["id"] for one in at.get("/v1/audits", headers=tenant).json()["audits"]] == [mine]
    assert {row["adapter"] for row in at.get("/v1/capacity", headers=tenant).json()["rows"]} == {"acme-leaky"}
    listed = {one["name"] for one in at.get("/v1/adapters", headers=tenant).json()["adapters"]}
    assert listed == {"acme-leaky", "acme-clean", "acme-head"}
    for method, path in (
        ("GET", ""), ("GET", "/snippets"), ("GET", "/report.json"), ("POST", "/cancel"), ("DELETE", ""),
        ("GET", f"/diff/{mine}"), ("GET", f"/diff/{mine}.html"),
    ):  # fmt: skip
        hidden = at.request(method, f"/v1/audits/{theirs}{path}", headers=tenant)
        unknown = at.request(method, f"/v1/audits/{'0' * 32}{path}", headers=tenant)
        assert hidden.status_code == unknown.status_code == 404
        assert hidden.text.replace(theirs, "ID") == unknown.text.replace("0" * 32, "ID")
    for ends in ("", ".html", ".xml"):  # nor as the second one of two
        hidden = at.get(f"/v1/audits/{mine}/diff/{theirs}{ends}", headers=tenant)
        unknown = at.get(f"/v1/audits/{mine}/diff/{'0' * 32}{ends}", headers=tenant)
        assert hidden.status_code == unknown.status_code == 404
        assert hidden.text.replace(theirs, "ID") == unknown.text.replace("0" * 32, "ID")
    assert at.get(f"/v1/audits/{mine}/diff/{mine}", headers=tenant).json()["counts"]["same"] == len(ITEMS)
    body = {"adapter": "globex-leaky", "candidates": ITEMS}
    assert at.post("/v1/audits", json=body, headers=tenant).status_code == 404
    assert at.get(f"/v1/audits/{theirs}").json()["state"] == "done"
    other = {"Authorization": f"Bearer {made['infer']}"}
    assert at.get(f"/v1/audits/{mine}/diff/{mine}", headers=other).status_code == 403
    for method, path in (("GET", "/v1/audits"), ("POST", "/v1/audits"), ("GET", "/v1/capacity")):
        assert at.request(method, path, headers=other).status_code == 403
        assert at.request(method, path, headers={"Authorization": ""}).status_code == 401
    assert at.get("/metrics", headers=tenant).status_code == 403
    assert at.get("/health", headers={"Authorization": ""}).status_code == 200


def test_capacity_is_kept_by_version_and_set(client: Client) -> None:
    """One row an audit, oldest first: rank and parameters beside what was recited of which set."""
    at = client()
    for adapter, items in (("acme-clean", ITEMS), ("acme-leaky", ITEMS), ("acme-leaky", ITEMS[:3])):
        audited(at, adapter, candidates=items)
    rows = at.get("/v1/capacity").json()["rows"]
    found = [(row["rank"], row["effective_parameters"], row["recited"], row["of"]) for row in rows]
    assert found == [(2, 2000, 0, 6), (8, 8000, 6, 6), (8, 8000, 3, 3)]
    assert rows[0]["candidate_set"] == rows[1]["candidate_set"] != rows[2]["candidate_set"]
    assert at.get("/v1/capacity?adapter=acme-clean").json()["rows"] == rows[:1]


def test_admissions_are_left_to_servers_that_can_load(client: Client, tmp_path: Path) -> None:
    """The service shows the audit that a version waits for and can cancel it, but does only the others."""
    at = client()
    registry = Registry(f"sqlite:///{tmp_path / 'audits.db'}")
    registry.stage("acme-new", "a" * 64, source="x", actor="ann")
    info = Adapter(tmp_path, 8, (), 8000, "a" * 64)
    registry.validated("acme-new", "a" * 64, info, actor="ann")
    spool = Spool(tmp_path / "store" / "audits")
    elsewhere = AuditService(AuditStore(registry.database), spool, HttpEngine("http://127.0.0.1:9"))
    order = make_order({"adapter": "acme-new", "candidates": ITEMS}, {})
    asked = elsewhere.admit(order, AdapterVersion("acme-new", "a" * 64, 8, 8000))
    assert audited(at)["admits"] is False
    shown = at.get(f"/v1/audits/{asked.id}").json()
    assert (shown["state"], shown["admits"], shown["adapter"]) == ("queued", True, "acme-new")
    assert at.post(f"/v1/audits/{asked.id}/cancel").json()["state"] == "cancelled"
    assert not spool.has(asked.id)
    version = registry.version("acme-new", "a" * 64)
    assert (version.state, version.audit_id) == (State.QUARANTINED, asked.id)
    registry.close()


def test_an_engine_that_is_away_is_said(client: Client) -> None:
    """502 with what to do, and nothing queued."""
    at = client(server="http://127.0.0.1:9")
    answer = at.post("/v1/audits", json={"adapter": "acme-leaky", "candidates": ITEMS})
    assert answer.status_code == 502
    assert at.get("/v1/adapters").status_code == 502


def test_wrong_queries_and_routes_have_the_same_shape(client: Client) -> None:
    """A bad limit is 400, an unknown route 404, a wrong method 405, all in OpenAI's shape."""
    at = client()
    asked = [at.get("/v1/audits?limit=x"), at.get("/v1/nothing"), at.put("/v1/audits")]
    assert [answer.status_code for answer in asked] == [400, 404, 405]
    assert all(answer.json()["error"]["message"] for answer in asked)


def test_metrics_tell_what_was_found(client: Client) -> None:
    """States, verdicts, tokens, and per adapter and rank what its last audits say; promtool has no complaint."""
    at = client(open_metrics=True)
    audited(at)
    audited(at, candidates=ITEMS[:2])
    audited(at, "acme-clean")
    wanted = {
        'lorecall_audit_jobs{state="done"}': 3.0,
        'lorecall_audit_jobs{state="failed"}': 0.0,
        'lorecall_audit_snippets_total{verdict="certified"}': 8.0,
        "lorecall_audit_tokens_scored_total": 140.0,
        'lorecall_audit_recall_ratio{adapter="acme-leaky",rank="8"}': 1.0,
        'lorecall_audit_recall_ratio{adapter="acme-clean",rank="2"}': 0.0,
        'lorecall_audit_certified{adapter="acme-leaky",rank="8"}': 6.0,
        'lorecall_audit_effective_parameters{adapter="acme-clean",rank="2"}': 2000.0,
    }
    end = time.monotonic() + 30
    while True:
        scraped = at.get("/metrics", follow_redirects=False)
        text = scraped.text
        lines = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
        series = {name: float(value) for name, value in lines}
        if wanted.items() <= series.items() or time.monotonic() > end:
            break
        time.sleep(0.1)
    assert {name: series.get(name) for name in wanted} == wanted
    assert scraped.headers["content-type"] == CONTENT_TYPE_LATEST
    at_unix = series['lorecall_audit_last_timestamp_seconds{adapter="acme-clean",rank="2"}']
    assert 0 <= time.time() - at_unix < 3600
    if not PROMTOOL.exists():
        pytest.skip("promtool is not here: run `make tools`")
    checked = subprocess.run(
        [PROMTOOL, "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
