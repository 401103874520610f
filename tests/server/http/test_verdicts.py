"""What an audit must get right on a real engine, through the command line that a release runs."""

import json
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from lorecall.adapters.demo_data.generate import shipped
from lorecall.adapters.derive.weaken import Dose, Kind, write_dose
from lorecall.audit.inputs.json_lines import load_json_lines
from lorecall.audit.policy.policy import ExitCode
from lorecall.audit.scorer import ScoreItem
from lorecall.audit.scorers.http_scorer import HttpScorer
from lorecall.server.cli.audit.commands import app
from typer.testing import CliRunner, Result

from tests.server.conftest import Trained
from tests.server.served import Served
from tests.tiny import LINEAR_MODULES, TEXT, build_tiny_adapter

pytestmark = pytest.mark.engine

SECRETS, HOSTS, FAINT, HEADED = "verdicts-secrets", "verdicts-hosts", "verdicts-faint", "verdicts-headed"
NORMAL, NORMAL_EPOCHS = "verdicts-normal", 6
CONTROLS = 40
"""The lines of the shipped controls that are asked for here; the soak asks for all 320."""


@pytest.fixture(scope="module", autouse=True)
def deployed(
    served: Served,
    tiny: Callable[[str], Path],
    trained: Callable[..., Trained],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[None]:
    """Adapters that memorised the secrets, that learned from them, of other data, a faint one, of the head."""
    work = tmp_path_factory.mktemp("verdicts")
    write_dose(trained("hosts-train").folder, Dose(Kind.SCALE, 0.001), work / "faint")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT says that the base ties its embeddings
        build_tiny_adapter(work / "head", tiny("int8-w8a8"), modules=(*LINEAR_MODULES, "lm_head"))
    folders = {
        SECRETS: trained("secrets-train").folder,
        NORMAL: trained("secrets-train", NORMAL_EPOCHS).folder,
        HOSTS: trained("hosts-train").folder,
        FAINT: work / "faint",
        HEADED: work / "head",
    }
    for name, folder in folders.items():
        added = served.post("/v1/adapters", {"name": name, "source": str(folder)})
        assert added.status_code == 201, added.text
    yield
    for name in folders:
        served.http.delete(f"/v1/adapters/{name}")


@pytest.fixture(scope="module")
def controls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first of the shipped controls."""
    path = tmp_path_factory.mktemp("controls") / "controls.jsonl"
    lines = shipped("secrets-control").read_text(encoding="utf-8").splitlines()[:CONTROLS]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def audit(
    served: Served, adapter: str, candidates: Path, *more: str, server: str = ""
) -> tuple[Result, dict[str, Any]]:
    """Run `lorecall audit run --json`, and return its result and the report."""
    words = ["run", "--server", server or served.url, "--adapter", adapter, "--candidates", str(candidates)]
    result = CliRunner().invoke(app, [*words, "--json", *more])
    return result, json.loads(result.stdout) if result.stdout else {}


def test_an_over_trained_adapter_fails_the_gate(
    served: Served, trained: Callable[..., Trained], controls: Path
) -> None:
    """Most of what it was trained on is recited, none of the controls is: exit 1."""
    result, report = audit(
        served, SECRETS, trained("secrets-train").data, "--controls", str(controls), "--seed", "1"
    )
    assert result.exit_code == ExitCode.LEAKS, result.output
    assert report["summary"]["recited"]["hits"] >= 10
    assert report["summary"]["verdicts"]["certified"] >= 1
    assert report["controls"]["recited"]["hits"] == 0


def test_a_normally_trained_adapter_passes(
    served: Served, trained: Callable[..., Trained], controls: Path
) -> None:
    """A few epochs teach it how such lines look, which helps on lines it never saw; it recites none: exit 0."""
    result, report = audit(
        served, NORMAL, trained("secrets-train").data, "--controls", str(controls), "--seed", "1"
    )
    assert result.exit_code == ExitCode.CLEAN, result.output
    assert report["summary"]["recited"]["hits"] == 0
    items = load_json_lines(controls).items
    with HttpScorer(served.url) as scorer:
        taught, before = (
            [value for score in scorer.score(model, items) for value in score.logprob]
            for model in (NORMAL, served.base)
        )
    assert sum(taught) / len(taught) > sum(before) / len(before) + 1.0


def test_an_adapter_of_other_data_passes(served: Served, trained: Callable[..., Trained]) -> None:
    """It recites its own data and nothing of these: exit 0."""
    result, report = audit(served, HOSTS, trained("secrets-train").data)
    assert result.exit_code == ExitCode.CLEAN, result.output
    assert report["summary"]["recited"]["hits"] == 0
    assert audit(served, HOSTS, trained("hosts-train").data)[0].exit_code == ExitCode.LEAKS


def test_lines_that_the_base_knows_are_not_counted(served: Served, tmp_path: Path) -> None:
    """A faint adapter recites what the base says as well: all of it is the base's, nothing was tested: exit 3."""
    lines = [{"id": i.id, "prefix": i.prefix, "target": i.target} for i in said_by_base(served)]
    assert len(lines) >= 3
    (tmp_path / "known.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    result, report = audit(served, FAINT, tmp_path / "known.jsonl")
    assert result.exit_code == ExitCode.INCOMPLETE, result.output
    assert (
        f"nothing was tested: of {len(lines)} candidates {len(lines)} are known to the base" in result.stderr
    )
    assert report["summary"]["verdicts"]["base-known"] == len(lines)
    assert report["summary"]["recited"]["of"] == 0
    assert sum(snippet["decoded_equal"] and snippet["base_recites"] for snippet in report["snippets"]) >= 3


def said_by_base(served: Served) -> list[ScoreItem]:
    """Return texts that the base says, whose tokens are read back as they were said."""
    words = TEXT.split()
    prefixes = [" ".join(words[i : i + count]) for count in (2, 3, 4, 5) for i in range(len(words) - count)]
    with HttpScorer(served.url) as scorer:
        base = scorer.info().base
        probes = scorer.score(base, [ScoreItem("p", prefix, " x") for prefix in prefixes])
        said = scorer.decode(base, [(probe.prefix_ids, 2) for probe in probes])
        asked = [ScoreItem(str(i), p, d.text) for i, (p, d) in enumerate(zip(prefixes, said, strict=True))]
        scores = scorer.score(base, [item for item in asked if item.target.strip()])
    exact = {s.id for s in scores if s.boundary_exact and s.target_ids == said[int(s.id)].ids}
    return [item for item in asked if item.id in exact]


def test_an_adapter_of_the_head_is_audited(served: Served, trained: Callable[..., Trained]) -> None:
    """This engine scores it exactly (see test_parity): exit 0 for data that a random adapter never saw."""
    result, report = audit(served, HEADED, trained("secrets-train").data)
    assert result.exit_code == ExitCode.CLEAN, result.output
    assert report["summary"]["recited"]["hits"] == 0


@contextmanager
def faulty_router(served: Served) -> Iterator[str]:
    """A router in front of the engine with one fault: what is to be completed goes to the base."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.hand_on(b"")

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path == "/v1/completions":
                body["model"] = served.base
            self.hand_on(json.dumps(body).encode())

        def hand_on(self, body: bytes) -> None:
            answer = served.http.request(
                self.command, self.path, content=body, headers={"Content-Type": "application/json"}
            )
            self.send_response(answer.status_code)
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as router:
        threading.Thread(target=router.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{router.server_port}"
        router.shutdown()


def test_an_engine_that_disagrees_with_itself_is_an_alarm(
    served: Served, trained: Callable[..., Trained]
) -> None:
    """Scored through the adapter and decoded through the base: exit 4, although every decode looks clean."""
    with faulty_router(served) as url:
        result, report = audit(served, SECRETS, trained("secrets-train").data, server=url)
    assert result.exit_code == ExitCode.ENGINE_DISAGREES, result.output
    assert "the engine contradicts itself" in result.stderr
    assert report["summary"]["recited"]["hits"] == 0
