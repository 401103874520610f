"""Configures numba for our kernels: as many threads as torch has, and AVX2.

Only the kernels import it, and late: vLLM 0.32 scans all imported modules for Triton kernels at a worker's start,
and fails on numba's.
"""

import os
import platform

import numba
import torch
from numba.np.ufunc import parallel

# numba counts the cores of the importing thread, which vLLM binds to one core, and passes that count to the
# OpenMP runtime that torch shares: without this the whole engine would run on one core
os.environ["NUMBA_NUM_THREADS"] = str(torch.get_num_threads())
numba.config.reload_config()
parallel.NUM_THREADS = numba.config.NUMBA_NUM_THREADS

numba.config.THREADING_LAYER = "omp"  # torch's runtime, so that both share one pool of threads

if platform.machine() == "x86_64":
    # vLLM requires AVX2 anyway; AVX-512 was measured, and did not speed the kernels up on a Zen 4
    numba.config.CPU_NAME = "haswell"
    numba.config.CPU_FEATURES = "+avx,+avx2,+fma,+bmi,+bmi2,+f16c,+lzcnt,+movbe,+popcnt"
