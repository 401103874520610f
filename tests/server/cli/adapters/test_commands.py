"""`lorecall adapters add` against a server that admits by audit: it ends with the gate's exit code."""

import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from lorecall.adapters.core.errors import UsageError
from lorecall.server.cli.adapters import commands
from typer.testing import CliRunner

from tests.server.page_site import page_site

VERSION = "ab" * 32
ADAPTER: dict[str, Any] = {
    "name": "acme", "version": VERSION, "state": "auditing", "level": "", "rank": 8, "reason": "",
    "audit_id": "x1",
    "effective_parameters": 8000, "pinned": False, "created_at": "", "created_by": "",
}  # fmt: skip
Answers = dict[str, tuple[int, dict[str, Any]]]


@pytest.fixture
def answers() -> Answers:
    """What the server says on each path, after the version was quarantined."""
    refused = {**ADAPTER, "state": "quarantined", "reason": "1 candidate certified"}
    return {
        "/v1/adapters": (201, ADAPTER),
        "/v1/adapters/acme": (200, {**ADAPTER, "versions": [refused]}),
        "/v1/audits/x1": (200, {"gate": {"exit_code": 1}}),
    }


@pytest.fixture
def url(answers: Answers) -> Iterator[str]:
    """A server with these answers."""

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, body = answers[self.path]
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = _answer  # noqa: N815  the names that the standard library calls

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("audit", "code"),
    [
        ((200, {"gate": {"exit_code": 1}}), 1),
        ((200, {"gate": {"exit_code": 3}}), 3),
        ((200, {"gate": {"exit_code": 4}}), 4),
        ((200, {"gate": None, "state": "failed"}), 3),
        ((404, {"error": {"message": "there is no audit", "code": "audit_not_found"}}), 3),
        ((403, {"error": {"message": "the key has no scope audit", "code": "forbidden"}}), 3),
    ],
)
def test_a_version_that_is_refused_ends_with_the_gates_code(
    url: str, answers: Answers, audit: tuple[int, dict[str, Any]], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1 for leaks and nothing else: an audit that failed, or that the key may not read, is 3."""
    monkeypatch.setattr(commands, "POLL_S", 0.0)
    answers["/v1/audits/x1"] = audit
    added = CliRunner().invoke(commands.app, ["add", "acme", "--source", "hf://o/n", "--server", url])
    assert added.exit_code == code, added.output
    assert "quarantined" in added.stdout


def test_a_version_that_is_admitted_ends_with_0(
    url: str, answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As does one whose audit is not waited for."""
    monkeypatch.setattr(commands, "POLL_S", 0.0)
    command = ["add", "acme", "--source", "hf://o/n", "--server", url]
    assert CliRunner().invoke(commands.app, [*command, "--no-wait"]).exit_code == 0
    answers["/v1/adapters/acme"] = (200, {**ADAPTER, "versions": [{**ADAPTER, "state": "live"}]})
    assert CliRunner().invoke(commands.app, command).exit_code == 0


def test_a_folder_that_is_not_there_is_named_as_such() -> None:
    """Nothing is asked of the server, which would say that the path is not absolute."""
    done = CliRunner().invoke(
        commands.app, ["add", "acme", "--source", "out/acme", "--server", "http://[::1]:9"]
    )
    assert isinstance(done.exception, UsageError)
    assert done.exception.message == "'out/acme' is not there"
    assert "hf://org/name" in done.exception.hint


def test_the_list_says_which_verdicts_no_longer_hold(url: str, answers: Answers) -> None:
    """With what changed, on stderr; nothing is said of what was never audited, nor by an older server."""
    why = "base changed: from aaaaaaaaaaaa to bbbbbbbbbbbb"
    verdicts: dict[str, dict[str, Any]] = {
        "old": {"stale": [why]}, "new": {"stale": []}, "never": {"stale": None}, "older-server": {},
    }  # fmt: skip
    listed = [{**ADAPTER, "name": name, "state": "live", **said} for name, said in verdicts.items()]
    answers["/v1/adapters"] = (200, {"adapters": listed, "has_more": False})
    found = CliRunner().invoke(commands.app, ["list", "--server", url], env={"COLUMNS": "200"})
    assert found.exit_code == 0, found.output
    shown = {
        cells[1].strip(): cells[-2].strip()
        for line in found.stdout.splitlines()
        if len(cells := line.replace("┃", "│").split("│")) > 3
    }
    assert {name: shown[name] for name in verdicts} == {
        "old": "stale", "new": "holds", "never": "", "older-server": "",
    }  # fmt: skip
    assert f"old: its last audit no longer holds: {why}" in found.stderr
    as_json = CliRunner().invoke(commands.app, ["list", "--server", url, "--json"])
    assert json.loads(as_json.stdout)[0]["stale"] == [why]


def test_every_step_carries_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To a whole server, whose events keep it; an archive's in a header, of any letters."""
    with page_site(tmp_path, {}) as site:
        packed = shutil.make_archive(str(tmp_path / "packed"), "zip", site.folder(4))
        monkeypatch.setenv("LORECALL_API_KEY", site.secrets["adapters"])
        for step, why in (
            (["add", "acme", "--source", site.folder(2)], "für die Steuer"),
            (["swap", "acme", "--source", site.folder(8)], "trained anew"),
            (["add", "acme", "--source", packed, "--upload"], "50 € a day, it says"),
            (["add", "acme", "--source", site.folder(6), "--convert"], "split in shards"),
            (["rollback", "acme"], "worse in June"),
            (["pin", "acme"], "their busy week"),
            (["pin", "acme", "--off"], "it is over"),
            (["rollback", "acme"], ""),
        ):
            said = ["--reason", why] if why else []
            found = CliRunner().invoke(commands.app, [*step, "--server", site.url, *said])
            assert found.exit_code == 0, found.output
        events = site.registry.events("acme")
    kept = [(one.action, one.detail.get("reason")) for one in events]
    assert [one for one in kept if one[0] not in {"validate", "activate"}] == [
        ("stage", "für die Steuer"),
        ("stage", "trained anew"),
        ("stage", "50 € a day, it says"),
        ("stage", "split in shards"),
        ("rollback", "worse in June"),
        ("pin", "their busy week"),
        ("unpin", "it is over"),
        ("rollback", None),
    ]
