"""A voice by a recording, `like=` and `--like`: the nearest voice of a model, or its vector; the
vectors of a corpus and of a model.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Literal

import numpy as np
import pytest
import torch
from buzz import RATE, Take, buzz, write_corpus
from small_models import MELODY

from vqwave.audio import Wave, read, to_int16, write
from vqwave.cli import main
from vqwave.codes import save_codes
from vqwave.data import Corpus, prepare, speaker_vectors
from vqwave.data.speaker_vectors import (
    NAME,
    SpeakerVectors,
    Whitening,
    add_speaker_vectors,
    saved_in,
)
from vqwave.decode.sampling import Sampling
from vqwave.errors import Note, UserInputError
from vqwave.inference import embedding_fit, reference_voice
from vqwave.inference.model_files import SHIPPED
from vqwave.inference.model_folder import ModelCard, load_trained, save_trained
from vqwave.inference.reference_voice import ReferenceVoice
from vqwave.inference.speech_model import SpeechModel
from vqwave.models.melody import VOICE
from vqwave.nn.auxiliary.spectral_decoder import EMBEDDING
from vqwave.nn.condition import ConditionDropoutSpec, ConditionerSpec
from vqwave.speaker_encoder import SIZE, unit
from vqwave.training.command_line import main as run

SPEC = replace(MELODY, spectral_decoder=replace(MELODY.spectral_decoder, vectors=True))
BY_VECTOR = ConditionerSpec(
    channels=6, embeddings={NAME: SIZE}, dropout=ConditionDropoutSpec(categorical=0.5)
)
AXES = np.eye(SIZE)
VOICES = SpeakerVectors(("low", "high"), AXES[:2])
WHITENED = replace(VOICES, whitening=Whitening(np.full(SIZE, 0.1), 2 * AXES))
QUICK = Sampling(backend="reference")
REFERENCE = buzz(120, 0.4), RATE


class PitchEncoder:
    """Below 150 Hz a voice is like the first, above like the second, four fifths of either."""

    def embed(self, wave: Wave, sample_rate: int) -> np.ndarray:
        spectrum = np.abs(np.fft.rfft(wave))
        peak = np.fft.rfftfreq(len(wave), 1 / sample_rate)[spectrum.argmax()]
        return 0.8 * AXES[int(peak > 150)] + 0.6 * AXES[2 + round(peak / 10)]


@pytest.fixture(autouse=True)
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    preparation = import_module("vqwave.data.prepare")  # the package's `prepare` is the function
    for module in (reference_voice, speaker_vectors, preparation):
        monkeypatch.setattr(module, "speaker_encoder", PitchEncoder)


def model(
    conditioner: ConditionerSpec = SPEC.decoder.conditioner,
    voices: SpeakerVectors | None = VOICES,
    melody: bool = True,
    decoder_input: Literal["spectrogram", "latents"] = "spectrogram",
) -> SpeechModel:
    spec = replace(
        SPEC,
        decoder_input=decoder_input,
        decoder=replace(SPEC.decoder, conditioner=conditioner),
        spectral_decoder=replace(SPEC.spectral_decoder, vectors=bool(conditioner.embeddings)),
        melody=SPEC.melody if melody else None,
    )
    torch.manual_seed(0)
    card = ModelCard(sample_rate=RATE, labels={"speaker": ["low", "high"]}, spec=spec, about={})
    built = card.build()
    for parameter in built.parameters():  # a learned vector, too, is not zero
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    if built.melody is not None:
        built.melody.voices.copy_(torch.tensor([(0.2, 0.1), (0.9, 0.2)]))
    return SpeechModel(built.eval(), card, voices=voices)


def test_a_model_of_names_takes_its_nearest_voice_and_says_so() -> None:
    plain = model(melody=False, decoder_input="latents")
    with pytest.warns(Note, match=r"nearest voice is low, similarity 0.80; it takes no vectors"):
        voice = plain.voice_like(REFERENCE)
    assert (voice.nearest, voice.labels, voice.embeddings) == ("low", {"speaker": "low"}, {})
    assert voice.embedding is None
    coded = plain.encode(buzz(220, 0.1), speaker="high")
    named, alike = (
        plain.decode(coded, sampling=QUICK, **{key: value})
        for key, value in (("speaker", "low"), ("like", voice))
    )
    assert torch.equal(named, alike)
    assert not torch.equal(plain.decode(coded, sampling=QUICK), alike)


@pytest.mark.parametrize("melody", [False, True])
def test_an_embedding_is_fitted_to_the_reference(
    monkeypatch: pytest.MonkeyPatch, melody: bool
) -> None:
    """The spectral decoder predicts the reference's frames better by it than by the nearest voice,
    and the condition of whatever is decoded changes; the model does not.
    """
    codec = model(melody=melody)
    monkeypatch.setattr(embedding_fit, "BEYOND_MEAN", 0.0)
    before = {name: value.clone() for name, value in codec.model.state_dict().items()}
    wave = torch.from_numpy(buzz(120, 1.0))
    with pytest.warns(Note, match=r"nearest voice is low, similarity 0.80; fitted from there"):
        voice = codec.voice_like((wave, RATE))
    assert voice.embedding is not None
    coded, predictor = codec.encode(wave, RATE), codec.model.spectral_decoder
    plain = replace(voice, embedding=None)

    def error(like: ReferenceVoice) -> float:
        labels = codec.given.voice(None, {}, None, like)
        labels |= codec.given.range_of(labels, coded.pitch, like=like)
        z = codec.model.quantizer.decode(coded.codes[None])
        pitch = (
            None
            if coded.pitch is None
            else codec.model.pitch(coded.pitch.codes[None], labels, z.shape[-1])
        )
        with torch.no_grad():
            predicted = predictor(z, labels, None, pitch)
        return float(predictor.loss(predicted, codec.prepare(wave, RATE)[None], None))

    assert error(voice) < 0.97 * error(plain)  # of random weights
    assert all(parameter.grad is None for parameter in codec.model.parameters())
    after = codec.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    fitted, named = (codec.task(coded, None, like=each).condition for each in (voice, plain))
    assert not torch.equal(fitted.features, named.features)
    with pytest.warns(Note):
        again = codec.voice_like((wave, RATE))
    assert torch.equal(voice.embedding, again.embedding)


def test_the_embedding_of_a_known_voice_is_recovered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the reference has the very frames that an embedding predicts, those come out."""
    codec = model(melody=False)
    predictor, wave = codec.model.spectral_decoder, torch.from_numpy(buzz(120, 1.0))
    coded = codec.encode(wave, RATE)
    z = codec.model.quantizer.decode(coded.codes[None])
    low, high = ({"speaker": torch.tensor([row])} for row in (0, 1))
    with torch.no_grad():
        wanted, start = (predictor(z, labels) for labels in (high, low))
    monkeypatch.setattr(predictor.frontend, "forward", lambda _: wanted)
    known = torch.tensor([0, 1])
    fitted = embedding_fit.fit_embedding(codec.model, coded, wave, low, known).embedding
    with torch.no_grad():
        predicted = predictor(z, {EMBEDDING: fitted})
    assert (predicted - wanted).abs().mean() < 0.1 * (start - wanted).abs().mean()


def test_the_embedding_goes_beyond_by_half(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of its distance from the mean of the known voices."""
    monkeypatch.setattr(embedding_fit, "LEVEL_STEPS", 0)
    codec, wave = model(melody=False), torch.from_numpy(buzz(120, 0.4))
    coded, known = codec.encode(wave, RATE), torch.tensor([0, 1])
    own = {"speaker": torch.tensor([0])}
    fitted = embedding_fit.fit_embedding(codec.model, coded, wave, own, known)
    mean = codec.model.spectral_decoder.embeddings["speaker"].weight.detach().mean(0)
    torch.testing.assert_close(fitted.mean[0], mean)
    torch.testing.assert_close(fitted.beyond_mean() - mean, 1.5 * (fitted.embedding - mean))


@pytest.mark.filterwarnings("ignore::vqwave.errors.Note")
@pytest.mark.parametrize("melody", [False, True])
def test_what_goes_beyond_keeps_the_level(monkeypatch: pytest.MonkeyPatch, melody: bool) -> None:
    """Of the frames that the fitted embedding predicts, for the codes of the reference, or of the
    recording that is converted.
    """
    codec, source = model(melody=melody), (buzz(220, 1.2), RATE)
    reference = buzz(120, 1.0), RATE

    def level(like: ReferenceVoice, wave: np.ndarray) -> float:
        spectrum = codec.task(codec.encode(wave), None, like=like).spectrum
        return 10 * math.log10(float((2 * spectrum).exp().sum(1).mean()))

    def off(steps: int) -> tuple[float, float]:
        """By the mean voice, by the source."""
        monkeypatch.setattr(embedding_fit, "LEVEL_STEPS", steps)
        voice = codec.voice_like(reference)
        away, fitted = (
            codec.voice_like(voice, source),
            replace(voice, embedding=voice.fitted.embedding),
        )
        return tuple(
            abs(level(each, wave) - level(fitted, wave))
            for each, wave in ((voice, reference[0]), (away, source[0]))
        )

    for before, after in zip(off(0), off(4), strict=True):
        assert after < 0.1 * before  # but for the pitch, that of the target in a conversion


@pytest.mark.filterwarnings("ignore::vqwave.errors.Note")
def test_a_conversion_goes_away_from_its_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By three tenths of the distance of both fitted embeddings; `convert` does so by itself, of a
    waveform and of a file, except for a voice that was taken without the source, and for a source
    of less than a second.
    """
    monkeypatch.setattr(embedding_fit, "LEVEL_STEPS", 0)
    codec, source = model(), buzz(220, 1.2)
    voice, other = codec.voice_like(REFERENCE), codec.voice_like((source, RATE)).fitted
    assert voice.fitted is not None
    assert other is not None
    away = codec.voice_like(voice, (source, RATE))
    reference = voice.fitted.embedding
    torch.testing.assert_close(
        away.embedding - other.embedding, 1.3 * (reference - other.embedding)
    )
    assert (away.nearest, away.pitch, away.labels) == (voice.nearest, voice.pitch, voice.labels)
    coded = codec.encode(source)

    def features(like: object) -> torch.Tensor:
        return codec.task(coded, None, like=like).condition.features

    assert not torch.equal(features(away), features(voice))
    direct, with_source, without = (
        codec.convert(source, like=like, sampling=QUICK) for like in (REFERENCE, away, voice)
    )
    assert torch.equal(direct, with_source)
    assert torch.equal(without, codec.decode(coded, like=voice, sampling=QUICK))
    write(tmp_path / "source.wav", source, RATE)
    stored = codec.voice_like(voice, tmp_path / "source.wav")
    torch.testing.assert_close(stored.embedding, away.embedding, atol=0.02, rtol=0)
    assert codec.voice_like(voice, (buzz(220, 0.9), RATE)) is voice
    assert codec.voice_like(voice, (np.zeros(2 * RATE, np.float32), RATE)) is voice
    for source, message in (
        (tmp_path / "none.wav", r"none\.wav: no such file"),
        ((np.full(2 * RATE, np.nan, np.float32), RATE), r"source: .*not finite"),
        (voice, r"source: a ReferenceVoice, expected a file, or a waveform"),
    ):
        with pytest.raises(UserInputError, match=message):
            codec.voice_like(voice, source)


def test_the_range_is_that_of_the_reference() -> None:
    codec = model()
    coded = codec.encode(buzz(220, 0.1))
    with pytest.warns(Note):
        voice = codec.voice_like(REFERENCE)
    given = codec.given.voice(None, {}, None, voice)
    mean, deviation = codec.given.range_of(given, coded.pitch, 12, voice)[VOICE][0].tolist()
    assert mean == pytest.approx(math.log(2 * 1.2), abs=0.03)
    assert deviation == pytest.approx(0.05)  # a constant pitch: the least
    assert codec.task(coded, None, like=voice).samples == coded.samples


def test_a_model_of_vectors_takes_that_of_the_reference(recwarn: pytest.WarningsRecorder) -> None:
    codec = model(BY_VECTOR, WHITENED)
    voice = codec.voice_like(REFERENCE)
    assert (voice.nearest, voice.labels) == ("low", {})
    expected = WHITENED.whitening(PitchEncoder().embed(*REFERENCE))
    np.testing.assert_allclose(voice.embeddings[NAME], expected)
    assert not [each for each in recwarn if each.category is Note]
    coded = codec.encode(buzz(220, 0.1), speaker="high")
    one, other = (codec.task(coded, None, like=(buzz(f, 0.4), RATE)) for f in (120, 140))
    assert not torch.equal(one.condition.features, other.condition.features)


def test_a_speaker_of_a_model_of_vectors_has_its_own() -> None:
    codec = model(BY_VECTOR, WHITENED)
    coded = codec.encode(buzz(220, 0.1))
    own = {NAME: WHITENED.whitening(AXES[1])}
    given = codec.task(coded, "high", embeddings=own).condition.features
    assert torch.equal(codec.task(coded, "high").condition.features, given)
    assert not torch.equal(codec.task(coded, "low").condition.features, given)


@pytest.mark.filterwarnings("ignore::vqwave.errors.Note")
@pytest.mark.parametrize("by_vector", [True, False])
def test_a_stream_is_what_decode_gives(by_vector: bool, tmp_path: Path) -> None:
    """Also one that was saved meanwhile."""
    codec = model(BY_VECTOR, WHITENED) if by_vector else model()
    coded, voice = codec.encode(buzz(220, 0.2)), codec.voice_like(REFERENCE)
    stream = codec.stream(like=voice, sampling=QUICK)
    parts = []
    for block in coded.block.split(3):
        parts.append(stream.push(block.codes, block.pitch))
        stream.state().save(tmp_path / "state")
        stream = codec.resume_stream(tmp_path / "state")
    parts.append(stream.flush(coded.samples))
    whole = codec.decode(coded, like=voice, sampling=QUICK)
    assert torch.equal(torch.from_numpy(np.concatenate(parts)), whole)
    converted = codec.convert(buzz(220, 0.2), like=voice, sampling=QUICK)
    assert torch.equal(converted, whole)


def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wave, codec = buzz(220, 0.1), model()
    cases = {
        r"speaker 'low': given with like, expected one": {"speaker": "low", "like": REFERENCE},
        r"like: a list, expected a file, or a waveform and its rate": {"like": [0.1, 0.2]},
        r"like: .*is silent": {"like": (np.zeros(RATE, np.float32), RATE)},
        r"like: sample_rate: 0, expected whole Hz": {"like": (wave, 0)},
        rf"{tmp_path}/no.wav: no such file": {"like": tmp_path / "no.wav"},
    }
    for message, given in cases.items():
        with pytest.raises(UserInputError, match=message):
            codec.convert(wave, **given)
    missing = r"the model has no vectors of its voices.*vqwave voices MODEL --data CORPUS"
    for without in (model(voices=None), model(BY_VECTOR, VOICES)):
        with pytest.raises(UserInputError, match=missing):
            without.convert(wave, like=REFERENCE)
    half = replace(SPEC.spectral_decoder, vectors=False)  # which knows a voice by its label alone
    card = replace(codec.card, spec=replace(model(BY_VECTOR).card.spec, spectral_decoder=half))
    assert not SpeechModel(card.build(), card, voices=WHITENED).takes_vectors
    alone = model(ConditionerSpec(channels=6, categorical=()))
    with pytest.raises(UserInputError, match="like: this model takes no speaker, it has one voice"):
        alone.convert(wave, like=REFERENCE)


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """convert of a file and a folder, decode, decode --stream: all in the voice of a reference."""
    codec = model(melody=False)
    save_trained(tmp_path / "model", codec.model, codec.card, codec.voices)
    (tmp_path / "in").mkdir()
    write(tmp_path / "in" / "a.wav", buzz(220, 0.1), RATE)
    write(tmp_path / "like.wav", *REFERENCE)
    it = SpeechModel.load(tmp_path / "model")
    save_codes(tmp_path / "a.vqw", it.encode_file(tmp_path / "in" / "a.wav", "high"))
    name, a = str(tmp_path / "model"), str(tmp_path / "in" / "a.wav")
    like, quick = ["--like", str(tmp_path / "like.wav")], ["--backend", "reference"]
    main(["convert", name, a, "--speaker", "low", "--out", str(tmp_path / "named.wav"), *quick])
    made = {(tmp_path / "named.wav").read_bytes()}
    for command, source, out in (
        ("convert", a, "b.wav"),
        ("convert", str(tmp_path / "in"), "all"),
        ("decode", str(tmp_path / "a.vqw"), "c.wav"),
        ("decode --stream", str(tmp_path / "a.vqw"), "d.wav"),
    ):
        words = [*command.split(" ")[:1], name, source, *command.split(" ")[1:]]
        main([*words, *like, "--out", str(tmp_path / out), *quick])
        made.add((tmp_path / out / "a.wav" if out == "all" else tmp_path / out).read_bytes())
        assert len(made) == 2, out  # the four are the same, and not the nearest voice
        assert "nearest voice is low, similarity 0.80" in capsys.readouterr().err
    write(tmp_path / "in" / "a.wav", buzz(220, 1.2), RATE)  # long enough to go away from
    save_codes(tmp_path / "a.vqw", it.encode_file(tmp_path / "in" / "a.wav", "high"))
    converted = set()
    for source, out in ((a, "f.wav"), (str(tmp_path / "in"), "more")):
        main(["convert", name, source, *like, "--out", str(tmp_path / out), *quick])
        converted.add((tmp_path / out / "a.wav" if out == "more" else tmp_path / out).read_bytes())
    main(["decode", name, str(tmp_path / "a.vqw"), *like, "--out", str(tmp_path / "g.wav"), *quick])
    assert len(converted) == 1
    assert (tmp_path / "g.wav").read_bytes() not in converted
    for both in (["--speaker", "low", *like], []):
        with pytest.raises(SystemExit) as end:
            main(["convert", name, a, "--out", str(tmp_path / "e.wav"), *both])
        assert end.value.code == 2
        assert not (tmp_path / "e.wav").exists()


def test_a_voice_by_its_vector_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--embedding`, which then takes the place of a name."""
    codec = model(BY_VECTOR, WHITENED, melody=False)
    save_trained(tmp_path / "model", codec.model, codec.card, codec.voices)
    name, source, place = str(tmp_path / "model"), tmp_path / "a.wav", tmp_path / "out.wav"
    write(source, buzz(220, 0.3), RATE)
    quick = ["--backend", "reference", "--quiet", "--out"]
    coded, waves = codec.encode_file(source), []
    save_codes(tmp_path / "a.vqw", coded)
    for speaker, vector in zip(("low", "high"), WHITENED.whitening(AXES[:2]), strict=True):
        np.save(tmp_path / f"{speaker}.npy", vector)
        given = ["--embedding", f"{NAME}={tmp_path / speaker}.npy"]
        wave = codec.decode(coded, embeddings={NAME: vector}, sampling=QUICK)
        waves.append(to_int16(wave.numpy()))
        for words in (["convert", name, str(source)], ["decode", name, str(tmp_path / "a.vqw")]):
            main([*words, *given, *quick, str(place)])
            assert np.array_equal(to_int16(read(place)[0]), waves[-1])
    assert not np.array_equal(*waves)
    out, words = tmp_path / "x.wav", ["convert", name, str(source), *quick]
    for wrong, named in (
        (f"{NAME}={tmp_path}/none.npy", "none.npy"),
        (f"voice={tmp_path}/high.npy", f"vector 'voice': this model takes {NAME}"),
        ("high.npy", "high.npy: expected NAME=VALUE"),
    ):
        with pytest.raises(SystemExit) as end:
            main([*words, str(out), "--embedding", wrong])
        assert end.value.code == 2
        assert named in capsys.readouterr().err
    assert not out.exists()


def test_a_model_of_one_voice_converts_to_it(tmp_path: Path) -> None:
    codec = model(ConditionerSpec(channels=6, categorical=()), melody=False)
    save_trained(tmp_path / "model", codec.model, codec.card)
    source, out = tmp_path / "a.wav", tmp_path / "b.wav"
    write(source, buzz(220, 0.1), RATE)
    main(["convert", str(tmp_path / "model"), str(source), "--out", str(out), "--quiet"])
    assert read(out)[0].shape == read(source)[0].shape


def test_whitened_vectors_have_mean_0_and_covariance_1() -> None:
    rng = np.random.default_rng(0)
    mix = np.eye(8) + np.triu(np.full((8, 8), 0.3), 1)
    mixed = rng.standard_normal((20_000, 8)) @ mix + 3
    white = Whitening.of(mixed)(mixed).astype(np.float64)
    np.testing.assert_allclose(white.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(white.T @ white / len(white), np.eye(8), atol=0.02)
    few = Whitening.of(rng.standard_normal((3, SIZE)))(rng.standard_normal((5, SIZE)))
    assert np.isfinite(few).all()
    assert np.abs(few).max() < 20  # a singular covariance is shrunk
    assert np.isfinite(Whitening.of(np.ones((4, SIZE)))(np.ones(SIZE))).all()


def corpus(folder: Path) -> Path:
    takes = [Take("low", 100, split, "a") for split in ("train", "train", "test")]
    takes += [Take("high", 200, "train", "a"), Take("other", 300, "test", "a")]
    takes += [Take("low", 100, "valid", "a")]
    write_corpus(folder, takes, 0.3, ["high", "low", "other"])
    return folder


def test_a_corpus_has_the_vector_of_each_speaker(tmp_path: Path) -> None:
    voices = add_speaker_vectors(corpus(tmp_path / "corpus"), quiet=True)
    opened = Corpus.open(tmp_path / "corpus")
    rows = opened.vectors[NAME]
    assert rows.shape == (6, SIZE)
    assert (rows[0] == rows[2]).all()
    np.testing.assert_allclose(
        rows[3], voices.whitening(unit(PitchEncoder().embed(opened.read(3), RATE))), atol=1e-5
    )
    assert voices.names == ("high", "low", "other")  # the last has no training recordings
    kept = saved_in(tmp_path / "corpus")
    assert kept.names == voices.names
    np.testing.assert_allclose(kept.vectors, voices.vectors, atol=1e-7)
    np.testing.assert_allclose(kept.whitening(kept.vectors)[1], rows[0], atol=1e-4)


def test_prepare_writes_vectors(tmp_path: Path) -> None:
    write(tmp_path / "a.wav", buzz(100, 0.5), RATE)
    rows = "path,speaker\na.wav,low\n"
    (tmp_path / "manifest.csv").write_text(rows)
    main(["prepare", "manifest", str(tmp_path), "--out", str(tmp_path / "c"), "--speaker-vectors"])
    assert Corpus.open(tmp_path / "c").vectors[NAME].shape == (1, SIZE)
    prepare("manifest", tmp_path, tmp_path / "without")
    assert not (tmp_path / "without" / "vectors").exists()
    assert saved_in(tmp_path / "without") is None


def test_vectors_are_added_to_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of the voices that it was trained on; weights and card stay as they are."""
    codec = model()
    card = replace(codec.card, about={"untrained_labels": {"speaker": ["high"]}})
    save_trained(tmp_path / "model", codec.model, card)
    before = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    main(["voices", str(tmp_path / "model"), "--data", str(corpus(tmp_path / "corpus"))])
    assert "voices.safetensors: 1 voices" in capsys.readouterr().out
    assert load_trained(tmp_path / "model").voices.names == ("low",)
    after = {name: (tmp_path / "model" / name).read_bytes() for name in before}
    assert after == before
    other = [Take("nobody", 100, "train", "a")]
    write_corpus(tmp_path / "other", other, 0.3, ["nobody"])
    with pytest.raises(SystemExit):
        main(["voices", str(tmp_path / "model"), "--data", str(tmp_path / "other")])
    assert "has no recordings of the 1 speakers" in capsys.readouterr().err


def test_damaged_vectors_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "voices.safetensors"
    WHITENED.save(path)
    whole = path.read_bytes()
    assert SpeakerVectors.load(path).names == ("low", "high")
    path.write_bytes(whole[:-4])
    with pytest.raises(UserInputError, match=r"voices.safetensors: cannot be read"):
        SpeakerVectors.load(path)
    path.write_bytes(whole.replace(b"low", b"l\xffw"))
    with pytest.raises(UserInputError, match=r"voices.safetensors"):
        SpeakerVectors.load(path)
    replace(VOICES, vectors=AXES[:1]).save(path)
    with pytest.raises(UserInputError, match=r"vectors of shape \(1, 256\), expected finite"):
        SpeakerVectors.load(path)
    replace(VOICES, vectors=np.full((2, SIZE), np.nan)).save(path)
    with pytest.raises(UserInputError, match="expected finite"):
        SpeakerVectors.load(path)


def test_a_training_learns_vectors_and_keeps_them(
    tmp_path: Path,
    experiment_script: Callable[[str], ModuleType],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Codes, then a decoder, on a corpus with vectors; the model takes those of any voice."""
    place, train = corpus(tmp_path / "corpus"), experiment_script("vqvae").VQVAEExperiment
    add_speaker_vectors(place, quiet=True)
    size = "{channels: 8, features: {kind: log_mel, bands: 8, fmin: 100, fmax: 4000}, "
    voice = (
        "model.decoder.conditioner={channels: 4, embeddings: {speaker_vector: 256}, dropout:"
        " {categorical: 0.5}}"
    )
    stack = "{layers: 2, dilation_cycle: 2, residual_channels: 4, gate_channels: 4, "
    common = [f"data.corpus={place}", "data.clip_seconds=0.2", "data.batch=2"]
    common += ["data.valid_clip_seconds=0.2", "train.steps=2", "--quiet"]
    codes = [
        f"model.encoder={size} kind: spectral, latent_dim: 4}}",
        "model.quantizer.codebook_size=8",
        f"model.spectral_decoder={size} vectors: true}}",
        "losses={nll: 0.0, spectral: 1.0, commitment: 0.25}",
    ]
    run(train, [*common, *codes, voice, f"run={tmp_path / 'codes'}"])
    network = f"model.decoder.network={stack} skip_channels: 4, hidden_channels: 4}}"
    decoder = [f"frozen_codec={tmp_path / 'codes'}", "model.decoder_input=spectrogram", network]
    decoder += ["num_samples=0", f"run={tmp_path / 'whole'}"]
    with pytest.raises(SystemExit):
        run(train, [*common, *decoder])
    assert "expected those of frozen_codec: {'speaker_vector': 256}, 0.5" in capsys.readouterr().err
    run(train, [*common, *decoder, voice])
    trained = SpeechModel.load(tmp_path / "whole")
    assert trained.takes_vectors
    assert trained.voices.names == ("high", "low")
    taken = trained.voice_like(REFERENCE)
    kept = saved_in(place).whitening(PitchEncoder().embed(*REFERENCE))
    np.testing.assert_allclose(taken.embeddings[NAME], kept, atol=1e-2)


@pytest.mark.parametrize("name", sorted(path.parent.name for path in SHIPPED.glob("*/config.json")))
def test_shipped_models_have_vectors_of_their_voices(name: str) -> None:
    voices = saved_in(SHIPPED / name)
    np.testing.assert_allclose(np.linalg.norm(voices.vectors, axis=1), 1, atol=1e-5)
    off = voices.vectors @ voices.vectors.T - np.eye(len(voices.names))
    assert off.max() < 0.95  # no voice is another
    assert len(voices.names) == (6 if name.startswith("fsdd") else 11)
