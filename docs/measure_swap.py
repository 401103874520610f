# noqa: INP001  (a script, not a package)
r"""Measure docs/loadtests/swap.md: a swap on our server beside `load_inplace` on a stock one, both at rest.

python docs/measure_swap.py --base BASE_DIR --out docs/loadtests/swap.md
"""

import argparse
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

from lorecall.server.bench.catalogue.filling import link_adapters
from lorecall.server.bench.paired import make_row, show, take_turns
from lorecall.server.bench.processes.serving import HttpServer
from lorecall.server.bench.report import machine, machine_line
from lorecall.server.bench.versus import both, write_adapters

NAME = "swapped"
SWAPS = 5
"""Of one kind, for each server and round; the median counts."""

FLAGS = ("--max-model-len", "512", "--max-num-seqs", "8", "--max-cpu-loras", "8")
METHOD = """
One name moves from one version to the next while nobody else asks anything, {swaps} times of each kind a
round; a round's value is their median. One round uncounted, then {rounds} in alternating order. The table has
the medians of the rounds, and the geometric mean of the ratios with a 95 % percentile bootstrap interval over
them. Adapters of rank {rank}, {size:.1f} MB.
"""
KINDS = {
    "new": "to bytes that the server never saw, ms",
    "known": "to one of two versions that take turns, ms",
}
PARTS = {
    "lorecall_adapter_load_seconds": "the engine's load",
    "lorecall_adapter_swap_seconds": "the same, with the registry's commit and the move of the name",
}


class Swapped:
    """One server, and the adapters that it is moved to.

    Args:
        server: It.
        known: Two adapters that take turns.
        fresh: Adapters that are used once.
    """

    def __init__(self, server: HttpServer, known: Sequence[Path], fresh: Sequence[Path]) -> None:
        self._server = server
        self._sources = {"known": cycle(known), "new": iter(fresh)}
        for _ in known:
            self._swap("known")

    def round(self) -> dict[str, float]:
        """Swap some times to each kind; return the medians in milliseconds, and of ours those of the parts."""
        found = dict[str, float]()
        for kind in KINDS:
            swaps = [self._swap(kind) for _ in range(SWAPS)]
            found |= {f"{kind} {part}": statistics.median(one[part] for one in swaps) for part in swaps[0]}
        return found

    def _swap(self, kind: str) -> dict[str, float]:
        body = {"lora_name": NAME, "lora_path": str(next(self._sources[kind])), "load_inplace": True}
        before = self._parts()
        began = time.perf_counter()
        self._server.http.post("/v1/load_lora_adapter", json=body).raise_for_status()
        whole = 1000 * (time.perf_counter() - began)
        return {"whole": whole, **{part: 1000 * (now - before[part]) for part, now in self._parts().items()}}

    def _parts(self) -> dict[str, float]:
        """Return the seconds so far of each part; a stock server tells none."""
        lines = [line.rpartition(" ") for line in self._server.http.get("/metrics").text.splitlines()]
        return {name: float(value) for name, _, value in lines if name.removesuffix("_sum") in PARTS}


def page(rounds: Sequence[dict[str, dict[str, float]]], rank: int, size: float) -> str:
    """Return the page as Markdown."""
    command = shlex.join(["python", *sys.argv])
    lines = ["# A swap, beside `load_inplace` of a stock server", "", machine_line(command, machine())]
    lines += [METHOD.format(swaps=SWAPS, rounds=len(rounds), rank=rank, size=size)]
    lines += ["| a swap at rest | ours | stock vLLM | ratio | interval |", "|---|---:|---:|---:|---|"]
    for kind, text in KINDS.items():
        ours, stock = ([one[name][f"{kind} whole"] for one in rounds] for name in ("ours", "stock"))
        lines.append(
            "| " + " | ".join((text, *make_row(kind, ours, stock, less_is_better=True).cells())) + " |"
        )
        for part, what in PARTS.items():
            inside = statistics.median(one["ours"][f"{kind} {part}_sum"] for one in rounds)
            lines.append(f"| of it {what} | {show(inside)} | | | |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rank", type=int, default=8)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        made = write_adapters(asked.base, work, 2, asked.rank)
        entries = link_adapters(made, work / "new", SWAPS * (asked.rounds + 1), asked.rank)
        fresh = [one.source for one in entries]
        with both(asked.base, work, FLAGS, 4, asked.rank) as servers:
            swapped = [Swapped(one, made, fresh) for one in servers]
            runs = {name: one.round for name, one in zip(("ours", "stock"), swapped, strict=True)}
            rounds = list(take_turns(asked.rounds, runs))
        size = (made[0] / "adapter_model.safetensors").stat().st_size / 1e6
    asked.out.write_text(page(rounds, asked.rank, size), encoding="utf-8")


if __name__ == "__main__":
    main()
