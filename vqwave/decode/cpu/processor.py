"""Which instructions the CPU kernels are compiled for: the processor's, or those that numba is
configured to use in their place.
"""

from __future__ import annotations

import os

import llvmlite.binding


def has(feature: str) -> bool:
    """Whether numba compiles for an instruction set, by LLVM's name for it, such as `avx512f`.

    numba takes NUMBA_CPU_FEATURES ("+avx2,-avx512f"; empty: those that NUMBA_CPU_NAME implies)
    instead of the processor's own.
    """
    configured = os.environ.get("NUMBA_CPU_FEATURES")
    if configured is not None:
        return f"+{feature}" in configured.split(",")
    return bool(llvmlite.binding.get_host_cpu_features().get(feature))
