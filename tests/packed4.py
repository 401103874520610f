"""Tiny 4-bit bases in other people's formats, GPTQ and AWQ, beside a plain base of the same dequantised weights.

Written from the formats' definitions: 4-bit numbers eight to an int32, one scale and zero point for each group of
input columns and each output.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.tiny import LINEAR_MODULES, build_tiny_base

GROUP = 32
ZERO = 8
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
CONFIGS = {
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": False, "sym": True},
    "awq": {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm"},
}


def pack(values: torch.Tensor, order: tuple[int, ...] = tuple(range(8))) -> torch.Tensor:
    """Pack 4-bit numbers [n, 8 m] along the last dimension, eight to an int32: [n, m]."""
    grouped = values.reshape(values.shape[0], -1, 8)[:, :, list(order)].to(torch.int64)
    packed = (grouped << (4 * torch.arange(8))).sum(-1)
    return torch.where(packed >= 2**31, packed - 2**32, packed).to(torch.int32)


def round_weight(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return 4-bit numbers [d_in, d_out], scales [groups, d_out] and the dequantised weight [d_out, d_in]."""
    columns = weight.t().reshape(-1, GROUP, weight.shape[0])
    scale = (columns.abs().amax(1) / 7).to(torch.float16).float()
    numbers = (columns / scale.unsqueeze(1)).round().clamp(-8, 7) + ZERO
    plain = ((numbers - ZERO) * scale.unsqueeze(1)).reshape(-1, weight.shape[0]).t()
    return numbers.reshape(-1, weight.shape[0]).long(), scale, plain.contiguous()


def build_packed_base(root: Path, method: str) -> tuple[Path, Path]:
    """Write a base packed as `method` ("gptq" or "awq") and the plain one that it stands for; return both."""
    packed_dir, plain_dir = (build_tiny_base(root / name) for name in (method, "plain"))
    tensors = load_file(plain_dir / "model.safetensors")
    packed, plain = {}, {}
    for name, tensor in tensors.items():
        module = name.removesuffix(".weight")
        if not module.endswith(LINEAR_MODULES):
            packed[name] = plain[name] = tensor
            continue
        numbers, scale, plain[name] = round_weight(tensor)
        groups, width = scale.shape
        zeros = torch.full((groups, width), ZERO - 1 if method == "gptq" else ZERO)
        if method == "gptq":
            packed[f"{module}.qweight"] = pack(numbers.t()).t().contiguous()
            packed[f"{module}.g_idx"] = torch.arange(len(numbers), dtype=torch.int32) // GROUP
            packed[f"{module}.qzeros"] = pack(zeros)
        else:
            packed[f"{module}.qweight"] = pack(numbers, AWQ_ORDER)
            packed[f"{module}.qzeros"] = pack(zeros, AWQ_ORDER)
        packed[f"{module}.scales"] = scale.to(torch.float16)
    save_file(packed, packed_dir / "model.safetensors", {"format": "pt"})
    save_file(plain, plain_dir / "model.safetensors", {"format": "pt"})
    config = json.loads((packed_dir / "config.json").read_text())
    config["quantization_config"] = CONFIGS[method]
    (packed_dir / "config.json").write_text(json.dumps(config))
    return packed_dir, plain_dir
