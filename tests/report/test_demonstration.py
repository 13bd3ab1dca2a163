"""Sounds that models make of given recordings, with a decoder that is made up."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from vqwave.audio import write
from vqwave.data import Corpus
from vqwave.errors import UserInputError
from vqwave.report import demonstration, write_report
from vqwave.report.demonstration import Recording, copies, generated, recordings_of

RATE = 8000
VOICES = ["ann", "ben", "cleo", "untrained"]


@dataclass
class Prior:
    """Draws a recording that names its labels."""

    labels: dict[str, list[str]]
    drawn: list[dict[str, Any]] = field(default_factory=list)

    def draw(self, *, labels: dict[str, Any], seed: int, longest: float) -> list[str]:
        self.drawn.append(labels)
        return [f"codes {seed}"]


class FakeModel:
    """Codes are names; what is decoded is a constant, the place of the voice."""

    sample_rate = RATE

    def __init__(
        self, voices: list[str] = VOICES, prior: Prior | None = None, vectors: int = 0
    ) -> None:
        self.speakers, self.prior = voices, prior
        labels, sizes = ["speaker"] if voices else [], {"voice": vectors} if vectors else {}
        conditioner = SimpleNamespace(labels=labels, vector_sizes=sizes)
        self.decoder = SimpleNamespace(conditioner=conditioner)
        trained = [name for name in voices if name != "untrained"]
        self.card = SimpleNamespace(trained=lambda label: {"speaker": trained}[label])

    def encode(self, wave: np.ndarray, rate: int) -> str:
        return f"{len(wave)} at {rate}"

    def decode_many(
        self,
        coded: list[str],
        speakers: list[str | None],
        likes: list[Any] | None = None,
        **_: object,
    ) -> list[Any]:
        places = [VOICES.index(name) / 8 if name else 0.5 for name in speakers]
        if likes and any(likes):
            assert set(speakers) == {None}
            places = [float(wave[0]) for wave, _ in likes]
        return [torch.full((400,), place) for place in places]


def recording(name: str, speaker: str | None) -> Recording:
    return Recording(name, np.zeros(800, np.float32), RATE, speaker, "words")


def made(model: FakeModel, *recordings: Recording, kind: str = "reconstruction") -> list[Any]:
    samples = copies(model, recordings, kind=kind)  # type: ignore[arg-type]
    return [
        (s.clip.utterance, s.clip.kind, s.clip.target, round(float(s.wave[0]) * 8)) for s in samples
    ]


def test_each_recording_in_its_own_voice_and_in_the_others() -> None:
    assert made(FakeModel(), recording("one", "cleo"), recording("two", "ann")) == [
        ("one", "reconstruction", None, 2),
        ("one", "conversion", "ann", 0),
        ("two", "reconstruction", None, 0),
        ("two", "conversion", "cleo", 2),
    ]


def test_a_single_recording_is_converted_to_another_voice() -> None:
    assert made(FakeModel(), recording("one", "ann"), kind="student") == [
        ("one", "student", None, 0),
        ("one", "conversion", "ben", 1),
    ]


@pytest.mark.parametrize("speaker", [None, "nobody", "untrained"])
def test_an_unknown_speaker_has_the_first_voice_and_the_page_says_so(speaker: str | None) -> None:
    assert made(FakeModel(), recording("one", speaker))[0] == ("one", "reconstruction", "ann", 0)


def test_a_model_of_one_voice_only_reconstructs() -> None:
    assert made(FakeModel([]), recording("one", "ann")) == [("one", "reconstruction", None, 4)]


def test_a_model_of_vectors_takes_the_voices_of_the_recordings() -> None:
    waves = [np.full(800, place / 8, np.float32) for place in (6, 7)]
    recordings = [Recording("one", waves[0], RATE, "x"), Recording("two", waves[1], RATE)]
    assert made(FakeModel([], vectors=8), *recordings) == [
        ("one", "reconstruction", None, 6),
        ("one", "conversion", "two", 7),
        ("two", "reconstruction", None, 7),
        ("two", "conversion", "x", 6),
    ]


def test_a_prior_generates_other_labels_each_time() -> None:
    prior = Prior({"speaker": VOICES, "text": ["0", "1", "2", "3"], "style": ["x"]})
    samples = generated(FakeModel(prior=prior))  # type: ignore[arg-type]
    assert len({sample.clip.utterance for sample in samples}) == 3
    assert all(set(labels) == {"speaker", "text"} for labels in prior.drawn)
    assert all(labels["speaker"] != "untrained" for labels in prior.drawn)
    assert {sample.clip.kind for sample in samples} == {"generation"}
    with pytest.raises(UserInputError, match="no prior over codes"):
        generated(FakeModel())  # type: ignore[arg-type]


def test_of_a_corpus_an_utterance_by_each_of_some_speakers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def utterance(name: str, speaker: str, seconds: float) -> SimpleNamespace:
        frames = round(seconds * RATE)
        return SimpleNamespace(id=name, speaker=speaker, text=name, frames=frames)

    rows = [
        utterance("a long", "ann", 20.0),
        utterance("a short", "ann", 1.0),
        utterance("a good", "ann", 5.0),
        utterance("b long", "ben", 30.0),
        utterance("b longer", "ben", 40.0),
        utterance("c", "cleo", 2.0),
    ]
    corpus = SimpleNamespace(
        folder=tmp_path,
        utterances=rows,
        sample_rate=RATE,
        of=lambda split: range(len(rows)) if split == "test" else [],
        read=lambda row: np.zeros(rows[row].frames, np.float32),
    )
    monkeypatch.setattr(demonstration, "is_corpus", lambda path: path == tmp_path)
    monkeypatch.setattr(Corpus, "open", lambda path: corpus)
    names = [each.name for each in recordings_of([tmp_path])]
    assert names == ["a good", "b long", "c"]
    assert [r.name for r in recordings_of([tmp_path], ["cleo", "nobody"])] == ["c"]
    assert len(recordings_of([tmp_path], count=1)) == 1


def test_a_missing_recording_is_named(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(UserInputError, match=r"gone\.wav"):
        write_report(["fsdd"], tmp_path / "page.html", [tmp_path / "gone.wav"])
    assert not list(tmp_path.iterdir())


@pytest.mark.slow  # compiles and runs a decoder
def test_a_shipped_model_reconstructs_a_file(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    wave = np.random.default_rng(0).normal(0, 0.05, 4000).astype(np.float32)
    write(tmp_path / "in.wav", wave, RATE)
    html = write_report(["fsdd"], tmp_path / "page.html", [tmp_path / "in.wav"]).read_text()
    assert html.count("<audio") == 3
    assert "data:audio/flac;base64," in html
    assert {path.name for path in tmp_path.iterdir()} == {"in.wav", "page.html"}
