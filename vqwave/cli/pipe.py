"""Commands in a pipe: speech in, codes out, and codes in, speech out, as they come."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from vqwave.cli.arguments import labels_of, named, sampling_of, vectors_of
from vqwave.errors import UserInputError

if TYPE_CHECKING:
    from torch import Tensor

    from vqwave.audio.streaming import WavReader
    from vqwave.codes import CodeBlock, Coder, CodeWriter
    from vqwave.inference.melody_stream import BlockStream
    from vqwave.inference.speech_model import SpeechModel
    from vqwave.inference.stream_encoding import SpeechStream

DASH = Path("-")
PIECE = 25  # frames of a whole file that are decoded before what they gave is written


@contextmanager
def source(path: Path) -> Iterator[tuple[BinaryIO, str]]:
    """A file, or standard input for `-`, and what to call it."""
    if path == DASH:
        yield sys.stdin.buffer, "standard input"
        return
    try:
        with path.open("rb") as file:
            yield file, str(path)
    except OSError as error:
        raise UserInputError(f"{path}: {error.strerror.lower()}") from None


@contextmanager
def target(path: Path) -> Iterator[BinaryIO]:
    """A file, whole or not at all, or standard output for `-`.

    Raises UserInputError where nobody reads that any more.
    """
    if path == DASH:
        try:
            yield sys.stdout.buffer
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise UserInputError("standard output: its reader is gone") from None
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with temporary.open("wb") as file:
            yield file
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def encode_pipe(arguments: argparse.Namespace, model: SpeechModel) -> None:
    """WAV from standard input -> a streamed .vqw."""
    from vqwave.audio.streaming import WavReader

    if arguments.prior is not None:
        raise UserInputError(
            "--prior: entropy coding needs the whole utterance, expected a file and not a pipe"
        )
    with source(arguments.input) as (file, name):
        reader = WavReader(file, name)
        stream = model.encode_stream(
            reader.sample_rate,
            level=arguments.level,
            seconds=arguments.block,
            speaker=arguments.speaker,
            pitch_range=_pitch_range(arguments.pitch_range),
        )
        if not arguments.quiet:
            after = f"note: codes come {1000 * stream.latency:.0f} ms after their sound"
            print(after + _first(stream), file=sys.stderr)
        with target(arguments.out) as out:
            writer = _writer(out, model, stream, arguments.speaker)
            for block in _blocks(stream, reader, name):
                writer = writer or _writer(out, model, stream, arguments.speaker)
                if writer is not None:
                    writer.write(block.codes, block.pitch)
            writer.finish(stream.samples)


def _first(stream: SpeechStream | BlockStream) -> str:
    """What must be known before the first codes."""
    from vqwave.inference.stream_encoding import SpeechStream

    if isinstance(stream, SpeechStream) or stream.pitch is not None:
        return ""
    return ", the first once the range of the voice is known"


def _pitch_range(text: str | None) -> tuple[float, ...] | None:
    """HZ,SEMITONES."""
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UserInputError(
            f"--pitch-range {text}: expected HZ,SEMITONES, such as 120,3"
        ) from None


def _writer(
    out: BinaryIO, model: SpeechModel, stream: SpeechStream | BlockStream, speaker: str | None
) -> CodeWriter | None:
    """Writes the header at once; None before the range of the voice is known, and so any code."""
    from vqwave.codes import CodeWriter
    from vqwave.inference.stream_encoding import SpeechStream

    if isinstance(stream, SpeechStream):
        return CodeWriter(out, model.header(speaker))
    pitch = stream.pitch
    return None if pitch is None else CodeWriter(out, model.header(speaker, pitch=pitch))


def _blocks(
    stream: SpeechStream | BlockStream, reader: WavReader, name: str
) -> Iterator[CodeBlock]:
    """The codes of a recording, as they are known."""
    from vqwave.codes import CodeBlock

    def block(step: Callable[[], Tensor | CodeBlock]) -> CodeBlock:
        found = named(name, step)
        return found if isinstance(found, CodeBlock) else CodeBlock(found)

    for wave in reader:
        yield block(lambda x=wave: stream.push(x))
    yield block(stream.flush)


def decode_pipe(arguments: argparse.Namespace, model: SpeechModel, coder: Coder | None) -> None:
    """A .vqw as it comes -> WAV, or raw samples, as they are known."""
    from vqwave.audio.streaming import WavWriter
    from vqwave.codes import CodeReader

    with source(arguments.input) as (file, name):
        reader = CodeReader(file, name, coder)
        speaker = arguments.speaker or reader.header.speaker
        model.check(reader.header)
        stream = model.stream(
            speaker if "speaker" in model.decoder.conditioner.labels else arguments.speaker,
            labels=labels_of(arguments, model),
            embeddings=vectors_of(arguments),
            sampling=sampling_of(arguments),
            pitch=reader.header.pitch,
            shift_semitones=arguments.shift_semitones,
        )
        if not arguments.quiet:
            print(
                f"note: sound comes {1000 * stream.latency / model.sample_rate:.0f} ms after its"
                " codes",
                file=sys.stderr,
            )
        with target(arguments.out) as out:
            writer = WavWriter(out, model.sample_rate, raw=arguments.raw)
            for block in reader:
                for piece in block.split(PIECE):
                    writer.write(stream.push(piece.codes, piece.pitch))
            writer.write(stream.flush(reader.header.samples))
            if arguments.out != DASH:
                writer.finish()
