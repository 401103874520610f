"""Our series: bounded labels, true at the time of the scrape."""

import pytest
from lorecall.server.observability.metrics import OTHER, AdapterSample, Metrics
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest


def test_labels_are_bounded() -> None:
    """Beyond the cap adapters share one label value; those that had their own keep it."""
    label = Metrics(2, CollectorRegistry()).label
    assert [label(name) for name in ("a", "b", "c", "a", "d")] == ["a", "b", OTHER, "a", OTHER]


def test_the_label_of_a_removed_adapter_is_free_again() -> None:
    """With its series; who stays, and the base, keep theirs; a request that ends late leaves none."""
    registry = CollectorRegistry()
    metrics = Metrics(2, registry)
    samples = [AdapterSample("a", "live", "slots", pinned=False, rank=8)]
    metrics.show_adapters(lambda: samples, frozenset({"base"}))
    for model in ("base", "a", "b"):
        metrics.count_request(model, 500)
        metrics.first_token.labels(metrics.label(model)).observe(1.0)

    def counted(model: str) -> float | None:
        generate_latest(registry)  # a scrape
        return registry.get_sample_value("lorecall_requests_total", {"adapter": model, "status": "5xx"})

    assert [counted(model) for model in ("base", "a", "b", OTHER)] == [1, 1, None, 1]
    samples[:] = [AdapterSample("b", "live", "slots", pinned=False, rank=8)]
    assert [counted(model) for model in ("base", "a")] == [1, None]
    assert 'adapter="a"' not in generate_latest(registry).decode()
    metrics.count_request("b", 500)
    assert counted("b") == 1
    metrics.count_request("a", 500)  # it was running when the adapter was removed
    assert counted("a") is None


def test_adapters_are_shown_as_they_are_now() -> None:
    """The gauges come from the samples of the moment, so a removed adapter leaves no series behind."""
    registry = CollectorRegistry()
    samples = [AdapterSample("a", "live", "slots", pinned=True, rank=8)]
    Metrics(5, registry).show_adapters(lambda: samples)
    labels = {"adapter": "a"}
    assert registry.get_sample_value("lorecall_adapter_level", labels) == 2
    assert registry.get_sample_value("lorecall_adapter_loaded", labels) == 1
    assert registry.get_sample_value("lorecall_adapter_pinned", labels) == 1
    assert registry.get_sample_value("lorecall_adapter_rank", labels) == 8
    assert registry.get_sample_value("lorecall_adapter_state", {**labels, "state": "live"}) == 1
    samples.clear()
    assert registry.get_sample_value("lorecall_adapter_rank", labels) is None


def test_a_swap_that_raises_is_counted_and_raises_on() -> None:
    """Every failure to go live is in the counter, one that succeeds is not."""
    registry = CollectorRegistry()
    metrics = Metrics(5, registry)
    with metrics.counted_swap():
        pass
    with pytest.raises(OSError, match="gone"), metrics.counted_swap():
        raise OSError("gone")
    assert registry.get_sample_value("lorecall_adapter_swap_failures_total") == 1


def test_errors_are_counted_by_class() -> None:
    """A 404 and a 500 are errors, a 200 is none; the class is the label, not the code."""
    registry = CollectorRegistry()
    metrics = Metrics(5, registry)
    for status in (200, 404, 429, 500):
        metrics.count_request("a", status)
    counted = {
        status: registry.get_sample_value("lorecall_requests_total", {"adapter": "a", "status": status})
        for status in ("2xx", "4xx", "5xx")
    }
    assert counted == {"2xx": 1, "4xx": 2, "5xx": 1}
    errors = registry.get_sample_value("lorecall_request_errors_total", {"adapter": "a", "status": "4xx"})
    assert errors == 2


def test_every_series_has_our_prefix() -> None:
    """Nothing of ours can be taken for one of vLLM's, but for what it proposes: see test_residency.py."""
    registry = CollectorRegistry()
    Metrics(5, registry).show_adapters(list)
    names = [line.split()[2] for line in generate_latest(registry).decode().splitlines() if "# TYPE" in line]
    assert names
    assert all(name.startswith("lorecall_") for name in names)
