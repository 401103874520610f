"""Refuses models that vLLM cannot serve with adapters, before an engine starts: vLLM loads them first."""

import json
from pathlib import Path
from typing import Any

from lorecall.adapters.core.errors import BaseModelError


def check_family(model: str) -> None:
    """Check that vLLM applies adapters to the class of a model in a directory.

    A class that vLLM's table lacks is left to vLLM, which may serve it through transformers; so is a model that
    is not on this machine yet.

    Raises:
        BaseModelError: vLLM has no LoRA for the class.
    """
    from vllm.model_executor.models import supports_lora

    name, registered = _registered(model)
    try:
        found = registered.load_model_cls() if registered is not None else None
    except ImportError:
        return  # `check_packages` names what is missing
    if found is not None and not supports_lora(found):
        raise BaseModelError(
            f"{name}: vLLM applies no adapters to models of this class",
            hint="docs/models.md lists the families that are tested",
            param="base",
        )


def _registered(model: str) -> tuple[str, Any]:
    """Return a model's architecture and the entry of vLLM's table for it, None where there is none."""
    from vllm.model_executor.models import ModelRegistry

    config = Path(model) / "config.json"
    names = json.loads(config.read_text()).get("architectures") if config.is_file() else None
    name = str(names[0]) if names else ""
    return name, ModelRegistry.models.get(name)


def check_packages(model: str) -> None:
    """Check that vLLM's class for a model can be imported, and its processor for images and sound be made.

    Raises:
        BaseModelError: A package is missing.
    """
    from transformers import AutoProcessor
    from vllm.model_executor.models import supports_multimodal

    architecture, registered = _registered(model)
    if registered is None:
        return
    try:
        if supports_multimodal(registered.load_model_cls()):
            AutoProcessor.from_pretrained(model)
    except ImportError as error:
        wanted = " ".join(line.strip() for line in str(error).splitlines() if line.strip())
        raise BaseModelError(
            f"{architecture} needs a package that is not installed: {wanted[:200]}",
            hint="install it; or serve its text model alone: lorecall base prepare --from MODEL --out DIR",
            param="base",
        ) from error
    except (OSError, ValueError):
        return  # no processor at all, or one that only vLLM knows: vLLM says more
