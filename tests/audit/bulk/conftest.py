"""One small Ray for the session, which command lines connect to."""

import os
from collections.abc import Iterator
from unittest import mock

import pytest
import ray
from lorecall.audit.bulk.cluster import LOCAL, started


@pytest.fixture(scope="session")
def ray_address() -> Iterator[str]:
    """The address of a Ray of two cores; to start one takes seconds."""
    # Ray's workers have the lowest priority otherwise, and starve beside other tests
    with mock.patch.dict(os.environ, {"RAY_worker_niceness": "0"}), started(LOCAL, cpus=2):
        yield ray.get_runtime_context().gcs_address
