"""For all tests: databases for the registry, Redis, Ray and engines; no time is asserted anywhere."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import settings
from lorecall.adapters.registry.registry import Registry

from tests.engines import Engines, running_engines
from tests.postgres import MissingPostgresError, Postgres, running_postgres
from tests.redis_server import MissingRedisError, Redis, running_redis

# A change is judged on the same examples each time; `make soak` looks for new ones.
settings.register_profile("same", deadline=None, derandomize=True)
settings.register_profile("new", deadline=None)
settings.load_profile("same")


@pytest.fixture(scope="session", autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give the tests and their processes an empty home folder, but the caches of the real one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache")))
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="module", autouse=True)
def _own_environment() -> Iterator[None]:
    """Undo what a file of tests sets in the environment: a command called here sets vLLM's log level."""
    with mock.patch.dict(os.environ):
        yield


_loaded: list[str] = []
"""Our plugins that the tests so far have loaded into vLLM in this process."""


@pytest.fixture(autouse=True)
def _plugins_stay_out(request: pytest.FixtureRequest) -> Iterator[None]:
    """Only a test with an engine may load our plugins in this process: the tests after it meet another vLLM."""
    yield
    plugin = sys.modules.get("lorecall.server.engine.common.plugin")
    before, _loaded[:] = list(_loaded), plugin.__dict__["_applied"] if plugin else []
    if request.node.get_closest_marker("engine") is None:
        assert _loaded == before, "this test, or a fixture of it, loaded our plugins"


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


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    """An empty server."""
    try:
        with running_redis(tmp_path) as server:
            yield server
    except MissingRedisError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def ray_address() -> Iterator[str]:
    """The address of one small Ray for the session, of two cores, which command lines connect to."""
    import ray  # noqa: PLC0415  to import it and to start one takes seconds
    from lorecall.audit.bulk.cluster import LOCAL, connected  # noqa: PLC0415

    # Ray's workers have the lowest priority otherwise, and starve beside other tests
    with mock.patch.dict(os.environ, {"RAY_worker_niceness": "0"}), connected(LOCAL, cpus=2):
        yield ray.get_runtime_context().gcs_address


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    """What all engines without a server are forked from."""
    with running_engines(tmp_path_factory.mktemp("engines")) as running:
        yield running
