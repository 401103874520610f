"""What the engine holds, as LoRA-aware routers read it."""

import pytest
from lorecall.server.engine.common import lora_labels
from lorecall.server.observability.metrics import Metrics
from lorecall.server.observability.residency import CPU, GPU, Residency, ResidentAdapter
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.exposition import generate_latest
from vllm.v1.metrics.loggers import PrometheusStatLogger
from vllm.v1.metrics.stats import LoRARequestStates, SchedulerStats

from tests.server.routers import Endpoint, scrape

HELD = [
    ResidentAdapter("acme", GPU, pinned=True, rank=8),
    ResidentAdapter("globex", CPU, pinned=False, rank=2),
]
BASE = {"engine": "0", "model_name": "base"}


def test_the_engines_adapters_have_the_names_that_vllm_proposes() -> None:
    """One series for each that is held, by its public name; the numbers count draining versions too."""
    registry = CollectorRegistry()
    held = [Residency(4, 2, 3, HELD)]
    Metrics(1, registry).show_residency(lambda: held[0], "base")
    value = registry.get_sample_value
    acme = {**BASE, "adapter_name": "acme", "level": "gpu", "pinned": "true", "rank": "8"}
    globex = {**BASE, "adapter_name": "globex", "level": "cpu", "pinned": "false", "rank": "2"}
    assert [value("vllm:lora_adapter_loaded", labels) for labels in (acme, globex)] == [1, 1]
    assert value("vllm:num_gpu_loaded_lora_adapters", BASE) == 2
    assert value("vllm:num_cpu_loaded_lora_adapters", BASE) == 3
    assert value("vllm:max_gpu_lora_adapters", BASE) == 4
    held[0] = Residency(4, 0, 1, HELD[1:])
    assert value("vllm:lora_adapter_loaded", acme) is None


def test_without_lora_there_is_none() -> None:
    """A router takes an absent family for a server without adapters."""
    registry = CollectorRegistry()
    Metrics(1, registry).show_residency(Residency, "base")
    assert b"vllm:" not in generate_latest(registry)


def test_routers_read_one_latest_series(monkeypatch: pytest.MonkeyPatch) -> None:
    """An adapter is listed where it has a request, and mixes of adapters that ran before leave no series.

    A scrape that comes while a step is recorded sees the step before.
    """
    for owner, name in (
        (LoRARequestStates, "_request_update"),
        (LoRARequestStates, "update_scheduler_stats"),
        (PrometheusStatLogger, "record"),
    ):
        monkeypatch.setattr(owner, name, getattr(owner, name))  # put back after the test
    registry = CollectorRegistry()
    names = ["max_lora", "waiting_lora_adapters", "running_lora_adapters"]

    def upstream(self: object, scheduler_stats: SchedulerStats, *others: object) -> None:
        del self, others
        running, waiting = scheduler_stats.running_lora_adapters, scheduler_stats.waiting_lora_adapters
        meanwhile.append(scrape(generate_latest(registry).decode()))
        gauge.labels("2", ",".join(waiting), ",".join(running)).set_to_current_time()

    monkeypatch.setattr(PrometheusStatLogger, "record", upstream)
    lora_labels.apply()
    logger = PrometheusStatLogger.__new__(PrometheusStatLogger)
    logger.gauge_lora_info = gauge = Gauge("vllm:lora_requests_info", "x", names, registry=registry)
    Metrics(1, registry).show_residency(lambda: Residency(2, 1, 1, HELD[:1]), "base")
    states = LoRARequestStates(log_stats=True)
    meanwhile: list[Endpoint] = []

    def recorded() -> tuple[set[str], set[str], float, int]:
        stats = SchedulerStats()
        states.update_scheduler_stats(stats)
        logger.record(stats, None)
        seen = scrape(generate_latest(registry).decode())
        return set(seen.active), set(seen.waiting), seen.affinity("globex"), seen.info_series

    states.request_running("1", "acme@" + "1" * 64)
    assert recorded() == ({"acme"}, set(), 0.8, 1)
    states.request_waiting("2", "globex@" + "2" * 64)
    assert recorded() == ({"acme"}, {"globex"}, 0.6, 1)
    states.request_finished("1", "acme@" + "1" * 64)
    states.request_finished("2", "globex@" + "2" * 64)
    assert recorded() == (set(), set(), 0.8, 1)
    assert [one.active | one.waiting for one in meanwhile] == [set(), {"acme"}, {"acme", "globex"}]
