"""The student's own register tile: a layer's dilated convolution and its gate for a few columns,
without leaving the registers.

It follows the one rule of `simd.py` (an output is one chain of fused multiply-adds, ascending,
begun at its bias), so that a column's bits depend on nothing but the columns that it hears.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from vqwave.decode.cpu.microkernels import BFLOAT, turn_of
from vqwave.decode.cpu.simd import (
    LANES,
    WIDE,
    Args,
    Context,
    Generated,
    Signature,
    Typing,
    array_of,
    call,
    fma,
    load_floats,
    row_pointers,
    store_floats,
)

# Columns and pairs of vectors of a tile: 24 sums beside 5 operands in the 32 registers of AVX-512,
# 12 narrow ones elsewhere.
ROWS, PAIRS = (6, 2) if WIDE else (3, 1)
VECTORS = 2 * PAIRS

_FLOATS = ir.VectorType(ir.FloatType(), LANES)
_INTS = ir.VectorType(ir.IntType(32), LANES)
_BFLOATS = ir.VectorType(BFLOAT, LANES)


def _constant(value: float) -> ir.Constant:
    return ir.Constant(_FLOATS, [float(value)] * LANES)


def _exp2(builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """2^x for |x| < 126: 2^n by bits, times a polynomial in r = x - n, |r| <= 1/2, within 1e-7
    (minimax, begun at 1).
    """
    # 1.5 * 2^23: what is added to it is rounded to a whole number, in its low bits
    magic = _constant(12582912.0)
    shifted = builder.fadd(x, magic)
    r = builder.fsub(x, builder.fsub(shifted, magic))
    p = _constant(1.32647e-3)
    for coefficient in (9.67151e-3, 5.550734e-2, 2.4022242e-1, 6.9314698e-1, 1.0):
        p = fma(builder, p, r, _constant(coefficient))
    exponent = builder.shl(builder.bitcast(shifted, _INTS), ir.Constant(_INTS, [23] * LANES))
    return builder.bitcast(builder.add(builder.bitcast(p, _INTS), exponent), _FLOATS)


def _bounded(builder: ir.IRBuilder, x: ir.Value, bound: float, factor: float) -> ir.Value:
    """factor x, for |x| <= bound, else that of the bound."""
    x = call(
        builder,
        "llvm.minnum.v16f32",
        call(builder, "llvm.maxnum.v16f32", x, _constant(-bound)),
        _constant(bound),
    )
    return builder.fmul(x, _constant(factor))


def _gated(builder: ir.IRBuilder, filtered: ir.Value, gate: ir.Value) -> ir.Value:
    """tanh(filter) sigmoid(gate) = (1 - a) / ((1 + a)(1 + b)) with a = exp(-2 filter), b =
    exp(-gate).
    """
    one = _constant(1.0)
    a = _exp2(builder, _bounded(builder, filtered, 15.0, -2.88539008))
    b = _exp2(builder, _bounded(builder, gate, 80.0, -1.44269504))
    return builder.fdiv(
        builder.fsub(one, a), builder.fmul(builder.fadd(one, a), builder.fadd(one, b))
    )


@intrinsic(prefer_literal=True)
def gate_tile(
    _typing: Typing,
    rows: types.IntegerLiteral,
    pairs: types.IntegerLiteral,
    weights: types.Array,
    _at: types.Integer,
    _width: types.Integer,
    _first: types.Integer,
    x: types.Array,
    _x_at: types.Integer,
    _reach: types.Integer,
    _taps: types.Integer,
    told: types.Array,
    columns: types.Array,
    _row: types.Integer,
    _told_at: types.Integer,
    z: types.Array,
    _z_at: types.Integer,
) -> Generated:
    """z = tanh(f) sigmoid(g), f and g a dilated convolution of x, of `rows` columns and 16 `pairs`
    channels; both are literals.

    Outputs take turns, 16 filters, 16 gates; the tile's begin at number `first` of `width`. W
    (taps, C, width) begins at weights.flat[at]. x (..., C) is entered at x_at by the oldest tap,
    and a tap later `reach` numbers on. Sums begin at told.flat[columns[row + i] + told_at]; z (...,
    G) is entered at z_at. x, told and z go on by their rows.
    """
    n, m = rows.literal_value, 2 * pairs.literal_value
    inputs, group, turn = turn_of(weights.dtype, x.dtype)

    def generate(
        context: Context, builder: ir.IRBuilder, signature: Signature, args: Args
    ) -> ir.Value:
        at, width, first, x_at, reach, taps, row, told_at, z_at = (
            args[i] for i in (3, 4, 5, 7, 8, 9, 12, 13, 15)
        )
        weights_, x_, told_, columns_, z_ = (
            array_of(context, builder, signature.args[i], args[i]) for i in (2, 6, 10, 11, 14)
        )
        index = width.type

        def vectors(start: ir.Value, step: int = 1) -> list[ir.Value]:
            return [builder.gep(start, [ir.Constant(index, step * LANES * v)]) for v in range(m)]

        sums = []
        for i in range(n):
            column = builder.load(
                builder.gep(columns_.data, [builder.add(row, ir.Constant(index, i))])
            )
            begin = builder.gep(told_.data, [builder.add(column, told_at)])
            sums.append(
                [
                    cgutils.alloca_once_value(builder, load_floats(builder, start))
                    for start in vectors(begin)
                ]
            )
        channels, wide = (
            cgutils.unpack_tuple(builder, x_.shape)[-1],
            builder.mul(width, ir.Constant(index, group)),
        )
        turns = builder.udiv(channels, ir.Constant(index, inputs))
        start = builder.add(at, builder.mul(first, ir.Constant(index, group)))
        with cgutils.for_range(builder, taps) as tap:
            sources = row_pointers(builder, x_, builder.add(x_at, builder.mul(tap.index, reach)), n)
            line = builder.add(start, builder.mul(tap.index, builder.mul(turns, wide)))
            with cgutils.for_range(builder, turns) as loop:
                here = builder.gep(
                    weights_.data, [builder.add(line, builder.mul(loop.index, wide))]
                )
                k = builder.mul(loop.index, ir.Constant(index, inputs))
                turn(
                    builder,
                    vectors(here, group),
                    [builder.gep(source, [k]) for source in sources],
                    sums,
                )
        for places, target in zip(sums, row_pointers(builder, z_, z_at, n), strict=True):
            for pair in range(m // 2):
                filtered, gate = builder.load(places[2 * pair]), builder.load(places[2 * pair + 1])
                pointer = builder.gep(target, [ir.Constant(index, LANES * pair)])
                _put(builder, pointer, _gated(builder, filtered, gate))
        return context.get_dummy_value()

    i = types.intp
    return types.void(
        rows, pairs, weights, i, i, i, x, i, i, i, told, columns, i, i, z, i
    ), generate


def _put(builder: ir.IRBuilder, pointer: ir.Value, value: ir.Value) -> None:
    """Store 16 numbers, as bfloat16 where the target holds those."""
    if pointer.type.pointee == ir.FloatType():
        store_floats(builder, pointer, value)
    else:
        builder.store(
            builder.fptrunc(value, _BFLOATS),
            builder.bitcast(pointer, _BFLOATS.as_pointer()),
            align=2,
        )
