"""Recordings of one's own: folders of one voice, long recordings in pieces, configurations that fit
any rate and size.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import yaml
from small_models import RATE, rising_voice

from vqwave import audio, cli
from vqwave.audio import Wave
from vqwave.config import build, parse
from vqwave.data import Corpus, prepare
from vqwave.data.pieces import LONGEST, SHORTEST, cuts
from vqwave.errors import UserInputError
from vqwave.inference.model_folder import load_trained
from vqwave.models import VQVAESpec
from vqwave.training.experiment_files import config_file


def speech(seconds: float, pauses: list[float]) -> Wave:
    """Noise (T,) with silence of 0.3 s around each of `pauses`."""
    t = np.arange(round(seconds * RATE)) / RATE
    wave = 0.1 * np.random.default_rng(0).standard_normal(len(t))
    for pause in pauses:
        wave[np.abs(t - pause) < 0.15] *= 1e-3
    return wave.astype(np.float32)


def test_a_long_recording_is_cut_in_its_pauses() -> None:
    pauses = [6.0, 13.0, 24.0]
    ends = cuts(speech(30.0, pauses), RATE)
    assert ends[-1] == 30 * RATE
    assert np.abs(np.array(ends[:-1]) / RATE - pauses).max() < 0.15


@pytest.mark.parametrize("seconds", [12.001, 13.7, 29.3, 61.0])
def test_pieces_have_the_lengths_that_are_promised(seconds: float) -> None:
    ends = np.array([0, *cuts(speech(seconds, []), RATE)]) / RATE
    lengths = np.diff(ends)
    assert lengths.min() >= SHORTEST - 0.2
    assert lengths.max() <= LONGEST + 0.2
    assert ends[-1] == pytest.approx(seconds, abs=1 / RATE)


def test_a_flat_folder_is_one_voice(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    (folder / "deeper").mkdir(parents=True)
    audio.write(folder / "long.wav", speech(30.0, [6.0, 13.0, 24.0]), RATE)
    audio.write(folder / "deeper" / "short.wav", speech(1.0, []), RATE)
    (folder / "deeper" / "short.txt").write_text("one word")
    (folder / "long.txt").write_text("many words")
    prepare("folder", folder, tmp_path / "corpus", speaker="Ann B", quiet=True)
    corpus = Corpus.open(tmp_path / "corpus")
    assert corpus.speakers == ["Ann B"]
    ids = {u.id: u.text for u in corpus.utterances}
    assert ids == {"deeper/short": "one word"} | {f"long#00{k}": "" for k in (1, 2, 3, 4)}
    assert set(corpus.splits) == {"train", "valid", "test"}
    assert corpus.seconds() == pytest.approx(31.0)


def test_a_flat_folder_needs_the_name(tmp_path: Path) -> None:
    audio.write(tmp_path / "a.wav", speech(1.0, []), RATE)
    with pytest.raises(UserInputError, match="all of one voice: --speaker NAME"):
        prepare("folder", tmp_path, tmp_path / "corpus", quiet=True)
    with pytest.raises(UserInputError, match="speaker ann: with prepare manifest"):
        prepare("manifest", tmp_path, tmp_path / "corpus", speaker="ann", quiet=True)
    with pytest.raises(UserInputError, match="speaker: empty"):
        prepare("folder", tmp_path, tmp_path / "corpus", speaker=" ", quiet=True)


def own_model(rate: int, experiment_script: Callable[[str], ModuleType]) -> int:
    """Builds the model of own-codes.yaml and own-decoder.yaml at a rate -> its hop."""
    script, pitch = (
        experiment_script("vqvae"),
        yaml.safe_load(config_file("pitch", "own").read_text()),
    )
    codes, decoder = (
        parse(script.Config, ["--config", str(config_file("vqvae", name))]).config.model
        for name in ("own-codes", "own-decoder")
    )
    melody = {"kind": "pitch_codec", **pitch["model"]}
    codec = build(VQVAESpec, {"melody": melody})
    whole = decoder.with_frozen_codec(codes)
    whole = type(whole)(**{**vars(whole), "melody": codec.melody})
    return whole.build(rate, {"speaker": ["a"]}).hop


@pytest.mark.parametrize("rate", [8000, 16000, 24000, 32000, 44100, 48000])
def test_own_configurations_fit(rate: int, experiment_script: Callable[[str], ModuleType]) -> None:
    assert own_model(rate, experiment_script) == rate // 50


def test_a_rate_that_does_not_fit_is_named(
    experiment_script: Callable[[str], ModuleType],
) -> None:
    with pytest.raises(UserInputError, match=r"hop_ms: 10 ms is 220.5 samples at 22050 Hz"):
        own_model(22050, experiment_script)


@pytest.mark.slow  # four trainings of seconds each: the commands of the README on a small folder
def test_the_four_commands_of_the_readme(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, f0 in (("ann", 200.0), ("bob", 110.0)):
        (tmp_path / "DIR" / name).mkdir(parents=True)
        for k in range(5):
            wave = rising_voice(1.0 + k / 10, f0)
            audio.write(tmp_path / "DIR" / name / f"{k}.wav", wave, RATE)
    short = ["--minutes", "0.1", "train.threads=1", "train.first_sample_minutes=0"]
    cli.main(["prepare", "folder", "DIR", "--out", "data/mine"])
    data = "data.corpus=data/mine"
    cli.main(["train", "pitch", "--config", "own", data, "run=runs/mine-pitch", *short])
    assert "--config own-codes pitch=runs/mine-pitch data.corpus" in capsys.readouterr().out
    codes = ["pitch=runs/mine-pitch", "run=runs/mine-codes"]
    cli.main(["train", "vqvae", "--config", "own-codes", data, *codes, *short])
    said = capsys.readouterr()
    assert "next: vqwave train vqvae --config own-decoder frozen_codec=runs/mine-codes" in said.out
    assert "estimate: " in said.err
    decoder = ["frozen_codec=runs/mine-codes", "run=runs/mine", "num_samples=1"]
    cli.main(["train", "vqvae", "--config", "own-decoder", data, *decoder, *short])
    assert "--config own-student teacher=runs/mine" in capsys.readouterr().out
    assert load_trained("runs/mine").card.about["steps"] > 0
    assert (tmp_path / "runs" / "mine" / "samples" / "index.json").exists()


def test_the_corpus_of_the_trials_is_made_by_the_command_in_its_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserInputError, match="`vqwave prepare demo --sample-rate 8000 --out data"):
        Corpus.open("data/demo")
    with pytest.raises(UserInputError, match="`vqwave prepare KIND SOURCE --out data/mine`"):
        Corpus.open("data/mine")
