"""The tables of docs/scaling.md are what its script computes."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).parents[3] / "docs"
BEGIN, END = "<!-- begin: python docs/simulate_scaling.py -->\n", "<!-- end -->"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """The script, as a module."""
    spec = importlib.util.spec_from_file_location("simulate_scaling", DOCS / "simulate_scaling.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_page_has_the_tables_of_the_script(script: ModuleType) -> None:
    """Between its marks, to the letter."""
    page = (DOCS / "scaling.md").read_text(encoding="utf-8")
    assert page.split(BEGIN)[1].split(END)[0] == script.page_tables()


def test_most_checks_are_within_a_fifth(script: ModuleType) -> None:
    """Of what was measured; the page says how many, and what is off."""
    ratios = [predicted / measured for _, predicted, measured in script.checks()]
    assert sum(abs(ratio - 1.0) <= 0.2 for ratio in ratios) >= 0.8 * len(ratios)
    assert all(abs(ratio - 1.0) <= 0.25 for ratio in ratios)


def test_the_parts_of_a_plan(script: ModuleType) -> None:
    """Twice the GPUs take half as long but for the loads; drivers share rows, not the reading; rank costs."""
    one, two = (script.hours(script.ALL, script.EIGHT, script.H100, gpus, 1) for gpus in (64, 128))
    loads = 1000 * script.LOAD_S / 3600
    assert two["GPUs"] - loads == pytest.approx((one["GPUs"] - loads) / 2)
    assert two["workers"] == pytest.approx(one["workers"] / 2)
    reading = script.ALL.snippets * script.READ_S / 3600  # each driver reads all, once
    many = script.hours(script.ALL, script.EIGHT, script.H100, 64, 4)
    assert many["drivers"] - reading == pytest.approx((one["drivers"] - reading) / 4)
    wide = replace(script.ALL, rank=128)
    assert script.hours(wide, script.EIGHT, script.H100, 64, 1)["GPUs"] > one["GPUs"]


def test_a_base_has_the_sizes_of_its_configuration(script: ModuleType) -> None:
    """The linear weights, widths and cached numbers of both bases, from width, blocks, heads and vocabulary."""
    for base, keys, inner in ((script.SMOL, 192, 1536), (script.EIGHT, 1024, 14336)):
        shapes = [(base.hidden, base.hidden)] * 2 + [(base.hidden, keys)] * 2 + [(base.hidden, inner)] * 3
        assert base.linear == pytest.approx(base.layers * sum(a * b for a, b in shapes), rel=1e-3)
        assert base.widths == base.layers * sum(a + b for a, b in shapes)
        assert base.cached == base.layers * 2 * keys
