"""Commands in a pipe: speech in, codes out, and codes in, speech out, as they come."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from vqwave.cli.arguments import labels_of, named, sampling_of, vectors_of
from vqwave.errors import BadInput

if TYPE_CHECKING:
    from vqwave.codec import Codec
    from vqwave.codes import Coder

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
        raise BadInput(f"{path}: {error.strerror.lower()}") from None


@contextmanager
def target(path: Path) -> Iterator[BinaryIO]:
    """A file, whole or not at all, or standard output for `-`. Raises BadInput where nobody reads that any more."""
    if path == DASH:
        try:
            yield sys.stdout.buffer
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise BadInput("standard output: its reader is gone") from None
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with temporary.open("wb") as file:
            yield file
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def encode_pipe(arguments: argparse.Namespace, model: Codec) -> None:
    """WAV from standard input -> a streamed .vqw."""
    from vqwave.codes import CodeWriter
    from vqwave.pipes import WavReader

    if arguments.prior is not None:
        raise BadInput("--prior: entropy coding needs the whole utterance, expected a file and not a pipe")
    with source(arguments.input) as (file, name):
        reader = WavReader(file, name)
        stream = model.encode_stream(reader.sample_rate, level=arguments.level, seconds=arguments.block)
        if not arguments.quiet:
            print(f"note: codes come {1000 * stream.latency:.0f} ms after their sound", file=sys.stderr)
        with target(arguments.out) as out:
            writer = CodeWriter(out, model.header(arguments.speaker))
            for wave in reader:
                writer.write(named(name, lambda x=wave: stream.push(x)))
            writer.write(named(name, stream.flush))
            writer.finish(stream.samples)


def decode_pipe(arguments: argparse.Namespace, model: Codec, coder: Coder | None) -> None:
    """A .vqw as it comes -> WAV, or raw samples, as they are known."""
    from vqwave.codes import CodeReader
    from vqwave.pipes import WavWriter

    with source(arguments.input) as (file, name):
        reader = CodeReader(file, name, coder)
        speaker = arguments.speaker or reader.header.speaker
        model.check(reader.header)
        stream = model.stream(
            speaker if "speaker" in model.decoder.conditioner.labels else arguments.speaker,
            labels=labels_of(arguments, model),
            vectors=vectors_of(arguments),
            sampling=sampling_of(arguments),
        )
        if not arguments.quiet:
            print(f"note: sound comes {1000 * stream.latency / model.sample_rate:.0f} ms after its codes", file=sys.stderr)
        with target(arguments.out) as out:
            writer = WavWriter(out, model.sample_rate, raw=arguments.raw)
            for block in reader:
                for piece in block.split(PIECE):
                    writer.write(stream.push(piece.codes, piece.pitch))
            writer.write(stream.flush(reader.header.samples))
            if arguments.out != DASH:
                writer.finish()
