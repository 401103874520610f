"""What the server says of its engine."""

from pathlib import Path

import pytest
from lorecall.server.scoring.selfcheck import spread

from tests.server.served import Served


def test_spread_is_largest_and_mean_of_unsaturated_tokens() -> None:
    """Pairs are compared by |difference|; two saturated probabilities say nothing."""
    found = spread([(-1.0, -1.25), (-2.0, -2.0), (0.0, -1e-9)])
    assert (found.tokens, found.largest, found.mean) == (2, 0.25, 0.125)


@pytest.mark.engine
def test_selfcheck_measures_every_way(served: Served, int8_adapters: list[Path]) -> None:
    """The running engine is compared with itself in every way, and audits see the largest difference."""
    served.post("/v1/adapters", {"name": "checked", "source": str(int8_adapters[1])})
    answer = served.http.get("/v1/engine/selfcheck").json()
    assert set(answer["checks"]) == {"mixed", "reversed", "decoded", "chunk_edge"}
    assert all(check["tokens"] > 0 for check in answer["checks"].values())
    assert {served.base, "checked"} <= set(answer["models"])
    assert answer["epsilon"] == max(check["largest"] for check in answer["checks"].values())
    assert 0.5 <= answer["threshold"] < 0.55
    assert served.http.get("/v1/engine").json()["epsilon"] >= answer["epsilon"]
    served.http.delete("/v1/adapters/checked")
