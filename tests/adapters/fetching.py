"""What the tests of sources and downloads share."""

import os
from pathlib import Path

import fsspec
import pytest
from lorecall.adapters.core.beneath import Folder
from lorecall.adapters.core.refusals import SourceRefusedError
from lorecall.adapters.intake.sources import Sources
from lorecall.adapters.peft_format.files import CONFIG_FILE, TRAINING_FILE, WEIGHTS_FILE

from tests.adapters.malicious_archives import GOOD

BIG = {**GOOD, WEIGHTS_FILE: os.urandom(1_000_000)}


def put(sources: Sources, place: str, files: dict[str, bytes]) -> None:
    """Write files to a place on S3."""
    filesystem = fsspec.filesystem("s3", **sources.policy.storage_options["s3"])
    for name, content in files.items():
        filesystem.pipe(f"{place}/{name}", content)


def contents(directory: Path | Folder) -> dict[str, bytes]:
    """The adapter's files in a directory."""
    directory = directory.path if isinstance(directory, Folder) else directory
    names = (CONFIG_FILE, WEIGHTS_FILE, TRAINING_FILE)
    return {name: (directory / name).read_bytes() for name in names if (directory / name).exists()}


def left_over(sources: Sources) -> list[str]:
    return [path.name for path in (sources._staging).rglob("*")]


def refusal(sources: Sources, source: str) -> SourceRefusedError:
    with pytest.raises(SourceRefusedError) as caught, sources.fetched(source):
        pytest.fail("it was fetched")
    return caught.value
