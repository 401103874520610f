"""`lorecall base prepare` as a person runs it: output, exit codes and what is left on disk."""

import subprocess
import sys
from pathlib import Path

import pytest
from lorecall.adapters.bases.prepare import BASE_MANIFEST, read_base_manifest
from lorecall.adapters.core.errors import BaseModelError
from lorecall.server.cli.main import app
from typer.testing import CliRunner, Result

from tests.tiny import build_tiny_base


def prepare(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["base", "prepare", *arguments])


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A plain model directory."""
    path = build_tiny_base(tmp_path_factory.mktemp("source") / "tiny-lm")
    (path / BASE_MANIFEST).unlink()
    return str(path)


def test_a_base_is_prepared_once(source: str, tmp_path: Path) -> None:
    """The first run says what it made and why, the second that it was there; stderr stays empty."""
    out = tmp_path / "base"
    arguments = ("--from", source, "--quantize", "int8", "--out", str(out))
    command = [str(Path(sys.executable).parent / "lorecall"), "base", "prepare", *arguments]
    first = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (first.returncode, first.stderr) == (0, "")
    assert first.stdout.startswith(f"Prepared {out}: tiny-lm, int8-w8a8\n")
    assert "asked for" in first.stdout
    assert read_base_manifest(out).digest in first.stdout
    again = prepare(*arguments)
    assert (again.exit_code, again.stdout) == (0, first.stdout.replace("Prepared", "Reused"))


def test_auto_chooses_and_says_why(source: str, tmp_path: Path) -> None:
    """Without a scheme the machine decides; its reason is printed and kept."""
    out = tmp_path / "base"
    result = prepare("--from", source, "--out", str(out))
    manifest = read_base_manifest(out)
    assert result.exit_code == 0
    assert manifest.scheme in result.stdout
    assert manifest.reason in result.stdout
    assert manifest.reason != "asked for"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("--from", "/no/such/model"), "neither a directory nor a hub id"),
     (("--quantize", "int3"), "unknown quantisation 'int3'"),
     (("--from", "{empty}"), "no config.json")],
)  # fmt: skip
def test_bad_input_exits_with_2(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    """The error names the value; nothing is made."""
    empty = tmp_path / "empty"
    empty.mkdir()
    filled = [argument.format(empty=empty) for argument in arguments]
    result = prepare(*filled, "--out", str(tmp_path / "out"))
    assert isinstance(result.exception, BaseModelError)
    assert message in str(result.exception)
    assert result.exception.exit_code == 2
    assert not (tmp_path / "out").exists()
