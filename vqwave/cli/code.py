"""Speech to codes and codes to speech: encode, decode, convert; of a file, of a folder, or in a
pipe.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from vqwave.cli.arguments import (
    Add,
    Progress,
    audio_out,
    check_left_out,
    device_option,
    embeddings_of,
    finite,
    labels_of,
    like_of,
    model_of,
    naming,
    note_rate,
    print_written,
    sampling_of,
    shift_of,
    synthesis_options,
    writable,
)
from vqwave.cli.folder import Account, Work, share
from vqwave.cli.pipe import CHUNK_SECONDS, DASH, decode_pipe, encode_pipe, target
from vqwave.errors import UserInputError, under
from vqwave.terminal import output

if TYPE_CHECKING:
    import torch

    from vqwave.codes import CodeSequence
    from vqwave.decode.batching import DecodeRequest
    from vqwave.inference.code_prior import CodePrior
    from vqwave.inference.reference_voice import ReferenceVoice
    from vqwave.inference.speech_model import SpeechModel


def add(add: Add) -> None:
    encode = add("encode", encode_file, "Speech -> .vqw files of codes.")
    encode.add_argument("model", help="run folder, model folder or name")
    encode.add_argument(
        "input", type=Path, help="audio file, folder of them, or - for a WAV from standard input"
    )
    encode.add_argument(
        "--out",
        type=Path,
        help=".vqw file, folder, or - for standard output (the default where the input is -)",
    )
    encode.add_argument("--speaker", help="the recording's speaker, noted in the file")
    encode.add_argument(
        "--prior",
        metavar="RUN",
        help="entropy-code the codes with this prior; decoding needs it again",
    )
    encode.add_argument(
        "--input-rms-db",
        type=finite,
        metavar="DB",
        help=(
            "of a pipe: its RMS level in dBFS, where it has no DC (default: both of its first"
            " second)"
        ),
    )
    encode.add_argument(
        "--pitch-range",
        metavar="HZ,SEMITONES",
        help=(
            "of a pipe, for a model with pitch codes: mean and deviation of the voice's F0 "
            "(default: those of --speaker, if the model has that; else of the first voiced second)"
        ),
    )
    encode.add_argument(
        "--chunk-seconds",
        type=finite,
        help=f"of a pipe: seconds encoded at once (default {CHUNK_SECONDS:g})",
    )
    device_option(encode)
    overwrite_option(encode)

    decode = add("decode", decode_file, ".vqw files -> speech.")
    decode.add_argument("model", help="run folder, model folder or name: a VQ-VAE or its student")
    decode.add_argument(
        "input",
        type=Path,
        help=".vqw file, folder of them, or - for standard input (with --stream)",
    )
    decode.add_argument(
        "--prior",
        metavar="RUN",
        help="the prior that the codes are entropy-coded with; default: MODEL's own",
    )
    decode.add_argument(
        "--stream", action="store_true", help="write as the codes come: from a pipe into a pipe"
    )
    decode.add_argument(
        "--raw", action="store_true", help="of a stream: 16-bit samples without a WAV header"
    )
    out = "audio file, folder, or - for standard output (the default of a stream)"
    synthesis_options(decode, out=out)
    overwrite_option(decode)

    convert = add("convert", convert_file, "Speech -> the same words in another voice.")
    convert.add_argument("model", help="run folder, model folder or name")
    convert.add_argument("input", type=Path, help="audio file, or folder of them")
    synthesis_options(convert, out="audio file, or folder")
    overwrite_option(convert)


def overwrite_option(command: argparse.ArgumentParser) -> None:
    """Whether files that are there already are made again."""
    command.add_argument(
        "--overwrite", action="store_true", help="of a folder: make again what is there already"
    )


def encode_file(arguments: argparse.Namespace) -> None:
    if arguments.out is None and arguments.input != DASH:
        raise UserInputError("--out: not given, expected a .vqw file, a folder or -")
    if arguments.input != DASH:
        of_pipes = ("--pitch-range", "--input-rms-db", "--chunk-seconds")
        check_left_out(arguments, "is for a pipe, expected - to encode", *of_pipes)

    model = model_of(arguments, "a sound file")
    from vqwave import audio, codes

    if arguments.input == DASH:
        arguments.out = arguments.out or DASH
        if arguments.out != DASH:
            _codes_out(arguments.out)
        encode_pipe(arguments, model)
        return
    prior = None if arguments.prior is None else _prior(arguments.prior, arguments.device)
    if arguments.input.is_dir():
        encode_folder(arguments, model, prior)
        return
    out = DASH if arguments.out == DASH else _codes_out(arguments.out, arguments.input)
    coded = naming(arguments.input, lambda: model.encode_file(arguments.input, arguments.speaker))
    note_rate(arguments, audio.rate_of(arguments.input), model.sample_rate)
    if out == DASH:
        with target(out) as file:
            file.write(codes.to_bytes(coded, prior))
        return
    with under(f"--prior {arguments.prior}") if prior is not None else nullcontext():
        codes.save_codes(out, coded, prior)
    stored = codes.load_header(out)
    packed = "" if stored.prior is None else f", {coded.bit_rate:.0f} without the prior"
    output(
        f"{out}: {coded.seconds:.2f} s in {coded.codes.shape[1]} frames, {stored.bit_rate:.0f}"
        f" bit/s{packed}"
    )


def _codes_out(path: Path, *sources: Path) -> Path:
    """As `audio_out`, for codes."""
    if writable(path, *sources).suffix.lower() != ".vqw":
        raise UserInputError(f"{path}: expected a file name that ends in .vqw")
    return path


def encode_folder(
    arguments: argparse.Namespace, model: SpeechModel, prior: CodePrior | None
) -> None:
    from vqwave import codes
    from vqwave.audio.sound_files import SUFFIXES

    works = share(arguments, SUFFIXES, ".vqw")
    account = Account(arguments, works, len(works), "files")

    def one(work: Work) -> None:
        coded = model.encode_file(work.source, arguments.speaker)
        work.target.parent.mkdir(parents=True, exist_ok=True)
        codes.save_codes(work.target, coded, prior)

    for work in account.over(works):
        account.attempt(work, partial(one, work))
    account.close()


def _prior(name: str, device: str) -> CodePrior:
    from vqwave.inference.speech_model import SpeechModel

    codec = SpeechModel.load(name, device)
    if codec.prior is None:
        raise UserInputError(f"--prior {name}: is a {codec.card.kind}, expected a prior over codes")
    return codec.prior


def _stream_out(arguments: argparse.Namespace) -> Path:
    """As `audio_out`, of a stream, which is WAV, or samples without a header."""
    out = arguments.out
    headed = out.suffix.lower() in (".wav", ".flac")
    if arguments.raw and headed:
        raise UserInputError(f"{out}: raw samples have no header, expected another ending")
    if not arguments.raw and out.suffix.lower() != ".wav":
        raise UserInputError(f"{out}: a stream is WAV, expected a file name that ends in .wav")
    return writable(out, arguments.input, arguments.like)


def decode_file(arguments: argparse.Namespace) -> None:
    arguments.stream = arguments.stream or arguments.input == DASH
    if arguments.raw and not arguments.stream:
        raise UserInputError("--raw: is for a stream, expected --stream, too")
    if arguments.out == DASH and not arguments.stream:
        raise UserInputError("--out -: is for a stream, expected --stream, too")
    if arguments.out is None and not arguments.stream:
        raise UserInputError("--out: not given, expected an audio file or a folder (or --stream)")

    from vqwave import codes

    model = model_of(arguments, "a .vqw file")
    prior = model.prior if arguments.prior is None else _prior(arguments.prior, arguments.device)
    shift_of(arguments, model)
    if arguments.stream:
        arguments.out = arguments.out or DASH
        if arguments.out != DASH:
            _stream_out(arguments)
        decode_pipe(arguments, model, prior)
        return
    labels = labels_of(arguments, model)
    if arguments.speaker or not model.card.decodes:
        model.given.attributes(labels, embeddings_of(arguments))
    if arguments.input.is_dir():
        works = _longest_first(share(arguments, {".vqw"}, ".wav"))
        decode_folder(arguments, model, works, lambda path: codes.load_codes(path, prior), labels)
    else:
        out = audio_out(arguments.out, arguments.input, arguments.like)
        coded, like = codes.load_codes(arguments.input, prior), like_of(arguments, model)
        naming(arguments.input, partial(model.check, coded))
        write_decoded(arguments, model, coded, out, labels, like=like)


def _longest_first(works: list[Work]) -> list[tuple[Work, int]]:
    """With their samples; what cannot be read comes last, to be named when its turn comes."""
    from vqwave.codes import load_header

    def samples(work: Work) -> int:
        try:
            return load_header(work.source).samples
        except Exception:
            return 0

    return sorted(((work, samples(work)) for work in works), key=lambda pair: -pair[1])


def decode_folder(
    arguments: argparse.Namespace,
    model: SpeechModel,
    works: list[tuple[Work, int]],
    load: Callable[[Path], CodeSequence],
    labels: dict[str, str],
    *,
    recordings: bool = False,
) -> None:
    """Several files at once: each that ends is followed by the next. recordings: they are no
    codes, and are converted.
    """
    from vqwave import audio

    total = sum(samples for _, samples in works)
    account = Account(
        arguments, [work for work, _ in works], total / model.sample_rate, "s of audio"
    )
    embeddings, sampling = embeddings_of(arguments), sampling_of(arguments)
    speaker, shift = arguments.speaker, arguments.shift_semitones
    like = like_of(arguments, model)

    def request(work: Work) -> DecodeRequest:
        coded, voice = load(work.source), like
        if like is not None and recordings:
            voice = model.voice_like(like, work.source)
        return model.task(coded, speaker, labels, embeddings, shift, like=voice)

    left: dict[Hashable, Work] = {work.source: work for work, _ in works}

    def requests() -> Iterator[tuple[Path, DecodeRequest]]:
        for work, _ in works:
            if (one := account.attempt(work, partial(request, work))) is not None:
                yield work.source, one
            else:
                del left[work.source]

    def decoded(
        requests: Iterable[tuple[Path, DecodeRequest]],
    ) -> Iterator[tuple[Hashable, torch.Tensor]]:
        return model.decode_each(
            requests, sampling, lambda samples: account.bar.update(samples / model.sample_rate)
        )

    def save(work: Work, wave: torch.Tensor) -> None:
        work.target.parent.mkdir(parents=True, exist_ok=True)
        audio.write(work.target, wave, model.sample_rate)

    def alone(work: Work) -> None:
        for _, wave in decoded([(work.source, request(work))]):
            save(work, wave)

    try:
        for source, wave in decoded(requests()):
            work = left.pop(source)
            account.attempt(work, partial(save, work, wave))
    except UserInputError:  # an option, not a file
        raise
    except Exception:  # of one of several, which comes out the same alone, and is named then
        for work in left.values():
            account.attempt(work, partial(alone, work))
    account.close()


def convert_file(arguments: argparse.Namespace) -> None:
    model = model_of(arguments, "a sound file")
    from vqwave import audio
    from vqwave.audio.sound_files import SUFFIXES

    labels, _ = labels_of(arguments, model), shift_of(arguments, model)
    if arguments.like is None:
        model.given.attributes(labels, embeddings_of(arguments))
    if arguments.input.is_dir():
        works = share(arguments, SUFFIXES, ".wav")
        lengths = [(work, _samples_of(work.source, model.sample_rate)) for work in works]
        longest_first = sorted(lengths, key=lambda pair: -pair[1])
        decode_folder(arguments, model, longest_first, model.encode_file, labels, recordings=True)
        return
    out = audio_out(arguments.out, arguments.input, arguments.like)
    like = like_of(arguments, model, arguments.input)
    coded = naming(arguments.input, lambda: model.encode_file(arguments.input))
    note_rate(arguments, audio.rate_of(arguments.input), model.sample_rate)
    write_decoded(arguments, model, coded, out, labels, like=like)


def _samples_of(path: Path, sample_rate: int) -> int:
    """About how many there are at this rate; 0 for what cannot be read, which is named when its
    turn comes.
    """
    from vqwave.audio.streaming import Recording

    try:
        return round(Recording.open(path).seconds * sample_rate)
    except Exception:
        return 0


def write_decoded(
    arguments: argparse.Namespace,
    model: SpeechModel,
    coded: CodeSequence,
    out: Path,
    labels: dict[str, str],
    *,
    like: ReferenceVoice | None,
) -> None:
    """Decode codes as asked, and write the speech."""
    from vqwave import audio

    with Progress(coded.samples, model.sample_rate, quiet=arguments.quiet) as progress:
        wave = model.decode(
            coded,
            arguments.speaker,
            like=like,
            labels=labels,
            embeddings=embeddings_of(arguments),
            shift_semitones=arguments.shift_semitones,
            sampling=sampling_of(arguments),
            progress=progress,
        )
    audio.write(out, wave, model.sample_rate)
    print_written(out, wave, model.sample_rate)
