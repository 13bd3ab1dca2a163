"""Kernels that a machine is measured with: reading memory, and multiplying out of registers."""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from vqwave.decode.cpu.jit import kernel
from vqwave.decode.cpu.microkernels import BFLOAT
from vqwave.decode.cpu.rates import CHAINS, DOT, FLOAT32, QUADS
from vqwave.decode.cpu.simd import (
    LANES,
    Args,
    Context,
    Generated,
    Signature,
    Typing,
    array_of,
    call,
)

_FLOATS = ir.VectorType(ir.FloatType(), LANES)
_INTS = ir.VectorType(ir.IntType(32), LANES)


@intrinsic(prefer_literal=True)
def _chains(
    _typing: Typing, kind: types.IntegerLiteral, words: types.Array, _turns: types.Integer
) -> Generated:
    """CHAINS sums, multiplied into for `turns` turns, are added to words[:16], so that nothing can
    be left out.
    """
    which = kind.literal_value

    def generate(
        context: Context, builder: ir.IRBuilder, signature: Signature, args: Args
    ) -> ir.Value:
        data = builder.bitcast(
            array_of(context, builder, signature.args[1], args[1]).data, _INTS.as_pointer()
        )
        words_ = builder.load(data, align=4)
        start = words_ if which == QUADS else builder.bitcast(words_, _FLOATS)
        sums = [cgutils.alloca_once_value(builder, start) for _ in range(CHAINS)]
        with cgutils.for_range(builder, args[2]):
            for place in sums:
                builder.store(_once(builder, which, builder.load(place), words_), place)
        total = builder.load(sums[0])
        for place in sums[1:]:
            total = (builder.add if which == QUADS else builder.fadd)(total, builder.load(place))
        builder.store(builder.bitcast(total, _INTS), data, align=4)
        return context.get_dummy_value()

    return types.void(kind, words, types.intp), generate


def _once(builder: ir.IRBuilder, kind: int, total: ir.Value, words: ir.Value) -> ir.Value:
    if kind == FLOAT32:
        factor = builder.bitcast(words, _FLOATS)
        return call(builder, "llvm.fma.v16f32", factor, factor, total)
    if kind == DOT:
        pairs = builder.bitcast(words, ir.VectorType(BFLOAT, 2 * LANES))
        return call(builder, "llvm.x86.avx512bf16.dpbf16ps.512", total, pairs, pairs)
    return call(builder, "llvm.x86.avx512.vpdpbusd.512", total, words, words, result=_INTS)


@intrinsic
def _read(_typing: Typing, array: types.Array, _stop: types.Integer) -> Generated:
    """All bits of array.flat[:stop], 256 bytes a turn, joined: nothing but loads."""

    def generate(
        context: Context, builder: ir.IRBuilder, signature: Signature, args: Args
    ) -> ir.Value:
        data = array_of(context, builder, signature.args[0], args[0]).data
        joined = [
            cgutils.alloca_once_value(builder, ir.Constant(_INTS, [0] * LANES)) for _ in range(4)
        ]
        size = ir.Constant(args[1].type, 4 * LANES)
        with cgutils.for_range(builder, builder.udiv(args[1], size)) as loop:
            line = builder.bitcast(
                builder.gep(data, [builder.mul(loop.index, size)]), _INTS.as_pointer()
            )
            for i, place in enumerate(joined):
                word = builder.load(builder.gep(line, [ir.Constant(args[1].type, i)]), align=4)
                builder.store(builder.or_(builder.load(place), word), place)
        bits = builder.load(joined[0])
        for place in joined[1:]:
            bits = builder.or_(bits, builder.load(place))
        return call(builder, "llvm.vector.reduce.or.v16i32", bits, result=ir.IntType(32))

    return types.int32(array, types.intp), generate


@kernel
def read_all(words: NDArray[np.int32], times: int) -> int:
    """Reads all of it, `times` times."""
    bits = 0
    for i in range(times):
        words[0] = i
        bits |= _read(words, words.size)
    return bits


@kernel
def multiply_float32(words: NDArray[np.int32], turns: int) -> None:
    _chains(FLOAT32, words, turns)


@kernel
def multiply_dot(words: NDArray[np.int32], turns: int) -> None:
    _chains(DOT, words, turns)


@kernel
def multiply_quads(words: NDArray[np.int32], turns: int) -> None:
    _chains(QUADS, words, turns)
