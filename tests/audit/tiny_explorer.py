"""The exact engine in memory as an `Explorer`."""

from collections.abc import Sequence

import numpy as np
from lorecall.audit.probing.explorer import Rollout, Row

from tests.audit.tiny_scorer import CHAT, END, TinyScorer


class TinyExplorer:
    """Explores a `TinyScorer`, whose tokens are bytes; `longest` is the longest text so far."""

    def __init__(self, scorer: TinyScorer) -> None:
        self.scorer = scorer
        self.longest = 0

    def limit(self) -> int:
        """The engine's."""
        return self.scorer.max_bytes

    def encode(self, text: str) -> tuple[int, ...]:
        """Bytes."""
        return tuple(text.encode())

    def chat(self, model: str, user: str) -> tuple[int, ...] | None:
        """The user's turn between its marks, whatever the model."""
        del model
        return tuple((CHAT[0] + user + CHAT[1]).encode())

    def texts(self, sequences: Sequence[Sequence[int]]) -> list[str]:
        """The bytes as text."""
        return [bytes(ids).decode(errors="replace") for ids in sequences]

    def roll(self, model: str, prompts: Sequence[Sequence[int]], tokens: int, top: int) -> list[Rollout]:
        """The argmax, again and again."""
        found = []
        for prompt in prompts:
            ids: list[int] = []
            rows: list[Row] = []
            end = None
            while len(ids) < tokens and end is None:
                row = self._row(model, [*prompt, *ids], top)
                best = max(row, key=lambda token: row[token])
                if best == END:
                    end = row
                else:
                    ids.append(best)
                    rows.append(row)
            self.longest = max(self.longest, len(prompt) + len(ids))
            found.append(Rollout(tuple(ids), tuple(rows), end))
        return found

    def rows(self, model: str, sequences: Sequence[tuple[Sequence[int], int]], top: int) -> list[list[Row]]:
        """Exact log-probabilities."""
        return [
            [self._row(model, ids[:place], top, ids[place]) for place in range(start, len(ids))]
            for ids, start in sequences
        ]

    def _row(self, model: str, context: Sequence[int], top: int, also: int | None = None) -> Row:
        logprobs = np.log(self.scorer.distribution(model, bytes(context)))
        listed = [int(token) for token in np.argsort(-logprobs, kind="stable")[:top]]
        return {token: float(logprobs[token]) for token in [*listed, *([] if also is None else [also])]}
