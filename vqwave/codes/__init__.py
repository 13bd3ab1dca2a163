"""Speech as codes: in memory, in `.vqw` files, and through pipes."""

from __future__ import annotations

from vqwave.codes.coded import Coded, Coder, Header, fingerprint, pack, unpack
from vqwave.codes.files import load_codes, load_header, save_codes
from vqwave.codes.layout import MAGIC, VERSION_1, from_bytes, seal, to_bytes
from vqwave.codes.pipe import CodeReader, CodeWriter

__all__ = [
    "MAGIC",
    "VERSION_1",
    "CodeReader",
    "CodeWriter",
    "Coded",
    "Coder",
    "Header",
    "fingerprint",
    "from_bytes",
    "load_codes",
    "load_header",
    "pack",
    "save_codes",
    "seal",
    "to_bytes",
    "unpack",
]
