"""The registry's database: schema, first start, failures."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from lorecall.adapters.core.errors import UsageError
from lorecall.adapters.registry.audit_tables import AuditRow
from lorecall.adapters.registry.database import (
    Database,
    NewerRegistryError,
    RegistryUnavailableError,
)
from lorecall.adapters.registry.registry import Registry
from lorecall.adapters.registry.tables import Model, State
from sqlalchemy import select, text

from tests.postgres import Postgres

if TYPE_CHECKING:
    from collections.abc import Callable

MIGRATIONS = Path(__file__).parents[3] / "adapters" / "registry" / "migrations"
NEWEST = max(path.name[:4] for path in (MIGRATIONS / "versions").glob("0*.py"))


def test_migrations_make_the_schema_of_the_models(registry_url: str) -> None:
    """The migrated database has exactly the tables, columns and indexes of the code; and back, and again."""
    database = Database(registry_url)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    for _ in range(2):
        with database._begin() as connection:
            assert compare_metadata(MigrationContext.configure(connection), Model.metadata) == []
            config.attributes["connection"] = connection
            command.downgrade(config, "base")
            command.upgrade(config, "head")
    database.close()


OLD_ROWS = """
UPDATE registry_revision SET value = 3;
INSERT INTO adapters (name, pinned, removed, revision)
  VALUES ('acme', false, false, 3), ('globex', false, false, 2);
INSERT INTO adapter_versions (name, version, state, reason, audit_id, was_live, rank, effective_parameters,
  base_digest, refusal, training, source, created_at, created_by)
  SELECT name, 'v1', state, '', audit, false, 8, 8000, '', '', '{}', 'x', '2026-11-23 00:00:00', 'ann'
  FROM (SELECT 'acme' AS name, 'auditing' AS state, '' AS audit
        UNION ALL SELECT 'globex', 'quarantined', 'failed-1') AS old;
INSERT INTO jobs (id, kind, name, version, state, payload, result, worker, attempts, created_revision, created_at)
  VALUES ('open-1', 'audit', 'acme', 'v1', 'running', '{"spool": "k"}', '{}', 'w', 1, 3, '2026-11-23 00:00:00'),
         ('failed-1', 'audit', 'globex', 'v1', 'failed', '{}', '{"error": "the engine is away"}', 'w', 1, 2,
          '2026-11-23 00:00:00'),
         ('done-1', 'audit', 'globex', 'v1', 'done', '{}', '{"passed": true}', 'w', 1, 1, '2026-11-23 00:00:00');
INSERT INTO audits (id, adapter, version, rank, effective_parameters, candidate_set, inputs, settings, run, state,
  total, done, seconds, result, error, worker, attempts, created_at, created_by)
  VALUES ('done-1', 'globex', 'v1', 8, 8000, '', '{}', '{}', '{}', 'done', 1, 1, 1.0, '{}', '', '', 0,
          '2026-11-23 00:00:00', 'audit')
"""


def test_jobs_of_an_older_server_become_audits(registry_url: str) -> None:
    """An admission that was not over has failed and its version is quarantined; ids still name their audit."""
    database = Database(registry_url)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with database._begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0002")
        for statement in OLD_ROWS.split(";"):
            connection.exec_driver_sql(statement)
    database.close()
    registry = Registry(registry_url)
    with registry.database.read() as session:
        audits = {row.id: row for row in session.scalars(select(AuditRow))}
    assert {one.id: one.state.value for one in audits.values()} == {
        "open-1": "failed", "failed-1": "failed", "done-1": "done",
    }  # fmt: skip
    assert all(one.admits for one in audits.values())
    assert audits["failed-1"].error == "the engine is away"
    assert (audits["open-1"].rank, audits["open-1"].effective_parameters) == (8, 8000)
    version = registry.version("acme", "v1")
    assert (version.state, version.audit_id) == (State.QUARANTINED, "open-1")
    assert version.reason == audits["open-1"].error
    assert "add the version again" in version.reason
    assert [adapter.name for adapter in registry.changes(registry.revision() - 1).adapters] == ["acme"]
    assert registry.events("acme")[-1].detail == {"reason": version.reason, "audit_id": "open-1"}
    assert registry.version("globex", "v1").audit_id == "failed-1"
    registry.close()


OLD_RECORDS = {
    "plain": ('{"seed": 7, "notes": "x", "loss": 0.5}', {"seed": 7, "loss": 0.5}),
    "infinite": ('{"loss": 1e999}', {"base_digest": "ab"}),
    "constant": ('{"loss": Infinity}', {"base_digest": "ab"}),
    "deep": ('{"x":' * 970 + "1" + "}" * 970, {"base_digest": "ab"}),
    "deeper": ('{"x":' * 3000 + "1" + "}" * 3000, {"base_digest": "ab"}),
    "long": ('{"scheme": "' + "a" * 20_000 + '"}', {"base_digest": "ab"}),
    "half": ('{"scheme": "\\ud800"}', {"base_digest": "ab"}),
    "none": ("{}", {}),
}


def test_records_of_an_older_server_can_be_shown(registry_url: str) -> None:
    """What a stranger's file held is reduced to known fields, so that one row does not fail every answer."""
    database = Database(registry_url)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    sqlite = registry_url.startswith("sqlite")
    old = {name: texts for name, texts in OLD_RECORDS.items() if sqlite or name not in ("constant", "deeper")}
    row = (
        "INSERT INTO adapter_versions (name, version, state, reason, audit_id, was_live, rank, "
        "effective_parameters, base_digest, refusal, training, source, created_at, created_by) VALUES "
        "('acme', :name, 'staged', '', '', false, 8, 8000, 'ab', '', :record, 'x', '2026-11-23 00:00:00', 'ann')"
    )
    with database._begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0003")
        connection.exec_driver_sql("INSERT INTO adapters VALUES ('acme', NULL, NULL, false, false, 1)")
        for name, (record, _) in old.items():
            connection.execute(text(row if sqlite else row.replace(":record", "CAST(:record AS JSON)")),
                               {"name": name, "record": record})  # fmt: skip
    database.close()
    registry = Registry(registry_url)
    found = {version.version: version.training for version in registry.versions("acme")}
    assert found == {name: kept for name, (_, kept) in old.items()} | {"none": {}}
    registry.close()


OLD_REPORT = {
    "schema_version": "2.0",
    "seconds": 1.0,
    "adapter": {"training": {"seed": 2**60}},
    "summary": {"verdicts": {"clear": 2}},
    "controls": None,
    "own_candidates": {"verdicts": {"clear": 2, "extractable": 1}},
    "membership": {"findings": 0},
    "sequential": {"taken": 2},
    "seal": {"sha256": "0" * 64, "signature": "1" * 64},
}


def test_stored_reports_are_sealed_anew(registry_url: str) -> None:
    """Over canonical JSON with the snippets in their order; what is new is filled in."""
    database = Database(registry_url)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    row = (
        "INSERT INTO audits (id, adapter, version, rank, effective_parameters, candidate_set, inputs, settings, "
        "run, admits, state, total, done, seconds, result, error, worker, attempts, created_at, created_by) "
        "VALUES (:id, 'acme', 'v1', 8, 8000, '', '{}', '{}', '{}', false, 'done', 2, 2, 1.0, "
        "CAST(:result AS JSON), '', '', 0, '2026-11-23 00:00:00', 'ann')"
    )
    if registry_url.startswith("sqlite"):
        row = row.replace("CAST(:result AS JSON)", ":result")
    with database._begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0007")
        for audit_id, result in (("a", OLD_REPORT), ("b", {})):
            connection.execute(text(row), {"id": audit_id, "result": json.dumps(result)})
        for position in (1, 0):
            values = f"('a', {position}, 'clear', '{{\"id\": \"{position}\", \"p\": 1.0}}')"
            connection.exec_driver_sql(f"INSERT INTO audit_snippets VALUES {values}")  # noqa: S608  our own
    database.close()
    registry = Registry(registry_url)
    with registry.database.read() as session:
        found = {row.id: row.result for row in session.scalars(select(AuditRow))}
    assert found["b"] == {}
    seal = found["a"].pop("seal")
    assert found["a"]["adapter"] == {"training": {"seed": str(2**60)}}
    snippets = '[{"id":"0","p":1},{"id":"1","p":1}]'
    assert found["a"]["summary"] == {"verdicts": {"clear": 2, "extractable": 0}}
    assert found["a"]["own_candidates"] == {"verdicts": {"clear": 2, "extractable": 1}}
    said = f'{{"adapter":{{"training":{{"seed":"{2**60}"}}}},"controls":null,'
    said += (
        '"membership":{"findings":0,"least_q":1},"own_candidates":{"verdicts":{"clear":2,"extractable":1}},'
    )
    said += '"schema_version":"2.0","seconds":1,"sequential":{"errors":0,"taken":2},'
    said += f'"snippets":{snippets},"summary":{{"verdicts":{{"clear":2,"extractable":0}}}}}}'
    assert seal == {"sha256": hashlib.sha256(said.encode()).hexdigest()}
    registry.close()


def test_a_newer_database_is_left_alone(registry_url: str) -> None:
    """A release that does not know the schema's revision names both and the way out, and changes nothing."""
    database = Database(registry_url)
    with database._begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(
        NewerRegistryError, match=rf"revision 9999, .* up to {NEWEST}.*newer release"
    ) as caught:
        Registry(registry_url)
    assert (caught.value.exit_code, caught.value.code) == (2, "registry_too_new")
    with database._begin() as connection:
        assert connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar_one() == "9999"
    database.close()


def change_unfollowed(database: Database) -> None:
    """Change a row as audits change theirs: the revision stays."""
    with database.change() as session:
        session.execute(text("UPDATE adapters SET pinned = true"))


def test_a_commit_by_anybody_is_seen_and_nothing_else(registry_url: str) -> None:
    """By this process or by another one, with or without a revision; on PostgreSQL each answer is another one."""
    registry, other = Registry(registry_url), Registry(registry_url)
    seen = registry.database.changed()
    if registry_url.startswith("postgresql"):
        assert registry.database.changed() != seen
    else:
        for read in (registry.revision, other.revision, registry.adapters):
            read()
            assert registry.database.changed() == seen
        changes: list[Callable[[], object]] = [
            lambda: registry.stage("acme", "a" * 64, source="x", actor="ann"),
            lambda: other.stage("acme", "b" * 64, source="x", actor="ann"),
            lambda: change_unfollowed(other.database),
        ]
        for change in changes:
            change()
            before, seen = seen, registry.database.changed()
            assert before != seen
            assert registry.database.changed() == seen
    registry.close()
    other.close()


def test_many_first_starts_at_once(registry_url: str) -> None:
    """Servers that all start on an empty database at the same moment all come up."""
    program = (
        "import sys; from lorecall.adapters.registry.registry import Registry\n"
        "print(Registry(sys.argv[1]).revision())"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", program, registry_url], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    assert [process.communicate()[0] for process in processes] == ["0\n"] * 4
    assert [process.returncode for process in processes] == [0] * 4


def test_restart_of_the_database_is_survived(postgres: Postgres) -> None:
    """After PostgreSQL came back, the same registry object goes on."""
    registry = Registry(postgres.new_database())
    registry.stage("acme", "a" * 64, source="x", actor="test")
    postgres.stop()
    with pytest.raises(RegistryUnavailableError, match="database failed"):
        registry.adapters()
    with pytest.raises(RegistryUnavailableError):
        registry.stage("acme", "b" * 64, source="x", actor="test")
    postgres.start()
    assert [version.version for version in registry.versions("acme")] == ["a" * 64]
    registry.stage("acme", "b" * 64, source="x", actor="test")
    registry.close()


def test_unreachable_database_keeps_the_password() -> None:
    """Where nothing listens the error says so and does not show the password."""
    with pytest.raises(RegistryUnavailableError) as caught:
        Registry("postgresql://user:hush-hush@127.0.0.1:1/db")
    assert "hush" not in str(caught.value)
    assert caught.value.status == 503


@pytest.mark.parametrize(
    "url", ["", "registry.db", "sqlite://", "mysql://host/db", "postgresql+asyncpg://h/d", "::"]
)
def test_other_databases_are_refused(url: str) -> None:
    """A URL of another kind is an error of usage, with an example of a right one."""
    with pytest.raises(UsageError, match=r"sqlite:///registry\.db or postgresql://"):
        Registry(url)


def test_database_file_that_is_none(tmp_path: Path) -> None:
    """A file that is no database is reported as such."""
    (tmp_path / "registry.db").write_bytes(b"no database at all " * 100)
    with pytest.raises(RegistryUnavailableError, match="not a database"):
        Registry(f"sqlite:///{tmp_path / 'registry.db'}")
