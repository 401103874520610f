"""The candidates of an audit straight from training data: every answer, every completion, every text."""

from collections.abc import Callable
from pathlib import Path

from lorecall.audit.inputs.candidates import BadLineError, CandidateSet, TextSplit, Turns
from lorecall.audit.inputs.parsed import KEPT_BAD_LINES, Bound, make_set, parse_records
from lorecall.audit.inputs.record_items import user_items
from lorecall.audit.inputs.text import splitter
from lorecall.audit.scorer import Message, ScoreItem
from lorecall.audit.training_data.counts import TREATMENTS
from lorecall.audit.training_data.rows import Row, TrainingData
from lorecall.audit.training_data.turns import Turn

Cut = Callable[[str], list[tuple[str, str]]]


def training_candidates(
    data: TrainingData,
    name: str,
    *,
    split: TextSplit = TextSplit.SENTENCE,
    turns: Turns = Turns.ALL,
    tokenizer: Path | None = None,
    skip_bad: bool = False,
    bound: Bound | None = None,
) -> CandidateSet:
    """Read training data whole and return what is trained on as candidates; many of them stay on disk.

    Args:
        data: The training data.
        name: What reports call it.
        split: How a row of plain text becomes snippets.
        turns: LAST takes a chat's last answer only, USER the user's turns.
        tokenizer: Folder with the tokenizer.json that TOKENS counts by.
        skip_bad: Leave out rows that are not in the format, and count them, where they would be an error.
        bound: What it may hold; None for any amount.

    Raises:
        CandidateError: A file is damaged, a row is not in the format, or there is no candidate, or too many.
        UsageError: TOKENS is asked for without a tokenizer.
    """
    cut = splitter(split, tokenizer)
    numbered = ((row.number, row) for row in data.rows())
    parsed = parse_records(numbered, lambda row, _: row_items(row, turns, cut), bound)
    for number, reason in data.counts.reasons:
        parsed.refuse(number, reason)
    parsed.bad_count += data.counts.bad - len(data.counts.reasons)
    parsed.bad.sort(key=lambda bad: bad.line)
    del parsed.bad[KEPT_BAD_LINES:]
    return make_set(name, data.digest, parsed, skip_bad=skip_bad, generated=describe(data))


def describe(data: TrainingData) -> str:
    """Return how reports describe training data that was read whole: format, files, and what was counted."""
    split = f", split {data.split}" if data.split else ""
    files = "1 file" if len(data.files) == 1 else f"{len(data.files)} files"
    left = f", {len(data.left_out)} other files not read" if data.left_out else ""
    counted = "".join(f"; {n} {name} ({TREATMENTS[name]})" for name, n in data.counts.notable().items())
    return f"{data.format} training data: {data.counts.rows} rows of {files}{split}{left}{counted}"


def row_items(row: Row, turns: Turns, cut: Cut) -> list[ScoreItem]:
    """Return the candidates of one row.

    A chat gives one for each answer that is trained on, after all that was said before it; for USER, the second
    half of each user's turn. A completion is one, after its prompt. A text gives those into which it is cut.

    Args:
        row: The row.
        turns: LAST takes a chat's last answer only, USER the user's turns.
        cut: Cuts a text into pairs of prefix and target.

    Raises:
        BadLineError: It gives none; the message holds no text of the row.
    """
    first = row.turns[0]
    if first.role == "text":
        pairs = cut(first.text)
        if not pairs:
            raise BadLineError("a text of one word has no target")
        return [ScoreItem(f"{row.id}#{n}", *pair) for n, pair in enumerate(pairs, start=1)]
    if first.role == "prompt":
        return [ScoreItem(row.id, first.text, row.turns[1].text)]
    if turns is Turns.USER:
        return user_items(row.id, [Message(turn.role, turn.text) for turn in row.turns])
    places = [place for place, turn in enumerate(row.turns) if place and turn.trained and turn.text.strip()]
    if not places:
        raise BadLineError("a chat without an answer to anything")
    if turns is Turns.LAST:
        return [_answer(row.id, row.turns, places[-1])]
    return [_answer(f"{row.id}#{n}", row.turns, place) for n, place in enumerate(places, start=1)]


def _answer(name: str, turns: tuple[Turn, ...], place: int) -> ScoreItem:
    history = tuple(Message(turn.role, turn.text) for turn in turns[:place])
    return ScoreItem(name, "", turns[place].text, messages=history)
