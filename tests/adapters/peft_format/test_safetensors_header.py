"""Our reading of a safetensors header accepts nothing that the library would not, and sees the same."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lorecall.adapters.core.refusals import RefusedError
from lorecall.adapters.peft_format.safetensors_header import DTYPE_BYTES, TensorEntry, read_header
from safetensors import safe_open
from safetensors.numpy import save_file

SIZES = st.integers(0, 40)
ENTRIES = st.dictionaries(
    st.text(max_size=6),
    st.fixed_dictionaries(
        {
            "dtype": st.sampled_from([*DTYPE_BYTES, "F128", "f32", 7]),
            "shape": st.lists(st.integers(-1, 5), max_size=3),
            "data_offsets": st.lists(SIZES, min_size=1, max_size=3),
        },
        optional={"strides": st.just([1])},
    )
    | st.integers(),
    max_size=4,
)


def read(path: Path) -> tuple[TensorEntry, ...]:
    with path.open("rb") as file:
        return read_header(file)


def write(path: Path, header: Any, data: bytes) -> None:
    raw = json.dumps(header).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + data)


def tiled(names: list[str], shapes: list[tuple[int, ...]], dtypes: list[str]) -> tuple[dict[str, Any], int]:
    """A right header for those tensors, and the bytes that they take."""
    header, end = {}, 0
    for name, shape, dtype in zip(names, shapes, dtypes, strict=False):
        begin, end = end, end + int(np.prod(shape, dtype=np.int64)) * DTYPE_BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    return header, end


def test_header_of_the_library_is_read(tmp_path: Path) -> None:
    """Names, dtypes, shapes and places of a file that the library wrote."""
    tensors: dict[str, np.ndarray[Any, Any]] = {
        "b": np.arange(6, dtype=np.float32).reshape(2, 3),
        "a": np.arange(4, dtype=np.float16),
        "empty": np.zeros((0, 5), np.float32),
        "scalar": np.array(1.5, np.float32),
    }
    save_file(tensors, tmp_path / "file", metadata={"format": "pt"})
    raw = (tmp_path / "file").read_bytes()
    entries = read(tmp_path / "file")
    assert {entry.name for entry in entries} == set(tensors)
    for entry in entries:
        tensor = tensors[entry.name]
        assert entry.shape == tensor.shape
        assert raw[entry.begin : entry.end] == tensor.tobytes()


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(header=ENTRIES, size=SIZES)
def test_accepts_no_more_than_the_library(header: dict[str, Any], size: int, tmp_path: Path) -> None:
    """A made-up header that passes here passes there, with the same tensors."""
    write(tmp_path / "file", header, bytes(size))
    check_agreement(tmp_path / "file")


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_agrees_on_nearly_right_headers(data: st.DataObject, tmp_path: Path) -> None:
    """Right headers pass in both; with one number changed, ours passes only what the library passes."""
    shapes = data.draw(st.lists(st.lists(st.integers(0, 4), max_size=3).map(tuple), min_size=1, max_size=4))
    dtypes = [data.draw(st.sampled_from(sorted(DTYPE_BYTES))) for _ in shapes]
    header, size = tiled([f"t{n}" for n in range(len(shapes))], shapes, dtypes)
    write(tmp_path / "file", header, bytes(size))
    assert len(read(tmp_path / "file")) == len(shapes)
    check_agreement(tmp_path / "file")
    victim = header[data.draw(st.sampled_from(sorted(header)))]
    field = data.draw(st.sampled_from([name for name in ("shape", "data_offsets") if victim[name]]))
    victim[field][data.draw(st.integers(0, len(victim[field]) - 1))] += data.draw(st.integers(-9, 9))
    write(tmp_path / "file", header, bytes(size))
    check_agreement(tmp_path / "file")


def check_agreement(path: Path) -> None:
    """What is accepted here must be accepted by the library, with the same names and shapes."""
    try:
        entries = read(path)
    except RefusedError:
        return
    with safe_open(path, framework="numpy") as file:
        assert {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()} == {  # noqa: SIM118  # not a dict
            entry.name: entry.shape for entry in entries
        }


@pytest.mark.parametrize("length", [0, 1, 2**16, 2**31, 2**40, 2**63, 2**64 - 1])
def test_length_is_not_believed(length: int, tmp_path: Path) -> None:
    """No announced length makes us read beyond the file or reserve memory for it."""
    (tmp_path / "file").write_bytes(length.to_bytes(8, "little") + b"{}")
    with pytest.raises(RefusedError, match="says that its header has"):
        read(tmp_path / "file")
