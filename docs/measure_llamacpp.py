# noqa: INP001  (a script, not a package)
r"""Measure docs/benchmarks/llama-cpp.md: our server beside llama.cpp's, on the same cores in alternating rounds.

    python docs/measure_llamacpp.py --llama-server BIN --gguf Q8_0_FILE --converter convert_lora_to_gguf.py \
      --base INT8_DIR --unquantised FLOAT_DIR --out docs/benchmarks

Needs llama.cpp, in no extra of ours: its `llama-server`, its `convert_lora_to_gguf.py`, and the unquantised base
as Q8_0 from its `convert_hf_to_gguf.py`. The adapters are random, of rank 16 on all linear layers.
"""

import argparse
import json
import os
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
from lorecall.server.bench.catalogue.filling import link_adapters
from lorecall.server.bench.lora import Load
from lorecall.server.bench.material import random_prompts
from lorecall.server.bench.paired import SETTLE_S, Row, make_row, take_turns
from lorecall.server.bench.processes.serving import HttpServer, free_port
from lorecall.server.bench.report import Result
from lorecall.server.bench.versus import write_adapters

ADAPTERS, RANK, REQUESTS, CONTEXT = 8, 16, 16, 1024
START_S = 60
SWAPS = 3
"""In one round; the median counts."""

PROMPT = random_prompts(1, 16, seed=0)[0]
OURS, BFLOAT16 = "float32 adapters", "bfloat16 adapters"
THEIRS, PROBS = "llama.cpp", "llama.cpp, n_probs 1"
FLAGS = ("--max-model-len", str(CONTEXT), "--no-enable-prefix-caching")
EDGELORA = 4.0
"""Of llama.cpp's throughput with many adapters (Shen et al. 2025): the target where adapters are mixed."""

NOTES = """
Both got the same prompts as token ids from one client, greedy, to the last token asked for, without a
prefix cache.

Prefill: 256 tokens in, 1 out, the rate that of tokens in. Decode: 16 in, 48 out, the rate that of tokens out
over the whole time, prefill included. "1 request" is two, one after the other.

llama.cpp puts requests into one batch where their adapters are the same: eight mixed adapters are eight batches.

Ours answers every token's top-1 log-probability, which is its default; llama.cpp does in the rows with n_probs 1.

Not the same: ours rounds activations and weights to 8 bits by row and channel (W8A8), and its keys and values
are float32; Q8_0 rounds both in blocks of 32 with a scale each, and its keys and values are float16.

A swap: from the order to the first token of the new version, at rest. llama-server takes adapters at its start
only (it can change their scales while it runs), so its swap is a restart with other files, which ends what it
was answering.
"""


@dataclass(frozen=True, slots=True)
class Work(Load):
    """A load, and how many of its requests are sent at a time."""

    together: int


WORK = {
    "prefill of 8 requests": Work(8, 256, 1, together=8),
    "decode of 1 request": Work(2, 16, 48, together=1),
    "decode of 4 requests": Work(4, 16, 48, together=4),
    "decode of 16 requests": Work(16, 16, 48, together=16),
}
MIXES = {"base alone": 0, "1 adapter": 1, "8 adapters mixed": ADAPTERS}
Body = Callable[[int | None], dict[str, Any]]
"""What a request needs to be answered through an adapter, by its number; None for the base."""


def ours_body(adapter: int | None) -> dict[str, Any]:
    """Return what names the adapter to our server."""
    return {"model": "base" if adapter is None else f"adapter-{adapter:02d}"}


def theirs_body(adapter: int | None) -> dict[str, Any]:
    """Return what names the adapter to llama.cpp (none named is all of them), and keeps its prompt cache out."""
    return {"lora": [{"id": adapter or 0, "scale": float(adapter is not None)}], "cache_prompt": False}


def probs_body(adapter: int | None) -> dict[str, Any]:
    """Return the same, with the top-1 log-probability of every token."""
    return {**theirs_body(adapter), "n_probs": 1}


class LlamaServer:
    """A process of llama.cpp's server.

    Args:
        command: Its binary, model and flags.
        adapters: LoRA files, in the order of their ids.
        log: File for its output.

    Raises:
        SystemExit: It does not start.
    """

    def __init__(self, command: Sequence[str], adapters: Sequence[Path], log: Path) -> None:
        port = free_port()
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=600)
        loras = ("--lora", ",".join(map(str, adapters)))
        with log.open("w") as sink:
            self._process = subprocess.Popen(  # noqa: S603  (the caller's own binary)
                [*command, *loras, "--port", str(port)], stdout=sink, stderr=subprocess.STDOUT
            )
        end = time.monotonic() + START_S
        while time.monotonic() < end and self._process.poll() is None:
            with suppress(httpx.TransportError):
                if self.http.get("/health").is_success:
                    return
            time.sleep(0.01)
        self.close()
        raise SystemExit(f"llama-server did not start: {log.read_text()[-1000:]}")

    def close(self) -> None:
        """Stop it."""
        self.http.close()
        self._process.send_signal(signal.SIGTERM)
        self._process.wait()


def complete(http: httpx.Client, body: Mapping[str, Any], ids: Sequence[int], generate: int) -> None:
    """Ask for a completion and check that it has every token."""
    asked = {"prompt": ids, "max_tokens": generate, "temperature": 0, "ignore_eos": True, **body}
    usage = http.post("/v1/completions", json=asked).raise_for_status().json()["usage"]
    if (usage["prompt_tokens"], usage["completion_tokens"]) != (len(ids), generate):
        raise SystemExit(f"asked for {generate} tokens after {len(ids)}, and got {usage}")


def rate(http: httpx.Client, bodies: Sequence[Mapping[str, Any]], work: Work) -> float:
    """Return tokens per second of requests with these bodies."""

    def ask(number: int) -> None:
        complete(http, bodies[number], prompts[number], work.generate)

    prompts = random_prompts(work.requests, work.prompt, seed=work.requests)
    began = time.perf_counter()
    with ThreadPoolExecutor(work.together) as pool:
        list(pool.map(ask, range(work.requests)))
    return work.counted / (time.perf_counter() - began)


def rates(http: httpx.Client, body: Body, only: str = "") -> dict[str, float]:
    """Return a server's rates by work and mix, of those whose name has `only` in it."""
    found = {}
    for mix, adapters in MIXES.items():
        for title, work in WORK.items():
            bodies = [body(number % adapters if adapters else None) for number in range(work.requests)]
            if only in (key := f"{title}, {mix}"):
                found[key] = rate(http, bodies, work)
    return found


def throughput_rows(rounds: Sequence[Mapping[str, Mapping[str, float]]]) -> list[Row]:
    """Return a row for each work and mix that two variants share."""
    rows = []
    for ours, theirs in ((OURS, THEIRS), (BFLOAT16, THEIRS), (OURS, PROBS)):
        for key in rounds[0][OURS]:
            if key in rounds[0][ours] and key in rounds[0][theirs]:
                mine, others = ([one[name][key] for one in rounds] for name in (ours, theirs))
                target = EDGELORA if "mixed" in key and "1 request," not in key else 1.0
                rows.append(make_row(f"tok/s, {key}", mine, others, name=ours, against=theirs, target=target))
    return rows


def swap_ours(server: HttpServer, fresh: Iterator[Path]) -> float:
    """Return the median milliseconds from a new version's arrival to its first token."""
    seconds = []
    for path in islice(fresh, SWAPS):
        began = time.perf_counter()
        body = {"lora_name": "adapter-00", "lora_path": str(path), "load_inplace": True}
        server.http.post("/v1/load_lora_adapter", json=body).raise_for_status()
        complete(server.http, ours_body(0), PROMPT, 1)
        seconds.append(time.perf_counter() - began)
    return 1000 * statistics.median(seconds)


class Restarted:
    """llama.cpp's server, started anew for every swap.

    Args:
        start: Starts one with these adapters.
        files: The adapters.
    """

    def __init__(self, start: Callable[[Sequence[Path]], LlamaServer], files: Sequence[Path]) -> None:
        self._start, self._files = start, list(files)
        self.server = start(files)

    def swap(self) -> float:
        """Return the median milliseconds from the old process's end to the new one's first token."""
        seconds = []
        for _ in range(SWAPS):
            self._files = [*self._files[1:], self._files[0]]
            began = time.perf_counter()
            self.server.close()
            self.server = self._start(self._files)
            complete(self.server.http, theirs_body(0), PROMPT, 1)
            seconds.append(time.perf_counter() - began)
        return 1000 * statistics.median(seconds)

    def close(self) -> None:
        """Stop the last one."""
        self.server.close()


def convert(converter: Path, base: Path, adapter: Path) -> Path:
    """Return the adapter as a float32 LoRA file, made by llama.cpp's converter."""
    out = adapter.with_suffix(".gguf")
    command = [sys.executable, str(converter), "--base", str(base), "--outfile", str(out), str(adapter)]
    subprocess.run(command, check=True, capture_output=True)  # noqa: S603  (the caller's own script)
    return out


def measure(asked: argparse.Namespace, work: Path, started: ExitStack) -> Result:
    """Start the servers and measure."""
    cores = str(len(os.sched_getaffinity(0)))
    slots = ("-np", str(REQUESTS), "-c", str(REQUESTS * CONTEXT), "--cache-ram", "0")
    theirs_command = (str(asked.llama_server), "-m", str(asked.gguf), "-t", cores, *slots)
    made = write_adapters(asked.unquantised, work, ADAPTERS, RANK)
    files = [convert(asked.converter, asked.unquantised, path) for path in made]

    def start_ours(name: str, *flags: str) -> HttpServer:
        environ = {
            "LORECALL_STORE": str(work / name),
            "LORECALL_ADAPTERS": json.dumps({path.name: str(path) for path in made}),
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        }
        server = HttpServer(asked.base, work / f"{name}.log", (*FLAGS, *flags), environ=environ)
        started.callback(server.close)
        return server

    theirs = Restarted(lambda adapters: LlamaServer(theirs_command, adapters, work / "llama.log"), files)
    started.callback(theirs.close)
    ours, half = start_ours("ours"), start_ours("half", "--lora-dtype", "bfloat16")
    build = theirs.server.http.get("/props").json()["build_info"]
    variants = {
        OURS: partial(rates, ours.http, ours_body),
        BFLOAT16: partial(rates, half.http, ours_body, "adapter"),
        THEIRS: partial(rates, theirs.server.http, theirs_body),
        PROBS: partial(rates, theirs.server.http, probs_body, "16 requests, base"),
    }
    found = Result(shlex.join(["python", *sys.argv]), asked.rounds)
    found.sections["Throughput"] = throughput_rows(list(take_turns(asked.rounds, variants, SETTLE_S)))
    entries = link_adapters(made, work / "new", SWAPS * (asked.rounds + 1), RANK)
    fresh = (one.source for one in entries)
    swaps = list(
        take_turns(asked.rounds, {"ours": partial(swap_ours, ours, fresh), "theirs": theirs.swap}, SETTLE_S)
    )
    columns = ([one[name] for one in swaps] for name in ("ours", "theirs"))
    labels = {"name": OURS, "against": f"{THEIRS}, restarted", "less_is_better": True}
    found.sections["Swap"] = [make_row("ms to the first token", *columns, **labels)]
    their_flags = shlex.join(theirs_command[3:])
    found.notes = [f"llama.cpp {build}: `llama-server {their_flags}`; its adapters are float32, too."]
    found.notes += [" ".join(note.split()) for note in NOTES.split("\n\n")]
    return found


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("llama-server", "gguf", "converter", "base", "unquantised", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as started:
        found = measure(asked, Path(folder), started)
    found.write(asked.out, "llama-cpp")


if __name__ == "__main__":
    main()
