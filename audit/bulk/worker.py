"""Judge a block of snippets for some adapters in a Ray actor, through servers or an engine of its own."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq
from lorecall.adapters.core.errors import LorecallError, ScorerError
from lorecall.audit.bulk.rows import PART, part_row
from lorecall.audit.bulk.spool import SCHEMA, read_items
from lorecall.audit.extraction import Extraction
from lorecall.audit.judging.framed_judges import BaseCaches, FramedJudges
from lorecall.audit.records import SnippetResult
from lorecall.audit.runs.single import AuditSettings
from lorecall.audit.scorer import EngineInfo, ScoreItem, Scorer
from lorecall.audit.scorers.batches import batches
from lorecall.audit.verdicts import Group

ROUNDS = 4
"""How often every server is tried before a block fails; one that starts again has seconds to do so."""

PAUSE_S = 2.0
"""Seconds before the second round, twice as many before each further one."""

OUTCOME = pa.schema([*PART, pa.field("failure", pa.string())])
"""A worker's answer: rows, or one row that says why there are none."""

Opener = Callable[[], AbstractContextManager[Scorer]]


@dataclass(frozen=True, slots=True)
class Asked:
    """An adapter as a bulk audit asks for it.

    Attributes:
        number: Its number in the audit.
        name: The name under which it is served.
        version: The version that must answer, "" where nobody knows it.
        epsilon: Bound on the engine's per-logit error.
    """

    number: int
    name: str
    version: str
    epsilon: float


@dataclass(frozen=True, slots=True)
class Job:
    """What workers need to know.

    Attributes:
        openers: Each opens one server; or one, which starts an engine.
        engine: The engine that must answer.
        adapters: For which each block is judged.
        settings: Of the audit.
        extraction: What is extractable by sampling, as resolved on the engine.
        show: Whether rows show texts.
    """

    openers: tuple[Opener, ...]
    engine: EngineInfo
    adapters: tuple[Asked, ...]
    settings: AuditSettings
    extraction: Extraction
    show: bool = False


@dataclass(slots=True)
class _Servers:
    """The open scorers of one worker."""

    openers: Sequence[Opener]
    stack: ExitStack = field(default_factory=ExitStack)
    opened: dict[int, Scorer] = field(default_factory=dict)

    def scorer(self, number: int) -> Scorer:
        if number not in self.opened:
            self.opened[number] = self.stack.enter_context(self.openers[number]())
        return self.opened[number]


class Worker:
    """A Ray actor's work: each call takes one block.

    Args:
        job: What to do.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._servers = _Servers(job.openers)

    def __call__(self, batch: Mapping[str, Sequence[str]]) -> pa.Table:
        """Return the rows of a block, one for each adapter and snippet; or one row with the reason of a failure.

        A failure is returned, not raised: a traceback of Ray's could show what the block holds.

        Args:
            batch: The one path of the block's file.
        """
        (path,) = batch["path"]
        block = pq.read_table(str(path), schema=SCHEMA)
        try:
            rows = self._rows(block)
        except LorecallError as error:
            number = block.column("block")[0].as_py()
            return pa.Table.from_pylist([{"block": number, "failure": str(error)}], schema=OUTCOME)
        return pa.Table.from_pylist(rows, schema=OUTCOME)

    def _rows(self, block: pa.Table) -> list[dict[str, object]]:
        number = int(block.column("block")[0].as_py())
        snippets = sorted(read_items(block), key=lambda one: sum(map(len, one[2].texts)))
        chunks = [list(chunk) for chunk in batches(snippets, self._job.settings.chunk)]
        judging: dict[tuple[int, int], FramedJudges] = {}
        bases: dict[int, BaseCaches] = {}
        rows: list[dict[str, object]] = []
        for adapter in self._job.adapters:
            for turn, chunk in enumerate(chunks, start=number):
                results = self._judged(adapter, chunk, turn, judging, bases)
                rows += [
                    part_row(number, adapter.number, place, result, show=self._job.show)
                    for (place, _, _), result in zip(chunk, results, strict=True)
                ]
        for server, adapter_number in judging:
            adapter = next(one for one in self._job.adapters if one.number == adapter_number)
            self._check(self._servers.scorer(server), adapter)
        rows.sort(key=lambda row: (row["adapter"], row["place"]))
        return rows

    def _judged(
        self,
        adapter: Asked,
        chunk: Sequence[tuple[int, Group, ScoreItem]],
        turn: int,
        judging: dict[tuple[int, int], FramedJudges],
        bases: dict[int, BaseCaches],
    ) -> list[SnippetResult]:
        """Judge some snippets on the server whose turn it is, else on the next one that answers."""
        group, items = chunk[0][1], [item for _, _, item in chunk]
        count = len(self._job.openers)
        last = ScorerError("no server was named")
        for attempt in range(ROUNDS * count):
            if attempt and attempt % count == 0:
                time.sleep(PAUSE_S * 2 ** (attempt // count - 1))
            server = (turn + attempt) % count
            try:
                key = (server, adapter.number)
                if key not in judging:
                    judging[key] = self._judges(server, adapter, bases)
                return judging[key].judge(group, items)
            except ScorerError as error:
                last = error
        raise last

    def _judges(self, server: int, adapter: Asked, bases: dict[int, BaseCaches]) -> FramedJudges:
        scorer, settings = self._servers.scorer(server), self._job.settings
        if moved := self._job.engine.moved(scorer.info()):
            raise ScorerError(moved, hint="one bulk audit needs the same engine and base on all servers")
        self._check(scorer, adapter)
        return FramedJudges(
            scorer,
            adapter.name,
            bases.setdefault(server, BaseCaches(scorer)),
            settings.views,
            adapter.epsilon,
            settings.bounds,
            self._job.extraction,
            settings.check,
        )

    @staticmethod
    def _check(scorer: Scorer, adapter: Asked) -> None:
        """Check that a server answers with the audited version.

        Raises:
            ScorerError: It answers with another one.
        """
        if scorer.adapter(adapter.name).version != adapter.version:
            raise ScorerError(
                f"{adapter.name!r} was given a new version during the audit",
                hint="audit again into another folder, when it is at rest",
            )
