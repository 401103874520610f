"""Which adapters sit in the engine, under the names that vLLM proposes for it and LoRA-aware routers read.

vLLM 0.32 has no such series; its pull request 54830 adds them, with the engine's names, which are versions here.
A router matches the name that callers write, so `adapter_name` is the public one.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

GPU, CPU = "gpu", "cpu"
"""The values of `level`: in a slot of the engine, and in its host memory only. On a CPU both are host memory."""

COUNTS = {
    "vllm:num_gpu_loaded_lora_adapters": "Adapters in the engine's slots.",
    "vllm:num_cpu_loaded_lora_adapters": "Adapters in the engine's memory, those in slots included.",
    "vllm:max_gpu_lora_adapters": "The engine's slots.",
}


@dataclass(frozen=True, slots=True)
class ResidentAdapter:
    """An adapter whose live version the engine holds; `level` is `GPU` or `CPU`."""

    name: str
    level: str
    pinned: bool
    rank: int


@dataclass(frozen=True, slots=True)
class Residency:
    """What the engine holds, replaced versions that still drain included in the two numbers.

    Attributes:
        slots: The engine's slots, 0 without LoRA.
        in_slots: How many of them are taken.
        in_memory: The number of versions in its memory, those in slots included.
        adapters: The adapters by their public names.
    """

    slots: int = 0
    in_slots: int = 0
    in_memory: int = 0
    adapters: Sequence[ResidentAdapter] = field(default_factory=tuple)


class ResidencyCollector(Collector):
    """The series, computed when they are scraped; as many as the engine's memory holds adapters.

    Args:
        read: Returns what the engine holds now.
        base: The base's name.
    """

    def __init__(self, read: Callable[[], Residency], base: str) -> None:
        self._read = read
        self._own: Mapping[str, str] = {"engine": "0", "model_name": base}

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the gauges; none without LoRA."""
        held = self._read()
        if not held.slots:
            return
        loaded = GaugeMetricFamily(
            "vllm:lora_adapter_loaded",
            "1 for each adapter that the engine holds.",
            labels=[*self._own, "adapter_name", "level", "pinned", "rank"],
        )
        for one in held.adapters:
            labels = (one.name, one.level, str(one.pinned).lower(), str(one.rank))
            loaded.add_metric([*self._own.values(), *labels], 1.0)
        yield loaded
        for (name, text), value in zip(
            COUNTS.items(), (held.in_slots, held.in_memory, held.slots), strict=True
        ):
            counted = GaugeMetricFamily(name, text, labels=list(self._own))
            counted.add_metric(list(self._own.values()), float(value))
            yield counted
