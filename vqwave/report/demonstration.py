"""Sounds that trained models make of given recordings, where they have no samples of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vqwave.audio import Wave, read, write
from vqwave.data.corpus import Corpus, Utterance, is_corpus
from vqwave.errors import UserInputError, under
from vqwave.names import file_names
from vqwave.report.run import Clip, Run

if TYPE_CHECKING:
    from vqwave.inference.speech_model import SpeechModel

SPEAKERS = 3  # of a corpus, an utterance each
LONGEST = 6.0  # seconds of an utterance that is preferred, and of what a prior generates
GENERATED = 3  # utterances of a prior


@dataclass(frozen=True)
class Recording:
    """A recording (T,); `speaker` and `text` are those of its corpus."""

    name: str
    wave: Wave
    sample_rate: int
    speaker: str | None = None
    text: str = ""


@dataclass(frozen=True)
class Sample:
    """A recording, or what a model made of it; the clip has no path yet."""

    clip: Clip
    wave: Wave
    sample_rate: int

    @classmethod
    def of(cls, recording: Recording) -> Sample:
        """The recording itself."""
        return cls(_clip(recording, "original"), recording.wave, recording.sample_rate)


def recordings_of(
    paths: Sequence[Path], speakers: Sequence[str] = (), count: int = SPEAKERS
) -> list[Recording]:
    """Sound files, and of each corpus an utterance of the test split by `count` speakers.

    speakers: of whom they are taken, if the corpus has them. Raises UserInputError.
    """
    result = []
    for path in paths:
        if is_corpus(path):
            result += _of_corpus(Corpus.open(path), speakers, count)
        else:
            result.append(Recording(path.stem, *read(path)))
    return result


def _of_corpus(corpus: Corpus, speakers: Sequence[str], count: int) -> list[Recording]:
    """Of each speaker the longest utterance that is not too long, else the shortest."""
    rows: dict[str, list[int]] = {}
    for row in corpus.of("test") or corpus.of("valid"):
        rows.setdefault(corpus.utterances[row].speaker, []).append(row)
    names = [name for name in speakers if name in rows] or sorted(rows)
    chosen = [
        names[k * len(names) // min(count, len(names))] for k in range(min(count, len(names)))
    ]
    if not chosen:
        raise UserInputError(f"{corpus.folder}: no utterance of the split test or valid")

    def rank(row: int) -> tuple[bool, float, str]:
        utterance = corpus.utterances[row]
        seconds = utterance.frames / corpus.sample_rate
        fits = seconds <= LONGEST
        return not fits, -seconds if fits else seconds, utterance.id

    best = [min(rows[name], key=rank) for name in chosen]
    return [_recording(corpus, row, corpus.utterances[row]) for row in best]


def _recording(corpus: Corpus, row: int, utterance: Utterance) -> Recording:
    facts = (corpus.sample_rate, utterance.speaker, utterance.text)
    return Recording(utterance.id, corpus.read(row), *facts)


def trained_voices(model: SpeechModel) -> list[str]:
    """Speakers that the decoder is conditioned on and was trained on."""
    if "speaker" not in model.decoder.conditioner.labels:
        return []
    return model.card.trained("speaker")


def copies(
    model: SpeechModel, recordings: Sequence[Recording], *, kind: str = "reconstruction"
) -> list[Sample]:
    """Each recording decoded from its codes, in its own voice and in those of the others.

    A model that takes voices by their vectors takes those of the recordings. Of any other, a
    speaker that it does not know has the first of its voices. kind: of the copies in their own
    voice. Raises UserInputError for a model that makes no codes.
    """
    voices, references = trained_voices(model), {}
    names = [recording.speaker or recording.name for recording in recordings]
    if model.decoder.conditioner.vector_sizes and not voices:
        references = {
            name: (recording.wave, recording.sample_rate)
            for name, recording in zip(names, recordings, strict=True)
        }
        voices = list(references)
    own = [name if name in voices else next(iter(voices), None) for name in names]
    targets = [voice for voice in dict.fromkeys(own) if voice is not None]
    if len(targets) < 2:
        targets += [voice for voice in voices if voice not in targets][: 2 - len(targets)]
    tasks = []
    for place, voice in enumerate(own):
        tasks.append((place, kind, voice))
        tasks += [(place, "conversion", target) for target in targets if target != voice]
    coded = [model.encode(recording.wave, recording.sample_rate) for recording in recordings]
    waves = model.decode_many(
        [coded[place] for place, _, _ in tasks],
        [None if references else voice for _, _, voice in tasks],
        likes=[references.get(voice or "") for _, _, voice in tasks],
    )
    return [
        Sample(
            _clip(recordings[place], kind, None if voice == names[place] else voice),
            wave.cpu().numpy(),
            model.sample_rate,
        )
        for (place, kind, voice), wave in zip(tasks, waves, strict=True)
    ]


def generated(model: SpeechModel, count: int = GENERATED) -> list[Sample]:
    """What a prior over codes generates: another speaker and text each, where it has such labels.

    Raises UserInputError for a model without a prior.
    """
    if model.prior is None:
        raise UserInputError("this model has no prior over codes, expected one")
    known = {name: model.prior.labels[name] for name in model.prior.labels}
    if "speaker" in known:
        known["speaker"] = trained_voices(model) or known["speaker"]
    result = []
    for seed in range(count):
        labels: dict[str, str | None] = {
            name: values[(seed + 1) * len(values) // (count + 1)]
            for name, values in known.items()
            if name in ("speaker", "text") and values
        }
        codes = model.prior.draw(labels=labels, seed=seed, longest=LONGEST)
        wave = model.decode_many(codes, [None], labels=[labels], seed=seed)[0].cpu().numpy()
        text, speaker = labels.get("text"), labels.get("speaker")
        title = f"“{text}”" if text else f"Utterance {seed + 1}"
        clip = Clip(f"{title} as {speaker}" if speaker else title, "generation", "", speaker, text)
        result.append(Sample(clip, wave, model.sample_rate))
    return result


def _clip(recording: Recording, kind: str, target: str | None = None) -> Clip:
    return Clip(recording.name, kind, "", recording.speaker, recording.text, target)


def demonstrated(runs: Sequence[Run], paths: Sequence[Path], folder: Path) -> list[Run]:
    """The runs with sounds that they make of recordings (see `recordings_of`), written into
    `folder`, in place of their own samples.

    Raises UserInputError that names the model which cannot.
    """
    from vqwave.inference.speech_model import SpeechModel

    voices = [name for run in runs if run.card for name in run.card.trained("speaker")]
    recordings = recordings_of(paths, list(dict.fromkeys(voices)))
    result = []
    for number, run in enumerate(runs):
        with under(str(run.folder)):
            if run.codes_only:
                samples = []
            else:
                model = SpeechModel.load(run.folder)
                kind = "student" if run.is_student else "reconstruction"
                samples = generated(model) if model.prior else copies(model, recordings, kind=kind)
        if number == 0:
            samples = [*map(Sample.of, recordings), *samples]
        result.append(_with_samples(run, samples, folder / str(number)))
    return result


def _with_samples(run: Run, samples: Sequence[Sample], folder: Path) -> Run:
    folder.mkdir()
    parts = [
        (sample.clip.utterance, sample.clip.kind, sample.clip.target or "") for sample in samples
    ]
    names = file_names((tuple(filter(None, each)) for each in parts), ".flac")
    clips = []
    for sample, each in zip(samples, parts, strict=True):
        path = names[tuple(filter(None, each))]
        write(folder / path, sample.wave, sample.sample_rate)
        clips.append(replace(sample.clip, path=path))
    return replace(run, clips=clips, sounds=folder)
