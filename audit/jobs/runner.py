"""Does the audits that were asked for, one at a time, batch by batch; a dead runner's work is taken over."""

import logging
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, Protocol

from lorecall.adapters.core.errors import LorecallError, ScorerError
from lorecall.adapters.registry.database import RegistryUnavailableError
from lorecall.adapters.registry.transitions import ConflictError
from lorecall.audit.jobs.order import OrderSettings
from lorecall.audit.jobs.records import AuditNotFoundError, AuditRecord
from lorecall.audit.jobs.resume import recorded_report
from lorecall.audit.jobs.spool import Spool, Texts
from lorecall.audit.jobs.store import AuditStore
from lorecall.audit.judging.framed_judges import BaseCaches, FramedJudges
from lorecall.audit.records import Group, SetSource, SnippetResult
from lorecall.audit.reports.build import parse_entries, snippet_entry
from lorecall.audit.reports.redact import Redactor
from lorecall.audit.runs.single import AuditSettings, refuse, resolve_epsilon
from lorecall.audit.scorer import AdapterVersion, ScoreItem, Scorer

logger = logging.getLogger("lorecall.audit")

LEASE = timedelta(seconds=60)
BATCH = 32
RETRY_SECONDS = (2, 4, 8, 16, 32, 60)
LOST = (ConflictError, AuditNotFoundError)
"""What says that an audit is no longer ours: cancelled, removed, or taken over."""


class Engines(Protocol):
    """Gives scorers for served adapters."""

    def adapter(self, name: str) -> AdapterVersion:
        """Return the version that answers under a name now. Raises AdapterNotFoundError."""
        ...

    def scorer(self, name: str) -> AbstractContextManager[Scorer]:
        """Open a scorer whose adapter of that name stays the same while it is open, or says that it moved."""
        ...


@dataclass(frozen=True, slots=True)
class Runner:
    """Takes up one audit after the other.

    Attributes:
        store: The audits.
        spool: Their texts.
        engines: What scores them.
        worker: Under which name this runner holds audits.
        lease: How long it holds one without a sign of life.
        batch: Snippets recorded together.
        seen: Called with what each batch found, after it was recorded.
        stop: Set to stop after the batch under way; the audit goes back into the queue.
    """

    store: AuditStore
    spool: Spool
    engines: Engines
    worker: str
    lease: timedelta
    batch: int
    seen: Callable[[Sequence[SnippetResult]], None]
    stop: threading.Event

    def run_one(self) -> bool:
        """Take up an audit and do it to its end; return whether there was one.

        Raises:
            RegistryUnavailableError: The database does not answer.
        """
        record = self.store.claim(self.worker, self.lease, self.spool.has)
        if record is None:
            return False
        try:
            with self._held(record):
                self._do(record)
        except LOST as error:
            logger.info("audit %s stops here: %s", record.id, error.message)
        except RegistryUnavailableError:
            raise  # the lease runs out, and the audit goes on from its cursor
        except ScorerError as error:  # the engine may come back
            logger.warning("audit %s waits: %s", record.id, error.message)
            self._release(record, RETRY_SECONDS[min(record.attempts, len(RETRY_SECONDS)) - 1])
        except LorecallError as error:
            self._fail(record, error.message)
        except Exception as error:  # noqa: BLE001  it could quote a text: only its place is logged
            self._fail(record, f"{type(error).__name__} at {way_of(error)[-1]}")
            logger.error("audit %s: %s by way of %s", record.id, type(error).__name__, way_of(error))  # noqa: TRY400
        return True

    def sweep(self) -> None:
        """Remove the texts that a server which died left behind."""
        for audit_id in self.spool.sweep(*self.store.ids()):
            logger.info("removed the texts of audit %s, which is over", audit_id)

    def _do(self, record: AuditRecord) -> None:
        texts = self.spool.read(record.id)
        told = OrderSettings.model_validate(record.settings)
        settings = told.audit_settings(texts.system)
        with self.engines.scorer(record.adapter) as scorer:
            adapter = _checked(scorer, record)
            if not record.run:
                record = self.store.begin(record.id, self.worker, _start(scorer, adapter, texts, settings))
            _check_engine(scorer, record)
            redactor = Redactor(texts.salt, told.show_text)
            if not self._ask(record, scorer, texts, settings, redactor):
                return
        record = self.store.get(record.id)
        sources = {g: SetSource(s.name, s.digest, s.bad_count, s.generated) for g, s in texts.sets.items()}
        entries = parse_entries(self.store.entries(record.id))
        report = recorded_report(
            adapter, record.run, sources, settings, told.rules(), redactor, entries, record.seconds
        )
        result = report.model_dump(mode="json", exclude={"snippets"})  # they have their own rows
        self.store.finish(record.id, self.worker, result)
        self.spool.remove(record.id)

    def _ask(
        self, record: AuditRecord, scorer: Scorer, texts: Texts, settings: AuditSettings, redactor: Redactor
    ) -> bool:
        """Record what is still missing; return False if the runner is to stop before the end."""
        panel = FramedJudges(
            scorer,
            record.adapter,
            BaseCaches(scorer),
            settings.views,
            record.run["epsilon"]["value"],
            settings.bounds,
        )
        for group, items in pieces(texts, record.done, self.batch):
            if self.stop.is_set():
                self.store.release(record.id, self.worker)
                return False
            started = time.monotonic()
            results = panel.judge(group, items)
            _checked(scorer, record)
            entries = [snippet_entry(one, redactor, scorer.token_texts).values() for one in results]
            spent = time.monotonic() - started
            record = self.store.record(record.id, self.worker, record.done, entries, self.lease, spent)
            self.seen(results)
        return True

    @contextmanager
    def _held(self, record: AuditRecord) -> Iterator[None]:
        """Renew the lease beside the work: a batch may take longer than a lease."""
        over = threading.Event()

        def keep() -> None:
            while not over.wait(self.lease.total_seconds() / 3):
                try:
                    self.store.renew(record.id, self.worker, self.lease)
                except LorecallError as error:
                    logger.info("audit %s cannot be held: %s", record.id, error.message)

        keeper = threading.Thread(target=keep, name="audit-lease", daemon=True)
        keeper.start()
        try:
            yield
        finally:
            over.set()
            keeper.join()

    def _fail(self, record: AuditRecord, reason: str) -> None:
        logger.warning("audit %s failed: %s", record.id, reason)

        def fail() -> None:
            self.store.finish(record.id, self.worker, {}, error=reason)
            self.spool.remove(record.id)

        self._leave(record, fail)

    def _release(self, record: AuditRecord, seconds: float) -> None:
        delay = timedelta(seconds=0 if self.stop.is_set() else seconds)
        self._leave(record, lambda: self.store.release(record.id, self.worker, delay))

    def _leave(self, record: AuditRecord, step: Callable[[], None]) -> None:
        """Take the last step on an audit, unless it is no longer ours."""
        try:
            step()
        except LOST as error:
            logger.info("audit %s is left: %s", record.id, error.message)


def way_of(error: Exception) -> list[str]:
    """Return the places that an exception came by, the innermost last; its message could quote a text."""
    return [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)]


def pieces(texts: Texts, done: int, size: int) -> Iterator[tuple[Group, list[ScoreItem]]]:
    """Yield what is not recorded yet in batches of one set each: candidates first, then controls.

    Args:
        texts: The sets.
        done: Snippets that are recorded.
        size: Snippets of a batch.
    """
    skipped = done
    for group in Group:
        items = texts.sets[group].items if group in texts.sets else ()
        rest = islice(items, min(skipped, len(items)), None)
        skipped = max(0, skipped - len(items))
        while batch := list(islice(rest, size)):
            yield group, batch


def _checked(scorer: Scorer, record: AuditRecord) -> AdapterVersion:
    """Return the adapter, if its name still stands for the version that is audited.

    Raises:
        ConflictError: It does not: what was recorded is of another version.
    """
    adapter = scorer.adapter(record.adapter)
    refuse(adapter)
    if adapter.version != record.version:
        raise MovedError(
            f"{record.adapter!r} was given a new version during the audit", hint="ask for an audit of it"
        )
    return adapter


class MovedError(LorecallError):
    """What was to be audited is no longer what is served."""

    status = 409
    code = "audit_moved"


def _start(scorer: Scorer, adapter: AdapterVersion, texts: Texts, settings: AuditSettings) -> dict[str, Any]:
    """Return what holds for all batches, whoever does them."""
    engine, items = scorer.info(), texts.sets[Group.CANDIDATES].items
    epsilon = resolve_epsilon(scorer, adapter.name, items, settings, engine)
    started = datetime.now(UTC).isoformat(timespec="seconds")
    return {"engine": asdict(engine), "epsilon": asdict(epsilon), "started": started}


def _check_engine(scorer: Scorer, record: AuditRecord) -> None:
    """Check that the engine is the one that the audit began on; its measured spread may differ.

    Raises:
        MovedError: It is another engine, or another base.
    """
    now, then = asdict(scorer.info()), record.run["engine"]
    for name in ("engine", "base", "base_digest", "scheme"):
        if now[name] != then[name]:
            raise MovedError(f"the audit began on {name} {then[name]!r} and now meets {now[name]!r}")
