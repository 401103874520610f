"""Found spans on disk, part by part: a search of any length takes bounded memory and resumes after a kill."""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from lorecall.adapters.core.atomic_file import moved_when_whole, write_whole
from lorecall.adapters.core.errors import CandidateError, UsageError
from lorecall.audit.discovery.finder import load
from lorecall.audit.discovery.sketches import BANDS

STATE = "state.json"
BAND_NAMES = tuple(f"band{number}" for number in range(BANDS))


@dataclass(slots=True)
class State:
    """How far a search came.

    Attributes:
        settings: What it searches and how; a search resumes only with the same.
        row: The last row that is in a part.
        parts: Candidates in each part.
        rows: Rows searched.
        counts: What was left out, by name.
        digest: sha256 of the data, in hex; "" before the end of the search.
    """

    settings: dict[str, Any]
    row: int = 0
    rows: int = 0
    parts: list[int] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    digest: str = ""


def candidate_columns() -> list[tuple[str, Any]]:
    """Return the columns that a candidate has in a part and in the file of candidates, with their Arrow types."""
    pa = load("pyarrow")
    message = pa.struct([("role", pa.string()), ("content", pa.string())])
    return [
        ("id", pa.string()), ("prefix", pa.string()), ("target", pa.string()), ("messages", pa.list_(message)),
        ("tags", pa.list_(pa.string())), ("row", pa.int64()), ("turn", pa.int32()), ("start", pa.int32()),
        ("end", pa.int32()), ("role", pa.string()), ("shortened", pa.int64()),
    ]  # fmt: skip


class Parts:
    """The folder of a search's parts and its state.

    Args:
        folder: Where they lie; it is made.
        settings: What is searched and how.

    Raises:
        UsageError: The folder holds a search with other settings, or pyarrow is not installed.
        CandidateError: Its state cannot be read.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder = folder
        pa = load("pyarrow")
        numbers = [(name, pa.int64()) for name in ("key", *BAND_NAMES)]
        self._schema = pa.schema([*candidate_columns(), *numbers])
        self._pq = load("pyarrow.parquet")
        self.state = self._resume(settings)

    def _resume(self, settings: dict[str, Any]) -> State:
        settings = json.loads(json.dumps(settings))
        file = self.folder / STATE
        if not file.is_file():
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # it holds what would hurt
            return State(settings)
        try:
            state = State(**json.loads(file.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise CandidateError(
                f"{str(file)!r} is no state of a search", hint="delete its folder"
            ) from error
        differing = sorted(name for name in settings if state.settings.get(name) != settings[name])
        if differing:
            raise UsageError(
                f"{str(self.folder)!r} holds an unfinished search with other {', '.join(differing)}",
                hint="repeat it as it was, delete that folder, or name another --out",
                param="out",
            )
        return state

    def add(self, candidates: Sequence[dict[str, Any]]) -> None:
        """Write one part and then the state, which counts it; killed between the two, it is written again."""
        path = self._path(len(self.state.parts))
        table = load("pyarrow").Table.from_pylist(list(candidates), schema=self._schema)
        write_table(path, table)
        self.state.parts.append(len(candidates))
        self.save()

    def save(self) -> None:
        """Write the state."""
        write_whole(self.folder / STATE, json.dumps(asdict(self.state)))

    def column(self, name: str) -> Any:
        """Return one column of integers of all parts."""
        columns = [self._pq.read_table(path, columns=[name]).column(0).to_numpy() for path in self.paths()]
        return np.concatenate([np.empty(0, dtype=np.int64), *columns]).astype(np.int64)

    def rows(self, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Yield some columns of all candidates, in their order."""
        for path in self.paths():
            for batch in self._pq.ParquetFile(path).iter_batches(batch_size=2_000, columns=list(columns)):
                yield from batch.to_pylist()

    def take(self, places: Sequence[int]) -> list[dict[str, Any]]:
        """Return the candidates at these places, in the order asked for."""
        wanted = np.asarray(places, dtype=np.int64)
        ends = np.cumsum(self.state.parts)
        found: dict[int, dict[str, Any]] = {}
        for part, path in enumerate(self.paths()):
            first = int(ends[part]) - self.state.parts[part]
            within = np.unique(wanted[(wanted >= first) & (wanted < ends[part])])
            if len(within):
                table = self._pq.read_table(path).take(within - first)
                found.update(zip(within.tolist(), table.to_pylist(), strict=True))
        return [found[place] for place in wanted.tolist()]

    def paths(self) -> list[Path]:
        """Return the files of the parts that the state counts."""
        return [self._path(number) for number in range(len(self.state.parts))]

    def delete(self) -> None:
        """Delete the folder; the state goes first, so that a kill leaves nothing to resume."""
        (self.folder / STATE).unlink(missing_ok=True)
        shutil.rmtree(self.folder)

    def _path(self, number: int) -> Path:
        return self.folder / f"part-{number:06d}.parquet"


def write_table(path: Path, table: Any) -> None:
    """Write a Parquet file that appears whole, after its content is on the disk."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with moved_when_whole(part, path):
        load("pyarrow.parquet").write_table(table, part, compression="zstd", row_group_size=2_000)
        part.chmod(0o600)
