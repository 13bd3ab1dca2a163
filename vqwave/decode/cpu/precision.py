"""Which precisions the kernels can compute in on this processor; numba itself is not needed for
the answer.
"""

from __future__ import annotations

import importlib.util
import warnings
from functools import cache

from vqwave.decode.plan import PRECISIONS, Precision
from vqwave.errors import Note, UserInputError, nearest

BF16, VNNI = ("avx512bf16", "AVX-512 BF16"), ("avx512vnni", "AVX-512 VNNI")
NEEDS = {"bf16-dot": (BF16,), "int8": (BF16, VNNI)}
"""The instructions that a precision needs: LLVM's names and the usual ones."""
AUTO = "auto"
GAIN = 1.2  # of products; less is lost in rounding activations


@cache
def has_numba() -> bool:
    """Whether numba, which compiles the kernels, is installed: looked for once, since each look
    takes a share of a millisecond.
    """
    return importlib.util.find_spec("numba") is not None


def missing(precision: Precision) -> str | None:
    """Why this processor cannot compute so, or None where it can."""
    if precision not in NEEDS or importlib.util.find_spec("llvmlite") is None:
        return None
    from vqwave.decode.cpu.processor import has

    for feature, name in NEEDS[precision]:
        if not has(feature):
            return f"precision {precision!r} needs {name}, which this processor does not have"
    return None


def named(precision: str) -> Precision | None:
    """The precision of a name; None for "auto". Raises UserInputError for an unknown name."""
    if precision == AUTO:
        return None
    if precision not in PRECISIONS:
        known = (AUTO, *PRECISIONS)
        raise UserInputError(
            f"precision {precision!r}: expected one of"
            f" {', '.join(known)}{nearest(precision, known)}"
        )
    return precision


def numbers(precision: str, streamed: int = 0) -> Precision:
    """The precision that is asked for -> one that this processor has: what is missing gives way to
    bf16, with a note.

    "auto" is the fastest that rounds floats alone. streamed: bytes of float32 weights that are read
    anew for each sample. Where they exceed the second-level cache, reading takes longest, and
    weights have 16 bits. Else products do: they are bf16-dot where that multiplies more than `GAIN`
    times as fast as float32, which `rates.dot_gain` measures. Raises UserInputError for an unknown
    name.
    """
    wanted = named(precision)
    if wanted is None:
        return _fastest(streamed)
    reason = missing(wanted)
    if reason:
        warnings.warn(f"{reason}: bf16 instead", Note, stacklevel=2)
        return "bf16"
    return wanted


def _fastest(streamed: int) -> Precision:
    from vqwave.decode.cpu import processor, rates

    dots = missing("bf16-dot") is None
    if streamed > processor.second_level_cache():
        return "bf16-dot" if dots else "bf16"
    return "bf16-dot" if dots and rates.dot_gain() > GAIN else "float32"
