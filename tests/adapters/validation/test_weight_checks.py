"""Every value of every tensor is looked at, however the file is cut into reads."""

from pathlib import Path

import numpy as np
import pytest
from lorecall.adapters.core.refusals import WeightsRefusedError
from lorecall.adapters.peft_format.safetensors_header import read_header
from lorecall.adapters.validation import weight_checks
from lorecall.adapters.validation.weight_checks import check_values
from safetensors.numpy import save_file

SHAPES = {"a": (3, 5), "b": (40, 2), "c": (1, 1), "d": (7,), "e": (16, 4), "f": (2,)}
"""Of 8 to 320 bytes in float32, some of them in sum over a read, some over one alone."""


@pytest.mark.parametrize("chunk", [8, 64, 96, 1 << 22])
@pytest.mark.parametrize("half", [None, "c", "f"])
def test_one_bad_value_is_found_in_any_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, half: str | None
) -> None:
    """First, last and in the middle, beside another dtype and across reads; zeros are told apart."""
    monkeypatch.setattr(weight_checks, "_CHUNK_BYTES", chunk)
    kinds = {name: np.float16 if name == half else np.float32 for name in SHAPES}
    good = {name: np.full(shape, 0.5, kinds[name]) for name, shape in SHAPES.items()} | {
        "d": np.zeros(7, np.float32)
    }
    file = tmp_path / "weights"
    save_file(good, file)
    with file.open("rb") as source:
        assert check_values(source, read_header(source)) == {"d"}
    for name, tensor in good.items():
        for place in {0, tensor.size // 2, tensor.size - 1}:
            spoiled = tensor.copy()
            spoiled.flat[place] = np.nan
            save_file(good | {name: spoiled}, file)
            with file.open("rb") as source, pytest.raises(WeightsRefusedError, match=f"'{name}'"):
                check_values(source, read_header(source))
