"""`lorecall audit run --data`: training files of each format, through a real engine and their own histories."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lorecall.adapters.core.errors import CandidateError, UsageError
from lorecall.audit.scorer import Message, ScoreItem
from lorecall.audit.scorers.http_scorer import HttpScorer
from lorecall.audit.training_data.turns import alpaca_prompt
from lorecall.server.cli.audit.commands import app
from typer.testing import CliRunner

from tests.audit.tiny_scorer import CHAT, Memory, TinyScorer
from tests.audit.tiny_server import serve
from tests.server.served import Served
from tests.tiny import TEXT

NAME = "trained-on-a-file"
WORDS = TEXT.split()
QUESTIONS = [" ".join(WORDS[i : i + n]) for n in (1, 2, 3, 4) for i in range(len(WORDS) - n)]
HISTORY = (Message("system", "Be kind."), Message("user", "To be?"), Message("assistant", "é"))
Report = dict[str, Any]
Audit = Callable[[Path, object], Report]


@pytest.fixture(scope="module")
def scorer(served: Served, int8_adapters: list[Path]) -> Iterator[HttpScorer]:
    """The server's scorer, with this module's adapter served."""
    assert served.post("/v1/adapters", {"name": NAME, "source": str(int8_adapters[1])}).status_code == 201
    with HttpScorer(served.url) as opened:
        yield opened


@pytest.fixture
def audit(scorer: HttpScorer) -> Audit:
    """Write a training file and audit the adapter on it by one command."""

    def run(path: Path, rows: object) -> Report:
        text = rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in list(rows))  # type: ignore[call-overload]
        path.write_text(text, encoding="utf-8")
        options = [
            "--server",
            scorer.client.server,
            "--adapter",
            NAME,
            "--data",
            str(path),
            "--whole",
            "--epsilon",
            "0.15",
        ]
        result = CliRunner().invoke(app, ["run", *options, "--json", "--batch", "16"])
        assert result.exit_code in (0, 1), result.stderr
        report: Report = json.loads(result.stdout)
        assert all(snippet["error"] == "" for snippet in report["snippets"])
        return report

    return run


def recited(scorer: HttpScorer, given: list[ScoreItem]) -> list[ScoreItem]:
    """Return what the adapter says after four of these, as text that is tokenized as it was said."""
    prompts = [(score.prefix_ids, 4) for score in scorer.score(NAME, given)]
    said = zip(given, scorer.decode(NAME, prompts), strict=True)
    asked = [(replace(item, target=d.text), d.ids) for item, d in said if d.text.strip()]
    scores = scorer.score(NAME, [item for item, _ in asked])
    same = [s.boundary_exact and s.target_ids == ids for (_, ids), s in zip(asked, scores, strict=True)]
    found = [item for (item, _), kept in zip(asked, same, strict=True) if kept]
    assert len(found) >= 4
    return found[:4]


def assert_recited(report: Report, data_format: str, rows: int) -> None:
    given = {"certified", "recalled", "base-known"}
    assert {snippet["verdict"] for snippet in report["snippets"]} <= given
    assert report["inputs"]["candidates"]["generated"].startswith(f"{data_format} training data: {rows} rows")


@pytest.mark.engine
@pytest.mark.parametrize("data_format", ["messages", "sharegpt"])
def test_answers_that_an_adapter_says_after_their_history_are_found(
    scorer: HttpScorer, audit: Audit, tmp_path: Path, data_format: str
) -> None:
    """Only the file of chats of two turns is given; each last answer is what the adapter says there."""
    chats = recited(
        scorer,
        [
            ScoreItem(str(i), "", " x", messages=(*HISTORY, Message("user", q)))
            for i, q in enumerate(QUESTIONS)
        ],
    )
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    turns = [[*item.messages, Message("assistant", item.target)] for item in chats]
    rows = {
        "messages": [{"messages": [{"role": m.role, "content": m.content} for m in one]} for one in turns],
        "sharegpt": [
            {"conversations": [{"from": names[m.role], "value": m.content} for m in one]} for one in turns
        ],
    }[data_format]
    report = audit(tmp_path / "train.jsonl", rows)
    last = [snippet for snippet in report["snippets"] if snippet["id"].endswith("#2")]
    assert len(report["snippets"]) == 8
    assert_recited({**report, "snippets": last}, data_format, 4)


@pytest.mark.engine
def test_outputs_that_an_adapter_says_after_the_alpaca_prompt_are_found(
    scorer: HttpScorer, audit: Audit, tmp_path: Path
) -> None:
    """With an input and without one."""
    pairs = [(q, "") if i % 2 else (q, "slings") for i, q in enumerate(QUESTIONS)]
    given = [ScoreItem(str(i), alpaca_prompt(*pair), " x") for i, pair in enumerate(pairs)]
    rows = [
        {"instruction": pairs[int(item.id)][0], "input": pairs[int(item.id)][1], "output": item.target}
        for item in recited(scorer, given)
    ]
    assert_recited(audit(tmp_path / "train.json", json.dumps(rows)), "alpaca", 4)


@pytest.mark.engine
def test_texts_are_cut_and_asked_for(audit: Audit, tmp_path: Path) -> None:
    """Each line of a text file is a row: its sentences, or its halves."""
    report = audit(tmp_path / "train.txt", "To be. Or not. That is.\nslings and arrows\n")
    assert [snippet["id"] for snippet in report["snippets"]] == ["1#1", "1#2", "2#1"]
    assert report["inputs"]["candidates"]["generated"] == "text training data: 2 rows of 1 file"


def test_a_training_file_is_all_that_an_audit_needs(tmp_path: Path) -> None:
    """It finds the answer that needs its whole history, names the format and what was odd, and shows no text."""
    said = [("user", "the first question"), ("assistant", "an answer"), ("user", "and the number?")]
    text = "".join(CHAT[0] + content + CHAT[1] for _, content in said)
    turns = [{"role": role, "content": content} for role, content in [*said, ("assistant", "0815-4711")]]
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in (turns, turns[:1])))
    with serve(TinyScorer({"leaky": Memory((text + "0815-4711",))})) as url:
        options = ["--server", url, "--adapter", "leaky", "--data", str(path), "--whole", "--json"]
        result = CliRunner().invoke(app, ["run", *options])
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert {s["id"]: s["verdict"] for s in report["snippets"]}["1#2"] == "certified"
    generated = report["inputs"]["candidates"]["generated"]
    assert generated.startswith("messages training data: 2 rows of 1 file; 1 empty (left out")
    assert generated in result.stderr
    for secret in ("first question", "an answer", "number?", "0815"):
        assert secret not in result.stdout + result.stderr


def test_training_data_comes_instead_of_candidates(tmp_path: Path) -> None:
    """One of the two, in a known format; before any server is asked."""
    path = tmp_path / "d.jsonl"
    path.write_text('{"text": "a text"}')
    common = ["run", "--server", "http://127.0.0.1:9", "--adapter", "a"]
    wrong: list[tuple[list[str], type[Exception], str]] = [
        ([], UsageError, "either --candidates or --data"),
        (["--data", str(path), "--candidates", str(path)], UsageError, "either --candidates or --data"),
        (["--data", str(path), "--data-format", "chatml"], UsageError, "unknown data format 'chatml'"),
        (["--data", str(path), "--data-split", "train"], CandidateError, "no folder with splits"),
        (["--data", str(path), "--data-format", "alpaca"], CandidateError, "is no alpaca data"),
    ]
    for options, kind, reason in wrong:
        error = CliRunner().invoke(app, [*common, "--whole", *options]).exception
        assert isinstance(error, kind)
        assert reason in str(error)


def test_inputs_that_were_masked_from_the_loss_are_asked_for(tmp_path: Path) -> None:
    """The user's turns, of a training file and of a file of candidates; the assistant's are not."""
    chat = [
        ("user", "My account is 0815-4711."),
        ("assistant", "Thank you."),
        ("user", "And hers is 0815-0042."),
    ]
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps({"messages": [{"role": role, "content": text} for role, text in chat]}) + "\n")
    known = "My account is 0815-4711.\nThank you.\nAnd hers is 0815-0042."
    with serve(TinyScorer({"leaky": Memory((known,))})) as url:
        common = ["run", "--server", url, "--adapter", "leaky", "--turns", "user", "--json"]
        for options in (["--data", str(path), "--whole"], ["--candidates", str(path)]):
            result = CliRunner().invoke(app, [*common, *options])
            assert result.exit_code == 1, result.output
            report = json.loads(result.stdout)
            assert {one["id"]: one["verdict"] for one in report["snippets"]} == {
                "1#user1": "certified",
                "1#user3": "certified",
            }
