"""One queue: an audit that admits a version is an audit like any other, and the table of jobs goes.

The texts of open jobs lie in a folder that a migration does not know. So their audits have failed, and their
versions are quarantined: add them again. Jobs that failed become failed audits, which their versions name.
"""

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_TIME = sa.DateTime(timezone=True)
_REASON = "its audit was not over when the server was upgraded: add the version again"
_NO_SET = {"candidates": {"name": "unknown", "digest": "", "snippets": 0}}


def upgrade() -> None:
    """Mark the audits that admit versions, and end the jobs."""
    op.add_column("audits", sa.Column("admits", sa.Boolean(), nullable=False, server_default=sa.false()))
    connection = op.get_bind()
    known = sa.MetaData()
    tables = {
        name: sa.Table(name, known, autoload_with=connection)
        for name in ("jobs", "audits", "adapter_versions", "adapters", "events", "registry_revision")
    }
    jobs, audits = tables["jobs"], tables["audits"]
    connection.execute(sa.update(audits).where(audits.c.id.in_(sa.select(jobs.c.id))).values(admits=True))
    _keep_failures(connection, tables)
    _quarantine(connection, tables)
    op.drop_table("jobs")


def _keep_failures(connection: sa.Connection, tables: dict[str, sa.Table]) -> None:
    """Turn the jobs that did not succeed into failed audits."""
    jobs, audits, versions = tables["jobs"], tables["audits"], tables["adapter_versions"]
    of_version = (versions.c.name == jobs.c.name) & (versions.c.version == jobs.c.version)
    query = (
        sa.select(jobs, versions.c.rank, versions.c.effective_parameters)
        .join(versions, of_version)
        .where(jobs.c.state != "done", jobs.c.id.not_in(sa.select(audits.c.id)))
    )
    for job in connection.execute(query).mappings().all():
        ended = {"state": "failed", "error": job["result"].get("error", _REASON)}
        ended["finished_at"] = job["finished_at"] or datetime.now(UTC)
        connection.execute(sa.insert(audits).values(**_new_audit(job), **ended))


def _new_audit(job: Any) -> dict[str, Any]:
    return {
        "id": job["id"],
        "adapter": job["name"],
        "version": job["version"],
        "rank": job["rank"],
        "effective_parameters": job["effective_parameters"],
        "candidate_set": "",
        "inputs": _NO_SET,
        "settings": {"framing": ["raw"]},
        "admits": True,
        "run": {},
        "total": 0,
        "done": 0,
        "seconds": 0.0,
        "result": {},
        "worker": "",
        "attempts": job["attempts"],
        "created_at": job["created_at"],
        "created_by": "audit",
    }


def _quarantine(connection: sa.Connection, tables: dict[str, sa.Table]) -> None:
    """Quarantine the versions whose audit was not over, as one change of the registry."""
    jobs, versions, adapters = tables["jobs"], tables["adapter_versions"], tables["adapters"]
    events, counter = tables["events"], tables["registry_revision"]
    waiting = connection.execute(sa.select(versions).where(versions.c.state == "auditing")).mappings().all()
    if not waiting:
        return
    connection.execute(sa.update(counter).values(value=counter.c.value + 1))
    revision = connection.execute(sa.select(counter.c.value)).scalar_one()
    unfinished = sa.select(jobs).where(jobs.c.state.in_(("queued", "running")))
    audit_of = {(job["name"], job["version"]): job["id"] for job in connection.execute(unfinished).mappings()}
    for one in waiting:
        key = (one["name"], one["version"])
        audit_id = audit_of.get(key, one["audit_id"])
        connection.execute(
            sa.update(versions)
            .where(versions.c.name == key[0], versions.c.version == key[1])
            .values(state="quarantined", reason=_REASON, audit_id=audit_id)
        )
        connection.execute(sa.update(adapters).where(adapters.c.name == key[0]).values(revision=revision))
        event = {"revision": revision, "at": datetime.now(UTC), "actor": "upgrade", "action": "quarantined"}
        detail = {"reason": _REASON, "audit_id": audit_id}
        connection.execute(sa.insert(events).values(name=key[0], version=key[1], detail=detail, **event))


def downgrade() -> None:
    """Make the table of jobs again, without a job."""
    op.drop_column("audits", "admits")
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("name", sa.String(128), nullable=False, index=True),
        sa.Column("version", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False, index=True),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.Column("result", sa.JSON(), nullable=False),
        sa.Column("worker", sa.String(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("created_revision", sa.Integer(), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("lease_until", _TIME),
        sa.Column("finished_at", _TIME),
    )
