"""experiments/pitch.py: the statistics of voices, what the card keeps, figures of a short
training.
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile

from vqwave import pitch_tracking
from vqwave.config import parse
from vqwave.data import Corpus, prepare
from vqwave.data.voices import LEAST_DEVIATION, UNVOICED, VoicePitch, pitch_of, voice_pitches
from vqwave.errors import UserInputError
from vqwave.inference.model_folder import load_trained
from vqwave.inference.speech_model import SpeechModel
from vqwave.models import PitchCodec
from vqwave.training.trainer import Trainer

ROOT = Path(__file__).parents[2]
RATE, SPEAKERS = 8000, {"high": 220.0, "low": 110.0, "mute": 0.0}


def experiment() -> ModuleType:
    place = importlib.util.spec_from_file_location(
        "pitch_experiment", ROOT / "experiments" / "pitch.py"
    )
    module = sys.modules["pitch_experiment"] = importlib.util.module_from_spec(place)
    place.loader.exec_module(module)
    return module


def melody(f0: float, take: int) -> np.ndarray:
    """A second and a half of harmonics whose F0 goes up and down by a fifth of its logarithm, and a
    pause; or noise.
    """
    rng, t = np.random.default_rng(take), np.arange(12000) / RATE
    noise = 1e-3 * rng.standard_normal(12000)
    if not f0:
        return 20 * noise
    phase = 2 * np.pi * np.cumsum(f0 * np.exp(0.2 * np.sin(2 * np.pi * (t + take / 7)))) / RATE
    gate = (t % 0.75 < 0.5).astype(float)
    return gate * 0.1 * sum(np.sin(k * phase + k) / k for k in range(1, 9)) + noise


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("melodies")
    for speaker, f0 in SPEAKERS.items():
        (folder / "wav" / speaker).mkdir(parents=True)
        for take in range(6):
            soundfile.write(folder / "wav" / speaker / f"{take}.wav", melody(f0, take), RATE)
    prepare("folder", folder / "wav", folder / "corpus", quiet=True)
    return Corpus.open(folder / "corpus")


def test_a_voice_has_the_statistics_of_its_training_recordings(corpus: Corpus) -> None:
    """Of all their voiced frames at once; one without voiced frames has none, an utterance of it
    stands for itself.
    """
    voices = voice_pitches(corpus)
    assert list(voices) == ["high", "low"]
    rows = [row for row in corpus.of("train") if corpus.utterances[row].speaker == "low"]
    f0 = np.concatenate([corpus.f0(row) for row in rows])
    log_f0 = np.log(f0[f0 > 0].astype(float) / 100)
    assert (voices["low"].mean, voices["low"].deviation) == pytest.approx(
        (log_f0.mean(), log_f0.std())
    )
    assert voices["high"].mean - voices["low"].mean == pytest.approx(np.log(2), abs=0.05)
    first = {u.speaker: row for row, u in enumerate(corpus.utterances)}
    assert pitch_of(corpus, first["low"], voices) == voices["low"]
    assert (
        pitch_of(corpus, first["low"], {})
        == VoicePitch.of(corpus.f0(first["low"]))
        != voices["low"]
    )
    assert pitch_of(corpus, first["mute"], voices) == UNVOICED
    assert VoicePitch.of(np.array([0, 100, 100], np.float32)) == VoicePitch(0.0, LEAST_DEVIATION)


def test_a_training_leaves_codec_and_voices(corpus: Corpus, tmp_path: Path) -> None:
    """Learns more than the voice's mean; the card normalises; what makes speech of it is refused in
    words.
    """
    module = experiment()
    overrides = [
        f"data.corpus={corpus.folder}",
        f"run={tmp_path / 'run'}",
        "train.steps=12",
        "train.threads=1",
    ]
    arguments = ["--config", str(ROOT / "configs" / "pitch" / "tiny.yaml"), *overrides]
    config = parse(module.Config, arguments).config
    loop = Trainer(module.PitchExperiment(config), quiet=True)
    loop.run()
    loaded = load_trained(tmp_path / "run")
    assert isinstance(loaded.model, PitchCodec)
    pitch, voices = loaded.card.about["pitch"], voice_pitches(corpus)
    assert (
        pitch["hop"]
        == pitch_tracking.ten_milliseconds(RATE)
        == loaded.model.hop // loaded.model.ratio
    )
    assert pitch["voices"] == {name: [v.mean, v.deviation] for name, v in voices.items()}
    assert loaded.card.about["bit_rate"] == pytest.approx(12.5 * np.log2(loaded.model.size))
    with pytest.raises(UserInputError, match="a pitch codec, which makes no speech"):
        SpeechModel.load(tmp_path / "run")


def test_figures_are_those_of_the_decoded_melody(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A codec that gives back what it is given has none; one that is three semitones off has three,
    whatever the voice.
    """
    module = experiment()
    config = parse(
        module.Config,
        [f"data.corpus={corpus.folder}", f"run={tmp_path / 'run'}", "data.valid_clips=8"],
    ).config
    it = module.PitchExperiment(config)
    model, given = it.build().eval(), []
    plain, denormalise = model.encode, module.denormalise
    monkeypatch.setattr(
        model,
        "encode",
        lambda contour, lengths: (given.append(contour), plain(contour, lengths))[1],
    )
    monkeypatch.setattr(model, "decode", lambda codes: given.pop())
    exact = it.evaluate(model)
    assert exact.scalars["f0_error"] == pytest.approx(0, abs=1e-4)
    assert exact.scalars["f0_correlation"] == pytest.approx(1, abs=1e-5)
    assert exact.scalars["voicing_error"] == 0
    assert exact.sections["pitch"]["flat"]["f0_error"] > 1
    monkeypatch.setattr(module, "denormalise", lambda *it: denormalise(*it, 3.0))
    moved = it.evaluate(model)
    assert moved.scalars["f0_error"] == pytest.approx(3, abs=1e-4)
    assert moved.scalars["f0_correlation"] == pytest.approx(1, abs=1e-5)


def test_a_corpus_without_voiced_frames_is_refused(corpus: Corpus, tmp_path: Path) -> None:
    module = experiment()
    for path in corpus.folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    size = (tmp_path / "pitch.f32").stat().st_size
    (tmp_path / "pitch.f32").write_bytes(bytes(size))
    config = module.Config()
    with pytest.raises(UserInputError, match="has no voiced training recordings"):
        module.PitchExperiment(replace(config, data=replace(config.data, corpus=tmp_path)))
