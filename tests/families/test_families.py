"""Every family as transformers and PEFT compute it, or a row of the table that says what vLLM does not do."""

import os
from pathlib import Path

import pytest

from tests.engines import Engines
from tests.families.comparing import compare
from tests.families.models import FAMILIES, Family
from tests.families.table import write_rows

SCHEMES = ("none", "int8")
QUICK = ("qwen3", "gemma2", "phi3", "mixtral", "mistral3 multimodal")


@pytest.mark.engine
@pytest.mark.parametrize("family", [one for one in FAMILIES if str(one) in QUICK], ids=str)
def test_a_family_is_served_as_transformers_computes_it(
    family: Family, engines: Engines, tmp_path: Path
) -> None:
    """Base, adapter, a batch of both, and greedy decoding; INT8 against its dequantised weights."""
    for scheme in SCHEMES:
        outcome = compare(family, scheme, engines, tmp_path)
        assert outcome.right(scheme), (scheme, outcome)


@pytest.mark.soak
def test_every_family_and_the_table_of_them(engines: Engines, tmp_path: Path) -> None:
    """What is right and what is not is what the rows of `FAMILIES` say; the run writes docs/models.md.

    FAMILIES names those to run, with commas; the rows of the others stay as they are.
    """
    chosen = {name for name in os.environ.get("FAMILIES", "").split(",") if name}
    wrong = {}
    for family in FAMILIES:
        if chosen and str(family) not in chosen:
            continue
        work = tmp_path / str(family).replace(" ", "-")
        work.mkdir()
        found = {scheme: compare(family, scheme, engines, work) for scheme in SCHEMES}
        write_rows(family, found)
        for scheme, outcome in found.items():
            if outcome.right(scheme) != (scheme not in family.wrong):
                wrong[str(family), scheme] = outcome
    assert not wrong
