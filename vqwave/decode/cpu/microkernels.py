"""Register tiles: the one loop in which decoding spends its time, for each kind of number that
weights are kept in.

| weights | inputs | a turn of the loop |
|---|---|---|
| float32, ``[k][j]`` | float32 | a fused multiply-add |
| bfloat16, ``[k / 2][j][2]`` | float32 | two, each weight widened |
| bfloat16, ``[k / 2][j][2]`` | bfloat16 | a dot product of pairs (AVX-512 BF16) |
| int8, ``[k / 4][j][4]`` | uint8 | a dot product of four (AVX-512 VNNI), exact |

bfloat16 is held as uint16, int8 as two in a uint16. Positions are counted in what arrays hold, and
an output is one chain over the inputs in ascending order: see `simd.py`. Sums of integers are exact
in any order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from vqwave.decode.cpu.simd import (
    LANES,
    Args,
    Array,
    Context,
    Generated,
    Signature,
    Typing,
    array_of,
    call,
    fma,
    load_floats,
    row_pointers,
    splat,
    store_floats,
)
from vqwave.decode.plan import STEPS, ZERO

_INT = ir.IntType(32)
_INTS = ir.VectorType(_INT, LANES)
_FLOATS = ir.VectorType(ir.FloatType(), LANES)


class _BFloat(ir.Type):
    """LLVM's bfloat, which llvmlite does not name."""

    null = "0.0"

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


BFLOAT = _BFloat()
_PAIRS = ir.VectorType(BFLOAT, 2 * LANES)

Sums = list[list[ir.Value]]  # where each row keeps its vectors of sums


class Turn(NamedTuple):
    """A turn of the loop: how many inputs it takes, how many words of an output's weights, and its
    instructions.
    """

    inputs: int
    words: int
    instructions: Callable[[ir.IRBuilder, list[ir.Value], list[ir.Value], Sums], None]


@intrinsic
def place(_typing: Typing, array: types.Array, _index: types.Integer) -> Generated:
    """The address of array.flat[index]: what a product takes instead of an array, whatever its
    axes.
    """

    def generate(
        context: Context, builder: ir.IRBuilder, signature: Signature, args: Args
    ) -> ir.Value:
        return builder.gep(array_of(context, builder, signature.args[0], args[0]).data, [args[1]])

    return types.CPointer(array.dtype)(array, types.intp), generate


@intrinsic
def beyond(_typing: Typing, place: types.CPointer, _count: types.Integer) -> Generated:
    """The place `count` numbers on."""
    return place(place, types.intp), lambda _c, builder, _s, args: builder.gep(args[0], [args[1]])


@intrinsic(prefer_literal=True)
def tile(
    _typing: Typing,
    rows: types.IntegerLiteral,
    vectors: types.IntegerLiteral,
    weights: types.Array,
    _at: types.Integer,
    _width: types.Integer,
    _first: types.Integer,
    x: types.Array,
    _x_at: types.Integer,
    _depth: types.Integer,
    y: types.Array,
    _y_at: types.Integer,
) -> Generated:
    """y[:, first :] += x W[:, first :] for `rows` streams and 16 `vectors` outputs, all sums in
    registers; both are literals.

    W (depth, width) begins at weights.flat[at]; x and y (B, ...) are entered at their flat x_at and
    y_at and go on by their rows.
    """
    n, m = rows.literal_value, vectors.literal_value
    turn = turn_of(weights.dtype, x.dtype)

    def generate(
        context: Context, builder: ir.IRBuilder, signature: Signature, args: Args
    ) -> ir.Value:
        weights_, at, width, first, x_, x_at, depth, y_, y_at = args[2:]
        kinds = signature.args
        matrix = builder.gep(array_of(context, builder, kinds[2], weights_).data, [at])
        sources = row_pointers(builder, array_of(context, builder, kinds[6], x_), x_at, n)
        targets = row_pointers(
            builder, array_of(context, builder, kinds[9], y_), builder.add(y_at, first), n
        )
        _sum_up(builder, Matrix(matrix, width, first, depth), turn, sources, targets, vectors=m)
        return context.get_dummy_value()

    index = types.intp
    return (
        types.void(rows, vectors, weights, index, index, index, x, index, index, y, index),
        generate,
    )


@intrinsic(prefer_literal=True)
def tile_at(
    _typing: Typing,
    rows: types.IntegerLiteral,
    vectors: types.IntegerLiteral,
    weights: types.CPointer,
    _width: types.Integer,
    _first: types.Integer,
    _depth: types.Integer,
    x: types.CPointer,
    _x_row: types.Integer,
    y: types.CPointer,
    _y_row: types.Integer,
) -> Generated:
    """`tile` with addresses for arrays; rows of x and y are x_row and y_row numbers apart.

    The function that holds it is compiled once and never copied to where it is called: that would
    be most of the first call.
    """
    n, m = rows.literal_value, vectors.literal_value
    turn = turn_of(weights.dtype, x.dtype)

    def generate(
        context: Context, builder: ir.IRBuilder, _signature: Signature, args: Args
    ) -> ir.Value:
        matrix, width, first, depth, x_, x_row, y_, y_row = args[2:]
        builder.function.attributes.add("noinline")
        sources, targets = [x_], [builder.gep(y_, [first])]
        for _ in range(n - 1):
            sources.append(builder.gep(sources[-1], [x_row]))
            targets.append(builder.gep(targets[-1], [y_row]))
        _sum_up(builder, Matrix(matrix, width, first, depth), turn, sources, targets, vectors=m)
        return context.get_dummy_value()

    index = types.intp
    return types.void(rows, vectors, weights, index, index, index, x, index, y, index), generate


class Matrix(NamedTuple):
    """Weights (depth, width) at an address, of which a tile takes the columns from `first` on."""

    start: ir.Value
    width: ir.Value
    first: ir.Value
    depth: ir.Value


def _sum_up(
    builder: ir.IRBuilder,
    matrix: Matrix,
    turn: Turn,
    sources: list[ir.Value],
    targets: list[ir.Value],
    *,
    vectors: int,
) -> None:
    """The loop over inputs, between loading and storing the sums."""
    index = matrix.width.type
    places = [
        [builder.gep(row, [ir.Constant(index, LANES * v)]) for v in range(vectors)]
        for row in targets
    ]
    sums = [
        [cgutils.alloca_once_value(builder, load_floats(builder, pointer)) for pointer in row]
        for row in places
    ]
    inputs, words = (ir.Constant(index, count) for count in turn[:2])
    start, line = (
        builder.gep(matrix.start, [builder.mul(matrix.first, words)]),
        builder.mul(matrix.width, words),
    )
    with cgutils.for_range(builder, builder.udiv(matrix.depth, inputs)) as loop:
        here = builder.gep(start, [builder.mul(loop.index, line)])
        columns = [
            builder.gep(here, [ir.Constant(index, turn.words * LANES * v)]) for v in range(vectors)
        ]
        k = builder.mul(loop.index, inputs)
        turn.instructions(builder, columns, [builder.gep(source, [k]) for source in sources], sums)
    for row, pointers in zip(sums, places, strict=True):
        for total, pointer in zip(row, pointers, strict=True):
            store_floats(builder, pointer, builder.load(total))


def turn_of(weights: types.Type, x: types.Type) -> Turn:
    """By the kinds of numbers that arrays hold."""
    turns = {
        (types.float32, types.float32): Turn(1, 1, _multiply),
        (types.uint16, types.float32): Turn(2, 2, _widen_and_multiply),
        (types.uint16, types.uint16): Turn(2, 2, _dot),
        (types.uint16, types.uint8): Turn(4, 2, _int8_dot),
    }
    if (weights, x) not in turns:
        raise TypeError(f"no tile for weights {weights} and inputs {x}")
    return turns[weights, x]


def _words(builder: ir.IRBuilder, pointer: ir.Value) -> ir.Value:
    """Sixteen groups of narrow numbers, 32 bits each."""
    return builder.load(builder.bitcast(pointer, _INTS.as_pointer()), align=4)


def _word(builder: ir.IRBuilder, pointer: ir.Value) -> ir.Value:
    """One group of narrow numbers in every lane."""
    return splat(builder, builder.load(builder.bitcast(pointer, _INT.as_pointer()), align=4))


def _multiply(
    builder: ir.IRBuilder, columns: list[ir.Value], sources: list[ir.Value], sums: Sums
) -> None:
    loaded = [load_floats(builder, column) for column in columns]
    for source, row in zip(sources, sums, strict=True):
        value = splat(builder, builder.load(source))
        for column, place in zip(loaded, row, strict=True):
            builder.store(fma(builder, column, value, builder.load(place)), place)


def _widen_and_multiply(
    builder: ir.IRBuilder, columns: list[ir.Value], sources: list[ir.Value], sums: Sums
) -> None:
    shift, mask = ir.Constant(_INTS, [16] * LANES), ir.Constant(_INTS, [0xFFFF0000] * LANES)
    values = [
        [
            splat(builder, builder.load(builder.gep(source, [ir.Constant(_INT, k)])))
            for source in sources
        ]
        for k in range(2)
    ]
    # one column after another: the halves of all at once do not fit into 16 registers
    for number, column in enumerate(columns):
        word = _words(builder, column)
        halves = builder.shl(word, shift), builder.and_(word, mask)
        for half, of_rows in zip(halves, values, strict=True):
            widened = builder.bitcast(half, _FLOATS)
            for value, row in zip(of_rows, sums, strict=True):
                place = row[number]
                builder.store(fma(builder, widened, value, builder.load(place)), place)


def _dot(
    builder: ir.IRBuilder, columns: list[ir.Value], sources: list[ir.Value], sums: Sums
) -> None:
    loaded = [builder.bitcast(_words(builder, column), _PAIRS) for column in columns]
    for source, row in zip(sources, sums, strict=True):
        value = builder.bitcast(_word(builder, source), _PAIRS)
        for column, place in zip(loaded, row, strict=True):
            total = call(
                builder, "llvm.x86.avx512bf16.dpbf16ps.512", builder.load(place), column, value
            )
            builder.store(total, place)


def _int8_dot(
    builder: ir.IRBuilder, columns: list[ir.Value], sources: list[ir.Value], sums: Sums
) -> None:
    loaded = [_words(builder, column) for column in columns]
    for source, row in zip(sources, sums, strict=True):
        value = _word(builder, source)
        for column, place in zip(loaded, row, strict=True):
            before = builder.bitcast(builder.load(place), _INTS)
            total = call(
                builder, "llvm.x86.avx512.vpdpbusd.512", before, value, column, result=_INTS
            )
            builder.store(builder.bitcast(total, _FLOATS), place)


@intrinsic
def put(_typing: Typing, array: types.Array, _index: types.Integer, value: types.Type) -> Generated:
    """array.flat[index : index + 16] = vector, as the array's kind of number.

    float32, or bfloat16 held as uint16; or, as uint8, units between -1 and 1 in steps of 1 / 127,
    with 128 for 0.
    """

    def generate(
        context: Context, builder: ir.IRBuilder, signature: Signature, args: Args
    ) -> ir.Value:
        data: ir.Value = array_of(context, builder, signature.args[0], args[0]).data
        store_as(builder, signature.args[0].dtype, builder.gep(data, [args[1]]), args[2])
        return context.get_dummy_value()

    return types.void(array, types.intp, value), generate


def store_as(builder: ir.IRBuilder, dtype: types.Type, pointer: ir.Value, value: ir.Value) -> None:
    """Store a vector as an array's kind of number: see `put`."""
    if dtype == types.float32:
        store_floats(builder, pointer, value)
    elif dtype == types.uint8:
        steps, zero = (ir.Constant(_FLOATS, [float(x)] * LANES) for x in (STEPS, ZERO))
        near = call(builder, "llvm.rint.v16f32", fma(builder, value, steps, zero))
        kind = ir.VectorType(ir.IntType(8), LANES)
        integers = builder.trunc(builder.fptosi(near, _INTS), kind)
        builder.store(integers, builder.bitcast(pointer, kind.as_pointer()), align=1)
    else:
        kind = ir.VectorType(BFLOAT, LANES)
        builder.store(
            builder.fptrunc(value, kind), builder.bitcast(pointer, kind.as_pointer()), align=2
        )


@intrinsic
def move(
    _typing: Typing,
    source: types.Array,
    _at: types.Integer,
    target: types.Array,
    _to: types.Integer,
) -> Generated:
    """target.flat[to : to + 16] = source.flat[at : at + 16]; both arrays hold the same kind of
    number.
    """
    if source.dtype != target.dtype:
        raise TypeError(f"{source.dtype} cannot be moved to {target.dtype}")

    def pointer(
        context: Context, builder: ir.IRBuilder, kind: Array, array: ir.Value, index: ir.Value
    ) -> ir.Value:
        place = builder.gep(array_of(context, builder, kind, array).data, [index])
        return builder.bitcast(place, ir.VectorType(place.type.pointee, LANES).as_pointer())

    def generate(
        context: Context, builder: ir.IRBuilder, signature: Signature, args: Args
    ) -> ir.Value:
        loaded = builder.load(
            pointer(context, builder, signature.args[0], args[0], args[1]), align=1
        )
        builder.store(
            loaded, pointer(context, builder, signature.args[2], args[2], args[3]), align=1
        )
        return context.get_dummy_value()

    return types.void(source, types.intp, target, types.intp), generate
