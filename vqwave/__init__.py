"""vqwave: speech and audio in discrete codes. WaveNet, VQ-VAE, Parallel WaveNet."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# public name -> the module that defines it; imported when first asked for, so that
# `import vqwave` is quick
_PLACES = {
    "CodeSequence": "vqwave.codes",
    "Corpus": "vqwave.data",
    "Sampling": "vqwave.decode.sampling",
    "SpeechModel": "vqwave.inference.speech_model",
    "UserInputError": "vqwave.errors",
    "load": "vqwave.inference.speech_model",
    "load_codes": "vqwave.codes",
    "prepare": "vqwave.data",
    "read": "vqwave.audio",
    "save_codes": "vqwave.codes",
    "write": "vqwave.audio",
}
__all__ = [
    "CodeSequence",
    "Corpus",
    "Sampling",
    "SpeechModel",
    "UserInputError",
    "load",
    "load_codes",
    "prepare",
    "read",
    "save_codes",
    "write",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - any public name
    if name not in _PLACES:
        raise AttributeError(f"module 'vqwave' has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)
