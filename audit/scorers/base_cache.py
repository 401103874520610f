"""Scores and greedy decodes of the base model: asked for once, shared by the audits of all its adapters."""

from collections.abc import Callable, Sequence
from threading import Lock
from typing import TypeVar

from lorecall.audit.scorer import Decoded, ItemScore, Message, ScoreItem, Scorer

REMEMBERED = 20_000
Asked = tuple[tuple[Message, ...], str, str]
K = TypeVar("K")
V = TypeVar("V")


class BaseCache:
    """Scores and decodes through the base and remembers the latest results; any number of threads may ask.

    Args:
        scorer: The engine.
        model: The base's served name.
    """

    def __init__(self, scorer: Scorer, model: str) -> None:
        self._scorer = scorer
        self._model = model
        self._scores: dict[Asked, ItemScore] = {}
        self._decodes: dict[tuple[tuple[int, ...], int], Decoded] = {}
        self._lock = Lock()

    def score(self, items: Sequence[ScoreItem]) -> list[ItemScore]:
        """Return the base's scores, in the order given."""
        wanted = {item.asked: item for item in items}
        found = self._remembered(
            self._scores,
            list(wanted),
            lambda keys: self._scorer.score(self._model, [wanted[key] for key in keys]),
        )
        return [found[item.asked] for item in items]

    def decode(self, prompts: Sequence[tuple[tuple[int, ...], int]]) -> list[Decoded]:
        """Return the base's greedy decodes, in the order given."""
        found = self._remembered(
            self._decodes, list(dict.fromkeys(prompts)), lambda keys: self._scorer.decode(self._model, keys)
        )
        return [found[prompt] for prompt in prompts]

    def _remembered(self, memory: dict[K, V], keys: list[K], ask: Callable[[list[K]], list[V]]) -> dict[K, V]:
        """Return the values of the keys, asking for those not remembered; the oldest are forgotten first."""
        with self._lock:
            found = {key: memory[key] for key in keys if key in memory}
        asked = [key for key in keys if key not in found]
        if asked:
            answers = dict(zip(asked, ask(asked), strict=True))
            found |= answers
            with self._lock:
                memory |= answers
                for key in list(memory)[: max(0, len(memory) - REMEMBERED)]:
                    del memory[key]
        return found
