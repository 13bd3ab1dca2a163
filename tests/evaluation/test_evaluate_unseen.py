"""`vqwave evaluate` on speakers that the model was not trained on: what is measured, in which
voices, what is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from buzz import RATE, Take, buzz, write_corpus
from small_models import ABOUT, SPECTRAL

from vqwave.audio import Wave
from vqwave.data import Corpus
from vqwave.data.speaker_vectors import NAME, SpeakerVectors, Whitening
from vqwave.decode.sampling import Sampling
from vqwave.errors import UserInputError
from vqwave.evaluation import Settings, evaluate
from vqwave.evaluation.context import EvaluationContext
from vqwave.evaluation.outputs import SystemOutputs
from vqwave.inference.model_folder import ModelCard, save_trained
from vqwave.inference.speech_model import SpeechModel
from vqwave.nn.condition import ConditionDropoutSpec, ConditionerSpec
from vqwave.speaker_encoder import SIZE

pytestmark = pytest.mark.filterwarnings("ignore::vqwave.errors.Note")
BY_VECTOR = ConditionerSpec(
    channels=4, embeddings={NAME: SIZE}, dropout=ConditionDropoutSpec(categorical=0.5)
)
SETTINGS = Settings(seconds=60.0, resamples=20, sampling=Sampling(backend="reference"))
AXES = np.eye(SIZE)
VOICES = SpeakerVectors(("high", "low"), AXES[[1, 0]])


class PitchEncoder:
    """A voice is low or high, and a little its own."""

    def embed(self, wave: Wave, sample_rate: int) -> np.ndarray:
        spectrum = np.abs(np.fft.rfft(wave))
        peak = np.fft.rfftfreq(len(wave), 1 / sample_rate)[spectrum.argmax()]
        return 0.8 * AXES[int(peak > 150)] + 0.6 * AXES[2 + min(round(peak / 10), 200)]


@pytest.fixture(autouse=True)
def made_up(judges: Callable[[str, type], None]) -> None:
    judges("take strange 3", PitchEncoder)


@pytest.fixture
def undecoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoders give a buzz of the codes' length, which no figure here depends on."""

    def decode(self: SystemOutputs, system: str, name: str, coded: list, voices: list) -> list:
        assert len(voices) == len(coded)
        return [buzz(150, 1.0)[: item.samples].copy() for item in coded]

    monkeypatch.setattr(SystemOutputs, "_decode", decode)


def model(folder: Path, voices: SpeakerVectors | None, conditioner: ConditionerSpec) -> Path:
    spec = replace(
        SPECTRAL,
        decoder=replace(SPECTRAL.decoder, conditioner=conditioner),
        spectral_decoder=replace(SPECTRAL.spectral_decoder, vectors=bool(conditioner.embeddings)),
    )
    card = ModelCard(
        sample_rate=RATE, labels={"speaker": ["high", "low"]}, spec=spec, about=dict(ABOUT)
    )
    torch.manual_seed(0)
    save_trained(folder, card.build(), card, voices)
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """both/: a corpus with the model's voices, unseen speakers in its test split; alone/: these,
    no training split; models without vectors, with them, and by vector.
    """
    root = tmp_path_factory.mktemp("unseen")
    unseen = [
        Take(name, pitch, "test", f"take {name} {n}")
        for name, pitch in (("deep", 80), ("strange", 230))
        for n in (3, 4)
    ]
    own = [
        Take(name, pitch, "test" if n == 4 else "train", f"take {name} {n}")
        for name, pitch in (("high", 210), ("low", 95))
        for n in range(5)
    ]
    write_corpus(root / "both", [*own, *unseen], 0.15, ["deep", "high", "low", "strange"])
    write_corpus(root / "alone", unseen, 0.15, ["deep", "strange"])
    plain = SPECTRAL.decoder.conditioner
    model(root / "bare", None, plain)
    model(root / "named", VOICES, plain)
    model(root / "vector", replace(VOICES, whitening=Whitening(0 * AXES[0], AXES)), BY_VECTOR)
    return root


def context(place: Path, name: str, corpus: str, **settings: object) -> EvaluationContext:
    codec = SpeechModel.load(place / name)
    chosen = replace(SETTINGS, **settings)
    return EvaluationContext(
        Corpus.open(place / corpus), codec, None, chosen, any_voice=False, unseen_speakers=True
    )


def test_unseen_speakers_are_measured_where_there_are_no_others(place: Path) -> None:
    mixed = context(place, "named", "both")
    assert not mixed.unseen_speakers
    assert set(mixed.label("speaker")) == {"high", "low"}
    some = context(place, "named", "both", speakers=("deep", "strange"))
    assert some.unseen_speakers
    assert some.targets == ["high", "low"]
    alone = context(place, "named", "alone")
    assert alone.unseen_speakers
    assert len(alone.pairs) == 8
    assert alone.pair_rows == [None] * 8
    codec = SpeechModel.load(place / "named")
    with pytest.raises(UserInputError, match="no utterance of split 'test' has speaker that"):
        EvaluationContext(Corpus.open(place / "alone"), codec, None, SETTINGS)


@pytest.mark.parametrize(
    ("name", "voices", "in_words"),
    [
        ("named", ["low", "low", "high", "high"], "its nearest voices"),
        ("bare", ["high", "low", "high", "low"], "its voices by turns"),
    ],
)
def test_copies_are_in_voices_of_the_model(
    place: Path, name: str, voices: list[str], in_words: str
) -> None:
    sampling = Sampling(backend="reference", temperature=0.0)
    it = context(place, name, "alone", sampling=sampling)
    assert voices[2] == "high"
    assert [voice.labels["speaker"] for voice in it.substitute_voices] == voices
    assert it.copied_in == in_words
    assert not it.in_own_voices
    copies = it.outputs.reconstructed("model")
    expected, other = (
        it.codec.decode(it.coded[2], voice, sampling=sampling).numpy() for voice in ("high", "low")
    )
    # processors round a batch and an utterance alone differently
    np.testing.assert_allclose(copies[2], expected, atol=1e-3)
    assert np.abs(copies[2] - other).max() > 0.01


@pytest.mark.usefixtures("undecoded")
def test_a_model_of_vectors_copies_them_in_their_own(place: Path) -> None:
    it = context(place, "vector", "alone")
    assert it.in_own_voices
    own = PitchEncoder().embed(it.waves[2], RATE)
    np.testing.assert_allclose(it.substitute_voices[2].embeddings[NAME], own, atol=1e-6)
    result = evaluate(place / "vector", place / "alone", replace(SETTINGS, only=("similarity",)))
    assert result.rows[0].figures["ceiling"].value == pytest.approx(1, abs=0.01)
    assert not result.skipped


@pytest.mark.usefixtures("undecoded")
def test_what_is_measured_and_what_is_left_out(place: Path) -> None:
    names = ("codes", "spectral", "wer", "converted", "similarity", "speakers", "nll", "conversion")
    result = evaluate(place / "named", place / "alone", replace(SETTINGS, only=names))
    keys = {row.key for row in result.rows}
    assert {"codes.nominal_rate", "spectral.mcd", "wer.words", "converted.words"} <= keys
    assert {"converted.target", "converted.source", "converted.nearer", "converted.mos"} <= keys
    reasons = result.skipped
    assert reasons["reconstructions in their own voices"] == (
        "the model was not trained on these speakers; copies are in its nearest voices"
    )
    for name in ("similarity", "speakers", "nll"):
        assert "the model was not trained on these speakers" in reasons[name]
    assert reasons["conversion"] == "the corpus has no training recordings of the model's voices"


@pytest.mark.usefixtures("undecoded")
def test_defaults_on_a_corpus_without_training_recordings(place: Path) -> None:
    """Nothing ends the evaluation: what needs recordings to train on is left out."""
    result = evaluate(place / "bare", place / "alone", SETTINGS)
    keys = {row.key.split(".")[0] for row in result.rows}
    assert {"codes", "spectral"} <= keys
    reason = "the corpus has no training recordings"
    assert reason in result.skipped["probes"]


def test_conversions_are_nearer_to_the_target_where_they_are_it(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A perfect converter, to targets that the corpus has no recordings of."""
    recordings = {"high": buzz(210, 0.3), "low": buzz(95, 0.3)}

    def decoded(self: SystemOutputs, system: str, name: str, coded: list, *_: object) -> list[Wave]:
        return [recordings[item.speaker].copy() for item in coded]

    monkeypatch.setattr(SystemOutputs, "_decoded", decoded)
    result = evaluate(place / "named", place / "alone", replace(SETTINGS, only=("converted",)))
    found = {row.key: row.figures for row in result.rows}
    assert found["converted.target"]["model"].value == pytest.approx(0.8, abs=0.01)
    assert found["converted.target"]["model"].value > found["converted.source"]["model"].value
