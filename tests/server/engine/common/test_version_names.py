"""The public name in an engine's name, and in the metric that routers read."""

import pytest
from lorecall.server.engine.common import lora_labels
from lorecall.server.engine.common.version_names import engine_name, public_name
from vllm.v1.metrics.loggers import PrometheusStatLogger
from vllm.v1.metrics.stats import LoRARequestStates, SchedulerStats

ONE, OTHER = "1" * 64, "a" * 64


def test_the_public_name_comes_back() -> None:
    """Only the version is cut off."""
    assert public_name(engine_name("acme-support", ONE)) == "acme-support"


@pytest.mark.parametrize("name", ["base", "org/model@main", "a@b@c", "user@example.org", f"a@{ONE[1:]}"])
def test_any_other_name_stays_whole(name: str) -> None:
    """A base's name may hold `@`."""
    assert public_name(name) == name


@pytest.fixture
def patched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our labels, until the test is over."""
    for owner, name in (
        (LoRARequestStates, "_request_update"),
        (LoRARequestStates, "update_scheduler_stats"),
        (PrometheusStatLogger, "record"),
    ):
        monkeypatch.setattr(owner, name, getattr(owner, name))
    lora_labels.apply()


@pytest.mark.usefixtures("patched")
def test_routers_find_the_public_name_once_while_it_moves() -> None:
    """Requests on two versions of a name count under it together; it leaves with the last of them."""
    states = LoRARequestStates(log_stats=True)
    states.request_waiting("1", engine_name("a", ONE))
    states.request_running("1", engine_name("a", ONE))
    states.request_running("2", engine_name("a", OTHER))
    states.request_waiting("3", engine_name("b", ONE))
    states.request_running("4", None)
    assert labels(states) == ({"a": 2}, {"b": 1})
    states.request_finished("1", engine_name("a", ONE))
    assert labels(states) == ({"a": 1}, {"b": 1})
    states.request_finished("2", engine_name("a", OTHER))
    assert labels(states) == ({}, {"b": 1})


def labels(states: LoRARequestStates) -> tuple[dict[str, int], dict[str, int]]:
    """Return the running and the waiting requests by adapter, as `vllm:lora_requests_info` names them."""
    stats = SchedulerStats()
    states.update_scheduler_stats(stats)
    return stats.running_lora_adapters, stats.waiting_lora_adapters
