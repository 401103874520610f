"""A corpus of adapter folders as people bring them, each with what must become of it.

The base is the tiny Llama of `tests/tiny.py`; each entry changes a good adapter on it, as PEFT saves one, in its
folder. Its outcome is one of: accepted, accepted with a remark, converted (and refused as it is), or refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from lorecall.adapters.core.refusals import Reason
from lorecall.adapters.peft_format.files import CONFIG_FILE, WEIGHTS_FILE

from tests.adapters.malformed import damaged, formed, holding
from tests.adapters.people import (
    PREFIX,
    Change,
    adapting,
    add,
    beside,
    both,
    checkpoints,
    embeddings,
    keep,
    load,
    mixed_ranks,
    mlx,
    named,
    patterns,
    pickled,
    save,
    scaled,
    sharded,
    text,
    tokenizer,
    without,
    zero_b,
)
from tests.adapters.spoiling import setting


@dataclass(frozen=True)
class Case:
    """One folder.

    Attributes:
        change: Makes it from the good adapter.
        words: A part of the remark, or of the refusal (of the folder as it is, where it is converted).
        reason: The refusal's code; None where it is accepted.
        converts: Whether `lorecall adapters convert` makes a plain LoRA of it.
        same: Whether the result changes the base's weights as the good adapter does.
        peft: Whether PEFT itself can apply the folder, for comparison.
    """

    change: Change
    words: str = ""
    reason: Reason | None = None
    converts: bool = False
    same: bool = False
    peft: bool = False


BAD, CONFIG, MISSING = Reason.BAD_HEADER, Reason.BAD_JSON, Reason.MISSING_FILE
ODD, FEATURE, BASE = Reason.UNEXPECTED_TENSOR, Reason.UNSUPPORTED_FEATURE, Reason.WRONG_BASE
GOOD: Mapping[str, Case] = {
    "as PEFT saves it": Case(setting(), same=True, peft=True),
    "rsLoRA": Case(setting(use_rslora=True), peft=True),
    "gaussian start": Case(setting(init_lora_weights="gaussian"), same=True, peft=True),
    "names modules that the base lacks": Case(
        setting(target_modules=["q_proj", "v_proj", "up_proj", "down_proj", "c_attn"]), same=True, peft=True
    ),
    "expression of targets": Case(setting(target_modules=r".*\.(q|v|up|down)_proj"), same=True, peft=True),
    "Unsloth's expression": Case(
        setting(
            target_modules=r"(?:.*?(?:language|text).*?(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense).*?"
            r"(?:q_proj|v_proj|up_proj|down_proj).*?)|(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|attention|attn"
            r"|mlp|feed_forward|ffn|dense)\.(?:(?:q_proj|v_proj|up_proj|down_proj)))"
        ),
        same=True,
        peft=True,
    ),
    "all-linear": Case(setting(target_modules="all-linear"), same=True),
    "layers_to_transform of all layers": Case(setting(layers_to_transform=[0, 1]), same=True, peft=True),
    "excludes what is not there": Case(
        setting(
            target_modules=["q_proj", "v_proj", "up_proj", "down_proj", "o_proj"], exclude_modules=["o_proj"]
        ),
        same=True,
        peft=True,
    ),
    "only v": Case(both(keep(lambda n: "v_proj" in n), setting(target_modules=["v_proj"])), peft=True),
    "only up": Case(both(keep(lambda n: "up_proj" in n), setting(target_modules=["up_proj"])), peft=True),
    "only one layer": Case(both(keep(lambda n: ".1." in n), setting(layers_to_transform=[1])), peft=True),
    "the head": Case(adapting("q_proj", "lm_head"), peft=True),
    "the embeddings": Case(adapting("embed_tokens", "v_proj"), peft=True),
    "embeddings and the head that is tied to them": Case(
        adapting("embed_tokens", ensure_weight_tying=True), peft=True
    ),
    "trainable tokens of none": Case(setting(trainable_token_indices={"embed_tokens": []}), same=True),
    "560 patterns of EVA": Case(patterns, same=True, peft=True),
    "alpha pattern": Case(setting(alpha_pattern={"layers.1.mlp.up_proj": 2, "q_proj": 3}), peft=True),
    "large and small values": Case(scaled(256.0), same=True, peft=True),
    "over float16, for an engine of float32": Case(
        lambda d: save(d, {n: t * (7e4 if "0.mlp.up_proj.lora_A" in n else 1) for n, t in load(d).items()}),
        peft=True,
    ),
    "checkpoints beside it": Case(checkpoints, same=True, peft=True),
    "the base's tokenizer beside it": Case(tokenizer(), same=True, peft=True),
    "optimizer and logs beside it": Case(
        both(beside("optimizer.pt", b"x"), beside("runs/events.out", b"x"), beside("README.md", b"# x")),
        same=True,
        peft=True,
    ),
}
REMARKED: Mapping[str, Case] = {
    "Unsloth's 4-bit name": Case(
        setting(base_model_name_or_path="unsloth/base-bnb-4bit"),
        "another copy of this base",
        same=True,
        peft=True,
    ),
    "Unsloth's dynamic 4-bit name": Case(
        setting(base_model_name_or_path="unsloth/Base-unsloth-bnb-4bit"), "another copy", same=True, peft=True
    ),
    "AWQ name": Case(setting(base_model_name_or_path="x/base-AWQ"), "another copy", same=True, peft=True),
    "GPTQ name": Case(
        setting(base_model_name_or_path="x/base-GPTQ-Int4"), "another copy", same=True, peft=True
    ),
    "GGUF name": Case(setting(base_model_name_or_path="x/base-GGUF"), "another copy", same=True, peft=True),
    "snapshot of a 4-bit copy": Case(
        setting(base_model_name_or_path="/c/models--unsloth--base-bnb-4bit/snapshots/0a"),
        "another copy",
        same=True,
    ),
    "renamed folder": Case(
        setting(base_model_name_or_path="/data/final-merge"), "a folder of that name", same=True, peft=True
    ),
    "class of the base stated": Case(
        both(
            setting(base_model_name_or_path="./ckpt", auto_mapping={"base_model_class": "LlamaForCausalLM"}),
            keep(lambda n: ".1." in n),
        ),
        "a folder of that name",
        peft=True,
    ),
    "untrained": Case(zero_b, "every lora_B is zero", peft=True),
    "tokenizer beside it": Case(beside("tokenizer.json"), "not used: tokenizer.json", same=True, peft=True),
    "tokens added to its tokenizer": Case(
        beside("added_tokens.json", b'{"<a>": 512, "<b>": 513, "<c>": 514}'),
        "3 tokens were added to its tokenizer",
        same=True,
        peft=True,
    ),
    "a tokenizer with one token more": Case(tokenizer("<tool>"), "1 token was added", same=True, peft=True),
    "chat template beside it": Case(
        beside("chat_template.jinja", b"{{ messages[0].content }}"),
        "not used: its chat template (chat_template.jinja)",
        same=True,
        peft=True,
    ),
    "chat template of older trainers": Case(
        beside("tokenizer_config.json", b'{"chat_template": [{"name": "default", "template": "{{ 1 }}"}]}'),
        "not used: its chat template (tokenizer_config.json)",
        same=True,
    ),
}
CONVERTED: Mapping[str, Case] = {
    ".bin": Case(pickled(), "Python pickle", Reason.PICKLE, converts=True, same=True, peft=True),
    ".pt": Case(pickled("adapter_model.pt"), "Python pickle", Reason.PICKLE, converts=True, same=True),
    "shards": Case(sharded(), "in shards", MISSING, converts=True, same=True),
    "shards of .bin": Case(sharded("bin"), "pickle", Reason.PICKLE, converts=True, same=True),
    "name of the adapter in it": Case(
        named(lambda n: n.replace(".weight", ".default.weight")),
        "not under a name",
        ODD,
        converts=True,
        same=True,
    ),
    "compiled": Case(
        named(lambda n: n.replace("base_model.model.", "base_model.model._orig_mod.")),
        "no module",
        Reason.UNKNOWN_MODULE,
        converts=True,
        same=True,
    ),
    "FSDP": Case(
        named(lambda n: n.replace("layers.0.", "layers.0._fsdp_wrapped_module.")),
        "no module",
        Reason.UNKNOWN_MODULE,
        converts=True,
        same=True,
    ),
    "checkpointed activations": Case(
        named(lambda n: n.replace("mlp.", "mlp._checkpoint_wrapped_module.")),
        "no module",
        Reason.UNKNOWN_MODULE,
        converts=True,
        same=True,
    ),
    "DDP": Case(named(lambda n: f"module.{n}"), "not under a name", ODD, converts=True, same=True),
    "language model of a multimodal one": Case(
        named(lambda n: n.replace(f"{PREFIX}model.", f"{PREFIX}model.language_model.")),
        "no module",
        Reason.UNKNOWN_MODULE,
        converts=True,
        same=True,
    ),
    "language model first": Case(
        named(lambda n: n.replace(PREFIX, f"{PREFIX}language_model.")),
        "no module",
        Reason.UNKNOWN_MODULE,
        converts=True,
        same=True,
    ),
    "no prefix": Case(
        named(lambda n: n.removeprefix(PREFIX)), "not under a name", ODD, converts=True, same=True
    ),
    "neither prefix": Case(
        named(lambda n: n.removeprefix(PREFIX + "model.")), "not under a name", ODD, converts=True, same=True
    ),
    "prefix twice": Case(
        named(lambda n: PREFIX + n), "no module", Reason.UNKNOWN_MODULE, converts=True, same=True
    ),
    "MLX": Case(mlx(), "of MLX", MISSING, converts=True, same=True),
    "MLX of a multimodal model": Case(
        mlx(wrapped="language_model."), "of MLX", MISSING, converts=True, same=True
    ),
    "byte order mark": Case(
        lambda d: text(CONFIG_FILE, b"\xef\xbb\xbf" + (d / CONFIG_FILE).read_bytes())(d),
        "byte order mark",
        CONFIG,
        converts=True,
        same=True,
    ),
    "more modules than named": Case(
        setting(target_modules=["q_proj", "up_proj"]), "does not name", ODD, converts=True, peft=True
    ),
    "more layers than named": Case(
        setting(layers_to_transform=[1]), "does not name", ODD, converts=True, peft=True
    ),
    "modules that are excluded": Case(
        setting(exclude_modules=["down_proj"]), "does not name", ODD, converts=True, peft=True
    ),
    "excluded by an expression": Case(
        setting(exclude_modules=r".*layers\.0\..*"), "does not name", ODD, converts=True, peft=True
    ),
    "rank pattern under a large r": Case(
        mixed_ranks, "over the server's maximum", Reason.RANK_TOO_LARGE, converts=True, peft=True
    ),
    "float64": Case(
        lambda d: save(d, {n: t.double() for n, t in load(d).items()}),
        "is F64",
        Reason.BAD_DTYPE,
        converts=True,
        same=True,
    ),
    "empty tensor of trainable tokens": Case(
        add(f"{PREFIX}model.embed_tokens.token_adapter.trainable_tokens_delta", torch.ones(0, 64)),
        "which has no numbers",
        FEATURE,
        converts=True,
        same=True,
    ),
}
REFUSED: Mapping[str, Case] = {
    "another model": Case(
        setting(base_model_name_or_path="org/Other-7B"), "LORECALL_BASE_NAMES=other-7b", BASE
    ),
    "folder, and a layer left out": Case(
        both(setting(base_model_name_or_path="/data/other"), keep(lambda n: ".1." in n)),
        "LORECALL_BASE_NAMES",
        BASE,
    ),
    "folder of another class": Case(
        setting(base_model_name_or_path="/data/x", auto_mapping={"base_model_class": "Qwen2ForCausalLM"}),
        "states the base",
        BASE,
    ),
    "git-lfs pointer": Case(
        text(WEIGHTS_FILE, b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"),
        "git-lfs",
        BAD,
    ),
    "git-lfs pointer of the configuration": Case(
        text(CONFIG_FILE, b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"),
        "git-lfs",
        CONFIG,
    ),
    "0 bytes of weights": Case(text(WEIGHTS_FILE, b""), "is empty", BAD),
    "0 bytes of configuration": Case(text(CONFIG_FILE, b""), "is empty", CONFIG),
    "GGUF under the name": Case(text(WEIGHTS_FILE, b"GGUF" + bytes(99)), "a GGUF file", BAD),
    "GGUF in the folder": Case(
        both(without(WEIGHTS_FILE), beside("lora-f16.gguf", b"GGUF")), "a GGUF file", MISSING
    ),
    ".bin under the name": Case(
        lambda d: torch.save({"x": torch.ones(2)}, d / WEIGHTS_FILE), "torch.save", BAD
    ),
    "merged model": Case(
        both(without(WEIGHTS_FILE, CONFIG_FILE), beside("model.safetensors"), beside("config.json")),
        "a whole model",
        MISSING,
    ),
    "merged model in shards": Case(
        both(without(WEIGHTS_FILE), beside("model-00001-of-00002.safetensors"), beside("config.json")),
        "a whole model",
        MISSING,
    ),
    "merged model under the name": Case(
        lambda d: save(d, {"model.layers.0.self_attn.q_proj.weight": torch.ones(64, 64)}),
        "a whole model",
        ODD,
    ),
    "only checkpoints": Case(
        both(checkpoints, without(WEIGHTS_FILE, CONFIG_FILE)), "checkpoint-10, checkpoint-20", MISSING
    ),
    "nothing": Case(without(WEIGHTS_FILE, CONFIG_FILE), "has no adapter_config.json", MISSING),
    "a shard lost": Case(sharded(lost=2), "in shards", MISSING),
    "MLX without a scale": Case(mlx(scale=False), "of MLX", MISSING),
    "MLX of a full training": Case(mlx(kind="full"), "of MLX", MISSING),
    "three tokens more": Case(embeddings(515), "3 tokens were added", Reason.BAD_SHAPE),
    "embeddings of its own": Case(embeddings(512), "no LoRA matrix", ODD),
    "trained embeddings": Case(setting(modules_to_save=["embed_tokens"]), "modules_to_save", FEATURE),
    "trained tokens": Case(
        setting(trainable_token_indices={"embed_tokens": [7]}), "trainable token", FEATURE
    ),
    "bias": Case(setting(bias="lora_only"), "applies no bias", FEATURE),
    "DoRA": Case(adapting("q_proj", use_dora=True), "uses DoRA", FEATURE),
    "magnitudes that the configuration does not name": Case(
        both(adapting("q_proj", use_dora=True), setting(use_dora=False)), "belongs to DoRA", FEATURE
    ),
    "PiSSA": Case(setting(init_lora_weights="pissa_niter_4"), "changes the base's weights", FEATURE),
    "fused experts": Case(
        setting(target_parameters=["mlp.experts.gate_up_proj"]),
        "LoRA on parameters (target_parameters)",
        FEATURE,
    ),
    "fused experts alone": Case(
        setting(target_parameters=["mlp.experts.down_proj"], target_modules=[]), "LoRA on parameters", FEATURE
    ),
    "a damaged .bin": Case(
        both(pickled(), damaged(0.5, cut=True)("adapter_model.bin")), "pickle", Reason.PICKLE
    ),
    "a sparse .bin": Case(holding("sparse"), "pickle", Reason.PICKLE),
    "integers": Case(formed("int8", "lora_B.weight", one=False), "is I8", Reason.BAD_DTYPE),
    "matrices the other way round": Case(
        formed("transposed", "lora_A.weight", one=False), "has the shape", Reason.BAD_SHAPE
    ),
    "another rank than it says": Case(
        setting(r=8), "rank 8, as the configuration says", Reason.RANK_MISMATCH
    ),
    "prompt tuning": Case(setting(peft_type="PROMPT_TUNING"), "PROMPT_TUNING", Reason.NOT_LORA),
    "LoHa": Case(setting(peft_type="LOHA"), "LOHA", Reason.NOT_LORA),
    "setting of tomorrow": Case(setting(use_wonder=True), "is unknown here", FEATURE),
    "tied head left out": Case(
        both(adapting("embed_tokens", ensure_weight_tying=True), keep(lambda n: "lm_head" not in n)),
        "no weights for lm_head",
        Reason.INCOMPLETE,
    ),
    "A without B": Case(
        keep(lambda n: "layers.0.mlp.up_proj.lora_B" not in n), "has only lora_A", Reason.INCOMPLETE
    ),
    "infinite": Case(formed("infinite", "lora_B.weight", one=True), "infinite", Reason.NOT_FINITE),
    "NaN": Case(
        lambda d: save(d, {n: t * float("nan") for n, t in load(d).items()}), "NaN", Reason.NOT_FINITE
    ),
}
CORPUS: Mapping[str, Case] = {**GOOD, **REMARKED, **CONVERTED, **REFUSED}
