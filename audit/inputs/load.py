"""Read a candidate file of any kind: JSON Lines, Parquet, a Hugging Face dataset's folder, or plain text."""

from pathlib import Path

from lorecall.audit.inputs.candidates import CandidateSet, TextSplit, Turns
from lorecall.audit.inputs.json_lines import load_json_lines
from lorecall.audit.inputs.tables import load_folder, load_tables
from lorecall.audit.inputs.text import load_text


def load_input(
    path: Path,
    *,
    skip_bad: bool = False,
    split: TextSplit = TextSplit.SENTENCE,
    turns: Turns = Turns.ONLY,
    tokenizer: Path | None = None,
) -> CandidateSet:
    """Read a candidate file by its kind: .parquet, .txt, a dataset's folder, and JSON Lines otherwise.

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
    if path.suffix == ".parquet" and path.is_file():
        return load_tables(path.name, [path], turns, skip_bad=skip_bad)
    if path.suffix == ".txt" and path.is_file():
        return load_text(path, split, tokenizer, skip_bad=skip_bad)
    return load_json_lines(path, skip_bad=skip_bad, turns=turns)
