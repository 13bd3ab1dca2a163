"""Conversions that stand in for recordings of the voices that a model has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from vqwave import audio
from vqwave.data import Corpus, prepare
from vqwave.data.corpus import is_corpus
from vqwave.errors import UserInputError
from vqwave.inference.speech_model import SpeechModel
from vqwave.training import generated_replay
from vqwave.training.generated_replay import prepare_conversions

SECONDS, TAKES = 0.5, 7


@pytest.fixture(scope="module")
def model() -> SpeechModel:
    return SpeechModel.load("fsdd-student")


@pytest.fixture(scope="module")
def corpus(model: SpeechModel, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Short recordings of two voices, with the model's own level."""
    folder = tmp_path_factory.mktemp("own")
    rng, t = np.random.default_rng(0), np.arange(int(SECONDS * model.sample_rate))
    for speaker, pitch in (("anna", 200), ("bert", 100)):
        (folder / "in" / speaker).mkdir(parents=True)
        for take in range(TAKES):
            wave = sum(np.cos(2 * np.pi * k * pitch / 8000 * t) / k for k in range(1, 10))
            noise = 1e-2 * rng.standard_normal(len(t))
            path = folder / "in" / speaker / f"{take}.wav"
            audio.write(path, (0.05 * wave + noise).astype(np.float32), model.sample_rate)
            path.with_suffix(".txt").write_text(f"take {take}", encoding="utf-8")
    prepare("folder", folder / "in", folder / "corpus", quiet=True)
    return Corpus.open(folder / "corpus")


def test_each_recording_is_said_by_several_voices_in_turn(
    model: SpeechModel, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = [u for u in corpus.utterances if u.speaker == "anna" and u.split in ("train", "valid")]
    train = sum(u.split == "train" for u in own)
    monkeypatch.setattr(generated_replay, "SECONDS", 1.5 * train * SECONDS)  # two turns
    prepare_conversions(model, corpus, "anna", tmp_path / "out", quiet=True)
    said = Corpus.open(tmp_path / "out")
    assert set(said.speakers) <= set(model.card.trained("speaker"))
    assert len(said.utterances) == 2 * len(own)
    assert {u.text for u in said.utterances} == {u.text for u in own}
    for text in {u.text for u in own}:
        mine, theirs = ([u for u in each if u.text == text] for each in (own, said.utterances))
        assert len({u.speaker for u in theirs}) == 2
        # `prepare` moves a sentence to a test split where there is none
        assert ({u.split for u in theirs} == {"valid"}) == ({u.split for u in mine} == {"valid"})
        assert {u.frames for u in theirs} == {u.frames for u in mine}
    assert said.level_db == corpus.level_db
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_they_are_the_conversions_of_the_model(
    model: SpeechModel, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generated_replay, "SECONDS", 0.1)  # one turn
    prepare_conversions(model, corpus, "bert", tmp_path / "out", quiet=True)
    said = Corpus.open(tmp_path / "out")
    texts = {u.text: row for row, u in enumerate(corpus.utterances) if u.speaker == "bert"}
    for row, u in enumerate(said.utterances[:3]):
        source = torch.from_numpy(corpus.read(texts[u.text]))
        expected = model.decode(model.encode_prepared(source), u.speaker).numpy()
        wave = said.read(row)
        # brought to the level of the corpus
        assert np.corrcoef(wave, expected)[0, 1] > 0.999


def test_of_many_recordings_some_are_taken(
    model: SpeechModel, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = [u for u in corpus.utterances if u.speaker == "anna" and u.split == "train"]
    seconds = len(train) * SECONDS
    monkeypatch.setattr(generated_replay, "SECONDS", seconds / 2)
    prepare_conversions(model, corpus, "anna", tmp_path / "out", quiet=True)
    said = Corpus.open(tmp_path / "out").utterances
    taken = sum(u.split != "valid" for u in said) * SECONDS
    assert taken == pytest.approx(seconds / 2, abs=SECONDS)
    assert any(u.split == "valid" for u in said)


def test_what_is_something_else_stays(
    model: SpeechModel, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generated_replay, "SECONDS", 0.1)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(UserInputError, match="exists and is no prepared corpus"):
        prepare_conversions(model, corpus, "anna", tmp_path / "out", quiet=True)
    assert (tmp_path / "out" / "mine.txt").read_text(encoding="utf-8") == "mine"
    assert not is_corpus(tmp_path / "out")
