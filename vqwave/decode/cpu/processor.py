"""Which instructions the CPU kernels are compiled for: the processor's, or those that numba is
configured to use in their place.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import llvmlite.binding

# settings of numba that change no code; the last one is set as numba is imported (`jit.py`)
INDIFFERENT = {
    "NUMBA_CACHE_DIR",
    "NUMBA_NUM_THREADS",
    "NUMBA_THREADING_LAYER",
    "NUMBA_DISABLE_INTEL_SVML",
}


def has(feature: str) -> bool:
    """Whether numba compiles for an instruction set, by LLVM's name for it, such as `avx512f`.

    numba takes NUMBA_CPU_FEATURES ("+avx2,-avx512f"; empty: those that NUMBA_CPU_NAME implies)
    instead of the processor's own.
    """
    configured = os.environ.get("NUMBA_CPU_FEATURES")
    if configured is not None:
        return f"+{feature}" in configured.split(",")
    return bool(llvmlite.binding.get_host_cpu_features().get(feature))


def description() -> str:
    """The processor and numba's settings: code that is compiled for another one is another."""
    binding = llvmlite.binding
    settings = [
        f"{name}={value}"
        for name, value in sorted(os.environ.items())
        if name.startswith("NUMBA_") and name not in INDIFFERENT
    ]
    features = binding.get_host_cpu_features().flatten()
    names = binding.get_process_triple(), binding.get_host_cpu_name(), features
    return " ".join([*names, *settings])


@cache
def second_level_cache() -> int:
    """Bytes of a core's second-level cache; a megabyte where the system does not say."""
    try:
        text = Path("/sys/devices/system/cpu/cpu0/cache/index2/size").read_text(encoding="utf-8")
        return int(text.strip().removesuffix("K")) << 10
    except (OSError, ValueError):
        return 1 << 20


WIDE = has("avx512f")  # 32 registers of 16 lanes: larger tiles fit
