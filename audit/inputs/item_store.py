"""Candidates on disk: a sequence of any length in bounded memory, kept in SQLite's own temporary file."""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from threading import Lock
from typing import overload

from lorecall.audit.scorer import Message, ScoreItem

IN_MEMORY = 10_000
PAGE = 1_000
CACHE_KIB = 16_384
COLUMNS = "id, prefix, target, tags, messages, cluster"


class ItemStore(Sequence[ScoreItem]):
    """Items in the order added, with distinct ids; the file is deleted with the object.

    Any number of threads may read at once.
    """

    def __init__(self) -> None:
        self._db = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        for pragma in (f"cache_size = -{CACHE_KIB}", "journal_mode = OFF", "synchronous = OFF"):
            self._db.execute(f"PRAGMA {pragma}")
        self._db.execute(
            "CREATE TABLE items (place INTEGER PRIMARY KEY, id TEXT UNIQUE, line INTEGER, prefix TEXT, "
            "target TEXT, tags TEXT, messages TEXT, cluster TEXT)"
        )
        self._db.execute("BEGIN")
        self._count = 0
        self._lock = Lock()

    def add(self, item: ScoreItem, line: int) -> int | None:
        """Add the item of a line; if another item has its id, add nothing and return that item's line."""
        messages = json.dumps([[one.role, one.content] for one in item.messages])
        own = (item.id, line, item.prefix, item.target, " ".join(item.tags), messages, item.cluster)
        done = self._db.execute(
            "INSERT OR IGNORE INTO items VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (self._count, *own)
        )
        if done.rowcount == 1:
            self._count += 1
            return None
        (first,) = self._db.execute("SELECT line FROM items WHERE id = ?", (item.id,)).fetchone()
        return int(first)

    def small(self) -> Sequence[ScoreItem]:
        """Return the items as a tuple if they are few, else the store itself."""
        return tuple(self) if self._count <= IN_MEMORY else self

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[ScoreItem]:
        for start in range(0, self._count, PAGE):
            yield from self._rows(start, min(start + PAGE, self._count))

    @overload
    def __getitem__(self, index: int) -> ScoreItem: ...

    @overload
    def __getitem__(self, index: slice) -> list[ScoreItem]: ...

    def __getitem__(self, index: int | slice) -> ScoreItem | list[ScoreItem]:
        if isinstance(index, slice):
            start, stop, step = index.indices(self._count)
            if step == 1:
                return self._rows(start, stop)
            return [self[place] for place in range(start, stop, step)]
        place = index + self._count if index < 0 else index
        if not 0 <= place < self._count:
            raise IndexError(f"item {index} of {self._count}")
        return self._rows(place, place + 1)[0]

    def _rows(self, start: int, stop: int) -> list[ScoreItem]:
        query = f"SELECT {COLUMNS} FROM items WHERE place >= ? AND place < ? ORDER BY place"  # noqa: S608  COLUMNS is a constant
        with self._lock:  # SQLite may be built to allow only one thread at a time on a connection
            rows = self._db.execute(query, (start, stop)).fetchall()
        return [_item(*row) for row in rows]


def _item(name: str, prefix: str, target: str, tags: str, messages: str, cluster: str) -> ScoreItem:
    said = tuple(Message(*one) for one in json.loads(messages))
    return ScoreItem(name, prefix, target, tuple(tags.split()), said, cluster)
