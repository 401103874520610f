"""Parse the header of an untrusted safetensors file: https://github.com/huggingface/safetensors#format."""

import math
import os
from dataclasses import dataclass
from typing import Any, BinaryIO

from lorecall.adapters.core.refusals import ConfigRefusedError, Reason, WeightsRefusedError, safe_repr
from lorecall.adapters.core.strict_json import parse_object
from lorecall.adapters.peft_format.files import WEIGHTS_FILE

MAX_HEADER_BYTES = 16 << 20
DTYPE_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip
_OTHER_KINDS = {
    b"version ": ("a pointer of git-lfs, not the file", "get the file itself: git lfs pull, or hf download"),
    b"GGUF": ("a GGUF file", "give the PEFT directory that it was made from"),
    b"PK\x03\x04": (
        "a file of torch.save under the name of safetensors",
        "name it adapter_model.bin, then: lorecall adapters convert DIR --out DIR",
    ),
    b"\x80": ("a Python pickle under the name of safetensors", "save the adapter again as safetensors"),
    b"": ("empty", "the download or the training was interrupted: copy or save it again"),
}
_MAX_DIMENSION = 1 << 48


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of the file.

    Attributes:
        name: Its key.
        dtype: A key of `DTYPE_BYTES`.
        shape: Its dimensions.
        begin: Offset of its first byte in the file.
        end: Offset behind its last byte in the file.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_header(source: BinaryIO, name: str = WEIGHTS_FILE) -> tuple[TensorEntry, ...]:
    """Read the header and check that its tensors fill the rest of the file, without gaps or overlaps.

    Args:
        source: The file, at any position.
        name: The file's name, for messages.

    Returns:
        The tensors in the order of their bytes.

    Raises:
        WeightsRefusedError: The stated length is wrong, the header is malformed or has a key twice, a dtype is
            unknown, or tensors overlap, leave gaps or end outside the file.
    """
    size = os.fstat(source.fileno()).st_size
    source.seek(0)
    start = source.read(8)
    length = int.from_bytes(start, "little")
    if size < 8 or length < 2 or length > size - 8:
        _check_kind(start, name)
        raise _bad(f"{name} says that its header has {length} bytes, but the file has {size}", name)
    if length > MAX_HEADER_BYTES:
        raise _bad(f"the header of {name} has {length} bytes, over the limit of {MAX_HEADER_BYTES}", name)
    try:
        header = parse_object(source.read(length), f"the header of {name}")
    except ConfigRefusedError as error:
        reason = Reason.DUPLICATE_KEY if error.reason is Reason.DUPLICATE_KEY else Reason.BAD_HEADER
        raise WeightsRefusedError(reason, error.message, hint=error.hint, param=name) from error
    _check_metadata(header.pop("__metadata__", {}), name)
    tensors = [_entry(key, value, 8 + length, name) for key, value in header.items()]
    tensors.sort(key=lambda tensor: (tensor.begin, tensor.end))
    _check_tiling(tensors, 8 + length, size, name)
    return tuple(tensors)


def _check_kind(start: bytes, name: str) -> None:
    """Refuse a file that is known to be something else by its first bytes, and say what it is."""
    for magic, (what, hint) in _OTHER_KINDS.items():
        if start.startswith(magic) and (magic or not start):
            raise WeightsRefusedError(Reason.BAD_HEADER, f"{name} is {what}", hint=hint, param=name)


def _entry(key: str, value: Any, data: int, name: str) -> TensorEntry:
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise _bad(f"{safe_repr(key)} in {name} is not described by dtype, shape and data_offsets", name)
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise WeightsRefusedError(
            Reason.BAD_DTYPE,
            f"{safe_repr(key)} has the unknown dtype {safe_repr(dtype)}",
            hint="save it as float32",
            param=name,
        )
    if not _is_naturals(shape) or not _is_naturals(offsets) or len(offsets) != 2:
        raise _bad(
            f"{safe_repr(key)} has the shape {safe_repr(shape)} and the offsets {safe_repr(offsets)}", name
        )
    begin, end = offsets
    if end - begin != math.prod(shape) * DTYPE_BYTES[dtype]:
        raise WeightsRefusedError(
            Reason.BAD_OFFSETS,
            f"{safe_repr(key)} is {dtype} {safe_repr(shape)}, but has {end - begin} bytes",
            hint="save the adapter again",
            param=name,
        )
    return TensorEntry(key, dtype, tuple(shape), data + begin, data + end)


def _is_naturals(values: Any) -> bool:
    return (
        isinstance(values, list)
        and len(values) <= 8
        and all(type(value) is int and 0 <= value < _MAX_DIMENSION for value in values)
    )


def _check_metadata(metadata: Any, name: str) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _bad(f"the __metadata__ of {name} is not a map of strings", name)


def _check_tiling(tensors: list[TensorEntry], data: int, size: int, name: str) -> None:
    position = data
    for tensor in tensors:
        if tensor.begin != position:
            what = "overlaps the tensor before it" if tensor.begin < position else "leaves a gap before it"
            raise WeightsRefusedError(
                Reason.BAD_OFFSETS,
                f"{safe_repr(tensor.name)} {what}",
                hint="save the adapter again",
                param=name,
            )
        position = tensor.end
    if position != size:
        raise WeightsRefusedError(
            Reason.BAD_OFFSETS,
            f"the tensors of {name} end at byte {position}, the file at byte {size}",
            hint="the file is cut off or has something appended: copy it again",
            param=name,
        )


def _bad(message: str, name: str) -> WeightsRefusedError:
    return WeightsRefusedError(
        Reason.BAD_HEADER, message, hint="save the adapter again as safetensors", param=name
    )
