"""A compiled INT8 product for few rows, exact in integers: the decode step of a W8A8 base on AVX2.

oneDNN's INT8 kernels need VNNI to be fast at few rows. Here the int8 values are multiplied as float32, which
AVX2 does two vectors at a time, and summed in stretches so short that every sum is an exact integer; the
stretches are added as int32. The result is the integer that oneDNN computes, so both give the same bits.
"""

from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from lorecall.server.engine import compiled

STRETCH = 512
"""Columns summed in float32 before they are added as integers: 512 x 127 x 127 is below 2^24."""

_SIGNATURE = "void(float32[:, ::1], int8[:, ::1], float32[::1], float32[::1], float32[:, ::1])"


@numba.njit(  # type: ignore[untyped-decorator]
    _SIGNATURE, fastmath=compiled.REASSOCIATE, parallel=True, cache=True, nogil=True
)
def int8_product(
    x: npt.NDArray[Any],
    weight: npt.NDArray[Any],
    x_scale: npt.NDArray[Any],
    weight_scale: npt.NDArray[Any],
    y: npt.NDArray[Any],
) -> None:  # pragma: no cover  (compiled)
    """Write (x · weightᵀ) · x_scale · weight_scale to `y`.

    Args:
        x: Quantised activations as whole float32 numbers from -127 to 127, shape [rows, d_in].
        weight: Quantised weights, shape [d_out, d_in].
        x_scale: Scale of each row, shape [rows].
        weight_scale: Scale of each output, shape [d_out].
        y: Output, shape [rows, d_out].
    """
    rows, width = x.shape
    four = rows - rows % 4
    for j in numba.prange(weight.shape[0]):
        for i in range(0, four, 4):
            t0 = t1 = t2 = t3 = np.int32(0)
            for low in range(0, width, STRETCH):
                s0 = s1 = s2 = s3 = np.float32(0)
                for c in range(low, min(width, low + STRETCH)):
                    value = np.float32(weight[j, c])
                    s0 += x[i, c] * value
                    s1 += x[i + 1, c] * value
                    s2 += x[i + 2, c] * value
                    s3 += x[i + 3, c] * value
                t0 += np.int32(s0)
                t1 += np.int32(s1)
                t2 += np.int32(s2)
                t3 += np.int32(s3)
            y[i, j] = np.float32(t0) * (x_scale[i] * weight_scale[j])
            y[i + 1, j] = np.float32(t1) * (x_scale[i + 1] * weight_scale[j])
            y[i + 2, j] = np.float32(t2) * (x_scale[i + 2] * weight_scale[j])
            y[i + 3, j] = np.float32(t3) * (x_scale[i + 3] * weight_scale[j])
        for i in range(four, rows):
            total = np.int32(0)
            for low in range(0, width, STRETCH):
                part = np.float32(0)
                for c in range(low, min(width, low + STRETCH)):
                    part += x[i, c] * np.float32(weight[j, c])
                total += np.int32(part)
            y[i, j] = np.float32(total) * (x_scale[i] * weight_scale[j])
