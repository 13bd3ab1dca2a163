"""Speech that no recording was given for: generate, speak, score."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from vqwave.cli.arguments import (
    Add,
    Progress,
    audio_out,
    labels_of,
    named,
    note_rate,
    pairs,
    sampling_of,
    say_written,
    shift_of,
    told,
    vectors_of,
    voice,
)
from vqwave.cli.code import speak_codes
from vqwave.errors import UserInputError

if TYPE_CHECKING:
    from vqwave.codes import CodeSequence
    from vqwave.inference.speech_model import SpeechModel


def add(add: Add) -> None:
    generate = add("generate", generate_file, "Babble, in the voice of a speaker.")
    generate.add_argument(
        "model", help="run folder or model folder of a WaveNet, or of a prior over codes"
    )
    generate.add_argument(
        "--seconds", type=float, help="length (default: 3 for a WaveNet; a prior ends by itself)"
    )
    generate.add_argument(
        "--code-temperature",
        type=float,
        default=1.0,
        help="of a prior's codes (default %(default)s)",
    )
    generate.add_argument(
        "--code-top-p",
        type=float,
        default=1.0,
        help="draw from a prior's likeliest codes of this mass",
    )
    generate.add_argument("--prime", type=Path, metavar="IN.wav", help="go on from this recording")
    voice(generate)

    speak = add("speak", speak_file, "Speech from given frames: predicted mels, or aligned phones.")
    speak.add_argument(
        "model", help="run folder, model folder or name of a WaveNet with such features"
    )
    speak.add_argument(
        "--frames",
        action="append",
        required=True,
        default=[],
        metavar="NAME=FILE",
        help="mel=x.npy (C, F); phones=x.json",
    )
    speak.add_argument(
        "--seconds",
        type=float,
        help="length (default: that of the frames; needed for phones alone)",
    )
    voice(speak, melody=False)

    score = add("score", score_file, "Bits a sample that a recording costs under a model.")
    score.add_argument("model", help="run folder, model folder or name")
    score.add_argument("input", type=Path, help="audio file")
    told(score)


def generate_file(arguments: argparse.Namespace) -> None:
    from vqwave import audio
    from vqwave.inference.speech_model import SpeechModel

    model, out = SpeechModel.load(arguments.model), audio_out(arguments.out)
    labels, _ = labels_of(arguments, model), shift_of(arguments, model)
    if model.prior is not None and arguments.prime is None:
        speak_codes(arguments, model, _drawn_codes(arguments, model, labels), out, labels)
        return
    seconds = 3.0 if arguments.seconds is None else arguments.seconds
    prime, rate = (None, None) if arguments.prime is None else audio.read(arguments.prime)
    with Progress(
        round(seconds * model.sample_rate), model.sample_rate, arguments.quiet
    ) as progress:
        wave = model.generate(
            seconds,
            labels=labels,
            prompt=prime,
            prompt_rate=rate,
            embeddings=vectors_of(arguments),
            shift_semitones=arguments.shift_semitones,
            sampling=sampling_of(arguments),
            progress=progress,
        )[0]
    audio.write(out, wave, model.sample_rate)
    say_written(out, wave, model.sample_rate)


def _drawn_codes(
    arguments: argparse.Namespace, model: SpeechModel, labels: dict[str, str]
) -> CodeSequence:
    """Codes from the model's prior."""
    model.given.attributes(labels)
    return model.prior.draw(
        arguments.seconds,
        labels=labels,
        seed=arguments.seed,
        temperature=arguments.code_temperature,
        top_p=arguments.code_top_p,
    )[0]


def speak_file(arguments: argparse.Namespace) -> None:
    from vqwave import audio
    from vqwave.inference.speech_model import SpeechModel

    model, out = SpeechModel.load(arguments.model), audio_out(arguments.out)
    frames = {
        name: _frames(Path(path)) for name, path in pairs("--frames", arguments.frames).items()
    }
    wave = model.synthesize(
        frames,
        arguments.seconds,
        labels=labels_of(arguments, model),
        embeddings=vectors_of(arguments),
        sampling=sampling_of(arguments),
    )
    audio.write(out, wave, model.sample_rate)
    say_written(out, wave, model.sample_rate)


def _frames(path: Path) -> object:
    """An array (.npy), or phones: [[first sample, label], ...] (.json)."""
    from vqwave.data.corpus import read_array

    if path.suffix == ".npy":
        return read_array(path)
    try:
        phones = json.loads(path.read_text(encoding="utf-8"))
        return [[int(start), str(label)] for start, label in phones]
    except (OSError, ValueError, TypeError) as error:
        raise UserInputError(f"{path}: {error}; expected [[first sample, label], ...]") from None


def score_file(arguments: argparse.Namespace) -> None:
    from vqwave import audio
    from vqwave.inference.speech_model import SpeechModel

    model = SpeechModel.load(arguments.model)
    wave, rate = audio.read(arguments.input)
    note_rate(arguments, rate, model.sample_rate)
    labels, vectors = labels_of(arguments, model), vectors_of(arguments)
    score = named(
        arguments.input, lambda: model.log_likelihood(wave, rate, labels=labels, embeddings=vectors)
    )
    print(f"{arguments.input}: {score.bits:.4f} {score.unit}, {score.samples:,} samples")
