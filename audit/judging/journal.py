"""What an audit has judged so far, in a file: started again after a kill it goes on with what is missing.

An audit asks in an order that its inputs and settings fix. So the file holds the results batch by batch, without
the texts, and a second run with the same terms reads them where it would ask the engine.
"""

import fcntl
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol, Self

from lorecall.adapters.core.atomic_file import sync
from lorecall.adapters.core.errors import UsageError
from lorecall.audit.records import SnippetResult
from lorecall.audit.scorer import ScoreItem
from lorecall.audit.verdicts import Group
from pydantic import TypeAdapter, ValidationError

RESULT = TypeAdapter(SnippetResult)
NO_TEXT = {"id": "", "prefix": "", "target": ""}


class Judges(Protocol):
    """Judges snippets."""

    def judge(self, group: Group, items: Sequence[ScoreItem]) -> list[SnippetResult]:
        """Return the results of some snippets, in the order given."""
        ...


class Journal:
    """The results of one unfinished audit; a context manager, while which no other process may use the file.

    Args:
        path: The file; only its owner may read it, since token ids and probabilities tell a text.
        terms: A digest of all that decides what is asked, in which order, and of whom. A file of other terms is
            emptied.

    Attributes:
        fixed: What the first run fixed for all, JSON values; empty in a first run.
        seconds: Time that earlier runs spent on what was read from the file.
        read: Snippets that were read from the file.
        other: Whether the file held another audit, which is not gone on with.

    Raises:
        UsageError: Another process audits into this file, or it cannot be written.
    """

    def __init__(self, path: Path, terms: str) -> None:
        self.path = path
        self.seconds, self.read = 0.0, 0
        try:
            self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b")
        except OSError as error:
            raise UsageError(f"cannot write {str(path)!r}: {error.strerror}", param="out") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise UsageError(
                f"another process audits into {str(path)!r}",
                hint="wait for it, or name another --out",
                param="out",
            ) from error
        head = self._next() or {}
        same = head.get("terms") == terms
        self.other = bool(head) and not same
        self.fixed: dict[str, Any] = head["fixed"] if same else {}
        self._reading = same
        self._terms = terms

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._file.close()

    def begin(self, fixed: dict[str, Any]) -> None:
        """Write what all batches have in common, unless a run before did; what stood there of others is gone."""
        if not self.fixed:
            self._file.seek(0)
            self.fixed = fixed
            self._append({"terms": self._terms, "fixed": fixed})
            sync(self.path.parent)

    def recorded(self, group: Group, items: Sequence[ScoreItem]) -> list[SnippetResult] | None:
        """Return the results of the next batch, None from the first that is not in the file whole."""
        if not self._reading:
            return None
        at = self._file.tell()
        batch = self._next()
        if batch is not None and batch.get("ids") == [item.id for item in items] and batch["group"] == group:
            try:
                found = [RESULT.validate_python({**one, "item": NO_TEXT}) for one in batch["results"]]
            except ValidationError:
                found = []
            if len(found) == len(items):
                self.seconds += batch["seconds"]
                self.read += len(items)
                return [replace(one, item=item) for one, item in zip(found, items, strict=True)]
        self._reading = False
        self._file.seek(at)
        return None

    def record(self, group: Group, results: Sequence[SnippetResult], seconds: float) -> None:
        """Write the results of a batch to the disk."""
        values = [asdict(replace(one, item=ScoreItem("", "", ""))) for one in results]
        for value in values:
            del value["item"]
        self._append(
            {
                "group": str(group),
                "ids": [one.item.id for one in results],
                "seconds": seconds,
                "results": values,
            }
        )

    def delete(self) -> None:
        """Remove the file: its audit is over."""
        self.path.unlink(missing_ok=True)

    def _next(self) -> dict[str, Any] | None:
        """Return the next line; None at the end, and for one that a kill cut off."""
        line = self._file.readline()
        try:
            value = json.loads(line) if line.endswith(b"\n") else None
        except ValueError:
            return None
        return value if isinstance(value, dict) else None

    def _append(self, value: dict[str, Any]) -> None:
        self._file.write(json.dumps(value).encode() + b"\n")
        self._file.truncate()
        self._file.flush()
        os.fsync(self._file.fileno())


class RecordedJudges:
    """Judges that ask only for what is not in a journal yet, and write there what they find.

    Args:
        judges: Ask the engine.
        journal: Where the results are.
    """

    def __init__(self, judges: Judges, journal: Journal) -> None:
        self._judges, self._journal = judges, journal

    def judge(self, group: Group, items: Sequence[ScoreItem]) -> list[SnippetResult]:
        """Return the results of some snippets, in the order given."""
        found = self._journal.recorded(group, items)
        if found is None:
            started = time.monotonic()
            found = self._judges.judge(group, items)
            self._journal.record(group, found, time.monotonic() - started)
        return found
