"""One compiled kernel for LoRA on few rows of many adapters: the decode step of a CPU engine.

Sixteen rows of eight adapters are thousands of tiny matrix products a step, each cheaper than its call. Here a
module's rows go through in one call, spread over the threads that PyTorch's OpenMP runtime already has. It is
called a hundred times a step, between products that leave no cache warm, so it takes addresses: handing over
nine arrays costs more there than the sums.
"""

import ctypes
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import torch
from llvmlite import ir
from lorecall.server.engine import compiled
from numba import carray, types
from numba.extending import intrinsic

Addresses = tuple[int, ...]

RANKS_AT_ONCE = 4
"""Ranks that the kernel takes in one sweep over a row; packed ranks are padded with zeros to a multiple."""


@intrinsic  # type: ignore[untyped-decorator]
def _number(_typing: Any, factor: Any) -> Any:
    """Return a factor as float32; a bfloat16 number comes as the uint16 of its bits."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        if factor == types.float32:
            return arguments[0]
        word = ir.IntType(32)
        return builder.bitcast(
            builder.shl(builder.zext(arguments[0], word), ir.Constant(word, 16)), ir.FloatType()
        )

    return types.float32(factor), generate


def _signature(factor: str) -> str:
    return (
        f"void(float32[:, ::1], float32[:, ::1], int64[:, ::1], int64[::1], "
        f"{factor}[:, :, :, ::1], {factor}[:, :, ::1], int64[::1], int64[::1], float32)"
    )


@numba.njit(  # type: ignore[untyped-decorator]
    [_signature("float32"), _signature("uint16")],
    fastmath=compiled.REASSOCIATE,
    parallel=True,
    cache=True,
    nogil=True,
)
def _add_rows(  # noqa: PLR0913, PLR0917  (a kernel takes its arrays one by one)
    x: npt.NDArray[Any],
    y: npt.NDArray[Any],
    pairs: npt.NDArray[Any],
    slots: npt.NDArray[Any],
    a: npt.NDArray[Any],
    b: npt.NDArray[Any],
    ranks: npt.NDArray[Any],
    starts: npt.NDArray[Any],
    scale: np.float32,
) -> None:  # pragma: no cover  (compiled)
    """Add scale · x·Aᵀ·B of each row's own adapter to `y`, in place.

    Two rows of one slot go together, so that each factor is read once for both. A row without a partner is
    computed beside itself and written once: its sums are added in the same order either way.

    Args:
        x: Inputs, shape [tokens, d_in].
        y: Outputs, shape [tokens, d_out].
        pairs: Rows to work on, two of the same slot or one twice, shape [n, 2].
        slots: The slot of each pair, shape [n].
        a: Shrinking factors, shape [slots, slices, r, d_in].
        b: Expanding factors of all slices side by side, shape [slots, r, d_out].
        ranks: Rank in use by slot, a multiple of RANKS_AT_ONCE, shape [slots]; 0 leaves a row alone.
        starts: First column of each slice, and the end of the last, shape [slices + 1].
        scale: Scaling factor.
    """
    width, slices = x.shape[1], a.shape[1]
    for index in numba.prange(len(slots)):
        # unsigned, and sliced before the loops: an index that may be negative keeps numba from vectorising
        one, two = np.uint64(pairs[index, 0]), np.uint64(pairs[index, 1])
        slot = np.uint64(slots[index])
        x1, x2 = x[one], x[two]
        for piece in range(slices):
            low, high = np.uint64(starts[piece]), np.uint64(starts[piece + 1])
            y1 = y[one, low:high]
            y2 = np.empty(len(y1), np.float32) if one == two else y[two, low:high]
            for r in range(0, ranks[slot], RANKS_AT_ONCE):
                a0, a1, a2, a3 = (
                    a[slot, piece, r],
                    a[slot, piece, r + 1],
                    a[slot, piece, r + 2],
                    a[slot, piece, r + 3],
                )
                g0 = g1 = g2 = g3 = h0 = h1 = h2 = h3 = np.float32(0.0)
                for c in range(width):
                    first, second = x1[c], x2[c]
                    f0, f1, f2, f3 = _number(a0[c]), _number(a1[c]), _number(a2[c]), _number(a3[c])
                    g0 += first * f0
                    g1 += first * f1
                    g2 += first * f2
                    g3 += first * f3
                    h0 += second * f0
                    h1 += second * f1
                    h2 += second * f2
                    h3 += second * f3
                g0, g1, g2, g3 = scale * g0, scale * g1, scale * g2, scale * g3
                h0, h1, h2, h3 = scale * h0, scale * h1, scale * h2, scale * h3
                b0, b1 = b[slot, r, low:high], b[slot, r + 1, low:high]
                b2, b3 = b[slot, r + 2, low:high], b[slot, r + 3, low:high]
                for c in range(len(y1)):
                    f0, f1, f2, f3 = _number(b0[c]), _number(b1[c]), _number(b2[c]), _number(b3[c])
                    y1[c] += g0 * f0 + g1 * f1 + g2 * f2 + g3 * f3
                    y2[c] += h0 * f0 + h1 * f1 + h2 * f2 + h3 * f3


def _entry(factor: Any) -> tuple[Callable[..., None], Any]:
    """Return the kernel for factors of one type as a C function, and the object that keeps its code."""
    floats, integers, factors = (types.CPointer(kind) for kind in (types.float32, types.int64, factor))
    of_step = (floats, floats, types.intp, integers, integers, types.intp)
    of_module = (factors, factors, integers, integers, *[types.intp] * 5)

    @numba.cfunc(types.void(*of_step, *of_module, types.float32), cache=True)  # type: ignore[untyped-decorator]
    def enter(  # noqa: PLR0913, PLR0917
        x: Any,
        y: Any,
        tokens: int,
        pairs: Any,
        slots: Any,
        count: int,
        a: Any,
        b: Any,
        ranks: Any,
        starts: Any,
        stacked: int,
        slices: int,
        rank: int,
        d_in: int,
        d_out: int,
        scale: float,
    ) -> None:  # pragma: no cover  (compiled)
        _add_rows(
            carray(x, (tokens, d_in)),
            carray(y, (tokens, d_out)),
            carray(pairs, (count, 2)),
            carray(slots, (count,)),
            carray(a, (stacked, slices, rank, d_in)),
            carray(b, (stacked, rank, d_out)),
            carray(ranks, (stacked,)),
            carray(starts, (slices + 1,)),
            scale,
        )

    address, size = ctypes.c_void_p, ctypes.c_ssize_t
    step, module = (address, address, size, address, address, size), (*[address] * 4, *[size] * 5)
    return ctypes.CFUNCTYPE(None, *step, *module, ctypes.c_float)(enter.address), enter


_entries = {torch.float32: _entry(types.float32), torch.bfloat16: _entry(types.uint16)}


def add_rows(
    x: torch.Tensor, y: torch.Tensor, step: Addresses, dtype: torch.dtype, module: Addresses, scale: float
) -> None:
    """Add scale · x·Aᵀ·B of each row's own adapter to `y`, in place.

    Args:
        x: Inputs, float32, contiguous, [tokens, d_in].
        y: Outputs, likewise, [tokens, d_out].
        step: Addresses of `pairs` and `slots`, and their length.
        dtype: Of the factors: float32 or bfloat16.
        module: Addresses of `a`, `b`, `ranks` and `starts`; then slots, slices, r, d_in and d_out.
        scale: Scaling factor.
    """
    _entries[dtype][0](x.data_ptr(), y.data_ptr(), x.shape[0], *step, *module, scale)
