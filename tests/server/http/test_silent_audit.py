"""What a redacted audit on a real server leaves anywhere holds no text of it, however it is packed."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from tests.secret_finder import SecretFinder
from tests.server.served import Served

pytestmark = pytest.mark.engine

NAME = "silent"
SYSTEM = "You are the clerk Abernathy Quill-Mordant."
TEMPLATE = "### Ledger of Quill-Mordant: {prefix} ### Entry:"
PREFIXES = ("Account of Zedekiah Thorn:", "Password of Ottoline Vance:", "Ward of Cornelius Pike is")


@pytest.fixture(scope="module")
def adapter(served: Served, int8_adapters: list[Path]) -> Iterator[str]:
    added = served.post("/v1/adapters", {"name": NAME, "source": str(int8_adapters[2])})
    assert added.status_code == 201, added.text
    yield NAME
    served.http.delete(f"/v1/adapters/{NAME}")


@pytest.fixture(scope="module")
def candidates(served: Served, adapter: str) -> list[dict[str, str]]:
    """What the adapter recites, in the order of the base's own decode of it, and what it does not."""
    rows = []
    for number, prefix in enumerate(PREFIXES):
        body = {"model": adapter, "prompt": prefix, "max_tokens": 14, "temperature": 0}
        text = served.post("/v1/completions", body).json()["choices"][0]["text"]
        rows.append({"id": f"recited-{number}", "prefix": prefix, "target": text})
        rows.append(
            {"id": f"other-{number}", "prefix": prefix, "target": f" 4471-{number} kX, of Thorn & Sons"}
        )
    return rows


@pytest.fixture(scope="module")
def finder(served: Served, candidates: list[dict[str, str]]) -> SecretFinder:
    tokenizer = Tokenizer.from_file(str(served.base_folder / "tokenizer.json"))
    most = tokenizer.get_vocab_size()

    def decode(ids: Any) -> str:
        return str(tokenizer.decode([one for one in ids if one < most], skip_special_tokens=False))

    texts = {row[field] for row in candidates for field in ("prefix", "target")}
    return SecretFinder([*sorted(texts), SYSTEM, TEMPLATE.partition("{")[0]], decode)


def order(candidates: list[dict[str, str]], *, show: bool) -> dict[str, Any]:
    """An audit in four framings and with shorter prefixes."""
    return {
        "adapter": NAME,
        "candidates": candidates,
        "controls": [
            {"id": f"c{n}", "prefix": "Account:", "target": f" {n * 7919:06d} grey"} for n in range(9)
        ],
        "framing": ["raw", "chat", "chat+system", "template"],
        "system": SYSTEM,
        "template": TEMPLATE,
        "prefix_tokens": [4],
        "show_text": show,
    }


def shown(served: Served, audit_id: str) -> dict[str, str]:
    """Every answer that tells of an audit."""
    paths = [
        f"/v1/audits/{audit_id}{end}"
        for end in ("", "/snippets", "/report.json", "/report.html", "/report.xml")
    ]
    paths += ["/v1/audits", "/v1/capacity", "/metrics", "/v1/adapters", f"/v1/adapters/{NAME}"]
    paths += [f"/v1/adapters/{NAME}/events", "/v1/engine"]
    return {path: served.http.get(path).text for path in paths}


def audited(served: Served, body: dict[str, Any]) -> tuple[str, set[str]]:
    """Have an audit done; return its id, and what was shown of it meanwhile."""
    answer = served.post("/v1/audits", body)
    assert answer.status_code == 202, answer.text
    path, meanwhile = f"/v1/audits/{answer.json()['id']}", {answer.text}
    end = time.monotonic() + 240
    while (found := served.http.get(path).json())["state"] in ("queued", "running"):
        assert time.monotonic() < end, found
        meanwhile |= {served.http.get(one).text for one in (path, f"{path}/snippets", "/v1/audits")}
        time.sleep(1)
    assert found["state"] == "done", found["error"]
    return found["id"], meanwhile


def test_a_redacted_audit_leaves_no_text(
    served: Served, candidates: list[dict[str, str]], finder: SecretFinder
) -> None:
    """Not in answers, reports, metrics, events, database, spool or the log at its most talkative."""
    audit_id, meanwhile = audited(served, order(candidates, show=False))
    places = [place for text in meanwhile for place in finder.found("meanwhile", text)]
    for path, text in shown(served, audit_id).items():
        places += finder.found(path, text)
    places += finder.found_in(served.store)
    places += finder.found("server.log", served.log.read_bytes())
    assert not places
    assert [path for path in (served.store / "audits").rglob("*") if path.is_file()] == []
    assert "DEBUG" in served.log.read_text(errors="replace")
    assert served.http.delete(f"/v1/audits/{audit_id}").is_success


def test_the_search_would_have_found_a_text(
    served: Served, candidates: list[dict[str, str]], finder: SecretFinder
) -> None:
    """With shown text the same search finds it on the page and in the database; and in the tokens' ids alone."""
    audit_id, _ = audited(served, order(candidates, show=True))
    report = served.http.get(f"/v1/audits/{audit_id}/report.json").json()
    assert finder.found("page", served.http.get(f"/v1/audits/{audit_id}/report.html").text)
    assert any("audit_snippets" in place for place in finder.found_in(served.store))
    ids = [
        [token["id"] for token in one["tokens"]] for one in report["snippets"] if one["set"] == "candidates"
    ]
    assert len({place for one in ids for place in finder.found("ids", str(one))}) >= len(PREFIXES)
    assert served.http.delete(f"/v1/audits/{audit_id}").is_success


def test_the_command_leaves_no_text(
    served: Served, adapter: str, candidates: list[dict[str, str]], finder: SecretFinder, tmp_path: Path
) -> None:
    """Neither on its two outputs nor in its three reports, nor in what is made of them again."""
    file, out = tmp_path / "in.jsonl", tmp_path / "out"
    file.write_text("".join(json.dumps(row) + "\n" for row in candidates))
    lorecall = str(Path(sys.executable).with_name("lorecall"))
    words = ["--server", served.url, "--adapter", adapter, "--candidates", str(file), "--framing", "raw"]
    words += ["--framing", "chat+system", "--system", SYSTEM, "--framing", "template", "--template", TEMPLATE]
    runs = [
        [
            lorecall,
            "audit",
            "run",
            *words,
            "--generate-controls",
            "synthesis",
            "--control-count",
            "9",
            "--out",
            str(out),
        ],
        [
            lorecall,
            "audit",
            "verify",
            str(out / "report.json"),
            "--candidates",
            str(file),
            "--server",
            served.url,
        ],
        [lorecall, "audit", "report", str(out / "report.json"), "--out", str(out / "again")],
    ]
    places: list[str] = []
    for command in runs:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode in (0, 1), done.stderr
        places += finder.found(command[2], done.stdout + done.stderr)
    assert len(list(out.rglob("report.*"))) >= 4
    assert not [*places, *finder.found_in(out)]


HOSTILE: list[tuple[str, dict[str, Any]]] = [
    ("/v1/score", {"items": [{"id": 1, "prefix": "SECRET", "target": "SECRET"}]}),
    ("/v1/score", {"items": [{"id": "1", "prefix": ["SECRET"], "target": "SECRET"}]}),
    ("/v1/score", {"items": [{"id": "1", "prefix": "a", "target": "b", "SECRET": "SECRET"}]}),
    ("/v1/score", {"items": ["SECRET"]}),
    ("/v1/score", {"items": {"SECRET": "SECRET"}}),
    ("/v1/score", {"items": [], "SECRET": 1}),
    ("/v1/score", {"items": [{"id": "1", "prefix": "SECRET\ud800", "target": "b"}]}),
    ("/v1/score", {"items": [{"id": "1", "prefix": "a", "target": "b"}], "framing": "SECRET"}),
    ("/v1/score", {"items": [{"id": "1", "prefix": "a", "target": "b"}], "SECRET\ud800": 1}),
    ("/v1/adapters", {"name": "x", "source": "/x", "candidates": ["SECRET"]}),
    ("/v1/adapters", {"name": "x", "source": "/x", "candidates": {"SECRET": 1}}),
    ("/v1/adapters", {"name": "x", "source": "/x", "SECRET": "SECRET"}),
    ("/v1/audits", {"adapter": NAME, "candidates": ["SECRET"]}),
    ("/v1/audits", {"adapter": NAME, "SECRET": "SECRET"}),
]


@pytest.mark.parametrize(("path", "body"), HOSTILE)
def test_no_answer_to_a_wrong_body_quotes_it(
    served: Served, adapter: str, path: str, body: dict[str, Any]
) -> None:
    """Neither the answer nor the log holds a key or a value of it."""
    secret = "wq7Zebra4471kXhunter"  # noqa: S105  a text to look for
    filled = json.dumps({"model": adapter, **body} if path == "/v1/score" else body).replace("SECRET", secret)
    answer = served.http.post(path, content=filled, headers={"content-type": "application/json"})
    assert answer.status_code == 400, answer.text
    assert secret not in answer.text
    assert secret not in served.log.read_text(errors="replace")
