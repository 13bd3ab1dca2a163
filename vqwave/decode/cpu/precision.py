"""Which precisions the kernels can compute in on this processor; numba itself is not needed for
the answer.
"""

from __future__ import annotations

import importlib.util
import warnings

from vqwave.decode.plan import PRECISIONS, Precision
from vqwave.errors import Note, UserInputError, nearest

BF16, VNNI = ("avx512bf16", "AVX-512 BF16"), ("avx512vnni", "AVX-512 VNNI")
NEEDS = {"bf16-dot": (BF16,), "int8": (BF16, VNNI)}
"""The instructions that a precision needs: LLVM's names and the usual ones."""


def missing(precision: Precision) -> str | None:
    """Why this processor cannot compute so, or None where it can."""
    if precision not in NEEDS or importlib.util.find_spec("llvmlite") is None:
        return None
    from vqwave.decode.cpu.processor import has

    for feature, name in NEEDS[precision]:
        if not has(feature):
            return f"precision {precision!r} needs {name}, which this processor does not have"
    return None


def numbers(precision: str) -> Precision:
    """The precision that is asked for -> one that this processor has: "auto" is the fastest that
    rounds floats alone; what is missing gives way to bf16, with a note.

    Raises UserInputError for an unknown name.
    """
    if precision == "auto":
        return "bf16" if missing("bf16-dot") else "bf16-dot"
    named = next((each for each in PRECISIONS if each == precision), None)
    if named is None:
        known = ("auto", *PRECISIONS)
        raise UserInputError(
            f"precision {precision!r}: expected one of"
            f" {', '.join(known)}{nearest(precision, known)}"
        )
    reason = missing(named)
    if reason:
        warnings.warn(f"{reason}: bf16 instead", Note, stacklevel=2)
        return "bf16"
    return named
