"""The `vqwave` command. Exit status 0; 2 with one line for bad input; 130 after Ctrl-C."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vqwave.errors import BadInput

if TYPE_CHECKING:
    from vqwave.codec import Codec
    from vqwave.codes import Coded
    from vqwave.decode.sampling import Sampling
    from vqwave.prior import CodePrior


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; rooms are imported by the command that needs them, so that `--help` is quick."""
    arguments = parser().parse_args(argv)
    try:
        arguments.command(arguments)
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(128 + signal.SIGPIPE) from None


class Parser(argparse.ArgumentParser):
    """argparse with one-line errors."""

    def error(self, message: str) -> None:
        print(f"error: {message}; see {self.prog} --help", file=sys.stderr)
        raise SystemExit(2)


def parser() -> Parser:
    top = Parser(prog="vqwave", description="Speech in discrete codes: WaveNet, VQ-VAE, Parallel WaveNet.")
    commands = top.add_subparsers(dest="name", required=True, metavar="COMMAND")

    def add(name: str, run: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--quiet", action="store_true", help="no progress bar, no notes")
        command.set_defaults(command=run)
        return command

    prepare = add("prepare", prepare_corpus, "Turn recordings into a corpus: no DC, one rate, one level, memory-mapped.")
    prepare.add_argument(
        "kind", help="layout of the recordings: demo, fsdd, folder, librispeech, ljspeech, manifest, vctk, zerospeech2019"
    )
    prepare.add_argument("source", nargs="?", type=Path, metavar="DIR", help="the recordings (none for demo)")
    prepare.add_argument("--out", type=Path, required=True, help="corpus folder to write")
    prepare.add_argument("--sample-rate", type=int, help="Hz; default: the corpus' own")
    prepare.add_argument("--level", type=float, default=-23.0, help="RMS level in dBFS (default %(default)s)")

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
    _voice(decode)

    convert = add("convert", convert_file, "Speech -> the same words in another voice.")
    convert.add_argument("model", help="run folder, model folder or name")
    convert.add_argument("input", type=Path, help="audio file")
    _voice(convert, required=True)

    _babble(add("generate", generate_file, "Babble, in the voice of a speaker."))

    speak = add("speak", speak_file, "Speech from given frames: predicted mels, or aligned phones.")
    speak.add_argument("model", help="run folder, model folder or name of a WaveNet with such features")
    speak.add_argument(
        "--frames", action="append", required=True, default=[], metavar="NAME=FILE", help="mel=x.npy (C, F); phones=x.json"
    )
    speak.add_argument("--seconds", type=float, help="length (default: that of the frames; needed for phones alone)")
    _voice(speak)

    score = add("score", score_file, "Bits a sample that a recording costs under a model.")
    score.add_argument("model", help="run folder, model folder or name")
    score.add_argument("input", type=Path, help="audio file")
    _told(score)

    info = add("info", show_info, "What a model, a .vqw file or a prepared corpus is.")
    info.add_argument("what", help="run folder, model folder or name; .vqw file; corpus folder")

    report = add("report", write_page, "One page of curves, spectrograms and players from one or several runs.")
    report.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folder")
    report.add_argument("--out", type=Path, help="HTML file (default: RUN/report.html)")
    return top


def _babble(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", help="run folder or model folder of a WaveNet, or of a prior over codes")
    command.add_argument("--seconds", type=float, help="length (default: 3 for a WaveNet; a prior ends by itself)")
    command.add_argument("--code-temperature", type=float, default=1.0, help="of a prior's codes (default %(default)s)")
    command.add_argument("--code-top-p", type=float, default=1.0, help="draw from a prior's likeliest codes of this mass")
    command.add_argument("--prime", type=Path, metavar="IN.wav", help="go on from this recording")
    _voice(command)


def _voice(command: argparse.ArgumentParser, *, required: bool = False) -> None:
    """The options of everything that speaks."""
    command.add_argument("--out", type=Path, required=True, help="audio file: .wav or .flac")
    _told(command, required=required)
    command.add_argument("--seed", type=int, default=0, help="the same seed, the same audio (default %(default)s)")
    command.add_argument("--temperature", type=float, default=1.0, help="below 1: safer, duller (default %(default)s)")
    command.add_argument("--top-p", type=float, default=1.0, help="keep the likeliest classes of this mass (categorical heads)")
    command.add_argument("--guidance", type=float, default=1.0, help="above 1: hear the condition more (a model with dropout)")
    command.add_argument("--backend", default="auto", help="auto, or one of the decoders (see docs/decoding.md)")


def _told(command: argparse.ArgumentParser, *, required: bool = False) -> None:
    """What a model may be told of an utterance."""
    command.add_argument("--speaker", required=required, help="voice")
    command.add_argument("--label", action="append", default=[], metavar="NAME=VALUE", help="any other label the model hears")
    command.add_argument("--vector", action="append", default=[], metavar="NAME=FILE.npy", help="a vector the model hears")


def _labels(arguments: argparse.Namespace) -> dict[str, str]:
    return _pairs("--label", arguments.label) | ({"speaker": arguments.speaker} if arguments.speaker else {})


def _vectors(arguments: argparse.Namespace) -> dict[str, object]:
    from vqwave.data.corpus import read_array

    return {name: read_array(Path(path)) for name, path in _pairs("--vector", arguments.vector).items()}


def _pairs(flag: str, pairs: Sequence[str]) -> dict[str, str]:
    """NAME=VALUE, each."""
    for pair in pairs:
        if "=" not in pair:
            raise BadInput(f"{flag} {pair}: expected NAME=VALUE")
    return dict(pair.split("=", 1) for pair in pairs)


def _sampling(arguments: argparse.Namespace) -> Sampling:
    from vqwave.decode.sampling import Sampling

    return Sampling(
        seed=arguments.seed,
        temperature=arguments.temperature,
        top_p=arguments.top_p,
        guidance=arguments.guidance,
        backend=arguments.backend,
    )


def _audio_out(path: Path) -> Path:
    """Refuse an impossible output before any work is done."""
    if path.suffix.lower() not in (".wav", ".flac"):
        raise BadInput(f"{path}: expected a file name that ends in .wav or .flac")
    return _writable(path)


def _writable(path: Path) -> Path:
    if not path.parent.is_dir():
        raise BadInput(f"{path.parent}: no such folder, to write {path.name} into")
    return path


class Progress:
    """A bar over decoded samples, in seconds of audio."""

    def __init__(self, samples: int, sample_rate: int, quiet: bool) -> None:
        from tqdm import tqdm

        self.rate = sample_rate
        self.bar = tqdm(
            total=samples / sample_rate, disable=quiet or None, unit="s", bar_format="{l_bar}{bar}| {n:.2f}/{total:.2f} s of audio"
        )

    def __call__(self, samples: int) -> None:
        self.bar.update(samples / self.rate)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()


def prepare_corpus(arguments: argparse.Namespace) -> None:
    from vqwave.data import prepare

    summary = prepare(
        arguments.kind,
        arguments.source,
        arguments.out,
        sample_rate=arguments.sample_rate,
        level_db=arguments.level,
        quiet=arguments.quiet,
    )
    print(summary.table())


def encode_file(arguments: argparse.Namespace) -> None:
    from vqwave import audio, codes
    from vqwave.codec import Codec

    model, out = Codec.load(arguments.model), _writable(arguments.out)
    wave, rate = audio.read(arguments.input)
    coded = _named(arguments.input, lambda: model.encode(wave, rate, arguments.speaker))
    _note_rate(arguments, rate, model.sample_rate)
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

    model, out = Codec.load(arguments.model), _audio_out(arguments.out)
    coded = codes.load_codes(arguments.input, model.prior if arguments.prior is None else _prior(arguments.prior))
    _speak_codes(arguments, model, coded, out)


def convert_file(arguments: argparse.Namespace) -> None:
    from vqwave import audio
    from vqwave.codec import Codec

    model, out = Codec.load(arguments.model), _audio_out(arguments.out)
    model.told(_labels(arguments))
    wave, rate = audio.read(arguments.input)
    coded = _named(arguments.input, lambda: model.encode(wave, rate))
    _note_rate(arguments, rate, model.sample_rate)
    _speak_codes(arguments, model, coded, out)


def generate_file(arguments: argparse.Namespace) -> None:
    from vqwave import audio
    from vqwave.codec import Codec

    model, out = Codec.load(arguments.model), _audio_out(arguments.out)
    if model.prior is not None and arguments.prime is None:
        _speak_codes(arguments, model, _drawn_codes(arguments, model), out)
        return
    seconds = 3.0 if arguments.seconds is None else arguments.seconds
    prime, rate = (None, None) if arguments.prime is None else audio.read(arguments.prime)
    with Progress(round(seconds * model.sample_rate), model.sample_rate, arguments.quiet) as progress:
        wave = model.generate(
            seconds,
            labels=_labels(arguments),
            prime=prime,
            prime_rate=rate,
            vectors=_vectors(arguments),
            sampling=_sampling(arguments),
            progress=progress,
        )[0]
    audio.write(out, wave, model.sample_rate)
    _say_written(out, wave, model.sample_rate)


def _drawn_codes(arguments: argparse.Namespace, model: Codec) -> Coded:
    """Codes from the model's prior."""
    labels, heard = _labels(arguments), [*model.prior.labels, *model.decoder.conditioner.labels]
    for name in labels:
        if name not in heard:
            raise BadInput(f"--label {name}: not heard by this model, expected {', '.join(dict.fromkeys(heard)) or 'none'}")
    model.label_ids(labels)
    return model.prior.draw(
        arguments.seconds,
        labels=labels,
        seed=arguments.seed,
        temperature=arguments.code_temperature,
        top_p=arguments.code_top_p,
    )[0]


def _speak_codes(arguments: argparse.Namespace, model: Codec, coded: Coded, out: Path) -> None:
    """Decode codes as asked, and write what was said."""
    from vqwave import audio

    with Progress(coded.samples, model.sample_rate, arguments.quiet) as progress:
        wave = model.decode(
            coded,
            arguments.speaker,
            labels=_labels(arguments),
            vectors=_vectors(arguments),
            sampling=_sampling(arguments),
            progress=progress,
        )
    audio.write(out, wave, model.sample_rate)
    _say_written(out, wave, model.sample_rate)


def speak_file(arguments: argparse.Namespace) -> None:
    from vqwave import audio
    from vqwave.codec import Codec

    model, out = Codec.load(arguments.model), _audio_out(arguments.out)
    frames = {name: _frames(Path(path)) for name, path in _pairs("--frames", arguments.frames).items()}
    wave = model.speak(
        frames,
        arguments.seconds,
        labels=_labels(arguments),
        vectors=_vectors(arguments),
        sampling=_sampling(arguments),
    )
    audio.write(out, wave, model.sample_rate)
    _say_written(out, wave, model.sample_rate)


def _frames(path: Path) -> object:
    """An array (.npy), or phones: [[first sample, label], ...] (.json)."""
    from vqwave.data.corpus import read_array

    if path.suffix == ".npy":
        return read_array(path)
    try:
        phones = json.loads(path.read_text(encoding="utf-8"))
        return [[int(start), str(label)] for start, label in phones]
    except (OSError, ValueError, TypeError) as error:
        raise BadInput(f"{path}: {error}; expected [[first sample, label], ...]") from None


def score_file(arguments: argparse.Namespace) -> None:
    from vqwave import audio
    from vqwave.codec import Codec

    model = Codec.load(arguments.model)
    wave, rate = audio.read(arguments.input)
    _note_rate(arguments, rate, model.sample_rate)
    labels, vectors = _labels(arguments), _vectors(arguments)
    score = _named(arguments.input, lambda: model.score(wave, rate, labels=labels, vectors=vectors))
    print(f"{arguments.input}: {score.bits:.4f} {score.unit}, {score.samples:,} samples")


def show_info(arguments: argparse.Namespace) -> None:
    from vqwave.info import describe

    rows = describe(arguments.what)
    width = max(map(len, rows))
    print("\n".join(f"{name:{width}}  {value}" for name, value in rows.items()))


def write_page(arguments: argparse.Namespace) -> None:
    from vqwave.report import write_report

    out = arguments.out or arguments.runs[0] / "report.html"
    print(write_report(arguments.runs, out))


def _note_rate(arguments: argparse.Namespace, found: int, expected: int) -> None:
    if found != expected and not arguments.quiet:
        print(f"note: {arguments.input} is at {found} Hz, resampled to {expected} Hz", file=sys.stderr)


def _named(path: Path, work: Callable[[], object]) -> object:
    """Put the file's name before what is wrong with its content."""
    try:
        return work()
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from None


def _say_written(path: Path, wave: object, sample_rate: int) -> None:
    print(f"{path}: {len(wave) / sample_rate:.2f} s at {sample_rate:,} Hz")


if __name__ == "__main__":
    main()
