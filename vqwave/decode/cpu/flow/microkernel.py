"""The student's own register tiles: a layer's dilated convolution and its gate for a few columns,
and its residual product, without leaving the registers.

It follows the one rule of `simd.py` (an output is one chain of fused multiply-adds, ascending,
begun at its bias), so that a column's bits depend on nothing but its own receptive field.
"""

from __future__ import annotations

from typing import NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from vqwave.decode.cpu.flow.plan import Matrix
from vqwave.decode.cpu.flow.state import Integers
from vqwave.decode.cpu.microkernels import Sums, store_as, turn_of
from vqwave.decode.cpu.processor import WIDE
from vqwave.decode.cpu.simd import (
    LANES,
    Args,
    Array,
    Context,
    Generated,
    Signature,
    Typing,
    array_of,
    gated_floats,
    load_floats,
    row_pointers,
    store_floats,
)
from vqwave.decode.plan import Floats

VECTORS = 4 if WIDE else 1  # of each column, whose sums stay in registers: see `ROWS`
PAIRS = max(1, VECTORS // 2)  # of filters and gates that a tile yields


class Convolution(NamedTuple):
    """Weights (taps, C, width) from weights.flat[at] on, of which a tile takes the outputs from
    number `first` on; outputs take turns, 16 filters, 16 gates.
    """

    weights: Matrix
    at: int
    width: int
    first: int


class Taps(NamedTuple):
    """Inputs x (..., C): the oldest tap of the tile's first column is x.flat[at], and a tap later
    is `reach` numbers on.
    """

    x: Matrix
    at: int
    reach: int
    taps: int


class Conditions(NamedTuple):
    """What the sums begin with: row i's at projected.flat[columns[row + i] + at]."""

    projected: Floats
    columns: Integers
    row: int
    at: int


class Product(NamedTuple):
    """Weights (depth, width) from weights.flat[at] on, of which a tile takes the outputs from
    number `first` on, and the units (..., depth) from units.flat[units_at] on.
    """

    weights: Matrix
    at: int
    width: int
    first: int
    units: Matrix
    units_at: int


class Residual(NamedTuple):
    """x (..., R) from x.flat[at] on, the bias of its outputs from bias.flat[bias_at] on, and where
    the sums are written a second time, as inputs of the next layer: from windows.flat[to] on.
    """

    x: Floats
    at: int
    bias: Floats
    bias_at: int
    windows: Matrix
    to: int


class Target(NamedTuple):
    """Where the units (..., G) are written: from z.flat[at] on."""

    z: Matrix
    at: int


def _parts(
    context: Context, builder: ir.IRBuilder, kind: types.NamedTuple, value: ir.Value
) -> list[Array | ir.Value]:
    """The fields of a named tuple; arrays as numba's structures."""
    return [
        array_of(context, builder, part, field) if isinstance(part, types.Array) else field
        for part, field in zip(kind.types, cgutils.unpack_tuple(builder, value), strict=True)
    ]


def _vectors(
    builder: ir.IRBuilder, start: ir.Value, count: int, index: ir.Type, words: int = 1
) -> list[ir.Value]:
    """Pointers to successive vectors, each number of which takes so many words."""
    return [builder.gep(start, [ir.Constant(index, words * LANES * v)]) for v in range(count)]


@intrinsic(prefer_literal=True)
def gate_tile(
    _typing: Typing,
    rows: types.IntegerLiteral,
    pairs: types.IntegerLiteral,
    convolution: types.NamedTuple,
    taps: types.NamedTuple,
    conditions: types.NamedTuple,
    target: types.NamedTuple,
) -> Generated:
    """z = tanh(f) sigmoid(g), f and g a dilated convolution of x, of `rows` columns and 16 `pairs`
    channels; both are literals. x and z advance by their rows, the conditions by `columns`.
    """
    n, m = rows.literal_value, 2 * pairs.literal_value
    turn = turn_of(convolution.types[0].dtype, taps.types[0].dtype)

    def generate(
        context: Context, builder: ir.IRBuilder, signature: Signature, args: Args
    ) -> ir.Value:
        weights, at, width, first = _parts(context, builder, signature.args[2], args[2])
        x, x_at, reach, number_of_taps = _parts(context, builder, signature.args[3], args[3])
        begin, columns, row, begin_at = _parts(context, builder, signature.args[4], args[4])
        z, z_at = _parts(context, builder, signature.args[5], args[5])
        index = width.type

        def number(value: int) -> ir.Constant:
            return ir.Constant(index, value)

        starts = []
        for i in range(n):
            column = builder.load(builder.gep(columns.data, [builder.add(row, number(i))]))
            starts.append(builder.gep(begin.data, [builder.add(column, begin_at)]))
        turns = builder.udiv(cgutils.unpack_tuple(builder, x.shape)[-1], number(turn.inputs))
        line = builder.mul(width, number(turn.words))
        sums: Sums = [[] for _ in range(n)]
        for group in range(0, m, VECTORS):
            inside = range(group, min(m, group + VECTORS))
            places = [
                [cgutils.alloca_once_value(builder, load_floats(builder, given[v])) for v in inside]
                for given in (_vectors(builder, start, m, index) for start in starts)
            ]
            for every, of_group in zip(sums, places, strict=True):
                every.extend(of_group)
            beginning = builder.add(first, number(LANES * group))
            origin = builder.add(at, builder.mul(beginning, number(turn.words)))
            with cgutils.for_range(builder, number_of_taps) as tap:
                here = builder.add(x_at, builder.mul(tap.index, reach))
                sources = row_pointers(builder, x, here, n)
                matrix = builder.add(origin, builder.mul(tap.index, builder.mul(turns, line)))
                with cgutils.for_range(builder, turns) as loop:
                    at_turn = builder.add(matrix, builder.mul(loop.index, line))
                    start = builder.gep(weights.data, [at_turn])
                    k = builder.mul(loop.index, number(turn.inputs))
                    inputs = [builder.gep(source, [k]) for source in sources]
                    loaded = _vectors(builder, start, len(inside), index, turn.words)
                    turn.instructions(builder, loaded, inputs, places)
        for places, row_of_z in zip(sums, row_pointers(builder, z, z_at, n), strict=True):
            for pair, pointer in enumerate(_vectors(builder, row_of_z, m // 2, index)):
                filtered, gate = (builder.load(place) for place in places[2 * pair : 2 * pair + 2])
                units = gated_floats(builder, filtered, gate)
                store_as(builder, target.types[0].dtype, pointer, units)
        return context.get_dummy_value()

    return types.void(rows, pairs, convolution, taps, conditions, target), generate


@intrinsic(prefer_literal=True)
def residual_tile(
    _typing: Typing,
    rows: types.IntegerLiteral,
    vectors: types.IntegerLiteral,
    product: types.NamedTuple,
    residual: types.NamedTuple,
) -> Generated:
    """x += bias + units W, of `rows` columns and 16 `vectors` channels, both literals; and x again
    as the next layer's inputs. All advance by their rows.
    """
    n, m = rows.literal_value, vectors.literal_value
    turn = turn_of(product.types[0].dtype, product.types[4].dtype)

    def generate(
        context: Context, builder: ir.IRBuilder, signature: Signature, args: Args
    ) -> ir.Value:
        given = _parts(context, builder, signature.args[2], args[2])
        weights, at, width, first, units, units_at = given
        given = _parts(context, builder, signature.args[3], args[3])
        x, x_at, bias, bias_at, windows, to = given
        index = width.type
        start = builder.gep(bias.data, [builder.add(bias_at, first)])
        biases = [load_floats(builder, each) for each in _vectors(builder, start, m, index)]
        targets = row_pointers(builder, x, builder.add(x_at, first), n)
        places = [_vectors(builder, row, m, index) for row in targets]
        sums = [
            [
                cgutils.alloca_once_value(
                    builder, builder.fadd(load_floats(builder, pointer), added)
                )
                for pointer, added in zip(row, biases, strict=True)
            ]
            for row in places
        ]
        depth = cgutils.unpack_tuple(builder, units.shape)[-1]
        line = builder.mul(width, ir.Constant(index, turn.words))
        origin = builder.add(at, builder.mul(first, ir.Constant(index, turn.words)))
        sources = row_pointers(builder, units, units_at, n)
        with cgutils.for_range(builder, builder.udiv(depth, ir.Constant(index, turn.inputs))) as k:
            here = builder.add(origin, builder.mul(k.index, line))
            columns = _vectors(builder, builder.gep(weights.data, [here]), m, index, turn.words)
            step = builder.mul(k.index, ir.Constant(index, turn.inputs))
            turn.instructions(builder, columns, [builder.gep(row, [step]) for row in sources], sums)
        again = row_pointers(builder, windows, builder.add(to, first), n)
        for row, pointers, window in zip(sums, places, again, strict=True):
            copies = _vectors(builder, window, m, index)
            for place, pointer, second in zip(row, pointers, copies, strict=True):
                total = builder.load(place)
                store_floats(builder, pointer, total)
                store_as(builder, residual.types[4].dtype, second, total)
        return context.get_dummy_value()

    return types.void(rows, vectors, product, residual), generate
