"""The texts of open audits: files that only their owner can read, outside the database.

An audit needs its candidates until its end, and they are secrets, so the database holds only hashes and counts.
A file is written before the audit is queued, and removed when the audit ends. A server that is to take over
another one's audits needs the same folder.
"""

import json
import os
import shutil
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from lorecall.adapters.core.atomic_file import sync
from lorecall.adapters.core.errors import LorecallError
from lorecall.audit.inputs.candidates import BadLine, CandidateSet
from lorecall.audit.inputs.item_store import ItemStore
from lorecall.audit.jobs.references import Reference
from lorecall.audit.records import Group
from lorecall.audit.scorer import Message, ScoreItem

SUFFIX = ".json"
SEARCHES, DOWNLOADS = "searches", "downloads"
OTHERS = frozenset((SEARCHES, DOWNLOADS))
"""Folders beside the texts."""
ORPHAN_SECONDS = 3600.0


class SpoolError(LorecallError):
    """The texts of an audit cannot be written or read."""

    code = "audit_spool_failed"


@dataclass(frozen=True, slots=True)
class Texts:
    """The secrets of one audit.

    Attributes:
        sets: The candidates, and the controls if there are any.
        system: The system message of the framing "chat+system"; None without one.
        salt: The key of the hashes in its report.
        template: The text of the framing "template"; None without one.
        reference: What the order names by address and is still to be read; None once the sets are here.
    """

    sets: dict[Group, CandidateSet]
    system: str | None
    salt: bytes
    template: str | None = None
    reference: Reference | None = None


class Spool:
    """One folder with one file for each open audit.

    Args:
        folder: Made if it is missing, with access for its owner only.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        for missing in [one for one in reversed([folder, *folder.parents]) if not one.exists()]:
            missing.mkdir(mode=0o700, exist_ok=True)  # `parents=True` would apply the umask to them

    def write(self, audit_id: str, texts: Texts) -> None:
        """Write an audit's texts to the disk, synced.

        Raises:
            SpoolError: They cannot be written.
        """
        head = {
            "sets": {str(group): _set_value(one) for group, one in texts.sets.items()},
            "system": texts.system,
            "template": texts.template,
            "salt": texts.salt.hex(),
            "reference": None if texts.reference is None else texts.reference.model_dump(mode="json"),
        }
        part = self._path(audit_id).with_suffix(".part")
        try:
            with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                file.write(json.dumps(head) + "\n")
                for item in chain.from_iterable(one.items for one in texts.sets.values()):
                    file.write(json.dumps(_item_value(item)) + "\n")
                file.flush()
                os.fsync(file.fileno())
            part.rename(self._path(audit_id))
            sync(self._folder)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise SpoolError(
                f"the texts of an audit cannot be kept: {error.strerror}", hint="see LORECALL_AUDIT_SPOOL"
            ) from error

    def has(self, audit_id: str) -> bool:
        """Whether an audit's texts are here."""
        return self._path(audit_id).is_file()

    def read(self, audit_id: str) -> Texts:
        """Return an audit's texts.

        Raises:
            SpoolError: They are not here, or damaged.
        """
        try:
            with self._path(audit_id).open(encoding="utf-8") as file:
                value = json.loads(file.readline())
                sets = {Group(group): _set_of(one, file) for group, one in value["sets"].items()}
            named = value.get("reference")
            reference = None if named is None else Reference.model_validate(named)
            return Texts(
                sets, value["system"], bytes.fromhex(value["salt"]), value.get("template"), reference
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SpoolError(
                f"the texts of audit {audit_id} cannot be read: {type(error).__name__}",
                hint="ask for the audit again",
            ) from None  # the cause could quote a text

    def search(self, audit_id: str) -> Path:
        """Return the folder where an audit's search of training data keeps what it has found; only ours."""
        folder = self._folder / SEARCHES / audit_id
        for missing in (folder.parent, folder):
            missing.mkdir(mode=0o700, exist_ok=True)
        return folder

    def remove(self, audit_id: str) -> None:
        """Remove an audit's texts and its search, if they are here."""
        self._path(audit_id).unlink(missing_ok=True)
        shutil.rmtree(self._folder / SEARCHES / audit_id, ignore_errors=True)

    def sweep(self, waiting: Collection[str], ended: Collection[str]) -> list[str]:
        """Remove the texts that a dead server left, and return their audits' ids.

        Args:
            waiting: The ids of open audits.
            ended: The ids of audits that are over.
        """
        old = time.time() - ORPHAN_SECONDS
        found = []
        texts = (path for path in self._folder.rglob("*.*") if not OTHERS.intersection(path.parts))
        searches = (self._folder / SEARCHES).glob("*")
        for path in chain(texts, searches):  # older servers kept some texts in a subfolder
            with suppress(FileNotFoundError):  # another server sweeps the same folder
                known = path.stem in ended
                unknown = path.stem not in waiting and path.stat().st_mtime < old
                if known or unknown:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
                    found.append(path.stem)
        return found

    def _path(self, audit_id: str) -> Path:
        return self._folder / f"{audit_id}{SUFFIX}"


def _item_value(item: ScoreItem) -> list[Any]:
    messages = [[message.role, message.content] for message in item.messages]
    return [item.id, item.prefix, item.target, list(item.tags), messages, item.cluster]


def _item_of(
    name: str,
    prefix: str,
    target: str,
    tags: Sequence[str] = (),
    messages: Sequence[Sequence[str]] = (),
    cluster: str = "",
) -> ScoreItem:
    """Return an item; an older server wrote no tags, no messages and no cluster."""
    said = tuple(Message(*message) for message in messages)
    return ScoreItem(name, prefix, target, tuple(tags), said, cluster)


def _set_value(one: CandidateSet) -> dict[str, Any]:
    return {
        "name": one.name,
        "digest": one.digest,
        "count": len(one.items),
        "bad": [[bad.line, bad.reason] for bad in one.bad],
        "bad_count": one.bad_count,
        "generated": one.generated,
    }


def _set_of(value: dict[str, Any], lines: Iterator[str]) -> CandidateSet:
    """Return a set whose items are the next lines; an older server wrote them into the value itself."""
    stored = value["items"] if "items" in value else map(json.loads, islice(lines, value["count"]))
    store = ItemStore()
    for number, item in enumerate(stored, start=1):
        store.add(_item_of(*item), number)
    if len(store) != value.get("count", len(store)):
        raise ValueError("items are missing")
    return CandidateSet(
        value["name"],
        value["digest"],
        store.small(),
        tuple(BadLine(*bad) for bad in value["bad"]),
        value["generated"],
        value["bad_count"],
    )
