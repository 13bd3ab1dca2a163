"""vqwave: speech and audio in discrete codes. WaveNet, VQ-VAE, Parallel WaveNet."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vqwave.audio import read, write
    from vqwave.codes import CodeSequence, load_codes, save_codes
    from vqwave.data import Corpus
    from vqwave.data.prepare import prepare
    from vqwave.decode.sampling import Sampling
    from vqwave.errors import UserInputError
    from vqwave.inference.speech_model import SpeechModel, load

__version__ = "0.1.0"

# Looks of a waiting thread of torch's before it sleeps, which libgomp reads as torch is loaded. By
# its default of a millisecond's worth, two threads on cores that others use too take a hundred
# times as long as one; by this, no longer on idle cores, and some two times as long on busy ones.
if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
    os.environ["GOMP_SPINCOUNT"] = "1000"

# public name -> the module that defines it; imported on first use, so that `import vqwave` is quick
_MODULES = {
    "CodeSequence": "vqwave.codes",
    "Corpus": "vqwave.data",
    "Sampling": "vqwave.decode.sampling",
    "SpeechModel": "vqwave.inference.speech_model",
    "UserInputError": "vqwave.errors",
    "load": "vqwave.inference.speech_model",
    "load_codes": "vqwave.codes",
    "prepare": "vqwave.data.prepare",
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
    if name not in _MODULES:
        raise AttributeError(f"module 'vqwave' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
