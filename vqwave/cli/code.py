"""Speech to codes and codes to speech: encode, decode, convert."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from vqwave.cli.arguments import (
    Add,
    Progress,
    audio_out,
    labels_of,
    named,
    note_rate,
    sampling_of,
    say_written,
    vectors_of,
    voice,
    writable,
)
from vqwave.errors import BadInput

if TYPE_CHECKING:
    from vqwave.codec import Codec
    from vqwave.codes import Coded
    from vqwave.prior import CodePrior


def add(add: Add) -> None:
    encode = add("encode", encode_file, "Speech -> a .vqw file of codes.")
    encode.add_argument("model", help="run folder, model folder or name")
    encode.add_argument("input", type=Path, help="audio file")
    encode.add_argument("--out", type=Path, required=True, help=".vqw file")
    encode.add_argument("--speaker", help="who speaks, noted in the file")
    encode.add_argument("--prior", metavar="RUN", help="entropy-code the codes with this prior; decoding needs it again")

    decode = add("decode", decode_file, "A .vqw file -> speech.")
    decode.add_argument("model", help="run folder, model folder or name: a VQ-VAE or its student")
    decode.add_argument("input", type=Path, help=".vqw file")
    decode.add_argument("--prior", metavar="RUN", help="the prior that the codes are entropy-coded with; default: MODEL's own")
    voice(decode)

    convert = add("convert", convert_file, "Speech -> the same words in another voice.")
    convert.add_argument("model", help="run folder, model folder or name")
    convert.add_argument("input", type=Path, help="audio file")
    voice(convert, required=True)


def encode_file(arguments: argparse.Namespace) -> None:
    from vqwave import audio, codes
    from vqwave.codec import Codec

    model, out = Codec.load(arguments.model), writable(arguments.out)
    wave, rate = audio.read(arguments.input)
    coded = named(arguments.input, lambda: model.encode(wave, rate, arguments.speaker))
    note_rate(arguments, rate, model.sample_rate)
    codes.save_codes(coded, out, None if arguments.prior is None else _prior(arguments.prior))
    stored = codes.load_header(out)
    packed = "" if stored.prior is None else f", {coded.bit_rate:.0f} without the prior"
    print(f"{out}: {coded.seconds:.2f} s in {coded.codes.shape[1]} frames, {stored.bit_rate:.0f} bit/s{packed}")


def _prior(name: str) -> CodePrior:
    from vqwave.codec import Codec

    codec = Codec.load(name)
    if codec.prior is None:
        raise BadInput(f"--prior {name}: is a {codec.card.kind}, expected a prior over codes")
    return codec.prior


def decode_file(arguments: argparse.Namespace) -> None:
    from vqwave import codes
    from vqwave.codec import Codec

    model, out = Codec.load(arguments.model), audio_out(arguments.out)
    coded = codes.load_codes(arguments.input, model.prior if arguments.prior is None else _prior(arguments.prior))
    speak_codes(arguments, model, coded, out)


def convert_file(arguments: argparse.Namespace) -> None:
    from vqwave import audio
    from vqwave.codec import Codec

    model, out = Codec.load(arguments.model), audio_out(arguments.out)
    model.told(labels_of(arguments))
    wave, rate = audio.read(arguments.input)
    coded = named(arguments.input, lambda: model.encode(wave, rate))
    note_rate(arguments, rate, model.sample_rate)
    speak_codes(arguments, model, coded, out)


def speak_codes(arguments: argparse.Namespace, model: Codec, coded: Coded, out: Path) -> None:
    """Decode codes as asked, and write what was said."""
    from vqwave import audio

    with Progress(coded.samples, model.sample_rate, arguments.quiet) as progress:
        wave = model.decode(
            coded,
            arguments.speaker,
            labels=labels_of(arguments),
            vectors=vectors_of(arguments),
            sampling=sampling_of(arguments),
            progress=progress,
        )
    audio.write(out, wave, model.sample_rate)
    say_written(out, wave, model.sample_rate)
