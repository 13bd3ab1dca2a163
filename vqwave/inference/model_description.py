"""What a trained model is, in a few rows; stored next to it, where `vqwave info` finds them."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from pathlib import Path

from vqwave.errors import UserInputError
from vqwave.inference.model_files import shortened, store_rows
from vqwave.inference.model_folder import ModelCard, parameter_counts
from vqwave.inference.speech_model import SpeechModel
from vqwave.models import VQVAE, Model
from vqwave.models.melody import Melody


def store_description(folder: Path, model: Model, card: ModelCard) -> None:
    """Store the rows of a model that was saved in `folder`; of one that makes speech, alone."""
    try:
        rows = rows_of(SpeechModel(model, card))
    except (UserInputError, ArithmeticError):  # an F0 that diverged, for one
        return
    store_rows(folder, rows)


def rows_of(speech: SpeechModel) -> dict[str, str]:
    """The rows of a model by name."""
    card, about = speech.card, speech.card.about
    codec, melody = speech.kind.codec, speech.kind.melody
    decoder = "" if codec is None else f", decoder {speech.kind.decoder_spec().kind}"
    decoder += "" if card.decodes else " (not trained: codes alone)"
    rows = {
        "model": f"{card.kind}{decoder}",
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
    if "postfilter" in about:
        rows["post-filter"] = f"{speech.postfilter:g}"
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
    if melody is not None:
        pitch, pitch_rate = melody.codec, card.sample_rate / melody.codec.hop
        rows["pitch codes"] = f"{pitch.books} x {pitch.size}, {pitch_rate:g} a second"
        names = card.labels.get("speaker", ())
        rows["F0 of voices"] = _ranges(melody, names, card.untrained("speaker"))
    for label in card.labels:
        rows[label] = shortened(card.trained(label))
        if missing := card.untrained(label):
            rows[f"{label}, untrained"] = f"{shortened(missing)} (no training recordings)"
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
    return shortened(ranges)
