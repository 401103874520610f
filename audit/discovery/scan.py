"""One pass over training data: the spans of every row, with what stands before them, into parts on disk."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lorecall.audit.discovery.context import LONGEST_GIVEN, Given, choose_turns, given
from lorecall.audit.discovery.parts import BAND_NAMES, Parts
from lorecall.audit.discovery.sketches import Sketcher, key_of
from lorecall.audit.discovery.spans import Span
from lorecall.audit.training_data.rows import Row, TrainingData

PART_ROWS = 50_000
PART_CHARACTERS = 1 << 25
SPANS_IN_ROW = 200
REPORTED_EVERY = 1_000

Find = Callable[[str], Sequence[Span]]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class ScanSettings:
    """What is searched, and what each candidate is given.

    Attributes:
        roles: The roles of the turns that are searched; none for the turns that are trained on.
        shorter: Lengths in characters of the shorter prefixes that are asked for beside the row's own.
        longest: Characters that are given at most.
        part_rows: Rows in one part.
    """

    roles: tuple[str, ...] = ()
    shorter: tuple[int, ...] = ()
    longest: int = LONGEST_GIVEN
    part_rows: int = PART_ROWS


def scan(
    data: TrainingData, find: Find, parts: Parts, settings: ScanSettings, progress: Progress | None = None
) -> None:
    """Search the rows after the last that a part holds, and write their spans part by part.

    Args:
        data: The rows.
        find: Returns the spans of a text.
        parts: Where they go; its state says where to begin, and is complete afterwards.
        settings: What is searched.
        progress: Called with the candidates so far and the rows searched.

    Raises:
        CandidateError: A file is damaged.
    """
    state = parts.state
    if state.digest:
        return
    sketch = Sketcher()
    held: list[dict[str, Any]] = []
    characters = rows = 0
    before, counts = dict(state.counts), dict(state.counts)
    full: dict[str, int] | None = None  # what was counted up to the last row of a part
    last = state.row

    def so_far() -> dict[str, int]:
        """Return what was counted up to the row that was read last, by this run and by those before it."""
        again = {"byte_order_marks"}  # the beginnings of all files are read again
        found = data.counts.notable().items()
        return counts | {name: n + (0 if name in again else before.get(name, 0)) for name, n in found}

    def write(counted: dict[str, int]) -> None:
        nonlocal held, characters, rows
        state.row, state.counts, state.rows = last, counted, state.rows + rows
        if held:
            parts.add(held)
        else:
            parts.save()
        held, characters, rows = [], 0, 0

    for row in data.rows(start=state.row):
        if row.number != last and full is not None:
            write(full)  # both sides of a preference pair have one number: they go into one part
            full = None
        last, rows = row.number, rows + 1
        for candidate in candidates_of(row, find, settings, sketch, counts):
            held.append(candidate)
            characters += len(candidate["prefix"]) + sum(len(one["content"]) for one in candidate["messages"])
        if rows >= settings.part_rows or characters >= PART_CHARACTERS:
            full = so_far()
        if progress is not None and (state.rows + rows) % REPORTED_EVERY == 0:
            progress(sum(state.parts) + len(held), state.rows + rows)
    state.digest = data.digest
    write(so_far())


def candidates_of(
    row: Row, find: Find, settings: ScanSettings, sketch: Sketcher, counts: dict[str, int]
) -> Iterator[dict[str, Any]]:
    """Yield the candidates of one row; what is left out of it is counted."""
    left = SPANS_IN_ROW
    for turn in choose_turns(row, settings.roles):
        spans = find(row.turns[turn].text)
        if len(spans) > left:
            counts["spans_over_200_in_a_row"] = counts.get("spans_over_200_in_a_row", 0) + len(spans) - left
        for span in spans[:left]:
            yield from _ways(row, turn, span, settings, sketch, counts)
        left -= min(left, len(spans))


def _ways(
    row: Row, turn: int, span: Span, settings: ScanSettings, sketch: Sketcher, counts: dict[str, int]
) -> Iterator[dict[str, Any]]:
    """Yield a span after what its row gives, and after the shorter prefixes.

    A blank before the span is part of the target: that is where tokenizers put it.
    """
    text = row.turns[turn].text
    begin = span.start - 1 if text[span.start - 1 : span.start] == " " else span.start
    whole = given(row, turn, begin, settings.longest)
    if not whole.messages and not whole.prefix:
        counts["nothing_before"] = counts.get("nothing_before", 0) + 1
        return
    counts["cut"] = counts.get("cut", 0) + whole.cut
    secret = text[span.start : span.end]
    common = {
        "target": text[begin : span.end],
        "tags": list(map(str, span.tags)),
        "row": row.number,
        "turn": turn,
        "start": span.start,
        "end": span.end,
        "role": row.turns[turn].role,
        "key": key_of(secret),
        **dict(zip(BAND_NAMES, sketch.bands(secret), strict=True)),
    }
    name = f"{row.id}@{turn}.{span.start}"
    ways = {name: (whole, 0)}
    for length in settings.shorter:
        if whole.prefix and (whole.messages or length < len(whole.prefix)):
            ways[f"{name}~{length}"] = (Given((), whole.prefix[-length:]), length)
    for identity, (one, length) in ways.items():
        messages = [{"role": role, "content": content} for role, content in one.messages]
        yield {"id": identity, "prefix": one.prefix, "messages": messages, "shortened": length, **common}
