"""The machine-readable report: its contract, its schema, and what it shows of texts."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from lorecall.adapters.core.errors import UsageError
from lorecall.audit.inputs.candidates import CandidateSet
from lorecall.audit.policy.gate import judge_result
from lorecall.audit.policy.policy import Policy
from lorecall.audit.records import Group
from lorecall.audit.reports.build import build_report, parse_report, read_report
from lorecall.audit.reports.models import json_schema
from lorecall.audit.reports.redact import Redactor
from lorecall.audit.reports.report import Report, ScoredSnippet
from lorecall.audit.runs.single import AuditSettings, run_audit
from lorecall.audit.scorer import ScoreItem

from tests.audit.conftest import KNOWN_LINE, as_set, phone
from tests.audit.tiny_scorer import TinyScorer

Sets = dict[Group, CandidateSet]


def report_of(engine: TinyScorer, sets: Sets, *, show: bool = False) -> Report:
    result = run_audit(engine, "leaky", sets, AuditSettings())
    gate = judge_result(result, Policy())
    return build_report(result, gate, Policy(), Redactor(b"salt", show), engine.token_texts)


def test_the_names_of_the_contract_keep_their_meaning(engine: TinyScorer, sets: Sets) -> None:
    """Adapter, epsilon, summary and snippets stand where every reader of reports looks for them."""
    report = report_of(engine, sets).values()
    assert report["adapter"]["name"] == "leaky"
    assert report["adapter"]["effective_parameters"] == 8000
    summary = report["summary"]
    candidates = [s for s in report["snippets"] if s["set"] == "candidates"]
    tokens = [t for s in candidates for t in s["tokens"]]
    assert summary["snippets"] == len(candidates) == 12
    assert summary["tokens"] == len(tokens)
    assert summary["tokens_over_half"] == sum(t["p"] > 0.5 for t in tokens)
    assert sum(summary["verdicts"].values()) == 12
    assert all(s["min_p"] == min(t["p"] for t in s["tokens"]) for s in candidates)
    assert report["controls"]["snippets"] == 20


def test_every_kind_of_snippet_fits_the_committed_schema(
    engine: TinyScorer, pairs: tuple[ScoreItem, ...]
) -> None:
    """Errors, base-known lines, certified pairs, alarms: all validate, with and without texts."""
    validator = jsonschema.Draft202012Validator(json_schema(Report))
    items = (
        *pairs,
        ScoreItem("k", *KNOWN_LINE),
        ScoreItem("long", "a ", "x" * 1000),
        ScoreItem("e", "", "ab"),
    )
    for show in (False, True):
        report = report_of(engine, {Group.CANDIDATES: as_set(items)}, show=show)
        values = json.loads(report.to_json())
        validator.validate(values)
        assert parse_report(values) == report


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("schema_version",), "0.9"),
        (("snippets", 0, "verdict"), "fine"),
        (("snippets", 0, "tokens", 0, "p"), 1.5),
        (("gate", "exit_code"), 2),
        (("snippets", 0, "loss"), float("nan")),
        (("summary", "verdicts"), {"clear": 1}),
        (("extra",), 1),
    ],
)
def test_a_report_that_breaks_its_schema_is_refused(
    engine: TinyScorer, sets: Sets, path: tuple[str | int, ...], value: object
) -> None:
    """The message says where."""
    report: Any = report_of(engine, sets).values()
    place = report
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(UsageError, match=r"no report of schema") as caught:
        parse_report(report)
    assert "/".join(str(step) for step in path[:-1]) in caught.value.message


def test_texts_are_redacted_unless_asked_for(
    engine: TinyScorer, sets: Sets, pairs: tuple[ScoreItem, ...]
) -> None:
    """No target stands in the report by default; with show it does, token by token too."""
    hidden = report_of(engine, sets).to_json()
    assert all(item.target not in hidden and item.prefix not in hidden for item in pairs)
    shown = report_of(engine, sets, show=True).values()["snippets"][0]
    assert shown["target"]["text"] == pairs[0].target
    assert "".join(token["text"] for token in shown["tokens"]) == pairs[0].target


def test_hashes_are_keyed_by_the_salt() -> None:
    """The same text has the same hash under one salt only, and the report names the salt without holding it."""
    one, two = Redactor(b"one"), Redactor(b"two")
    assert one.redact("5550100").hash == Redactor(b"one").redact("5550100").hash
    assert one.redact("5550100").hash != two.redact("5550100").hash
    assert one.salt_id != two.salt_id
    assert "one" not in one.salt_id


def arrays(value: object) -> Iterator[list[object]]:
    """Every array in JSON values, and every column of an array of objects."""
    if isinstance(value, dict):
        for one in value.values():
            yield from arrays(one)
    elif isinstance(value, list):
        yield value
        if value and all(isinstance(one, dict) for one in value):
            yield from ([one.get(key) for one in value] for key in value[0])
        for one in value:
            yield from arrays(one)


def test_a_redacted_report_names_no_token(
    engine: TinyScorer, sets: Sets, pairs: tuple[ScoreItem, ...]
) -> None:
    """Neither the texts nor token ids are in it, and each number is one that many tokens share."""
    written = report_of(engine, sets).to_json()
    for item in pairs:
        for text in (item.prefix, item.target):
            assert text not in written
            assert base64.b64encode(text.encode()).decode()[:-4] not in written
            assert text.encode().hex() not in written

    for ids in arrays(json.loads(written)):
        decoded = bytes(one for one in ids if isinstance(one, int) and 0 <= one < 256).decode("latin-1")
        assert not any(item.target in decoded for item in pairs)


def test_true_positive_rates_are_in_the_report_of_enough_controls(
    engine: TinyScorer, pairs: tuple[ScoreItem, ...]
) -> None:
    """A hundred controls are enough for the rate at 1 %, and not for that at 0.1 %."""
    many = as_set(tuple(phone(i, salt=9) for i in range(100)))
    report = report_of(engine, {Group.CANDIDATES: as_set(pairs), Group.CONTROLS: many})
    assert report.membership is not None
    (rate,) = report.membership.roc.rates
    assert (rate.false_positive_rate, rate.rate.hits, rate.rate.of) == (0.01, 12, 12)
    assert "at 1.0% false positives" in report.membership.sentence()
    assert parse_report(report.values()) == report


def test_so_many_tests_have_so_many_false_alarms_at_most(engine: TinyScorer, sets: Sets) -> None:
    """12 candidates, and 20 controls without a recitation: 12 times the upper bound of their rate, by hand."""
    report = report_of(engine, sets)
    assert report.multiplicity.tests == report.summary.recited.of == 12
    assert report.multiplicity.false_alarms_at_most == pytest.approx(12 * (1 - 0.05 ** (1 / 20)))
    alone = report_of(engine, {Group.CANDIDATES: sets[Group.CANDIDATES]})
    assert alone.multiplicity.false_alarms_at_most is None


def test_numbers_of_a_redacted_report_are_coarse(engine: TinyScorer, sets: Sets) -> None:
    """Two digits of a probability, on its side of one half; powers of ten of a rank; two digits of a loss."""
    shown = report_of(engine, sets, show=True).snippets
    for exact, entry in zip(shown, report_of(engine, sets).snippets, strict=True):
        assert isinstance(entry, ScoredSnippet)
        assert round(entry.loss, 2) == entry.loss
        for token, true in zip(entry.tokens, exact.tokens, strict=True):
            assert token.id is None
            assert true.id is not None
            assert round(token.p, 2) == token.p == pytest.approx(true.p, abs=0.01)
            assert (token.p > 0.5) == (true.p > 0.5)
            assert token.rank in (1, 10, 100, 1000)
            assert true.rank <= token.rank


def test_a_written_report_reads_back_the_same(engine: TinyScorer, sets: Sets, tmp_path: Path) -> None:
    """JSON keeps every number, so a report can be rendered again."""
    report = report_of(engine, sets)
    (tmp_path / "report.json").write_text(report.to_json(), "utf-8")
    assert read_report(tmp_path / "report.json") == report


@pytest.mark.parametrize("content", [None, "{", "{}"])
def test_what_is_no_report_is_a_usage_error(tmp_path: Path, content: str | None) -> None:
    """Missing, not JSON, of no schema."""
    path = tmp_path / "report.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UsageError) as caught:
        read_report(path)
    assert caught.value.exit_code == 2
