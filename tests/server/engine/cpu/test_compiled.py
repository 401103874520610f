"""Our kernels run on the threads that torch has, and leave torch with them."""

import os
import subprocess
import sys

AS_IN_A_WORKER = """
import os, torch
before = torch.get_num_threads()
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # as vLLM binds a worker's main thread
import numba, numba.np.ufunc.parallel  # as vLLM's own imports do
from lorecall.server.engine.cpu import int8_kernel
print(before, torch.get_num_threads(), numba.get_num_threads(), numba.threading_layer())
"""


def test_a_bound_main_thread_leaves_torch_its_threads() -> None:
    """Numba sees one core where vLLM has bound the main thread, and must not tell OpenMP so."""
    ended = subprocess.run(
        [sys.executable, "-c", AS_IN_A_WORKER],
        capture_output=True,
        check=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "2"},
    )
    assert ended.stdout.split() == ["2", "2", "2", "omp"]
