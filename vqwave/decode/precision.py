"""Which precisions the kernels can compute in on this processor; it needs no numba to say so."""

from __future__ import annotations

import importlib.util
import warnings

from vqwave.decode.plan import PRECISIONS, Precision
from vqwave.errors import BadInput, Note, nearest

NEEDS = {"bf16-dot": ("avx512bf16", "AVX-512 BF16")}
"""What LLVM calls the instructions that a precision needs, and what people call them."""


def missing(precision: Precision) -> str | None:
    """Why this processor cannot compute so, or None where it can."""
    if precision not in NEEDS or importlib.util.find_spec("llvmlite") is None:
        return None
    import llvmlite.binding

    feature, name = NEEDS[precision]
    if llvmlite.binding.get_host_cpu_features().get(feature):
        return None
    return f"precision {precision!r} needs {name}, which this processor does not have"


def numbers(precision: str) -> Precision:
    """What is asked for -> what this processor can do: "auto" is the fastest, and bf16-dot gives way to bf16, with a warning.

    Raises BadInput for an unknown name.
    """
    known = ("auto", *PRECISIONS)
    if precision not in known:
        raise BadInput(f"precision {precision!r}: expected one of {', '.join(known)}{nearest(precision, known)}")
    if precision == "auto":
        return "bf16" if missing("bf16-dot") else "bf16-dot"
    reason = missing(precision)
    if reason:
        warnings.warn(f"{reason}: bf16 instead", Note, stacklevel=2)
        return "bf16"
    return precision
