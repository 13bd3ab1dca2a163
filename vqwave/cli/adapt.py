"""adapt: one more voice in a trained model."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from vqwave.cli.arguments import Add, check_positive, finite
from vqwave.errors import UserInputError
from vqwave.terminal import message


def add(add: Add) -> None:
    about = (
        "Add a voice to a trained model from a minute or more of it. Codes stay as they are; the"
        " same command resumes."
    )
    adapt = add("adapt", adapt_model, about)
    adapt.add_argument("model", help="run folder, model folder or name")
    adapt.add_argument(
        "recordings",
        type=Path,
        metavar="CORPUS|FOLDER",
        help="folder that `vqwave prepare` wrote, or one of sound files of this voice",
    )
    adapt.add_argument("--speaker", required=True, metavar="NAME", help="what the voice is called")
    adapt.add_argument(
        "--minutes", type=finite, default=10.0, help="minutes to train (default %(default)s)"
    )
    adapt.add_argument("--out", type=Path, required=True, metavar="RUN", help="run folder to write")
    adapt.add_argument(
        "--replay",
        action="append",
        default=[],
        metavar="CORPUS",
        help="recordings of the model's own voices, so that they stay (default: those of its run;"
        " where these are not there, its conversions of RECORDINGS)",
    )
    adapt.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a setting of experiments/adapt.py, see `vqwave train adapt --help`",
    )


def adapt_model(arguments: argparse.Namespace) -> None:
    """Prepare the recordings where they are no corpus yet, then train as experiments/adapt.py."""
    check_positive(arguments, "--minutes")

    from vqwave.training.command_line import main
    from vqwave.training.experiment_files import load_experiment

    corpus = corpus_of(arguments)
    replayed = arguments.replay or conversions_of(arguments, corpus)
    settings = [
        f"base={arguments.model}",
        f"data.corpus={corpus}",
        f"speaker={arguments.speaker}",
        f"run={arguments.out}",
        f"train.minutes={arguments.minutes:g}",
        *([f"replay={json.dumps(replayed, ensure_ascii=False)}"] * bool(replayed)),
        *arguments.set,
        *(["--quiet"] if arguments.quiet else []),
    ]
    main(load_experiment("adapt"), settings, program="vqwave adapt")


def corpus_of(arguments: argparse.Namespace) -> Path:
    """The corpus, or the one that a folder of sound files is prepared into: RUN-corpus.

    Raises UserInputError.
    """
    from vqwave.audio.sound_files import sound_files
    from vqwave.data import prepare
    from vqwave.data.corpus import HEADER, is_corpus
    from vqwave.inference.model_folder import find_model, read_card

    source, out = arguments.recordings, Path(f"{arguments.out}-corpus")
    card, _ = read_card(find_model(arguments.model))
    if arguments.speaker in card.trained("speaker"):  # before anything is prepared
        raise UserInputError(
            f"--speaker {arguments.speaker}: a voice that {arguments.model} has already, expected a"
            " new name"
        )
    if is_corpus(source):
        return source
    if not source.is_dir():
        raise UserInputError(
            f"{source}: no such folder, expected a corpus or a folder of sound files"
        )
    own = {Path(f"{arguments.out}{end}").resolve() for end in ("", "-corpus", "-replay")}
    # those may lie in the folder
    recordings = [path for path in sound_files(source) if own.isdisjoint(path.resolve().parents)]
    if is_corpus(out) and not _is_older(out / HEADER, *recordings):
        _check_speaker(out, arguments.speaker)
        if not arguments.quiet:
            message(f"note: {out} is there, prepared from {source} as it is")
        return out
    summary = prepare(
        "folder",
        source,
        out,
        sample_rate=card.sample_rate,
        level_db=float(card.about.get("level_db", -23.0)),
        speaker=arguments.speaker,
        quiet=arguments.quiet,
    )
    if not arguments.quiet:
        message(f"{out}: {summary.table().splitlines()[0]}")
    return out


def _is_older(made: Path, *sources: Path) -> bool:
    """Whether one of its sources was changed, or put there, after a file was made."""
    return any(path.stat().st_ctime > made.stat().st_mtime for path in sources if path.exists())


def conversions_of(arguments: argparse.Namespace, corpus: Path) -> list[str]:
    """The corpus RUN-replay of conversions of the recordings to the model's voices, where the
    recordings that it was trained on are not at hand; else none.

    Raises UserInputError.
    """
    from vqwave.data import Corpus
    from vqwave.data.corpus import HEADER, is_corpus
    from vqwave.inference.model_folder import find_model, load_trained
    from vqwave.inference.speech_model import SpeechModel
    from vqwave.training.added_voice import AddedVoice
    from vqwave.training.generated_replay import prepare_conversions
    from vqwave.training.replay import Replay, corpora_of_run, join

    out = Path(f"{arguments.out}-replay")
    if corpora_of_run(Path(arguments.model)):
        return []
    if is_corpus(out) and not _is_older(out / HEADER, corpus / HEADER):
        if not arguments.quiet:
            message(f"note: {out} is there, converted before; remove it to convert again")
        return [str(out)]
    loaded, recordings = load_trained(find_model(arguments.model)), Corpus.open(corpus)
    added, model = AddedVoice.to(loaded, arguments.speaker), SpeechModel(loaded.model, loaded.card)
    if recordings.sample_rate != model.sample_rate:
        raise UserInputError(
            f"{corpus}: at {recordings.sample_rate} Hz, expected the {model.sample_rate} Hz of"
            f" {arguments.model}"
        )
    labels = {name: added.labels[name] for name in added.spec.decoder.conditioner.categorical}
    # refuses what the training would, before anything is converted
    own = join(recordings, arguments.speaker, Replay([], []), labels, loaded.card)
    if not arguments.quiet:
        message(
            f"note: no recordings of the voices of {arguments.model} are at hand, conversions are"
            f" replayed; --replay CORPUS with recordings of them reaches {arguments.speaker} better"
        )
    prepare_conversions(model, own, arguments.speaker, out, quiet=arguments.quiet)
    return [str(out)]


def _check_speaker(folder: Path, speaker: str) -> None:
    """Raises UserInputError where the recordings were prepared under another name."""
    from vqwave.data import Corpus

    names = Corpus.open(folder).speakers
    if speaker not in names:
        raise UserInputError(
            f"{folder}: prepared before as speaker {', '.join(names)}; expected --speaker"
            f" {names[0]}, or that folder removed"
        )
