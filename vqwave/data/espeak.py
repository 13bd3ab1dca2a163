"""eSpeak NG in a process of its own: JSON requests on standard input, wav files and JSON answers on
standard output.

Run as a script, by path; it imports nothing of this package, so that it starts fast. eSpeak NG
keeps global state and its breath noise is random: a fresh process with the same requests gives the
same samples, bit for bit.

    {"path", "text", "voice", "rate", "pitch", "seed"}  ->  {"path", "phones": [[first sample,
    label], ...]}
"""

from __future__ import annotations

import ctypes
import json
import sys
import wave

import numpy as np
from numpy.typing import NDArray

RATE, VOLUME, PITCH = 1, 2, 3  # espeak_PARAMETER
LOUDNESS = 70  # of 200, 100 is the engine's own: some voices would clip there
SYNCHRONOUS = 2  # espeak_AUDIO_OUTPUT
PHONEME_EVENTS, NO_EXIT = 1, 0x8000  # options of espeak_Initialize
UTF8 = 1
LIST_END, PHONEME = 0, 7  # espeak_EVENT_TYPE
STRESS = "',%="


class _Id(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    )


_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


class Engine:
    """The one engine of this process; `sample_rate` is its own (22050 Hz)."""

    def __init__(self) -> None:
        import espeakng_loader  # an extra: the rest of this file is of use without it

        self.engine = ctypes.CDLL(espeakng_loader.get_library_path())
        data = espeakng_loader.get_data_path().encode()
        self.sample_rate: int = self.engine.espeak_Initialize(
            SYNCHRONOUS, 0, data, NO_EXIT | PHONEME_EVENTS
        )
        if self.sample_rate <= 0:
            raise OSError("espeak_Initialize failed")
        self._pieces: list[NDArray[np.int16]] = []
        self._phones: list[tuple[int, str]] = []
        self._callback = _Callback(self._receive)  # the library keeps no reference
        self.engine.espeak_SetSynthCallback(self._callback)

    def _receive(
        self, samples: ctypes._Pointer[ctypes.c_short], count: int, events: ctypes._Pointer[_Event]
    ) -> int:
        if samples and count > 0:
            self._pieces.append(np.ctypeslib.as_array(samples, shape=(count,)).copy())
        k = 0
        while events[k].type != LIST_END:
            if events[k].type == PHONEME:
                self._phones.append(
                    (events[k].sample, events[k].id.string.decode("utf-8", "replace"))
                )
            k += 1
        return 0

    def synthesize(
        self,
        text: str,
        voice: str,
        rate: int,
        pitch: int,
        seed: int,
    ) -> tuple[NDArray[np.int16], list[tuple[int, str]]]:
        """Samples (T,) and (first sample, phone); rate in words a minute, pitch 0 to 99."""
        if self.engine.espeak_SetVoiceByName(voice.encode()) != 0:
            raise OSError(f"no voice {voice!r}")
        for parameter, value in ((RATE, rate), (PITCH, pitch), (VOLUME, LOUDNESS)):
            self.engine.espeak_SetParameter(parameter, value, 0)
        self.engine.espeak_ng_SetRandSeed(ctypes.c_long(seed))
        self._pieces, self._phones = [], []
        line = text.encode() + b"\0"
        if (
            self.engine.espeak_Synth(line, ctypes.c_size_t(len(line)), 0, 1, 0, UTF8, None, None)
            != 0
        ):
            raise OSError(f"espeak_Synth failed on {text!r}")
        samples = np.concatenate([*self._pieces, np.zeros(0, np.int16)])
        return samples, tidy_phones(self._phones, len(samples))


def tidy_phones(phones: list[tuple[int, str]], frames: int) -> list[tuple[int, str]]:
    """Without stress marks; all pauses are "_", neighbouring ones are one, and none begins after
    the last sample.
    """
    tidy: list[tuple[int, str]] = []
    for start, label in phones:
        name = "_" if label.startswith("_") else label.lstrip(STRESS)
        if name and start < frames and not (name == "_" and tidy and tidy[-1][1] == "_"):
            tidy.append((start, name))
    return [(0, "_"), *tidy] if tidy and tidy[0][0] > 0 and tidy[0][1] != "_" else tidy


def main() -> None:
    """Answer each request until the input ends."""
    engine = Engine()
    for line in sys.stdin:
        request = json.loads(line)
        path = request.pop("path")
        samples, phones = engine.synthesize(**request)
        with wave.open(path, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(engine.sample_rate)
            file.writeframes(samples.astype("<i2").tobytes())
        sys.stdout.write(json.dumps({"path": path, "phones": phones}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
