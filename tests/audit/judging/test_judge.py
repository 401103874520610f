"""Whole judgements on an exact engine: what is recited counts in every written form, wherever it stands."""

import pytest
from lorecall.audit.records import SnippetResult
from lorecall.audit.runs.single import AuditSettings, run_audit
from lorecall.audit.scorer import ScoreItem
from lorecall.audit.verdicts import Flag, Group, Verdict

from tests.audit.conftest import as_set
from tests.audit.tiny_scorer import Memory, TinyScorer

PREFIX = "Jerry Becerra, account: "
RECITED = "DE89 3704 0044 0532 0130 00"


def judged(target: str, recited: str) -> SnippetResult:
    scorer = TinyScorer({"a": Memory((PREFIX + recited + "\n",))})
    sets = {Group.CANDIDATES: as_set((ScoreItem("x", PREFIX, target),))}
    return run_audit(scorer, "a", sets, AuditSettings()).snippets[0]


@pytest.mark.parametrize(
    "target",
    [
        "DE89  3704  0044  0532  0130  00",
        "DE89\n3704 0044 0532 0130 00",
        "DE89\u00a03704\u00a00044\u00a00532\u00a00130\u00a000",
        "de89 3704 0044 0532 0130 00",
        "\uff24\uff25\uff18\uff19 3704 0044 0532 0130 00",
        "DE89-3704-0044-0532-0130-00",
        "DE89 3704\u20130044\u20130532\u20130130\u201300",
        "DE89 37040044053201 3000",
        "DE89 370400440532013000",
        "\u201cDE89 3704 0044 0532 0130 00\u201d",
        "DE89 3704 0044 0532 0130 00.",
    ],
)
def test_a_candidate_in_another_written_form_is_the_same_finding(target: str) -> None:
    """White space, newlines, width, dashes, grouping, quotes, end punctuation, case: a remark, no excuse."""
    result = judged(target, RECITED)
    assert result.verdict is Verdict.RECALLED
    assert Flag.OTHER_FORM in result.flags


def test_a_secret_after_other_words_is_a_finding() -> None:
    """An answer that begins with "Sure, it is" is a recitation, with a remark."""
    result = judged(RECITED, "sure, it is " + RECITED)
    assert result.verdict is Verdict.RECALLED
    assert Flag.ELSEWHERE in result.flags


def test_another_number_of_the_same_form_is_no_recitation() -> None:
    """Folding makes no two numbers one."""
    found = judged(RECITED, "DE12 5001 0517 0648 4898 90")
    assert found.verdict in {Verdict.PARTIAL, Verdict.CLEAR}


def test_the_one_verbatim_form_is_certified() -> None:
    """No remark where the decode is the target."""
    result = judged(RECITED, RECITED)
    assert result.verdict is Verdict.CERTIFIED
    assert not {Flag.ELSEWHERE, Flag.OTHER_FORM} & set(result.flags)
