"""How our kernels are compiled: for the threads that torch has, and for AVX2.

Imported by the kernels alone, and late: numba's modules must not be there when vLLM 0.32 scans all modules for
Triton kernels at a worker's start.
"""

import os
import platform

import numba
import torch
from numba.np.ufunc import parallel

# numba took the number of cores open to the thread that imported it, and vLLM binds a worker's main thread to one
# core; that number then goes to the OpenMP runtime that torch uses too, and leaves the whole engine on that core
os.environ["NUMBA_NUM_THREADS"] = str(torch.get_num_threads())
numba.config.reload_config()
parallel.NUM_THREADS = numba.config.NUMBA_NUM_THREADS

numba.config.THREADING_LAYER = "omp"  # the runtime that torch uses: one pool of threads, bound once

if platform.machine() == "x86_64":
    # what vLLM asks for anyway; AVX-512 was measured, and brought the kernels nothing on a Zen 4
    numba.config.CPU_NAME = "haswell"
    numba.config.CPU_FEATURES = "+avx,+avx2,+fma,+bmi,+bmi2,+f16c,+lzcnt,+movbe,+popcnt"
