"""Speech as codes: in memory, in `.vqw` files, and through pipes."""

from __future__ import annotations

from vqwave.codes.file_format import MAGIC, VERSION_1, VERSION_3, from_bytes, seal, to_bytes
from vqwave.codes.files import load_codes, load_header, save_codes
from vqwave.codes.packing import pack, pack_digits, unpack, unpack_digits
from vqwave.codes.pitch import CodeBlock, PitchCodes, PitchFormat, pitch_due
from vqwave.codes.stream_format import CodeReader, CodeWriter
from vqwave.codes.types import Coder, CodeSequence, Header, fingerprint, join

__all__ = [
    "MAGIC",
    "VERSION_1",
    "VERSION_3",
    "CodeBlock",
    "CodeReader",
    "CodeSequence",
    "CodeWriter",
    "Coder",
    "Header",
    "PitchCodes",
    "PitchFormat",
    "fingerprint",
    "from_bytes",
    "join",
    "load_codes",
    "load_header",
    "pack",
    "pack_digits",
    "pitch_due",
    "save_codes",
    "seal",
    "to_bytes",
    "unpack",
    "unpack_digits",
]
