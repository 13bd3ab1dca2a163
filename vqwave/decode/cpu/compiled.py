"""Kernels that Python calls: compiled once for the kinds of their arguments, kept as object code,
and loaded from it by LLVM.

numba is imported only to compile. Its import, its own cache of pickled functions and linking these
anew take most of a second, which is most of what a short decoding would take.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import struct
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import NamedTuple

import llvmlite.binding
import numpy as np

from vqwave.decode.cpu import kernel_cache
from vqwave.errors import Note

ENTRY = "vqwave_entry"  # the name of the function in all object code
FUNCTION = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.POINTER(ctypes.c_char))
WORD = 1 << 64
SCALARS: dict[type, tuple[str, Callable]] = {
    bool: ("b", int),
    int: ("i", lambda number: number % WORD),
    np.int64: ("i", lambda number: int(number) % WORD),
    np.uint64: ("u", int),
    float: ("d", float),
    np.float64: ("d", float),
}
"""Types of numbers: a letter for each kind, and what a word of 64 bits is made from."""


class Native(NamedTuple):
    """A kernel in memory, for arguments of one kind."""

    function: Callable[[ctypes.Array], int]
    layout: struct.Struct  # of the words, that of the result before those of the arguments
    block: type[ctypes.Array]
    engine: llvmlite.binding.ExecutionEngine  # which holds the code

    def __call__(self, words: Sequence[float]) -> int:
        packed = bytearray(self.layout.pack(0, *words))
        if self.function(self.block.from_buffer(packed)):
            raise RuntimeError("a compiled kernel raised an error, expected that none does")
        return int.from_bytes(packed[:8], sys.byteorder, signed=True)


class NotKeptError(Exception):
    """A kernel is not kept, and was not to be compiled."""


_kept_alone: ContextVar[bool] = ContextVar("kept_alone", default=False)


@contextmanager
def kept_alone() -> Iterator[None]:
    """Within, a kernel that would have to be compiled is a NotKeptError, in this thread."""
    token = _kept_alone.set(True)
    try:
        yield
    finally:
        _kept_alone.reset(token)


class Compiled:
    """A kernel of a module, which is imported only where it must be compiled.

    Called with numbers, contiguous arrays and (named) tuples of these; it returns a whole number, 0
    for nothing. The lock of the interpreter is released meanwhile.
    """

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name
        self._natives: dict[str, Native] = {}
        self._lock = threading.Lock()

    def __call__(self, *arguments: object) -> int:
        kinds, words = words_of(arguments)
        native = self._natives.get(kinds)
        if native is None:
            native = self._made(kinds, words, arguments)
        return native(words)

    def _made(self, kinds: str, words: Sequence[float], arguments: Sequence[object]) -> Native:
        with self._lock:
            if kinds not in self._natives:
                layout = "".join("d" if isinstance(word, float) else "Q" for word in words)
                self._natives[kinds] = _native(self._code(kinds, arguments), layout)
            return self._natives[kinds]

    def _code(self, kinds: str, arguments: Sequence[object]) -> bytes:
        """Kept code, or else compiled now by one of the processes that want it."""
        path = kernel_cache.place(_file(self.module), self.name, kinds)
        if path is not None and (code := kernel_cache.load(path)) is not None:
            return code
        if _kept_alone.get():
            raise NotKeptError(self.name)
        if path is None:
            return self._compile(arguments)[0]
        with kernel_cache.compiling(path):
            if (code := kernel_cache.load(path)) is not None:
                return code
            code, complete = self._compile(arguments)
            if complete:
                kernel_cache.store(path, code)
        return code

    def _compile(self, arguments: Sequence[object]) -> tuple[bytes, bool]:
        text = "compiling the decoder for this machine, once: some 20 seconds"
        warnings.warn(text, Note, stacklevel=2)
        from vqwave.decode.cpu import jit  # numba

        function = getattr(importlib.import_module(self.module), self.name)
        return jit.object_code(function, arguments, ENTRY)


def words_of(arguments: Sequence[object]) -> tuple[str, list[float]]:
    """The kinds of arguments, and the words of 64 bits that a kernel is given: a number is one
    word, an array its address and its shape.

    >>> words_of((True, 2.5, np.zeros((3, 4), np.float32)))[0]
    'bd[<f42]'
    """
    kinds: list[str] = []
    words: list[float] = []
    for argument in arguments:
        _add_words(argument, kinds, words)
    return "".join(kinds), words


def _add_words(value: object, kinds: list[str], words: list[float]) -> None:
    if (scalar := SCALARS.get(type(value))) is not None:
        kinds.append(scalar[0])
        words.append(scalar[1](value))
    elif isinstance(value, np.ndarray):
        if not value.flags.c_contiguous:
            raise ValueError(
                f"strides {value.strides} of {value.shape}, expected a contiguous array"
            )
        kinds.append(f"[{value.dtype.str}{value.ndim}]")
        words.append(value.ctypes.data)
        words.extend(value.shape)
    elif isinstance(value, tuple):
        kinds.append("(")
        for each in value:
            _add_words(each, kinds, words)
        kinds.append(")")
    else:
        raise TypeError(f"{type(value).__name__}, expected a number, an array or a tuple")


@cache
def _file(module: str) -> Path:
    """A module's file, found without importing the module."""
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin)


@cache
def _target() -> llvmlite.binding.Target:
    llvmlite.binding.initialize_native_target()
    llvmlite.binding.initialize_native_asmprinter()
    return llvmlite.binding.Target.from_default_triple()


def _native(code: bytes, layout: str) -> Native:
    binding, machine = llvmlite.binding, _target().create_target_machine()
    engine = binding.create_mcjit_compiler(binding.parse_assembly(""), machine)
    engine.add_object_file(binding.ObjectFileRef.from_data(code))
    engine.finalize_object()
    words = struct.Struct(f"Q{layout}")
    function = FUNCTION(engine.get_function_address(ENTRY))
    return Native(function, words, ctypes.c_char * words.size, engine)
