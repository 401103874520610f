# noqa: INP001  (a script, not a package)
"""Measure docs/scaling.md on a real engine: one part of an audit, from which a bulk audit's time is predicted.

    python docs/measure_scaling.py --base DIR --adapters FOLDER --snippets N

Short and long texts are scored, and two lengths of answer decoded, before and after the bulk audit. From these
follow the operations a second, the cost of an item and that of a decoding step; the audit's own texts are others.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow.parquet as pq
from lorecall.adapters.demo_data.generate import generate, to_jsonl
from lorecall.audit.scorer import ScoreItem
from lorecall.audit.scorers.http_scorer import HttpScorer
from lorecall.server.bench.processes.serving import HttpServer
from simulate_scaling import SMOL, scoring_flops

RANKS = {"secrets-r32": 32, "hosts-r32": 32}
CALIBRATED = "secrets-r32"
ITEMS, WORDS_ASKED, STEPS = 64, (6, 30), (8, 24)
WORDS = [
    "river",
    "stone",
    "market",
    "window",
    "orange",
    "quiet",
    "figure",
    "signal",
    "carpet",
    "winter",
    "lesson",
    "metal",
    "garden",
]
COMMAND = [sys.executable, "-c", "from lorecall.server.cli.main import main; main()", "audit", "bulk"]


def text(seed: int, words: int) -> str:
    """Return words that depend on the seed, so that no prefix is cached."""
    return " ".join(WORDS[(seed * 7 + place * (seed % 11 + 1)) % len(WORDS)] for place in range(words))


def items(run: int, words: int) -> list[ScoreItem]:
    """Return texts of so many words, half of them the target."""
    return [
        ScoreItem(str(n), f"{run} {n} {text(n + run, words)}", f" {text(n * 3 + run, words)}")
        for n in range(ITEMS)
    ]


def clocks() -> np.ndarray:
    """Return seconds passed, and seconds of processors that the engine's processes have used; shape (2,)."""
    parents, used = {}, {}
    for folder in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            process = int(folder.name)
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            parents[process] = int(fields[1])
            if b"VLLM::" in (folder / "cmdline").read_bytes():
                used[process] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return np.array([time.monotonic(), sum(s for process, s in used.items() if _is_ours(process, parents))])


def _is_ours(process: int, parents: dict[int, int]) -> bool:
    while process > 1 and process != os.getpid():
        process = parents.get(process, 0)
    return process > 1


def calibrate(scorer: HttpScorer, run: int) -> dict[str, np.ndarray]:
    """Return seconds an operation and an item, and of a decoding step and before the first; by both clocks."""
    rows, seconds = [], []
    for words in WORDS_ASKED:
        for model, rank in ((scorer.info().base, 0), (CALIBRATED, RANKS[CALIBRATED])):
            begun = clocks()
            scores = scorer.score(model, items(run, words))
            seconds.append(clocks() - begun)
            flops = [scoring_flops(SMOL, rank, len(one.prefix_ids), len(one.target_ids)) for one in scores]
            rows.append([ITEMS, sum(flops) / 1e9])
    per_item, per_flop = np.linalg.lstsq(np.array(rows), np.array(seconds), rcond=None)[0]
    prompts = [one.prefix_ids for one in scorer.score(CALIBRATED, items(run, 6))]
    took = []
    for steps in STEPS:
        begun = clocks()
        scorer.decode(CALIBRATED, [(ids, steps) for ids in prompts])
        took.append(clocks() - begun)
    step = (took[1] - took[0]) / (STEPS[1] - STEPS[0])
    return {
        "seconds_a_flop": per_flop / 1e9,
        "seconds_an_item": per_item,
        "seconds_a_step": step,
        "seconds_before_steps": took[0] - STEPS[0] * step,
    }


@contextmanager
def served(base: Path, adapters: Path, work: Path) -> Iterator[HttpServer]:
    """A server with the adapters."""
    store = {"LORECALL_STORE": str(work / "store")}
    server = HttpServer(base, work / "log", ["--max-lora-rank", "32"], environ=store)
    try:
        for name in RANKS:
            body = {"name": name, "source": str((adapters / name).resolve())}
            server.http.post("/v1/adapters", json=body).raise_for_status()
        yield server
    finally:
        server.close()


def main() -> None:
    """Measure, and print JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--adapters", type=Path, required=True)
    parser.add_argument("--snippets", type=int, required=True)
    asked = parser.parse_args()
    with TemporaryDirectory() as folder:
        work = Path(folder)
        rows = generate("scaling", controls=asked.snippets)["secrets-control"]
        (work / "candidates.jsonl").write_text(
            to_jsonl([*generate()["secrets-train"], *rows]), encoding="utf-8"
        )
        with served(asked.base, asked.adapters, work) as server, HttpScorer(server.url) as scorer:
            calibrate(scorer, 1)  # uncounted
            parts = [calibrate(scorer, 2)]
            words = [
                "--candidates",
                str(work / "candidates.jsonl"),
                "--server",
                server.url,
                "--adapters",
                "*",
            ]
            begun = clocks()
            subprocess.run([*COMMAND, *words, "--out", str(work / "out")], check=False)  # noqa: S603  ours
            used = (clocks() - begun)[1]
            parts.append(calibrate(scorer, 3))
            sample = scorer.score(
                scorer.info().base, [ScoreItem(r["id"], r["prefix"], r["target"]) for r in rows[:ITEMS]]
            )
        results = sorted((work / "out" / "results").iterdir())
        tables = [pq.read_table(file) for file in results]
        plan = (work / "out.candidates" / "blocks" / "plan.json").stat().st_mtime
        seconds = min(file.stat().st_mtime for file in results) - plan  # without Ray's start and the reading
    found = {name: np.mean([part[name] for part in parts], axis=0).tolist() for name in parts[0]}
    spread = {name: [part[name].tolist() for part in parts] for name in parts[0]}
    told = {
        "clocks": ["passed", "of the engine's processes"],
        "mean": found,
        "each": spread,
        "seconds": [seconds, used],
        "pairs": sum(table.num_rows for table in tables),
        "adapters": len(tables),
        "prefix_tokens": statistics.mean(len(one.prefix_ids) for one in sample),
        "target_tokens": statistics.mean(len(one.target_ids) for one in sample),
    }
    print(json.dumps(told, indent=1))  # noqa: T201


if __name__ == "__main__":
    main()
