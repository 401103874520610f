"""The largest rank that an engine is started for."""

import pytest
from lorecall.adapters.core.errors import AdapterError
from lorecall.server.engine.common.environment import rank_limit


@pytest.mark.parametrize(("ranks", "limit"), [([], 1), ([1], 1), ([2, 8], 8), ([9, 3], 16), ([512], 512)])
def test_the_engine_is_started_for_the_least_rank_that_holds_all(ranks: list[int], limit: int) -> None:
    """There are only a few ranks that vLLM takes."""
    assert rank_limit(ranks) == limit


def test_a_rank_that_vllm_cannot_serve_is_refused() -> None:
    """Before any engine is started."""
    with pytest.raises(AdapterError, match="rank 513"):
        rank_limit([513])
