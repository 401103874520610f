"""What a bulk audit is about: adapters, settings and blocks, kept beside its blocks so that it can go on."""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lorecall.adapters.core.atomic_file import write_whole
from lorecall.adapters.core.errors import UsageError
from lorecall.audit.bulk.spool import BLOCK, Block, blocks_of, write_blocks
from lorecall.audit.inputs.candidates import CandidateSet
from lorecall.audit.records import Epsilon, SetSource
from lorecall.audit.runs.single import AuditSettings, refuse, resolve_epsilon
from lorecall.audit.scorer import AdapterVersion, EngineInfo, Scorer
from lorecall.audit.verdicts import Group
from pydantic import TypeAdapter

NAME = "plan.json"


@dataclass(frozen=True, slots=True)
class Planned:
    """An adapter of a bulk audit."""

    adapter: AdapterVersion
    epsilon: Epsilon


@dataclass(frozen=True, slots=True)
class BulkPlan:
    """All that the rows of a bulk audit depend on.

    Attributes:
        asked: sha256 of the options, by which a later call shows that it asks for the same.
        started: When it began; UTC, ISO 8601.
        engine: The engine.
        adapters: The adapters, each version once.
        sources: Where the sets are from.
        sizes: Snippets of each set.
        together: Adapters for which a block is judged at a time, so that the base is asked once for all.
        block: Snippets of a block.
    """

    asked: str
    started: str
    engine: EngineInfo
    adapters: tuple[Planned, ...]
    sources: dict[Group, SetSource]
    sizes: dict[Group, int]
    together: int
    block: int = BLOCK

    @property
    def blocks(self) -> list[Block]:
        """The blocks of all sets."""
        return blocks_of(self.sizes, self.block)

    @property
    def groups(self) -> list[range]:
        """The numbers of the adapters that are judged together."""
        count = len(self.adapters)
        return [range(start, min(start + self.together, count)) for start in range(0, count, self.together)]


_PLAN = TypeAdapter(BulkPlan)


def digest_of(options: Mapping[str, object]) -> str:
    """Return the sha256 of what was asked for."""
    return hashlib.sha256(json.dumps(options, sort_keys=True, default=str).encode()).hexdigest()


def plan_adapters(
    scorer: Scorer, names: Iterable[str], sets: Mapping[Group, CandidateSet], settings: AuditSettings
) -> tuple[Planned, ...]:
    """Return the adapters with the ε that each is judged by; of two names of one version the first.

    Raises:
        AdapterNotFoundError: No adapter of that name.
        AdapterError: An adapter's prompt scores would not be its own.
        ScorerError: The engine could not be reached.
    """
    engine, found = scorer.info(), dict[str, Planned]()
    for name in names:
        adapter = scorer.adapter(name)
        refuse(adapter)
        if (adapter.version or name) not in found:
            items = sets[Group.CANDIDATES].items
            epsilon = resolve_epsilon(scorer, name, items, settings, engine)
            found[adapter.version or name] = Planned(adapter, epsilon)
    return tuple(found.values())


def save_plan(plan: BulkPlan, sets: Mapping[Group, CandidateSet], folder: Path) -> None:
    """Write the blocks, and then the plan: where there is a plan, all its blocks were there."""
    for left in folder.iterdir():  # by an audit that was killed before it had a plan, or is done and gone
        left.unlink()
    write_blocks(sets, folder, plan.block)
    write_whole(folder / NAME, json.dumps(_PLAN.dump_python(plan, mode="json")), private=True)


def load_plan(folder: Path, asked: str) -> BulkPlan | None:
    """Return the plan of an audit that began in a folder, None if none did.

    Raises:
        UsageError: It was begun with other options, or by another version.
    """
    path = folder / NAME
    if not path.exists():
        return None
    try:
        plan = _PLAN.validate_json(path.read_bytes())
    except ValueError:
        raise UsageError(
            f"{str(path)!r} is no plan of this version", hint="use another --out", param="out"
        ) from None  # the cause could quote it
    if plan.asked != asked:
        raise UsageError(
            f"the audit in {str(folder)!r} was begun with other inputs or options",
            hint="give the same ones to go on with it, or another --out",
            param="out",
        )
    return plan


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a folder for the time of the block, against another audit into the same one; a kill ends that.

    Raises:
        UsageError: Another one holds it.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        _hold(handle, folder)
        yield
    finally:
        os.close(handle)


def _hold(handle: int, folder: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UsageError(
            f"another bulk audit writes to {str(folder)!r}",
            hint="wait for it, or use another --out",
            param="out",
        ) from None


def check_unmoved(plan: BulkPlan, scorer: Scorer) -> None:
    """Check that the engine and the versions are still those of the plan.

    Raises:
        UsageError: They are not: half of the rows would be of other models.
    """
    moved = plan.engine.moved(scorer.info())
    changed = [
        one.adapter.name
        for one in plan.adapters
        if scorer.adapter(one.adapter.name).version != one.adapter.version
    ]
    if moved or changed:
        raise UsageError(
            moved or f"{changed[0]!r} has another version than when the audit began",
            hint="begin anew with another --out",
            param="out",
        )
