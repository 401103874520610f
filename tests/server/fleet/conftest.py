"""The two servers that the tests of this folder share."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.postgres import MissingPostgresError, running_postgres
from tests.server.pair import Pair, start_pair


@pytest.fixture(scope="package")
def pair(tiny: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Two servers on one registry in a real PostgreSQL."""
    try:
        with running_postgres() as database:
            url = database.new_database()
            servers = start_pair(tiny("int8-w8a8"), tmp_path_factory.mktemp("pair"), url)
            yield servers
            servers.close()
    except MissingPostgresError as error:
        pytest.skip(str(error))
