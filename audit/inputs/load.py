"""The one reader of candidates: JSON Lines, Parquet, Arrow, a Hugging Face dataset's folder, or plain text."""

from io import BufferedIOBase
from pathlib import Path

from lorecall.audit.inputs.candidates import CandidateSet, TextSplit, Turns
from lorecall.audit.inputs.json_lines import read_json_lines
from lorecall.audit.inputs.parsed import Bound, opened
from lorecall.audit.inputs.tables import ARROW, PARQUET, load_folder, read_table
from lorecall.audit.inputs.text import read_text


def load_input(
    path: Path,
    *,
    skip_bad: bool = False,
    split: TextSplit = TextSplit.SENTENCE,
    turns: Turns = Turns.ONLY,
    tokenizer: Path | None = None,
) -> CandidateSet:
    """Read a candidate file by its kind: .parquet, .arrow, .txt, a dataset's folder, and JSON Lines otherwise.

    Memory is bounded whatever the file's length: many items stay on disk.

    Args:
        path: The file or folder.
        skip_bad: Leave bad rows out, and count them, where they would be an error.
        split: How plain text becomes snippets.
        turns: Which turns of a chat are asked for.
        tokenizer: Folder with the tokenizer.json that TOKENS counts by.

    Raises:
        CandidateError: It is missing, holds no candidate, or holds a bad row.
        UsageError: TOKENS is asked for without a tokenizer.
    """
    if path.is_dir():
        return load_folder(path, turns, skip_bad=skip_bad)
    with opened(path) as content:
        return read_input(
            path.name, content, skip_bad=skip_bad, split=split, turns=turns, tokenizer=tokenizer
        )


def read_input(
    name: str,
    content: BufferedIOBase,
    *,
    skip_bad: bool = False,
    split: TextSplit = TextSplit.SENTENCE,
    turns: Turns = Turns.ONLY,
    tokenizer: Path | None = None,
    bound: Bound | None = None,
) -> CandidateSet:
    """Read the content of a candidate file by the kind that its name says, as `load_input` does.

    Args:
        name: The file's name.
        content: Its bytes, seekable.
        skip_bad: As for `load_input`, like the next three.
        split: How plain text becomes snippets.
        turns: Which turns of a chat are asked for.
        tokenizer: Folder with the tokenizer.json that TOKENS counts by.
        bound: What it may hold; None for any amount.
    """
    kind = Path(name).suffix.lower()
    if kind in (PARQUET, ARROW):
        return read_table(name, content, turns, skip_bad=skip_bad, bound=bound)
    if kind == ".txt":
        return read_text(name, content, split, tokenizer, skip_bad=skip_bad, bound=bound)
    return read_json_lines(name, content, turns, skip_bad=skip_bad, bound=bound)
