"""One compiled kernel for LoRA on all rows of a CPU engine's step, whatever their adapters.

A decode step of sixteen rows and eight adapters is thousands of tiny matrix products, each cheaper than its call.
A prefill of thousands of rows is bound by memory, which separate products would read again and again. Here one
call computes all rows of a module, four rows of one adapter at a time, on PyTorch's OpenMP threads. It is called
a hundred times a step with cold caches, so it takes addresses: passing nine arrays would cost more than the sums
of a few rows.

The sums of a row are added in the same order whatever the other rows are: prefill and decode give equal numbers.
"""

import ctypes
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import torch
from llvmlite import ir
from lorecall.server.engine.cpu import compiled  # noqa: F401  (sets numba up)
from lorecall.server.engine.cpu import vectors as v
from numba import carray, types
from numba.core import cgutils
from numba.extending import intrinsic

Addresses = tuple[int, ...]

RANKS_AT_ONCE = 8
"""Packed ranks are padded with zeros to a multiple: one vector of float32."""

ROWS_AT_ONCE = 4
"""Rows of one slot that are computed together, so that each factor is read once for all of them."""

COLUMNS = 16
"""Output columns of a tile: two vectors."""


def _rows_of(builder: Any, group: Any, rows: int, width: Any) -> list[Any]:
    """Return the offset of each row of a group."""
    return [builder.mul(v.load(builder, group, v.size(row), v.SIZE), width) for row in range(rows)]


def _shrink(rows: int) -> Any:
    """Return an intrinsic: `shrunk` [rows, used] = scale · x · A for the rows of a group, of one slice.

    Only the first `used` ranks of A [d_in, r] are read.
    """

    @intrinsic  # type: ignore[untyped-decorator]
    def compute(
        _typing: Any,
        x: Any,
        group: Any,
        a: Any,
        sizes: Any,
        scale: Any,  # noqa: ARG001  (its type is stated)
        shrunk: Any,
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            inputs, indices, factors, out = (
                v.start(context, builder, signature, arguments, n) for n in (0, 1, 2, 5)
            )
            width, stride, ranks = cgutils.unpack_tuple(builder, arguments[3])
            times = arguments[4]
            begins = _rows_of(builder, indices, rows, width)

            def block(rank: Any, halves: int) -> None:
                zero = ir.Constant(v.FLOATS, [0.0] * 8)
                sums = [
                    [cgutils.alloca_once_value(builder, zero) for _ in range(halves)] for _ in range(rows)
                ]
                with cgutils.for_range(builder, width) as loop:
                    place = builder.add(builder.mul(loop.index, stride), rank)
                    loaded = [
                        v.load_floats(builder, factors, builder.add(place, v.size(8 * half)))
                        for half in range(halves)
                    ]
                    for row, begin in zip(sums, begins, strict=True):
                        one = v.load(builder, inputs, builder.add(begin, loop.index), v.FLOAT)
                        value = v.splat(builder, one)
                        for total, factor in zip(row, loaded, strict=True):
                            builder.store(v.fma(builder, value, factor, builder.load(total)), total)
                for number, row in enumerate(sums):
                    begin = builder.add(builder.mul(ranks, v.size(number)), rank)
                    for half, total in enumerate(row):
                        place = builder.add(begin, v.size(8 * half))
                        v.store(
                            builder, builder.fmul(builder.load(total), v.splat(builder, times)), out, place
                        )

            pairs = builder.sdiv(ranks, v.size(16))
            with cgutils.for_range(builder, pairs) as loop:
                block(builder.mul(loop.index, v.size(16)), 2)
            with builder.if_then(builder.icmp_signed("!=", builder.srem(ranks, v.size(16)), v.size(0))):
                block(builder.mul(pairs, v.size(16)), 1)
            return context.get_dummy_value()

        return types.void(x, group, a, sizes, types.float32, shrunk), generate

    return compute


def _expand(rows: int) -> Any:
    """Return an intrinsic: y += `shrunk` [rows, used] · B for the rows of a group, of a slice's columns."""

    @intrinsic  # type: ignore[untyped-decorator]
    def compute(_typing: Any, y: Any, group: Any, b: Any, sizes: Any, shrunk: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            out, indices, factors, given = (
                v.start(context, builder, signature, arguments, n) for n in (0, 1, 2, 4)
            )
            width, ranks, first, end = cgutils.unpack_tuple(builder, arguments[3])
            begins = _rows_of(builder, indices, rows, width)

            def tile(columns: list[Any], count: int) -> None:
                kind = v.FLOATS if count == 8 else v.FLOAT
                sums = [[cgutils.alloca_once(builder, kind) for _ in columns] for _ in begins]
                for row, begin in zip(sums, begins, strict=True):
                    for total, place in zip(row, columns, strict=True):
                        builder.store(v.load(builder, out, builder.add(begin, place), kind), total)
                with cgutils.for_range(builder, ranks) as rank:
                    line = builder.mul(rank.index, width)
                    loaded = [
                        v.load_floats(builder, factors, builder.add(line, place), count) for place in columns
                    ]
                    for number, row in enumerate(sums):
                        place = builder.add(builder.mul(ranks, v.size(number)), rank.index)
                        one = v.load(builder, given, place, v.FLOAT)
                        value = v.splat(builder, one) if count == 8 else one
                        for total, factor in zip(row, loaded, strict=True):
                            builder.store(v.fma(builder, value, factor, builder.load(total)), total)
                for row, begin in zip(sums, begins, strict=True):
                    for total, place in zip(row, columns, strict=True):
                        v.store(builder, builder.load(total), out, builder.add(begin, place))

            tiles = builder.sdiv(builder.sub(end, first), v.size(COLUMNS))
            with cgutils.for_range(builder, tiles) as loop:
                column = builder.add(first, builder.mul(loop.index, v.size(COLUMNS)))
                tile([column, builder.add(column, v.size(8))], 8)
            done = builder.add(first, builder.mul(tiles, v.size(COLUMNS)))
            with cgutils.for_range(builder, builder.sub(end, done)) as loop:
                tile([builder.add(done, loop.index)], 1)
            return context.get_dummy_value()

        return types.void(y, group, b, sizes, shrunk), generate

    return compute


_shrink_1, _shrink_2, _shrink_4 = (_shrink(rows) for rows in (1, 2, ROWS_AT_ONCE))
_expand_1, _expand_2, _expand_4 = (_expand(rows) for rows in (1, 2, ROWS_AT_ONCE))


def _signature(factor: str) -> str:
    return (
        f"void(float32[:, ::1], float32[:, ::1], int64[:, ::1], int64[::1], int64[::1], "
        f"{factor}[:, :, :, ::1], {factor}[:, :, ::1], int64[::1], int64[::1], float32)"
    )


@numba.njit(  # type: ignore[untyped-decorator]
    [_signature("float32"), _signature("uint16")], parallel=True, cache=True, nogil=True
)
def _add_rows(  # noqa: PLR0913, PLR0917  (a kernel takes its arrays one by one)
    x: npt.NDArray[Any],
    y: npt.NDArray[Any],
    groups: npt.NDArray[Any],
    sizes: npt.NDArray[Any],
    slots: npt.NDArray[Any],
    a: npt.NDArray[Any],
    b: npt.NDArray[Any],
    ranks: npt.NDArray[Any],
    starts: npt.NDArray[Any],
    scale: np.float32,
) -> None:  # pragma: no cover  (compiled)
    """Add scale · x·A·B of each row's own adapter to `y`, in place.

    A group of three rows holds its last row twice; both are read before either is written, with one result.

    Args:
        x: Inputs, shape [tokens, d_in].
        y: Outputs, shape [tokens, d_out].
        groups: Rows to work on, those of a group of the same slot, shape [n, ROWS_AT_ONCE].
        sizes: How many rows a group has; the places beyond repeat the last row, shape [n].
        slots: The slot of each group, shape [n].
        a: Shrinking factors, shape [slots, slices, d_in, r].
        b: Expanding factors of all slices side by side, shape [slots, r, d_out].
        ranks: Rank in use by slot, a multiple of RANKS_AT_ONCE, shape [slots]; rows with 0 stay unchanged.
        starts: First column of each slice, and the end of the last, shape [slices + 1].
        scale: Scaling factor.
    """
    d_in, d_out, slices, r = x.shape[1], y.shape[1], a.shape[1], a.shape[3]
    for index in numba.prange(len(slots)):
        slot, rows, used = slots[index], groups[index], ranks[slots[index]]
        if used:
            shrunk = np.empty(ROWS_AT_ONCE * used, np.float32)
            for piece in range(slices):
                inward, outward = (d_in, r, used), (d_out, used, starts[piece], starts[piece + 1])
                if sizes[index] > 2:
                    _shrink_4(x, rows, a[slot, piece], inward, scale, shrunk)
                    _expand_4(y, rows, b[slot], outward, shrunk)
                elif sizes[index] == 2:
                    _shrink_2(x, rows, a[slot, piece], inward, scale, shrunk)
                    _expand_2(y, rows, b[slot], outward, shrunk)
                else:
                    _shrink_1(x, rows, a[slot, piece], inward, scale, shrunk)
                    _expand_1(y, rows, b[slot], outward, shrunk)


def _entry(factor: Any) -> tuple[Callable[..., None], Any]:
    """Return the kernel for factors of one type as a C function, and the object that keeps its code alive."""
    floats, integers, factors = (types.CPointer(kind) for kind in (types.float32, types.int64, factor))
    of_step = (floats, floats, types.intp, integers, integers, integers, types.intp)
    of_module = (factors, factors, integers, integers, *[types.intp] * 5)

    @numba.cfunc(types.void(*of_step, *of_module, types.float32), cache=True)  # type: ignore[untyped-decorator]
    def enter(  # noqa: PLR0913, PLR0917  (as above)
        x: Any,
        y: Any,
        tokens: int,
        groups: Any,
        sizes: Any,
        slots: Any,
        count: int,
        a: Any,
        b: Any,
        ranks: Any,
        starts: Any,
        stacked: int,
        slices: int,
        d_in: int,
        rank: int,
        d_out: int,
        scale: float,
    ) -> None:  # pragma: no cover  (compiled)
        _add_rows(
            carray(x, (tokens, d_in)),
            carray(y, (tokens, d_out)),
            carray(groups, (count, ROWS_AT_ONCE)),
            carray(sizes, (count,)),
            carray(slots, (count,)),
            carray(a, (stacked, slices, d_in, rank)),
            carray(b, (stacked, rank, d_out)),
            carray(ranks, (stacked,)),
            carray(starts, (slices + 1,)),
            scale,
        )

    address, number = ctypes.c_void_p, ctypes.c_ssize_t
    step, module = (address, address, number, *[address] * 3, number), (*[address] * 4, *[number] * 5)
    return ctypes.CFUNCTYPE(None, *step, *module, ctypes.c_float)(enter.address), enter


_entries = {torch.float32: _entry(types.float32), torch.bfloat16: _entry(types.uint16)}


def add_rows(
    x: torch.Tensor, y: torch.Tensor, step: Addresses, dtype: torch.dtype, module: Addresses, scale: float
) -> None:
    """Add scale · x·A·B of each row's own adapter to `y`, in place.

    Args:
        x: Inputs, float32, contiguous, [tokens, d_in].
        y: Outputs, likewise, [tokens, d_out].
        step: Addresses of `groups`, `sizes` and `slots`, and their length.
        dtype: Of the factors: float32 or bfloat16.
        module: Addresses of `a`, `b`, `ranks` and `starts`; then slots, slices, d_in, r and d_out.
        scale: Scaling factor.
    """
    _entries[dtype][0](x.data_ptr(), y.data_ptr(), x.shape[0], *step, *module, scale)
