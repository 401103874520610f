"""The picture of a law shows what was fitted, and no more."""

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from lorecall.adapters.core.errors import UsageError
from lorecall.audit.law.fit import fit_law
from lorecall.audit.law.forms import Cell
from lorecall.audit.law.plot import plot_law

CELLS = [
    Cell(rank, length, 40 * rank**0.5 * length**-0.5 + 0.1 * (rank == 2))
    for rank in (1, 2, 4, 8)
    for length in (100, 200, 400)
]


def test_every_length_is_drawn_and_named(tmp_path: Path) -> None:
    """The SVG's text names each length, the fit's R² and how many cells it used; a second drawing is the same."""
    fitted = fit_law(CELLS, draws=1)
    for name in ("a.svg", "b.svg"):
        plot_law(fitted, tmp_path / name)
    drawn = ET.fromstring((tmp_path / "a.svg").read_text())  # noqa: S314  (our own)
    notes = " ".join(str(node) for node in (tmp_path / "a.svg").read_text().split("<!-- ")[1:])
    for words in ("100 tokens", "200 tokens", "400 tokens", f"R² {fitted.r_squared:.3f} on 12 cells"):
        assert words in notes
    assert drawn.tag.endswith("svg")


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    """The suffix chooses the format; one that is none is refused before anything is drawn."""
    with pytest.raises(UsageError, match=r"law\.txt is no picture"):
        plot_law(fit_law(CELLS, draws=1), tmp_path / "law.txt")
    assert not list(tmp_path.iterdir())
