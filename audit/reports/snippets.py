"""The models of one snippet in a report: its verdict, its scores, and what is shown of its texts."""

from typing import Annotated, Literal

from lorecall.audit.records import Judged
from lorecall.audit.reports.models import (
    CONFIG,
    TAGS,
    Amount,
    Count,
    Number,
    ReportModel,
    Share,
    is_empty,
    optional,
)
from lorecall.audit.verdicts import Flag, Group, Verdict
from pydantic import Discriminator, Field, StrictBool, Tag
from pydantic.dataclasses import dataclass


class RedactedText(ReportModel):
    """A text's keyed hash and its length, and the text only where it may be shown."""

    hash: str
    characters: Count
    text: str | None = optional()


@dataclass(frozen=True, slots=True, config=CONFIG)
class Token:
    """One target token; a dataclass with slots, because a report may hold millions.

    Where texts are not shown, p is given to two digits, on its side of one half, and the rank as the least power
    of ten that is no smaller: with more, whoever has the adapter could tell which token it is.
    """

    p: Share
    rank: Annotated[int, Field(strict=True, ge=1)]
    base_p: Share | None
    """Under the base; null where its split of the text has no such token."""
    id: Count | None = optional()
    """The token, only where texts are shown, as its text."""
    text: str | None = optional()


class ViewVerdict(ReportModel):
    """What one way of asking gave."""

    view: str
    verdict: Verdict
    min_p: Share | None


class Snippet(ReportModel):
    """One snippet; without scores if its verdict is an error."""

    id: str
    set: Group
    verdict: Verdict
    flags: tuple[Flag, ...]
    alarm: str
    """Why the engine contradicts itself on this snippet, empty if it does not."""
    error: str
    view: str
    """The way of asking that gave this verdict."""
    views: tuple[ViewVerdict, ...]
    not_asked: tuple[str, ...] = Field(default=(), exclude_if=is_empty)
    """The ways that it could not be asked in: the shorter prefix is no text of those tokens."""
    prefix: RedactedText
    target: RedactedText
    history: RedactedText | None = optional()
    """The messages before the assistant's turn, if it has any: each "role: content", with blank lines between."""
    min_p: Share | None
    decoded_equal: StrictBool | None
    """Greedy decoding gave the target, by tokens or by text; null where it was not decoded."""
    tokens: tuple[Token, ...]
    p_value: Share | None = optional()
    """Conformal, against the controls."""
    q_value: Share | None = optional()
    """The smallest false discovery rate at which this candidate is a finding."""
    tags: tuple[str, ...] = Field(default=(), exclude_if=is_empty)
    """The user's labels of the candidate, shown in clear."""
    pending: Literal[True] | None = optional()
    """Only while an audit runs: a stretch is recalled, and whether it beats the controls is known at the end."""

    @property
    def evidence(self) -> Verdict:
        """What its own evidence gives: `partial` for a recalled stretch that waits for the controls."""
        return Verdict.PARTIAL if self.pending else self.verdict

    def judged(self) -> Judged:
        """Return what a tally counts."""
        return Judged(
            self.evidence, self.alarm, self.flags, 0, 0, None, not_asked=self.not_asked, tags=self.tags
        )


class Drawn(ReportModel):
    """What drawn answers gave, beside what was predicted."""

    answers: Count
    seen: Count
    """Answers that begin with the target's tokens."""
    seen_as_text: Count
    """Answers that begin with the target's text, in whatever tokens."""
    expected: Amount | None
    """How many should begin with its tokens; null where the probability is not known."""
    interval: tuple[Count, Count] | None
    """The exact binomial prediction interval of `seen`, at the report's confidence."""


class ScoredSnippet(Snippet):
    """One snippet with its scores."""

    length: Annotated[int, Field(strict=True, ge=1)]
    """Target tokens."""
    min_p_at: Count
    over_half: Count
    locked: tuple[Count, ...]
    """Positions with p over the threshold."""
    near: tuple[Count, ...]
    """Positions with 0.3 <= p <= 0.5."""
    certified_by_p: StrictBool
    rank1: StrictBool
    """Every target token is the one argmax."""
    exact_memorization: Share
    """Share of the target tokens that are the argmax (open-unlearning)."""
    extraction_strength: Share
    """Share of the target after which all is the argmax (open-unlearning)."""
    decoded_ids_equal: StrictBool | None
    """Null where it was not decoded, like the next."""
    edit_distance: Amount | None
    first_failing: Count | None
    """First position that is not the one argmax."""
    longest_run: Count
    longest_run_at: Count
    run_bits: Number
    loss: Number
    base_loss: Number
    delta_loss: Number
    base_min_p: Share
    base_bits: Number
    base_recites: StrictBool
    log10_pz: Number | None
    """log10 of the probability of the whole target; null where it is 0."""
    log10_n50: Number | None
    """log10 of the samples at temperature 1 for a 50 % chance of extraction; null where it is infinite."""
    chance: Share | None = optional()
    """The probability that one of the stated number of sampled answers is the target; absent where unknown."""
    chance_at_most: Share | None = optional()
    """Only where the scorer cannot tell the chance, but that it is no larger than this."""
    unknown_chance: Literal[True] | None = optional()
    """It may be extractable, as it was asked for here or in another view or split: the scorer cannot tell."""
    drawn: Drawn | None = optional()
    """Only where answers were drawn (`--sample`)."""

    def judged(self) -> Judged:
        """Return what a tally counts."""
        return Judged(
            self.evidence,
            self.alarm,
            self.flags,
            self.length,
            self.over_half,
            self.delta_loss,
            self.log10_pz,
            self.run_bits,
            bool(self.unknown_chance),
            self.not_asked,
            self.base_loss,
            self.tags,
        )


def _kind(value: object) -> str:
    verdict = value.get("verdict") if isinstance(value, dict) else getattr(value, "verdict", None)
    return TAGS[verdict != Verdict.ERROR]


Entry = Annotated[
    Annotated[Snippet, Tag(TAGS[0])] | Annotated[ScoredSnippet, Tag(TAGS[1])], Discriminator(_kind)
]
