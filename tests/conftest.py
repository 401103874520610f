"""Databases for the registry, for all tests: SQLite and a real PostgreSQL."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from lorecall.adapters.registry import Registry

from tests.postgres import MissingPostgresError, Postgres, running_postgres


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One PostgreSQL server for the session."""
    try:
        with running_postgres() as server:
            yield server
    except MissingPostgresError as error:
        pytest.skip(str(error))


@pytest.fixture(params=["sqlite", "postgresql"])
def registry_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, once of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'registry.db'}"
    server: Postgres = request.getfixturevalue("postgres")
    return server.new_database()


@pytest.fixture
def registry(registry_url: str) -> Iterator[Registry]:
    """An empty registry, once on each kind of database."""
    opened = Registry(registry_url)
    yield opened
    opened.close()
