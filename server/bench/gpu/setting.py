"""What every stage of a GPU run needs to know: its folders, its sizes, and how it starts engines and servers."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from lorecall.adapters.core.atomic_file import write_whole
from lorecall.adapters.core.errors import LorecallError
from lorecall.server.bench.processes.host import EngineHost
from lorecall.server.bench.processes.serving import HttpServer
from lorecall.server.engine.start.environment import served_dtype

T = TypeVar("T")

EAGERLY = {"enforce_eager": True}
SHARE = 0.3
"""`--gpu-memory-utilization`: two servers start side by side, and each looks whether so much is free."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much a run asks.

    Attributes:
        shape: The shape of the random base whose speed is measured; see `bases.SHAPES`.
        schemes: The schemes that are compared with transformers.
        snippets: Texts that are scored and decoded, and requests of the mixed batch.
        batches: Requests of a decode step.
        adapters: How many adapters share a batch; the last is also the number of slots.
        generate: Tokens that each request generates.
        rounds: Counted rounds of a measurement.
        streams: Streams while an adapter is swapped.
        registered: How many adapters are registered, fewest first.
        concurrent: Requests that clients send at a time.
        context: The engines' `--max-model-len`.
        cache_bytes: Their key/value cache.
    """

    shape: str = "llama-3.2-1b"
    schemes: tuple[str, ...] = ("none", "fp8", "int8", "int4")
    snippets: int = 512
    batches: tuple[int, ...] = (1, 32, 256)
    adapters: tuple[int, ...] = (1, 8, 32)
    generate: int = 64
    rounds: int = 3
    streams: int = 1000
    registered: tuple[int, ...] = (64, 1000)
    concurrent: int = 64
    context: int = 1024
    cache_bytes: int = 8 << 30


REHEARSAL = Sizes(
    shape="tiny",
    schemes=("none", "int8"),
    snippets=12,
    batches=(1, 4),
    adapters=(1, 2),
    generate=8,
    rounds=1,
    streams=24,
    registered=(3, 6),
    concurrent=4,
    context=1024,
    cache_bytes=1 << 27,
)
"""So little that a CPU runs every stage: it shows that the stages work, and its numbers mean nothing."""


@dataclass(slots=True)
class Setting:
    """One stage's surroundings.

    Attributes:
        work: The folder that all stages share.
        out: The stage's own folder; its pages are Markdown files.
        sizes: How much it asks.
        attention: vLLM's `--attention-backend`; "" leaves it to vLLM.
        notes: What the reader of the page must know, such as that an engine ran eagerly.
    """

    work: Path
    out: Path
    sizes: Sizes
    attention: str = ""
    notes: list[str] = field(default_factory=list)

    def base(self, name: str) -> Path:
        """Return the folder of a base: "speed", or a scheme of the base that is compared with transformers."""
        return self.work / "bases" / name

    def page(self, name: str, lines: list[str]) -> None:
        """Write a page, with the notes so far below it."""
        notes = ["", *(f"- {note}" for note in dict.fromkeys(self.notes))] if self.notes else []
        write_whole(self.out / f"{name}.md", "\n".join([*lines, *notes]) + "\n")

    def engine(
        self, base: Path, name: str, environ: dict[str, str] | None = None, **arguments: Any
    ) -> EngineHost:
        """Start an engine over a base as users run it: with CUDA graphs, or eagerly where that fails.

        Args:
            base: The base.
            name: The name of its log.
            environ: Variables to set.
            arguments: Further keyword arguments of `vllm.LLM`.

        Raises:
            EngineDiedError: It starts neither way.
        """
        own: dict[str, Any] = {
            "model": str(base),
            "dtype": served_dtype(str(base)),
            "max_model_len": self.sizes.context,
            "enable_prefix_caching": False,
            "kv_cache_memory_bytes": self.sizes.cache_bytes,
            "gpu_memory_utilization": SHARE,
            **({"attention_backend": self.attention} if self.attention else {}),
            **arguments,
        }
        graphs = {} if own.get("enforce_eager") else {"cudagraph_capture_sizes": self._captured()}
        return self._graphs_or_eager(
            name,
            lambda: EngineHost(self.out / f"{name}.log", own | graphs, environ=environ),
            lambda: EngineHost(self.out / f"{name}-eager.log", own | EAGERLY, environ=environ),
        )

    def servers(self, base: Path, kinds: dict[str, bool], *flags: str) -> dict[str, HttpServer]:
        """Start servers at the same time, on a GPU of which each takes little; with CUDA graphs, or eagerly.

        Args:
            base: What they serve.
            kinds: A name of each, and whether it is stock vLLM.
            flags: Engine flags of all.

        Raises:
            LorecallError: One starts neither way; none is left running.
        """
        same = [
            *("--dtype", served_dtype(str(base)), "--max-model-len", str(self.sizes.context)),
            *("--no-enable-prefix-caching", "--kv-cache-memory-bytes", str(self.sizes.cache_bytes)),
            *("--gpu-memory-utilization", str(SHARE)),
            *(["--attention-backend", self.attention] if self.attention else []),
            *flags,
        ]
        graphs = ["--cudagraph-capture-sizes", *map(str, self._captured())]
        return self._graphs_or_eager(
            "the servers",
            lambda: self._start(base, kinds, [*same, *graphs], ""),
            lambda: self._start(base, kinds, [*same, "--enforce-eager"], "-eager"),
        )

    def vocabulary(self, base: Path) -> int:
        """Return how many token ids a base has."""
        return int(json.loads((base / "config.json").read_text())["vocab_size"])

    def _captured(self) -> list[int]:
        """Return the batch sizes with graphs: those that are measured, and those between; fewer start faster."""
        return [size for size in (1, 2, 4, 8, 16, 32, 64, 128, 256) if size <= max(self.sizes.batches)]

    def _graphs_or_eager(self, name: str, graphs: Callable[[], T], eager: Callable[[], T]) -> T:
        try:
            return graphs()
        except LorecallError as error:
            started = eager()
            why = " ".join(error.message.rpartition("its last errors: ")[2].split()).replace("|", "\\|")
            self.notes.append(f"{name} ran eagerly, because it did not start with CUDA graphs: {why[:300]}")
            return started

    def _start(
        self, base: Path, kinds: dict[str, bool], flags: list[str], suffix: str
    ) -> dict[str, HttpServer]:
        def start(name: str) -> HttpServer | LorecallError:
            own = {"LORECALL_STORE": str(self.out / f"store-{name}{suffix}"), "LORECALL_LOAD_CHECKS": "0"}
            own["LORECALL_LOCAL_ROOTS"] = str(self.work)
            try:
                log = self.out / f"{name}{suffix}.log"
                return HttpServer(base, log, flags, stock=kinds[name], environ=own)
            except LorecallError as error:
                return error

        with ThreadPoolExecutor(len(kinds)) as pool:
            found = dict(zip(kinds, pool.map(start, kinds), strict=True))
        failed = [one for one in found.values() if isinstance(one, LorecallError)]
        up = {name: one for name, one in found.items() if isinstance(one, HttpServer)}
        if failed:
            for one in up.values():
                one.close()
            raise failed[0]
        return up
