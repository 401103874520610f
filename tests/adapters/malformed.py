"""Malformed adapters by the hundred: settings of every type, tensors of every form, damaged files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from lorecall.adapters.peft_format.files import CONFIG_FILE, WEIGHTS_FILE

from tests.adapters.people import Change, Tensors, load, save, without
from tests.adapters.spoiling import setting

Damage = Callable[[str], Change]
"""What becomes of a file, by its name."""

VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2**70, 1.5, -0.5, 1e-320, 1e300, "", "x", "[", "(", "all-linear", "*", "(a+)+$",
    [], [1], ["x"], [""], [None], [["x"]], ["q_proj", 1], {}, {"a": 1}, {"q_proj": 0}, {"q_proj": -1},
    {"q_proj": 2**70}, {"q_proj": "x"}, {"(": 4}, {"q_proj": None}, {"x": [1]}, {"x": {"y": 2}},
    {"base_model_class": 3}, {"scale": True}, {"scale": -1}, {"scale": 1e300}, {"scale": "x"},
]  # fmt: skip
KEYS = (
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "exclude_modules", "fine_tune_type",
    "init_lora_weights", "layers_pattern", "layers_to_transform", "lora_alpha", "lora_parameters", "model",
    "modules_to_save", "peft_type", "r", "rank_pattern", "target_modules", "target_parameters", "task_type",
    "trainable_token_indices", "use_dora", "use_rslora", "unknown",
)  # fmt: skip
FORMS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "transposed": lambda t: t.reshape(-1, t.shape[-1]).T,
    "one dimension": torch.flatten,
    "no dimension": lambda t: t.flatten()[0],
    "three dimensions": lambda t: t[None],
    "one row": lambda t: t[:1],
    "one column": lambda t: t[..., :1],
    "no row": lambda t: t[:0],
    "no column": lambda t: t[..., :0],
    "half of it": lambda t: t[: t.shape[0] // 2],
    "twice": lambda t: torch.cat([t, t]),
    "int8": lambda t: t.to(torch.int8),
    "int64": lambda t: t.long(),
    "bool": lambda t: t > 0,
    "float8": lambda t: t.to(torch.float8_e4m3fn),
    "complex": lambda t: t.to(torch.complex64),
    "float64": lambda t: t.double(),
    "NaN": lambda t: t * float("nan"),
    "infinite": lambda t: t * float("inf"),
    "huge": lambda t: t * 1e38,
    "over float16": lambda t: (t * 1e6).half(),
    "zero": torch.zeros_like,
}
"""What becomes of a tensor."""

PICKLES: dict[str, Callable[[Tensors], object]] = {
    "list": lambda _: [1],
    "nothing": lambda _: {},
    "a number beside": lambda t: {**t, "x": 3},
    "numbers for names": lambda t: dict(enumerate(t.values())),
    "state_dict": lambda t: {"state_dict": t},
    "parameters": lambda t: {n: torch.nn.Parameter(one) for n, one in t.items()},
    "transposed views": lambda t: {n: one.T.contiguous().T for n, one in t.items()},
    "repeated numbers": lambda t: {n: torch.ones(1, 1).expand(one.shape) for n, one in t.items()},
    "sparse": lambda t: {n: one.to_sparse() for n, one in t.items()},
    "rows of it sparse": lambda t: {n: one.to_sparse_csr() for n, one in t.items()},
    "on no device": lambda t: {n: one.to("meta") for n, one in t.items()},
    "nested": lambda t: {n: torch.nested.nested_tensor([one]) for n, one in t.items()},
}
"""What a file of torch.save may hold."""


def formed(form: str, part: str, *, one: bool) -> Change:
    """Change the tensors whose names end so: the first, or all."""

    def change(folder: Path) -> None:
        tensors = load(folder)
        names = [name for name in sorted(tensors) if name.endswith(part)]
        save(folder, tensors | {name: FORMS[form](tensors[name]) for name in names[: 1 if one else None]})

    return change


def lacking(part: str) -> Change:
    """Leave out the first tensor whose name ends so."""

    def change(folder: Path) -> None:
        tensors = load(folder)
        del tensors[min(name for name in tensors if name.endswith(part))]
        save(folder, tensors)

    return change


def holding(kind: str) -> Change:
    """Save something else with `torch.save`."""
    return lambda folder: (
        torch.save(PICKLES[kind](load(folder)), folder / "adapter_model.bin"),
        without(WEIGHTS_FILE)(folder),
    )


def damaged(share: float, *, cut: bool) -> Damage:
    """Cut a file of a name off, or turn over the bits of one byte."""

    def change(folder: Path, name: str) -> None:
        raw = bytearray((folder / name).read_bytes())
        at = int(share * len(raw))
        raw[at:] = b"" if cut else bytes([raw[at] ^ 0xFF]) + raw[at + 1 :]
        (folder / name).write_bytes(raw)

    return lambda name: lambda folder: change(folder, name)


SETTINGS = st.builds(
    lambda key, value: setting(**{key: value}), st.sampled_from(KEYS), st.sampled_from(VALUES)
)
"""One setting with a value of any type."""

CONFIGS = st.one_of(
    st.binary(max_size=12),
    st.sampled_from([b"null", b"[]", b'{"r": NaN}', b'{"r": 1e999}', b'{"r": 1, "r": 2}', b"[" * 100_000]),
).map(lambda raw: lambda folder: (folder / CONFIG_FILE).write_bytes(raw))
"""Another configuration."""


def mlx_scale(value: object) -> Change:
    """Overwrite the scale that MLX writes in `lora_parameters`."""

    def change(folder: Path) -> None:
        given = json.loads((folder / CONFIG_FILE).read_text())["lora_parameters"]
        setting(lora_parameters=given | {"scale": value})(folder)

    return change
