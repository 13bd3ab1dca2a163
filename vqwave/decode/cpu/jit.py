"""Compiling kernels: functions that numba compiles for the kernels that call them, and the object
code of those that Python calls (`compiled.py`).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from typing import Any

# numba would use Intel's vector library where it finds it, which the code would then need
os.environ.setdefault("NUMBA_DISABLE_INTEL_SVML", "1")

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.compiler_lock import global_compiler_lock
from numba.np.arrayobj import populate_array
from numba.np.numpy_support import from_dtype

_WORD, _DOUBLE = ir.IntType(64), ir.DoubleType()
_WORDS = _WORD.as_pointer()


def kernel(function: Callable, *, inline: bool = False) -> Callable:
    """numba.njit without lock, bounds checks, fast maths and allocation.

    Without allocation (numba's `_nrt`) no reference is counted: that alone would cost a layer as
    much as its gate does.
    """
    return numba.njit(
        nogil=True,
        boundscheck=False,
        error_model="numpy",
        fastmath=False,
        forceinline=inline,
        no_cfunc_wrapper=True,
        _nrt=False,
    )(function)


def inlined(function: Callable) -> Callable:
    """A kernel that is copied to where it is called: for those whose many arguments cost more than
    their work.
    """
    return kernel(function, inline=True)


# numba's own objects, which it does not type
Kernel = Any
Type = Any
Context = Any
Library = Any


@global_compiler_lock
def object_code(function: Kernel, arguments: Sequence[object], entry: str) -> tuple[bytes, bool]:
    """Object code of a function named `entry`, which calls a kernel with arguments of these kinds;
    and whether it needs no symbol that is numba's own.

    The function takes the address of 64-bit words: one for the result, a whole number or nothing,
    then those of the arguments (`compiled.words_of`). It returns 0.
    """
    kinds = tuple(_type_of(each) for each in arguments)
    function.compile(kinds)
    compiled = function.overloads[kinds]
    context, signature = compiled.target_context, compiled.fndesc
    module = context.create_module(entry)
    callee = context.call_conv.get_function_type(signature.restype, signature.argtypes)
    callee = ir.Function(module, callee, signature.llvm_func_name)
    function = ir.Function(module, ir.FunctionType(ir.IntType(32), [_WORDS]), entry)
    builder = ir.IRBuilder(function.append_basic_block())
    words = Words(builder, function.args[0])
    values = [words.value(context, kind) for kind in signature.argtypes]
    status, result = context.call_conv.call_function(
        builder, callee, signature.restype, signature.argtypes, values
    )
    if signature.restype != types.none:
        builder.store(builder.sext(result, _WORD) if result.type != _WORD else result, words.start)
    builder.ret(status.code)
    library = context.codegen().create_library(entry)
    library.enable_object_caching()
    library.add_ir_module(module)
    library.add_linking_library(compiled.library)
    library.finalize()
    return library._get_compiled_object(), not _foreign(library)


def _type_of(value: object) -> Type:
    """numba's type: arrays are contiguous and may be written."""
    if isinstance(value, np.ndarray):
        return types.Array(from_dtype(value.dtype), value.ndim, "C")
    if isinstance(value, tuple):
        return types.BaseTuple.from_types(tuple(_type_of(each) for each in value), type(value))
    return numba.typeof(value)


class Words:
    """The words that object code is given, read one after another."""

    def __init__(self, builder: ir.IRBuilder, start: ir.Value) -> None:
        self.builder, self.start, self.read = builder, start, 1

    def word(self) -> ir.Value:
        place = self.builder.gep(self.start, [ir.Constant(_WORD, self.read)])
        self.read += 1
        return self.builder.load(place)

    def value(self, context: Context, kind: Type) -> ir.Value:
        """The next argument."""
        if isinstance(kind, types.Array):
            return self._array(context, kind)
        if isinstance(kind, types.BaseTuple):
            return context.make_tuple(self.builder, kind, [self.value(context, k) for k in kind])
        word, wanted = self.word(), context.get_value_type(kind)
        if wanted == _DOUBLE:
            return self.builder.bitcast(word, _DOUBLE)
        return word if wanted == _WORD else self.builder.trunc(word, wanted)

    def _array(self, context: Context, kind: types.Array) -> ir.Value:
        builder, array = self.builder, context.make_array(kind)(context, self.builder)
        data = builder.inttoptr(self.word(), array.data.type)
        shape = [self.word() for _ in range(kind.ndim)]
        size = context.get_constant(types.intp, context.get_abi_sizeof(array.data.type.pointee))
        strides = [size]
        for length in reversed(shape[1:]):
            strides.insert(0, builder.mul(strides[0], length))
        populate_array(
            array,
            data=data,
            shape=cgutils.pack_array(builder, shape, ty=_WORD),
            strides=cgutils.pack_array(builder, strides[: len(shape)], ty=_WORD),
            itemsize=size,
            meminfo=None,
        )
        return array._getvalue()


def _foreign(library: Library) -> list[str]:
    """The symbols that are neither in the code nor, for every Python, in the process."""
    names = [each.name for each in library._final_module.functions if each.is_declaration]
    return [
        name
        for name in names
        if not name.startswith("llvm.") and not hasattr(ctypes.pythonapi, name)
    ]
