"""Databases for the registry (SQLite and a real PostgreSQL), and places that adapters come from."""

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from lorecall.adapters.registry import Registry
from lorecall.adapters.sources import SourcePolicy, Sources

from tests.hub import Hub, running_hub
from tests.postgres import MissingPostgresError, Postgres, running_postgres
from tests.s3 import running_s3


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


@pytest.fixture(scope="session")
def s3_options() -> Iterator[dict[str, Any]]:
    with running_s3() as options:
        yield options


@pytest.fixture
def bucket(s3_options: dict[str, Any]) -> str:
    """The address of an empty bucket."""
    name = f"bucket-{uuid.uuid4().hex}"
    fsspec.filesystem("s3", **s3_options).mkdir(name)
    return f"s3://{name}"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub("some-org/adapter") as hub:
        yield hub


@pytest.fixture
def sources(tmp_path: Path, s3_options: dict[str, Any], hub: Hub) -> Sources:
    policy = SourcePolicy(
        local_roots=(tmp_path / "models",),
        max_bytes=8 << 20,
        storage_options={"s3": s3_options, "hf": hub.options},
    )
    return Sources(tmp_path / "staging", policy)
