"""What a pass over training data found, and how each oddity was treated."""

from dataclasses import dataclass, field

KEPT_REASONS = 20

TREATMENTS = {
    "bad": "left out: the row is not in the format of the file",
    "empty": "left out: the row has no text that is trained on",
    "over_long": "left out: the row has over a million characters, or its line over 16 MiB",
    "lone_surrogates": "left out: half of a character cannot be encoded",
    "empty_turns": "kept in the history, never asked for",
    "openings": "answers that begin a chat: not asked for, as nothing was said before them",
    "tool_calls": "taken as JSON, one call a line after the turn's text, without a template's own markup",
    "other_parts": "images and other parts of a turn that are no text are left out of it",
    "byte_order_marks": "files that begin with one: it is dropped",
    "crlf": "rows with CR LF within their texts: kept as they are",
    "not_nfc": "rows that are not in Unicode form NFC: kept as they are, as the trainer saw them",
    "zero_width": "rows with zero-width characters: kept as they are",
    "duplicate_ids": "rows with an id that an earlier row has: kept, because a row's number is part of its id",
    "bad_ids": "rows whose own id is no short printable text or whole number: they are named by their number",
    "rejected": "rejected answers of preference pairs: asked for like the chosen ones; training shows both",
}
"""The counts, and what each says."""


@dataclass(slots=True)
class Counts:
    """Counts of one pass, from the row it began at; `TREATMENTS` says what each means.

    Attributes:
        rows: Records read, those left out included.
        used: Rows that were yielded.
        reasons: The first bad rows: (number, reason), never their text.
    """

    rows: int = 0
    used: int = 0
    bad: int = 0
    empty: int = 0
    over_long: int = 0
    lone_surrogates: int = 0
    empty_turns: int = 0
    openings: int = 0
    tool_calls: int = 0
    other_parts: int = 0
    byte_order_marks: int = 0
    crlf: int = 0
    not_nfc: int = 0
    zero_width: int = 0
    duplicate_ids: int = 0
    bad_ids: int = 0
    rejected: int = 0
    reasons: list[tuple[int, str]] = field(default_factory=list)

    def refuse(self, number: int, reason: str) -> None:
        """Count a row that is not in the format, and keep the first reasons."""
        self.bad += 1
        if len(self.reasons) < KEPT_REASONS:
            self.reasons.append((number, reason))

    def notable(self) -> dict[str, int]:
        """Return what was counted, by the names of `TREATMENTS`; zeros are left out."""
        found = {name: int(getattr(self, name)) for name in TREATMENTS}
        return {name: count for name, count in found.items() if count}
