"""The stages of `lorecall bench-gpu`, in their order, and what is asked of their numbers."""

import sys
from pathlib import Path

from lorecall.server.bench.gpu.stages import Stage

SECONDS = 540.0
"""Time for all stages together; their limits add up to it."""

GOALS = (
    "Goals: no request answers otherwise in a mixed batch than alone, but for ε; no certified token that is "
    "not decoded; no stream of two versions; adapters at 0.90 of the base's decode or better at the largest "
    "batch, scoring at 0.90 of its limit, our server at 0.98 of stock `vllm serve`."
)

SERVER_NEEDS = (
    "alembic",
    "cryptography",
    "fastapi",
    "platformdirs",
    "rapidfuzz",
    "rfc8785",
    "securesystemslib",
)
"""Packages that `lorecall serve` imports and the engine alone does not."""

STAGES: tuple[tuple[str, str, float, tuple[str, ...]], ...] = (
    ("prepare", "bases in every scheme, and a random one in a real shape", 60, ()),
    ("checks", "a mixed batch answers as its requests alone; what scoring certifies is decoded", 55, ()),
    ("lora", "adapters against the base, in decode and prefill", 80, ()),
    ("overhead", "our server against stock", 85, SERVER_NEEDS),
    ("swap", "streams while their adapter is swapped: none of two versions", 50, SERVER_NEEDS),
    ("scoring", "scoring against its limit", 50, SERVER_NEEDS),
    ("parity", "each scheme against transformers and PEFT", 80, ()),
    ("registered", "few and many registered adapters", 50, SERVER_NEEDS),
    ("invariant", "the mixed batch with VLLM_BATCH_INVARIANT=1", 30, ()),
)
"""Name, what it shows, its limit in seconds, and what it imports beside the engine; in order of importance."""

GPU_ALONE = {"invariant": "vLLM's batch-invariant kernels are Triton's, which a CPU lacks"}
"""Stages that no rehearsal can run, with the reason."""


def gpu_stages(
    work: Path, *, rehearse: bool = False, attention: str = "", stretch: float = 1.0
) -> list[Stage]:
    """Return the stages.

    Args:
        work: The folder that they share.
        rehearse: Whether they are to run small, on a CPU.
        attention: vLLM's `--attention-backend`; "" leaves it to vLLM.
        stretch: What their limits are multiplied with.
    """
    run = (sys.executable, "-m", "lorecall.server.bench.gpu.run")
    flags = [
        *(["--rehearse"] if rehearse else []),
        *(["--attention-backend", attention] if attention else []),
    ]
    return [
        Stage(
            name,
            shows,
            stretch * limit,
            ((*run, name, "--work", str(work), "--out", "{out}", *flags),),
            needs,
            GPU_ALONE.get(name, "") if rehearse else "",
        )
        for name, shows, limit, needs in STAGES
    ]
