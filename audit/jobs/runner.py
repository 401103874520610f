"""Takes audits from the queue, one at a time, and does them batch by batch."""

import logging
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, Protocol, TypeVar

from lorecall.adapters.core.errors import LorecallError, ScorerError, UsageError
from lorecall.adapters.core.tracing import span
from lorecall.adapters.registry.database import RegistryUnavailableError
from lorecall.adapters.registry.transitions import ConflictError
from lorecall.audit.jobs.order import (
    MAX_ANSWERS,
    OrderSettings,
    candidate_set,
    check_sets,
    check_spending_of,
    set_inputs,
)
from lorecall.audit.jobs.records import AuditNotFoundError, AuditRecord
from lorecall.audit.jobs.references import References
from lorecall.audit.jobs.resume import read_extraction, recorded_report
from lorecall.audit.jobs.spool import Spool, Texts
from lorecall.audit.jobs.store import AuditStore
from lorecall.audit.judging.framed_judges import BaseCaches, FramedJudges
from lorecall.audit.records import SnippetResult
from lorecall.audit.reports.build import parse_entries, pending_entry, snippet_entry
from lorecall.audit.reports.redact import Redactor
from lorecall.audit.reports.report import Report
from lorecall.audit.reports.signing import seal
from lorecall.audit.runs.plan import asked_of
from lorecall.audit.runs.planned import mark_ranked, ranked_ids
from lorecall.audit.runs.sample import check_draws, draw_answers
from lorecall.audit.runs.single import AuditSettings, refuse, resolve_epsilon
from lorecall.audit.scorer import AdapterVersion, EngineInfo, ScoreItem, Scorer
from lorecall.audit.verdicts import Group
from pydantic import ValidationError
from securesystemslib.signer import CryptoSigner

logger = logging.getLogger("lorecall.audit")

T = TypeVar("T")
RETRY_SECONDS = (2, 4, 8, 16, 32, 60)
LOST = (ConflictError, AuditNotFoundError)
"""Errors that mean that another worker has the audit, or that it was cancelled or removed."""


class Engines(Protocol):
    """Gives scorers for served adapters."""

    def adapter(self, name: str) -> AdapterVersion:
        """Return the version that answers under a name now. Raises AdapterNotFoundError."""
        ...

    def scorer(self, name: str) -> AbstractContextManager[Scorer]:
        """Open a scorer whose adapter of that name stays the same while it is open, or says that it changed."""
        ...


class Admissions(Protocol):
    """Loads versions that wait for their audit, and lets them go live."""

    def candidate(self, name: str, version: str) -> AbstractContextManager[Scorer]:
        """Open a scorer for a version that its name does not point at, loaded while the scorer is open."""
        ...

    def activate(self, name: str, version: str, audit_id: str) -> None:
        """Make a version live that passed its audit, if it still waits for that."""
        ...


@dataclass(frozen=True, slots=True)
class Runner:
    """Does one audit at a time.

    Attributes:
        store: The audits.
        spool: Their texts.
        engines: What scores them.
        worker: Under which name this runner holds audits.
        lease: How long it holds an audit without renewing the lease.
        batch: Snippets recorded together.
        seen: Called with the results of each batch, after it was recorded; their verdicts wait for the controls.
        stop: Set to stop after the current batch; the audit goes back into the queue.
        admissions: What admits versions; None takes no audit that does.
        ended: Called with the report of each audit that is done.
        signer: Signs the reports; None for no signature.
        keep: How long an audit that is over is kept.
        references: Reads what orders name by address; None takes no such order to its end.
    """

    store: AuditStore
    spool: Spool
    engines: Engines
    worker: str
    lease: timedelta
    batch: int
    seen: Callable[[Sequence[SnippetResult]], None]
    stop: threading.Event
    admissions: Admissions | None = None
    ended: Callable[[Report], None] = lambda _report: None
    signer: CryptoSigner | None = None
    keep: timedelta = timedelta(days=3650)
    references: References | None = None

    def run_one(self) -> bool:
        """Take an audit and do it to its end; return whether there was one.

        Raises:
            RegistryUnavailableError: The database does not answer.
        """
        admissions = self.admissions is not None
        record = self.store.claim(self.worker, self.lease, self.spool.has, admissions=admissions)
        if record is None:
            return False
        try:
            with (
                self._held(record),
                span("audit", audit=record.id, adapter=record.adapter, version=record.version),
            ):
                self._do(record)
        except LOST as error:
            logger.info("audit %s stops here: %s", record.id, error.message)
        except RegistryUnavailableError:
            raise  # the lease runs out, and a worker goes on from the cursor
        except (
            ScorerError,
            UnreadableAuditError,
        ) as error:  # the engine may come back; so may a newer server
            logger.warning("audit %s waits: %s", record.id, error.message)
            self._release(record, RETRY_SECONDS[min(record.attempts, len(RETRY_SECONDS)) - 1])
        except LorecallError as error:
            self._fail(record, error.message)
        except Exception as error:  # noqa: BLE001  its message could quote a text: only its place is logged
            places = places_of(error)
            self._fail(record, f"{type(error).__name__} at {places[-1]}")
            logger.error("audit %s: %s by way of %s", record.id, type(error).__name__, places)  # noqa: TRY400
        return True

    def sweep(self) -> None:
        """Remove the texts that a server which died left behind, and the audits that were kept long enough."""
        for audit_id in self.spool.sweep(*self.store.ids()):
            logger.info("removed the texts of audit %s, which is over", audit_id)
        for audit_id in self.store.expire(self.keep):
            logger.info("removed audit %s, which was kept long enough", audit_id)

    def _do(self, record: AuditRecord) -> None:
        texts = self.spool.read(record.id)
        order = _readable(record, lambda: OrderSettings.model_validate(record.settings))
        settings = order.audit_settings(texts.system, texts.template)
        redactor = Redactor(texts.salt, order.show_text)
        with self._scorer(record) as scorer:
            adapter = _checked(scorer, record)
            texts, record = self._read(record, texts, order, scorer)
            if not record.run:
                record = self.store.begin(record.id, self.worker, _start(scorer, adapter, texts, settings))
            _check_engine(scorer, record)
            if self._ask(record, scorer, texts, settings, redactor):
                record = self.store.get(record.id)
                self._finish(record, self._report(record, adapter, texts, order, redactor))

    def _read(
        self, record: AuditRecord, texts: Texts, order: OrderSettings, scorer: Scorer
    ) -> tuple[Texts, AuditRecord]:
        """Read what an order names by address, once; after a kill it is read again, or found in the spool."""
        if texts.reference is not None:
            if self.references is None:
                raise UsageError("this server reads no files by address", param="data")
            sets = self.references.read(texts.reference, self.spool.search(record.id), scorer)
            check_sets(sets, self.references.most)
            check_spending_of(order, sets, texts.system, texts.template)
            texts = replace(texts, sets=sets, reference=None)
            self.spool.write(record.id, texts)
        if not record.total:
            plan = order.audit_settings(texts.system, texts.template).plan(texts.sets)
            total = sum(map(len, asked_of(texts.sets, plan).values()))
            found = candidate_set(texts.sets), set_inputs(texts.sets), total
            record = self.store.prepare(record.id, self.worker, *found)
        return texts, record

    def _scorer(self, record: AuditRecord) -> AbstractContextManager[Scorer]:
        if self.admissions is not None and record.admits:
            return self.admissions.candidate(record.adapter, record.version)
        return self.engines.scorer(record.adapter)

    def _report(
        self,
        record: AuditRecord,
        adapter: AdapterVersion,
        texts: Texts,
        order: OrderSettings,
        redactor: Redactor,
    ) -> Report:
        settings = order.audit_settings(texts.system, texts.template)
        recorded = self.store.entries(record.id)
        entries = _readable(record, lambda: parse_entries(recorded))
        report = recorded_report(
            adapter, record.run, texts, settings, order.rules(), redactor, entries, record.seconds
        )
        return report if self.signer is None else seal(report, self.signer)

    def _finish(self, record: AuditRecord, report: Report) -> None:
        """Let the version go live that the audit admits, and end the audit."""
        if self.admissions is not None and record.admits and report.gate.passed:
            self.store.renew(record.id, self.worker, self.lease)  # it is still ours
            self.admissions.activate(record.adapter, record.version, record.id)
        result = report.model_dump(mode="json", exclude={"snippets"})  # they have their own rows
        self.store.finish(record.id, self.worker, result, [entry.values() for entry in report.snippets])
        self.spool.remove(record.id)
        self.ended(report)

    def _ask(
        self, record: AuditRecord, scorer: Scorer, texts: Texts, settings: AuditSettings, redactor: Redactor
    ) -> bool:
        """Score and record the snippets still missing; return False if it was put back before the end."""
        extraction, size = read_extraction(record.run), self.batch
        drawing = check_draws(scorer, extraction) if settings.answers else None
        if drawing is not None:  # a batch is done before anything else is heard
            size = max(1, min(size, MAX_ANSWERS // settings.answers))
        judges = FramedJudges(
            scorer,
            record.adapter,
            BaseCaches(scorer),
            settings.views,
            record.run["epsilon"]["value"],
            settings.bounds,
            extraction,
            settings.check,
        )
        plan = settings.plan(texts.sets)
        ranked = ranked_ids(texts.sets, plan)
        for group, items in pieces(asked_of(texts.sets, plan), record.done, size):
            if self.stop.is_set() or self._gives_way(record):
                self.store.release(record.id, self.worker)
                return False
            started = time.monotonic()
            results = mark_ranked(judges.judge(group, items), ranked)
            if drawing is not None:
                how = (extraction, settings.answers, settings.seed, settings.confidence, record.done)
                results = draw_answers(drawing, record.adapter, results, *how)
            _checked(scorer, record)
            made = (snippet_entry(one, redactor, scorer.token_texts) for one in results)
            entries = [pending_entry(one).values() for one in made]
            spent = time.monotonic() - started
            record = self.store.record(record.id, self.worker, record.done, entries, self.lease, spent)
            self.seen(results)
        return True

    def _gives_way(self, record: AuditRecord) -> bool:
        """Whether a renewal waits for others, between two of its batches: nobody waits for it."""
        if not record.renews or record.attempts:  # attempts: it has recorded no batch since it was taken
            return False
        return self.store.others_wait(self.spool.has, admissions=self.admissions is not None)

    @contextmanager
    def _held(self, record: AuditRecord) -> Iterator[None]:
        """Renew the lease in a thread: a batch may take longer than a lease."""
        over = threading.Event()

        def renew() -> None:
            while not over.wait(self.lease.total_seconds() / 3):
                try:
                    self.store.renew(record.id, self.worker, self.lease)
                except LorecallError as error:
                    logger.info("audit %s cannot be held: %s", record.id, error.message)

        thread = threading.Thread(target=renew, name="audit-lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _fail(self, record: AuditRecord, reason: str) -> None:
        logger.warning("audit %s failed: %s", record.id, reason)

        def fail() -> None:
            self.store.finish(record.id, self.worker, {}, error=reason)
            self.spool.remove(record.id)

        self._last_step(record, fail)

    def _release(self, record: AuditRecord, seconds: float) -> None:
        delay = timedelta(seconds=0 if self.stop.is_set() else seconds)
        self._last_step(record, lambda: self.store.release(record.id, self.worker, delay))

    def _last_step(self, record: AuditRecord, step: Callable[[], None]) -> None:
        """Do the last step of an audit, unless it is no longer ours."""
        try:
            step()
        except LOST as error:
            logger.info("audit %s is left: %s", record.id, error.message)


def places_of(error: Exception) -> list[str]:
    """Return the places in an exception's traceback, the innermost last; its message could quote a text."""
    return [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)]


def pieces(
    asked: Mapping[Group, Sequence[ScoreItem]], done: int, size: int
) -> Iterator[tuple[Group, list[ScoreItem]]]:
    """Yield the snippets not yet recorded, in batches of one set each, in the order of `Group`.

    Args:
        asked: What is asked for of each set.
        done: Snippets that are recorded.
        size: Snippets of a batch.
    """
    skip = done
    for group in Group:
        items = asked.get(group, ())
        rest = islice(items, min(skip, len(items)), None)
        skip = max(0, skip - len(items))
        while batch := list(islice(rest, size)):
            yield group, batch


def _checked(scorer: Scorer, record: AuditRecord) -> AdapterVersion:
    """Return the adapter, if its name still points at the version that is audited.

    Raises:
        MovedError: It does not, so its scores would be of another version than those recorded; or its chats are
            rendered by another chat template than when the audit began.
        AdapterError: Its prompt scores would not be its own.
    """
    adapter = scorer.adapter(record.adapter)
    refuse(adapter)
    if adapter.version != record.version:
        raise MovedError(
            f"{record.adapter!r} was given a new version during the audit", hint="ask for an audit of it"
        )
    if adapter.chat_template != record.run.get("chat_template", adapter.chat_template):
        raise MovedError(
            f"{record.adapter!r} was given another chat template during the audit",
            hint="ask for an audit of it as it is asked now",
        )
    return adapter


class UnreadableAuditError(LorecallError):
    """A newer release of lorecall wrote the order of an audit, or its entries."""

    status = 409
    code = "audit_unreadable"


def _readable(record: AuditRecord, read: Callable[[], T]) -> T:
    try:
        return read()
    except ValidationError as error:
        places = sorted({".".join(map(str, one["loc"])) for one in error.errors(include_input=False)})
        raise UnreadableAuditError(
            f"audit {record.id} has values that this release cannot read: {', '.join(places[:5])}",
            hint="a server of the release that wrote them goes on with it",
        ) from None  # the cause quotes values


class MovedError(LorecallError):
    """The version, the base or the engine is no longer the one that the audit began on."""

    status = 409
    code = "audit_moved"


def _start(scorer: Scorer, adapter: AdapterVersion, texts: Texts, settings: AuditSettings) -> dict[str, Any]:
    """Return what the first batch fixes for all of them: `AuditRecord.run`."""
    engine, items = scorer.info(), texts.sets[Group.CANDIDATES].items
    epsilon = resolve_epsilon(scorer, adapter.name, items, settings, engine)
    started = datetime.now(UTC).isoformat(timespec="seconds")
    extraction = asdict(settings.extraction.on(engine))
    return {
        "engine": asdict(engine),
        "epsilon": asdict(epsilon),
        "extraction": extraction,
        "chat_template": adapter.chat_template,
        "started": started,
    }


def _check_engine(scorer: Scorer, record: AuditRecord) -> None:
    """Check that the engine is the one that the audit began on; its measured spread may differ.

    Raises:
        MovedError: It is another engine, or another base.
    """
    moved = EngineInfo(**record.run["engine"]).moved(scorer.info())
    if moved:
        raise MovedError(moved)
