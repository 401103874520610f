"""Shares the engine's adapter slots fairly: a busy adapter cannot keep a slot from the others for good.

vLLM 0.32 skips a waiting request whose adapter has no slot while all are taken, and goes on with the requests
behind it. As long as these are for adapters in the slots, no slot ever becomes free. Here only one batch of
them may overtake: after that, requests for adapters in the slots wait behind the skipped one until the running
ones have ended and it has its slot. Nothing that has begun is stopped, and the base needs no slot. Requests are
looked at in the order of vLLM's queue, so one of a lower priority never holds up one of a higher.
"""

from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from lorecall.server.engine.common.plugin import require, require_fields

if TYPE_CHECKING:
    from vllm.v1.core.sched.scheduler import Scheduler
else:
    Scheduler = object


class FairSlots(Scheduler):  # type: ignore[misc]  # vLLM has no types
    """What we add to a scheduler of vLLM's: who may overtake a request that waits for a slot."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._overtaken: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
        """By waiting request: how many that were behind it in the queue have started before it."""

    def schedule(self, throttle_prefills: bool = False) -> Any:  # noqa: FBT001, FBT002  # vLLM's own signature
        """Schedule one step, and count who was overtaken in it."""
        self._in_slots: set[int] = set()
        self._seen = self._batch = 0  # of `running`: how many are counted, how many of these have an adapter
        self._skipped: list[tuple[Any, int]] = []  # requests without a slot, and the batch when they were met
        self._closed = False  # whether one of them was overtaken by a whole batch
        step = super().schedule(throttle_prefills)
        self._count_running()
        for request, batch in self._skipped:
            self._overtaken[request] = self._overtaken.get(request, 0) + self._batch - batch
        return step

    def _handle_blocked_waiting_request(self, request: Any) -> bool:
        """Whether a waiting request may start in this step; vLLM asks it of each, in the order of its queue."""
        if not super()._handle_blocked_waiting_request(request):
            return False
        if self.lora_config is None or request.lora_request is None:
            return True
        self._count_running()
        if request.lora_request.lora_int_id in self._in_slots:
            return self._has_begun(request) or not self._must_wait(request)
        if len(self._in_slots) >= self.lora_config.max_loras:
            self._closed = self._closed or self._overtaken.get(request, 0) >= self._batch
            self._skipped.append((request, self._batch))
        return True  # vLLM itself skips it where it has no slot

    def _has_begun(self, request: Any) -> bool:
        return bool(request.num_preemptions > 0 or self._holds_kv_blocks(request))

    def _must_wait(self, request: Any) -> bool:
        """Whether a request whose adapter has a slot must let those before it in the queue have one first."""
        return self._closed or (bool(self._skipped) and request.priority > self._skipped[0][0].priority)

    def _count_running(self) -> None:
        """Take in what has started since the last call: adapters in slots, and how many requests they have."""
        for request in self.running[self._seen :]:
            if request.lora_request is not None:
                self._in_slots.add(request.lora_request.lora_int_id)
                self._batch += 1
        self._seen = len(self.running)


def apply() -> None:
    """Add this to the scheduler that vLLM chooses, unless the caller chose one with `--scheduler-cls`."""
    from vllm.config.scheduler import SchedulerConfig

    choose = require(SchedulerConfig, "get_scheduler_cls", ("self",))

    def get_scheduler_cls(self: Any) -> Any:
        chosen = choose(self)
        return chosen if self.scheduler_cls is not None else fair(chosen)

    SchedulerConfig.get_scheduler_cls = get_scheduler_cls


def fair(scheduler: Any) -> Any:
    """Return a scheduler class of vLLM's with fair slots."""
    from vllm.v1.request import Request

    require(scheduler, "schedule", ("self", "throttle_prefills"))
    require(scheduler, "_handle_blocked_waiting_request", ("self", "request"))
    require(scheduler, "_holds_kv_blocks", ("request",))
    require_fields(scheduler, "running", "lora_config")
    require_fields(Request, "lora_request", "num_preemptions", "priority")
    return type(f"Fair{scheduler.__name__}", (FairSlots, scheduler), {})
