"""The checks of a GPU run, on the tests' own CPU engine."""

from typing import Any

import pytest
from lorecall.server.bench.gpu import checks
from lorecall.server.bench.material import random_prompts
from lorecall.server.bench.processes.host import EngineHost

from tests.tiny import VOCABULARY


@pytest.mark.engine
def test_the_checks_hold_on_the_cpu_engine(
    plain_engine: EngineHost, adapters: dict[int, dict[str, Any]]
) -> None:
    """Base and four adapters: the same tokens in a mixed batch as alone, and what is certified is decoded."""
    through = [None, *adapters.values()]
    prompts = random_prompts(20, checks.PROMPT, 3, VOCABULARY)
    cells = checks.isolation(plain_engine, through, prompts).splitlines()[-1].split("|")
    requests, _, _, same, _, largest = (cell.strip() for cell in cells[1:-1])
    assert int(requests) == 20
    assert int(same) >= 19  # a tie of random weights may fall the other way
    assert float(largest) < 1e-3
    cells = checks.decoding(plain_engine, through, prompts).splitlines()[-1].split("|")
    snippets, texts, tokens, broken, compared, moved = (cell.strip() for cell in cells[1:-1])
    assert (int(snippets), int(broken)) == (20, 0)
    assert int(texts) <= int(tokens)  # of random weights few tokens, or none, are over the line
    assert int(compared) > 0
    assert float(moved) < 1e-3
