"""Refuses models that vLLM cannot serve with adapters, before an engine starts: vLLM loads them first."""

import json
from pathlib import Path

from lorecall.adapters.core.errors import BaseModelError

TESTED = "docs/models.md lists the families that are tested"
WRONG_ON_CPU = "on a CPU vLLM's numbers for models of this class depend on the other requests of a batch"
REORDERED = "vLLM reorders the rows of its q_proj and k_proj at load, and does not reorder an adapter's"
WRONG = {
    "K2HorizonForCausalLM": REORDERED,
    "Lfm2ForCausalLM": WRONG_ON_CPU,
    "Lfm2MoeForCausalLM": WRONG_ON_CPU,
    "Lfm2VlForConditionalGeneration": WRONG_ON_CPU,
}
"""Classes that vLLM serves with wrong numbers, and why."""


def check_family(model: str, *, numbers: bool = True) -> None:
    """Check that vLLM serves the class of a model in a directory, with adapters, and rightly.

    A class that vLLM's table lacks is left to vLLM, which may serve it through transformers; so is a model that
    is not on this machine yet.

    Raises:
        BaseModelError: It does not; see `check_class`.
    """
    check_class(_architecture(model), numbers=numbers)


def check_class(name: str, *, numbers: bool = True) -> None:
    """Check that vLLM serves a class of models, with adapters, and rightly.

    Args:
        name: The class's, as a configuration states it.
        numbers: Whether it must be served rightly, by the packages of this machine; else only with adapters.

    Raises:
        BaseModelError: vLLM computes the class wrongly, has no LoRA for it, or lacks a package for text alone.
    """
    from vllm.model_executor.models import ModelRegistry, supports_lora
    from vllm.platforms import current_platform

    wrong = WRONG.get(name, "")
    if numbers and wrong and (wrong is not WRONG_ON_CPU or current_platform.is_cpu()):
        raise BaseModelError(f"{name}: {wrong}", hint=TESTED, param="base")
    registered = ModelRegistry.models.get(name)
    try:
        found = registered.load_model_cls() if registered is not None else None
    except ImportError as error:
        if not numbers or name.endswith("ForConditionalGeneration"):
            return  # its text model may need less; `check_packages` names what is missing
        hint = "install it: vLLM's class needs it, although the model reads text alone"
        raise _lacking(name, error, hint) from error
    if found is not None and not supports_lora(found):
        raise BaseModelError(
            f"{name}: vLLM applies no adapters to models of this class", hint=TESTED, param="base"
        )


def _architecture(model: str) -> str:
    """Return the class that a model's configuration states, "" where there is none."""
    config = Path(model) / "config.json"
    names = json.loads(config.read_text()).get("architectures") if config.is_file() else None
    return str(names[0]) if names else ""


def check_packages(model: str) -> None:
    """Check that vLLM's class for a model can be imported, and its processor for images and sound be made.

    Raises:
        BaseModelError: A package is missing.
    """
    from transformers import AutoProcessor
    from vllm.model_executor.models import ModelRegistry, supports_multimodal

    architecture = _architecture(model)
    registered = ModelRegistry.models.get(architecture)
    if registered is None:
        return
    try:
        if supports_multimodal(registered.load_model_cls()):
            AutoProcessor.from_pretrained(model)
    except ImportError as error:
        hint = "install it; or serve its text model alone: lorecall base prepare --from MODEL --out DIR"
        raise _lacking(architecture, error, hint) from error
    except (OSError, ValueError):
        return  # no processor at all, or one that only vLLM knows: vLLM says more


def _lacking(architecture: str, error: ImportError, hint: str) -> BaseModelError:
    """Return what to raise where a package is missing."""
    wanted = " ".join(line.strip() for line in str(error).splitlines() if line.strip())
    return BaseModelError(
        f"{architecture} needs a package that is not installed: {wanted[:200]}", hint=hint, param="base"
    )
