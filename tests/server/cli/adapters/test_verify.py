"""`lorecall adapters verify` ends with 0 where the server applies the folder's adapter, and else with 1."""

import json
from pathlib import Path
from typing import Any, Self

import pytest
from lorecall.audit.scorers import http_scorer
from lorecall.audit.scorers.transformers_scorer import TransformersScorer
from lorecall.server.cli.main import app
from typer.testing import CliRunner

from tests.tiny import build_tiny_adapter, build_tiny_base


def test_the_exit_code_says_whether_it_is_the_adapter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Transformers stand in for the server, once with the folder and once with another."""
    base = build_tiny_base(tmp_path / "base")
    folders = {
        name: build_tiny_adapter(tmp_path / name, base, seed=n) for n, name in enumerate(("own", "other"))
    }

    class Stand(TransformersScorer):
        def __init__(self, server: str) -> None:
            super().__init__(base, {"acme": folders[server]})

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(http_scorer, "HttpScorer", Stand)

    def run(server: str, *more: str) -> Any:
        words = ["adapters", "verify", "acme", "--base", str(base), "--adapter-dir", str(folders["own"])]
        return CliRunner().invoke(app, [*words, "--server", server, *more])

    own, other = run("own", "--json"), run("other")
    assert own.exit_code == 0, own.output
    assert json.loads(own.stdout)["problems"] == []
    assert other.exit_code == 1
    assert "another adapter is applied" in other.stdout
    assert "another version" in other.stdout
