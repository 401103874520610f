"""`lorecall adapters convert` says what it did, and `add --convert` sends what it makes."""

import io
import tarfile
from pathlib import Path
from typing import IO, cast

import pytest
from lorecall.adapters.core.errors import UsageError
from lorecall.adapters.peft_format.adapter import read_adapter
from lorecall.server.cli.adapters.convert import converted
from lorecall.server.cli.main import app
from typer.testing import CliRunner

from tests.adapters import people, spoiling


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    folder = spoiling.write_adapter(tmp_path / "adapter")
    people.sharded()(folder)
    return folder


def test_a_folder_is_converted(shards: Path, tmp_path: Path) -> None:
    """The result is a PEFT directory; each step is said; what is there already is not replaced."""
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["adapters", "convert", str(shards), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "read from 3 files" in done.stdout
    assert "rank 4 on 4 modules" in done.stdout
    assert read_adapter(out).rank == spoiling.RANK
    again = CliRunner().invoke(app, ["adapters", "convert", str(shards), "--out", str(out)])
    assert isinstance(again.exception, UsageError)


def test_what_is_sent_is_the_plain_lora(shards: Path, tmp_path: Path) -> None:
    """The archive holds it and nothing else, and is gone afterwards."""
    with converted(shards, None, None, None) as archive:
        raw = archive.read_bytes()
    (tmp_path / "sent").mkdir()
    with tarfile.open(fileobj=io.BytesIO(raw)) as packed:
        for member in packed.getmembers():  # no filter before Python 3.11.4
            (tmp_path / "sent" / member.name).write_bytes(
                cast("IO[bytes]", packed.extractfile(member)).read()
            )
    assert not archive.exists()
    assert read_adapter(tmp_path / "sent").rank == spoiling.RANK


def test_only_a_folder_of_this_machine_is_converted() -> None:
    """A server converts nothing: it never opens what is no safetensors."""
    done = CliRunner().invoke(app, ["adapters", "add", "x", "--source", "hf://a/b", "--convert"])
    assert isinstance(done.exception, UsageError)
    assert "hf download" in done.exception.hint
