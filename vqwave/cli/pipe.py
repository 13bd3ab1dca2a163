"""Commands in a pipe: speech in, codes out, and codes in, speech out, as they come."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from vqwave import terminal
from vqwave.atomic_files import new_file
from vqwave.cli.arguments import embeddings_of, labels_of, like_of, naming, sampling_of
from vqwave.errors import UserInputError, located

if TYPE_CHECKING:
    from vqwave.audio.streaming import WavReader
    from vqwave.codes import CodeBlock, Coder, Header
    from vqwave.inference.melody_stream import BlockStream
    from vqwave.inference.speech_model import SpeechModel
    from vqwave.inference.stream_encoding import SpeechStream

DASH = Path("-")
CHUNK_SECONDS = 0.16  # that are encoded at once
PIECE = 25  # frames of a complete file that are decoded before their speech is written


@contextmanager
def source(path: Path) -> Iterator[tuple[BinaryIO, str]]:
    """A file, or standard input for `-`, and its name in messages."""
    if path == DASH:
        yield terminal.named(sys.stdin.buffer, terminal.INPUT), terminal.INPUT
        return
    with located(path):
        opened = path.open("rb")
    with opened as file:
        yield terminal.named(file, str(path)), str(path)


@contextmanager
def target(path: Path) -> Iterator[BinaryIO]:
    """A file, which appears complete or not at all, or standard output for `-`.

    Raises UserInputError where the reader of standard output is gone.
    """
    if path == DASH:
        out = terminal.named(sys.stdout.buffer, terminal.OUTPUT)
        try:
            yield out
            out.flush()
        except BrokenPipeError:
            terminal.discard_output()
            raise UserInputError(f"{terminal.OUTPUT}: its reader is gone") from None
        return
    with new_file(path) as temporary, temporary.open("wb") as file:
        yield terminal.named(file, str(path))


def encode_pipe(arguments: argparse.Namespace, model: SpeechModel) -> None:
    """WAV from standard input -> a streamed .vqw."""
    from vqwave.audio.streaming import WavReader
    from vqwave.codes import CodeWriter

    if arguments.prior is not None:
        raise UserInputError(
            "--prior: entropy coding needs the entire utterance, expected a file and not a pipe"
        )
    with source(arguments.input) as (file, name):
        reader = WavReader(file, name)
        stream = model.encode_stream(
            reader.sample_rate,
            level=arguments.input_rms_db,
            seconds=CHUNK_SECONDS if arguments.chunk_seconds is None else arguments.chunk_seconds,
            speaker=arguments.speaker,
            pitch_range=_pitch_range(arguments.pitch_range),
        )
        if not arguments.quiet:
            after = f"note: codes come {1000 * stream.latency:.0f} ms after their sound"
            first = "" if stream.ready else ", the first once the range of the voice is known"
            terminal.message(after + first)
        with target(arguments.out) as out:
            writer = CodeWriter(out, _header(model, stream, arguments)) if stream.ready else None
            for block in _blocks(stream, reader, name):
                # before the range of the voice is known there is no code either
                if writer is None and stream.ready:
                    writer = CodeWriter(out, _header(model, stream, arguments))
                if writer is not None:
                    writer.write(block.codes, block.pitch)
            assert writer is not None, "a stream is ready at its end"
            writer.finish(stream.samples)


def _pitch_range(text: str | None) -> tuple[float, float] | None:
    """HZ,SEMITONES."""
    if text is None:
        return None
    try:
        mean, deviation = (float(part) for part in text.split(","))
        return mean, deviation
    except ValueError:
        raise UserInputError(
            f"--pitch-range {text}: expected HZ,SEMITONES, such as 120,3"
        ) from None


def _header(
    model: SpeechModel, stream: SpeechStream | BlockStream, arguments: argparse.Namespace
) -> Header:
    """What a streamed file begins with."""
    return model.header(arguments.speaker, pitch=stream.pitch)


def _blocks(
    stream: SpeechStream | BlockStream, reader: WavReader, name: str
) -> Iterator[CodeBlock]:
    """The codes of a recording, as they are known."""
    for wave in reader:
        yield naming(name, partial(stream.push_block, wave))
    yield naming(name, stream.flush_block)


def decode_pipe(arguments: argparse.Namespace, model: SpeechModel, coder: Coder | None) -> None:
    """A .vqw as it comes -> WAV, or raw samples, as they are known."""
    from vqwave.audio.streaming import WavWriter
    from vqwave.codes import CodeReader

    with source(arguments.input) as (file, name):
        reader = CodeReader(file, name, coder)
        naming(name, partial(model.check, reader.header))
        stream = model.stream(
            arguments.speaker,
            like=like_of(arguments, model),
            labels={"speaker": reader.header.speaker, **labels_of(arguments, model)},
            embeddings=embeddings_of(arguments),
            sampling=sampling_of(arguments),
            pitch=reader.header.pitch,
            shift_semitones=arguments.shift_semitones,
        )
        if not arguments.quiet:
            terminal.message(
                f"note: sound comes {1000 * stream.latency / model.sample_rate:.0f} ms after its"
                " codes",
            )
        with target(arguments.out) as out:
            writer = WavWriter(out, model.sample_rate, raw=arguments.raw)
            for block in reader:
                for piece in block.split(PIECE):
                    writer.write(stream.push(piece.codes, piece.pitch))
            writer.write(stream.flush(reader.header.samples))
            writer.finish()
            reader.source.refuse_more()
