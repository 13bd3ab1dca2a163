"""A codec with a melody: pitch codes from recordings to files and back, in the range of the voice
that is asked for.
"""

from __future__ import annotations

import io
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from small_models import MELODY, RATE, rising_voice, start_codebooks

from vqwave import audio
from vqwave.cli import main
from vqwave.codes import load_codes, save_codes
from vqwave.decode.sampling import Sampling
from vqwave.errors import UserInputError
from vqwave.inference import speech_encoder
from vqwave.inference.model_folder import ModelCard, save_trained
from vqwave.inference.speech_model import SpeechModel
from vqwave.models import WaveNetSpec
from vqwave.models.melody import VOICE
from vqwave.nn.condition import ConditionerSpec
from vqwave.nn.linear_prediction import LinearPredictorSpec

VOICES = [(0.2, 0.1), (0.9, 0.2)]
SPEC = replace(
    MELODY,
    decoder=replace(MELODY.decoder, predictor=LinearPredictorSpec(order=4), pitch_taps=3),
)


@pytest.fixture(scope="module")
def codec() -> SpeechModel:
    torch.manual_seed(0)
    labels = {"speaker": ["low", "high"]}
    model = SPEC.build(RATE, labels)
    start_codebooks(model)
    model.melody.voices.copy_(torch.tensor(VOICES))
    return SpeechModel(
        model.eval(), ModelCard(sample_rate=RATE, labels=labels, spec=SPEC, about={})
    )


def test_codes_cover_the_recording_and_survive_a_file(codec: SpeechModel, tmp_path: Path) -> None:
    coded = codec.encode(rising_voice(), speaker="low")
    assert coded.codes.shape == (1, 50)
    assert coded.pitch.codes.shape == (1, 13)
    assert (coded.pitch.hop, coded.pitch.size) == (640, 5)
    save_codes(tmp_path / "a.vqw", coded)
    back = load_codes(tmp_path / "a.vqw")
    assert torch.equal(back.pitch.codes, coded.pitch.codes)
    own, kept = (codec.task(each, None).condition.features for each in (coded, back))
    assert torch.equal(own, kept)


def test_a_known_voice_is_normalised_by_its_own_range(codec: SpeechModel) -> None:
    known, unknown = codec.encode(rising_voice(), speaker="high"), codec.encode(rising_voice())
    assert known.pitch.mean == pytest.approx(VOICES[1][0])
    assert known.pitch.deviation == pytest.approx(VOICES[1][1])
    assert unknown.pitch.mean == pytest.approx(math.log(1.7), abs=0.1)  # its own: 140 to 210 Hz


def test_a_conversion_lands_in_the_range_of_its_target(codec: SpeechModel) -> None:
    """The range that the decoder is given: the target's, moved by the semitones that are asked
    for.
    """
    coded = codec.encode(rising_voice(), speaker="low")
    voice = codec.given.voice("high", {}, None)
    given = codec.given.range_of(voice, coded.pitch, 3.0)[VOICE][0].tolist()
    assert given == pytest.approx([VOICES[1][0] + math.log(2) / 4, VOICES[1][1]])


def test_a_voice_may_be_named_by_its_label(codec: SpeechModel) -> None:
    encoded = codec.codec.encode(rising_voice()[None], speaker="low")
    rows = encoded.codes, encoded.frames, encoded.samples, encoded.pitch_codes
    named, _ = codec.codec.decode(*rows, speaker="high", seed=1)
    labelled, _ = codec.codec.decode(*rows, labels=[{"speaker": "high"}], seed=1)
    assert torch.equal(named, labelled)
    with pytest.raises(UserInputError, match="labels: 2"):
        codec.codec.decode(*encoded, labels=[{"speaker": "high"}] * 2)


def test_codes_of_an_unknown_voice_keep_their_own_range(codec: SpeechModel) -> None:
    coded = codec.encode(rising_voice())
    mean, deviation = codec.given.range_of({}, coded.pitch)[VOICE][0].tolist()
    assert (mean, deviation) == pytest.approx((coded.pitch.mean, coded.pitch.deviation))


def test_semitones_move_what_is_decoded(codec: SpeechModel) -> None:
    coded, sampling = codec.encode(rising_voice(0.1), speaker="low"), Sampling(backend="reference")
    plain, moved = (codec.decode(coded, sampling=sampling, shift_semitones=k) for k in (0, 5))
    assert not torch.equal(plain, moved)
    converted = codec.convert(
        rising_voice(0.1), speaker="high", sampling=sampling, shift_semitones=-2
    )
    assert len(converted) == len(plain)


def test_a_stream_is_what_decode_gives(codec: SpeechModel) -> None:
    coded, sampling = codec.encode(rising_voice(0.2), speaker="high"), Sampling(backend="reference")
    stream = codec.stream("high", sampling=sampling, shift_semitones=2)
    parts = [stream.push(block.codes, block.pitch) for block in coded.block.split(3)]
    parts.append(stream.flush(coded.samples))
    whole = codec.decode(coded, sampling=sampling, shift_semitones=2)
    assert torch.equal(torch.from_numpy(np.concatenate(parts)), whole)


def test_a_refused_end_changes_nothing(codec: SpeechModel) -> None:
    """Pitch codes that are missing may still come; too many are refused, too."""
    coded, sampling = codec.encode(rising_voice(0.2), speaker="high"), Sampling(backend="reference")
    stream, codes, pitch = codec.stream("high", sampling=sampling), coded.codes, coded.pitch.codes
    parts = [stream.push(codes, pitch[:, :1])]
    with pytest.raises(UserInputError, match=r"1 pitch codes for \d+ frames, expected"):
        stream.flush(coded.samples)
    parts += [stream.push(codes[:, :0], pitch[:, 1:]), stream.flush(coded.samples)]
    whole = codec.decode(coded, sampling=sampling)
    assert torch.equal(torch.from_numpy(np.concatenate(parts)), whole)
    stream = codec.stream("high", sampling=sampling)
    stream.push(codes, pitch.repeat(1, 2))
    with pytest.raises(UserInputError, match="pitch codes for"):
        stream.flush(coded.samples)


def test_a_long_file_is_encoded_piece_by_piece(
    codec: SpeechModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    soundfile.write(tmp_path / "a.wav", rising_voice(2.0), RATE, subtype="FLOAT")
    whole = codec.encode_file(tmp_path / "a.wav", "low")
    monkeypatch.setattr(speech_encoder, "LONG", 0.5)
    pieces = codec.encode_file(tmp_path / "a.wav", "low")
    assert pieces.pitch.codes.shape == whole.pitch.codes.shape
    # F0 is that of the whole up to rounding
    assert (pieces.pitch.codes == whole.pitch.codes).float().mean() > 0.9


def test_refusals(codec: SpeechModel) -> None:
    coded = codec.encode(rising_voice(0.1), speaker="low")
    with pytest.raises(UserInputError, match="these codes have no pitch codes, expected some"):
        codec.decode(replace(coded, pitch=None))
    with pytest.raises(
        UserInputError, match="pitch codes: 1 books of 6 codes, hop 640, expected 1 of 5, hop 640"
    ):
        codec.decode(replace(coded, pitch=replace(coded.pitch, size=6)))
    with pytest.raises(UserInputError, match="shift_semitones: 60, expected at most 48"):
        codec.decode(coded, shift_semitones=60)
    spec = replace(SPEC, melody=None, decoder=replace(SPEC.decoder, pitch_taps=0))
    card = ModelCard(sample_rate=RATE, labels={"speaker": ["low"]}, spec=spec, about={})
    plain = SpeechModel(card.build().eval(), card)
    with pytest.raises(
        UserInputError, match="shift_semitones: 1, expected 0: this model has no codes"
    ):
        plain.convert(rising_voice(0.3), speaker="low", shift_semitones=1)
    with pytest.raises(UserInputError, match="shift_semitones: of shape"):
        codec.decode(coded, shift_semitones=[1, 2])


def test_a_pipe_keeps_the_range_of_a_voice_that_has_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a speaker, F0 is that of the codes' header, moved, from a pipe as from a file."""
    unnamed = ConditionerSpec(channels=6, categorical=())
    decoder = WaveNetSpec(network=SPEC.decoder.network, conditioner=unnamed)
    spec = replace(SPEC, spectral_decoder=None, decoder_input="latents", decoder=decoder)
    torch.manual_seed(0)
    card = ModelCard(sample_rate=RATE, labels={"speaker": ["low", "high"]}, spec=spec, about={})
    save_trained(tmp_path / "model", card.build(), card)
    it = SpeechModel.load(tmp_path / "model")
    coded, sampling = it.encode(rising_voice(0.1)), Sampling(backend="reference")
    save_codes(tmp_path / "a.vqw", coded)
    for shift in (0.0, 3.0):
        out, given = io.BytesIO(), io.BytesIO((tmp_path / "a.vqw").read_bytes())
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(given))
        monkeypatch.setattr("sys.stdout", io.TextIOWrapper(out))
        options = ["--stream", "--raw", "--quiet", "--backend", "reference"]
        moved = ["--shift-semitones", str(shift)]
        main(["decode", str(tmp_path / "model"), "-", *options, *moved])
        expected = it.decode(coded, shift_semitones=shift, sampling=sampling)
        assert out.getvalue() == audio.to_int16(expected.numpy()).tobytes()
    other = replace(coded, pitch=replace(coded.pitch, mean=coded.pitch.mean + 0.3))
    assert not torch.equal(it.decode(other, sampling=sampling), it.decode(coded, sampling=sampling))
