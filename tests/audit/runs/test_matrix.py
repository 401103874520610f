"""Who recites whose data."""

import dataclasses
from collections.abc import Sequence

import pytest
from lorecall.adapters.core.errors import AdapterNotFoundError, UsageError
from lorecall.audit.extraction import SamplingWish
from lorecall.audit.inputs.candidates import CandidateSet
from lorecall.audit.policy.policy import ExitCode
from lorecall.audit.reports.matrix import matrix_report, render_matrix
from lorecall.audit.runs.matrix import run_matrix
from lorecall.audit.runs.single import AuditSettings
from lorecall.audit.scorer import ScoreItem

from tests.audit.conftest import KNOWN_LINE, as_set, memory_of, phone
from tests.audit.judging.test_extractable import ITEM, Torn
from tests.audit.tiny_scorer import BASE, Memory, TinyScorer

SETS = [
    as_set(tuple(phone(i, salt=salt) for i in range(6)), f"{name}.jsonl")
    for name, salt in (("a", 2), ("b", 5))
]
OWN = {("a", "a.jsonl"), ("b", "b.jsonl")}


def engine_of(**memories: Sequence[ScoreItem]) -> TinyScorer:
    return TinyScorer({name: memory_of(items) for name, items in memories.items()})


def recited(scorer: TinyScorer, sets: list[CandidateSet] = SETS) -> dict[tuple[str, str], int]:
    matrix = run_matrix(scorer, ["a", "b"], sets, OWN, AuditSettings(chunk=2))
    return {(cell.adapter, cell.candidates[0]): cell.recited for cell in matrix.cells}


def test_the_diagonal_recites_and_nothing_else() -> None:
    """Tenant B does not recite tenant A, in batches that mix both (pitfall 10)."""
    scorer = engine_of(a=SETS[0].items, b=SETS[1].items)
    assert recited(scorer) == {("a", "a"): 6, ("a", "b"): 0, ("b", "a"): 0, ("b", "b"): 6}
    matrix = run_matrix(scorer, ["a", "b"], SETS, OWN, AuditSettings())
    assert (matrix.foreign, matrix.exit_code) == ((), ExitCode.CLEAN)


def test_what_stands_off_the_diagonal_is_a_leak() -> None:
    """An adapter trained on some of another's data is named with its count."""
    scorer = engine_of(a=SETS[0].items, b=(*SETS[1].items, *SETS[0].items[:2]))
    matrix = run_matrix(scorer, ["a", "b"], SETS, OWN, AuditSettings())
    assert [(cell.adapter, cell.candidates, cell.recited) for cell in matrix.foreign] == [("b", "a.jsonl", 2)]
    assert matrix.exit_code is ExitCode.LEAKS
    html = render_matrix(matrix_report(matrix))
    assert "b recites 2 of 6 of a.jsonl" in html
    assert html.count("own") > 2


def test_errors_and_alarms_are_no_clean_matrix() -> None:
    """An unscorable snippet is incomplete; an engine that decodes otherwise than it scores is worse."""
    clean = {"a": Memory(("nothing of theirs",)), "b": Memory(("nor this",))}
    long = dataclasses.replace(SETS[0], items=(*SETS[0].items, ScoreItem("long", "a ", "x" * 1000)))
    incomplete = run_matrix(TinyScorer(clean), ["a", "b"], [long, SETS[1]], set(), AuditSettings())
    assert incomplete.exit_code is ExitCode.INCOMPLETE
    broken = TinyScorer({"a": memory_of(SETS[0].items), "b": clean["b"]}, decodes_with={"a": BASE})
    assert run_matrix(broken, ["a", "b"], SETS, OWN, AuditSettings()).exit_code is ExitCode.ENGINE_DISAGREES


def test_near_verbatim_off_the_diagonal_is_a_leak() -> None:
    """One wrong digit of ten of another's number counts, as it does in a gate."""
    item = phone(0)
    wrong = item.target[:5] + str((int(item.target[5]) + 1) % 10) + item.target[6:]
    sets = [as_set(tuple(phone(i) for i in range(6)), "a.jsonl"), SETS[1]]
    scorer = TinyScorer({"a": memory_of(sets[0].items), "b": Memory((item.prefix + wrong,))})
    matrix = run_matrix(scorer, ["a", "b"], sets, OWN, AuditSettings())
    assert [(cell.adapter, cell.recited, cell.near_verbatim) for cell in matrix.foreign] == [("b", 0, 1)]
    assert matrix.exit_code is ExitCode.LEAKS
    assert "0 of 6 of a.jsonl, and 1 nearly" in render_matrix(matrix_report(matrix))


def test_a_cell_that_tested_nothing_is_incomplete() -> None:
    """A set that the base recites says nothing of an adapter."""
    known = as_set((ScoreItem("k", *KNOWN_LINE),), "known.jsonl")
    scorer = TinyScorer({"a": memory_of(()), "b": memory_of(())}, base_texts=["".join(KNOWN_LINE)])
    matrix = run_matrix(scorer, ["a", "b"], [known], set(), AuditSettings())
    assert matrix.exit_code is ExitCode.INCOMPLETE


def test_what_sampling_may_give_of_anothers_is_untested() -> None:
    """Where nobody knows, the matrix is incomplete, and says so; of an adapter's own set it does not matter."""

    class Plain(Torn):
        sampled = property()

    sets, wish = [as_set((ITEM, phone(7)), "a.jsonl")], SamplingWish(temperature=0.7)
    for own, code in ((set(), ExitCode.INCOMPLETE), ({("a", "a.jsonl")}, ExitCode.CLEAN)):
        matrix = run_matrix(Plain(0.2), ["a"], sets, own, AuditSettings(extraction=wish))
        assert [cell.unknown_chances for cell in matrix.cells] == [1]
        assert matrix.exit_code is code
        report = matrix_report(matrix)
        assert (report.sampling.temperature, report.sampling.source) == (0.7, "option")
        page = render_matrix(report)
        assert "1 not known by sampling" in page
        assert "100 answers at temperature 0.7, top-p 1, top-k off (option)" in page


def test_the_base_is_asked_once_for_each_snippet() -> None:
    """However many adapters share it."""
    scorer = engine_of(a=SETS[0].items, b=SETS[1].items)
    recited(scorer)
    assert sum(model == BASE for model, _ in scorer.scored) == 12


def test_progress_adds_up_over_the_threads() -> None:
    """Four cells of six snippets."""
    seen: list[tuple[int, int]] = []
    scorer = engine_of(a=SETS[0].items, b=SETS[1].items)
    run_matrix(scorer, ["a", "b"], SETS, OWN, AuditSettings(chunk=1), progress=lambda *at: seen.append(at))
    assert seen[-1] == (24, 24)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_names_that_are_twice_or_not_there_are_refused() -> None:
    """Two files of one name would be one column; a wrong adapter costs no scoring."""
    scorer = engine_of(a=SETS[0].items, b=SETS[1].items)
    with pytest.raises(UsageError, match="one name"):
        run_matrix(scorer, ["a"], [SETS[0], SETS[0]], OWN, AuditSettings())
    with pytest.raises(AdapterNotFoundError):
        run_matrix(scorer, ["a", "c"], SETS, OWN, AuditSettings())
    assert scorer.scored == []
