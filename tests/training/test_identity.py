"""A run is resumed on the corpus and the models that it was begun with, and on nothing else."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import small_experiment
from safetensors.torch import load_file, save_file
from small_experiment import SmallExperiment
from small_models import stack

from vqwave import audio
from vqwave.config import option, spec
from vqwave.data import Batch, Corpus, prepare
from vqwave.data.frame_tracks import FrameFile, PitchTrack
from vqwave.distributions import MuLaw
from vqwave.errors import UserInputError
from vqwave.losses import negative_log_likelihood
from vqwave.models import WaveNetSpec
from vqwave.nn.condition import ConditionerSpec
from vqwave.training import identity
from vqwave.training.experiment import StepOutput
from vqwave.training.run_folder import claim
from vqwave.training.settings import DataSpec, OptimSpec, TrainSpec
from vqwave.training.trainer import RunInterruptedError, Trainer

ROOT, HOP = Path(__file__).resolve().parents[2], 80


@spec
class Config(small_experiment.Config):
    source: Path | None = option(default=None)


class Tiny(SmallExperiment[Config]):
    """A speaker's WaveNet, perhaps made from another model, and perhaps with frames from files."""

    name = "tiny"
    config_class = Config
    model_spec = WaveNetSpec(
        head=MuLaw(classes=16),
        network=stack(4),
        conditioner=ConditionerSpec(channels=4, categorical=("speaker",)),
    )
    hop = HOP

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        if config.source is not None:
            self.sources.load("source", config.source)

    @property
    def tracks(self) -> list[FrameFile]:
        return [FrameFile("mel", HOP, 2)] if (self.corpus.folder / "frames").exists() else []

    def losses(self, batch: Batch) -> StepOutput:
        predicted = self.network(batch.wave, batch.labels)
        return StepOutput({"nll": negative_log_likelihood(predicted, batch.wave, batch.mask)})


def recordings(folder: Path, speakers: tuple[str, ...] = ("ann", "bob")) -> Path:
    """Twelve a speaker, of noise, drawn by the place of the speaker and not by the name."""
    for number, speaker in enumerate(speakers):
        (folder / speaker).mkdir(parents=True)
        for take in range(12):
            wave = 0.1 * np.random.default_rng([number, take]).standard_normal(800)
            audio.write(folder / speaker / f"{take}.wav", wave.astype(np.float32), 8000)
    return folder


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    prepare("folder", recordings(folder / "in"), folder / "corpus", quiet=True)
    beside(folder / "corpus")
    return folder / "corpus"


@pytest.fixture
def corpus(prepared: Path, tmp_path: Path) -> Path:
    """A corpus with given vectors and frames from files, which a test may change."""
    return shutil.copytree(prepared, tmp_path / "corpus")


def beside(corpus: Path) -> None:
    """Vectors and frames, which `prepare` does not make."""
    found = Corpus.open(corpus)
    (corpus / "vectors").mkdir()
    np.save(corpus / "vectors" / "voice.npy", np.arange(2.0 * len(found.utterances)).reshape(-1, 2))
    for row, utterance in enumerate(found.utterances):
        path = FrameFile("mel", HOP, 2).path(found, row)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.full((2, -(-utterance.frames // HOP)), row))


def config(corpus: Path, run: Path, steps: int = 4, source: Path | None = None) -> Config:
    return Config(
        run=run,
        source=source,
        data=DataSpec(
            corpus=corpus, clip_seconds=0.02, batch=2, valid_clip_seconds=0.02, valid_clips=2
        ),
        optim=OptimSpec(lr=1e-2, warmup=2),
        train=TrainSpec(steps=steps, log_every=1, valid_every=2, save_every=2, threads=1),
    )


def begin(settings: Config) -> None:
    """A run that is stopped after its first step."""
    loop = Trainer(Tiny(settings), quiet=True)
    loop.stop.signal = 15
    with pytest.raises(RunInterruptedError):
        loop.run()


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def weights(run: Path) -> bytes:
    return (run / "checkpoints" / "step-00000004" / "network.safetensors").read_bytes()


def prepared_anew(corpus: Path, speakers: tuple[str, ...] = ("ann", "bob"), **how: float) -> None:
    for name in ("vectors", "frames"):
        shutil.rmtree(corpus / name)  # which would be refused, not lost
    prepare("folder", recordings(corpus.with_name("in"), speakers), corpus, quiet=True, **how)
    beside(corpus)


def with_index(corpus: Path, change: Callable[[dict], object]) -> None:
    rows = [json.loads(line) for line in (corpus / "index.jsonl").read_text().splitlines()]
    for row in rows:
        change(row)
    (corpus / "index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def with_another_recording(corpus: Path) -> None:
    """Of the same length, and not among the excerpts: the digest that `prepare` writes shows it."""
    shard, header = corpus / "shard-00000.i16", json.loads((corpus / "corpus.json").read_text())
    samples = np.fromfile(shard, "<i2")
    samples[:100] *= -1
    shard.write_bytes(samples.tobytes())
    header["sha256"] = {shard.name: hashlib.sha256(shard.read_bytes()).hexdigest()}
    (corpus / "corpus.json").write_text(json.dumps(header))


def with_another_shard(corpus: Path) -> None:
    """Put there by hand; the index and its digests are the old ones."""
    shard = corpus / "shard-00000.i16"
    shard.write_bytes((np.fromfile(shard, "<i2") // 2).tobytes())


def with_other_vectors(corpus: Path) -> None:
    np.save(corpus / "vectors" / "voice.npy", np.ones((24, 2)))


def with_other_frames(corpus: Path) -> None:
    found = Corpus.open(corpus)
    path = FrameFile("mel", HOP, 2).path(found, found.of("train")[-1])
    np.save(path, 1 + np.load(path))


CHANGES = {
    "two speakers swap names": (
        lambda c: prepared_anew(c, ("bob", "ann")),
        "begun with: other excerpts; other samples; bring",
    ),
    "one speaker more": (
        lambda c: prepared_anew(c, ("ann", "bob", "cid")),
        r"recordings 36, expected 24; .*speaker labels 3, expected 2; .*bring",
    ),
    "another rate": (
        lambda c: prepared_anew(c, sample_rate=16000),
        "sample rate 16000 Hz, expected 8000 Hz",
    ),
    "another level": (
        lambda c: prepared_anew(c, level_db=-30.0),
        "level -30 dBFS, expected -23 dBFS",
    ),
    "labels of the index": (
        lambda c: with_index(
            c, lambda r: r["labels"].update(speaker="bob" if r["speaker"] == "ann" else "ann")
        ),
        "begun with: other speaker labels; bring",
    ),
    "texts": (
        lambda c: with_index(c, lambda r: r.update(text=r["id"] + "!")),
        "begun with: texts 24, expected 1",
    ),
    "splits": (
        lambda c: with_index(c, lambda r: r.update(split=r["split"].replace("test", "train"))),
        "begun with: splits ",
    ),
    "phones": (
        lambda c: with_index(c, lambda r: r.update(phones=[[0, "a"]])),
        "begun with: phones 24, expected 0",
    ),
    "one recording": (with_another_recording, "begun with: other samples; bring"),
    "a shard": (with_another_shard, "begun with: other excerpts; bring"),
    "vectors": (with_other_vectors, "begun with: other vectors voice; bring"),
    "no vectors": (
        lambda c: shutil.rmtree(c / "vectors"),
        "begun with: vectors voice none, expected 24 x 2",
    ),
    "frames": (with_other_frames, "begun with: other frames mel; bring"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_another_corpus_is_refused_before_anything_is_touched(
    corpus: Path, tmp_path: Path, what: str
) -> None:
    settings, run, (change, said) = (
        config(corpus, tmp_path / "run"),
        tmp_path / "run",
        CHANGES[what],
    )
    with ExitStack() as held:
        claim(Tiny(settings), held, restart=False)
    (run / ".metrics.jsonl.1").touch()  # what a killed process left, and a resumed run sweeps away
    before = contents(run)
    change(corpus)
    with ExitStack() as held, pytest.raises(UserInputError, match=said) as found:
        claim(Tiny(replace(settings, train=replace(settings.train, steps=5))), held, restart=False)
    assert str(found.value).startswith(
        f"{run}: data.corpus {corpus} is not what this run was begun with: "
    )
    assert str(found.value).endswith("; bring that back, choose another run=..., or --restart")
    assert contents(run) == before
    with ExitStack() as held:
        claim(Tiny(settings), held, restart=True)
    with ExitStack() as held:
        claim(Tiny(settings), held, restart=False)
    assert contents(run).keys() == {"config.yaml", "identity.json"}


def test_the_same_corpus_prepared_again_is_the_same(corpus: Path, tmp_path: Path) -> None:
    """With vectors that the run does not know beside it, and bit for bit."""
    settings = config(corpus, tmp_path / "run")
    Trainer(Tiny(config(corpus, tmp_path / "whole")), quiet=True).run()
    begin(settings)
    prepared_anew(corpus)
    np.save(corpus / "vectors" / "another.npy", np.zeros((24, 3)))
    Trainer(Tiny(settings), quiet=True).run()
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")
    copied = shutil.copytree(corpus, tmp_path / "elsewhere")
    assert (
        identity.of_corpus(Corpus.open(copied)).parts
        == identity.of_corpus(Corpus.open(corpus)).parts
    )


def test_a_run_goes_on_where_it_was_moved_and_its_corpus_too(corpus: Path, tmp_path: Path) -> None:
    settings = config(corpus, tmp_path / "run")
    with ExitStack() as held:
        claim(Tiny(settings), held, restart=False)
    (tmp_path / "run").rename(tmp_path / "moved")
    corpus.rename(tmp_path / "elsewhere")
    moved = config(tmp_path / "elsewhere", tmp_path / "moved")
    with ExitStack() as held:
        claim(Tiny(moved), held, restart=False)
    with ExitStack() as held, pytest.raises(UserInputError, match="holds a run with another seed"):
        claim(Tiny(replace(moved, seed=7)), held, restart=False)


def test_stored_f0_counts_where_a_network_reads_it(corpus: Path) -> None:
    stored = Corpus.open(corpus).pitch
    track = PitchTrack(stored.hop, stored.lowest, stored.highest)
    before = [identity.of_corpus(Corpus.open(corpus), tracks).parts for tracks in ([], [track])]
    (corpus / "pitch.f32").write_bytes((100 + np.fromfile(corpus / "pitch.f32", "<f4")).tobytes())
    after = [identity.of_corpus(Corpus.open(corpus), tracks).parts for tracks in ([], [track])]
    assert before[0] == after[0]
    assert {name for name, part in after[1].items() if before[1][name] != part} == {"frames pitch"}


def without_digests(corpus: Path) -> None:
    header = json.loads((corpus / "corpus.json").read_text())
    del header["sha256"]
    (corpus / "corpus.json").write_text(json.dumps(header))


@pytest.mark.parametrize("when", ["begun", "resumed"])
def test_a_corpus_of_an_older_release_has_no_digests(
    corpus: Path, tmp_path: Path, when: str
) -> None:
    """Whichever of the two it is; its excerpts still tell it from another."""
    settings = config(corpus, tmp_path / "run")
    if when == "begun":
        without_digests(corpus)
    begin(settings)
    prepared_anew(corpus)
    if when == "resumed":
        without_digests(corpus)
    Trainer(Tiny(settings), quiet=True).run()
    with_another_shard(corpus)
    with pytest.raises(UserInputError, match="begun with: other excerpts; bring"):
        Trainer(Tiny(settings), quiet=True)


def test_a_run_of_an_older_release_goes_on_with_a_note(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, run = config(corpus, tmp_path / "run"), tmp_path / "run"
    Trainer(Tiny(config(corpus, tmp_path / "whole")), quiet=True).run()
    begin(settings)
    (run / "identity.json").unlink()
    assert "note" not in capsys.readouterr().err
    Trainer(Tiny(settings), quiet=True).run()
    assert (
        f"note: {run}: begun by an older release, without identity.json; whether data.corpus"
        in capsys.readouterr().err
    )
    assert weights(run) == weights(tmp_path / "whole")
    prepared_anew(corpus, ("bob", "ann"))
    with pytest.raises(UserInputError, match="is not what this run was begun with"):
        Trainer(Tiny(settings), quiet=True)


def test_an_older_run_with_a_speaker_more_is_refused_in_a_line(
    corpus: Path, tmp_path: Path
) -> None:
    begin(config(corpus, tmp_path / "run"))
    (tmp_path / "run" / "identity.json").unlink()
    prepared_anew(corpus, ("ann", "bob", "cid"))
    with pytest.raises(
        UserInputError,
        match=r"its checkpoint is of another model than these settings build .*size mismatch",
    ) as found:
        Trainer(Tiny(config(corpus, tmp_path / "run")), quiet=True)
    assert "\n" not in str(found.value)


def test_a_damaged_identity_is_named(corpus: Path, tmp_path: Path) -> None:
    begin(config(corpus, tmp_path / "run"))
    for text in ("{", "[]", '{"data.corpus": 1}'):
        (tmp_path / "run" / "identity.json").write_text(text)
        with pytest.raises(UserInputError, match=r"identity\.json: damaged"):
            Trainer(Tiny(config(corpus, tmp_path / "run")), quiet=True)


def test_a_run_with_a_source_model_does_not_go_on_without(corpus: Path, tmp_path: Path) -> None:
    Trainer(Tiny(config(corpus, tmp_path / "teacher")), quiet=True).run()
    settings = config(corpus, tmp_path / "run", source=tmp_path / "teacher")
    begin(settings)
    with pytest.raises(UserInputError, match="holds a run with another source"):
        begin(replace(settings, source=None))


def test_another_source_model_is_refused(corpus: Path, tmp_path: Path) -> None:
    """Its weights, or its settings; what a card says about its training may change."""
    Trainer(Tiny(config(corpus, tmp_path / "teacher")), quiet=True).run()
    settings = config(corpus, tmp_path / "run", source=tmp_path / "teacher")
    begin(settings)
    card, file = (
        tmp_path / "teacher" / "model" / "config.json",
        tmp_path / "teacher" / "model" / "model.safetensors",
    )
    tree = json.loads(card.read_text())
    tree["about"]["seconds"] += 1
    card.write_text(json.dumps(tree))
    Trainer(Tiny(settings), quiet=True).run()
    tree["spec"]["head"]["classes"] = 16
    tree["labels"]["speaker"].reverse()
    card.write_text(json.dumps(tree))
    said = (
        rf"source {re.escape(str(tmp_path / 'teacher'))} is not what this run was begun with: other"
        r" settings; bring"
    )
    with pytest.raises(UserInputError, match=said):
        Trainer(Tiny(settings), quiet=True)
    tree["labels"]["speaker"].reverse()
    card.write_text(json.dumps(tree))
    save_file({name: value + 1 for name, value in load_file(file).items()}, file)
    with pytest.raises(
        UserInputError, match=r"is not what this run was begun with: other weights; bring"
    ):
        Trainer(Tiny(settings), quiet=True)


def test_no_experiment_loads_a_model_past_its_identity() -> None:
    """Each setting that is a path comes by `Sources.load`, or `load_typed`, which calls it."""
    texts = [path.read_text() for path in (ROOT / "experiments").glob("*.py")]
    assert not any("load_trained" in text for text in texts)
    loads = r"sources\.load(?:_typed)?\(\s*\"([\w.]+)\""
    named = {name for text in texts for name in re.findall(loads, text)}
    paths = {
        name for text in texts for name in re.findall(r"^    (\w+): Path\b", text, re.MULTILINE)
    }
    assert paths >= {"frozen_codec", "codec", "teacher"}
    assert named == paths | {"perceptual.classifier"}


def test_more_steps_are_said_where_the_run_goes_on(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    begin(config(corpus, run))
    Trainer(Tiny(config(corpus, run)))
    assert f"resuming {run} at step 1\n" in capsys.readouterr().err
    more = config(corpus, run, steps=8)
    said = [more.optim.lr_at(1, steps) for steps in (8, 4)]
    assert said[0] == said[1]  # in the warm-up
    Trainer(Tiny(more))
    assert f"resuming {run} at step 1 of 8, 4 before\n" in capsys.readouterr().err
    Trainer(Tiny(config(corpus, run)), quiet=True).run()
    capsys.readouterr()
    for _ in range(2):  # the checkpoint says, and not the settings that a killed resume has written
        Trainer(Tiny(more))
        lr = [f"{more.optim.lr_at(4, steps):.4g}" for steps in (8, 4)]
        line = (
            f"resuming {run} at step 4 of 8, 4 before: the learning rate of the next step is"
            f" {lr[0]}, {lr[1]} before\n"
        )
        assert line in capsys.readouterr().err
        assert lr[0] != lr[1]
    flat = replace(more, run=tmp_path / "flat", optim=replace(more.optim, schedule="constant"))
    begin(flat)
    Trainer(Tiny(replace(flat, train=replace(flat.train, steps=9))))
    assert f"resuming {flat.run} at step 1 of 9, 8 before\n" in capsys.readouterr().err
