"""Work that one of several servers does once: the audit of a version that wants to go live."""

import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from lorecall.adapters.core.errors import LorecallError
from lorecall.adapters.core.refusals import safe_repr
from lorecall.adapters.registry.database import Database
from lorecall.adapters.registry.records import JobRecord, record_of
from lorecall.adapters.registry.tables import JobRow, JobState
from lorecall.adapters.registry.transitions import ConflictError, find_version, is_safe_identifier
from sqlalchemy import or_, select
from sqlalchemy.orm import Session

MAX_ATTEMPTS = 3
_OPEN = (JobState.QUEUED, JobState.RUNNING)


class JobNotFoundError(LorecallError):
    """No job of that id."""

    exit_code = 2
    status = 404
    code = "job_not_found"


def _now() -> datetime:
    return datetime.now(UTC)


def _any_payload(_payload: dict[str, Any]) -> bool:
    return True


class Jobs:
    """A small queue in the registry. A worker holds a job for a lease; a job whose worker died is taken again.

    Args:
        database: The registry's.
        clock: The time, UTC. Servers on one registry should agree on it to within a lease.
    """

    def __init__(self, database: Database, clock: Callable[[], datetime] = _now) -> None:
        self._database = database
        self._clock = clock

    def enqueue(self, kind: str, name: str, version: str, payload: dict[str, Any]) -> JobRecord:
        """Ask for work on a version. While the same work is open, that job is returned instead.

        Raises:
            AdapterNotFoundError: There is no such name or version.
        """
        with self._database.write() as (session, revision):
            find_version(session, name, version)
            same = select(JobRow).where(
                JobRow.kind == kind, JobRow.name == name, JobRow.version == version, JobRow.state.in_(_OPEN)
            )
            row = session.scalars(same).first()
            if row is None:
                row = JobRow(
                    id=uuid.uuid4().hex,
                    kind=kind,
                    name=name,
                    version=version,
                    state=JobState.QUEUED,
                    payload=payload,
                    result={},
                    worker="",
                    attempts=0,
                    created_revision=revision,
                    created_at=self._clock(),
                )
                session.add(row)
            return record_of(JobRecord, row)

    def claim(
        self,
        worker: str,
        kinds: Sequence[str],
        lease: timedelta,
        ready: Callable[[dict[str, Any]], bool] = _any_payload,
    ) -> JobRecord | None:
        """Take the oldest job that is queued, or whose worker let its lease run out; None if there is none.

        A job taken `MAX_ATTEMPTS` times without an end has failed.

        Args:
            worker: Who takes it.
            kinds: What it can do.
            lease: For how long it holds the job.
            ready: Whether this worker has what a payload refers to.
        """
        with self._database.write() as (session, _):
            now = self._clock()
            lost = (JobRow.state == JobState.RUNNING) & (JobRow.lease_until < now)
            query = (
                select(JobRow)
                .where(JobRow.kind.in_(kinds), or_(JobRow.state == JobState.QUEUED, lost))
                .order_by(JobRow.created_revision)
            )
            for row in session.scalars(query):
                if not ready(row.payload):
                    continue
                if row.attempts < MAX_ATTEMPTS:
                    row.state, row.worker, row.attempts = JobState.RUNNING, worker, row.attempts + 1
                    row.lease_until = now + lease
                    return record_of(JobRecord, row)
                row.state, row.finished_at = JobState.FAILED, now
                row.result, row.payload = {"error": f"given up after {row.attempts} attempts"}, {}
            return None

    def renew(self, job_id: str, worker: str, lease: timedelta) -> JobRecord:
        """Hold a job longer.

        Raises:
            JobNotFoundError: There is no such job.
            ConflictError: Another worker has it now, or it is over.
        """
        with self._database.write() as (session, _):
            row = _held(session, job_id, worker)
            row.lease_until = self._clock() + lease
            return record_of(JobRecord, row)

    def finish(self, job_id: str, worker: str, result: dict[str, Any], *, failed: bool = False) -> JobRecord:
        """End a job with a result; its payload, which may hold secrets, is forgotten.

        Raises:
            JobNotFoundError: There is no such job.
            ConflictError: Another worker has it now, or it is over.
        """
        with self._database.write() as (session, _):
            row = _held(session, job_id, worker)
            row.state = JobState.FAILED if failed else JobState.DONE
            row.result, row.finished_at, row.lease_until = result, self._clock(), None
            row.payload = {}
            return record_of(JobRecord, row)

    def get(self, job_id: str) -> JobRecord:
        """One job.

        Raises:
            JobNotFoundError: There is no such job.
        """
        with self._database.read() as session:
            return record_of(JobRecord, _find(session, job_id))

    def open(self, kind: str) -> tuple[JobRecord, ...]:
        """The jobs of a kind that are not over, oldest first."""
        with self._database.read() as session:
            query = select(JobRow).where(JobRow.kind == kind, JobRow.state.in_(_OPEN))
            rows = session.scalars(query.order_by(JobRow.created_revision))
            return tuple(record_of(JobRecord, row) for row in rows)

    def of(self, name: str, version: str | None = None) -> tuple[JobRecord, ...]:
        """The jobs of a name, or of one version of it, newest first."""
        with self._database.read() as session:
            query = select(JobRow).where(JobRow.name == name).order_by(JobRow.created_revision.desc())
            if version is not None:
                query = query.where(JobRow.version == version)
            return tuple(record_of(JobRecord, row) for row in session.scalars(query))


def _find(session: Session, job_id: str) -> JobRow:
    row = session.get(JobRow, job_id) if is_safe_identifier(job_id) else None
    if row is None:
        raise JobNotFoundError(f"there is no job {safe_repr(job_id)}", param="id")
    return row


def _held(session: Session, job_id: str, worker: str) -> JobRow:
    row = _find(session, job_id)
    if row.state is not JobState.RUNNING or row.worker != worker:
        raise ConflictError(f"job {job_id} is {row.state}, held by {row.worker or 'nobody'}, not by {worker}")
    return row
