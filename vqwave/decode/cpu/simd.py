"""Sixteen float32 lanes inside numba: the few vector instructions that the decoding kernels are
made of.

numba compiles scalars; these intrinsics hand it LLVM's own vectors, which LLVM turns into one
AVX-512 register, two of AVX2 or four of SSE and NEON. Nothing here is inline assembly. Arrays must
be C-contiguous and are indexed flat.

One rule makes results equal, bit for bit, whatever the batch, the tile and the instruction set: an
output is one chain of fused multiply-adds over the inputs in ascending order, begun at its bias.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

from vqwave.decode.cpu.processor import WIDE

LANES = 16

_FLOAT = ir.FloatType()
_INT = ir.IntType(32)
_FLOATS = ir.VectorType(_FLOAT, LANES)
_INTS = ir.VectorType(_INT, LANES)
_BF16S = ir.VectorType(ir.IntType(16), LANES)


class VectorType(types.Type):
    """numba's name for sixteen float32."""

    def __init__(self) -> None:
        super().__init__(name="Vector16Float32")


VECTOR = VectorType()

# numba's own objects, which it does not type
Typing: TypeAlias = Any
Context: TypeAlias = Any
Signature: TypeAlias = Any
Array: TypeAlias = Any
Args = Sequence[ir.Value]
Generated = tuple[Signature, Callable[..., ir.Value]]  # what an intrinsic gives numba


@register_model(VectorType)
class VectorModel(models.PrimitiveModel):
    """A vector is <16 x float> in LLVM."""

    def __init__(self, manager: Context, kind: VectorType) -> None:
        super().__init__(manager, kind, _FLOATS)


def _floats(value: float) -> ir.Constant:
    return ir.Constant(_FLOATS, [float(value)] * LANES)


def _ints(value: int) -> ir.Constant:
    return ir.Constant(_INTS, [value] * LANES)


def call(builder: ir.IRBuilder, name: str, *args: ir.Value, result: ir.Type = _FLOATS) -> ir.Value:
    """Call an LLVM intrinsic by name."""
    kind = ir.FunctionType(result, [arg.type for arg in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args)


def fma(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
    return call(builder, "llvm.fma.v16f32", a, b, c)


def splat(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    empty = ir.Constant(ir.VectorType(value.type, LANES), ir.Undefined)
    return builder.shuffle_vector(
        builder.insert_element(empty, value, ir.Constant(_INT, 0)), empty, _ints(0)
    )


def load_floats(builder: ir.IRBuilder, pointer: ir.Value) -> ir.Value:
    """Sixteen numbers from a pointer to float32, or to the upper halves of float32 (bfloat16),
    which are widened.
    """
    if pointer.type.pointee == _FLOAT:
        return builder.load(builder.bitcast(pointer, _FLOATS.as_pointer()), align=4)
    halves = builder.load(builder.bitcast(pointer, _BF16S.as_pointer()), align=2)
    return builder.bitcast(builder.shl(builder.zext(halves, _INTS), _ints(16)), _FLOATS)


def store_floats(builder: ir.IRBuilder, pointer: ir.Value, value: ir.Value) -> None:
    builder.store(value, builder.bitcast(pointer, _FLOATS.as_pointer()), align=4)


def _clamp(builder: ir.IRBuilder, x: ir.Value, low: float, high: float) -> ir.Value:
    return call(
        builder,
        "llvm.minnum.v16f32",
        call(builder, "llvm.maxnum.v16f32", x, _floats(low)),
        _floats(high),
    )


def _exp(builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """e^x for |x| <= 87, else that of the bound; within 2 ulp.

    Cephes' expf: x = n ln 2 + r, a polynomial in r, 2^n by bits.
    """
    x = _clamp(builder, x, -87.0, 87.0)
    n = call(builder, "llvm.rint.v16f32", builder.fmul(x, _floats(1.44269504)))
    r = fma(builder, n, _floats(2.12194440e-4), fma(builder, n, _floats(-0.693359375), x))
    p = _floats(1.9875691500e-4)
    for coefficient in (
        1.3981999507e-3,
        8.3334519073e-3,
        4.1665795894e-2,
        1.6666665459e-1,
        5.0000001201e-1,
    ):
        p = fma(builder, p, r, _floats(coefficient))
    p = fma(builder, p, builder.fmul(r, r), builder.fadd(r, _floats(1.0)))
    exponent = builder.shl(builder.add(builder.fptosi(n, _INTS), _ints(127)), _ints(23))
    return builder.fmul(p, builder.bitcast(exponent, _FLOATS))


def _exp2(builder: ir.IRBuilder, x: ir.Value, factor: float, bound: float) -> ir.Value:
    """2^(x factor), factor below 0, for x above -bound: 2^n by the exponent, times a polynomial in
    the rest r, |r| <= 1/2, within 1e-7 (minimax, begun at 1). At and below -bound that of -bound;
    above the bound anything below 2^-40.
    """
    # 1.5 * 2^23: what is added to it is rounded to an integer, in its low bits
    magic, slope = _floats(12582912.0), _floats(factor)
    x = call(builder, "llvm.maxnum.v16f32", x, _floats(-bound))
    if not WIDE:
        x = call(builder, "llvm.minnum.v16f32", x, _floats(bound))
    shifted = fma(builder, x, slope, magic)
    n = builder.fsub(shifted, magic)
    r = fma(builder, x, slope, builder.fneg(n))
    p = _floats(1.32647e-3)
    for coefficient in (9.67151e-3, 5.550734e-2, 2.4022242e-1, 6.9314698e-1, 1.0):
        p = fma(builder, p, r, _floats(coefficient))
    if WIDE:
        return _scaled(builder, p, n)
    exponent = builder.shl(builder.bitcast(shifted, _INTS), _ints(23))
    return builder.bitcast(builder.add(builder.bitcast(p, _INTS), exponent), _FLOATS)


def _scaled(builder: ir.IRBuilder, x: ir.Value, n: ir.Value) -> ir.Value:
    """x 2^n, n whole: one instruction of AVX-512, which no n is too small for."""
    half, word = ir.IntType(16), ir.Constant(_INT, 4)  # 4: rounded as usual
    name = "llvm.x86.avx512.mask.scalef.ps.512"
    kind = ir.FunctionType(_FLOATS, [_FLOATS, _FLOATS, _FLOATS, half, _INT])
    function = cgutils.get_or_insert_function(builder.module, kind, name)
    return builder.call(function, [x, n, _floats(0.0), ir.Constant(half, 0xFFFF), word])


def gated_floats(builder: ir.IRBuilder, filtered: ir.Value, gate: ir.Value) -> ir.Value:
    """tanh(filter) sigmoid(gate) = (1 - a) / ((1 + a)(1 + b)) with a = exp(-2 filter), b =
    exp(-gate): one division for both.

    Numbers below 2^-40 are lost in the sums with 1: the bits are those of any instruction set.
    """
    one = _floats(1.0)
    a = _exp2(builder, filtered, -2.88539008, 15.0)
    b = _exp2(builder, gate, -1.44269504, 80.0)
    return builder.fdiv(
        builder.fsub(one, a), builder.fmul(builder.fadd(one, a), builder.fadd(one, b))
    )


def array_of(context: Context, builder: ir.IRBuilder, kind: types.Array, value: ir.Value) -> Array:
    return context.make_array(kind)(context, builder, value=value)


@intrinsic
def load(_typing: Typing, array: types.Array, _index: types.Integer) -> Generated:
    """array.flat[index : index + 16] -> vector; float32, or bfloat16 held as uint16."""

    def generate(
        context: Context, builder: ir.IRBuilder, signature: Signature, args: Args
    ) -> ir.Value:
        data = array_of(context, builder, signature.args[0], args[0]).data
        return load_floats(builder, builder.gep(data, [args[1]]))

    return VECTOR(array, types.intp), generate


@intrinsic
def load_integers(_typing: Typing, array: types.Array, _index: types.Integer) -> Generated:
    """The bits of array.flat[index : index + 16], float32, taken for int32 -> vector of their
    values.
    """

    def generate(
        context: Context, builder: ir.IRBuilder, signature: Signature, args: Args
    ) -> ir.Value:
        data = array_of(context, builder, signature.args[0], args[0]).data
        pointer = builder.bitcast(builder.gep(data, [args[1]]), _INTS.as_pointer())
        return builder.sitofp(builder.load(pointer, align=4), _FLOATS)

    return VECTOR(array, types.intp), generate


@intrinsic
def store(
    _typing: Typing, array: types.Array, _index: types.Integer, value: VectorType
) -> Generated:
    """array.flat[index : index + 16] = vector."""

    def generate(
        context: Context, builder: ir.IRBuilder, signature: Signature, args: Args
    ) -> ir.Value:
        data = array_of(context, builder, signature.args[0], args[0]).data
        store_floats(builder, builder.gep(data, [args[1]]), args[2])
        return context.get_dummy_value()

    return types.void(array, types.intp, value), generate


@intrinsic
def broadcast(_typing: Typing, _value: types.Float) -> Generated:
    """One float32 in every lane."""
    return VECTOR(types.float32), lambda _c, builder, _s, args: splat(builder, args[0])


@intrinsic
def add(_typing: Typing, _a: VectorType, _b: VectorType) -> Generated:
    return VECTOR(VECTOR, VECTOR), lambda _c, builder, _s, args: builder.fadd(*args)


@intrinsic
def fused(_typing: Typing, _a: VectorType, _b: VectorType, _c: VectorType) -> Generated:
    """a b + c, rounded once."""
    return VECTOR(VECTOR, VECTOR, VECTOR), lambda _x, builder, _s, args: fma(builder, *args)


@intrinsic
def fused_scalar(_typing: Typing, _a: types.Float, _b: types.Float, _c: types.Float) -> Generated:
    """a b + c of three float32, rounded once."""

    def generate(_c: Context, builder: ir.IRBuilder, _s: Signature, args: Args) -> ir.Value:
        return call(builder, "llvm.fma.f32", *args, result=_FLOAT)

    return types.float32(types.float32, types.float32, types.float32), generate


@intrinsic
def larger(_typing: Typing, _a: VectorType, _b: VectorType) -> Generated:
    return VECTOR(VECTOR, VECTOR), lambda _c, builder, _s, args: call(
        builder, "llvm.maxnum.v16f32", *args
    )


@intrinsic
def largest(_typing: Typing, _x: VectorType) -> Generated:
    """The largest lane."""

    def generate(
        _context: Context, builder: ir.IRBuilder, _signature: Signature, args: Args
    ) -> ir.Value:
        return call(builder, "llvm.vector.reduce.fmax.v16f32", args[0], result=_FLOAT)

    return types.float32(VECTOR), generate


@intrinsic
def total(_typing: Typing, _x: VectorType) -> Generated:
    """The sum of the lanes, halves added to halves: always in this order."""

    def generate(
        _context: Context, builder: ir.IRBuilder, _signature: Signature, args: Args
    ) -> ir.Value:
        x, half = args[0], LANES // 2
        while half:
            swap = ir.Constant(_INTS, [(lane + half) % LANES for lane in range(LANES)])
            x, half = builder.fadd(x, builder.shuffle_vector(x, x, swap)), half // 2
        return builder.extract_element(x, ir.Constant(_INT, 0))

    return types.float32(VECTOR), generate


@intrinsic
def exp_scaled(
    _typing: Typing, _x: VectorType, _shift: types.Float, _scale: types.Float
) -> Generated:
    """exp((x - shift) scale)."""

    def generate(
        _context: Context, builder: ir.IRBuilder, _signature: Signature, args: Args
    ) -> ir.Value:
        shifted = builder.fsub(args[0], splat(builder, args[1]))
        return _exp(builder, builder.fmul(shifted, splat(builder, args[2])))

    return VECTOR(VECTOR, types.float32, types.float32), generate


@intrinsic
def gated(_typing: Typing, _filter: VectorType, _gate: VectorType) -> Generated:
    """tanh(filter) sigmoid(gate)."""
    return VECTOR(VECTOR, VECTOR), lambda _c, builder, _s, args: gated_floats(builder, *args)


def row_pointers(builder: ir.IRBuilder, array: Array, start: ir.Value, rows: int) -> list[ir.Value]:
    """Pointers into `rows` consecutive rows of an array (B, ..., C), the first at flat index
    `start`.
    """
    stride = cgutils.unpack_tuple(builder, array.shape)[-1]
    pointers = [builder.gep(array.data, [start])]
    for _ in range(rows - 1):
        pointers.append(builder.gep(pointers[-1], [stride]))
    return pointers
