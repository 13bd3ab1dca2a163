"""What a model, a `.vqw` file or a prepared corpus is, in a few rows.

torch, whose import takes a second and more, is imported only for a model whose rows are not stored.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from vqwave.errors import UserInputError
from vqwave.inference.model_files import find_model, shortened, stored_rows

if TYPE_CHECKING:
    from vqwave.codes import Header, PitchFormat


def describe(what: str) -> dict[str, str]:
    """A run or model folder, a shipped model, a `.vqw` file or a corpus folder -> its rows by name.

    Raises UserInputError.
    """
    path = Path(what)
    if path.suffix == ".vqw":
        return _of_codes(path)
    try:
        folder = find_model(what)
    except UserInputError:
        if path.is_dir() and (rows := _of_corpus(path)):
            return rows
        raise
    return _of_model(what, folder)


def _of_model(name: str, folder: Path) -> dict[str, str]:
    rows = stored_rows(folder)
    if rows is None:
        from vqwave.inference.model_description import rows_of
        from vqwave.inference.speech_model import SpeechModel

        rows = rows_of(SpeechModel.load(name))
    return {**rows, "model": f"{name}: {rows['model']}"}


def _of_codes(path: Path) -> dict[str, str]:
    from vqwave.codes import load_header

    header = load_header(path)
    rows = {
        "file": str(path),
        "length": (
            f"{header.seconds:.3f} s, {header.samples:,} samples at {header.sample_rate:,} Hz"
        ),
        "codes": (
            f"{header.books} x {header.frames} frames of {header.size} codes, hop {header.hop}"
        ),
        "bit rate": f"{header.bit_rate:.0f} bit/s ({path.stat().st_size:,} bytes in all)",
        "speaker": header.speaker or "not noted",
        "codec": header.fingerprint,
    }
    if header.pitch is not None:
        rows["pitch"] = _of_pitch(header, header.pitch)
    if header.prior is not None:
        rows["prior"] = (
            f"{header.prior}, needed to decode;"
            f" {header.packed_bits / max(header.seconds, 1e-9):.0f} bit/s without"
        )
    return rows


def _of_pitch(header: Header, pitch: PitchFormat) -> str:
    bits = header.pitch_bits / max(header.seconds, 1e-9)
    count = -(-header.frames // header.ratio)
    codes = f"{pitch.books} x {count} of {pitch.size} codes, hop {pitch.hop}"
    middle, spread = 100 * math.exp(pitch.mean), 12 * pitch.deviation / math.log(2)
    voice = f"F0 about {middle:.0f} Hz, {spread:.1f} semitones"
    return f"{codes}; {voice}, {bits:.0f} bit/s" + (" without the prior" if header.prior else "")


def _of_corpus(path: Path) -> dict[str, str] | None:
    from vqwave.data import Corpus
    from vqwave.data.corpus import is_corpus

    if not is_corpus(path):
        return None
    corpus = Corpus.open(path)
    return {
        "corpus": f"{corpus.name} in {path}",
        "sample rate": f"{corpus.sample_rate:,} Hz",
        "speech": f"{corpus.seconds() / 60:.1f} minutes in {len(corpus.utterances):,} utterances",
        "splits": ", ".join(f"{name} {count:,}" for name, count in corpus.splits.items()),
        **{name: shortened(values) for name, values in corpus.labels.items()},
    }
