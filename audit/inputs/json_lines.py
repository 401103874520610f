"""Read JSON Lines of `{"id", "prefix", "target"}`, or with the field names of other people's sets."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from io import BufferedIOBase
from pathlib import Path
from typing import Any, cast

from lorecall.adapters.core.canonical_json import digest as canonical_digest
from lorecall.adapters.core.canonical_json import exact
from lorecall.adapters.core.errors import CandidateError, UsageError
from lorecall.audit.inputs.candidates import BadLineError, CandidateSet, Turns
from lorecall.audit.inputs.parsed import Bound, Parsed, make_set, opened, parse_records
from lorecall.audit.inputs.record_items import FIELDS, describe_turns, to_items


def load_json_lines(path: Path, *, skip_bad: bool = False, turns: Turns = Turns.ONLY) -> CandidateSet:
    """Read a candidate file, in bounded memory.

    Args:
        path: A JSON Lines file in UTF-8.
        skip_bad: Leave bad lines out, and count them, where they would be an error.
        turns: Which turns of a chat are asked for.

    Raises:
        CandidateError: The file is missing, is not a file, holds no candidate, or holds a bad line.
    """
    with opened(path) as lines:
        return read_json_lines(path.name, lines, turns, skip_bad=skip_bad)


def read_json_lines(
    name: str, lines: BufferedIOBase, turns: Turns, *, skip_bad: bool, bound: Bound | None = None
) -> CandidateSet:
    """Read the content of a candidate file. Raises CandidateError as `load_json_lines` does."""
    digest = hashlib.sha256()
    parsed = parse_lines(_digested(lines, digest), turns, bound)
    return make_set(name, digest.hexdigest(), parsed, skip_bad=skip_bad, generated=describe_turns(turns))


def read_records(
    name: str, records: Sequence[dict[str, Any]], *, skip_bad: bool, turns: Turns = Turns.ONLY
) -> CandidateSet:
    """Read records that are already parsed from JSON. Raises CandidateError as `load_json_lines` does."""
    try:
        digest = canonical_digest(exact(list(records)))
    except (UsageError, ValueError, RecursionError):
        raise CandidateError(
            f"{name!r} nests too deeply, or has a number with thousands of digits, an infinite one or half of a "
            "surrogate pair",
            hint='send {"id", "prefix", "target"}',
            param="candidates",
        ) from None  # the cause could quote a text
    parsed = parse_records(
        enumerate(records, start=1), lambda record, number: to_items(record, str(number), turns)
    )
    return make_set(name, digest, parsed, skip_bad=skip_bad, generated=describe_turns(turns))


def _digested(lines: Iterable[bytes], digest: "hashlib._Hash") -> Iterator[bytes]:
    for line in lines:
        digest.update(line)
        yield line


def parse_lines(lines: Iterable[bytes], turns: Turns = Turns.ONLY, bound: Bound | None = None) -> Parsed:
    """Parse JSON Lines; blank lines are skipped, a bad line is counted with its number and reason."""
    numbered = ((number, raw) for number, raw in enumerate(lines, start=1) if raw.strip())
    return parse_records(
        numbered, lambda raw, number: to_items(parse_line(raw, number), str(number), turns), bound
    )


def parse_line(raw: bytes, number: int) -> dict[str, object]:
    """Return the fields of one line.

    Raises:
        BadLineError: The line is no JSON object; the message says why, without its text.
    """
    try:
        value = json.loads(
            raw.decode("utf-8-sig" if number == 1 else "utf-8"), object_pairs_hook=no_duplicates
        )
    except UnicodeDecodeError as error:
        raise BadLineError(f"not UTF-8 at byte {error.start}") from error
    except json.JSONDecodeError as error:
        raise BadLineError(f"not JSON: {error.msg} at column {error.colno}") from error
    except BadLineError:
        raise
    except ValueError as error:  # a number with thousands of digits
        raise BadLineError("not JSON: a number is too long") from error
    except RecursionError as error:
        raise BadLineError("not JSON: nested too deeply") from error
    if not isinstance(value, dict):
        raise BadLineError(f"not a JSON object but {type(value).__name__}")
    return cast("dict[str, object]", value)


def no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Return the fields of an object. Raises BadLineError where a key stands twice."""
    fields: dict[str, object] = {}
    for key, value in pairs:
        if key in fields:
            raise BadLineError(f"the key {key!r} stands twice" if key in FIELDS else "a key stands twice")
        fields[key] = value
    return fields
