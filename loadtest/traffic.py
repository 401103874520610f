"""The measured requests: vLLM's own `bench serve`, as a process."""

import json
import math
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lorecall.loadtest.errors import LoadtestError
from lorecall.loadtest.scenario import Traffic
from lorecall.loadtest.target import Target

BENCH = ("vllm", "bench", "serve")
LIMIT_S = 1800
PERCENTILES = "50,99"
RATES = {"request_throughput": "requests_per_s", "output_throughput": "tokens_per_s"}
TIMES = ("ttft", "itl", "e2el")


@dataclass(frozen=True, slots=True)
class Served:
    """The result of `bench serve`.

    Attributes:
        values: Metric to value; times in milliseconds.
        began: When the first request was sent, on this machine's monotonic clock, in seconds.
        seconds: How long all of them took.
        errors: The distinct last lines of failed requests' errors.
        requests: Every request, in the order of their models.
    """

    values: dict[str, float]
    began: float
    seconds: float
    errors: tuple[str, ...]
    requests: tuple["Sent", ...] = ()


@dataclass(frozen=True, slots=True)
class Sent:
    """One request: times in milliseconds, `tpot_ms` the mean from token to token; None where it failed."""

    ttft_ms: float | None
    tpot_ms: float | None


def send(
    traffic: Traffic,
    models: Sequence[str],
    target: Target,
    tokenizer: str,
    out: Path,
    bench: Sequence[str] = BENCH,
) -> Served:
    """Send the traffic and wait for the answers.

    Args:
        traffic: What to send.
        models: The model of each request.
        target: Where to.
        tokenizer: Directory or hub id of the base's tokenizer.
        out: Directory for the raw result and the log.
        bench: The command that is `vllm bench serve`.

    Raises:
        LoadtestError: The command cannot be run, or ends without a result.
    """
    result, log = out / "bench.json", out / "bench.log"
    result.unlink(missing_ok=True)
    command = [*bench, *arguments(traffic, models, target, tokenizer, result)]
    environ = {**os.environ, **({"OPENAI_API_KEY": target.key} if target.key else {})}
    try:
        with log.open("w") as sink:
            done = subprocess.run(  # noqa: S603  (the caller's own command)
                command, stdout=sink, stderr=subprocess.STDOUT, env=environ, timeout=LIMIT_S, check=False
            )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LoadtestError(
            f"{' '.join(bench)} failed: {error}", hint="vLLM must be installed here"
        ) from error
    if done.returncode or not result.exists():
        words = " ".join(log.read_text(errors="replace").splitlines()[-3:])[-500:]
        raise LoadtestError(f"{' '.join(bench)} exited with {done.returncode}; its log is {log}: {words}")
    return read(result)


def arguments(
    traffic: Traffic, models: Sequence[str], target: Target, tokenizer: str, result: Path
) -> list[str]:
    """Return the options of `vllm bench serve`; round-robin over one model per request keeps their sequence."""
    rate = [] if traffic.rate is None else ["--request-rate", str(traffic.rate)]
    return [
        *("--backend", "openai", "--base-url", target.url, "--model", target.base, "--tokenizer", tokenizer),
        *("--dataset-name", "random", "--num-prompts", str(traffic.requests), "--seed", str(traffic.seed)),
        *("--random-input-len", str(traffic.input_tokens), "--random-output-len", str(traffic.output_tokens)),
        *("--max-concurrency", str(traffic.concurrency), *rate, "--temperature", "0", "--disable-tqdm"),
        *("--percentile-metrics", ",".join(TIMES), "--metric-percentiles", PERCENTILES),
        *("--save-result", "--save-detailed", "--result-dir", str(result.parent)),
        *("--result-filename", result.name, "--lora-assignment", "round-robin", "--lora-modules", *models),
    ]


def read(result: Path) -> Served:
    """Read the result of `bench serve`."""
    body = json.loads(result.read_text(encoding="utf-8"))
    values = {name: float(body[key]) for key, name in RATES.items()}
    values |= {f"{time}_p{p}_ms": float(body[f"p{p}_{time}_ms"]) for time in TIMES for p in (50, 99)}
    values |= {"completed": float(body["completed"]), "failed": float(body["failed"])}
    errors = {error.strip().splitlines()[-1][-200:] for error in body["errors"] if error.strip()}
    starts = [start for start in body["start_times"] if start]
    return Served(
        {name: value for name, value in values.items() if math.isfinite(value)},
        min(starts, default=0.0),
        float(body["duration"]),
        tuple(sorted(errors)),
        tuple(map(_sent, body["ttfts"], body["itls"], body["errors"])),
    )


def _sent(ttft: float, itls: Sequence[float], error: str) -> Sent:
    if error.strip():
        return Sent(None, None)
    return Sent(1000 * ttft, 1000 * sum(itls) / len(itls) if itls else 0.0)
