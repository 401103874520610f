"""Lets a CPU engine's processes be forks of the one that starts it.

vLLM 0.32 starts both of a CPU engine's processes anew, and each imports vLLM again: half of the time until a
server answers. It has to, since the OpenMP runtime that it preloads is in none but new processes. Where it is in
the first one already (`load_openmp`), a fork has it too.
"""

import os
from typing import Any

from lorecall.server.engine.common.plugin import require
from lorecall.server.engine.start.environment import load_openmp

METHOD = "VLLM_WORKER_MULTIPROC_METHOD"


def apply() -> None:
    """Keep "fork" where it is stated and can be: vLLM overwrites it on a CPU."""
    from vllm.platforms.cpu import CpuPlatform

    check = require(CpuPlatform, "check_and_update_config", ("vllm_config",))

    def check_and_update_config(_cls: Any, vllm_config: Any) -> None:
        stated = os.environ.get(METHOD)
        check(vllm_config)
        if stated == "fork" and load_openmp():
            os.environ[METHOD] = stated

    CpuPlatform.check_and_update_config = classmethod(check_and_update_config)
