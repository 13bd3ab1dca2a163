"""The listening page of the documentation: for each shipped model a recording, its reconstruction
and its conversion to another voice, and what a prior generates.

python benchmarks/listening.py [--data CORPUS ...] [--out docs]

Writes `listening.md` and the folder `sounds` (.ogg, all at one level) into `--out`, in place of
older ones. Corpora are those that the models were trained on, as `vqwave prepare` wrote them;
recordings are of the test split. Models that share a codec share a table.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import soundfile
import yaml

import vqwave
from vqwave.atomic_files import new_folder, write_text
from vqwave.audio import normalise_level
from vqwave.inference.model_files import CARD, SHIPPED
from vqwave.inference.speech_model import SpeechModel
from vqwave.names import file_names
from vqwave.report.demonstration import (
    Recording,
    Sample,
    copies,
    generated,
    recordings_of,
    trained_voices,
)

CORPORA = (Path("data/fsdd"), Path("data/librispeech"))
UTTERANCES = 2  # of a corpus, by one speaker each
LEVEL_DB = -23.0
LARGEST_BYTES = 600_000
COMPRESSION = 0.6  # of Vorbis, from 0 (best quality) to 1

HEAD = f"""# Listening page

What the shipped models make of recordings that they were not trained on, chosen by a rule and not
by ear. All sounds are at {LEVEL_DB:.0f} dBFS (RMS). Figures: [results](results.md). This page is
made by `python benchmarks/listening.py`.
"""


@dataclass
class Family:
    """Shipped models that share a codec: decoders by name, the teacher first, and priors."""

    decoders: dict[str, SpeechModel] = field(default_factory=dict)
    priors: dict[str, SpeechModel] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """That of its first model."""
        return next(iter({**self.decoders, **self.priors}))

    @property
    def model(self) -> SpeechModel:
        """Its first model."""
        return next(iter({**self.decoders, **self.priors}.values()))

    @property
    def licence(self) -> str:
        """Of the weights, from the model's page."""
        page = SHIPPED / self.name / "README.md"
        _, start, rest = page.read_text("utf-8").partition("---\n")
        front = yaml.safe_load(rest.partition("\n---")[0]) if start else {}
        return str(front.get("license", "unknown")).upper()


@dataclass(frozen=True)
class Row:
    """A row of a table: its title, and a sound in each column that has one."""

    title: str
    parts: tuple[str, ...]  # of the files' names
    sounds: Sequence[Sample | None]


def families() -> list[Family]:
    """All shipped models that make speech from codes."""
    found: dict[str, Family] = {}
    for folder in sorted(path.parent for path in SHIPPED.glob(f"*/{CARD}")):
        model = vqwave.load(folder)
        family = found.setdefault(model.fingerprint, Family())
        (family.decoders if model.prior is None else family.priors)[folder.name] = model
    return list(found.values())


def corpus_of(family: Family, paths: Sequence[Path]) -> Path:
    """The corpus that a family was trained on."""
    wanted = family.model.card.about.get("corpus")
    known = {vqwave.Corpus.open(path).name: path for path in paths}
    if wanted not in known:
        given = ", ".join(map(str, paths))
        raise vqwave.UserInputError(
            f"--data: {family.name} was trained on {wanted}, expected it among {given}"
        )
    return known[wanted]


def rows_of(family: Family, recordings: Sequence[Recording]) -> Iterator[Row]:
    """The recordings, each decoder's reconstructions, and its conversions."""
    clips = [Sample.of(recording) for recording in recordings]
    yield Row("recording", ("recording",), clips)
    made = {name: copies(model, recordings) for name, model in family.decoders.items()}
    kinds = {"reconstruction": "", "conversion": ", converted to the other speaker"}
    for kind, title in kinds.items():
        for name, samples in made.items():
            mine = {s.clip.utterance: s for s in samples if s.clip.kind == kind}
            sounds = [mine.get(recording.name) for recording in recordings]
            yield Row(f"`{name}`{title}", (name, kind), sounds)


def table(family: str, head: Sequence[str], rows: Sequence[Row], folder: Path) -> str:
    """Write the sounds of a table, and return its text."""
    lines = ["| | " + " | ".join(head) + " |", "|---" * (len(head) + 1) + "|"]
    places = [(family, *row.parts, str(column + 1)) for row in rows for column in range(len(head))]
    names = file_names(places, ".ogg")
    for row in rows:
        cells = []
        for column, sample in enumerate(row.sounds):
            if sample is None:
                cells.append("")
                continue
            name = names[family, *row.parts, str(column + 1)]
            write_sound(folder / name, sample)
            seconds = len(sample.wave) / sample.sample_rate
            to = f", as {sample.clip.target}" if sample.clip.kind == "conversion" else ""
            cells.append(f"[{seconds:.1f} s{to}](sounds/{name})")
        lines.append(f"| {row.title} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def write_sound(path: Path, sample: Sample) -> None:
    soundfile.write(
        path,
        normalise_level(sample.wave, LEVEL_DB),
        sample.sample_rate,
        format="OGG",
        subtype="VORBIS",
        compression_level=COMPRESSION,
    )


def section(family: Family, paths: Sequence[Path], folder: Path) -> str:
    """The part of the page that has a family's sounds."""
    model = family.model
    corpus = corpus_of(family, paths)
    recordings = recordings_of([corpus], trained_voices(model), UTTERANCES)
    bit_rate = model.card.about.get("bit_rate")
    rate = f"{model.sample_rate:,} Hz" + (f", {bit_rate:.0f} bit/s of codes" if bit_rate else "")
    text = f"## {family.name}\n\n{rate}; recordings and weights: {family.licence}.\n\n"
    head = [f"{r.speaker}: “{r.text.capitalize()}”" for r in recordings]
    text += table(family.name, head, list(rows_of(family, recordings)), folder)
    for name, prior in family.priors.items():
        samples = generated(prior)
        head = [sample.clip.utterance for sample in samples]
        text += f"\nGenerated by the prior `{name}`, from its labels alone:\n\n"
        text += table(name, head, [Row(f"`{name}`", ("generated",), samples)], folder)
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--data", nargs="+", type=Path, default=CORPORA, metavar="CORPUS")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    options = parser.parse_args()
    try:
        with new_folder(options.out / "sounds") as folder:
            sections = [section(family, options.data, folder) for family in families()]
            size = sum(path.stat().st_size for path in folder.iterdir())
            if size > LARGEST_BYTES:
                raise vqwave.UserInputError(
                    f"sounds: {size:,} bytes, expected at most {LARGEST_BYTES:,}"
                )
    except vqwave.UserInputError as error:
        sys.exit(f"error: {error}")
    write_text(options.out / "listening.md", "\n".join([HEAD, *sections]))
    print(f"{options.out / 'listening.md'}: {size:,} bytes of sound")


if __name__ == "__main__":
    main()
