"""Our Prometheus metrics beside vLLM's own: one prefix, and a bounded number of labels."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from lorecall.server.observability.residency import Residency, ResidencyCollector
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

OTHER = "other"
"""The label of the adapters beyond the cap."""

TOKEN_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
FIRST_BUCKETS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
LEVELS = {"disk": 0, "memory": 1, "slots": 2}


@dataclass(frozen=True, slots=True)
class AdapterSample:
    """One adapter as the gauges show it; `level` is "slots", "memory" or "disk"."""

    name: str
    state: str
    level: str
    pinned: bool
    rank: int


class AdapterLabels:
    """Gives each adapter its own label value up to a cap, and `OTHER` to those beyond it.

    Args:
        cap: The number of adapters with a label of their own.
    """

    def __init__(self, cap: int) -> None:
        self._cap = cap
        self._own: set[str] = set()

    def __call__(self, name: str) -> str:
        """Return the label of an existing adapter."""
        if name not in self._own and len(self._own) < self._cap:
            self._own.add(name)
        return name if name in self._own else OTHER

    def keep(self, names: frozenset[str]) -> set[str]:
        """Take back the labels of all other adapters, which are gone; return those labels."""
        gone = self._own - names
        self._own -= gone
        return gone


class _AdapterCollector(Collector):
    """The adapters' gauges, computed when they are scraped."""

    def __init__(
        self,
        samples: Callable[[], Sequence[AdapterSample]],
        labels: AdapterLabels,
        keep: Callable[[frozenset[str]], None],
    ) -> None:
        self._samples = samples
        self._labels = labels
        self._keep = keep

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the gauges; adapters beyond the cap have none, and those that are gone give their labels back."""
        samples = self._samples()
        self._keep(frozenset(one.name for one in samples))
        families = {
            key: GaugeMetricFamily(f"lorecall_adapter_{key}", text, labels=["adapter"])
            for key, text in {
                "loaded": "Whether the engine holds the adapter in memory.",
                "level": "Where it sits: 2 in a slot, 1 in the engine's memory, 0 on disk.",
                "pinned": "Whether it is kept in memory.",
                "rank": "Its largest rank.",
            }.items()
        }
        state = GaugeMetricFamily(
            "lorecall_adapter_state", "1 for the state that it is in.", labels=["adapter", "state"]
        )
        for one in samples:
            label = self._labels(one.name)
            if label == OTHER:
                continue
            level = LEVELS[one.level]
            values = {"loaded": level > 0, "level": level, "pinned": one.pinned, "rank": one.rank}
            for key, value in values.items():
                families[key].add_metric([label], float(value))
            state.add_metric([label, one.state], 1.0)
        yield from families.values()
        yield state


class Metrics:
    """The server's metrics.

    Args:
        cap: Adapters with a label value of their own.
        registry: The Prometheus registry; vLLM's `/metrics` shows the default one.
    """

    def __init__(self, cap: int, registry: CollectorRegistry = REGISTRY) -> None:
        self.label = AdapterLabels(cap)
        self._registry = registry
        by = ["adapter"]
        self.requests = Counter(
            "lorecall_requests", "Requests to models by outcome.", [*by, "status"], registry=registry
        )
        self.tokens = Counter(
            "lorecall_tokens", "Tokens of prompts and answers.", [*by, "kind"], registry=registry
        )
        self.errors = Counter(
            "lorecall_request_errors", "Requests to models that failed.", [*by, "status"], registry=registry
        )
        self.first_token = Histogram(
            "lorecall_time_to_first_token_seconds",
            "From a generation's arrival to its first token.",
            by,
            buckets=FIRST_BUCKETS,
            registry=registry,
        )
        self.inter_token = Histogram(
            "lorecall_inter_token_latency_seconds",
            "Mean time between a generation's tokens.",
            by,
            buckets=TOKEN_BUCKETS,
            registry=registry,
        )
        self.load_seconds = Histogram(
            "lorecall_adapter_load_seconds", "Loading a version into the engine.", registry=registry
        )
        self.load_checks = Counter(
            "lorecall_load_checks",
            "Versions that were scored after a load, and compared with their first.",
            ["result"],
            registry=registry,
        )
        for result in ("same", "different"):
            self.load_checks.labels(result)
        self.swap_seconds = Histogram(
            "lorecall_adapter_swap_seconds", "From an accepted version to its name's move.", registry=registry
        )
        self.swap_failures = Counter(
            "lorecall_adapter_swap_failures",
            "Versions that should have gone live here, and did not.",
            registry=registry,
        )
        self.initial_adapters_failed = Gauge(
            "lorecall_initial_adapters_failed",
            "Adapters named at the server's start that it refuses to serve.",
            registry=registry,
        )
        self.evictions = Counter(
            "lorecall_adapter_evictions", "Adapters that lost their place.", ["level"], registry=registry
        )
        self.refusals = Counter(
            "lorecall_refusals", "Adapters and requests refused.", ["reason"], registry=registry
        )
        self.draining = Gauge(
            "lorecall_adapter_versions_draining", "Replaced versions not yet removed.", registry=registry
        )
        self.registry_up = Gauge(
            "lorecall_registry_up", "Whether the registry answered last.", registry=registry
        )
        self.not_followed = Gauge(
            "lorecall_registry_not_followed",
            "Names, and the API keys, that could not be brought up to date with the registry yet.",
            registry=registry,
        )
        self.follow_failures = Counter(
            "lorecall_registry_follow_failures", "Failed tries to follow the registry.", registry=registry
        )

    @contextmanager
    def counted_swap(self) -> Iterator[None]:
        """Count the block as a failed swap if it raises."""
        try:
            yield
        except Exception:
            self.swap_failures.inc()
            raise

    def show_adapters(
        self, samples: Callable[[], Sequence[AdapterSample]], base_names: frozenset[str] = frozenset()
    ) -> None:
        """Add the adapters' gauges.

        Args:
            samples: Returns all adapters as they are now.
            base_names: The base's names, which keep their labels; those of adapters that are gone are free again.
        """
        self._registry.register(
            _AdapterCollector(samples, self.label, lambda names: self._keep(names | base_names))
        )

    def show_residency(self, read: Callable[[], Residency], base: str) -> None:
        """Add what the engine holds, as `read` returns it, in the series that LoRA-aware routers read.

        Args:
            read: Returns what the engine holds now.
            base: The base's name.
        """
        self._registry.register(ResidencyCollector(read, base))

    def _keep(self, names: frozenset[str]) -> None:
        """Remove the series of all adapters but these."""
        for label in self.label.keep(names):
            for metric in (self.requests, self.tokens, self.errors, self.first_token, self.inter_token):
                metric.remove_by_labels({"adapter": label})

    def count_request(self, model: str, status: int) -> None:
        """Count a request to a model that exists, by the class of its status (such as "2xx")."""
        label, kind = self.label(model), f"{status // 100}xx"
        self.requests.labels(label, kind).inc()
        if status >= 400:
            self.errors.labels(label, kind).inc()
