"""The two checks of a GPU run, on the tests' own CPU engine."""

from typing import Any

import pytest
from lorecall.server.bench.gpu import checks
from lorecall.server.bench.material import random_prompts
from lorecall.server.bench.processes.host import EngineHost

from tests.tiny import VOCABULARY


@pytest.mark.engine
@pytest.mark.soak
def test_the_checks_hold_on_the_cpu_engine(
    plain_engine: EngineHost, adapters: dict[int, dict[str, Any]]
) -> None:
    """Base and four adapters: the same tokens in a mixed batch as alone, and no certified text is not decoded."""
    through = [None, *adapters.values()]
    prompts = [
        [token % (VOCABULARY - 10) for token in ids] for ids in random_prompts(40, checks.PROMPT, seed=3)
    ]
    cells = checks.isolation(plain_engine, through, prompts).splitlines()[-1].split("|")
    requests, _, same, _, largest = (cell.strip() for cell in cells[1:-1])
    assert int(requests) == 40
    assert int(same) >= 38  # a tie of random weights may fall the other way
    assert float(largest) < 1e-3
    cells = checks.decoding(plain_engine, through, prompts).splitlines()[-1].split("|")
    snippets, _, broken, compared, moved = (cell.strip() for cell in cells[1:-1])
    assert (int(snippets), int(broken)) == (40, 0)
    assert int(compared) > 0
    assert float(moved) < 1e-3
