"""Which modules of a base get adapters on a GPU: linear layers, not `lm_head` and the embeddings.

On a GPU vLLM 0.32 applies an `lm_head` adapter to the rows of a prompt by the mapping of requests to sampled rows
(vllm#51594): the first rows that an audit scores would get the adapter of whatever live request sits first in the
step, and its own adapter would be left out.
"""

from collections.abc import Iterable

from lorecall.adapters.core.errors import UsageError
from lorecall.server.engine.common.adapted_modules import EXPERTS

EMBEDDINGS = frozenset(("lm_head", "embed_tokens"))
"""The last parts of the names of the modules that get no adapter on a GPU."""

WHY = (
    "on a GPU adapters go on linear layers only: vLLM applies an lm_head adapter to the wrong rows of a prompt "
    "(vllm#51594), so an audit beside it would measure another adapter"
)


NOT_DECLARED = "vLLM's class for this base declares no adapters on its embeddings and its head"
EXPERTS_ON_CPU = "on a CPU the experts of a mixture keep their own kernels, which take no adapters"
ABSORBED = (
    "vLLM multiplies kv_b_proj into other matrices when it loads the base (multi-head latent attention)"
)


def why_not_served(*, on_cpu: bool) -> dict[str, str]:
    """Return why an engine may wrap no module of a name, by the last part of the name; "experts" for those."""
    embeddings = dict.fromkeys(EMBEDDINGS, NOT_DECLARED if on_cpu else WHY)
    return {**embeddings, "kv_b_proj": ABSORBED, **({EXPERTS: EXPERTS_ON_CPU} if on_cpu else {})}


def check_target_modules(stated: list[str] | None) -> None:
    """Refuse `--lora-target-modules` that names an embedding.

    Raises:
        UsageError: It does.
    """
    named = sorted(EMBEDDINGS & set(stated or ()))
    if named:
        raise UsageError(
            f"--lora-target-modules names {', '.join(named)}; {WHY}",
            hint="leave them out, and train adapters on the linear layers",
            param="--lora-target-modules",
        )


def linear_only(supported: Iterable[str]) -> list[str]:
    """Return the modules that may have adapters, without the embeddings."""
    return [name for name in supported if name not in EMBEDDINGS]
