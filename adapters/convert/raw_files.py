"""Read the tensors of an adapter from whatever files its trainer wrote: safetensors, shards, PyTorch's .bin."""

import os
import re
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from lorecall.adapters.core.refusals import FileRefusedError, Reason, WeightsRefusedError, safe_repr
from lorecall.adapters.peft_format.files import WEIGHTS_FILE, open_plain
from lorecall.adapters.peft_format.safetensors_header import read_header

if TYPE_CHECKING:
    import torch

MLX_WEIGHTS = "adapters.safetensors"
_SHARD = re.compile(r"adapter_model-(?P<part>\d{5})-of-(?P<parts>\d{5})\.(?:safetensors|bin)")
_PICKLED = ("adapter_model.bin", "adapter_model.pt")
_MAX_PICKLE_BYTES = 16 << 20
_MAX_BYTES = 8 << 30


def weights_files(directory: Path) -> list[Path]:
    """Return the files of a directory that hold its tensors: one, or all shards in order.

    Raises:
        FileRefusedError: There are none, a shard is missing, or the directory cannot be read.
    """
    try:
        names = [path.name for path in directory.iterdir()]
    except OSError as error:
        raise FileRefusedError(
            Reason.UNREADABLE,
            f"{directory} is no folder that can be read: {error.strerror}",
            hint="name the folder that the trainer wrote",
        ) from error
    for name in (WEIGHTS_FILE, *_PICKLED, MLX_WEIGHTS):
        if (directory / name).is_file():
            return [directory / name]
    shards = {match["part"]: match for name in names if (match := _SHARD.fullmatch(name))}
    if shards:
        parts = int(next(iter(shards.values()))["parts"])
        lacking = sorted({f"{n:05}" for n in range(1, parts + 1)} - shards.keys())
        if lacking:
            raise FileRefusedError(
                Reason.INCOMPLETE,
                f"shard {lacking[0]} of {parts} is missing",
                hint="copy all adapter_model-*-of-* files",
                param=WEIGHTS_FILE,
            )
        return [directory / shards[part].string for part in sorted(shards)]
    open_plain(
        directory, WEIGHTS_FILE, follow_links=True
    ).close()  # raises, with what the folder holds instead
    raise AssertionError("the file was not there a moment ago")


def read_tensors(files: list[Path], *, max_bytes: int = _MAX_BYTES) -> dict[str, "torch.Tensor"]:
    """Read all tensors into memory. Pickles are read with PyTorch's `weights_only`, which runs no code of theirs.

    Args:
        files: From `weights_files`.
        max_bytes: The most bytes of all tensors together.

    Raises:
        RefusedError: A file is damaged, too large, or has anything but tensors.
    """
    tensors: dict[str, torch.Tensor] = {}
    left = max_bytes
    for file in files:
        size = _unpacked_size(file)
        found = _safetensors(file) if file.suffix == ".safetensors" else {}
        if size <= left and file.suffix != ".safetensors":
            found = _pickled(file)
        left -= max(size, sum(one.numel() * one.element_size() for one in found.values()))
        if left < 0:
            raise FileRefusedError(
                Reason.TOO_LARGE,
                f"the adapter is larger than {max_bytes} bytes",
                hint="an adapter is a few hundred megabytes; a whole model is a base",
                param=file.name,
            )
        twice = sorted(tensors.keys() & found)
        if twice:
            raise WeightsRefusedError(
                Reason.DUPLICATE_KEY, f"{safe_repr(twice[0])} is in two shards", param=file.name
            )
        tensors |= found
    return tensors


def _unpacked_size(file: Path) -> int:
    with open_plain(file.parent, file.name, follow_links=True) as opened:
        if file.suffix == ".safetensors":
            return os.fstat(opened.fileno()).st_size
        try:
            with zipfile.ZipFile(opened) as archive:
                members = archive.infolist()
        except Exception as error:  # of a damaged one; zipfile raises whatever it meets
            raise FileRefusedError(
                Reason.PICKLE,
                f"{file.name} is no file of torch.save since PyTorch 1.6, or damaged",
                hint=f"save it again as {WEIGHTS_FILE} with the environment that trained it",
                param=file.name,
            ) from error
    pickles = [member for member in members if member.filename.endswith(".pkl")]
    if any(member.file_size > _MAX_PICKLE_BYTES for member in pickles):
        raise FileRefusedError(
            Reason.TOO_LARGE,
            f"{file.name} has a pickle of more than {_MAX_PICKLE_BYTES} bytes",
            param=file.name,
        )
    return sum(member.file_size for member in members)


def _safetensors(file: Path) -> dict[str, "torch.Tensor"]:
    from safetensors import SafetensorError  # noqa: PLC0415
    from safetensors.torch import load_file  # noqa: PLC0415  # brings in torch

    with open_plain(file.parent, file.name, follow_links=True) as opened:
        read_header(opened, file.name)
    try:
        loaded: dict[str, torch.Tensor] = load_file(file)
    except (SafetensorError, OSError, KeyError) as error:
        raise WeightsRefusedError(
            Reason.BAD_HEADER,
            f"safetensors cannot read {file.name}: {safe_repr(str(error))}",
            hint="save the adapter again",
            param=file.name,
        ) from error
    return loaded


def _pickled(file: Path) -> dict[str, "torch.Tensor"]:
    import torch  # noqa: PLC0415

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on kinds of tensors that are refused below
            loaded = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # of a damaged file, or one with code; PyTorch raises whatever it meets
        raise FileRefusedError(
            Reason.PICKLE,
            f"{file.name} holds more than tensors, or is damaged: it is not read",
            hint=f"save the weights alone, as {WEIGHTS_FILE}",
            param=file.name,
        ) from error
    if not isinstance(loaded, dict) or not all(
        isinstance(name, str) and isinstance(one, torch.Tensor) for name, one in loaded.items()
    ):
        raise FileRefusedError(
            Reason.PICKLE,
            f"{file.name} is no map from names to tensors",
            hint=f"save the weights alone, as {WEIGHTS_FILE}",
            param=file.name,
        )
    odd = next((name for name, one in loaded.items() if not _is_plain(one)), None)
    if odd is not None:
        raise WeightsRefusedError(
            Reason.BAD_DTYPE,
            f"{safe_repr(odd)} is sparse, nested or without its numbers",
            hint=f"save the weights as they are in training, as {WEIGHTS_FILE}",
            param=file.name,
        )
    return {name: one.detach() for name, one in loaded.items()}


def _is_plain(tensor: "torch.Tensor") -> bool:
    """Return whether a tensor has all its numbers, one by one."""
    import torch  # noqa: PLC0415

    return tensor.layout is torch.strided and not tensor.is_nested and tensor.device.type == "cpu"
