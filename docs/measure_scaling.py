# noqa: INP001  (a script, not a package)
"""Measure docs/scaling.md on a real engine: one part of an audit, from which a bulk audit's time is predicted.

    python docs/measure_scaling.py --base DIR --adapters FOLDER --snippets N

Short and long texts are scored, and two lengths of answer decoded, before and after the bulk audit. From these
follow the operations a second, the cost of an item and that of a decoding step; the audit's own texts are others.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
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
ITEMS, STEPS, REPEATS = 64, (8, 40), 2
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


def calibrate(scorer: HttpScorer, run: int) -> dict[str, float]:
    """Return operations a second, seconds an item, and seconds of a decoding step and before the first."""
    rows, seconds = [], []
    for words in (6, 60):
        for model, rank in ((scorer.info().base, 0), (CALIBRATED, RANKS[CALIBRATED])):
            clock = time.monotonic()
            scores = scorer.score(model, items(run, words))
            seconds.append(time.monotonic() - clock)
            flops = [scoring_flops(SMOL, rank, len(one.prefix_ids), len(one.target_ids)) for one in scores]
            rows.append([ITEMS, sum(flops)])
    per_item, per_flop = np.linalg.lstsq(np.array(rows), np.array(seconds), rcond=None)[0]
    prompts = [one.prefix_ids for one in scorer.score(CALIBRATED, items(run, 6))]
    took = []
    for steps in STEPS:
        clock = time.monotonic()
        scorer.decode(CALIBRATED, [(ids, steps) for ids in prompts])
        took.append(time.monotonic() - clock)
    step = (took[1] - took[0]) / (STEPS[1] - STEPS[0])
    return {
        "flops_a_second": 1.0 / float(per_flop),
        "seconds_an_item": float(per_item),
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
            parts = [calibrate(scorer, run) for run in range(2, 2 + REPEATS)]
            words = [
                "--candidates",
                str(work / "candidates.jsonl"),
                "--server",
                server.url,
                "--adapters",
                "*",
            ]
            subprocess.run([*COMMAND, *words, "--out", str(work / "out")], check=False)  # noqa: S603  ours
            parts += [calibrate(scorer, run) for run in range(9, 9 + REPEATS)]
            sample = scorer.score(
                scorer.info().base, [ScoreItem(r["id"], r["prefix"], r["target"]) for r in rows[:ITEMS]]
            )
        results = sorted((work / "out" / "results").iterdir())
        tables = [pq.read_table(file) for file in results]
        begun = (work / "out.candidates" / "blocks" / "plan.json").stat().st_mtime
        seconds = min(file.stat().st_mtime for file in results) - begun  # without Ray's start and the reading
    found = {name: statistics.median(part[name] for part in parts) for name in parts[0]}
    spread = {name: [min(p[name] for p in parts), max(p[name] for p in parts)] for name in parts[0]}
    told = {
        "calibrated": found,
        "spread": spread,
        "seconds": seconds,
        "pairs": sum(table.num_rows for table in tables),
        "adapters": len(tables),
        "prefix_tokens": statistics.mean(len(one.prefix_ids) for one in sample),
        "target_tokens": statistics.mean(len(one.target_ids) for one in sample),
    }
    print(json.dumps(told, indent=1))  # noqa: T201


if __name__ == "__main__":
    main()
