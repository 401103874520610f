"""The names of LoRA tensors as trainers write them, and the module of the base that each belongs to."""

import re
from collections.abc import Collection
from typing import NamedTuple

from lorecall.adapters.peft_format.weights import PREFIX

_WRAPPERS = re.compile(r"(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_LORA = re.compile(
    r"(?P<module>.+)\."
    r"(?:lora_(?P<side>[AB])(?:\.(?!weight$)[\w-]+)?(?:\.weight)?"
    r"|lora_embedding_(?P<half>[AB])(?:\.[\w-]+)?"
    r"|lora_(?P<mlx>[ab])"
    r"|(?P<magnitude>lora_magnitude_vector)(?:\.(?!weight$)[\w-]+)?(?:\.weight)?)"
)


class Part(NamedTuple):
    """What a tensor is: `kind` is "A", "B" or "m" (DoRA's magnitudes); `transposed` as MLX has it."""

    module: str
    kind: str
    embedding: bool
    transposed: bool


def read_name(name: str) -> Part | None:
    """Return what a tensor of this name is; None for no part of a LoRA. The module has no prefix of PEFT.

    Taken out: what compiling and sharding put in (`_orig_mod.`, `_fsdp_wrapped_module.`, `module.`), and the
    adapter's name (`lora_A.default.weight`).
    """
    match = _LORA.fullmatch(_WRAPPERS.sub("", name).removeprefix("module."))
    if match is None:
        return None
    module = match["module"]
    while module.startswith(PREFIX):
        module = module.removeprefix(PREFIX)
    kind = match["side"] or match["half"] or (match["mlx"].upper() if match["mlx"] else "m")
    return Part(module, kind, match["half"] is not None, match["mlx"] is not None)


def module_of_base(module: str, known: Collection[str] = ()) -> str:
    """Return the name that a module has in the base.

    Args:
        module: Its name as the adapter has it: the language model of a multimodal model, without the `model.` in
            front, or with Tinker's name of the head.
        known: The base's modules; where the base is not at hand, it is taken for a plain language model.
    """
    plain = module.replace("model.language_model.", "model.").replace("language_model.", "")
    plain = re.sub(r"^(?:model\.)?unembed_tokens$", "lm_head", plain)
    forms = [module, plain, f"model.{plain}"]
    forms += [
        form.replace(".mlp.", ".block_sparse_moe.") for form in forms
    ]  # Mixtral's, since transformers 5
    if known:
        return next((form for form in forms if form in known), module)
    return f"model.{plain}" if plain.startswith(("layers.", "embed_tokens")) else plain
