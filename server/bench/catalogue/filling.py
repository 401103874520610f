"""Fills a registry, a store and a folder of PEFT directories with thousands of adapters, without adding each."""

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from lorecall.adapters.peft_format.digest import version_digest
from lorecall.adapters.peft_format.files import CONFIG_FILE, WEIGHTS_FILE
from lorecall.adapters.registry.registry import Registry
from lorecall.adapters.registry.tables import AdapterRow, State, VersionRow
from sqlalchemy import insert

ACTOR = "catalogue"


@dataclass(frozen=True, slots=True)
class Entry:
    """One adapter of a catalogue.

    Attributes:
        name: Its name.
        version: The digest of its configuration and weights.
        source: Its directory.
        rank: Its rank.
    """

    name: str
    version: str
    source: Path
    rank: int


def name_of(number: int) -> str:
    """Return the name of an adapter by its place in the order of popularity, from 0."""
    return f"catalogue-{number:05}"


def link_adapters(made: Sequence[Path], folder: Path, count: int, rank: int) -> list[Entry]:
    """Make so many PEFT directories out of a few: each has a configuration of its own, and linked weights.

    The configuration alone makes each another version. The weights share the disk's room, not the engine's.

    Args:
        made: Directories of adapters on the same file system.
        folder: Where the directories are made.
        count: How many.
        rank: Their rank.
    """
    entries = []
    for number in range(count):
        origin, target = made[number % len(made)], folder / name_of(number)
        target.mkdir(parents=True)
        config = (origin / CONFIG_FILE).read_bytes() + b" " * (number // len(made)) + b"\n"
        (target / CONFIG_FILE).write_bytes(config)
        os.link(origin / WEIGHTS_FILE, target / WEIGHTS_FILE)
        version = version_digest(config, target / WEIGHTS_FILE)
        entries.append(Entry(target.name, version, target, rank))
    return entries


def unmade(first: int, count: int) -> list[Entry]:
    """Return entries of which no file exists, for names from `first` to below `count`."""
    return [
        Entry(name_of(n), hashlib.sha256(str(n).encode()).hexdigest(), Path("/nowhere"), 8)
        for n in range(first, count)
    ]


def fill_store(root: Path, entries: Iterable[Entry]) -> None:
    """Put adapters into a store, by links, where `Store` expects them."""
    for entry in entries:
        target = root / entry.version
        target.mkdir(parents=True, exist_ok=True)
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            os.link(entry.source / name, target / name)


def fill_registry(registry: Registry, entries: Sequence[Entry]) -> None:
    """Register adapters, each with one live version, in one transaction."""
    now = datetime.now(UTC)
    with registry.database.write() as (session, revision):
        session.execute(
            insert(AdapterRow),
            [
                {
                    "name": one.name,
                    "live_version": one.version,
                    "previous_version": None,
                    "pinned": False,
                    "removed": False,
                    "revision": revision,
                }
                for one in entries
            ],
        )
        session.execute(
            insert(VersionRow),
            [
                {
                    "name": one.name,
                    "version": one.version,
                    "state": State.LIVE,
                    "reason": "",
                    "audit_id": "",
                    "was_live": True,
                    "rank": one.rank,
                    "effective_parameters": 0,
                    "base_digest": "",
                    "refusal": "",
                    "training": {},
                    "remarks": [],
                    "chat_template": "",
                    "source": str(one.source),
                    "created_at": now,
                    "created_by": ACTOR,
                }
                for one in entries
            ],
        )
