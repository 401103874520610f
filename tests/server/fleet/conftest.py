"""The two servers that the tests of this folder share, and the places that they fetch adapters from."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from tests.hub import Hub, running_hub
from tests.postgres import MissingPostgresError, running_postgres
from tests.s3 import running_s3
from tests.server.pair import Pair, start_pair


@pytest.fixture(scope="package")
def s3() -> Iterator[dict[str, Any]]:
    """A real S3 server; gives s3fs's storage options for it."""
    with running_s3() as options:
        fsspec.filesystem("s3", **options).mkdir("shelf")
        yield options


@pytest.fixture(scope="package")
def hub() -> Iterator[Hub]:
    """A hub with one repository."""
    with running_hub("acme/support") as one:
        yield one


@pytest.fixture(scope="package")
def pair(
    tiny: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory, s3: dict[str, Any], hub: Hub
) -> Iterator[Pair]:
    """Two servers on one registry in a real PostgreSQL; S3 and the hub they know by their environment."""
    environ = {
        "AWS_ENDPOINT_URL": s3["endpoint_url"],
        "AWS_ACCESS_KEY_ID": s3["key"],
        "AWS_SECRET_ACCESS_KEY": s3["secret"],
        "HF_ENDPOINT": hub.options["endpoint"],
        "LORECALL_SHARED": "s3://shelf/of/uploads",
    }
    try:
        with running_postgres() as database:
            url = database.new_database()
            servers = start_pair(tiny("int8-w8a8"), tmp_path_factory.mktemp("pair"), url, environ)
            yield servers
            servers.close()
    except MissingPostgresError as error:
        pytest.skip(str(error))
