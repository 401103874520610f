"""The sweep's CSV is read whole or refused with the line that is wrong."""

import math
from pathlib import Path

import pytest
from lorecall.adapters.core.errors import UsageError
from lorecall.audit.law.cells import read_cells
from lorecall.audit.law.forms import Cell


def write(folder: Path, text: str) -> Path:
    """Write a CSV file and return its path."""
    path = folder / "sweep.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_columns_are_found_by_name(tmp_path: Path) -> None:
    """Order and further columns do not matter."""
    path = write(tmp_path, "steps,deltaL,rank,length\n7,1.5,8,1000\n\n# a remark\n7,-0.25,2,500\n")
    found = read_cells(path, 3.0)
    assert [(c.rank, c.length, c.delta_loss, c.cap) for c in found] == [(8, 1000, 1.5, 3), (2, 500, -0.25, 3)]


def test_a_sweeps_own_columns_are_read(tmp_path: Path) -> None:
    """A cell's cap is its base's loss, whatever cap is given for files without that column."""
    columns = "rank,seed,length,deltaL,base_loss,tokens_over_half,effective_parameters"
    path = write(tmp_path, f"{columns}\n8,7,1000,1.5,3.9,250,4096\n")
    assert read_cells(path, 99.0) == [Cell(8, 1000, 1.5, 3.9, 4096, "7", 0.25)]


def test_a_gain_over_the_bases_loss_is_named(tmp_path: Path) -> None:
    """Nothing can lose more than it has; rounding is let through."""
    path = write(tmp_path, "rank,length,deltaL,base_loss\n8,1000,3.9001,3.9\n8,1000,4.0,3.9\n")
    with pytest.raises(UsageError, match=r"line 3: '8,1000,4\.0,3\.9' is not a cell"):
        read_cells(path)


def test_a_commented_header_with_a_remark_is_a_header(tmp_path: Path) -> None:
    """The form of the published points: a leading # and a remark in parentheses."""
    path = write(tmp_path, "# rank,length,deltaL (digitised)\n1,200,12.099\n")
    assert [(c.rank, c.length, c.delta_loss, c.cap) for c in read_cells(path)] == [(1, 200, 12.099, math.inf)]


@pytest.mark.parametrize("text", ["", "rank,length\n1,2\n", "1,200,12.099\n"])
def test_a_file_without_the_columns_is_refused(tmp_path: Path, text: str) -> None:
    """An empty file, a missing column and a missing header say which columns are missing."""
    with pytest.raises(UsageError, match=r"no column .*deltaL"):
        read_cells(write(tmp_path, text))


@pytest.mark.parametrize("row", ["8,1000", "8,x,1", "0,1000,1", "8,-1,1", "8,1000,nan", "inf,1000,1"])
def test_a_bad_line_is_named(tmp_path: Path, row: str) -> None:
    """A line that is not a cell gives its number and its text, nothing is skipped."""
    with pytest.raises(UsageError, match=f"line 3: '{row}' is not a cell"):
        read_cells(write(tmp_path, f"rank,length,deltaL\n1,200,3\n{row}\n"))


def test_a_line_that_was_cut_off_is_named(tmp_path: Path) -> None:
    """A torn line with its three columns may end within the last of them: "11.4" was to be "11.45"."""
    with pytest.raises(UsageError, match=r"line 3: '8,1000,11\.4' is not a cell"):
        read_cells(write(tmp_path, "rank,length,deltaL,steps\n1,200,3,40\n8,1000,11.4"))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """The message names the path."""
    with pytest.raises(UsageError, match=r"nowhere\.csv"):
        read_cells(tmp_path / "nowhere.csv")
