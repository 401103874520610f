"""Who starts before whom when adapters outnumber the slots: vLLM's own schedulers, step by step, no engine."""

import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from lorecall.adapters.core.errors import LorecallError
from lorecall.server.engine.common import fair_slots
from lorecall.server.engine.common.fair_slots import fair
from vllm.config import CacheConfig, LoRAConfig, ModelConfig, SchedulerConfig, VllmConfig
from vllm.lora.request import LoRARequest
from vllm.sampling_params import SamplingParams
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus
from vllm.v1.structured_output import StructuredOutputManager

BASE, HOT, COLD, COLDER = 0, 1, 2, 3
BATCH = 4
"""The engines' `--max-num-seqs`."""
FLOOD = 6
"""Requests of the hot adapter that are under way at any time: more than a batch."""
LENGTHS = (2, 5, 3, 6)
"""Tokens of the requests of a flood, in turn, so that they do not end together."""
LONG = 200
"""Steps after which a request counts as starved; a flood's longest request takes 6."""


@dataclass
class Steps:
    """A scheduler, and a model that answers at once."""

    scheduler: Any
    sent: int = 0

    def __post_init__(self) -> None:
        self.started: list[Request] = []

    def send(self, adapter: int, tokens: int = 3, priority: int = 0, prompt: int = 8) -> Request:
        """Put a request into the queue."""
        self.sent += 1
        sampling = SamplingParams(max_tokens=tokens, ignore_eos=True)
        sampling.update_from_generation_config({}, None)
        request = Request(
            request_id=f"{self.sent}",
            prompt_token_ids=list(range(self.sent, self.sent + prompt)),
            sampling_params=sampling,
            pooling_params=None,
            arrival_time=float(self.sent),
            priority=priority,
            lora_request=LoRARequest(str(adapter), adapter, "/none") if adapter else None,
        )
        self.scheduler.add_request(request)
        return request

    def step(self) -> None:
        """Schedule once and give each scheduled request its token."""
        requests, step = dict(self.scheduler.requests), self.scheduler.schedule()
        ids = list(step.num_scheduled_tokens)
        self.started += [requests[new.req_id] for new in step.scheduled_new_reqs]
        tokens = [[] if requests[one].is_prefill_chunk else [7] for one in ids]
        index = {one: number for number, one in enumerate(ids)}
        self.scheduler.update_from_output(
            step, ModelRunnerOutput(req_ids=ids, req_id_to_index=index, sampled_token_ids=tokens)
        )
        in_slots = {r.lora_request.lora_int_id for r in map(requests.get, ids) if r and r.lora_request}
        assert len(in_slots) <= self.scheduler.lora_config.max_loras

    def keep(self, adapter: int, under_way: int = FLOOD, priority: int = 0) -> None:
        """Send requests of an adapter until so many are under way."""
        while len(self.of(adapter)) < under_way:
            self.send(adapter, LENGTHS[self.sent % len(LENGTHS)], priority)

    def of(self, adapter: int) -> list[Request]:
        """Return the requests of an adapter that are under way."""
        every = self.scheduler.requests.values()
        return [r for r in every if (r.lora_request.lora_int_id if r.lora_request else BASE) == adapter]

    def until_started(self, wanted: Sequence[Request], keep: Callable[[], None]) -> None:
        """Step, with a flood, until these have started; a starved one fails."""
        for _ in range(LONG):
            keep()
            self.step()
            if all(one in self.started for one in wanted):
                return
        pytest.fail(f"starved: {[one.request_id for one in wanted if one not in self.started]}")

    def before(self, request: Request, adapter: int) -> list[Request]:
        """Return an adapter's requests that came after a request and started before it."""
        earlier = self.started[: self.started.index(request)]
        later = [one for one in earlier if one.arrival_time > request.arrival_time]
        return [one for one in later if one.lora_request and one.lora_request.lora_int_id == adapter]


Make = Callable[..., Steps]


@pytest.fixture
def make(tiny: Callable[[str], Path]) -> Iterator[Make]:
    """Build schedulers as an engine does, over a key/value cache that is only counted."""

    def build(
        kind: Any, policy: str = "fcfs", slots: int = 1, blocks: int = 1000, *, lora: bool = True
    ) -> Steps:
        config = VllmConfig(
            model_config=ModelConfig(model=str(tiny("none")), dtype="float32", max_model_len=512),
            scheduler_config=SchedulerConfig(
                max_num_seqs=BATCH,
                max_num_batched_tokens=512,
                max_model_len=512,
                policy=policy,
                is_encoder_decoder=False,
                async_scheduling=issubclass(kind, AsyncScheduler),
            ),
            cache_config=CacheConfig(block_size=32, enable_prefix_caching=False),
            lora_config=LoRAConfig(max_loras=slots, max_lora_rank=8) if lora else None,
        )
        config.cache_config.num_gpu_blocks = blocks
        attention = FullAttentionSpec(block_size=32, num_kv_heads=1, head_size=1, dtype=torch.float32)
        return Steps(
            kind(
                vllm_config=config,
                kv_cache_config=KVCacheConfig(blocks, [], [KVCacheGroupSpec(["layer"], attention)]),
                structured_output_manager=StructuredOutputManager(config),
                block_size=32,
            )
        )

    with mock.patch.dict(os.environ):  # vLLM's configuration sets variables
        yield build


KINDS = pytest.mark.parametrize("kind", [Scheduler, AsyncScheduler], ids=["sync", "async"])
POLICIES = pytest.mark.parametrize("policy", ["fcfs", "priority"])


@POLICIES
def test_stock_starves_a_cold_adapter(make: Make, policy: str) -> None:
    """Stock vLLM serves the hot adapter's later requests for ever: when this fails, the fix can go."""
    steps = make(Scheduler, policy)
    steps.keep(HOT)
    steps.step()
    cold = steps.send(COLD)
    for _ in range(LONG):
        steps.keep(HOT)
        steps.step()
    assert cold not in steps.started
    assert len(steps.started) > 10 * BATCH


@KINDS
@POLICIES
@pytest.mark.parametrize("slots", [1, 2])
def test_a_cold_adapter_starts_before_more_than_a_batch(
    make: Make, kind: Any, policy: str, slots: int
) -> None:
    """Of each adapter in the slots at most one batch of later requests starts before it, in turn after turn."""
    steps = make(fair(kind), policy, slots)
    hot = [HOT, COLDER][:slots]

    def flood() -> None:
        for adapter in hot:
            steps.keep(adapter)

    flood()
    steps.step()
    for _ in range(10):
        cold = steps.send(COLD)
        steps.until_started([cold], flood)
        assert sum(len(steps.before(cold, adapter)) for adapter in hot) <= BATCH


@KINDS
@POLICIES
def test_the_hot_adapter_gets_its_turn_back(make: Make, kind: Any, policy: str) -> None:
    """Two floods share one slot: neither waits for more than one batch of the other's later requests."""
    steps = make(fair(kind), policy)

    def both() -> None:
        steps.keep(HOT)
        steps.keep(COLD)

    for _ in range(20):
        hot, cold = steps.send(HOT), steps.send(COLD)
        steps.until_started([hot, cold], both)
        assert len(steps.before(hot, COLD)) <= BATCH
        assert len(steps.before(cold, HOT)) <= BATCH


@KINDS
@POLICIES
def test_cold_adapters_come_in_the_order_of_their_requests(make: Make, kind: Any, policy: str) -> None:
    """First come, first served, and each within its own turn."""
    steps = make(fair(kind), policy)
    steps.keep(HOT)
    steps.step()
    cold, colder = steps.send(COLD), steps.send(COLDER)
    steps.until_started([cold, colder], lambda: steps.keep(HOT))
    assert steps.started.index(cold) < steps.started.index(colder)
    assert len(steps.before(colder, HOT)) <= 2 * BATCH


@KINDS
def test_the_base_needs_no_slot(make: Make, kind: Any) -> None:
    """A request to the base starts at once while adapters wait for each other; so does one for a free slot."""
    steps = make(fair(kind))
    long, cold = steps.send(HOT, 100), steps.send(COLD)
    for _ in range(4):
        steps.send(HOT, 2)
        steps.step()
    late = steps.send(HOT, 2)
    base = steps.send(BASE)
    steps.step()
    assert base in steps.started
    assert late not in steps.started  # it is behind the cold one, which was overtaken by a batch
    assert cold not in steps.started
    assert long.status == RequestStatus.RUNNING
    two = make(fair(kind), slots=2)
    two.send(HOT, 100)
    two.step()
    free = two.send(COLD)
    two.step()
    assert free in two.started


@KINDS
def test_an_audit_holds_up_no_live_request(make: Make, kind: Any) -> None:
    """A cold adapter's audit has a lower priority: it waits until live traffic leaves a slot."""
    steps = make(fair(kind), "priority")
    steps.keep(HOT, 2)
    audit = steps.send(COLD, 1, priority=1)
    for _ in range(LONG):
        steps.keep(HOT, 2)
        steps.step()
        waiting = [r for r in steps.of(HOT) if r.status == RequestStatus.WAITING]
        assert not waiting
    assert audit not in steps.started
    while audit not in steps.started:
        steps.step()  # the live ones end, none follows


@KINDS
def test_a_live_request_goes_before_the_rest_of_an_audit(make: Make, kind: Any) -> None:
    """An audit holds the slot; a cold adapter's live request is overtaken by nothing of a lower priority."""
    steps = make(fair(kind), "priority")
    steps.keep(HOT, priority=1)
    steps.step()
    live = steps.send(COLD)
    steps.until_started([live], lambda: steps.keep(HOT, priority=1))
    assert not steps.before(live, HOT)


@KINDS
@POLICIES
@pytest.mark.parametrize("seed", range(10))
def test_whatever_comes_all_start_within_the_bound(make: Make, kind: Any, policy: str, seed: int) -> None:
    """Random traffic: everything ends, and nothing is overtaken by more than a batch from behind it."""
    draw = random.Random(seed)  # noqa: S311  (not for secrets)
    steps = make(fair(kind), policy, slots=draw.randint(1, 3))
    started_before: dict[Request, int] = {}
    while len(started_before) < 150:
        for _ in range(draw.choice([0, 0, 1, 1, 3, 8])):
            priority = draw.choice([0, 0, 1]) if policy == "priority" else 0
            request = steps.send(draw.choice([BASE, 1, 1, 1, 1, 2, 2, 3, 4]), draw.randint(1, 9), priority)
            started_before[request] = len(steps.started)
        steps.step()
    for _ in range(10 * LONG):
        steps.step()
    assert not steps.scheduler.requests
    for request, first in started_before.items():
        meanwhile = steps.started[first : steps.started.index(request)]
        if request.lora_request:
            assert sum(1 for one in meanwhile if one.lora_request and request < one) <= BATCH


@KINDS
def test_one_that_goes_away_holds_up_nobody(make: Make, kind: Any) -> None:
    """A cold request that was waited for and is cancelled lets the others go on at once."""
    steps = make(fair(kind))
    steps.send(HOT, 100)
    cold = steps.send(COLD)
    for _ in range(3):
        steps.send(HOT, 2)
        steps.step()
    held = steps.send(HOT, 2)
    steps.step()
    assert held not in steps.started
    steps.scheduler.finish_requests(cold.request_id, RequestStatus.FINISHED_ABORTED)
    steps.step()
    assert held in steps.started


def test_what_has_begun_is_not_held_back(make: Make) -> None:
    """A request that overtook, began and lost its memory goes on as soon as there is memory again."""
    steps = make(fair(Scheduler), "priority", blocks=7)
    first, base = steps.send(HOT, 150), steps.send(BASE, 45, prompt=64)
    steps.step()
    cold, begun = steps.send(COLD), steps.send(HOT, 150)
    steps.send(HOT, 2)  # with this the cold one was overtaken by as many as run
    for _ in range(70):
        steps.step()
    assert base.is_finished()
    assert begun.num_preemptions
    assert begun.status == first.status == RequestStatus.RUNNING
    assert steps.send(HOT).status == cold.status == RequestStatus.WAITING
    for _ in range(2 * LONG):
        steps.step()
    assert not steps.scheduler.requests  # all have ended


def test_without_adapters_nothing_changes(make: Make) -> None:
    """An engine without LoRA schedules as before."""
    steps = make(fair(Scheduler), lora=False)
    sent = [steps.send(BASE) for _ in range(BATCH + 1)]
    steps.scheduler.schedule()
    assert len(steps.scheduler.running) == BATCH
    assert sent[-1].status == RequestStatus.WAITING


def test_the_default_is_fair_and_the_callers_choice_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plugin adds to the class that vLLM would take; `--scheduler-cls` is the caller's word."""
    monkeypatch.setattr(SchedulerConfig, "get_scheduler_cls", SchedulerConfig.get_scheduler_cls)
    fair_slots.apply()
    for chosen, asynchronous in ((Scheduler, False), (AsyncScheduler, True)):
        config = SchedulerConfig(max_model_len=512, is_encoder_decoder=False, async_scheduling=asynchronous)
        assert issubclass(config.get_scheduler_cls(), (fair_slots.FairSlots, chosen))
        assert issubclass(config.get_scheduler_cls(), chosen)
    config.scheduler_cls = "vllm.v1.core.sched.scheduler.Scheduler"
    assert config.get_scheduler_cls() is Scheduler


def test_another_scheduler_is_refused_at_the_start() -> None:
    """A vLLM whose schedulers work differently is named, not run."""

    class Moved:
        def schedule(self, other: int) -> None: ...

    with pytest.raises(LorecallError, match="schedule"):
        fair(Moved)
