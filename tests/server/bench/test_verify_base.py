"""What a self-check of a base finds; tests/server/cli/test_base.py runs it against an engine."""

from pathlib import Path
from typing import Any

import pytest
from lorecall.adapters.core.errors import BaseModelError
from lorecall.server.bench import verify_base as subject
from lorecall.server.bench.processes.host import EngineDiedError

from tests.tiny import build_tiny_base

DECODED = [7, 8, 9]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base in float32."""
    return build_tiny_base(tmp_path_factory.mktemp("base"))


def engine_that_is_off_by(base: Path, shift: float) -> Any:
    """Return an engine whose log-probabilities are transformers', moved where the texts are sent together."""
    reference = subject._Reference(base)

    def answer(ids: list[int], moved: float) -> dict[str, Any]:
        found = [value + moved for value in reference.logprobs([*ids, *DECODED])]
        split = len(ids) - 1
        return {
            "ids": DECODED,
            "scores": [[value, 0.0, 0.0] for value in found[:split]],
            "logprobs": found[split:],
        }

    def ask(_base: Path, texts: list[list[int]], _log: Path) -> Any:
        return [answer(ids, 0.0) for ids in texts], [answer(ids, shift) for ids in texts]

    return ask


def test_what_is_right_passes_and_says_how_near_it_is(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four texts of unequal lengths, alone and together."""
    monkeypatch.setattr(subject, "_ask", engine_that_is_off_by(base, 0.002))
    found = subject.verify_base(base)
    assert found.largest == pytest.approx(0.002, abs=1e-6)
    assert found.mean == pytest.approx(0.001, abs=1e-6)
    assert subject.EXACT <= found.allowed < subject.EXACT + 1e-3
    lengths = {len(ids) for ids in subject._texts(base)}
    assert len(lengths) == subject.COUNT
    assert max(lengths) == subject.LENGTH


@pytest.mark.parametrize("shift", [0.05, float("nan")])
def test_what_depends_on_the_batch_is_refused(
    base: Path, shift: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As LFM2's numbers do; one that is no number is refused too."""
    monkeypatch.setattr(subject, "_ask", engine_that_is_off_by(base, shift))
    with pytest.raises(BaseModelError, match=r"computes this model wrongly: over \d+ tokens"):
        subject.verify_base(base)


def test_an_engine_that_does_not_start_is_quoted(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last errors, without the name of a log that is gone by then."""

    def fail(log: Path, _arguments: dict[str, Any], **_more: Any) -> Any:
        raise EngineDiedError(
            f"the engine died; its log is {log}, its last errors: ValueError: no such layer"
        )

    monkeypatch.setattr(subject, "EngineHost", fail)
    monkeypatch.setattr(subject, "prepare_environment", lambda: None)
    with pytest.raises(BaseModelError, match="cannot serve this model: ValueError: no such layer") as caught:
        subject.verify_base(base)
    assert "engine.log" not in str(caught.value)
