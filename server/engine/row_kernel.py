"""One compiled kernel for LoRA on few rows of many adapters: the decode step of a CPU engine.

Sixteen rows of eight adapters are thousands of tiny matrix products a step, each cheaper than its call. Here a
module's rows go through in one call, spread over the threads that PyTorch's OpenMP runtime already has.
"""

from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from lorecall.server.engine import compiled

RANKS_AT_ONCE = 4
"""Ranks that the kernel takes in one sweep over a row; packed ranks are padded with zeros to a multiple."""

_SIGNATURE = (
    "void(float32[:, ::1], float32[:, ::1], int64[::1], int64[::1], "
    "float32[:, :, :, ::1], float32[:, :, ::1], int64[::1], int64[::1], float32)"
)


@numba.njit(_SIGNATURE, fastmath=compiled.REASSOCIATE, parallel=True, cache=True, nogil=True)  # type: ignore[untyped-decorator]
def add_rows(  # noqa: PLR0913, PLR0917  (a kernel takes its arrays one by one)
    x: npt.NDArray[Any],
    y: npt.NDArray[Any],
    rows: npt.NDArray[Any],
    slots: npt.NDArray[Any],
    a: npt.NDArray[Any],
    b: npt.NDArray[Any],
    ranks: npt.NDArray[Any],
    starts: npt.NDArray[Any],
    scale: np.float32,
) -> None:  # pragma: no cover  (compiled)
    """Add scale · x·Aᵀ·B of each row's own adapter to `y`, in place.

    Args:
        x: Inputs, shape [tokens, d_in].
        y: Outputs, shape [tokens, d_out].
        rows: Rows to work on, shape [n].
        slots: The slot of each of them, shape [n].
        a: Shrinking factors, shape [slots, slices, r, d_in].
        b: Expanding factors of all slices side by side, shape [slots, r, d_out].
        ranks: Rank in use by slot, a multiple of RANKS_AT_ONCE, shape [slots]; 0 leaves a row alone.
        starts: First column of each slice, and the end of the last, shape [slices + 1].
        scale: Scaling factor.
    """
    width, slices = x.shape[1], a.shape[1]
    for index in numba.prange(len(rows)):
        row, slot = rows[index], slots[index]
        for piece in range(slices):
            low, high = starts[piece], starts[piece + 1]
            for r in range(0, ranks[slot], RANKS_AT_ONCE):
                h0 = h1 = h2 = h3 = np.float32(0.0)
                for c in range(width):
                    value = x[row, c]
                    h0 += value * a[slot, piece, r, c]
                    h1 += value * a[slot, piece, r + 1, c]
                    h2 += value * a[slot, piece, r + 2, c]
                    h3 += value * a[slot, piece, r + 3, c]
                h0, h1, h2, h3 = scale * h0, scale * h1, scale * h2, scale * h3
                for c in range(low, high):
                    upper = h0 * b[slot, r, c] + h1 * b[slot, r + 1, c]
                    y[row, c] += upper + h2 * b[slot, r + 2, c] + h3 * b[slot, r + 3, c]
