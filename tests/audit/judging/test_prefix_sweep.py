"""Shorter prefixes, with real tokenizers: what cannot be asked for is not said to have been."""

from collections.abc import Sequence
from typing import Any

import pytest
from lorecall.audit.judging.framed_judges import BaseCaches, FramedJudges
from lorecall.audit.judging.views import View, make_views
from lorecall.audit.records import SnippetResult
from lorecall.audit.scorer import AdapterVersion, Decoded, EngineInfo, ItemScore, ScoreItem
from lorecall.audit.scorers.framing import split_text
from lorecall.audit.scorers.splits import Split, worst_first
from lorecall.audit.stats.tally import Tally
from lorecall.audit.verdicts import Bounds, Group
from tokenizers import normalizers

from tests.audit.tokenizing import TOKENIZERS, logprob, sentencepiece

ITEM = ScoreItem("1", "zebra quiz 97 of Kafka, to be asked by whom? outrageous", " slings and arrows")


class Tokenized:
    """A scorer with a real tokenizer and made-up probabilities, which notes every prefix that it scores."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.asked: set[str] = set()

    def info(self) -> EngineInfo:
        """No engine."""
        return EngineInfo("tokenizer", "base", epsilon=0.0)

    def adapter(self, name: str) -> AdapterVersion:
        """Any."""
        return AdapterVersion(name, "a" * 64, 1, 1)

    def score(self, model: str, items: Sequence[ScoreItem]) -> list[ItemScore]:
        """The made-up scores."""
        return [
            worst_first([self._score(model, item, split) for split in self._splits(item)]) for item in items
        ]

    def _splits(self, item: ScoreItem) -> list[Split]:
        return split_text(self.tokenizer, item, "raw", None)

    def _score(self, model: str, item: ScoreItem, split: Split) -> ItemScore:
        if model != "base":
            self.asked.add(item.prefix)
        known = [logprob(token) for token in split.target_ids]
        ones = (1,) * len(known)
        half = (0.5,) * len(known)
        return ItemScore(item.id, split.prefix_ids, split.target_ids, half, tuple(known), ones, ones, half)

    def decode(self, model: str, prompts: Sequence[tuple[Sequence[int], int]]) -> list[Decoded]:
        """Nothing is ever said."""
        del model
        return [Decoded(()) for _ in prompts]

    def token_texts(self, ids: Sequence[int]) -> list[str]:
        """Each token decoded alone."""
        return [str(self.tokenizer.decode([token])) for token in ids]


def swept(scorer: Tokenized, views: tuple[View, ...]) -> SnippetResult:
    judges = FramedJudges(scorer, "a", BaseCaches(scorer), views, 0.0, Bounds())
    return judges.judge(Group.CANDIDATES, [ITEM])[0]


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("add_blank", [True, False])
def test_a_view_is_asked_with_just_these_tokens_or_said_not_to_be(kind: str, *, add_blank: bool) -> None:
    """SentencePiece drops the blank before the last tokens: that view is counted as not asked."""
    if kind == "sentencepiece" and not add_blank:
        tokenizer = sentencepiece()
        tokenizer.backend_tokenizer.normalizer = normalizers.Replace(" ", "▁")
    else:
        tokenizer = TOKENIZERS[kind]()
    views = make_views(["raw"], None, range(1, 9))
    scorer = Tokenized(tokenizer)
    result = swept(scorer, views)
    asked = {view for view, _, _ in result.views}
    assert asked | set(result.not_asked) == {view.label for view in views}
    assert not asked & set(result.not_asked)
    whole = tokenizer.encode(ITEM.prefix)
    sent = [tokenizer.encode(prefix) for prefix in scorer.asked - {ITEM.prefix}]
    lengths = [view.prefix_tokens or 0 for view in views[1:] if view.label in asked]
    assert len(sent) == len(lengths)
    for length in lengths:  # after <s>, and the blank that starts every text
        assert any(whole[:start] + whole[-length:] in sent for start in range(3))
    if kind == "sentencepiece":
        assert result.not_asked
    tally = Tally()
    tally.add(result.judged())
    assert tally.summary(0.95).not_asked == dict.fromkeys(result.not_asked, 1)


def test_a_prefix_that_is_short_already_is_asked_whole() -> None:
    """Nothing is missing where the whole prefix has no more tokens than the view keeps."""
    result = swept(Tokenized(sentencepiece()), make_views(["raw"], None, [200]))
    assert ([view for view, _, _ in result.views], result.not_asked) == (["raw"], ())
