"""A served adapter is told from none, from another, and from one that is applied otherwise than by PEFT."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from lorecall.adapters.core.errors import AdapterError, ScorerError
from lorecall.audit.runs.fidelity import measure_fidelity
from lorecall.audit.scorer import AdapterVersion, ItemScore, ScoreItem
from lorecall.audit.scorers.transformers_scorer import BASE, TransformersScorer

from tests.adapters import people
from tests.adapters.spoiling import setting
from tests.tiny import build_tiny_adapter, build_tiny_base

ITEMS = [
    ScoreItem("1", "To be, or not", " to be, that is the question"),
    ScoreItem("2", "to suffer the slings", " and arrows of outrageous fortune"),
]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_base(tmp_path_factory.mktemp("fidelity") / "base")


@pytest.fixture(scope="module")
def adapter(base: Path) -> Path:
    return build_tiny_adapter(base.parent / "adapter", base)


class Server(TransformersScorer):
    """A server with an error of 1e-5, which answers with the version it claims, through the folder it has."""

    claims: AdapterVersion | None = None
    plain = False
    failing = False

    def score(self, model: str, items: Sequence[ScoreItem]) -> list[ItemScore]:
        """Score as the reference does, with the error."""
        if self.failing:
            return [ItemScore(item.id, error="the engine is down") for item in items]
        found = super().score(BASE if self.plain else model, items)
        return [dataclasses.replace(x, logprob=tuple(v + 1e-5 for v in x.logprob)) for x in found]

    def adapter(self, name: str) -> AdapterVersion:
        """Return what it claims to serve."""
        return self.claims or super().adapter(name)


def problems(base: Path, adapter: Path, server: Server) -> str:
    """What is found wrong."""
    reference = TransformersScorer(base, {"acme": adapter})
    server.claims = server.claims or reference.adapter("acme")
    return "; ".join(measure_fidelity(server, reference, "acme", ITEMS).problems())


def test_the_same_adapter_passes(base: Path, adapter: Path) -> None:
    """An error as small as the engine's is none."""
    assert not problems(base, adapter, Server(base, {"acme": adapter}))


def test_an_adapter_that_is_not_applied_is_found(base: Path, adapter: Path) -> None:
    """The server answers with its base."""
    server = Server(base, {"acme": adapter})
    server.plain = True
    assert "is not applied" in problems(base, adapter, server)


def test_another_adapter_is_found(base: Path, adapter: Path, tmp_path: Path) -> None:
    """The server answers with another one of the same shape, under the same version."""
    other = build_tiny_adapter(tmp_path / "other", base, seed=9)
    assert "another adapter is applied" in problems(base, adapter, Server(base, {"acme": other}))


def test_a_wrong_scale_is_found(base: Path, adapter: Path, tmp_path: Path) -> None:
    """Five per cent more is the same adapter, further away than the noise."""
    folder = build_tiny_adapter(tmp_path / "scaled", base)
    setting(lora_alpha=4.2)(folder)
    found = problems(base, adapter, Server(base, {"acme": folder}))
    assert "over twice the noise" in found
    assert "another adapter" not in found


def test_another_version_is_found(base: Path, adapter: Path) -> None:
    """Also where it gives the same numbers."""
    server = Server(base, {"acme": adapter})
    server.claims = AdapterVersion("acme", "f" * 64, 4, 10)
    assert "another version" in problems(base, adapter, server)


def test_an_untrained_adapter_cannot_be_told(base: Path, tmp_path: Path) -> None:
    """What changes nothing is no proof of anything."""
    folder = build_tiny_adapter(tmp_path / "zero", base)
    people.zero_b(folder)
    assert "too little over the noise" in problems(base, folder, Server(base, {"acme": folder}))


def test_what_cannot_be_measured_is_an_error(base: Path, adapter: Path, tmp_path: Path) -> None:
    """Another base, an adapter of the head, a text that fails."""
    reference = TransformersScorer(base, {"acme": adapter})
    other: Any = Server(build_tiny_base(tmp_path / "other", seed=3), {"acme": adapter})
    with pytest.raises(AdapterError, match="server's base has the digest"):
        measure_fidelity(other, reference, "acme", ITEMS)
    server = Server(base, {"acme": adapter})
    server.claims = AdapterVersion("acme", "f" * 64, 4, 10, "it adapts lm_head")
    with pytest.raises(AdapterError, match="lm_head"):
        measure_fidelity(server, reference, "acme", ITEMS)
    server.claims, server.failing = None, True
    with pytest.raises(ScorerError, match="the engine is down"):
        measure_fidelity(server, reference, "acme", ITEMS)
