"""Judge snippets of one adapter in several views: one judge for each framing, and one merged result."""

import dataclasses
from collections.abc import Sequence
from typing import cast

from lorecall.adapters.core.errors import UsageError
from lorecall.audit.extraction import Extraction
from lorecall.audit.judging.decoding import Check
from lorecall.audit.judging.judge import Judge
from lorecall.audit.judging.views import FramingScorer, TemplatedScorer, View, ends_alike, gravest, shorten
from lorecall.audit.records import SnippetResult
from lorecall.audit.scorer import Sampling, ScoreItem, Scorer
from lorecall.audit.scorers.base_cache import BaseCache
from lorecall.audit.scorers.sampling import sampled_scorer
from lorecall.audit.verdicts import Bounds, Group

Frame = tuple[str, str | None]
RAW: Frame = ("raw", None)


class BaseCaches:
    """The base's scores and decodes in each framing, asked for once for any number of adapters.

    Args:
        scorer: The engine.
    """

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self._views: dict[tuple[Frame, Sampling, str], BaseCache] = {}

    def framed(self, frame: Frame, sampling: Sampling | None = None, template_of: str = "") -> BaseCache:
        """Return the base's scores and decodes in one framing.

        Args:
            frame: The framing.
            sampling: A scheme under which it scores as well.
            template_of: The adapter by whose chat template it is asked; "" for the base's.
        """
        key = (frame, sampling or Sampling(), template_of)
        if key not in self._views:
            scorer = sampled_scorer(framed_scorer(self._scorer, frame, template_of), key[1])
            self._views[key] = BaseCache(scorer, self._scorer.info().base)
        return self._views[key]


def framed_scorer(scorer: Scorer, frame: Frame, template_of: str = "") -> Scorer:
    """Return the scorer with another framing, and with an adapter's chat template for all models.

    Raises:
        UsageError: The scorer has only the raw one.
    """
    if template_of:
        scorer = cast("TemplatedScorer", scorer).templated(template_of)
    if frame == RAW:
        return scorer
    if not hasattr(scorer, "framed"):
        raise UsageError(
            f"{type(scorer).__name__} cannot frame prefixes as {frame[0]!r}", hint="use raw", param="framing"
        )
    return cast("FramingScorer", scorer).framed(*frame)


class FramedJudges:
    """Judges snippets in all views and merges the results.

    Args:
        scorer: The engine.
        model: The adapter's served name.
        bases: The base's scores and decodes.
        views: The ways to ask for a snippet.
        epsilon: Bound on the engine's per-logit error.
        bounds: The bounds of the softer verdicts.
        extraction: What is extractable by sampling.
        check: Which snippets are decoded although their scores rule out that it matters; all by default.
    """

    def __init__(
        self,
        scorer: Scorer,
        model: str,
        bases: BaseCaches,
        views: Sequence[View],
        epsilon: float,
        bounds: Bounds,
        extraction: Extraction | None = None,
        check: Check | None = None,
    ) -> None:
        self._scorer = scorer
        self._bases = bases
        self._views = tuple(views)
        self._template_of = model if scorer.adapter(model).chat_template else ""
        extraction = extraction or Extraction()
        self._sampling = extraction.sampling
        self._judges = {
            frame: Judge(
                sampled_scorer(framed_scorer(scorer, frame, self._template_of), extraction.sampling),
                model,
                bases.framed(frame, extraction.sampling, self._template_of),
                epsilon,
                bounds,
                extraction,
                check or Check(),
            )
            for frame in dict.fromkeys(view.frame for view in views)
        }

    def judge(self, group: Group, items: Sequence[ScoreItem]) -> list[SnippetResult]:
        """Judge some snippets; the results are in the order given."""
        found: list[list[tuple[View, SnippetResult]]] = [[] for _ in items]
        not_asked: list[list[str]] = [[] for _ in items]
        for view in self._views:
            asked = self._items(view, items)
            for labels, (_, cannot) in zip(not_asked, asked, strict=True):
                if cannot:
                    labels.append(view.label)
            judge = self._judges[view.frame]
            places = [i for i, (item, _) in enumerate(asked) if item is not None]
            work = [(group, view.filled(item)) for item, _ in asked if item is not None]
            for place, result in zip(places, judge.judge(work), strict=True):
                found[place].append((view, result))
        return [
            dataclasses.replace(gravest(results, item), not_asked=tuple(missing))
            for results, item, missing in zip(found, items, not_asked, strict=True)
        ]

    def _items(self, view: View, items: Sequence[ScoreItem]) -> list[tuple[ScoreItem | None, bool]]:
        """Return each item with the view's prefix, and whether that cannot be asked for.

        A prefix that has no more tokens than the view keeps is asked for whole already: then there is neither.
        """
        kept = view.prefix_tokens
        if kept is None:
            return [(item, False) for item in items]
        base = self._bases.framed(RAW, self._sampling, self._template_of)
        scores = base.score(items)
        longer = [not score.error and len(score.prefix_ids) > kept for score in scores]
        cut = [
            shorten(score, item, kept, self._scorer.token_texts(score.prefix_ids[-kept:])) if long else None
            for item, score, long in zip(items, scores, longer, strict=True)
        ]
        again = iter(base.score([item for item in cut if item is not None]))
        held = [
            item is not None and ends_alike(next(again), score, kept)
            for item, score in zip(cut, scores, strict=True)
        ]
        return [
            (item if holds else None, long and not holds)
            for item, holds, long in zip(cut, held, longer, strict=True)
        ]
