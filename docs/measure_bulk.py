# noqa: INP001  (a script, not a package)
r"""Measure docs/benchmarks/bulk.json: `audit bulk` on a real engine, beside its parts and beside `audit run`.

    python docs/measure_bulk.py --base BASE_DIR --adapter DIR --adapter DIR --candidates FILE --controls FILE

The parts are measured first: what a token costs that is scored, and one that is decoded, on some of the
snippets; and what the command costs on next to nothing. Then each adapter is audited alone, and the rows are
compared.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import ray
from lorecall.audit.bulk.cluster import LOCAL, started
from lorecall.audit.inputs.load import load_input
from lorecall.audit.scorers.http_scorer import HttpScorer
from lorecall.server.bench.processes.serving import HttpServer
from lorecall.server.bench.report import machine

OUT = Path(__file__).with_name("benchmarks") / "bulk.json"
COMMAND = (sys.executable, "-c", "from lorecall.server.cli.main import main; main()")
FLAGS = ("--max-model-len", "1024", "--max-num-seqs", "64", "--max-loras", "4", "--max-lora-rank", "64")
SAMPLE, FEW = 64, 4
EPSILON = "0.02"
"""Stated to both ways, so that neither measures it: half as much again as this engine's."""

TOKENS = re.compile(r'lorecall_tokens_total\{.*kind="(\w+)".*\} (\S+)')


def tokens(server: HttpServer) -> dict[str, float]:
    """Return the tokens of prompts and of answers so far, of all models."""
    found = {"prompt": 0.0, "generated": 0.0}
    for kind, count in TOKENS.findall(server.http.get("/metrics").text):
        found[kind] += float(count)
    return found


@contextmanager
def counted(server: HttpServer) -> Iterator[dict[str, float]]:
    """Yield what will hold the block's seconds, and its tokens of prompts and answers."""
    before, began, found = tokens(server), time.perf_counter(), dict[str, float]()
    yield found
    found["seconds"] = time.perf_counter() - began
    found |= {kind: count - before[kind] for kind, count in tokens(server).items()}


def audit(server: HttpServer, words: Sequence[str]) -> dict[str, float]:
    """Run `lorecall audit` with some words on a server; return its seconds and tokens."""
    with counted(server) as found:
        more = ["--server", server.url, "--epsilon", EPSILON]
        done = subprocess.run([*COMMAND, "audit", *words, *more], check=False)  # noqa: S603  (our own command)
    if done.returncode not in (0, 1):
        raise SystemExit(f"audit {words[0]} ended with {done.returncode}")
    return found


def parts(server: HttpServer, names: Sequence[str], candidates: Path) -> dict[str, Any]:
    """Return what scoring and decoding some snippets takes, through the adapters in turn and the base."""
    items = list(load_input(candidates).items)
    items = items[:: max(1, len(items) // SAMPLE)][:SAMPLE]
    with HttpScorer(server.url) as scorer:
        models = (*names, scorer.info().base)
        for model in models:
            scorer.score(model, items[:8])
        with counted(server) as scoring:
            scores = [scorer.score(model, items) for model in models]
        prompts = [(one.prefix_ids, len(one.target_ids) + 16) for one in scores[0] if not one.error]
        with counted(server) as decoding:
            for model in models:
                scorer.decode(model, prompts)
    return {"scoring": scoring, "decoding": decoding}


def summed(found: dict[str, dict[str, float]]) -> float:
    """Return a bulk audit's seconds as the sum of its parts, by the cost model of docs/scaling.md.

    The parts: the command on next to nothing, and the tokens that are scored and decoded at what they cost on a
    sample, where a prompt that is decoded is read first.
    """
    scoring, decoding, fixed, bulk = (found[part] for part in ("scoring", "decoding", "fixed", "bulk"))
    read = scoring["seconds"] / scoring["prompt"]
    written = (decoding["seconds"] - read * decoding["prompt"]) / decoding["generated"]
    scored = scoring["generated"] / scoring["prompt"] * bulk["prompt"]  # a scored text counts one
    return fixed["seconds"] + read * bulk["prompt"] + written * (bulk["generated"] - scored)


def different(rows: Sequence[dict[str, Any]], report: dict[str, Any]) -> list[str]:
    """Return the snippets that have another verdict in the report than in the rows."""
    alone = {(one["set"], one["id"]): one["verdict"] for one in report["snippets"]}
    found = {(row["set"], row["id"]): row["verdict"] for row in rows}
    if len(found) != len(rows) or found.keys() < alone.keys():
        raise SystemExit("rows are missing, or there are two of one snippet")
    return [one[1] for one in alone if alone[one] != found[one]]


def main() -> None:
    """Measure, and write the file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--adapter", type=Path, action="append", required=True)
    parser.add_argument("--candidates", type=Path, required=True)
    parser.add_argument("--controls", type=Path, required=True)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, started(LOCAL, cpus=2):
        work, address = Path(folder), ray.get_runtime_context().gcs_address
        few = work / "few.jsonl"
        few.write_text("".join(asked.candidates.read_text().splitlines(keepends=True)[:FEW]))
        environ = {"LORECALL_STORE": str(work / "store")}
        server = HttpServer(asked.base, work / "log", FLAGS, environ=environ)
        try:
            for one in asked.adapter:
                body = {"name": one.name, "source": str(one.resolve())}
                server.http.post("/v1/adapters", json=body).raise_for_status()
            names = [one.name for one in asked.adapter]
            parts(server, names, few)  # uncounted: the first requests pay for more than their tokens
            found: dict[str, Any] = {"machine": machine(), "adapters": len(names)}
            found |= parts(server, names, asked.candidates)
            bulk = ["bulk", "--adapters", "*", "--ray", address, "--decode", "likely"]
            sets = ["--candidates", str(asked.candidates), "--controls", str(asked.controls)]
            found["fixed"] = audit(server, [*bulk, "--candidates", str(few), "--out", str(work / "few")])
            found["bulk"] = audit(server, [*bulk, *sets, "--out", str(work / "bulk")])
            found["bulk_summed"] = summed(found)
            tables = [pq.read_table(one).to_pylist() for one in (work / "bulk" / "results").iterdir()]
            found["alone"], found["verdicts"] = {}, {}
            for rows in tables:
                name = rows[0]["adapter"]
                run = ["run", "--adapter", name, *sets, "--decode", "likely", "--out", str(work / name)]
                found["alone"][name] = audit(server, run)
                report = json.loads((work / name / "report.json").read_text())
                other = different(rows, report)
                found["alone"][name] |= {
                    "rows": len(rows),
                    "compared": len(report["snippets"]),
                    "other": other,
                }
                found["verdicts"][name] = report["summary"]["verdicts"]
                OUT.write_text(json.dumps(found, indent=2) + "\n")
        finally:
            server.close()


if __name__ == "__main__":
    main()
