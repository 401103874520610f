"""What the server says of its engine."""

from pathlib import Path

import pytest
from lorecall.audit.judging.epsilon import FACTOR

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
