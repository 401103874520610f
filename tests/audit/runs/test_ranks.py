"""Capacity against recall: the rows over the ranks, and one line's staircase."""

import pytest
from lorecall.adapters.core.errors import AdapterNotFoundError
from lorecall.audit.inputs.candidates import CandidateSet
from lorecall.audit.reports.ranks import ranks_report, render_ranks
from lorecall.audit.runs.ranks import line_item, run_ranks
from lorecall.audit.runs.single import AuditSettings
from lorecall.audit.scorer import ScoreItem
from lorecall.audit.verdicts import Group

from tests.audit.conftest import memory_of
from tests.audit.tiny_scorer import BASE, TinyScorer

Sets = dict[Group, CandidateSet]
LINE = "Alas, poor Yorick, I knew him"
RANKS = {"r2": 2, "r8": 8, "r32": 32}


@pytest.fixture
def ladder(pairs: tuple[ScoreItem, ...]) -> TinyScorer:
    """Three adapters of growing rank: more pairs, and more of one line."""
    memories = {
        name: memory_of((*pairs[:count], ScoreItem("l", LINE[:cut], "")))
        for name, count, cut in (("r2", 1, 10), ("r8", 4, 18), ("r32", 12, 29))
    }
    return TinyScorer(memories, ranks=RANKS)


def test_rows_are_by_capacity_and_count_what_each_rank_holds(ladder: TinyScorer, sets: Sets) -> None:
    """Given in any order: rank, parameters, certified snippets and tokens over one half climb together."""
    rows = run_ranks(ladder, ["r32", "r2", "r8"], sets, AuditSettings()).rows
    assert [row.adapter for row in rows] == ["r2", "r8", "r32"]
    assert [row.effective_parameters for row in rows] == [2000, 8000, 32000]
    assert [row.certified for row in rows] == [1, 4, 12]
    assert [row.snippets for row in rows] == [12, 12, 12]
    gains = [row.delta_loss or 0.0 for row in rows]
    assert gains == sorted(gains)
    assert all(row.tokens_over_half >= 10 * row.certified for row in rows)


def test_a_line_locks_further_at_each_rank(ladder: TinyScorer, sets: Sets) -> None:
    """The base first, then each rank: the tokens over one half grow, and each has its text."""
    ranks = run_ranks(ladder, list(RANKS), sets, AuditSettings(), line=LINE)
    assert [step.label for step in ranks.line] == ["base", "r2", "r8", "r32"]
    over = [step.over_half for step in ranks.line]
    assert over[0] < over[1] < over[2] < over[3] == len(ranks.line[0].score.p)
    assert "".join(ranks.line_texts) == LINE[len("Alas,") :]


def test_the_base_is_asked_once(ladder: TinyScorer, sets: Sets) -> None:
    """Three adapters cost one scoring of the base."""
    run_ranks(ladder, list(RANKS), sets, AuditSettings())
    assert sum(model == BASE for model, _ in ladder.scored) == 32


def test_progress_runs_over_all_adapters(ladder: TinyScorer, sets: Sets) -> None:
    """Two adapters, 32 snippets each."""
    seen: list[tuple[int, int]] = []
    run_ranks(ladder, ["r2", "r8"], sets, AuditSettings(), progress=lambda *at: seen.append(at))
    assert seen[0] == (0, 64)
    assert seen[-1] == (64, 64)


def test_an_unknown_adapter_stops_before_anything_is_scored(ladder: TinyScorer, sets: Sets) -> None:
    """A typing error in the last name costs no scoring."""
    with pytest.raises(AdapterNotFoundError):
        run_ranks(ladder, ["r2", "r9"], sets, AuditSettings())
    assert ladder.scored == []


def test_the_page_gives_the_rows_and_the_line(ladder: TinyScorer, sets: Sets) -> None:
    """Staircase, table and line of the JSON stand on one self-contained page."""
    report = ranks_report(run_ranks(ladder, list(RANKS), sets, AuditSettings(), line=LINE))
    html = render_ranks(report)
    assert [row.rank for row in report.adapters] == [2, 8, 32]
    assert "r = 32" in html
    assert "12 of 12" in html
    assert html.count("<polyline") == 2
    assert "http" not in html.replace("http-equiv", "")


def test_a_line_among_the_candidates_keeps_their_split() -> None:
    """Spacing and case do not matter; the candidate's own prefix and target are used."""
    candidate = ScoreItem("9", "To be,", " or not  to be, that is the question")
    item = line_item("to be, or not to be, THAT is the question", [candidate])
    assert (item.prefix, item.target) == (candidate.prefix, candidate.target)
    longer = ScoreItem("8", "Hamlet: to be,", " or not to be, that is the question: whether")
    assert line_item("to be, or not to be", [longer]).target == " be, or not to be"


def test_a_line_of_its_own_is_split_after_its_first_words() -> None:
    """A fifth of the words, at least one; prefix and target are the line again."""
    line = "To be, or not to be, that is the question"
    item = line_item(line, [])
    assert (item.prefix, item.prefix + item.target) == ("To be,", line)
    with pytest.raises(ValueError, match="one word"):
        line_item("Word", [])
