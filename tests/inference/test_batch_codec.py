"""The codec on batches: each row is what a call with it alone gives, bit for bit, whatever lies
beside and behind it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import stack, start_codebooks
from torch import Tensor, nn

from vqwave.codes import load_codes, save_codes
from vqwave.decode.sampling import Sampling
from vqwave.distributions import MixtureOfLogistics
from vqwave.errors import UserInputError
from vqwave.features import LogMelSpec
from vqwave.inference.batch_codec import EncodedBatch
from vqwave.inference.model_folder import ModelCard
from vqwave.inference.speech_model import SpeechModel
from vqwave.models import StudentSpec, VQVAESpec, WaveNetSpec
from vqwave.models.pitch import PitchCodecSpec
from vqwave.nn.condition import ConditionerSpec
from vqwave.nn.encoders import FrameEncoderSpec, WaveformEncoderSpec
from vqwave.nn.quantize import EMAQuantizerSpec, HierarchicalQuantizerSpec, ResidualQuantizerSpec

RATE, LENGTHS = 8000, [301, 160, 410, 320, 3]
LABELS = {"speaker": ["low", "high"]}
STACK = stack(8)
CONDITIONER = ConditionerSpec(channels=6)
TEACHER = WaveNetSpec(head=MixtureOfLogistics(components=2), network=STACK, conditioner=CONDITIONER)
STUDENT = StudentSpec(flows=(2,), network=STACK, conditioner=CONDITIONER)
FRAMES = FrameEncoderSpec(features=LogMelSpec(bands=8, fmax=4000), channels=12, latent_dim=6)
WAVEFORM = WaveformEncoderSpec(strides=(4, 4), channels=8, blocks=1, latent_dim=6)
BOOK = EMAQuantizerSpec(codebook_size=8)
SPECS = {
    "spectral, WaveNet": VQVAESpec(encoder=FRAMES, quantizer=BOOK, decoder=TEACHER),
    "waveform, student": VQVAESpec(
        encoder=WAVEFORM, quantizer=ResidualQuantizerSpec(quantizer=BOOK), decoder=STUDENT
    ),
    "two levels": VQVAESpec(
        encoder=FRAMES, quantizer=HierarchicalQuantizerSpec(top=BOOK, bottom=BOOK), decoder=STUDENT
    ),
    "whole utterance": VQVAESpec(
        encoder=replace(FRAMES, instance_norm=True), quantizer=BOOK, decoder=STUDENT
    ),
    "melody": VQVAESpec(
        encoder=FRAMES,
        quantizer=BOOK,
        melody=PitchCodecSpec(
            channels=8, latent_dim=4, quantizer=EMAQuantizerSpec(codebook_size=5)
        ),
        decoder=STUDENT,
    ),
}
REFERENCE = Sampling(backend="reference", seed=3)


def built(name: str) -> SpeechModel:
    torch.manual_seed(0)
    card = ModelCard(sample_rate=RATE, labels=LABELS, spec=SPECS[name], about={})
    model = card.build()
    start_codebooks(model)
    if model.melody is not None:
        model.melody.voices.copy_(torch.tensor([(0.2, 0.1), (0.9, 0.2)]))
    return SpeechModel(model.eval(), card)


@pytest.fixture(scope="module", params=SPECS)
def model(request: pytest.FixtureRequest) -> SpeechModel:
    return built(request.param)


def wave_of(samples: int, f0: float = 140.0) -> np.ndarray:
    """A voice-like wave: harmonics of a rising F0."""
    t = np.arange(samples) / RATE
    phase = 2 * np.pi * np.cumsum(f0 * (1 + t)) / RATE
    return 0.1 * sum(np.cos(k * phase) / k for k in range(1, 9)).astype(np.float32)


WAVES = [wave_of(n, 110.0 + 20 * b) for b, n in enumerate(LENGTHS)]


def padded(extra: int = 0, value: float = 0.0) -> Tensor:
    rows = np.full((len(WAVES), max(LENGTHS) + extra), value, np.float32)
    for row, wave in zip(rows, WAVES, strict=True):
        row[: len(wave)] = wave
    return torch.from_numpy(rows)


@pytest.mark.parametrize("padding", [(0, 0.0), (777, 0.0), (50, float("nan"))], ids=str)
def test_a_batch_of_codes_is_single_codes(model: SpeechModel, padding: tuple) -> None:
    names = ["high", None, "low", "low", None]
    encoded = model.codec.encode(padded(*padding), LENGTHS, speaker=names)
    assert encoded.codes.dtype == torch.int64
    assert encoded.samples.tolist() == LENGTHS
    for b, (wave, name) in enumerate(zip(WAVES, names, strict=True)):
        alone, frames = model.encode(wave, speaker=name), int(encoded.frames[b])
        assert torch.equal(encoded.codes[b, :, :frames], alone.codes)
        assert not encoded.codes[b, :, frames:].any()
        if alone.pitch is not None:
            assert torch.equal(
                encoded.pitch_codes[b, :, : alone.pitch.codes.shape[1]], alone.pitch.codes
            )
            assert encoded.voices[b].tolist() == [alone.pitch.mean, alone.pitch.deviation]


def test_other_rates_and_prepared_recordings(model: SpeechModel) -> None:
    at_16 = model.codec.encode(padded(), LENGTHS, 16_000)
    assert torch.equal(at_16.codes[0, :, : at_16.frames[0]], model.encode(WAVES[0], 16_000).codes)
    kept = model.codec.encode(padded()[:, None], LENGTHS, prepared=True)
    alone = model.encode_prepared(torch.from_numpy(WAVES[2]))
    assert torch.equal(kept.codes[2, :, : kept.frames[2]], alone.codes)


def test_latents_are_quantized_to_the_codes_and_codes_embedded(model: SpeechModel) -> None:
    codec, quantizer = model.codec, model.model.quantizer
    encoded = codec.encode(padded(), LENGTHS)
    z, frames = codec.latents(padded(100), LENGTHS)
    embedded = codec.embed(encoded.codes, encoded.frames)
    assert z.shape == embedded.shape == (len(WAVES), codec.latent_dim, encoded.codes.shape[2])
    assert frames.tolist() == encoded.frames.tolist()
    for b, n in enumerate(frames.tolist()):
        (own,) = codec.latents(WAVES[b][None])[0]
        assert torch.equal(z[b, :, :n], own)
        assert torch.equal(quantizer.encode(z[b : b + 1, :, :n])[0], encoded.codes[b, :, :n])
        assert torch.equal(embedded[b, :, :n], quantizer.decode(encoded.codes[b : b + 1, :, :n])[0])
        assert not z[b, :, n:].any()
        assert not embedded[b, :, n:].any()
    assert torch.equal(codec.embed(encoded.codes[2:3]), embedded[2:3])


def test_a_batch_of_waves_is_single_waves(model: SpeechModel) -> None:
    names = ["high", "low", "low", "high", "low"]
    encoded = model.codec.encode(padded(), LENGTHS)
    waves, lengths = model.codec.decode(*encoded, speaker=names, sampling=REFERENCE)
    assert lengths.tolist() == LENGTHS
    assert waves.shape == (5, max(LENGTHS))
    for b, (wave, name) in enumerate(zip(WAVES, names, strict=True)):
        alone = model.decode(model.encode(wave), name, sampling=REFERENCE)
        assert torch.equal(waves[b, : len(wave)], alone)
        assert not waves[b, len(wave) :].any()
    first = model.codec.sequences(encoded)[4:]
    again, _ = model.codec.decode(
        *model.codec.batch(first), speaker="low", sampling=REFERENCE, seed=4
    )
    assert not torch.equal(again, waves[4:, : again.shape[1]])


@pytest.mark.parametrize("name", ["two levels", "melody"])
def test_codes_alone_are_decoded_as_whole_frames(name: str) -> None:
    """As a network over codes gives them: no true lengths, no range but that of the voice."""
    codec = built(name).codec
    codes, frames, _, pitch_codes, _ = codec.encode(padded(), LENGTHS)
    frames[1] = 0
    waves, lengths = codec.decode(
        codes, frames, pitch_codes=pitch_codes, speaker="low", sampling=REFERENCE
    )
    assert lengths.tolist() == (frames * codec.hop).tolist()
    assert waves.shape == (5, max(lengths))


def test_rows_become_files_and_files_a_batch(model: SpeechModel, tmp_path: Path) -> None:
    encoded = model.codec.encode(padded(), LENGTHS)
    for b, row in enumerate(model.codec.sequences(encoded, "low")):
        save_codes(tmp_path / f"{b}.vqw", row)
    back = model.codec.batch(load_codes(tmp_path / f"{b}.vqw") for b in range(len(WAVES)))
    for given, found in zip(encoded, back, strict=True):
        assert (given is None and found is None) or torch.equal(given, found)


def test_codes_and_embeddings_train_a_network() -> None:
    model = built("melody")
    encoded = model.codec.encode(padded(), LENGTHS)
    table = nn.Embedding(model.codec.codebook_size, 4)
    alone = model.encode(WAVES[0])
    for codes in (encoded.codes, encoded.pitch_codes, alone.codes, alone.pitch.codes):
        table(codes).sum().backward()
    layer = nn.Conv1d(model.codec.latent_dim, 1, 1)
    for given in (
        model.codec.embed(encoded.codes, encoded.frames),
        model.codec.latents(padded(), LENGTHS)[0],
    ):
        layer(given).sum().backward()
    wave, _ = model.codec.decode(*encoded, speaker="low", sampling=REFERENCE)
    nn.Linear(wave.shape[1], 1)(wave).sum().backward()


def test_what_the_codec_is() -> None:
    assert repr(built("melody").codec) == (
        "Codec(1 x 8 and 1 x 5 of pitch, one for 4, 50 frames a second, D=6)"
    )
    model = built("waveform, student")
    assert model.to("cpu") is model
    assert (model.codec.hop, model.codec.num_codebooks, model.codec.pitch_ratio) == (16, 2, 1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_there_is_no_gpu_to_move_to() -> None:
    with pytest.raises(UserInputError, match="device cuda: there is none here"):
        built("two levels").to("cuda")


CODES = torch.zeros(2, 1, 5, dtype=torch.int64)
PITCH = torch.zeros(2, 1, 2, dtype=torch.int64)
WRONG = {
    "three axes": (lambda c: c.encode(torch.zeros(2, 2, 9)), r"waves: shape \(2, 2, 9\), expected"),
    "too long": (lambda c: c.encode(padded(), [9_999] * 5), "lengths: 9999 of row 0, expected 1"),
    "no length": (lambda c: c.encode(padded(), [0] * 5), "lengths: 0 of row 0, expected 1 to 410"),
    "fractions": (lambda c: c.encode(padded(), [0.5] * 5), "lengths: float64 of shape"),
    "silence": (lambda c: c.encode(padded() * 0, LENGTHS), "row 0: the recording is silent"),
    "voices of rows": (lambda c: c.encode(padded(), speaker=["low"]), "speaker: 1, expected one"),
    "rate": (lambda c: c.encode(padded(), None, 9, prepared=True), "sample_rate: 9 of prepared"),
    "books": (lambda c: c.decode(CODES.expand(2, 3, 5)), r"expected whole numbers \(B, 1, F\)"),
    "a high code": (lambda c: c.embed(CODES + 8), "row 0: codes: code 8 .book 0, frame 0"),
    "samples": (lambda c: c.decode(CODES, [5, 2], [800, 160]), "row 1: codes: 160 samples in 2"),
    "no melody": (lambda c: c.decode(CODES, speaker="low"), "row 0: these codes have no pitch"),
    "no range": (lambda c: c.decode(CODES, pitch_codes=PITCH), "row 0: neither a speaker of"),
    "ranges": (
        lambda c: c.decode(CODES, pitch_codes=PITCH, voices=[[1, 2]]),
        r"voices: 2 rows and shape \(1, 2\), expected those of 2",
    ),
    "voice": (lambda c: c.decode(CODES, speaker="lou", pitch_codes=PITCH), "row 0: neither"),
    "nothing": (lambda c: c.batch([]), "codes: no utterances"),
}


@pytest.mark.parametrize(("use", "said"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_is_one_line_that_names_the_row(use: object, said: str) -> None:
    with pytest.raises(UserInputError, match=rf"^[^\n]*{said}[^\n]*$"):
        use(built("melody").codec)


def test_pitch_codes_of_a_model_without_melody_are_refused() -> None:
    with pytest.raises(UserInputError, match="expected none: this model codes no melody"):
        built("two levels").codec.decode(
            torch.zeros(1, 2, 4, dtype=torch.int64), pitch_codes=PITCH[:1], speaker="low"
        )
    other = built("spectral, WaveNet").encode(WAVES[0])
    with pytest.raises(UserInputError, match="row 0: these codes are of codec"):
        built("melody").codec.batch([other])


def test_a_batch_is_a_tuple_of_what_decode_takes() -> None:
    assert EncodedBatch._fields == ("codes", "frames", "samples", "pitch_codes", "voices")
