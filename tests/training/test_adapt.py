"""A voice more in a trained VQ-VAE: codes and fingerprint stay, validation selects, a resume is
exact, and what cannot be adapted is refused in one line.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from vqwave import audio, cli
from vqwave.data import Corpus, Segments, evaluation_batches, prepare
from vqwave.data.joined import JoinedCorpus, Part
from vqwave.data.mixed_segments import MixedSegments
from vqwave.decode.sampling import Sampling
from vqwave.errors import UserInputError
from vqwave.inference.model_folder import load_trained, save_trained
from vqwave.inference.speech_model import SpeechModel
from vqwave.models import StudentSpec
from vqwave.nn.auxiliary.spectral_decoder import EMBEDDING
from vqwave.nn.wavenet import StackSpec
from vqwave.training import spectral_adaptation
from vqwave.training.adaptation import Adaptation, objective_of
from vqwave.training.added_voice import BEYOND, AddedVoice
from vqwave.training.coded_clips import CodedClips
from vqwave.training.command_line import main
from vqwave.training.pace import Pace
from vqwave.training.replay import Replay, corpora_of_run, join
from vqwave.training.selection import Selection
from vqwave.training.spectral_adaptation import SpectralAdaptation

RATE = 8000
PLAIN = Sampling(backend="reference")
VOICES = {"high": 220.0, "low": 100.0, "mid": 150.0, "new": 180.0}
MEL = "{kind: log_mel, bands: 8, fmin: 100, fmax: 4000}"
SIZES = [
    "data.clip_seconds=0.2",
    "data.batch=2",
    "data.valid_clip_seconds=0.2",
    "data.valid_clips=4",
    "num_samples=0",
    "train.threads=1",
]
BASE = [
    "model.encoder.kind=spectral",
    "model.encoder.channels=8",
    "model.encoder.latent_dim=4",
    f"model.encoder.features={MEL}",
    "model.quantizer.codebook_size=8",
    "model.quantizer.kmeans_after_steps=1",
    f"model.spectral_decoder={{channels: 8, features: {MEL}}}",
    "model.decoder_input=spectrogram",
    "model.decoder.network={layers: 2, dilation_cycle: 2, residual_channels: 4, gate_channels: 4}",
    "model.decoder.network.skip_channels=4",
    "model.decoder.network.hidden_channels=4",
    "model.decoder.conditioner.channels=4",
    "losses={nll: 1.0, spectral: 1.0}",
    "train.steps=6",
]
QUICK = [*SIZES, "train.minutes=null", "train.valid_every=4", "train.save_every=4"]


def sound(voice: str, take: int, seconds: float = 0.4) -> np.ndarray:
    """Harmonics of a voice's own height, and a little noise."""
    rng, t = np.random.default_rng(take), np.arange(round(seconds * RATE)) / RATE
    phase = 2 * np.pi * VOICES[voice] * rng.uniform(0.97, 1.03) * t
    wave = sum(np.cos(k * phase) / k for k in range(1, 10))
    return (0.05 * wave + 1e-3 * rng.standard_normal(len(t))).astype(np.float32)


def corpus_of(folder: Path, voices: list[str], takes: int = 6) -> Path:
    """A corpus of these voices."""
    for voice in voices:
        (folder / "in" / voice).mkdir(parents=True)
        for take in range(takes):
            audio.write(folder / "in" / voice / f"{take}.wav", sound(voice, take), RATE)
    prepare("folder", folder / "in", folder / "corpus", quiet=True)
    return folder / "corpus"


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return corpus_of(tmp_path_factory.mktemp("old"), ["high", "low", "mid"])


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return corpus_of(tmp_path_factory.mktemp("new"), ["new"])


@pytest.fixture(scope="module")
def base(
    old: Path,
    tmp_path_factory: pytest.TempPathFactory,
    experiment_script: Callable[[str], ModuleType],
) -> Path:
    run = tmp_path_factory.mktemp("base") / "run"
    experiment = experiment_script("vqvae").VQVAEExperiment
    main(experiment, [f"run={run}", f"data.corpus={old}", *SIZES, *BASE, "--quiet"])
    return run


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the spectral decoder, before the first step."""
    monkeypatch.setattr(spectral_adaptation, "FIRST", 2)
    monkeypatch.setattr(spectral_adaptation, "STEPS", 4)


@pytest.fixture
def adapt(
    base: Path, new: Path, experiment_script: Callable[[str], ModuleType]
) -> Callable[..., None]:
    experiment = experiment_script("adapt").AdaptExperiment

    def adapted(run: Path, *settings: str) -> None:
        given = [f"base={base}", f"data.corpus={new}", "speaker=new", f"run={run}"]
        main(experiment, [*given, *QUICK, "train.steps=8", *settings, "--quiet"])

    return adapted


def test_codes_and_fingerprint_stay_and_the_voice_is_there(
    adapt: Callable[..., None], base: Path, old: Path, tmp_path: Path
) -> None:
    loaded = load_trained(base)
    with torch.no_grad():  # an average of -0 and -0 is 0, which is another fingerprint
        next(loaded.model.encoder.parameters()).view(-1)[0] = -0.0
    save_trained(tmp_path / "model", loaded.model, loaded.card)
    adapt(tmp_path / "run", f"base={tmp_path / 'model'}", f"replay=[{old}]")
    base = tmp_path / "model"
    before, after = SpeechModel.load(base), SpeechModel.load(tmp_path / "run")
    assert after.fingerprint == before.fingerprint
    wave = sound("new", 9)
    codes = before.encode(wave, RATE)
    assert np.array_equal(codes.codes, after.encode(wave, RATE).codes)
    assert after.speakers == ["high", "low", "mid", "new"]
    spoken = after.decode(codes, speaker="new", sampling=PLAIN)
    assert len(spoken) == len(wave)
    for part in ("encoder", "quantizer"):
        kept = getattr(load_trained(base).model, part).state_dict()
        moved = getattr(load_trained(tmp_path / "run").model, part).state_dict()
        assert all(torch.equal(kept[name], moved[name]) for name in kept), part
    about = load_trained(tmp_path / "run").card.about
    assert about["adapted"]["speaker"] == "new"
    assert about["adapted"]["replayed"] == ["high", "low", "mid"]  # of the base's own corpus


def test_a_resume_is_exact(adapt: Callable[..., None], tmp_path: Path) -> None:
    adapt(tmp_path / "whole")
    adapt(tmp_path / "parts", "train.steps=8", "train.save_every=4", "seed=0")
    checkpoints = tmp_path / "parts" / "checkpoints"
    for path in (checkpoints / "step-00000008").iterdir():
        path.unlink()
    (checkpoints / "step-00000008").rmdir()
    adapt(tmp_path / "parts")
    for name in ("network.safetensors", "average.safetensors", "extra.safetensors"):
        whole, parts = (
            (tmp_path / run / "checkpoints" / "step-00000008" / name).read_bytes()
            for run in ("whole", "parts")
        )
        assert whole == parts, name
    models = [
        (tmp_path / run / "model/model.safetensors").read_bytes() for run in ("whole", "parts")
    ]
    assert models[0] == models[1]


def test_a_student_is_adapted_by_its_own_temperatures(
    adapt: Callable[..., None], base: Path, tmp_path: Path
) -> None:
    """By the energy distance of samples as it generates them: narrower noise, other weights."""
    loaded = load_trained(base)
    decoder = loaded.card.spec.decoder
    network = StackSpec(layers=2, residual_channels=4, gate_channels=4, hidden_channels=4)
    student = StudentSpec(flows=(2,), network=network, conditioner=decoder.conditioner)
    moved = []
    for name, scale in (("wide", 1.0), ("narrow", 0.5)):
        about = loaded.card.about | {"temperature": {"choice": 1.0, "scale": scale, "voiced": 0.5}}
        card = replace(loaded.card, spec=replace(loaded.card.spec, decoder=student), about=about)
        torch.manual_seed(0)
        model = card.build()
        parts = loaded.model.state_dict().items()
        model.load_state_dict(
            {key: value for key, value in parts if not key.startswith("decoder.")}, strict=False
        )
        save_trained(tmp_path / name, model, card)
        adapt(tmp_path / f"{name}-run", f"base={tmp_path / name}", "replay_share=0")
        rows = (tmp_path / f"{name}-run" / "metrics.jsonl").read_text().splitlines()
        assert math.isfinite(json.loads(rows[-1])["valid/energy_distance"])
        adapted = SpeechModel.load(tmp_path / f"{name}-run")
        assert adapted.temperatures.scale == scale
        moved.append(adapted.decoder.state_dict())
    assert any(not torch.equal(a, b) for a, b in zip(*(m.values() for m in moved), strict=True))


def test_the_best_weights_are_kept(
    adapt: Callable[..., None], base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Steps that are far too long make everything worse: the weights of step 0 are kept."""
    adapt(tmp_path / "run", "optim.lr=10", "optim.warmup=0", "voice_share=0", "patience=1")
    assert "at step 0, whose weights are kept" in capsys.readouterr().out
    trained = load_trained(base).model.decoder.stack.state_dict()
    kept = load_trained(tmp_path / "run").model.decoder.stack.state_dict()
    assert all(torch.equal(trained[name], kept[name]) for name in trained)
    selection = json.loads((tmp_path / "run" / "evaluation.json").read_text())["selection"]
    assert selection["best"] == selection["first"]
    log = (tmp_path / "run" / "metrics.jsonl").read_text()
    adapt(tmp_path / "run", "optim.lr=10", "optim.warmup=0", "voice_share=0", "patience=1")
    assert (tmp_path / "run" / "metrics.jsonl").read_text().count("\n") == log.count("\n")


def test_the_body_waits_for_the_voice(
    adapt: Callable[..., None], base: Path, tmp_path: Path
) -> None:
    """With voice_share 1 nothing but embeddings and projections of the decoder moves."""
    adapt(tmp_path / "run", "voice_share=1", "optim.warmup=0")
    before, after = (
        load_trained(run).model.decoder.state_dict() for run in (base, tmp_path / "run")
    )
    moved = {
        n for n, w in before.items() if not torch.equal(w, after[n][: len(w)] if w.ndim else w)
    }
    assert moved
    assert all("embeddings" in n or "conditioner" in n or "projection" in n for n in moved), moved


@pytest.mark.parametrize("replayed", [False, True])
def test_what_of_the_spectral_decoder_moves(
    adapt: Callable[..., None], base: Path, old: Path, tmp_path: Path, *, replayed: bool
) -> None:
    """Its weights where the known voices are at hand, so that their frames can stay; else nothing
    but the row of the new voice. Never the rows of the others.
    """
    adapt(tmp_path / "run", f"replay=[{old}]", f"replay_share={0.5 * replayed}")
    before, after = (
        load_trained(run).model.spectral_decoder.state_dict() for run in (base, tmp_path / "run")
    )
    table = "embeddings.speaker.weight"
    weights = [name for name in before if name != table and "frontend" not in name]
    assert [torch.equal(before[name], after[name]) for name in weights] == (
        [not replayed] * len(weights)
    )
    assert torch.equal(after[table][:3], before[table])
    assert len(after[table]) == 4
    assert not any(torch.equal(after[table][3], row) for row in before[table])


def test_the_decoder_is_trained_on_the_recordings_own_frames(base: Path, old: Path) -> None:
    """As a vocoder: whatever the spectral decoder predicts, though that conditions what is decoded
    from codes.
    """
    loaded = load_trained(base)
    objective = objective_of("wavenet", loaded.card.about)
    trained = Adaptation(loaded.model, objective, 800)
    batch = next(evaluation_batches(Corpus.open(old), "valid", 2, 1600, 2))
    before = trained.held_out(batch, 0, 0)["nll"]
    copied = loaded.model(batch.wave, batch.labels).distribution.location
    with torch.no_grad():
        for weight in loaded.model.spectral_decoder.parameters():
            weight.add_(1.0)
    assert torch.equal(trained.held_out(batch, 0, 0)["nll"], before)
    assert not torch.equal(loaded.model(batch.wave, batch.labels).distribution.location, copied)


def test_a_resumed_run_does_not_begin_again(
    adapt: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[bool] = []
    spent: list[float] = []
    monkeypatch.setattr(SpectralAdaptation, "fit", lambda _, *, quiet: begun.append(quiet))
    monkeypatch.setattr(Pace, "spend", lambda _, seconds: spent.append(seconds))
    adapt(tmp_path / "run", "train.steps=4")
    adapt(tmp_path / "run", "train.steps=6")
    assert begun == [True]
    assert len(spent) == 1  # the time that it takes is of the run's minutes


def test_the_spectral_embedding_starts_where_it_fits(base: Path, new: Path) -> None:
    """Further from the mean by a share; the padding of short clips does not count."""
    loaded = load_trained(base)
    added = AddedVoice.to(loaded, "new")
    model = added.build(loaded)
    decoder = model.spectral_decoder
    table, mean = decoder.embeddings["speaker"], decoder.embeddings["speaker"].weight[:3].mean(0)
    wanted = 2 * torch.randn(1, table.embedding_dim, generator=torch.Generator().manual_seed(0))
    z = torch.randn(5, loaded.model.encoder.latent_dim, 12)
    mask = torch.arange(12) < torch.tensor([12, 12, 7, 12, 9])[:, None]
    given = {EMBEDDING: wanted.expand(5, -1)}
    with torch.no_grad():
        frames = decoder(z, given, mask)
    frames = frames.masked_fill(~mask.repeat_interleave(decoder.ratio, 1)[:, None], 99.0)
    labels = {"speaker": torch.full((5,), added.row)}
    added.fit_spectral_embedding(model, CodedClips(z, frames, mask, None, labels))
    fitted = torch.lerp(mean, table.weight[added.row], 1 / (1 + BEYOND))
    with torch.no_grad():
        taken = {EMBEDDING: fitted.expand(5, -1)}
        predicted, start = (
            decoder(z, taken, mask),
            decoder(z, {EMBEDDING: mean.expand(5, -1)}, mask),
        )
    real = mask.repeat_interleave(decoder.ratio, 1)[:, None].expand_as(frames)
    error, before = ((x - frames)[real].abs().mean() for x in (predicted, start))
    assert error < 0.2 * before


def test_a_folder_is_prepared_and_adapted_by_the_command(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for take in range(4):
        audio.write(folder / f"{take}.wav", sound("new", take), RATE)
    words = ["adapt", str(base), str(folder), "--speaker", "me", "--out", str(tmp_path / "run")]
    settings = [word for setting in [*QUICK, "train.steps=2"] for word in ("--set", setting)]
    cli.main([*words, "--quiet", *settings])
    assert "next: vqwave convert" in capsys.readouterr().out
    assert Corpus.open(tmp_path / "run-corpus").speakers == ["me"]
    assert SpeechModel.load(tmp_path / "run").speakers[-1] == "me"
    for speaker, out, line in (
        ("you", "run", "run-corpus: prepared before as speaker me; expected --speaker me"),
        ("low", "other", f"--speaker low: a voice that {base} has already"),
    ):
        with pytest.raises(SystemExit):
            cli.main([*words[:4], speaker, "--out", str(tmp_path / out), "--quiet"])
        assert line in capsys.readouterr().err
    assert not (tmp_path / "other-corpus").exists()


def test_recordings_that_are_added_are_prepared(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One recording is too few: the same command with a second one goes on."""
    folder = tmp_path / "mine"
    folder.mkdir()
    audio.write(folder / "0.wav", sound("new", 0), RATE)
    words = ["adapt", str(base), str(folder), "--speaker", "me", "--out", str(tmp_path / "run")]
    settings = [word for setting in [*QUICK, "train.steps=2"] for word in ("--set", setting)]
    with pytest.raises(SystemExit):
        cli.main([*words, "--quiet", *settings])
    assert "run-corpus: one recording of me, expected two" in capsys.readouterr().err
    for take in (1, 2):
        audio.write(folder / f"{take}.wav", sound("new", take), RATE)
    cli.main([*words, "--quiet", *settings])
    assert len(Corpus.open(tmp_path / "run-corpus").utterances) == 3
    made = (tmp_path / "run-corpus" / "corpus.json").stat().st_mtime_ns
    cli.main([*words, "--quiet", *settings])
    assert (tmp_path / "run-corpus" / "corpus.json").stat().st_mtime_ns == made


def test_conversions_are_replayed_where_recordings_are_not_at_hand(
    base: Path, new: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model folder names no corpus. The second run, of the same command, converts nothing."""
    words = ["adapt", str(base / "model"), str(new), "--speaker", "new"]
    settings = [word for setting in [*QUICK, "train.steps=4"] for word in ("--set", setting)]
    written = []
    for steps in (4, 6):
        settings[-1] = f"train.steps={steps}"
        cli.main([*words, "--out", str(tmp_path / "run"), *settings])
        line = f"replayed, so that they stay: 3 voices, {tmp_path / 'run'}-replay"
        said = "".join(capsys.readouterr())
        assert line in said
        better = "--replay CORPUS with recordings of them reaches new better"
        assert (better in said) == (steps == 4)
        written.append((tmp_path / "run-replay" / "corpus.json").stat().st_mtime_ns)
    assert written[0] == written[1]
    assert load_trained(tmp_path / "run").card.about["adapted"]["replayed"] == sorted(
        ["high", "low", "mid"]
    )
    with pytest.raises(SystemExit):
        cli.main([*words[:3], "--speaker", "nobody", "--out", str(tmp_path / "other")])
    assert "no speaker 'nobody'" in capsys.readouterr().err
    alone = tmp_path / "alone"
    alone.mkdir()
    audio.write(alone / "one.wav", sound("new", 0), RATE)
    given = ["adapt", words[1], str(alone), "--speaker", "me", "--out", str(tmp_path / "other")]
    with pytest.raises(SystemExit):
        cli.main([*given, "--quiet"])
    assert "one recording of me, expected two at least" in capsys.readouterr().err
    assert not (tmp_path / "other-replay").exists()


def test_nothing_is_replayed_where_nothing_is_at_hand(
    base: Path, old: Path, tmp_path: Path
) -> None:
    assert corpora_of_run(base) == [old]
    assert corpora_of_run(base / "model") == []
    lines = Replay.of((), base / "model", ["high"], 0.5).lines("speech")
    assert lines[0].startswith("nothing is replayed: no corpus of the voices of speech is at hand")
    with pytest.raises(UserInputError, match="has no training recording of a voice"):
        Replay.of([old], tmp_path, ["nobody"], 0.5)


def test_what_cannot_be_adapted_is_refused(
    adapt: Callable[..., None], new: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for settings, line in {
        ("speaker=nobody",): "no speaker 'nobody' among 1",
        ("speaker=",): "speaker: not given",
        ("data.speakers=[new]",): "data.speakers: expected none",
        ("base=speech-nothing",): "no such model",
        ("base=fsdd-prior",): "is a prior, expected a trained VQ-VAE",
        ("base=speech",): "is for 16000 Hz",
        ("data.batch=1000000000000",): "data.batch: should be less than",
        ("data.valid_clips=1000000000000",): "data.valid_clips: should be less than",
        ("data.batch=1000000",): "data.batch: 1000000 clips of 0.2 s, expected at most 24 hours",
        ("train.minutes=1e300",): "train.minutes: should be less than",
        ("train.steps=1000000000000",): "train.steps: should be less than",
        ("train.threads=1000000",): "train.threads: should be less than",
    }.items():
        with pytest.raises(SystemExit) as stopped:
            adapt(tmp_path / "run", *settings)
        assert stopped.value.code == 2
        error = capsys.readouterr().err
        assert line in error, error
        assert error.count("\n") == 1
        assert not (tmp_path / "run").exists()


def test_a_voice_that_the_model_has_is_refused(base: Path) -> None:
    with pytest.raises(UserInputError, match=r"speaker: low, which .* has already"):
        AddedVoice.to(load_trained(base), "low")


def test_the_start_is_the_mixture_that_fits(base: Path) -> None:
    """Planted: the new voice is a known one; its weights are found."""
    loaded = load_trained(base)
    added = AddedVoice.to(loaded, "new")
    model = added.build(loaded)
    tables = added.tables(model)
    with torch.no_grad():
        for table in tables:
            table.weight.normal_(generator=torch.Generator().manual_seed(0))
    wanted = [table.weight[1].clone() for table in tables]
    row = torch.tensor([added.row])

    def loss() -> torch.Tensor:
        errors = [
            (table(row)[0] - w).square().mean() for table, w in zip(tables, wanted, strict=True)
        ]
        return torch.stack(errors).sum()

    weights = added.fit_mixture(model, loss)
    assert weights.argmax() == 1
    assert weights[1] > 0.8
    assert added.nearest(weights).startswith("low (")
    added.start(model, weights)
    assert torch.allclose(tables[0].weight[added.row], weights @ tables[0].weight[:3])


def test_joined_rows_are_those_of_their_corpora(base: Path, old: Path, new: Path) -> None:
    corpora = Corpus.open(new), Corpus.open(old)
    labels = {"speaker": ["low", "high", "new", "mid"]}
    replay = Replay.of([old], Path(), ["low", "high", "mid"], 0.5)
    card = load_trained(base).card
    joined = join(corpora[0], "new", replay, labels, card)
    assert {u.split for u in joined.utterances if u.speaker == "new"} >= {"train", "valid"}
    for i, (corpus, row) in enumerate(joined.places):
        assert np.array_equal(joined.read(i, 10, 50), corpus.read(row, 10, 50))
        assert np.array_equal(joined.f0(i), corpus.f0(row))
        assert joined.label_ids(i) == {
            "speaker": labels["speaker"].index(corpus.utterances[row].speaker)
        }
    with pytest.raises(UserInputError, match=r"speaker 'new' of .* is none of the model's"):
        JoinedCorpus([Part(corpora[0], [0], {})], {"speaker": ["low"]})
    with pytest.raises(UserInputError, match="prepare it with --level -10"):
        join(corpora[0], "new", replay, labels, replace(card, about={"level_db": -10.0}))


def test_half_of_a_batch_is_replayed(base: Path, old: Path, new: Path) -> None:
    replay = Replay.of([old], Path(), ["low", "high", "mid"], 0.5)
    labels = {"speaker": [*VOICES]}
    joined = join(Corpus.open(new), "new", replay, labels, load_trained(base).card)
    for share, expected in ((0.5, 50), (0.25, 25), (0.0, 0)):
        mixed = MixedSegments(joined, "train", 800, speakers={"new"}, share=share)
        crops = [mixed[(position, position % len(mixed))] for position in range(100)]
        others = [crop for crop in crops if joined.utterances[crop.index].speaker != "new"]
        assert len(others) == expected


def test_each_segment_of_a_group_comes_before_any_comes_again(
    base: Path, old: Path, new: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replay = Replay.of([old], Path(), ["low", "high", "mid"], 0.5)
    labels = {"speaker": [*VOICES]}
    joined = join(Corpus.open(new), "new", replay, labels, load_trained(base).card)
    mixed = MixedSegments(joined, "train", 800, speakers={"new"}, share=0.3)
    monkeypatch.setattr(Segments, "__getitem__", lambda _, key: key[1])
    positions = range(5 * len(mixed))
    places = [mixed[(position, 0)] for position in positions]
    assert [mixed[(position, 0)] for position in reversed(positions)] == places[::-1]
    for group in mixed.groups:
        drawn = [place for place in places if place in group.places]
        for first in range(0, len(drawn) - len(group.places), len(group.places)):
            assert sorted(drawn[first : first + len(group.places)]) == sorted(group.places)
    counts = [Counter(places)[place] for place in range(len(mixed))]
    assert all(counts)


def test_selection_keeps_the_best_and_ends() -> None:
    selection, model = Selection("loss", patience=2), torch.nn.Linear(1, 1)
    for step, loss in enumerate([3.0, 1.0, 2.0]):
        torch.nn.init.constant_(model.weight, step)
        selection.offer(step, {"loss": loss}, model)
    assert (selection.step, selection.first, selection.over) == (1, 3.0, False)
    again = Selection("loss", patience=2)
    again.load_state(selection.state())
    again.offer(2, {"loss": 2.0}, model)  # the same validation once more
    assert not again.over
    again.offer(3, {"loss": 2.0}, model)
    assert again.over
    assert again.selected(model).weight.item() == 1
    assert model.weight.item() == 2
