# noqa: INP001  (a script, not a package)
r"""Quantise a base by GPTQ or AWQ: 4-bit weights that keep each layer's outputs near on your texts.

    python -m venv quantise && . quantise/bin/activate && pip install llmcompressor==0.14.0.1
    python docs/quantise_gptq.py --model DIR --method gptq --texts prompts.txt --out base-gptq
    deactivate
    lorecall base prepare --from base-gptq --out base

In an environment of its own: llm-compressor asks for other versions of transformers and compressed-tensors than
vLLM does. The texts, one a line, should be like what will be served: a few hundred lines of a few hundred tokens.
"""

import argparse
import re
import sys
from pathlib import Path
from typing import Any

from compressed_tensors.quantization import QuantizationScheme
from compressed_tensors.quantization.quant_scheme import PRESET_SCHEMES
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.awq import AWQModifier
from llmcompressor.modifiers.quantization import GPTQModifier
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

METHODS = {"gptq": GPTQModifier, "awq": AWQModifier}
LEFT_ALONE = ["re:.*lm_head$", r"re:.*\.(gate|router|shared_expert_gate)$"]
"""The output layer and routers stay in floating point, as in `lorecall base prepare`."""
GROUP_SIZES = (128, 64, 32)


def scheme(model: Any) -> QuantizationScheme:
    """Return symmetric 4-bit weights in the largest groups that divide the inputs of every quantised layer."""
    widths = {
        layer.in_features
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear)
        and not any(re.match(one.removeprefix("re:"), name) for one in LEFT_ALONE)
    }
    fitting = [size for size in GROUP_SIZES if all(width % size == 0 for width in widths)]
    if not fitting:
        sys.exit(
            f"4 bits need input widths that are multiples of {GROUP_SIZES[-1]}, this model has {sorted(widths)}"
        )
    weights = PRESET_SCHEMES["W4A16"]["weights"].model_copy(update={"group_size": fitting[0]})
    return QuantizationScheme(targets=["Linear"], weights=weights)


def main() -> None:
    """Read the model and the texts, quantise, and write a model directory."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    options.add_argument("--model", required=True, type=Path, help="A model directory with plain weights.")
    options.add_argument("--method", choices=METHODS, default="gptq")
    options.add_argument("--texts", required=True, type=Path, help="Calibration texts, one a line.")
    options.add_argument("--out", required=True, type=Path)
    options.add_argument("--length", type=int, default=512, help="Tokens of a text that count.")
    said = options.parse_args()
    texts = [line for line in said.texts.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not texts:
        sys.exit(f"{said.texts} holds no text: give one a line")
    if said.out.exists():
        sys.exit(f"{said.out} exists: name another directory")
    tokenizer = AutoTokenizer.from_pretrained(said.model)
    model = AutoModelForCausalLM.from_pretrained(said.model, dtype="auto")
    tokens = [tokenizer(text, truncation=True, max_length=said.length).input_ids for text in texts]
    oneshot(
        model=model,
        dataset=Dataset.from_dict(
            {"input_ids": tokens, "attention_mask": [[1] * len(one) for one in tokens]}
        ),
        recipe=METHODS[said.method](config_groups={"group_0": scheme(model)}, ignore=LEFT_ALONE),
        max_seq_length=said.length,
        num_calibration_samples=len(tokens),
    )
    model.save_pretrained(said.out, save_compressed=True)
    tokenizer.save_pretrained(said.out)


if __name__ == "__main__":
    main()
