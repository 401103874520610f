"""A generated corpus of adapters that must never be taken in, each with the reason it must be refused for."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from lorecall.adapters.core.refusals import Reason
from lorecall.adapters.peft_format.files import CONFIG_FILE, TRAINING_FILE, WEIGHTS_FILE

from tests.adapters.spoiling import (
    HIDDEN,
    Q0,
    RANK,
    VOCABULARY,
    A,
    B,
    Spoiler,
    config_text,
    discard,
    entry,
    header,
    header_text,
    put,
    raw_weights,
    renamed,
    replaced,
    setting,
    sparse,
    tensors,
    training,
    training_text,
    value,
)

EMBEDDING = "base_model.model.model.embed_tokens"
TABLE = np.ones((VOCABULARY, HIDDEN), np.float32)


def _pickle(directory: Path) -> None:
    (directory / WEIGHTS_FILE).unlink()
    # A pickle that would run a command when loaded.
    (directory / "adapter_model.bin").write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")


_FILES: dict[str, tuple[Reason, Spoiler]] = {
    "pickle instead of safetensors": (Reason.PICKLE, _pickle),
    "no configuration": (Reason.MISSING_FILE, replaced(lambda _: None, CONFIG_FILE)),
    "no weights": (Reason.MISSING_FILE, replaced(lambda _: None)),
    "weights link to /etc/passwd": (Reason.SYMLINK, replaced(lambda p: p.symlink_to("/etc/passwd"))),
    "weights link upwards": (Reason.SYMLINK, replaced(lambda p: p.symlink_to("../../secret"))),
    "configuration links out": (
        Reason.SYMLINK,
        replaced(lambda p: p.symlink_to("/proc/self/environ"), CONFIG_FILE),
    ),
    "link to itself": (Reason.UNREADABLE, replaced(lambda p: p.symlink_to(p.name))),
    "weights are a pipe": (Reason.NOT_A_REGULAR_FILE, replaced(os.mkfifo)),
    "weights are a directory": (Reason.NOT_A_REGULAR_FILE, replaced(lambda p: p.mkdir())),
    "training manifest links out": (
        Reason.SYMLINK,
        lambda d: (d / TRAINING_FILE).symlink_to("/etc/hostname"),
    ),
}
_JSON: dict[str, tuple[Reason, Spoiler]] = {
    "huge configuration": (Reason.TOO_LARGE, config_text('{"r": 4, "x": "' + "a" * (2 << 20) + '"}')),
    "duplicate key": (Reason.DUPLICATE_KEY, config_text('{"peft_type": "LORA", "r": 4, "r": 400}')),
    "nested duplicate key": (Reason.DUPLICATE_KEY, config_text('{"rank_pattern": {"q": 1, "q": 2}}')),
    "escaped duplicate key": (Reason.DUPLICATE_KEY, config_text('{"r": 4, "\\u0072": 400}')),
    "many keys and one twice": (
        Reason.DUPLICATE_KEY,
        config_text("{" + ",".join(f'"k{n}": 0' for n in range(60_000)) + ',"last": 1, "last": 2}'),
    ),
    "not JSON": (Reason.BAD_JSON, config_text("r = 4")),
    "NaN in JSON": (Reason.BAD_JSON, config_text('{"r": 4, "lora_alpha": NaN}')),
    "deeply nested JSON": (Reason.BAD_JSON, config_text("[" * 200_000 + "]" * 200_000)),
    "endless number": (Reason.BAD_JSON, config_text('{"r": ' + "9" * 100_000 + "}")),
    "JSON list": (Reason.BAD_JSON, config_text("[]")),
    "UTF-16 configuration": (Reason.BAD_JSON, config_text('{"r": 4}'.encode("utf-16"))),
    "training manifest is a list": (
        Reason.BAD_JSON,
        lambda d: discard((d / TRAINING_FILE).write_text("[1]")),
    ),
    "infinite alpha": (Reason.BAD_JSON, config_text('{"r": 4, "lora_alpha": 1e999}')),
    "configuration of 970 levels": (Reason.BAD_JSON, config_text('{"x":' * 970 + "1" + "}" * 970)),
    "half a character": (Reason.BAD_JSON, config_text('{"revision": "\\ud800"}')),
    "infinite loss": (Reason.BAD_JSON, training_text('{"loss": 1e999}')),
    "training record of 970 levels": (Reason.BAD_JSON, training_text('{"x":' * 970 + "1" + "}" * 970)),
    "half a character in the training record": (Reason.BAD_JSON, training_text('{"x": ["\\udc00"]}')),
    "huge training record": (Reason.TOO_LARGE, training(x="a" * (1 << 20))),
}
_TRAINING: dict[str, tuple[Reason, Spoiler]] = {
    "long text": (Reason.BAD_SETTING, training(scheme="a" * 129)),
    "long list": (Reason.BAD_SETTING, training(modules=["q"] * 65)),
    "many tools": (Reason.BAD_SETTING, training(created_with={str(n): "1" for n in range(17)})),
    "endless rank": (Reason.BAD_SETTING, training(rank=10**300)),
    "loss is a text": (Reason.BAD_SETTING, training(loss="low")),
    "base digest is a list": (Reason.BAD_SETTING, training(base_digest=["ab"])),
    "parent's record is wrong": (Reason.BAD_SETTING, training(mitigation={"parent_training": {"seed": "1"}})),
}
_SETTINGS: dict[str, tuple[Reason, Spoiler]] = {
    "prompt tuning": (Reason.NOT_LORA, setting(peft_type="PROMPT_TUNING")),
    "no peft_type": (Reason.NOT_LORA, setting(peft_type=None)),
    "classification": (Reason.NOT_LORA, setting(task_type="SEQ_CLS")),
    "rank over the maximum": (Reason.RANK_TOO_LARGE, setting(r=4096)),
    "rank pattern over the maximum": (Reason.RANK_TOO_LARGE, setting(rank_pattern={"q_proj": 4096})),
    "rank zero": (Reason.BAD_SETTING, setting(r=0)),
    "negative rank": (Reason.BAD_SETTING, setting(r=-4)),
    "rank is true": (Reason.BAD_SETTING, setting(r=True)),
    "rank is a text": (Reason.BAD_SETTING, setting(r="4")),
    "rank is 4.0": (Reason.BAD_SETTING, setting(r=4.0)),
    "alpha infinite": (Reason.BAD_JSON, setting(lora_alpha=float("inf"))),
    "alpha 1e300": (Reason.ABSURD_SCALING, setting(lora_alpha=1e300)),
    "alpha missing": (Reason.ABSURD_SCALING, setting(lora_alpha=None)),
    "alpha negative": (Reason.ABSURD_SCALING, setting(lora_alpha=-8)),
    "scale 25000": (Reason.ABSURD_SCALING, setting(lora_alpha=100_000)),
    "absurd alpha for one module": (Reason.ABSURD_SCALING, setting(alpha_pattern={"down_proj": 99_999})),
    "DoRA": (Reason.UNSUPPORTED_FEATURE, setting(use_dora=True)),
    "bias": (Reason.UNSUPPORTED_FEATURE, setting(bias="all")),
    "LoRA bias": (Reason.UNSUPPORTED_FEATURE, setting(lora_bias=True)),
    "modules to save": (Reason.UNSUPPORTED_FEATURE, setting(modules_to_save=["lm_head"])),
    "PiSSA": (Reason.UNSUPPORTED_FEATURE, setting(init_lora_weights="pissa_niter_16")),
    "activated LoRA": (Reason.UNSUPPORTED_FEATURE, setting(alora_invocation_tokens=[1, 2])),
    "layer replication": (Reason.UNSUPPORTED_FEATURE, setting(layer_replication=[[0, 2], [0, 2]])),
    "trainable tokens": (Reason.UNSUPPORTED_FEATURE, setting(trainable_token_indices=[7])),
    "parameter targets": (Reason.UNSUPPORTED_FEATURE, setting(target_parameters=["experts.down_proj"])),
    "feature of tomorrow": (Reason.UNSUPPORTED_FEATURE, setting(use_hyperlora=True)),
    "vLLM's own field": (Reason.UNSUPPORTED_FEATURE, setting(vllm_lora_scaling_factor=1000.0)),
    "rsLoRA is a text": (Reason.BAD_SETTING, setting(use_rslora="yes")),
    "catastrophic pattern": (Reason.UNSAFE_PATTERN, setting(rank_pattern={"(a+)+$": 4})),
    "nested counted pattern": (Reason.UNSAFE_PATTERN, setting(alpha_pattern={"(.{1,99}){1,99}x": 8})),
    "alternatives that multiply": (Reason.UNSAFE_PATTERN, setting(rank_pattern={"(.|m|.)" * 24 + "X": 4})),
    "empty alternatives that multiply": (Reason.UNSAFE_PATTERN, setting(alpha_pattern={"(|)" * 60 + "X": 8})),
    "many slow patterns": (
        Reason.UNSAFE_PATTERN,
        setting(rank_pattern={f".*.*x{n}": 4 for n in range(480)}),
    ),
    "broken pattern": (Reason.UNSAFE_PATTERN, setting(rank_pattern={"q_proj(": 4})),
    "pattern bomb": (Reason.BAD_SETTING, setting(rank_pattern={f"m{n}": 4 for n in range(5000)})),
    "no targets": (Reason.BAD_SETTING, setting(target_modules=[])),
    "targets of a wrong type": (Reason.BAD_SETTING, setting(target_modules=[1, 2])),
    "more modules than the configuration names": (
        Reason.UNEXPECTED_TENSOR,
        setting(target_modules=["q_proj", "c_attn"]),
    ),
    "more layers than the configuration names": (Reason.UNEXPECTED_TENSOR, setting(layers_to_transform=[1])),
    "excluded modules in the file": (Reason.UNEXPECTED_TENSOR, setting(exclude_modules=["down_proj"])),
    "expression that takes for ever": (
        Reason.UNSAFE_PATTERN,
        setting(target_modules=r"(?:[\w.]|[\w.][\w.]|[\w.][\w.][\w.])+[0-9]"),
    ),
    "broken expression of targets": (Reason.UNSAFE_PATTERN, setting(target_modules="(q_proj")),
    "target without weights": (Reason.INCOMPLETE, setting(target_modules=["q_proj", "down_proj", "up_proj"])),
    "target in look-alike letters": (Reason.UNEXPECTED_TENSOR, setting(target_modules=["q_pr\u043ej"])),
    "another base by name": (Reason.WRONG_BASE, setting(base_model_name_or_path="other-org/Other-8B")),
    "base name in look-alike letters": (
        Reason.WRONG_BASE,
        setting(base_model_name_or_path="some-org/tiny\u2010lm"),
    ),
    "another base by digest": (Reason.WRONG_BASE, training(base_digest="cd" * 32)),
    "no base stated": (Reason.BASE_UNSTATED, setting(base_model_name_or_path=None)),
    "base of a wrong type": (Reason.BAD_SETTING, setting(base_model_name_or_path=["x"])),
}
_HEADER: dict[str, tuple[Reason, Spoiler]] = {
    "empty file": (Reason.BAD_HEADER, raw_weights(lambda _: b"")),
    "seven bytes": (Reason.BAD_HEADER, raw_weights(lambda raw: raw[:7])),
    "header length beyond the file": (Reason.BAD_HEADER, raw_weights(lambda raw: b"\xff" * 8 + raw[8:])),
    "header of 10 GB": (Reason.BAD_HEADER, sparse(11 << 30, 10 << 30)),
    "header length zero": (Reason.BAD_HEADER, raw_weights(lambda raw: bytes(8) + raw[8:])),
    "header length too small": (
        Reason.BAD_HEADER,
        raw_weights(lambda raw: (int.from_bytes(raw[:8], "little") - 9).to_bytes(8, "little") + raw[8:]),
    ),
    "header not JSON": (Reason.BAD_HEADER, header_text(lambda text: "x" * len(text))),
    "header is a list": (Reason.BAD_HEADER, header_text(lambda _: "[]")),
    "header is deeply nested": (Reason.BAD_HEADER, header_text(lambda _: '{"a":' * 100_000 + "}" * 100_000)),
    "header of millions of lists": (
        Reason.BAD_HEADER,
        header_text(lambda _: '{"a":[' + "[]," * 5_000_000 + "[]]}"),
    ),
    "header of 100,000 tensors": (
        Reason.BAD_HEADER,
        header(lambda h: h.update({f"t{n}": h[A] for n in range(100_000)})),
    ),
    "pickle under the name of safetensors": (
        Reason.BAD_HEADER,
        raw_weights(lambda _: b"\x80\x04cos\nsystem\n" * 9),
    ),
    "zip under the name of safetensors": (
        Reason.BAD_HEADER,
        raw_weights(lambda _: b"PK\x03\x04" + bytes(99)),
    ),
    "tensor twice": (Reason.DUPLICATE_KEY, header_text(lambda text: text.replace("layers.1.", "layers.0."))),
    "metadata of a wrong type": (Reason.BAD_HEADER, header(lambda h: h.update(__metadata__={"a": [1]}))),
    "extra field": (Reason.BAD_HEADER, header(entry(A, strides=[1, 1]))),
    "negative dimension": (Reason.BAD_HEADER, header(entry(A, shape=[-4, -16]))),
    "dimension is a float": (Reason.BAD_HEADER, header(entry(A, shape=[4.0, 16]))),
    "overflowing shape": (Reason.BAD_HEADER, header(entry(A, shape=[1 << 63, 1 << 63]))),
    "offsets reversed": (Reason.BAD_OFFSETS, header(lambda h: h[A]["data_offsets"].reverse())),
    "offsets beyond the file": (
        Reason.BAD_OFFSETS,
        header(entry(A, data_offsets=[1 << 40, (1 << 40) + 256])),
    ),
    "overlapping tensors": (
        Reason.BAD_OFFSETS,
        header(lambda h: h[B].update(data_offsets=h[A]["data_offsets"])),
    ),
    "shape of other size than its bytes": (Reason.BAD_OFFSETS, header(entry(A, shape=[4, 1600]))),
    "unknown dtype": (Reason.BAD_DTYPE, header(entry(A, dtype="F128"))),
    "cut off": (Reason.BAD_OFFSETS, raw_weights(lambda raw: raw[:-64])),
    "bytes appended": (Reason.BAD_OFFSETS, raw_weights(lambda raw: raw + b"#!/bin/sh\nexit\n")),
}
_WEIGHTS: dict[str, tuple[Reason, Spoiler]] = {
    "no tensors": (Reason.EMPTY, tensors(lambda t: t.clear())),
    "empty tensor": (Reason.EMPTY, put(A, np.zeros((0, HIDDEN), np.float32))),
    "integers": (Reason.BAD_DTYPE, put(A, np.ones((RANK, HIDDEN), np.int32))),
    "float64": (Reason.BAD_DTYPE, put(A, np.ones((RANK, HIDDEN), np.float64))),
    "NaN": (Reason.NOT_FINITE, value(float("nan"))),
    "infinity": (Reason.NOT_FINITE, value(float("inf"))),
    "negative infinity in float16": (Reason.NOT_FINITE, value(-float("inf"), np.float16)),
    "overflows float16": (Reason.NOT_FINITE, value(-7e4)),
    "A without B": (Reason.INCOMPLETE, tensors(lambda t: t.pop(B))),
    "B without A": (Reason.INCOMPLETE, tensors(lambda t: t.pop(A))),
    "rank of one tensor": (
        Reason.RANK_MISMATCH,
        tensors(
            lambda t: t.update({A: np.ones((8, HIDDEN), np.float32), B: np.ones((HIDDEN, 8), np.float32)})
        ),
    ),
    "A and B of different ranks": (
        Reason.RANK_MISMATCH,
        put(B, np.ones((HIDDEN, 8), np.float32)),
    ),
    "rank only in the configuration": (Reason.RANK_MISMATCH, setting(r=8)),
    "rank pattern that the weights do not follow": (
        Reason.RANK_MISMATCH,
        setting(rank_pattern={"layers.1.*q_proj": 8}),
    ),
    "wrong width": (Reason.BAD_SHAPE, put(A, np.ones((RANK, 99), np.float32))),
    "transposed": (Reason.BAD_SHAPE, put(A, np.ones((HIDDEN, RANK), np.float32))),
    "three dimensions": (
        Reason.BAD_SHAPE,
        put(A, np.ones((1, RANK, HIDDEN), np.float32)),
    ),
    "layer beyond the base": (Reason.UNKNOWN_MODULE, renamed("layers.1.", "layers.7.")),
    "modules of another architecture": (Reason.UNKNOWN_MODULE, renamed("self_attn.q_proj", "attention.wq")),
    "prefix twice": (
        Reason.UNKNOWN_MODULE,
        renamed("base_model.model.", "base_model.model.base_model.model."),
    ),
    "path as a module": (Reason.UNKNOWN_MODULE, renamed("model.layers.0", "../../../etc")),
    "look-alike letters": (Reason.UNKNOWN_MODULE, renamed("layers.0.", "l\u0430yers.0.")),
    "zero-width space": (Reason.UNKNOWN_MODULE, renamed("layers.0.", "layers\u200b.0.")),
    "line break in a name": (Reason.UNEXPECTED_TENSOR, renamed("layers.0.", "layers.0.\nFAKE LOG LINE.")),
    "no prefix": (Reason.UNEXPECTED_TENSOR, renamed("base_model.model.", "")),
    "some other tensor": (
        Reason.UNEXPECTED_TENSOR,
        tensors(lambda t: t.update(extra=np.ones(3, np.float32))),
    ),
    "embedding kind on a linear module": (
        Reason.UNEXPECTED_TENSOR,
        renamed("lora_A.weight", "lora_embedding_A"),
    ),
    "magnitude vector": (
        Reason.UNSUPPORTED_FEATURE,
        put(f"{Q0}.lora_magnitude_vector", np.ones(HIDDEN, np.float32)),
    ),
    "bias tensor": (
        Reason.UNSUPPORTED_FEATURE,
        put(f"{Q0}.lora_B.bias", np.ones(HIDDEN, np.float32)),
    ),
    "trained embedding": (Reason.UNSUPPORTED_FEATURE, put(f"{EMBEDDING}.modules_to_save.weight", TABLE)),
    "embedding of its own": (Reason.UNEXPECTED_TENSOR, put(f"{EMBEDDING}.weight", TABLE)),
    "grown vocabulary": (
        Reason.BAD_SHAPE,
        put(f"{EMBEDDING}.base_layer.weight", np.ones((99, HIDDEN), np.float32)),
    ),
    "module that the server does not wrap": (
        Reason.MODULE_NOT_SERVED,
        tensors(
            lambda t: t.update(
                {
                    "base_model.model.lm_head.lora_A.weight": np.ones((RANK, HIDDEN), np.float32),
                    "base_model.model.lm_head.lora_B.weight": np.ones((VOCABULARY, RANK), np.float32),
                }
            )
        ),
    ),
}
SPOILERS: Mapping[str, tuple[Reason, Spoiler]] = _FILES | _JSON | _TRAINING | _SETTINGS | _HEADER | _WEIGHTS
