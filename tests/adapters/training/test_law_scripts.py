"""The scripts behind docs/law.md: random texts are what they say, and the page has the table that is printed."""

import importlib.util
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest

from tests.tiny import build_tokenizer

DOCS = Path(__file__).parents[3] / "docs"
TEXT = "To be, or not to be: that is the question; whether 'tis nobler in the mind, to suffer the slings."


def script(name: str) -> ModuleType:
    """Load a script of docs/."""
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_larger_share_replaces_more_words_by_as_many_tokens() -> None:
    """Nothing is replaced at 0, everything at 1, and what one share replaces the next one does too."""
    tokenizer = build_tokenizer()
    texts = script("make_long_text").random_texts(tokenizer, TEXT)
    assert texts[0.0] == f" {TEXT}"
    sizes = {len(tokenizer(text, add_special_tokens=False).input_ids) for text in texts.values()}
    assert len(sizes) == 1
    whole = [word for word in TEXT.split() if not word.isalpha()]  # which no random word is
    kept = [[word for word in whole if f" {word} " in f"{text} "] for text in texts.values()]
    assert len(kept[0]) == len(whole)
    assert all(set(more) >= set(less) for more, less in pairwise(kept))
    assert kept[-1] == []


def test_the_page_has_the_table_of_the_defences(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every line that the script prints from the committed files stands in docs/law.md; the picture is drawn."""
    pytest.importorskip("matplotlib")
    defences, sweeps = script("defences"), DOCS / "sweeps"
    after = defences.read_rows(sweeps / "defences-after.csv")
    defences.draw([*defences.trainings(sweeps / "defences.csv"), *after], tmp_path / "drawn.svg")
    assert (tmp_path / "drawn.svg").stat().st_size > 0
    page = (DOCS / "law.md").read_text(encoding="utf-8").splitlines()
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 2 + 20
    assert [line for line in printed if line not in page] == []


def test_the_page_has_the_tables_of_the_methods(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every line that the script prints from the committed files stands in docs/law.md."""
    files = [str(DOCS / "sweeps" / name) for name in ("memft.csv", "memft-steps.csv")]
    monkeypatch.setattr("sys.argv", ["compare_methods.py", *files])
    script("compare_methods").main()
    page = (DOCS / "law.md").read_text(encoding="utf-8").splitlines()
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 6 + 3
    assert [line for line in printed if line not in page] == []


def test_methods_are_compared_seed_by_seed() -> None:
    """Two seeds, a method one and three tokens ahead: 2 ± t(0.975, 1) * 1; all is held where every token is."""
    compared = script("compare_methods")

    def row(method: str, seed: int, locked: int, steps: int = 30) -> dict[str, str]:
        values = {"length": 50, "rank": 2, "steps": steps, "method": method, "seed": seed, "lr": 0.05}
        values |= {"tokens_over_half": locked, "texts_over_half": 0, "deltaL": locked / 10}
        return {name: str(value) for name, value in values.items()}

    rows = [row("sft", 0, 20), row("sft", 1, 40), row("memft-ot", 1, 43), row("memft-ot", 0, 21)]
    plain, other = compared.at_equal_steps(rows)
    assert plain.endswith("| 30.0 ± 127.1 | 0.0 ± 0.0 | 3.00 ± 12.71 |  |")
    assert other.endswith("| 2.0 ± 12.7 |")
    tried = [row("sft", 0, 49), row("sft", 0, 50, 90), row("sft", 0, 50, 60), row("sft", 1, 50, 80)]
    assert list(compared.steps_to_hold_all(tried)) == ["| 2 | 50 | `sft` | 70 ± 127 | 60, 80 |"]
    (never,) = compared.steps_to_hold_all([*tried, row("sft", 2, 49)])
    assert never == "| 2 | 50 | `sft` | in 2 of 3 seeds | 60, 80, - |"
