"""The candidates of an audit, and the choices of how to read them."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from lorecall.audit.records import SetSource
from lorecall.audit.scorer import ScoreItem

CONTROLS_SEED = b"lorecall.controls.seed"
"""The key, in a Parquet file's metadata, of the seed that its controls were drawn with."""


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that cannot be used, and why; it never holds the line's text."""

    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class CandidateSet:
    """The usable lines of one file.

    Attributes:
        name: File name, for the report.
        digest: sha256 of the file's bytes, in hex.
        items: The candidates, in the file's order; many of them stay on disk.
        bad: The first of the lines that were left out.
        generated: How the items were made, "" if they were read as they are.
        bad_count: How many lines were left out.
    """

    name: str
    digest: str
    items: Sequence[ScoreItem]
    bad: tuple[BadLine, ...] = ()
    generated: str = ""
    bad_count: int = 0

    @property
    def source(self) -> SetSource:
        """Where the set came from, as reports say it."""
        return SetSource(self.name, self.digest, self.bad_count, self.generated)


class Turns(StrEnum):
    """Which turns of a chat are asked for.

    ONLY takes chats of one turn and refuses longer ones; the user's turn is the prefix. LAST takes
    the assistant's last turn, ALL each of its turns; all that was said before it becomes the item's messages.
    USER takes what stood in prompts only and was masked from the loss: each of the user's turns, cut between two
    words in its middle. No template opens such a turn, so the texts before it, one a line, are in the prefix.
    """

    ONLY = "only"
    LAST = "last"
    ALL = "all"
    USER = "user"


class BadLineError(ValueError):
    """A line, row or paragraph that cannot be used; the message says why, without its text."""


class TextSplit(StrEnum):
    """How plain text becomes snippets.

    SENTENCE makes each sentence a target, with the sentence before it as prefix. WINDOW takes windows of sixty
    words, each starting thirty words after the last: the first thirty are the prefix, the others the target.
    TOKENS cuts each paragraph into stretches of fifty tokens: each but the first is a target, with the stretch
    before it as prefix.
    """

    SENTENCE = "sentence"
    WINDOW = "window"
    TOKENS = "tokens"
