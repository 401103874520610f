"""One small Ray for the session, which command lines connect to."""

from collections.abc import Iterator

import pytest
import ray
from lorecall.audit.bulk.cluster import LOCAL, started


@pytest.fixture(scope="session")
def ray_address() -> Iterator[str]:
    """The address of a Ray of two cores; to start one takes seconds."""
    with started(LOCAL, cpus=2):
        yield ray.get_runtime_context().gcs_address
