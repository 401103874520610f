"""A compiled INT8 product for CPUs without VNNI, exact in integers: every product of a W8A8 base on AVX2.

oneDNN's INT8 kernels need VNNI to be correct and fast. Here the int8 numbers are widened to int16, of which AVX2
multiplies sixteen at a time and adds neighbours as int32 (`vpmaddwd`): twice what float32 does in a cycle. The
integer sums are those of oneDNN with VNNI, so both give the same bits. Few rows and many use the same code, so a
row's result does not depend on the other rows.
"""

from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from lorecall.server.engine.cpu import compiled  # noqa: F401  (sets numba up)
from lorecall.server.engine.cpu import vectors as v
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

OUTPUTS = 16
"""Outputs of one tile: two vectors of eight int32."""

ROWS = 128
"""Rows that are multiplied with a tile together; with d_in in the hundreds they stay in a core's L2 cache."""


def pack(weight: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return int8 `weight` [d_out, d_in] as tiles, padded with zeros: [tiles, pairs of d_in, OUTPUTS, 2]."""
    d_out, d_in = weight.shape
    tiles, pairs = -(-d_out // OUTPUTS), -(-d_in // 2)
    padded = np.zeros((tiles * OUTPUTS, 2 * pairs), np.int8)
    padded[:d_out, :d_in] = weight
    return np.ascontiguousarray(padded.reshape(tiles, OUTPUTS, pairs, 2).transpose(0, 2, 1, 3))


def _tile(rows: int) -> Any:
    """Return an intrinsic that computes a tile of OUTPUTS outputs for a number of neighbouring rows.

    Its arguments are one-dimensional arrays that begin where the tile does: `x` int16 and its row stride, the
    tile's `weight` int8, its pairs, the scale of each row and of each output, `y` float32 and its row stride.
    """

    @intrinsic  # type: ignore[untyped-decorator]
    def compute(
        _typing: Any,
        x: Any,
        x_step: Any,  # noqa: ARG001  (a size: its type is stated)
        weight: Any,
        pairs: Any,  # noqa: ARG001  (a size: its type is stated)
        x_scale: Any,
        weight_scale: Any,
        y: Any,
        y_step: Any,  # noqa: ARG001  (a size: its type is stated)
    ) -> Any:
        signature = types.void(x, types.intp, weight, types.intp, x_scale, weight_scale, y, types.intp)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            inputs, weights, of_rows, of_outputs, out = (
                v.start(context, builder, signature, arguments, n) for n in (0, 2, 4, 5, 6)
            )
            sums = _multiply(builder, rows, inputs, arguments[1], weights, arguments[3])
            _write(builder, sums, of_rows, of_outputs, out, arguments[7])
            return context.get_dummy_value()

        return signature, generate

    return compute


def _multiply(builder: Any, rows: int, x: Any, x_step: Any, weights: Any, pairs: Any) -> list[list[Any]]:
    """Emit the loop over the pairs; return each row's sums, vectors of eight int32."""
    shorts = ir.VectorType(v.SHORT, 16)
    kind = ir.FunctionType(v.WORDS, [shorts, shorts])
    multiply_add = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx2.pmadd.wd")
    halves = OUTPUTS // 8
    zero = ir.Constant(v.WORDS, [0] * 8)
    sums = [[cgutils.alloca_once_value(builder, zero) for _ in range(halves)] for _ in range(rows)]
    with cgutils.for_range(builder, pairs) as loop:
        low = builder.mul(loop.index, v.size(2 * OUTPUTS))
        factors = []
        for half in range(halves):
            place = builder.add(low, v.size(16 * half))
            factors.append(builder.sext(v.load(builder, weights, place, ir.VectorType(v.BYTE, 16)), shorts))
        for row in range(rows):
            place = builder.add(builder.mul(x_step, v.size(row)), builder.mul(loop.index, v.size(2)))
            pair = builder.bitcast(v.splat(builder, v.load(builder, x, place, v.WORD)), shorts)
            for half, factor in enumerate(factors):
                total = builder.load(sums[row][half])
                builder.store(builder.add(total, builder.call(multiply_add, [pair, factor])), sums[row][half])
    return [[builder.load(total) for total in row] for row in sums]


def _write(builder: Any, sums: Any, x_scale: Any, weight_scale: Any, y: Any, y_step: Any) -> None:
    """Emit y = (sum · weight_scale) · x_scale, in oneDNN's order."""
    for row, halves in enumerate(sums):
        of_row = v.splat(builder, v.load(builder, x_scale, v.size(row), v.FLOAT))
        for half, total in enumerate(halves):
            column = v.size(8 * half)
            of_outputs = v.load(builder, weight_scale, column, v.FLOATS)
            scaled = builder.fmul(builder.fmul(builder.sitofp(total, v.FLOATS), of_outputs), of_row)
            v.store(builder, scaled, y, builder.add(builder.mul(y_step, v.size(row)), column))


_four, _two, _one = (_tile(rows) for rows in (4, 2, 1))

_SIGNATURE = "void(int16[:, ::1], int8[:, :, :, ::1], float32[::1], float32[::1], float32[:, ::1])"


@numba.njit(  # type: ignore[untyped-decorator]
    _SIGNATURE, parallel=True, cache=True, nogil=True
)
def int8_product(
    x: npt.NDArray[Any],
    weight: npt.NDArray[Any],
    x_scale: npt.NDArray[Any],
    weight_scale: npt.NDArray[Any],
    y: npt.NDArray[Any],
) -> None:  # pragma: no cover  (compiled)
    """Write (x · weightᵀ) · weight_scale · x_scale to `y`.

    Args:
        x: Quantised activations from -127 to 127, shape [rows, 2 · pairs of d_in].
        weight: Quantised weights as `pack` returns them.
        x_scale: Scale of each row, shape [rows].
        weight_scale: Scale of each output, padded to whole tiles, shape [tiles · OUTPUTS].
        y: Output, shape [rows, d_out].
    """
    rows, d_out, tiles = len(x), y.shape[1], len(weight)
    pairs, step = weight.shape[1], x.shape[1]
    for task in numba.prange(-(-rows // ROWS) * tiles):
        first, tile = (task // tiles) * ROWS, task % tiles
        last, low = min(rows, first + ROWS), tile * OUTPUTS
        factors, scales = weight[tile].reshape(-1), weight_scale[low:]
        spare = np.empty((4, OUTPUTS), np.float32)
        whole = low + OUTPUTS <= d_out
        i = first
        while i < last:
            out = y[i, low:] if whole else spare[0]
            out_step = d_out if whole else OUTPUTS
            if last - i >= 4:
                _four(x[i], step, factors, pairs, x_scale[i:], scales, out, out_step)
                done = 4
            elif last - i >= 2:
                _two(x[i], step, factors, pairs, x_scale[i:], scales, out, out_step)
                done = 2
            else:
                _one(x[i], step, factors, pairs, x_scale[i:], scales, out, out_step)
                done = 1
            if not whole:
                y[i : i + done, low:] = spare[:done, : d_out - low]
            i += done
