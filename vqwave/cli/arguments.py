"""What several commands share: options of voices, labels and decoders, outputs, progress."""

from __future__ import annotations

import argparse
import gc
import math
from collections.abc import Callable, Iterator, Sequence, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from vqwave.errors import UserInputError
from vqwave.failures import about
from vqwave.terminal import message, output

if TYPE_CHECKING:
    import numpy as np

    from vqwave.decode.sampling import Sampling
    from vqwave.inference.reference_voice import ReferenceVoice
    from vqwave.inference.speech_model import SpeechModel


T = TypeVar("T")


def finite(text: str) -> float:
    """The type of every option that is a number: NaN and infinity are none.

    >>> finite("0.5")
    0.5
    """
    try:
        if math.isfinite(number := float(text)):
            return number
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r}, expected a finite number")


class Add(Protocol):
    """Adds one command: its name, what runs it, and its line of help."""

    def __call__(
        self, name: str, run: Callable[[argparse.Namespace], None], text: str
    ) -> argparse.ArgumentParser: ...


def synthesis_options(
    command: argparse.ArgumentParser,
    *,
    out: str | None = None,
    melody: bool = True,
) -> None:
    """The options of every command that writes speech.

    `out`: the help of the output, where it need not be given; `melody`: whether codes are decoded.
    """
    command.add_argument(
        "--out", type=Path, required=out is None, help=out or "audio file: .wav or .flac"
    )
    condition_options(command)
    command.add_argument(
        "--seed", type=int, default=0, help="the same seed, the same audio (default %(default)s)"
    )
    if melody:
        moved = (
            "move the melody up, or down if below 0 (a model with pitch codes; default %(default)g)"
        )
        command.add_argument("--shift-semitones", type=finite, default=0.0, metavar="N", help=moved)
    temperature_options(command)
    decoder_options(command)


def decoder_options(command: argparse.ArgumentParser) -> None:
    """What is sampled from, by which decoder, on which device."""
    mass = "keep the likeliest classes of this mass (categorical heads)"
    command.add_argument("--top-p", type=finite, default=1.0, help=mass)
    guidance = "above 1: weigh the condition more (a model with dropout)"
    command.add_argument("--guidance", type=finite, default=1.0, help=guidance)
    backend_options(command)


def backend_options(command: argparse.ArgumentParser) -> None:
    """Which decoder, at which precision, on which device."""
    backends = "auto, or one of the decoders (see docs/decoding.md)"
    command.add_argument("--backend", default="auto", help=backends)
    kinds = (
        "float32, bf16 (weights), bf16-dot (and sums of pairs), int8 (of units), auto: bf16-dot"
        " where it is faster"
    )
    precision = f"of the numba back-end: {kinds} (default %(default)s)"
    command.add_argument("--precision", default="float32", help=precision)
    device_option(command)


def device_option(command: argparse.ArgumentParser) -> None:
    """Where the model is loaded."""
    command.add_argument("--device", default="cpu", help="cpu or cuda (default %(default)s)")


def temperature_options(command: argparse.ArgumentParser) -> None:
    """How widely is sampled; of what is not given, the model's card has its own."""
    own = "default: the model's own, see info"
    of_all = f"of all parts of a draw; below 1: safer, duller; 0: the likeliest ({own})"
    command.add_argument("--temperature", type=finite, metavar="T", help=of_all)
    scale = (
        "of the noise where unvoiced, or where the decoder has no pitch (default: as --temperature)"
    )
    command.add_argument("--scale-temperature", type=finite, metavar="T", help=scale)
    voiced = "of the noise in voiced frames (default: as --temperature)"
    command.add_argument("--voiced-temperature", type=finite, metavar="T", help=voiced)
    filtered = (
        "how far the waveform's spectrum is moved to the frames that condition the decoder, 0 to 1"
        f" ({own})"
    )
    command.add_argument("--postfilter", type=finite, metavar="S", help=filtered)


def condition_options(command: argparse.ArgumentParser) -> None:
    """What a model may be conditioned on for an utterance."""
    voice = command.add_mutually_exclusive_group()
    voice.add_argument("--speaker", help="voice")
    like = "a recording of the voice (extra voices); of a model without vectors, its nearest voice"
    voice.add_argument("--like", type=Path, metavar="REFERENCE.wav", help=like)
    command.add_argument(
        "--label",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="any other label that the model is conditioned on",
    )
    command.add_argument(
        "--embedding",
        action="append",
        default=[],
        metavar="NAME=FILE.npy",
        help="a vector that the model is conditioned on",
    )


def model_of(arguments: argparse.Namespace, reads: str = "") -> SpeechModel:
    """The model that a command names, whose input is what it `reads`.

    Raises UserInputError where either is missing, before torch is imported, which takes a second.
    """
    from vqwave.inference.model_files import find_model

    find_model(arguments.model)
    if reads and str(arguments.input) != "-":
        try:
            arguments.input.stat()
        except FileNotFoundError:
            raise UserInputError(f"{arguments.input}: no such file, expected {reads}") from None
        except (OSError, ValueError):  # named where it is opened
            pass

    with without_collections():
        from vqwave.inference.speech_model import SpeechModel

        return SpeechModel.load(arguments.model, arguments.device)


@contextmanager
def without_collections() -> Iterator[None]:
    """Within, nothing is searched for cycles that could be freed: what is imported stays, and
    torch's import, which makes a million objects, takes a tenth less.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def labels_of(arguments: argparse.Namespace, model: SpeechModel) -> dict[str, str]:
    """The labels of an utterance, the speaker among them.

    Raises UserInputError for a label that the model is not conditioned on.
    """
    given = pairs("--label", arguments.label)
    known = [*(model.prior.labels if model.prior else ()), *model.decoder.conditioner.labels]
    for name in given:
        if name not in known:
            raise UserInputError(
                f"--label {name}: no condition of this model, expected"
                f" {', '.join(dict.fromkeys(known)) or 'none'}"
            )
    if arguments.speaker and "speaker" in given:
        raise UserInputError("--speaker: given with --label speaker=..., expected one of them")
    given |= {"speaker": arguments.speaker} if arguments.speaker else {}
    for name, value in given.items():
        if value in model.card.untrained(name) and not arguments.quiet:
            message(
                f"note: {name} {value}: there is no training recording of it, expect anything",
            )
    return given


def like_of(
    arguments: argparse.Namespace, model: SpeechModel, source: Path | None = None
) -> ReferenceVoice | None:
    """The voice of the recording that was given, if one was; source: what will be converted."""
    return None if arguments.like is None else model.voice_like(arguments.like, source)


def embeddings_of(arguments: argparse.Namespace) -> dict[str, np.ndarray]:
    """The vectors of an utterance by name, from their files."""
    from vqwave.data.arrays import read_array

    files = pairs("--embedding", arguments.embedding)
    return {name: read_array(Path(path)) for name, path in files.items()}


def pairs(flag: str, pairs: Sequence[str]) -> dict[str, str]:
    """NAME=VALUE, each."""
    found: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise UserInputError(f"{flag} {pair}: expected NAME=VALUE")
        if name in found:
            raise UserInputError(f"{flag} {pair}: {name} is given twice, expected one value")
        found[name] = value
    return found


def shift_of(arguments: argparse.Namespace, model: SpeechModel) -> float:
    """Semitones. Raises UserInputError outside bounds, and for a model without melody."""
    return model.given.shift(arguments.shift_semitones)


def sampling_of(arguments: argparse.Namespace) -> Sampling:
    """How samples are drawn, and by which decoder."""
    from vqwave.decode.sampling import Sampling

    return Sampling(
        seed=arguments.seed,
        temperature=arguments.temperature,
        scale_temperature=arguments.scale_temperature,
        voiced_temperature=arguments.voiced_temperature,
        postfilter=arguments.postfilter,
        top_p=arguments.top_p,
        guidance=arguments.guidance,
        backend=arguments.backend,
        precision=arguments.precision,
    )


def check_positive(arguments: argparse.Namespace, *flags: str) -> None:
    """Raises UserInputError for the first of these flags whose value is not above 0."""
    for flag in flags:
        value = getattr(arguments, flag.removeprefix("--").replace("-", "_"))
        if value is not None and not value > 0:
            raise UserInputError(f"{flag} {value}: expected a number above 0")


def check_left_out(arguments: argparse.Namespace, why: str, *flags: str) -> None:
    """Raises UserInputError for the first of these flags that was given."""
    for flag in flags:
        if getattr(arguments, flag.removeprefix("--").replace("-", "_")) is not None:
            raise UserInputError(f"{flag}: {why}")


def audio_out(path: Path | None, *sources: Path | None) -> Path:
    """Refuse an impossible output before any work is done; see `writable`."""
    if path is None:
        raise UserInputError("--out: not given, expected an audio file (or a folder, for a folder)")
    if path.suffix.lower() not in (".wav", ".flac"):
        raise UserInputError(f"{path}: expected a file name that ends in .wav or .flac")
    return writable(path, *sources)


def writable(path: Path, *sources: Path | None) -> Path:
    """A file that may be written: not a folder, none of what is read, `sources`."""
    if path.is_dir():
        raise UserInputError(f"{path}: is a folder, expected the name of a file to write")
    if path.exists() and not path.is_file():  # a device or a pipe, which a file would replace
        raise UserInputError(f"{path}: is no file, expected the name of a file to write")
    if path.resolve() in [source.resolve() for source in sources if source is not None]:
        raise UserInputError(f"{path}: is what is read, expected another file to write")
    return within(path)


def within(path: Path) -> Path:
    """A file or folder whose place is there."""
    if not path.parent.is_dir():
        raise UserInputError(f"{path.parent}: no such folder, to write {path.name} into")
    return path


class Progress:
    """A bar over decoded samples, in seconds of audio."""

    def __init__(self, samples: int, sample_rate: int, *, quiet: bool) -> None:
        from tqdm import tqdm

        self.rate = sample_rate
        self.bar = tqdm(
            total=samples / sample_rate,
            disable=quiet or None,
            unit="s",
            bar_format="{l_bar}{bar}| {n:.2f}/{total:.2f} s of audio",
        )

    def __call__(self, samples: int) -> None:
        self.bar.update(samples / self.rate)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()


def note_rate(arguments: argparse.Namespace, rate: int | None, expected: int) -> None:
    """A line where the input's sample rate is not the model's."""
    if rate != expected and not arguments.quiet:
        message(f"note: {arguments.input} is at {rate} Hz, resampled to {expected} Hz")


def naming(path: Path | str, work: Callable[[], T]) -> T:
    """Put the file's name before what is wrong with its content, where it is not named already."""
    with about(path):
        return work()


def print_written(path: Path, wave: Sized, sample_rate: int) -> None:
    """The line after a file of sound is written."""
    output(f"{path}: {len(wave) / sample_rate:.2f} s at {sample_rate:,} Hz")
