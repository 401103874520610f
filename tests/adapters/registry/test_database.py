"""The registry's database: schema, first start, failures."""

import subprocess
import sys
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from lorecall.adapters.core.errors import UsageError
from lorecall.adapters.registry.database import Database, RegistryUnavailableError
from lorecall.adapters.registry.registry import Registry
from lorecall.adapters.registry.tables import Model

from tests.postgres import Postgres

MIGRATIONS = Path(__file__).parents[3] / "adapters" / "registry" / "migrations"


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
