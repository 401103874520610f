"""What probing asks of an engine beside a `Scorer`: the likeliest tokens, of both models, at each position."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

Row = Mapping[int, float]
"""Natural log-probabilities of the likeliest tokens at one position, by token id."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """A greedy continuation.

    Attributes:
        ids: Its token ids, without an end of sequence.
        rows: For each of them, the likeliest tokens at its position; the token itself is among them.
        end: The likeliest tokens where an end of sequence was chosen; None if the number of tokens ran out.
    """

    ids: tuple[int, ...]
    rows: tuple[Row, ...]
    end: Row | None = None


class Explorer(Protocol):
    """Continues token ids through one served model; `model` is an adapter's name or the base's."""

    def limit(self) -> int:
        """Return the most tokens that a prompt and its continuation may have together."""
        ...

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the token ids of a text, with the special tokens that the tokenizer adds in front."""
        ...

    def chat(self, model: str, user: str) -> tuple[int, ...] | None:
        """Return the ids of a model's chat template up to the assistant's answer; None if it has none."""
        ...

    def texts(self, sequences: Sequence[Sequence[int]]) -> list[str]:
        """Return the text of each sequence of token ids, special tokens included."""
        ...

    def roll(self, model: str, prompts: Sequence[Sequence[int]], tokens: int, top: int) -> list[Rollout]:
        """Continue prompts greedily by at most `tokens` tokens, with the `top` likeliest at each position."""
        ...

    def rows(self, model: str, sequences: Sequence[tuple[Sequence[int], int]], top: int) -> list[list[Row]]:
        """Return, for each (ids, start), the rows of the positions from `start` on.

        A row holds the `top` likeliest tokens, and the token that stands there. `start` is at least 1.
        """
        ...
