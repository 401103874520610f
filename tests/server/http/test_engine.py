"""What the server says of its engine."""

import asyncio
import json
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from lorecall.audit.judging.epsilon import FACTOR
from lorecall.audit.scorer import EngineInfo
from lorecall.server.http import engine, state
from lorecall.server.scoring.selfcheck import SelfCheck

from tests.server.served import Served


@pytest.mark.engine
def test_selfcheck_measures_every_way(served: Served, int8_adapters: list[Path]) -> None:
    """The running engine is compared with itself in every way, and audits see the largest difference."""
    served.post("/v1/adapters", {"name": "checked", "source": str(int8_adapters[1])})
    answer = served.http.get("/v1/engine/selfcheck").json()
    assert set(answer["checks"]) == {"mixed", "reversed", "decoded", "chunk_edge"}
    assert all(check["tokens"] > 0 for check in answer["checks"].values())
    assert {served.base, "checked"} <= set(answer["models"])
    largest = max(check["largest"] for check in answer["checks"].values())
    assert answer["epsilon"] == pytest.approx(FACTOR * largest / 2.0)
    assert 0.5 <= answer["threshold"] < 0.55
    assert served.http.get("/v1/engine").json()["epsilon"] >= answer["epsilon"]
    served.http.delete("/v1/adapters/checked")


def test_epsilon_is_measured_once_for_all_who_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    """The start does not pay for it; a measure that fails is made again for the next who asks."""
    runs: list[bool] = []

    async def check(*_: object, chunk_edge: bool) -> SelfCheck:
        runs.append(chunk_edge)
        await asyncio.sleep(0)
        if len(runs) == 1:
            raise RuntimeError("engine is away")
        return SelfCheck({}, (), 0.01)

    monkeypatch.setattr(state, "check_engine", check)
    plane: Any = SimpleNamespace(engine_set=SimpleNamespace(live={}))
    none: Any = None
    serving = state.Serving(none, plane, none, EngineInfo("vllm", "base"), none, none)

    async def ask() -> list[EngineInfo]:
        with pytest.raises(RuntimeError, match="away"):
            await serving.measured()
        assert serving.info().epsilon is None
        return list(await asyncio.gather(serving.measured(), serving.measured()))

    assert [info.epsilon for info in asyncio.run(ask())] == [0.01, 0.01]
    assert runs == [False, False]


@pytest.mark.parametrize(("limit", "status"), [("7", 200), ("0", 400), ("-1", 400), ("1" + "0" * 30, 400)])
def test_a_page_of_models_has_a_bound(limit: str, status: int) -> None:
    """A number beyond it is refused as any other bad one."""

    async def listed(after: str | None, wanted: int | None) -> bytes:
        return json.dumps(list(islice([after], wanted))).encode()

    app = FastAPI()
    app.include_router(engine.router)
    app.state.lorecall = SimpleNamespace(models=SimpleNamespace(listed=listed))
    client = TestClient(app, raise_server_exceptions=False)
    assert client.get("/v1/models", params={"limit": limit}).status_code == status
