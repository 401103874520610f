"""What the base model makes of the candidates: asked once, shared by the audits of all its adapters."""

from collections.abc import Sequence

from lorecall.audit.scorer import Decoded, ItemScore, ScoreItem, Scorer


class BaseView:
    """Scores and decodes through the base, remembering both.

    Args:
        scorer: The engine.
        model: The base's served name.
    """

    def __init__(self, scorer: Scorer, model: str) -> None:
        self._scorer = scorer
        self._model = model
        self._scores: dict[tuple[str, str], ItemScore] = {}
        self._decodes: dict[tuple[tuple[int, ...], int], Decoded] = {}

    def score(self, items: Sequence[ScoreItem]) -> list[ItemScore]:
        """Return the base's scores, in the order given."""
        missing = {(item.prefix, item.target): item for item in items}
        asked = [item for key, item in missing.items() if key not in self._scores]
        if asked:
            for item, score in zip(asked, self._scorer.score(self._model, asked), strict=True):
                self._scores[item.prefix, item.target] = score
        return [self._scores[item.prefix, item.target] for item in items]

    def decode(self, prompts: Sequence[tuple[tuple[int, ...], int]]) -> list[Decoded]:
        """Return the base's greedy decodes, in the order given."""
        asked = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._decodes]
        if asked:
            self._decodes.update(zip(asked, self._scorer.decode(self._model, asked), strict=True))
        return [self._decodes[prompt] for prompt in prompts]
