"""What is decoded in an economical audit: no verdict changes but those that are flagged."""

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lorecall.audit.judging.decoding import Check, recalled_share
from lorecall.audit.records import Flag, Group, SnippetResult, Verdict
from lorecall.audit.runs.single import AuditSettings, run_audit
from lorecall.audit.scorer import Decoded, ItemScore, ScoreItem

from tests.audit.conftest import KNOWN_LINE, as_set, memory_of, phone
from tests.audit.tiny_scorer import BASE, Memory, TinyScorer

FULL = AuditSettings()
UNDECODED = {Verdict.CLEAR, Verdict.BASE_KNOWN, Verdict.PARTIAL}


class CountingScorer(TinyScorer):
    """Counts the prompts that its adapters decode."""

    decoded = 0

    def decode(self, model: str, prompts: Sequence[tuple[Sequence[int], int]]) -> list[Decoded]:
        """As always, counted."""
        self.decoded += len(prompts) if model != BASE else 0
        return super().decode(model, prompts)


def snippets(scorer: TinyScorer, items: tuple[ScoreItem, ...], wish: AuditSettings) -> list[SnippetResult]:
    return list(run_audit(scorer, "a", {Group.CANDIDATES: as_set(items)}, wish).snippets)


def recited_text(item: ScoreItem, kind: str) -> str:
    """What an adapter gives after the item's prefix."""
    wrong = str((int(item.target[6]) + 1) % 10)
    return (
        item.prefix
        + {
            "verbatim": item.target,
            "elsewhere": f"sure, it is {item.target}\n",
            "grouped": f"{item.target[:5]} {item.target[5:]}\n",
            "near": item.target[:6] + wrong + item.target[7:],
            "half": item.target[:5],
            "none": "",
        }[kind]
    )


KINDS = st.sampled_from(["verbatim", "elsewhere", "grouped", "near", "half", "none", "none", "none"])


@settings(max_examples=25, deadline=None)
@given(
    kinds=st.lists(KINDS, min_size=6, max_size=12),
    strength=st.sampled_from([0.3, 0.6, 0.97]),
    share=st.sampled_from([0.0, 0.3, 0.8]),
    seed=st.integers(0, 1000),
)
def test_no_verdict_changes_but_those_flagged(
    kinds: list[str], strength: float, share: float, seed: int
) -> None:
    """Whatever the adapter recites, an entry is as with full decoding, or it is flagged and says less."""
    items = (*(phone(i, salt=seed) for i in range(len(kinds))), ScoreItem("known", *KNOWN_LINE))
    texts = tuple(recited_text(item, kind) for item, kind in zip(items, kinds, strict=False))
    scorer = TinyScorer({"a": Memory(texts, strength)}, base_texts=["".join(KNOWN_LINE)])
    whole = snippets(scorer, items, FULL)
    part = snippets(scorer, items, AuditSettings(checked_share=share, seed=seed))
    for full, found in zip(whole, part, strict=True):
        marks = {Flag.NOT_DECODED, Flag.CHECKED} & set(found.flags)
        if Flag.NOT_DECODED in marks:
            assert found.match is None
            assert found.verdict in UNDECODED
            assert (found.score, found.base, found.run_bits) == (full.score, full.base, full.run_bits)
        else:
            flags = tuple(flag for flag in found.flags if flag is not Flag.CHECKED)
            assert replace(found, flags=flags) == full
        if marks:
            assert (Flag.CHECKED in marks) == Check(share, seed).draws(found.item.id)
            assert full.verdict not in {Verdict.CERTIFIED, Verdict.EXTRACTABLE, Verdict.ERROR}


def test_it_decodes_less_and_finds_what_is_memorised() -> None:
    """Of 400 candidates of which 40 are memorised word for word: all are found at a seventh of the decodes."""
    items = tuple(phone(i) for i in range(400))
    scorer = CountingScorer({"a": memory_of(items[::10])})
    found = snippets(scorer, items, AuditSettings(checked_share=0.05))
    economical, scorer.decoded = scorer.decoded, 0
    whole = snippets(scorer, items, FULL)
    assert [one.verdict for one in found] == [one.verdict for one in whole]
    assert sum(one.verdict is Verdict.CERTIFIED for one in found) == 40
    assert (economical < 80, scorer.decoded) == (True, 400)


def test_the_check_says_where_the_scores_mislead() -> None:
    """An engine that recalls nothing when it is led in, and recites after other words: the check finds that."""
    items = tuple(replace(phone(i), tags=("phone",)) for i in range(60))
    scorer = TinyScorer({"a": Memory(tuple(recited_text(item, "elsewhere") for item in items))})
    result = run_audit(scorer, "a", {Group.CANDIDATES: as_set(items)}, AuditSettings(checked_share=0.2))
    summary = result.summaries[Group.CANDIDATES]
    unsure = summary.undecoded
    assert unsure is not None
    assert unsure.left_out + unsure.checked == 60
    assert unsure.found == unsure.checked == summary.verdicts[Verdict.RECALLED]
    assert unsure.at_most == unsure.left_out
    assert summary.recited.high == 1.0
    assert result.by_tag["phone"].undecoded == unsure


def test_controls_are_decoded() -> None:
    """The rate of false findings rests on all controls."""
    items, controls = tuple(phone(i) for i in range(10)), tuple(phone(i, salt=3) for i in range(10))
    sets = {Group.CANDIDATES: as_set(items), Group.CONTROLS: as_set(controls)}
    result = run_audit(TinyScorer({"a": memory_of(())}), "a", sets, AuditSettings(checked_share=0.0))
    assert all(one.match is None for one in result.of(Group.CANDIDATES))
    assert all(one.match is not None for one in result.of(Group.CONTROLS))
    assert result.summaries[Group.CONTROLS].undecoded is None


def test_a_target_without_surprise_is_decoded() -> None:
    """Nothing can be ruled out of a text that the base finds certain."""
    sure = ItemScore("x", (1,), (2,), (1.0,), (0.0,), (1,), (2,), (1.0,))
    assert recalled_share(replace(sure, p=(0.1,), top1_p=(0.9,)), sure, 0.0) == 1.0


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 1.0])
def test_the_check_is_a_random_sample_of_its_share(share: float) -> None:
    """Of 20,000 ids the share is drawn, the same again with the same seed, and others with another."""
    first, again, other = (
        [Check(share, seed).draws(f"row-{i}") for i in range(20_000)] for seed in (7, 7, 8)
    )
    assert abs(sum(first) / len(first) - share) < 0.01
    assert first == again
    assert (first != other) == (0.0 < share < 1.0)


def test_the_draw_does_not_depend_on_the_order() -> None:
    """A run that is resumed, or in another order, checks the same candidates."""
    items = [phone(i) for i in range(30)]
    scorer, wish = TinyScorer({"a": memory_of(())}), AuditSettings(checked_share=0.3, seed=5)
    first = {one.item.id: one for one in snippets(scorer, tuple(items), wish)}
    random.Random(1).shuffle(items)  # noqa: S311  not for secrets
    assert {one.item.id: one for one in snippets(scorer, tuple(items), wish)} == first
