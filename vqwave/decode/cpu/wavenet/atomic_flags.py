"""Progress counters between two threads: numbers that one writes, and the other waits for."""

from __future__ import annotations

import platform

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from vqwave.decode.cpu.jit import kernel
from vqwave.decode.cpu.simd import Args, Context, Generated, Signature, Typing, array_of, call
from vqwave.decode.cpu.wavenet.state import APART, Integers

PATIENCE = 1 << 15
"""Reads of a signal before a thread gives up: about a millisecond, some hundred times what a sample
takes. Where other processes have the cores, the system runs a thread for some milliseconds at a
time; were each sample waited for that long, speech would take a hundred times as long as it does on
one core.
"""


@intrinsic
def load_acquire(_typing: Typing, array: types.Array, _index: types.Integer) -> Generated:
    """array[index], and with it all that was written before it was stored."""

    def generate(
        context: Context, builder: ir.IRBuilder, signature: Signature, args: Args
    ) -> ir.Value:
        pointer = builder.gep(
            array_of(context, builder, signature.args[0], args[0]).data, [args[1]]
        )
        return builder.load_atomic(pointer, "acquire", 8)

    return types.int64(array, types.intp), generate


@intrinsic
def store_release(
    _typing: Typing, array: types.Array, _index: types.Integer, _value: types.Integer
) -> Generated:
    """array[index] = value, and with it all that was written before."""

    def generate(
        context: Context, builder: ir.IRBuilder, signature: Signature, args: Args
    ) -> ir.Value:
        pointer = builder.gep(
            array_of(context, builder, signature.args[0], args[0]).data, [args[1]]
        )
        builder.store_atomic(args[2], pointer, "release", 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.int64), generate


@intrinsic
def rest(_typing: Typing) -> Generated:
    """A hint to the processor that this thread waits."""

    def generate(
        context: Context, builder: ir.IRBuilder, _signature: Signature, _args: Args
    ) -> ir.Value:
        if platform.machine().lower() in ("x86_64", "amd64", "i686"):
            call(builder, "llvm.x86.sse2.pause", result=ir.VoidType())
        elif platform.machine().lower() in ("arm64", "aarch64"):
            call(builder, "llvm.aarch64.hint", ir.Constant(ir.IntType(32), 1), result=ir.VoidType())
        return context.get_dummy_value()

    return types.void(), generate


@kernel
def wait_for(array: Integers, signal: int, least: int, patience: int) -> int:
    """The signal, once it is at least `least`; or what it is when patience runs out."""
    value = load_acquire(array, signal * APART)
    while value < least and patience > 0:
        rest()
        patience -= 1
        value = load_acquire(array, signal * APART)
    return value
