"""One adapter's judges, one for each framing, and the merging of what they say in several views."""

from collections.abc import Sequence
from typing import cast

from lorecall.adapters.core.errors import UsageError
from lorecall.audit.judging.judge import Judge
from lorecall.audit.judging.views import FramingScorer, View, gravest, shorten
from lorecall.audit.records import Bounds, Group, SnippetResult
from lorecall.audit.scorer import ScoreItem, Scorer
from lorecall.audit.scorers.base_cache import BaseView

Frame = tuple[str, str | None]
RAW: Frame = ("raw", None)


class Bases:
    """The base's view of the candidates in each framing, asked once for any number of adapters.

    Args:
        scorer: The engine.
    """

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self._views: dict[Frame, BaseView] = {}

    def framed(self, frame: Frame) -> BaseView:
        """Return the base's view in one framing."""
        if frame not in self._views:
            self._views[frame] = BaseView(framed_scorer(self._scorer, frame), self._scorer.info().base)
        return self._views[frame]


def framed_scorer(scorer: Scorer, frame: Frame) -> Scorer:
    """Return the scorer with another framing.

    Raises:
        UsageError: The scorer has only the raw one.
    """
    if frame == RAW:
        return scorer
    if not hasattr(scorer, "framed"):
        raise UsageError(
            f"{type(scorer).__name__} cannot frame prefixes as {frame[0]!r}", hint="use raw", param="framing"
        )
    return cast("FramingScorer", scorer).framed(*frame)


class FramedJudges:
    """Asks for snippets in all views and merges the verdicts.

    Args:
        scorer: The engine.
        model: The adapter's served name.
        bases: The base's view of the same candidates.
        views: The ways to ask; the first is that of a snippet without other views.
        epsilon: Bound on the engine's per-logit error.
        bounds: The bounds of the softer verdicts.
    """

    def __init__(
        self, scorer: Scorer, model: str, bases: Bases, views: Sequence[View], epsilon: float, bounds: Bounds
    ) -> None:
        self._scorer = scorer
        self._bases = bases
        self._views = tuple(views)
        self._judges = {
            frame: Judge(framed_scorer(scorer, frame), model, bases.framed(frame), epsilon, bounds)
            for frame in dict.fromkeys(view.frame for view in views)
        }

    def chunk(self, group: Group, items: Sequence[ScoreItem]) -> list[SnippetResult]:
        """Judge one chunk, in the order given."""
        found: list[list[tuple[View, SnippetResult]]] = [[] for _ in items]
        for view in self._views:
            asked = self._items(view, items)
            judge = self._judges[view.frame]
            places = [i for i, item in enumerate(asked) if item is not None]
            work = [(group, view.filled(item)) for item in asked if item is not None]
            for place, result in zip(places, judge.chunk(work), strict=True):
                found[place].append((view, result))
        return [gravest(results, item) for results, item in zip(found, items, strict=True)]

    def _items(self, view: View, items: Sequence[ScoreItem]) -> list[ScoreItem | None]:
        """Return the items with the view's prefixes; None where a prefix is already as short."""
        if view.prefix_tokens is None:
            return list(items)
        scores = self._bases.framed(RAW).score(items)
        shortened: list[ScoreItem | None] = []
        for item, score in zip(items, scores, strict=True):
            longer = len(score.prefix_ids) > view.prefix_tokens
            texts = self._scorer.token_texts(score.prefix_ids[-view.prefix_tokens :]) if longer else []
            shortened.append(shorten(score, item, view.prefix_tokens, texts))
        return shortened
