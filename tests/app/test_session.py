"""What a visitor works with: files in, codes, voices and sounds out; every refusal is a line."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from small_models import RATE, VQVAE, WAVENET

from vqwave import audio
from vqwave.app import session
from vqwave.app.models import Models, prior_choices, summary, voices
from vqwave.app.samples import TITLES, sample
from vqwave.app.session import Take, Voice
from vqwave.codes import to_bytes
from vqwave.decode.sampling import Sampling
from vqwave.errors import UserInputError
from vqwave.inference.model_folder import ModelCard
from vqwave.inference.reference_voice import ReferenceVoice
from vqwave.inference.speech_model import SpeechModel
from vqwave.nn.condition import ConditionerSpec


@pytest.fixture(scope="module")
def take(model: SpeechModel, recording: Path) -> Take:
    return session.read_take(model, recording, 10.0)


# not compiled: small models take longer to compile than to decode
SLOW = Sampling(backend="reference")


def ignore(share: float) -> None:
    pass


def test_a_recording_is_read_and_encoded(model: SpeechModel, take: Take) -> None:
    assert (take.name, take.rate, len(take.wave)) == ("rising", 8000, 5840)
    assert to_bytes(take.coded) == to_bytes(model.encode(take.wave, take.rate))


def test_a_longer_recording_is_refused_by_its_header(
    model: SpeechModel, recording: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "encode", lambda *_: pytest.fail("it was encoded"))
    with pytest.raises(UserInputError, match=r"^rising.wav: 0.7 s, expected at most 0.5 s$"):
        session.read_take(model, recording, 0.5)


@pytest.mark.parametrize("content", [b"", b"no sound", b"RIFF\0\0\0\0WAVE"])
def test_a_bad_file_is_named_without_its_folder(
    content: bytes, model: SpeechModel, tmp_path: Path
) -> None:
    path = tmp_path / "notes.wav"
    path.write_bytes(content)
    with pytest.raises(UserInputError) as caught:
        session.read_take(model, path, 10.0)
    assert str(caught.value).startswith("notes.wav: ")
    assert str(tmp_path) not in str(caught.value)


def test_silence_is_named(model: SpeechModel, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "quiet.wav", np.zeros(4000), 8000)
    with pytest.raises(UserInputError, match=r"^quiet.wav: the recording is silent"):
        session.read_take(model, tmp_path / "quiet.wav", 10.0)


def test_edits_are_kept_and_undone(take: Take) -> None:
    shorter = take.edited(take.coded.cut(0, 8), 10.0)
    assert shorter.coded.codes.shape[1] == 8
    assert shorter.source is take.source
    assert shorter.undone().coded is take.coded
    with pytest.raises(UserInputError, match="no edit to undo"):
        take.undone()
    with pytest.raises(UserInputError, match=r"0.7 s, expected at most 0.5 s"):
        take.edited(take.coded, 0.5)


def test_another_codec_encodes_anew_and_drops_edits(model: SpeechModel, take: Take) -> None:
    edited = take.edited(take.coded.cut(0, 8), 10.0)
    assert session.recoded(model, edited) is edited
    foreign = replace(edited, source=replace(take.source, fingerprint="0" * 16))
    again = session.recoded(model, foreign)
    assert not again.edits
    assert to_bytes(again.coded) == to_bytes(take.coded)


def test_trained_voices_alone_are_offered(model: SpeechModel) -> None:
    assert voices(model) == ["low", "high"]


def test_versions_are_at_one_level(model: SpeechModel, brief: Path) -> None:
    take, shares = session.read_take(model, brief, 10.0), []
    recorded, sounds = session.versions(model, take, Voice("high", -2.0, SLOW), shares.append)
    assert [sound.title for sound in sounds] == [
        f"reconstruction as {session.nearest_voice(model, take)}",
        "conversion to high, −2 semitones",
    ]
    levels = [audio.level_db(sound.wave) for sound in (recorded, *sounds)]
    assert np.ptp(levels) < 0.1
    assert {len(sound.wave) for sound in (recorded, *sounds)} == {800}
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_the_nearest_voice_is_decoded_once(
    model: SpeechModel, brief: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take, decode, calls, shares = session.read_take(model, brief, 10.0), model.decode, [], []
    monkeypatch.setattr(model, "decode", lambda *a, **k: calls.append(a) or decode(*a, **k))
    nearest = session.nearest_voice(model, take)
    _, sounds = session.versions(model, take, Voice(nearest, 0, SLOW), shares.append)
    titles = [f"reconstruction as {nearest}", f"conversion to {nearest}"]
    assert [sound.title for sound in sounds] == titles
    assert sounds[0].wave is sounds[1].wave
    assert (len(calls), shares[-1]) == (1, 1.0)


def test_a_conversion_is_that_of_the_model(model: SpeechModel, brief: Path) -> None:
    take = session.read_take(model, brief, 10.0)
    sampling = replace(SLOW, temperature=0.5, seed=7)
    voice = Voice("high", 3.0, sampling)
    sound = session.decoded(model, take.coded, voice, "x", ignore)
    own = model.convert(
        take.wave, take.rate, speaker="high", shift_semitones=3.0, sampling=sampling
    )
    assert np.array_equal(sound.wave, audio.normalise_level(own.numpy(), model.level_db))


@pytest.mark.parametrize(
    ("voice", "complaint"),
    [
        (Voice("nobody"), "speaker 'nobody': not among"),
        (Voice("low", 99.0), "expected at most 48"),
    ],
)
def test_a_voice_that_cannot_be_is_a_line(
    voice: Voice, complaint: str, model: SpeechModel, take: Take
) -> None:
    with pytest.raises(UserInputError, match=re.escape(complaint)):
        session.decoded(model, take.coded, voice, "x", ignore)


def test_the_voice_of_a_recording_is_fitted_once_for_a_model(
    model: SpeechModel, brief: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take, reference = session.read_take(model, brief, 10.0), session.read_recording(brief, 10.0)
    fitted = []

    def fit(given: object) -> ReferenceVoice:
        if isinstance(given, ReferenceVoice):
            return given
        fitted.append(given)
        return ReferenceVoice("high", 0.9, labels={"speaker": "high"})

    monkeypatch.setattr(model, "voice_like", fit)
    voice = Voice("low", sampling=SLOW, like=reference)
    first, second = (session.decoded(model, take.coded, voice, "x", ignore) for _ in range(2))
    assert len(fitted) == 1
    assert np.array_equal(first.wave, second.wave)
    del voice, reference
    assert not session._fitted  # nor is it kept longer than its visitor has it


def test_what_comes_along_is_short_speech(model: SpeechModel) -> None:
    for title in TITLES:
        assert 0.3 < session.read_take(model, sample(title), 10.0).coded.seconds < 5.0
    with pytest.raises(UserInputError, match="expected one of"):
        sample("../../etc/passwd")


def test_models_of_a_page(model_folder: Path) -> None:
    models = Models.load([str(model_folder), "fsdd-prior"])
    assert list(models.decoders) == [str(model_folder)]
    assert list(models.priors) == ["fsdd-prior"]
    small = models.decoder(str(model_folder))
    assert summary("small", small) == "small, 8 kHz, sample by sample"
    with pytest.raises(UserInputError, match="expected one of"):
        models.decoder("speech")
    assert list(Models.load(["fsdd-prior"]).decoders) == ["fsdd-prior"]


def test_a_recording_of_a_trained_speaker_has_that_nearest_voice() -> None:
    student = SpeechModel.load("fsdd-student")
    for title, name in (("“seven”", "theo"), ("“three”", "lucas")):
        take = session.read_take(student, sample(title), 10.0)
        assert session.nearest_voice(student, take) == name


@pytest.mark.parametrize(
    ("title", "name"), [("a sentence, a man", "19"), ("a sentence, a woman", "27")]
)
def test_the_default_voice_is_one_of_the_other_range(title: str, name: str) -> None:
    """27 is a man (111 Hz), 19 a woman (191 Hz): in the middle of either half of the voices."""
    speech = SpeechModel.load("speech")
    take = session.read_take(speech, sample(title), 10.0)
    assert session.default_voice(speech, take) == name
    assert session.default_voice(speech) == "19"


def test_the_default_voice_is_not_the_nearest(
    model: SpeechModel, take: Take, monkeypatch: pytest.MonkeyPatch
) -> None:
    for near, far in (("low", "high"), ("high", "low")):
        monkeypatch.setattr(session, "nearest_voice", lambda *_, near=near: near)
        assert session.default_voice(model, take) == far


def test_the_default_voice_of_models_without_pitch(recording: Path) -> None:
    for names, categorical in ((["a", "b", "c"], ("speaker",)), ([], ())):
        labels = {"speaker": names} if names else {}
        conditioner = ConditionerSpec(channels=4, categorical=categorical)
        spec = replace(VQVAE, decoder=replace(WAVENET, conditioner=conditioner))
        network = spec.build(RATE, labels).eval()
        plain = SpeechModel(
            network, ModelCard(sample_rate=RATE, labels=labels, spec=spec, about={})
        )
        take = session.read_take(plain, recording, 10.0)
        nearest = session.nearest_voice(plain, take)
        assert nearest == ("a" if names else None)
        assert session.default_voice(plain, take) == ("b" if names else None)


def test_whether_something_has_to_be_compiled_is_known_without_compiling(
    model: SpeechModel, take: Take, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("numba")
    assert session.is_compiled(model, take.coded, SLOW)

    from vqwave.decode.cpu import compiled

    def decode(*_: object, **__: object) -> None:
        assert compiled._kept_alone.get()
        raise compiled.NotKeptError

    monkeypatch.setattr(model, "decode", decode)
    assert not session.is_compiled(model, take.coded, Sampling(backend="numba"))


def test_a_prior_is_asked_for_trained_voices() -> None:
    """The first is the one that is chosen at first."""
    speakers, text = prior_choices(SpeechModel.load("fsdd-prior")).values()
    assert [name for _, name in speakers] == SpeechModel.load("fsdd").speakers
    assert [value for _, value in text] == list("0123456789")
    model = SpeechModel.load("speech-prior")
    (speakers,) = prior_choices(model).values()
    assert speakers[0] == ("1688, pitch about 179 Hz", "1688")
    assert [name for _, name in speakers] == model.card.trained("speaker")
    assert len(speakers) == 11


@pytest.mark.slow  # it decodes with the shipped models, whose kernels may have to be compiled
def test_a_word_is_generated_and_converted() -> None:
    models = Models.load(["fsdd-student", "fsdd-prior"])
    take = session.generate(models.prior("fsdd-prior"), {"speaker": "theo", "text": "7"})
    student = models.decoder("fsdd-student")
    assert session.recoded(student, take) is take
    recorded, sounds = session.versions(student, take, Voice("george"), ignore)
    assert (take.name, recorded.title) == ("7", "generated as theo")
    assert 0.1 < recorded.seconds == sounds[1].seconds
    assert session.is_compiled(student, take.coded, Sampling())
