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
    "void(float32[:, ::1], float32[:, ::1], int64[:, ::1], int64[::1], "
    "float32[:, :, :, ::1], float32[:, :, ::1], int64[::1], int64[::1], float32)"
)


@numba.njit(_SIGNATURE, fastmath=compiled.REASSOCIATE, parallel=True, cache=True, nogil=True)  # type: ignore[untyped-decorator]
def add_rows(  # noqa: PLR0913, PLR0917  (a kernel takes its arrays one by one)
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
                    g0 += first * a0[c]
                    g1 += first * a1[c]
                    g2 += first * a2[c]
                    g3 += first * a3[c]
                    h0 += second * a0[c]
                    h1 += second * a1[c]
                    h2 += second * a2[c]
                    h3 += second * a3[c]
                g0, g1, g2, g3 = scale * g0, scale * g1, scale * g2, scale * g3
                h0, h1, h2, h3 = scale * h0, scale * h1, scale * h2, scale * h3
                b0, b1 = b[slot, r, low:high], b[slot, r + 1, low:high]
                b2, b3 = b[slot, r + 2, low:high], b[slot, r + 3, low:high]
                for c in range(len(y1)):
                    y1[c] += g0 * b0[c] + g1 * b1[c] + g2 * b2[c] + g3 * b3[c]
                    y2[c] += h0 * b0[c] + h1 * b1[c] + h2 * b2[c] + h3 * b3[c]
