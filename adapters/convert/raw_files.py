"""Read the tensors of an adapter from whatever files its trainer wrote: safetensors, shards, PyTorch's .bin."""

import re
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


def weights_files(directory: Path) -> list[Path]:
    """Return the files of a directory that hold its tensors: one, or all shards in order.

    Raises:
        FileRefusedError: There are none, or a shard is missing.
    """
    for name in (WEIGHTS_FILE, *_PICKLED, MLX_WEIGHTS):
        if (directory / name).is_file():
            return [directory / name]
    shards = {match["part"]: match for path in directory.iterdir() if (match := _SHARD.fullmatch(path.name))}
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


def read_tensors(files: list[Path], *, max_bytes: int) -> dict[str, "torch.Tensor"]:
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
    if file.suffix == ".safetensors":
        return file.stat().st_size
    if not zipfile.is_zipfile(file):
        raise FileRefusedError(
            Reason.PICKLE,
            f"{file.name} is no file of torch.save since PyTorch 1.6",
            hint=f"save it again as {WEIGHTS_FILE} with the environment that trained it",
            param=file.name,
        )
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
    pickles = [member for member in members if member.filename.endswith(".pkl")]
    if any(member.file_size > _MAX_PICKLE_BYTES for member in pickles):
        raise FileRefusedError(
            Reason.TOO_LARGE,
            f"{file.name} has a pickle of more than {_MAX_PICKLE_BYTES} bytes",
            param=file.name,
        )
    return sum(member.file_size for member in members)


def _safetensors(file: Path) -> dict[str, "torch.Tensor"]:
    from safetensors.torch import load_file  # noqa: PLC0415  # brings in torch

    with file.open("rb") as opened:
        read_header(opened, file.name)
    loaded: dict[str, torch.Tensor] = load_file(file)
    return loaded


def _pickled(file: Path) -> dict[str, "torch.Tensor"]:
    import pickle  # noqa: PLC0415  # for its error; PyTorch reads the file

    import torch  # noqa: PLC0415

    try:
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, KeyError, TypeError) as error:
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
    return loaded
