"""One thread of gloo's in a worker that is alone, in the place of one for each of its groups.

Each gloo group of torch 2.13 opens a device, whose thread wakes up a hundred times a second to look for messages.
vLLM 0.32 makes thirteen groups in a worker, also where it is the only one: most of what an idle server takes of a
core. Groups of one process never send anything; here they share a device.
"""

from datetime import timedelta
from typing import Any

from lorecall.server.engine.common.plugin import require_fields


def apply() -> None:
    """Make groups of one process share a device; those of several have one each, as before."""
    from torch.distributed import distributed_c10d

    group = distributed_c10d.ProcessGroupGloo
    require_fields(group, "create_default_device", "_Options")
    require_fields(group._Options, "_devices", "_timeout")
    make = group.__init__  # compiled: it tells no parameters
    shared: list[Any] = []

    def with_one_device(
        self: Any, store: Any, rank: int, size: int, *args: Any, timeout: timedelta | None = None
    ) -> None:
        if size > 1 or args or timeout is None:
            make(self, store, rank, size, *args, **({} if timeout is None else {"timeout": timeout}))
            return
        if not shared:
            shared.append(group.create_default_device())
        options = group._Options()
        options._timeout, options._devices = timeout, shared
        make(self, store, rank, size, options)

    group.__init__ = with_one_device
