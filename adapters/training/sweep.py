"""A sweep: train an adapter for each rank, length, method and seed, and record how much it lowers the loss.

The memory law (`audit.law`) is fitted to the rows. A sweep is resumable: cells in the file are not trained again.
"""

import csv
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, astuple, dataclass, fields, replace
from itertools import product
from pathlib import Path
from typing import Any

from lorecall.adapters.bases.prepare import read_base_manifest
from lorecall.adapters.core.atomic_file import sync
from lorecall.adapters.core.errors import UsageError
from lorecall.adapters.peft_format.adapter import read_adapter
from lorecall.adapters.training.options import TrainingOptions
from lorecall.adapters.training.pairs import Pair, read_pairs
from lorecall.adapters.training.prepare_input import TrainingInput, prepare_input
from lorecall.adapters.training.train import TrainingProgress, TrainingRecord, train_on


@dataclass(frozen=True, slots=True)
class CellKey:
    """The inputs of a cell: the same key gives the same adapter. The field names are columns of the file."""

    rank: int
    method: str
    seed: int
    epochs: int
    lr: float
    schedule: str
    batch_size: int
    dropout: float
    layers: str
    modules: str
    base_digest: str
    data_digest: str
    held_out_digest: str


@dataclass(frozen=True, slots=True)
class CellResult:
    """The measurements of a cell's adapter. The field names are columns of the file.

    Attributes:
        length: Number of target tokens that it was trained on.
        deltaL: Base loss minus adapter loss on them, nats per token.
        base_loss: Mean loss of the base on them, nats.
        loss: Mean loss of the adapter on them, nats.
        tokens_over_half: Number of them with a probability over 0.5.
        effective_parameters: Sum over the adapted modules of rank * (d_in + d_out).
        steps: Number of optimiser steps.
        texts: Number of texts that they are in.
        texts_over_half: Number of those whose every target token has a probability over 0.5.
        held_out_base_loss: Mean loss of the base on the held-out texts, nats per target token; None without them.
        held_out_loss: Mean loss of the adapter on them.
    """

    length: int
    deltaL: float  # noqa: N815  (the name in the memory law)
    base_loss: float
    loss: float
    tokens_over_half: int
    effective_parameters: int
    steps: int
    texts: int
    texts_over_half: int
    held_out_base_loss: float | None
    held_out_loss: float | None


COLUMNS = tuple(field.name for part in (CellKey, CellResult) for field in fields(part))


@dataclass(frozen=True, slots=True)
class Grid:
    """The values to combine, each combination one cell; lengths are in target tokens."""

    ranks: Sequence[int]
    lengths: Sequence[int]
    methods: Sequence[str] = ("sft",)
    seeds: Sequence[int] = (0,)

    def __len__(self) -> int:
        return len(self.ranks) * len(self.lengths) * len(self.methods) * len(self.seeds)


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a sweep; `result` is None if the file had it already."""

    key: CellKey
    result: CellResult | None


def run_sweep(
    base: Path,
    data: Path,
    out: Path,
    grid: Grid,
    options: TrainingOptions,
    on_step: Callable[[TrainingProgress], None] = lambda _progress: None,
    held_out: Path | None = None,
) -> Iterator[Cell]:
    """Train the cells of `grid` that `out` lacks, append each when it is done, and yield every cell.

    For a length the first texts of `data` are taken that together hold at least that many target tokens, or of a
    single text the beginning. No cell stops at a probability, so cells differ in rank, length, method and seed
    only; with the schedule "plateau" a cell stops where it gains nothing more.

    Args:
        base: A prepared base.
        data: JSON Lines of training pairs.
        out: The CSV file; created if it is missing.
        grid: The cells.
        options: The other options; rank, method, seed and stop_over come from the grid.
        on_step: Called after every training step.
        held_out: JSON Lines of pairs on which each adapter is measured, and not trained.

    Raises:
        UsageError: The data is shorter than a length, or `out` is not the file of a sweep.
    """
    base_digest = read_base_manifest(base).digest
    held_out_digest = "" if held_out is None else read_pairs(held_out).digest
    known = finished_cells(out)
    texts = [first_texts(base, data, length) for length in grid.lengths]
    for pairs, seed in product(texts, grid.seeds):
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / "data.jsonl"
            file.write_text("".join(json.dumps(asdict(pair)) + "\n" for pair in pairs), encoding="utf-8")
            digest = read_pairs(file).digest
            ready: TrainingInput | None = None  # shared by the cells of one length and seed
            for rank, method in product(grid.ranks, grid.methods):
                asked = replace(options, rank=rank, method=method, seed=seed, stop_over=1.0)
                key = _key(asked, base_digest, digest, held_out_digest)
                if _as_text(key) in known:
                    yield Cell(key, None)
                    continue
                ready = ready or prepare_input(base, file, asked, held_out)
                adapter = Path(scratch) / f"{method}-{rank}"
                record = train_on(ready, adapter, asked, on_step)
                result = _result(record, read_adapter(adapter).effective_parameters)
                append_cell(out, key, result)
                yield Cell(key, result)


def finished_cells(path: Path) -> set[tuple[str, ...]]:
    """Return the keys of the cells in a sweep's file, as text; an empty set if there is no file.

    A last line without its end is what a kill or a full disk left of a row. Whether its last number is whole is
    unknown, so it is cut off the file, and its cell is trained again.

    Raises:
        UsageError: Its columns are not a sweep's.
    """
    content = path.read_bytes() if path.exists() else b""
    end = content.rfind(b"\n") + 1
    reader = csv.DictReader(content[:end].decode("utf-8", "replace").splitlines())
    begun = end == 0 and ",".join(COLUMNS).encode().startswith(content)
    if tuple(reader.fieldnames or ()) != COLUMNS and not begun:
        raise UsageError(
            f"{path} is not a sweep's file", hint=f"its columns are {','.join(COLUMNS)}", param="out"
        )
    if end < len(content):
        os.truncate(path, end)
    return {tuple(row[field.name] for field in fields(CellKey)) for row in reader}


def first_texts(base: Path, data: Path, length: int) -> tuple[Pair, ...]:
    """Return the first pairs of `data` whose targets hold at least `length` tokens of the base's tokenizer.

    A single pair's target is cut after `length` tokens, or after the next one where the text up to there is read
    as the same tokens.

    Raises:
        UsageError: All pairs together hold fewer.
    """
    from transformers import AutoTokenizer  # noqa: PLC0415

    tokenizer = AutoTokenizer.from_pretrained(base)
    pairs = read_pairs(data).pairs
    tokens = 0
    for count, pair in enumerate(pairs, start=1):
        tokens += len(tokenizer(pair.target, add_special_tokens=False).input_ids)
        if tokens >= length:
            return pairs[:count] if len(pairs) > 1 else (_cut(tokenizer, pairs[0], length),)
    raise UsageError(
        f"{data} holds {tokens} target tokens, fewer than the length {length}",
        hint="name shorter lengths, or more data",
        param="lengths",
    )


def _cut(tokenizer: Any, pair: Pair, length: int) -> Pair:
    """Return a pair with the first tokens of its target, at least `length`, that are read as they were."""
    ids = tokenizer(pair.target, add_special_tokens=False).input_ids
    for count in range(length, len(ids)):
        beginning = tokenizer.decode(ids[:count])
        read = tokenizer(beginning, add_special_tokens=False).input_ids
        if pair.target.startswith(beginning) and read == ids[:count]:
            return replace(pair, target=beginning)
    return pair


def _key(options: TrainingOptions, base_digest: str, data_digest: str, held_out_digest: str) -> CellKey:
    return CellKey(
        rank=options.rank,
        method=options.method,
        seed=options.seed,
        epochs=options.epochs,
        lr=options.lr,
        schedule=options.schedule,
        batch_size=options.batch_size,
        dropout=options.dropout,
        layers=options.layers,
        modules=options.modules,
        base_digest=base_digest,
        data_digest=data_digest,
        held_out_digest=held_out_digest,
    )


def _result(record: TrainingRecord, effective_parameters: int) -> CellResult:
    return CellResult(
        length=record.target_tokens,
        deltaL=record.base_loss - record.loss,
        base_loss=record.base_loss,
        loss=record.loss,
        tokens_over_half=record.tokens_over_half,
        effective_parameters=effective_parameters,
        steps=record.steps,
        texts=record.pairs,
        texts_over_half=record.texts_over_half,
        held_out_base_loss=record.held_out_base_loss,
        held_out_loss=record.held_out_loss,
    )


def _as_text(key: CellKey) -> tuple[str, ...]:
    return tuple(str(value) for value in astuple(key))


def append_cell(path: Path, key: CellKey, result: CellResult) -> None:
    """Write one line and force it to disk, so that a killed sweep keeps its finished cells."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        if file.tell() == 0:
            writer.writerow(COLUMNS)
        writer.writerow([*_as_text(key), *("" if value is None else value for value in astuple(result))])
        file.flush()
        os.fsync(file.fileno())
    sync(path.parent)
