"""The gate: a version goes live only after an audit through this engine that meets the policy.

An audit is a job in the registry, so one server does it, and another takes it over if that server dies.
"""

import asyncio
import hashlib
import json
import logging
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from lorecall.adapters.core.errors import LorecallError, UsageError
from lorecall.adapters.registry.records import JobRecord, VersionRecord
from lorecall.adapters.registry.tables import State
from lorecall.audit.inputs.candidates import CandidateSet
from lorecall.audit.jobs.order import OrderSettings, set_digest, set_inputs
from lorecall.audit.jobs.records import NewAudit
from lorecall.audit.jobs.runner import way_of
from lorecall.audit.jobs.spool import Spool, Texts
from lorecall.audit.jobs.store import AuditStore
from lorecall.audit.policy.policy import Policy, judge_result
from lorecall.audit.records import Group
from lorecall.audit.reports.build import build_report
from lorecall.audit.reports.redact import redactor
from lorecall.audit.runs.single import AuditSettings, run_audit
from lorecall.audit.scorer import EngineInfo, ScoreItem
from lorecall.server.lifecycle.control_plane import ControlPlane
from lorecall.server.lifecycle.engine_set import Lease, LoadedVersion
from lorecall.server.scoring.engine_scorer import LoadedVersionScorer
from lorecall.server.scoring.score import EngineScoring

logger = logging.getLogger("vllm.lorecall")

KIND = "audit"
LEASE = timedelta(seconds=120)
RENEW_S = 30.0
IDLE_S = 2.0
ACTOR = "audit"
SPOOLED = "spool"
"""The field of a job's payload that names the file of its texts."""


@dataclass(frozen=True)
class AuditGate:
    """Audits what wants to go live.

    Attributes:
        plane: This server's adapters.
        scoring: Teacher-forced scores through the engine.
        engine: Says what the engine is, its measured spread included.
        policy: What must be met.
        sets: The operator's own candidates and controls, asked of every adapter.
        spool: The callers' snippets until their audit is over; the registry's job names the file.
        worker: Under which name this server holds jobs.
    """

    plane: ControlPlane
    scoring: EngineScoring
    engine: Callable[[], EngineInfo]
    policy: Policy
    sets: dict[Group, CandidateSet]
    spool: Spool
    worker: str = field(default_factory=lambda: uuid.uuid4().hex)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    def check(self, snippets: dict[str, Any]) -> None:
        """Check that there is something to ask for.

        Raises:
            UsageError: Neither the operator nor the caller gave candidates.
        """
        if Group.CANDIDATES not in self.sets and not snippets.get(Group.CANDIDATES.value):
            raise UsageError(
                "this server audits an adapter before it serves it, and there are no candidates",
                hint="send some with the adapter, or start the server with LORECALL_AUDIT_CANDIDATES",
                param="candidates",
            )

    async def admit(self, record: VersionRecord, snippets: dict[str, Any]) -> VersionRecord:
        """Put a version under audit; it goes live, or into quarantine, when that is done."""
        registry = self.plane.registry
        if record.state is not State.AUDITING:
            record = await asyncio.to_thread(
                registry.move, record.name, record.version, State.AUDITING, actor=ACTOR
            )
        await asyncio.to_thread(self._enqueue, record, snippets)
        self._wake.set()
        return record

    def _enqueue(self, record: VersionRecord, snippets: dict[str, Any]) -> None:
        """Keep the caller's snippets, and then ask for the audit; texts sent again revive one that lost them."""
        key, texts = uuid.uuid4().hex, Texts(own_sets(snippets), None, b"")
        self.spool.write(key, texts)
        job = self.plane.registry.jobs.enqueue(KIND, record.name, record.version, {SPOOLED: key})
        asked = str(job.payload.get(SPOOLED, ""))
        if asked != key:
            self.spool.remove(key)
            if asked and not self.spool.has(asked):
                self.spool.write(asked, texts)

    def _ready(self, payload: dict[str, Any]) -> bool:
        return self.spool.has(str(payload.get(SPOOLED, "")))

    def _sweep(self) -> None:
        """Remove the texts that a server which died left behind."""
        waiting = {str(job.payload.get(SPOOLED, "")) for job in self.plane.registry.jobs.open(KIND)}
        self.spool.sweep(waiting, ())

    async def run(self) -> None:
        """Do audits until cancelled, one at a time."""
        jobs = self.plane.registry.jobs
        swept = False
        while True:
            try:
                if not swept:
                    await asyncio.to_thread(self._sweep)
                    swept = True
                job = await asyncio.to_thread(jobs.claim, self.worker, [KIND], LEASE, self._ready)
                if job is not None:
                    await self._do(job)
                    continue
            except LorecallError as error:
                logger.warning("audits wait for the registry: %s", error)
            except Exception:  # the loop outlives what it meets; the traceback says what that was
                logger.exception("an audit could not be taken up")
            self._wake.clear()
            try:
                await asyncio.wait_for(self._wake.wait(), IDLE_S)
            except TimeoutError:
                continue

    async def _do(self, job: JobRecord) -> None:
        registry = self.plane.registry
        keep = asyncio.create_task(self._keep(job))
        try:
            record = await asyncio.to_thread(registry.version, job.name, job.version)
            result = await self._audit(job, record)
            await asyncio.to_thread(registry.jobs.finish, job.id, self.worker, result)
        except Exception as error:  # noqa: BLE001  whatever it was, nothing goes live unaudited
            known = isinstance(error, LorecallError)  # any other message could quote a text
            reason = f"the audit could not be done: {error if known else type(error).__name__}"
            logger.error("audit %s of %s: %s, by way of %s", job.id, job.name, reason, way_of(error))  # noqa: TRY400
            await self._quarantine(job, reason)
            await asyncio.to_thread(
                registry.jobs.finish, job.id, self.worker, {"error": reason[:2000]}, failed=True
            )
        finally:
            keep.cancel()
            await asyncio.to_thread(self._forget, job)

    def _forget(self, job: JobRecord) -> None:
        """Remove the texts of a job that is over; one that this server lost or could not end keeps them."""
        try:
            if self.plane.registry.jobs.get(job.id).finished_at is not None:
                self.spool.remove(job.payload[SPOOLED])
        except LorecallError as error:
            logger.warning("the texts of audit %s stay until the next start: %s", job.id, error)

    async def _audit(self, job: JobRecord, record: VersionRecord) -> dict[str, Any]:
        """Audit one version and decide; return what the job keeps."""
        loaded = await self.plane.candidate(record)
        lease = Lease(loaded, None)
        self.plane.engine_set.retire(loaded)  # it leaves after the lease, unless `activate` takes it back
        try:
            passed, reasons = await asyncio.to_thread(self._judge, loaded, asyncio.get_running_loop(), job)
            if passed:
                await self.plane.activate(record, loaded.info, actor=ACTOR, audit_id=job.id)
            else:
                await self._quarantine(job, "; ".join(reasons))
        finally:
            lease.release()
        return {"passed": passed, "reasons": reasons}

    def _judge(
        self, loaded: LoadedVersion, loop: asyncio.AbstractEventLoop, job: JobRecord
    ) -> tuple[bool, list[str]]:
        """Audit a version, and keep the audit among all others under the job's id."""
        scorer = LoadedVersionScorer(loop, self.scoring, self.engine(), loaded)
        sets = merged(self.sets, self.spool.read(job.payload[SPOOLED]).sets)
        result = run_audit(scorer, loaded.name, sets, AuditSettings())
        verdict = judge_result(result, self.policy)
        report = build_report(result, verdict, self.policy, redactor(show=False), scorer.token_texts)
        new = NewAudit(
            id=job.id,
            adapter=job.name,
            version=job.version,
            rank=loaded.info.rank,
            effective_parameters=loaded.info.effective_parameters,
            candidate_set=set_digest(sets[Group.CANDIDATES]),
            inputs=set_inputs(sets),
            settings=OrderSettings(policy=self.policy.model_dump(exclude_none=True)).model_dump(mode="json"),
            total=len(report.snippets),
            created_by=ACTOR,
        )
        values = report.values()
        entries = values.pop("snippets")  # they have their own rows
        AuditStore(self.plane.registry.database).keep(new, values, entries)
        return verdict.passed, list(verdict.reasons)

    async def _quarantine(self, job: JobRecord, reason: str) -> None:
        try:
            await asyncio.to_thread(
                self.plane.registry.move,
                job.name,
                job.version,
                State.QUARANTINED,
                actor=ACTOR,
                reason=reason,
                audit_id=job.id,
            )
        except LorecallError as error:
            logger.warning("%s@%s is not quarantined: %s", job.name, job.version[:12], error)

    async def _keep(self, job: JobRecord) -> None:
        """Hold the job while it is worked on."""
        while True:
            await asyncio.sleep(RENEW_S)
            try:
                await asyncio.to_thread(self.plane.registry.jobs.renew, job.id, self.worker, LEASE)
            except LorecallError as error:
                logger.warning("the audit %s cannot be held: %s", job.id, error)


def own_sets(snippets: dict[str, Any]) -> dict[Group, CandidateSet]:
    """Return the sets that a caller sent with an adapter."""
    given = {group: snippets.get(group.value) or [] for group in Group}
    return {
        group: CandidateSet("request", "", tuple(ScoreItem(i["id"], i["prefix"], i["target"]) for i in items))
        for group, items in given.items()
        if items
    }


def merged(operator: dict[Group, CandidateSet], own: dict[Group, CandidateSet]) -> dict[Group, CandidateSet]:
    """Return the operator's snippets with the caller's behind them; ids are told apart by a prefix."""
    sets = {}
    for group in Group:
        given = operator.get(group)
        items = [*(given.items if given is not None else ())]
        if group in own:
            items += [replace(item, id=f"own/{item.id}") for item in own[group].items]
        if items:
            digest = hashlib.sha256(json.dumps([[i.id, i.prefix, i.target] for i in items]).encode())
            name = given.name if given is not None else "request"
            sets[group] = CandidateSet(name, digest.hexdigest(), tuple(items))
    return sets
