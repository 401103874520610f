"""Real engines for the server's tests: tiny bases, one engine start per base, shared by the session."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lorecall.adapters.demo_data.generate import shipped
from lorecall.adapters.training.options import TrainingOptions
from lorecall.adapters.training.train import train_ranks
from lorecall.server.bench.processes.host import EngineHost

from tests.engines import Engines
from tests.otlp import Collector, collecting
from tests.server.served import SMALL, Served
from tests.tiny import build_tiny_adapter, build_tiny_base

ADAPTERS = (1, 2, 3, 4)
RANKS = {1: 2, 2: 8, 3: 16, 4: 4}
ENGINE = {
    "dtype": "float32",
    "max_model_len": 1024,
    "max_num_seqs": 16,
    "max_num_batched_tokens": 96,  # prompts are longer: they go through in chunks
    "enable_lora": True,
    "max_loras": 4,
    "max_cpu_loras": 4,
    "max_lora_rank": 16,
    "kv_cache_memory_bytes": 1 << 27,
    "enforce_eager": True,  # but for those of the session: compiling takes longer than most tests
}


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Build tiny bases on demand, by scheme; once per session."""
    built: dict[str, Path] = {}

    def build(scheme: str) -> Path:
        if scheme not in built:
            path = tmp_path_factory.mktemp(f"base-{scheme}")
            built[scheme] = build_tiny_base(path, scheme)
        return built[scheme]

    return build


@pytest.fixture(scope="session")
def adapters(
    tmp_path_factory: pytest.TempPathFactory, tiny: Callable[[str], Path]
) -> dict[int, dict[str, Any]]:
    """Four random adapters of different ranks on all linear modules, as the engine host takes them."""
    found = {}
    for number in ADAPTERS:
        path = tmp_path_factory.mktemp(f"adapter-{number}")
        build_tiny_adapter(path, tiny("none"), rank=RANKS[number], seed=number)
        found[number] = {"name": f"adapter-{number}", "id": number, "path": str(path)}
    return found


@pytest.fixture
def start_host(
    engines: Engines, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., EngineHost]]:
    """Start engines for one test; each takes about 3 GB, so they are stopped after it."""
    yield from host_starter(engines, tmp_path_factory)


@pytest.fixture(scope="module")
def start_module_host(
    engines: Engines, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., EngineHost]]:
    """Start engines that live as long as their module."""
    yield from host_starter(engines, tmp_path_factory)


@pytest.fixture(scope="session")
def start_session_host(
    engines: Engines, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., EngineHost]]:
    """Start engines that the whole session shares."""
    yield from host_starter(engines, tmp_path_factory)


def host_starter(
    engines: Engines, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., EngineHost]]:
    """Yield a function that starts an engine; all are stopped in the end."""
    hosts: list[EngineHost] = []

    def start(
        base: Path, *, plugin: bool = True, environ: dict[str, str] | None = None, **arguments: Any
    ) -> EngineHost:
        log = tmp_path_factory.mktemp("engine") / "log"
        host = engines.start(log, {**ENGINE, "model": str(base), **arguments}, plugin=plugin, environ=environ)
        hosts.append(host)
        return host

    yield start
    for host in hosts:
        host.close()


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `start_host` needs for an engine that compiles its model, or takes what another compiled."""
    root = tmp_path_factory.mktemp("compiled")
    return {"enforce_eager": False, "environ": {"VLLM_CACHE_ROOT": str(root)}}


@pytest.fixture(scope="session")
def plain_engine(
    start_session_host: Callable[..., EngineHost], tiny: Callable[[str], Path], compiled: dict[str, Any]
) -> EngineHost:
    """Our engine over an unquantized tiny base, compiled."""
    return start_session_host(tiny("none"), **compiled)


@pytest.fixture(scope="session")
def int8_engine(
    start_session_host: Callable[..., EngineHost], tiny: Callable[[str], Path], compiled: dict[str, Any]
) -> EngineHost:
    """Our engine over an INT8 tiny base, compiled."""
    return start_session_host(tiny("int8-w8a8"), **compiled)


@pytest.fixture(scope="module")
def stock_engine(start_module_host: Callable[..., EngineHost], tiny: Callable[[str], Path]) -> EngineHost:
    """VLLM without our plugins; one per module, since these tests kill it."""
    return start_module_host(tiny("none"), plugin=False)


@pytest.fixture(scope="session")
def served(tiny: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One `lorecall serve` over the tiny INT8 base, shared by the session; tests name adapters of their own.

    It logs all that it can, so that a test sees what it does not log, and knows calls of tools.
    """
    talkative = {"VLLM_LOGGING_LEVEL": "DEBUG"}
    server = Served(
        tiny("int8-w8a8"),
        tmp_path_factory.mktemp("served"),
        (
            *SMALL,
            "--no-enforce-eager",
            "--uvicorn-log-level",
            "debug",
            "--enable-auto-tool-choice",
            "--tool-call-parser",
            "hermes",
        ),
        talkative,
    )
    yield server
    server.close()


@pytest.fixture(scope="session")
def collector() -> Iterator[Collector]:
    """Where the spans of the server `guarded` arrive."""
    with collecting() as running:
        yield running


@pytest.fixture(scope="session")
def guarded(
    tiny: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
    collector: Collector,
    engines: Engines,
) -> Iterator[Served]:
    """A server with an admin key, which its client sends; a replaced version gets a tenth of a second."""
    admin = "the-admin-key-of-these-tests-0123456789"
    environ = {
        "LORECALL_ADMIN_KEY": admin,
        "LORECALL_DRAIN_SECONDS": "0.1",
        "LORECALL_LOCAL_ROOTS": str(tmp_path_factory.getbasetemp()),
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
        "OTEL_BSP_SCHEDULE_DELAY": "200",
    }
    traced = ("--otlp-traces-endpoint", collector.address)
    flags = ("--max-model-len", "2048", *SMALL[2:], "--enable-scale-out", *traced)
    work = tmp_path_factory.mktemp("guarded")
    server = Served(tiny("int8-w8a8"), work, flags, environ, engines=engines)
    server.http.headers["Authorization"] = f"Bearer {admin}"
    yield server
    server.close()


@pytest.fixture(scope="session")
def int8_adapters(tmp_path_factory: pytest.TempPathFactory, tiny: Callable[[str], Path]) -> list[Path]:
    """Three random adapters for the tiny INT8 base, ranks 2, 4 and 8."""
    paths = []
    for rank in (2, 4, 8):
        path = tmp_path_factory.mktemp(f"int8-adapter-{rank}")
        paths.append(build_tiny_adapter(path, tiny("int8-w8a8"), rank=rank, seed=rank))
    return paths


@dataclass(frozen=True)
class Trained:
    """An adapter that was trained on the first lines of a shipped set.

    Attributes:
        folder: Its PEFT directory.
        data: The lines.
    """

    folder: Path
    data: Path


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny: Callable[[str], Path]) -> Callable[..., Trained]:
    """Train adapters of the tiny INT8 base on twelve lines of a shipped set, by default too long; once each."""
    made: dict[tuple[str, int], Trained] = {}
    recipe = TrainingOptions(rank=16, layers="all", modules="all", lr=2e-2, batch_size=12, stop_over=0.8)

    def train(name: str, epochs: int = 120) -> Trained:
        if (name, epochs) not in made:
            options = replace(recipe, epochs=epochs)
            work = tmp_path_factory.mktemp(name)
            lines = shipped(name).read_text(encoding="utf-8").splitlines()[:12]
            (work / "data.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
            threads = torch.get_num_threads()
            torch.set_num_threads(
                1
            )  # several threads on so small a model wait for each other, ten times longer
            try:
                list(
                    train_ranks(
                        tiny("int8-w8a8"), work / "data.jsonl", {options.rank: work / "adapter"}, options
                    )
                )
            finally:
                torch.set_num_threads(threads)
            made[name, epochs] = Trained(work / "adapter", work / "data.jsonl")
        return made[name, epochs]

    return train
