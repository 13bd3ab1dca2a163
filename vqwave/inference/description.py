"""What a model, a `.vqw` file or a prepared corpus is, in a few rows."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from pathlib import Path

from vqwave.codes import Header, PitchFormat, load_header
from vqwave.data import Corpus
from vqwave.data.corpus import is_corpus
from vqwave.inference.model_folder import parameter_counts
from vqwave.inference.speech_model import SpeechModel
from vqwave.models import VQVAE
from vqwave.models.melody import Melody


def describe(what: str) -> dict[str, str]:
    """A run or model folder, a shipped model, a `.vqw` file or a corpus folder -> its rows by name.

    Raises UserInputError.
    """
    path = Path(what)
    if path.suffix == ".vqw":
        return _of_codes(path)
    return _of_corpus(path) if is_corpus(path) else _of_model(what)


def _of_codes(path: Path) -> dict[str, str]:
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


def _of_corpus(path: Path) -> dict[str, str]:
    corpus = Corpus.open(path)
    return {
        "corpus": f"{corpus.name} in {path}",
        "sample rate": f"{corpus.sample_rate:,} Hz",
        "speech": f"{corpus.seconds() / 60:.1f} minutes in {len(corpus.utterances):,} utterances",
        "splits": ", ".join(f"{name} {count:,}" for name, count in corpus.splits.items()),
        **{name: _shortened(values) for name, values in corpus.labels.items()},
    }


def _of_model(name: str) -> dict[str, str]:
    speech = SpeechModel.load(name)
    card, about = speech.card, speech.card.about
    codec, melody = speech.kind.codec, speech.kind.melody
    decoder = "" if codec is None else f", decoder {speech.kind.decoder_spec().kind}"
    decoder += "" if about.get("speaks", True) else " (not trained: codes alone)"
    rows = {
        "model": f"{card.kind} in {name}{decoder}",
        "trained": (
            f"{about.get('steps', 0):,} steps in {about.get('seconds', 0) / 60:.1f} min on"
            f" {about.get('corpus', '?')}, seed {about.get('seed', '?')}"
        ),
        "sample rate": f"{card.sample_rate:,} Hz",
        "parameters": ", ".join(
            f"{part} {count:,}" for part, count in parameter_counts(speech.model).items()
        ),
        "receptive field": (
            f"{speech.model.receptive_field:,} samples,"
            f" {1000 * speech.model.receptive_field / card.sample_rate:.1f} ms"
        ),
    }
    if "temperature" in about:
        rows["temperature"] = str(speech.temperatures)
    if codec is not None:
        bits = about.get("bit_rate") or codec.bit_rate(card.sample_rate)
        rate = f"{card.sample_rate / codec.hop:g} frames a second, {bits:g} bit/s"
        shares = _shares(codec, card.sample_rate)
        rows["codes"] = f"{rate}{shares}, codec {speech.fingerprint}"
    if speech.prior is not None:
        labels = ", ".join(speech.prior.labels) or "no labels"
        rows["prior"] = f"{speech.prior.fingerprint}, conditioned on {labels}"
        if speech.prior.network.order.pitch is not None:
            rows["prior"] += "; models codes and pitch codes jointly"
    untrained = about.get("unheard", {})
    if melody is not None:
        pitch, pitch_rate = melody.codec, card.sample_rate / melody.codec.hop
        rows["pitch codes"] = f"{pitch.books} x {pitch.size}, {pitch_rate:g} a second"
        names = card.labels.get("speaker", ())
        rows["F0 of voices"] = _ranges(melody, names, set(untrained.get("speaker", ())))
    for label, values in card.labels.items():
        missing = untrained.get(label, ())
        rows[label] = _shortened([value for value in values if value not in missing])
        if missing:
            rows[f"{label}, untrained"] = f"{_shortened(missing)} (no training recordings)"
    return rows


def _shares(codec: VQVAE, sample_rate: int) -> str:
    """The shares of codes and of pitch codes in a bit rate."""
    if codec.melody is None:
        return ""
    pitch = sample_rate * codec.melody.codec.bits_per_frame / codec.melody.codec.hop
    return f" ({codec.bit_rate(sample_rate) - pitch:.0f} and {pitch:.0f} of pitch)"


def _ranges(melody: Melody, speakers: Sequence[str], untrained: Collection[str]) -> str:
    """F0 of each voice that the decoder was trained on, from a deviation below the mean to one
    above.
    """
    ranges = []
    for name, (mean, deviation) in zip(speakers, melody.voices.tolist(), strict=True):
        if name in untrained:
            continue
        low, high = (100 * math.exp(mean + sign * deviation) for sign in (-1, 1))
        ranges.append(f"{name} {low:.0f} to {high:.0f} Hz")
    return _shortened(ranges)


def _shortened(values: Sequence[str], most: int = 100) -> str:
    return f"{len(values)}: " + ", ".join(values[:most]) + (", ..." if len(values) > most else "")
