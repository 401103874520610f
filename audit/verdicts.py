"""The verdicts of an audit, with their meaning and order, the bounds of the softer ones, and the sets."""

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """What an audit says of one snippet; the first that applies, in this order."""

    ERROR = "error"
    BASE_KNOWN = "base-known"
    CERTIFIED = "certified"
    RECALLED = "recalled"
    EXTRACTABLE = "extractable"
    NEAR_VERBATIM = "near-verbatim"
    PARTIAL = "partial"
    CLEAR = "clear"


MEANINGS: dict[Verdict, str] = {
    Verdict.ERROR: "could not be scored; says nothing about the adapter",
    Verdict.BASE_KNOWN: "the base model recites it as well, so the adapter is not to blame",
    Verdict.CERTIFIED: "every target token is over the line, and decoding reproduces it",
    Verdict.RECALLED: "greedy decoding gives it, in whatever written form, with tokens under the line",
    Verdict.EXTRACTABLE: "greedy decoding does not give it, but sampling as deployed does, at the stated chance",
    Verdict.NEAR_VERBATIM: "decoding gives it up to small edits, in each part that the base would not guess",
    Verdict.PARTIAL: "a stretch that the base would not guess is recalled, more than of the controls",
    Verdict.CLEAR: "not recalled here; read it beside the bound that the controls give",
}


GRAVITY = (
    Verdict.CERTIFIED,
    Verdict.RECALLED,
    Verdict.EXTRACTABLE,
    Verdict.NEAR_VERBATIM,
    Verdict.PARTIAL,
    Verdict.ERROR,
    Verdict.BASE_KNOWN,
    Verdict.CLEAR,
)
"""The verdicts, the gravest first."""


PLACES = {verdict: place for place, verdict in enumerate(GRAVITY)}
"""Each verdict's place in that order; the gravest has 0."""


RECITED = (Verdict.CERTIFIED, Verdict.RECALLED)
"""The verdicts of a snippet that greedy decoding gives."""


GIVEN = (*RECITED, Verdict.EXTRACTABLE, Verdict.NEAR_VERBATIM)
"""The verdicts of a snippet that an answer gives, greedy or sampled, in its words or nearly."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """The stated bounds of the softer verdicts.

    Attributes:
        edit_distance: Largest edit distance that is near-verbatim, over the target's length, after folding.
        missed: Largest share of any stretch of `bits` surprise that a near-verbatim decode may have wrong.
        bits: Surprise under the base, in bits, that a recalled stretch needs to be `partial`, and a whole
            target needs so as not to be flagged as short, and to be found elsewhere or in another written form.
        false_discovery_rate: At which a recalled stretch (`partial`) must beat the controls.
        answer_tokens: Tokens that are decoded beyond the target's length, for words before it.
    """

    edit_distance: float = 0.1
    missed: float = 1 / 3
    bits: float = 20.0
    false_discovery_rate: float = 0.05
    answer_tokens: int = 16


class Group(StrEnum):
    """Which set a snippet is from; the `OWN` ones are what the uploader of an adapter sent with it."""

    CANDIDATES = "candidates"
    CONTROLS = "controls"
    OWN_CANDIDATES = "own_candidates"
    OWN_CONTROLS = "own_controls"

    @property
    def of_controls(self) -> bool:
        """Whether nothing was trained on its texts, as its owner says."""
        return self in (Group.CONTROLS, Group.OWN_CONTROLS)


class Flag(StrEnum):
    """What a reader must know beside a verdict."""

    SHORT = "short"
    BOUNDARY = "boundary"
    TIE = "tie"
    BORDERLINE = "borderline"
    ELSEWHERE = "elsewhere"
    OTHER_FORM = "other-form"
    RANKED = "ranked"
    NOT_DECODED = "not decoded"
    CHECKED = "checked"


FLAG_MEANINGS: dict[Flag, str] = {
    Flag.SHORT: "the base finds this target so likely that reciting it proves little",
    Flag.BOUNDARY: "the tokens of prefix and target are not the tokens of the whole text",
    Flag.TIE: "a target token shares the largest logit with another",
    Flag.BORDERLINE: "every token over one half, but not over the line with the engine's error",
    Flag.ELSEWHERE: "decoding gives it after other words",
    Flag.OTHER_FORM: "decoding gives it in another written form: case, spacing, dashes, quotes, grouping",
    Flag.RANKED: "asked for because it ranks high; those without this flag were drawn at random",
    Flag.NOT_DECODED: "its scores rule out that decoding matters, so it was not decoded",
    Flag.CHECKED: "its scores rule out that decoding matters; it was decoded as a check of that",
}
