"""The `vqwave` command. Exit status 0; 2 with one line for bad input; 130 after Ctrl-C."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from vqwave.errors import BadInput


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

    decode = add("decode", decode_file, "A .vqw file -> speech.")
    decode.add_argument("model", help="run folder, model folder or name: a VQ-VAE or its student")
    decode.add_argument("input", type=Path, help=".vqw file")
    _voice(decode)

    convert = add("convert", convert_file, "Speech -> the same words in another voice.")
    convert.add_argument("model", help="run folder, model folder or name")
    convert.add_argument("input", type=Path, help="audio file")
    _voice(convert, required=True)

    generate = add("generate", generate_file, "Babble, in the voice of a speaker.")
    generate.add_argument("model", help="run folder or model folder of a WaveNet")
    generate.add_argument("--seconds", type=float, default=3.0, help="length (default %(default)s)")
    _voice(generate)

    info = add("info", show_info, "What a model, a .vqw file or a prepared corpus is.")
    info.add_argument("what", help="run folder, model folder or name; .vqw file; corpus folder")

    report = add("report", write_page, "One page of curves, spectrograms and players from one or several runs.")
    report.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folder")
    report.add_argument("--out", type=Path, help="HTML file (default: RUN/report.html)")
    return top


def _voice(command: argparse.ArgumentParser, *, required: bool = False) -> None:
    """The options of everything that speaks."""
    command.add_argument("--out", type=Path, required=True, help="audio file: .wav or .flac")
    command.add_argument("--speaker", required=required, help="voice")
    command.add_argument("--label", action="append", default=[], metavar="NAME=VALUE", help="any other label the model hears")
    command.add_argument("--seed", type=int, default=0, help="the same seed, the same audio (default %(default)s)")
    command.add_argument("--temperature", type=float, default=1.0, help="below 1: safer, duller (default %(default)s)")
    command.add_argument("--backend", default="auto", help="auto, or one of the decoders (see docs/decoding.md)")


def _labels(arguments: argparse.Namespace) -> dict[str, str]:
    labels = {}
    for pair in arguments.label:
        name, equals, value = pair.partition("=")
        if not equals:
            raise BadInput(f"--label {pair}: expected NAME=VALUE")
        labels[name] = value
    return labels | ({"speaker": arguments.speaker} if arguments.speaker else {})


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
    codes.save_codes(coded, out)
    print(f"{out}: {coded.seconds:.2f} s in {coded.codes.shape[1]} frames, {coded.bit_rate:.0f} bit/s")


def decode_file(arguments: argparse.Namespace) -> None:
    from vqwave import audio, codes
    from vqwave.codec import Codec

    model, out, coded = Codec.load(arguments.model), _audio_out(arguments.out), codes.load_codes(arguments.input)
    with Progress(coded.samples, model.sample_rate, arguments.quiet) as progress:
        wave = model.decode(
            coded,
            arguments.speaker,
            labels=_labels(arguments),
            seed=arguments.seed,
            temperature=arguments.temperature,
            backend=arguments.backend,
            progress=progress,
        )
    audio.write(out, wave, model.sample_rate)
    _say_written(out, wave, model.sample_rate)


def convert_file(arguments: argparse.Namespace) -> None:
    from vqwave import audio
    from vqwave.codec import Codec

    model, out = Codec.load(arguments.model), _audio_out(arguments.out)
    labels = _labels(arguments)
    model.label_ids(labels)
    wave, rate = audio.read(arguments.input)
    coded = _named(arguments.input, lambda: model.encode(wave, rate))
    _note_rate(arguments, rate, model.sample_rate)
    with Progress(coded.samples, model.sample_rate, arguments.quiet) as progress:
        converted = model.decode(
            coded,
            arguments.speaker,
            labels=labels,
            seed=arguments.seed,
            temperature=arguments.temperature,
            backend=arguments.backend,
            progress=progress,
        )
    audio.write(out, converted, model.sample_rate)
    _say_written(out, converted, model.sample_rate)


def generate_file(arguments: argparse.Namespace) -> None:
    from vqwave import audio
    from vqwave.codec import Codec

    model, out = Codec.load(arguments.model), _audio_out(arguments.out)
    with Progress(round(arguments.seconds * model.sample_rate), model.sample_rate, arguments.quiet) as progress:
        wave = model.generate(
            arguments.seconds,
            labels=_labels(arguments),
            seed=arguments.seed,
            temperature=arguments.temperature,
            backend=arguments.backend,
            progress=progress,
        )[0]
    audio.write(out, wave, model.sample_rate)
    _say_written(out, wave, model.sample_rate)


def show_info(arguments: argparse.Namespace) -> None:
    from vqwave import codes
    from vqwave.data import Corpus
    from vqwave.data.corpus import is_corpus

    path = Path(arguments.what)
    if path.suffix == ".vqw":
        coded = codes.load_codes(path)
        rows = {
            "file": str(path),
            "length": f"{coded.seconds:.3f} s, {coded.samples:,} samples at {coded.sample_rate:,} Hz",
            "codes": f"{coded.codes.shape[0]} x {coded.codes.shape[1]} frames of {coded.size} codes, hop {coded.hop}",
            "bit rate": f"{coded.bit_rate:.0f} bit/s ({path.stat().st_size:,} bytes in all)",
            "speaker": coded.speaker or "not noted",
            "codec": coded.fingerprint,
        }
    elif is_corpus(path):
        corpus = Corpus.open(path)
        rows = {
            "corpus": f"{corpus.name} in {path}",
            "sample rate": f"{corpus.sample_rate:,} Hz",
            "speech": f"{corpus.seconds() / 60:.1f} minutes in {len(corpus.utterances):,} utterances",
            "splits": ", ".join(f"{name} {count:,}" for name, count in corpus.splits.items()),
            **{name: _shortened(values) for name, values in corpus.labels.items()},
        }
    else:
        rows = _model_rows(arguments.what)
    width = max(map(len, rows))
    print("\n".join(f"{name:{width}}  {value}" for name, value in rows.items()))


def _model_rows(name: str) -> dict[str, str]:
    from vqwave.codec import Codec
    from vqwave.models import VQVAE

    codec = Codec.load(name)
    card, about = codec.card, codec.card.about
    rows = {
        "model": f"{card.kind} in {name}" + (f", decoder {codec.card.spec.decoder.kind}" if card.kind == "vqvae" else ""),
        "trained": f"{about['steps']:,} steps in {about['seconds'] / 60:.1f} min on {about['corpus']}, seed {about['seed']}",
        "sample rate": f"{card.sample_rate:,} Hz",
        "parameters": ", ".join(f"{part} {count:,}" for part, count in about["parameters"].items()),
        "receptive field": f"{about['receptive_field']:,} samples, {1000 * about['receptive_field'] / card.sample_rate:.1f} ms",
    }
    if isinstance(codec.model, VQVAE):
        rows["codes"] = (
            f"{card.sample_rate / about['hop']:g} frames a second, {about['bit_rate']:g} bit/s, codec {codec.fingerprint}"
        )
    return rows | {label: _shortened(values) for label, values in card.labels.items()}


def _shortened(values: Sequence[str], most: int = 12) -> str:
    return f"{len(values)}: " + ", ".join(values[:most]) + (", ..." if len(values) > most else "")


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
