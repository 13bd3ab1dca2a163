"""A VQ-VAE with melody: pitch codes condition readout and decoder, streamed as whole, in the range
of the voice.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from small_models import MEL, MELODY, RATE
from torch import Tensor

from vqwave.data.frame_tracks import PITCH
from vqwave.decode.sampling import Sampling
from vqwave.decode.streaming import conditions
from vqwave.decode.streaming.conditions import CodeConditions, code_condition
from vqwave.decode.streaming.stream import Stream
from vqwave.errors import UserInputError
from vqwave.models import VQVAE, VQVAESpec
from vqwave.models.melody import VOICE
from vqwave.models.pitch import PitchCodecSpec
from vqwave.nn.encoders import FrameEncoderSpec
from vqwave.nn.linear_prediction import LinearPredictorSpec

HOP = 160  # latents at 50 Hz, pitch at 100 Hz, pitch codes at 12.5 Hz
VOICES = [(0.2, 0.1), (0.9, 0.3)]


def build(decoder_input: str = "spectrogram", *, taps: int = 3, noise: float = 0.0) -> VQVAE:
    torch.manual_seed(0)
    spectral = decoder_input != "latents"
    decoder = replace(
        MELODY.decoder,
        predictor=LinearPredictorSpec(order=4) if spectral else None,
        pitch_taps=taps if spectral else 0,
    )
    spec = replace(MELODY, decoder=decoder, decoder_input=decoder_input, decoder_input_noise=noise)
    model = spec.build(RATE, {"speaker": ["a", "b"]})
    for book in (model.quantizer, model.melody.codec.quantizer):
        for part in book.modules():
            if hasattr(part, "started"):
                part.started.fill_(True)
                (
                    part.codes.copy_(torch.randn(part.codes.shape))
                    if isinstance(part.codes, Tensor)
                    else None
                )
    model.melody.voices.copy_(torch.tensor(VOICES))
    return model.eval()


def pitch(frames: int, B: int = 2) -> Tensor:
    """Half voiced."""
    generator = torch.Generator().manual_seed(3)
    voiced = (torch.rand(B, frames, generator=generator) > 0.5).float()
    return torch.stack([voiced * torch.rand(B, frames, generator=generator), voiced], 1)


def wave(frames: int, B: int = 2) -> Tensor:
    return 0.1 * torch.randn(B, frames * HOP, generator=torch.Generator().manual_seed(1))


LABELS = {"speaker": torch.tensor([0, 1])}


@pytest.mark.parametrize("decoder_input", ["latents", "spectrogram", "both"])
def test_the_melody_moves_what_is_predicted(decoder_input: str) -> None:
    model, x = build(decoder_input), wave(16)
    codes = model.encode(x)
    melody = torch.randint(5, (2, 1, 4), generator=torch.Generator().manual_seed(2))
    before, after = (
        model.decoder.predict(x, model.condition(codes, LABELS, None, m)).location
        for m in (melody, (melody + 1) % 5)
    )
    assert (before - after).abs().max() > 1e-4


def test_pitch_codes_are_decoded_in_the_range_of_the_voice() -> None:
    """The same codes in two voices: the same melody, about another mean and with another
    deviation.
    """
    model, codes = (
        build(),
        torch.randint(5, (1, 1, 6), generator=torch.Generator().manual_seed(2)).expand(2, -1, -1),
    )
    found = model.pitch(codes, LABELS, 24)
    voiced = found[0, 1] > 0
    melodies = [
        (found[i, 0, voiced] - mean) / deviation for i, (mean, deviation) in enumerate(VOICES)
    ]
    assert voiced.any()
    torch.testing.assert_close(melodies[0], melodies[1], rtol=0, atol=1e-5)
    given = model.pitch(codes, LABELS | {VOICE: torch.tensor([VOICES[1], VOICES[1]])}, 24)
    torch.testing.assert_close(given[0], found[1])


def test_semitones_move_the_pitch() -> None:
    model, codes = build(), torch.randint(5, (1, 1, 6), generator=torch.Generator().manual_seed(2))
    plain = model.pitch(codes, {"speaker": torch.tensor([0])}, 24)
    mean, deviation = VOICES[0]
    moved = model.pitch(
        codes, {VOICE: torch.tensor([[mean + 3 * math.log(2) / 12, deviation]])}, 24
    )
    voiced = plain[0, 1] > 0
    torch.testing.assert_close(
        (moved - plain)[0, 0, voiced], torch.full((int(voiced.sum()),), math.log(2) / 4)
    )
    assert torch.equal(moved[:, 1], plain[:, 1])


def test_a_batch_of_unequal_clips_equals_each_alone() -> None:
    """The frames that condition the decoder, of clips padded in a batch."""
    model, x = build().double(), wave(16).double()
    lengths, labels = torch.tensor([16 * HOP, 9 * HOP - 30]), LABELS | {PITCH: pitch(32).double()}
    x[1, lengths[1] :] = 0
    together = model.features_of_recordings(x, labels, lengths)
    for i, n in enumerate((16, 9)):
        own = {"speaker": LABELS["speaker"][i : i + 1], PITCH: labels[PITCH][i : i + 1, :, : 2 * n]}
        if i == 1:
            own[PITCH][..., 2 * n - 1 :] = 0
        alone = model.features_of_recordings(x[i : i + 1, : n * HOP], own, lengths[i : i + 1])
        torch.testing.assert_close(together[i : i + 1, :, : 2 * n], alone, rtol=0, atol=1e-9)


def test_noise_leaves_pitch_and_predictor_alone() -> None:
    model, x = build(noise=0.5), wave(16)
    frames = model.features_of_recordings(x, LABELS | {PITCH: pitch(32)})
    noised = model.train().add_decoder_noise(frames)
    bands = model.spectral_decoder.frontend.channels
    assert (noised[:, :bands] != frames[:, :bands]).all()
    assert torch.equal(noised[:, bands:], frames[:, bands:])


@pytest.mark.parametrize("kernels", [True, False], ids=["kernels", "windows"])
@pytest.mark.parametrize("decoder_input", ["latents", "spectrogram"])
@pytest.mark.parametrize("frames", [1, 3, 4, 17, 40])
def test_columns_do_not_depend_on_how_codes_come(
    decoder_input: str, frames: int, *, kernels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With kernels whose sums have a fixed order, and window by window."""
    if not kernels:
        monkeypatch.setattr(conditions, "_fixed_order", lambda _model: None)
    model, generator = build(decoder_input), torch.Generator().manual_seed(5)
    codes, melody = (
        torch.randint(8, (1, frames), generator=generator),
        torch.randint(5, (1, -(-frames // 4)), generator=generator),
    )
    speaker = {"speaker": torch.tensor([1])}
    whole, spectrum = code_condition(model, codes, speaker, melody)
    for size in (1, 3, 8):
        stream, parts = CodeConditions(model, speaker), []
        for first in range(0, frames, size):
            due = slice(-(-first // 4), -(-min(first + size, frames) // 4))
            parts.append(stream.push(codes[:, first : first + size], melody[:, due]))
        parts.append(stream.flush())
        assert torch.equal(torch.cat([part.columns for part in parts], -1), whole.features)
        if spectrum is None:
            assert decoder_input == "latents"
            assert {part.spectrum for part in parts} == {None}
        else:
            assert torch.equal(torch.cat([part.spectrum for part in parts], -1), spectrum)
    direct = model.condition(codes[None], speaker, None, melody[None])
    torch.testing.assert_close(whole.features, direct.features, rtol=0, atol=1e-4)


def test_a_stream_is_the_whole_and_can_be_saved() -> None:
    model, frames = build(), 40
    codes, melody = torch.randint(8, (1, frames)), torch.randint(5, (1, 10))
    speaker = {"speaker": torch.tensor([1])}
    whole = Stream(model, speaker, Sampling(seed=3), RATE)
    wave = torch.from_numpy(whole.push(codes, melody).copy()), torch.from_numpy(whole.flush())
    stream, parts = Stream(model, speaker, Sampling(seed=3), RATE), []
    for first in range(0, frames, 4):
        parts.append(
            torch.from_numpy(
                stream.push(
                    codes[:, first : first + 4], melody[:, first // 4 : first // 4 + 1]
                ).copy()
            )
        )
        stream = Stream.resumed(model, stream.state(), RATE)
    parts.append(torch.from_numpy(stream.flush()))
    assert torch.equal(torch.cat(parts), torch.cat(wave))
    behind = max((i + 1) * 4 * HOP - sum(map(len, parts[: i + 1])) for i in range(10))
    assert behind <= stream.latency


def test_refusals() -> None:
    model = build()
    with pytest.raises(UserInputError, match="these codes have no pitch codes"):
        model.condition(model.encode(wave(8)), LABELS)
    stream = Stream(model, {"speaker": torch.tensor([0])}, Sampling(), RATE)
    with pytest.raises(UserInputError, match=r"pitch codes: code 5 .*, expected 0 to 4"):
        stream.push(torch.zeros(1, 4, dtype=torch.int64), torch.tensor([[5]]))
    stream.push(torch.zeros(1, 8, dtype=torch.int64), torch.tensor([[0]]))
    with pytest.raises(
        UserInputError, match="1 pitch codes for 8 frames, expected 2: one each 640 samples"
    ):
        stream.flush()
    spec = VQVAESpec(encoder=FrameEncoderSpec(features=MEL, stride=3), melody=PitchCodecSpec())
    with pytest.raises(
        UserInputError,
        match=r"model\.melody: frames of 80 samples, a code of 640, expected the 240 of a latent",
    ):
        spec.build(RATE, {"speaker": ["a"]})


def test_training_may_give_the_decoder_the_recorded_pitch() -> None:
    """The frames and the codes stay; pitch channels and the periods of the pitch taps are the
    recording's.
    """
    model, x, given = build(), wave(16), pitch(32)
    labels = {**LABELS, PITCH: given}
    decoded = model.features_of_recordings(x, labels)
    recorded = model.features_of_recordings(x, labels, recorded_pitch=True)
    mel = MEL.bands
    torch.testing.assert_close(recorded[:, mel : mel + 2], given)
    assert not torch.allclose(decoded[:, mel : mel + 2], given)
    # what is predicted of the spectrum, and its linear prediction
    rest = [*range(mel), *range(mel + 2, mel + 2 + 4)]
    assert torch.equal(recorded[:, rest], decoded[:, rest])
    voiced = given[:, 1] >= 0.5
    period = (RATE / (100 * given[:, 0].exp())).round()
    torch.testing.assert_close(recorded[:, -1], torch.where(voiced, period, 0.0))


def test_training_may_give_the_decoder_the_recorded_frames() -> None:
    """Of the spectrum and its linear prediction; the pitch that is decoded from codes stays."""
    model, x = build(), wave(16)
    labels, mel = {**LABELS, PITCH: pitch(32)}, MEL.bands
    decoded = model.features_of_recordings(x, labels)
    recorded = model.features_of_recordings(x, labels, recorded_spectrum=True)
    torch.testing.assert_close(recorded[:, :mel], model.spectral_decoder.frontend(x))
    assert not torch.allclose(recorded[:, :mel], decoded[:, :mel])
    assert torch.equal(recorded[:, mel : mel + 2], decoded[:, mel : mel + 2])
    assert not torch.allclose(recorded[:, mel + 2 : -1], decoded[:, mel + 2 : -1])
    assert torch.equal(recorded[:, -1], decoded[:, -1])
    plain, own = (
        model(x, labels, recorded_spectrum=own).distribution.location for own in (False, True)
    )
    torch.testing.assert_close(own, model.decoder(x, LABELS, recorded).location)
    assert not torch.allclose(plain, own)


def test_a_training_step_gives_the_recorded_pitch_when_asked() -> None:
    model, x, given = build(), wave(16), pitch(32)
    labels = {**LABELS, PITCH: given}
    plain, recorded = (
        model(x, labels, recorded_pitch=own).distribution.location for own in (False, True)
    )
    frames = model.features_of_recordings(x, labels, recorded_pitch=True)
    torch.testing.assert_close(recorded, model.decoder(x, LABELS, frames).location)
    assert not torch.allclose(plain, recorded)
