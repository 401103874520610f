"""What is said where Ray does not start."""

from pathlib import Path
from typing import Any

import pytest
import ray
from lorecall.adapters.core.errors import ScorerError
from lorecall.audit.bulk.cluster import LOCAL, STARTS, started


def test_a_ray_that_does_not_start_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is tried again, then told without Ray's own words; its folder is gone."""
    tries: list[dict[str, Any]] = []

    def fails(**options: Any) -> None:
        tries.append(options)
        raise Exception("The current node timed out during startup.")  # noqa: TRY002  as Ray does

    monkeypatch.setattr(ray, "init", fails)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    with (
        pytest.raises(ScorerError, match="did not start on this machine in 3 tries: Exception"),
        started(LOCAL),
    ):
        raise AssertionError
    assert len(tries) == STARTS
    assert len({options["_temp_dir"] for options in tries}) == STARTS
    assert not any(options["include_dashboard"] or options["log_to_driver"] for options in tries)
    assert not list(tmp_path.iterdir())
