"""Places that adapters come from."""

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from lorecall.adapters.access.source_list import SourceList
from lorecall.adapters.intake.sources import SourcePolicy, Sources

from tests.hub import Hub, running_hub
from tests.s3 import running_s3


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
        allowed=SourceList(("hf://*", "s3://*", str(tmp_path / "models"))),
        max_bytes=8 << 20,
        storage_options={"s3": s3_options, "hf": hub.options},
    )
    return Sources(tmp_path / "staging", policy)
