"""Candidates from tables and dataset folders."""

import hashlib
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from lorecall.adapters.core.errors import CandidateError
from lorecall.audit.inputs.load import load_input
from lorecall.audit.scorer import ScoreItem

HAS_ARROW = find_spec("pyarrow") is not None
pa: Any = import_module("pyarrow") if HAS_ARROW else None
pq: Any = import_module("pyarrow.parquet") if HAS_ARROW else None
tables = pytest.mark.skipif(not HAS_ARROW, reason="tables need the optional pyarrow")
Write = Callable[[str, str | bytes], Path]
ROWS = [
    {"id": "a", "prefix": "p", "target": "t", "query": None, "tags": ["pii", "key"]},
    {"id": "b", "prefix": None, "target": "u", "query": "q", "tags": None},
]
ITEMS = (ScoreItem("a", "p", "t", ("key", "pii")), ScoreItem("b", "q", "u"))


@tables
def test_a_parquet_file_is_read_like_json_lines(tmp_path: Path) -> None:
    """The same field names; a column that is null in a row is not there."""
    path = tmp_path / "c.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), path)
    loaded = load_input(path)
    assert loaded.items == ITEMS
    assert loaded.digest == hashlib.sha256(path.read_bytes()).hexdigest()


@tables
def test_a_dataset_folder_is_read_whole(tmp_path: Path) -> None:
    """Every Arrow stream below the folder, as Hugging Face datasets saves them."""
    for number, row in enumerate(ROWS):
        table = pa.Table.from_pylist([row])
        with (
            (tmp_path / f"data-{number}.arrow").open("wb") as sink,
            pa.ipc.new_stream(sink, table.schema) as writer,
        ):
            writer.write_table(table)
    assert load_input(tmp_path).items == ITEMS


@tables
def test_bad_rows_are_counted_like_bad_lines(tmp_path: Path) -> None:
    """With their number and reason."""
    path = tmp_path / "c.parquet"
    pq.write_table(
        pa.Table.from_pylist([ROWS[0], {"id": "x", "prefix": "p", "target": "", "query": None}]), path
    )
    with pytest.raises(CandidateError, match="line 2: 'target' is empty"):
        load_input(path)
    assert len(load_input(path, skip_bad=True).bad) == 1


@tables
def test_what_is_no_table_or_no_dataset_is_refused(write: Write, tmp_path: Path) -> None:
    """A file that only ends on .parquet, and a folder without tables."""
    with pytest.raises(CandidateError, match="is no table"):
        load_input(write("c.parquet", "no table"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(CandidateError, match="holds no"):
        load_input(tmp_path / "empty")


@tables
def test_what_datasets_caches_is_no_part_of_a_dataset(tmp_path: Path) -> None:
    """A folder's cache files hold the rows of some computation, not the set's."""
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "data.parquet")
    (tmp_path / "cache-0123.arrow").write_bytes(b"no table")
    assert load_input(tmp_path).items == ITEMS
