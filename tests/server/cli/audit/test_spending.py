"""How much an audit decodes, by its options, its policy and where its candidates are from."""

import sys

import pytest
import typer
from lorecall.adapters.core.errors import UsageError
from lorecall.audit.inputs.candidates import CandidateSet
from lorecall.audit.judging.decoding import CHECKED_SHARE
from lorecall.audit.policy.policy import Policy
from lorecall.audit.runs.single import AuditSettings
from lorecall.audit.verdicts import Group
from lorecall.server.cli.audit import spending
from lorecall.server.cli.audit.spending import FEW, agree, choose_decoding, read_budget

from tests.audit.conftest import as_set, memory_of, phone
from tests.audit.tiny_scorer import TinyScorer

ALL = Policy(decode="all")


@pytest.mark.parametrize(
    ("wish", "policy", "candidates", "trained", "sequential", "share"),
    [
        (None, Policy(), FEW, True, False, 1.0),
        (None, Policy(), FEW + 1, True, False, CHECKED_SHARE),
        (None, Policy(), 10 * FEW, False, False, 1.0),
        (None, Policy(), FEW + 1, True, True, 1.0),
        (None, ALL, FEW + 1, True, False, 1.0),
        ("all", Policy(), FEW + 1, True, False, 1.0),
        ("likely", Policy(), 5, False, False, CHECKED_SHARE),
    ],
)
def test_few_candidates_and_given_ones_are_all_decoded(
    wish: str | None, policy: Policy, candidates: int, *, trained: bool, sequential: bool, share: float
) -> None:
    """Only many candidates from training data are decoded economically without being asked."""
    assert choose_decoding(wish, policy, candidates, trained=trained, sequential=sequential) == share


@pytest.mark.parametrize(
    ("wish", "policy", "sequential", "why"),
    [
        ("some", Policy(), False, "unknown decoding"),
        ("likely", ALL, False, "every candidate is decoded"),
        ("likely", Policy(), True, "until-bound"),
    ],
)
def test_a_wish_that_cannot_be_met_is_refused(
    wish: str, policy: Policy, why: str, *, sequential: bool
) -> None:
    """With what to do instead."""
    with pytest.raises(UsageError, match=why) as caught:
        choose_decoding(wish, policy, 10, trained=True, sequential=sequential)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("given", "seconds"), [(None, None), ("90s", 90.0), ("10m", 600.0), ("1.5h", 5400.0)]
)
def test_a_budget_is_a_duration(given: str | None, seconds: float | None) -> None:
    """Of seconds, minutes or hours."""
    assert read_budget(given, None) == seconds


@pytest.mark.parametrize("given", ["10", "m", "-5m", "0m", "10 minutes"])
def test_what_is_no_duration_is_refused(given: str) -> None:
    """With an example of one."""
    with pytest.raises(UsageError, match="no duration") as caught:
        read_budget(given, None)
    assert "10m" in caught.value.hint


def test_two_budgets_exclude_each_other() -> None:
    """One is of time, the other of tokens."""
    with pytest.raises(UsageError, match="exclude"):
        read_budget("10m", 1000)


ITEMS = tuple(phone(i) for i in range(600))
SETS = {Group.CANDIDATES: as_set(ITEMS)}


def asked(sets: dict[Group, CandidateSet], **wish: object) -> AuditSettings:
    given = {"seconds": None, "tokens": None, "yes": False, **wish}
    return agree(TinyScorer({"a": memory_of(())}), "a", sets, AuditSettings(), **given)  # type: ignore[arg-type]


def test_the_cost_is_said_before_anything_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """Tokens, decodes, time and what they were measured on; nothing is asked of a short audit."""
    assert asked(SETS) == AuditSettings()
    said = " ".join(capsys.readouterr().err.split())
    assert "cost: 600 candidates; about 24,000 tokens to score and 600 answers to decode" in said
    assert "measured on 64 candidates" in said


def test_few_candidates_are_not_measured(capsys: pytest.CaptureFixture[str]) -> None:
    """That would take as long as the audit."""
    few = {Group.CANDIDATES: as_set(ITEMS[:20])}
    assert asked(few) == AuditSettings()
    assert capsys.readouterr().err == ""


def test_a_budget_of_tokens_leaves_candidates_out(capsys: pytest.CaptureFixture[str]) -> None:
    """The controls are paid for first; what does not pay for them is refused. Undecoded candidates cost less."""
    settings = asked(SETS, tokens=5_000)
    assert settings.budget is not None
    assert settings.budget.amount == 5_000
    assert "the budget leaves" in " ".join(capsys.readouterr().err.split())
    both = {**SETS, Group.CONTROLS: as_set(tuple(phone(i, salt=3) for i in range(100)))}
    plan, alone = (asked(sets, tokens=10_000).plan(sets) for sets in (both, SETS))
    assert plan is not None
    assert alone is not None
    assert 0 < len(plan.order) < len(alone.order)
    economical = agree(
        TinyScorer({"a": memory_of(())}),
        "a",
        SETS,
        AuditSettings(checked_share=0.05),
        seconds=None,
        tokens=10_000,
        yes=True,
    ).plan(SETS)
    assert economical is not None
    assert len(alone.order) < len(economical.order) < len(ITEMS)
    with pytest.raises(UsageError, match="does not pay for the controls"):
        asked(both, tokens=5_000)


@pytest.mark.parametrize(
    ("terminal", "yes", "answer"), [(True, False, False), (True, True, False), (False, False, False)]
)
def test_a_long_audit_is_asked_about_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *,
    terminal: bool,
    yes: bool,
    answer: bool,
) -> None:
    """An answer of no ends it before anything is scored; --yes asks nothing; without a terminal it goes on."""
    monkeypatch.setattr(spending, "LONG", 0.0)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: terminal, raising=False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    monkeypatch.setattr(typer, "confirm", lambda *_args, **_options: answer)
    if terminal and not yes:
        with pytest.raises(typer.Exit) as caught:
            asked(SETS, yes=yes)
        assert caught.value.exit_code == 3
        return
    assert asked(SETS, yes=yes) == AuditSettings()
    assert ("no terminal to ask on" in capsys.readouterr().err) == (not terminal)
