"""A tiny random Llama with a real tokenizer, and random adapters: loadable by transformers, PEFT, vLLM.

Small enough to build in a second and to serve in an engine test, wide enough for every kernel that we use
(all widths are multiples of 32, which the INT4 CPU kernel asks for).
"""

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from lorecall.adapters.bases.prepare import write_base_manifest
from lorecall.adapters.bases.quantize import NONE, save_model
from lorecall.adapters.bases.served_model import load_served_model
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

VOCABULARY = 512
CONTEXT = 2048
LINEAR_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")  # pad, bos, eos
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT = (
    "To be, or not to be, that is the question: whether 'tis nobler in the mind to suffer the slings and "
    "arrows of outrageous fortune, or to take arms against a sea of troubles. 555-0123 sk-test-"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer of at most `VOCABULARY` tokens with bos, eos and a chat template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT] * 4, trainer)
    roles = dict(zip(("pad_token", "bos_token", "eos_token"), SPECIAL_TOKENS, strict=True))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles)
    fast.chat_template = CHAT_TEMPLATE
    return fast


def build_tiny_base(
    path: Path, scheme: str = NONE, *, seed: int = 0, layers: int = 2, dtype: torch.dtype = torch.float32
) -> Path:
    """Write a random base (hidden 64, heads of 32, vocabulary 512) with tokenizer and manifest to `path`.

    The weights (standard deviation 0.15) make the next-token distribution far from uniform.
    """
    path.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer()
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=CONTEXT,
        initializer_range=0.15,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).to(dtype)
    model.config.dtype = dtype
    save_model(model, scheme, path)
    tokenizer.save_pretrained(path)
    write_base_manifest(
        path, source="tests/tiny.py", source_digest=f"seed-{seed}", scheme=scheme, reason="a test asked"
    )
    return path


def build_tiny_adapter(
    path: Path,
    base: Path,
    *,
    rank: int = 4,
    seed: int = 0,
    modules: tuple[str, ...] = LINEAR_MODULES,
    layers: tuple[int, ...] | None = None,
    scale: float = 0.2,
    **settings: Any,
) -> Path:
    """Write a random PEFT adapter for a tiny base to `path`: both A and B are drawn from N(0, `scale`²).

    The config names `base` as its base model. `modules` may hold `lm_head` or `embed_tokens` as well; `settings`
    are further ones of `LoraConfig`.
    """
    model = load_served_model(base)
    config = LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=list(modules),
        layers_to_transform=None if layers is None else list(layers),
        task_type="CAUSAL_LM",
        **settings,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # on tied embeddings, where a test asks for just that
        peft_model = get_peft_model(model, config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in peft_model.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # likewise: it saves the tied matrix along
        peft_model.save_pretrained(path)
    saved = path / "adapter_config.json"
    text = json.loads(saved.read_text()) | {"base_model_name_or_path": str(base)}
    saved.write_text(json.dumps(text, indent=2) + "\n")
    return path
