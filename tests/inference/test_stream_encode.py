"""Encoding in blocks and as a stream: the codes of the whole, whatever the chunks; level and rate
as they come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import stack
from torch import Tensor

from vqwave import audio
from vqwave.audio.streaming import Resampler
from vqwave.errors import UserInputError
from vqwave.features import LogMelSpec, MFCCSpec, PitchSpec
from vqwave.inference import chunked_encoding
from vqwave.inference.chunked_encoding import ChunkEncoder
from vqwave.inference.model_folder import ModelCard
from vqwave.inference.speech_model import SpeechModel
from vqwave.inference.stream_level import Level
from vqwave.models import VQVAESpec, WaveNetSpec
from vqwave.nn.condition import ConditionerSpec
from vqwave.nn.encoders import BatchNormEncoderSpec, FrameEncoderSpec, WaveformEncoderSpec
from vqwave.nn.quantize import EMAQuantizerSpec, HierarchicalQuantizerSpec

RATE = 8000
SMALL = {"channels": 8, "latent_dim": 4}
MEL = LogMelSpec(bands=6, window_ms=8.0, hop_ms=2.0, fmin=200.0, fmax=4000.0)
ENCODERS = {
    "waveform": WaveformEncoderSpec(strides=(2, 4, 3), blocks=2, **SMALL),
    "frames": FrameEncoderSpec(features=MEL, **SMALL),
    "mfcc": FrameEncoderSpec(
        features=MFCCSpec(coefficients=4, bands=6, window_ms=8.0, hop_ms=2.0, fmin=200.0),
        stride=3,
        **SMALL,
    ),
    "pitch": FrameEncoderSpec(features=PitchSpec(hop_ms=2.0, fmin=100.0), **SMALL),
    "batch_norm": BatchNormEncoderSpec(features=MEL, **SMALL),
}


def codec(encoder: object, quantizer: object = EMAQuantizerSpec(codebook_size=32)) -> SpeechModel:
    torch.manual_seed(0)
    network = stack(4)
    decoder = WaveNetSpec(network=network, conditioner=ConditionerSpec(channels=4, categorical=()))
    spec = VQVAESpec(encoder=encoder, quantizer=quantizer, decoder=decoder)
    it = SpeechModel(
        spec.build(RATE, {}).eval(), ModelCard(sample_rate=RATE, labels={}, spec=spec, about={})
    )
    for book in it.model.quantizer.modules():
        if hasattr(book, "sums"):
            z = it.model.encoder(speech(4800)[None])[0].t()
            book.sums.copy_(z[torch.randperm(len(z))[: book.size]].detach())  # no code twice
    return it


def speech(T: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    t = torch.arange(T) / RATE
    return 0.1 * torch.sin(2 * torch.pi * (200 * t + 700 * t**2)) + 0.03 * torch.randn(
        T, generator=generator
    )


@pytest.mark.parametrize("encoder", ENCODERS.values(), ids=ENCODERS)
def test_what_a_frame_hears_is_known(encoder: object) -> None:
    """By its gradient, in float64: no sample beyond the span has any."""
    it = codec(encoder).model.encoder.double()
    span = it.receptive_span()
    frame = max(40, 2 - span.first // it.hop)
    wave = speech((2 * frame + 1) * it.hop).double().requires_grad_()
    if isinstance(encoder, FrameEncoderSpec) and isinstance(encoder.features, PitchSpec):
        with torch.no_grad():  # pitch has no gradient: what is heard by difference
            for at, expected in (
                (frame * it.hop + span.last + 1, True),
                (frame * it.hop + span.first - 1, True),
            ):
                other = wave.clone()
                other[at:] = 0.0 if at > frame * it.hop else other[at:]
                other[: at + 1] = 0.0 if at < frame * it.hop else other[: at + 1]
                same = torch.allclose(
                    it(other[None])[..., frame], it(wave[None])[..., frame], rtol=0, atol=1e-5
                )
                assert same is expected
        return
    it(wave[None])[..., frame].square().sum().backward()
    reached = wave.grad.nonzero().flatten() - frame * it.hop
    assert span.first <= int(reached[0])
    assert int(reached[-1]) <= span.last
    # and no margin is wasted
    assert span.last - span.first < 3 * (int(reached[-1]) - int(reached[0]))


@pytest.mark.parametrize("encoder", ENCODERS.values(), ids=ENCODERS)
def test_blocks_have_the_latents_of_the_whole(encoder: object) -> None:
    """In float64, to rounding; so that their codes are the same.

    The pitch tracker has but float32.
    """
    it = codec(encoder).model
    tolerance = 1e-5 if isinstance(getattr(encoder, "features", None), PitchSpec) else 1e-10
    it.encoder.double()
    wave, whole = speech(4803).double(), []
    it.quantizer.encode = lambda z: (
        torch.zeros(1, 1, z.shape[-1], dtype=torch.int64) if whole.append(z) is None else None
    )
    for frames in (1, 7, 30):
        whole.clear()
        blocks = ChunkEncoder(it, frames)
        blocks.kept = np.zeros(0)
        for piece in np.array_split(wave.numpy(), 5):
            blocks.push(piece)
        blocks.flush()
        padded = torch.nn.functional.pad(wave, (0, -len(wave) % it.hop))
        torch.testing.assert_close(
            torch.cat(whole, -1), it.encoder(padded[None]), rtol=0, atol=tolerance
        )


@pytest.mark.parametrize("encoder", ENCODERS.values(), ids=ENCODERS)
def test_chunks_do_not_show(encoder: object, clear_frames: Callable[..., Tensor]) -> None:
    """The codes of the whole: bit for bit where the blocks are those of the whole, in float64
    whatever the blocks.
    """
    it = codec(encoder)
    wave = it.prepare(speech(4803))
    whole = it.codes_of(wave)
    assert whole.unique().numel() > 4
    stream = lambda seconds: it.encode_stream(level=-23.0, seconds=seconds)  # noqa: E731
    for sizes in ([4803], [1, 500, 0, 2000, 2302], [160] * 30 + [3]):
        it_stream = stream(chunked_encoding.CHUNK)
        parts = [it_stream.push(piece) for piece in np.split(wave.numpy(), np.cumsum(sizes)[:-1])]
        assert torch.equal(torch.cat([*parts, it_stream.flush()], 1), whole)
        assert it_stream.samples == 4803
    it.model.double()
    soon, behind = stream(0.02), 0
    parts = []
    for i, piece in enumerate(np.array_split(wave.numpy(), 40)):
        parts.append(soon.push(piece))
        came = sum(map(len, np.array_split(wave.numpy(), 40)[: i + 1]))
        behind = max(behind, came - sum(part.shape[1] for part in parts) * it.model.hop)
        around = soon.chunks.before + soon.chunks.after + soon.chunks.grid
        assert len(soon.chunks.kept) <= (around + soon.chunks.frames) * it.model.hop + 200
    assert behind <= soon.latency * RATE + 1e-6
    latents = it.model.encoder(
        torch.nn.functional.pad(wave, (0, -len(wave) % it.model.hop))[None].double()
    )
    # whose tracker has but float32
    sure = clear_frames(it.model.quantizer, latents)[0] | (encoder is not ENCODERS["pitch"])
    same = [
        it.model.quantizer.decode(codes[None])
        for codes in (torch.cat([*parts, soon.flush()], 1), it.codes_of(wave))
    ]
    # of the codes of one latent any will do
    torch.testing.assert_close(*(z[..., sure] for z in same), rtol=0, atol=1e-9)


def test_a_long_recording_is_encoded_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    it, wave = (
        codec(
            ENCODERS["frames"],
            HierarchicalQuantizerSpec(
                downsample=4,
                top=EMAQuantizerSpec(codebook_size=8),
                bottom=EMAQuantizerSpec(codebook_size=8),
            ),
        ),
        speech(9000),
    )
    it.model.double()  # other blocks round otherwise
    whole = it.codes_of(wave)
    monkeypatch.setattr(chunked_encoding, "CHUNK", 0.1)
    assert ChunkEncoder(it.model, 25).frames == 28  # whole stretches
    assert torch.equal(it.codes_of(wave), whole)


@pytest.mark.parametrize("rate", [8000, 16000, 11025])
def test_a_file_that_is_read_in_pieces(
    rate: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    clear_frames: Callable[..., Tensor],
) -> None:
    it, path = codec(ENCODERS["frames"]), tmp_path / "a.wav"
    audio.write(path, 0.3 * speech(3 * rate).numpy() + 0.05, rate)
    whole = it.encode_file(path)
    monkeypatch.setattr("vqwave.inference.speech_encoder.LONG", 0.5)
    monkeypatch.setattr("vqwave.audio.streaming.HELD", 1000)
    pieces = it.encode_file(path, "theo")
    assert (pieces.samples, pieces.speaker) == (whole.samples, "theo")
    wave = it.prepare(*audio.read(path))
    latents = it.model.encoder(torch.nn.functional.pad(wave, (0, -len(wave) % it.model.hop))[None])
    clear = clear_frames(it.model.quantizer, latents)
    assert clear.float().mean() > 0.9
    assert torch.equal(pieces.codes[clear], whole.codes[clear])
    audio.write(path, np.full(rate, 0.2, np.float32), rate)
    with pytest.raises(UserInputError, match="silent"):
        it.encode_file(path)


def test_who_normalises_over_the_utterance_cannot_stream() -> None:
    it = codec(replace(ENCODERS["frames"], instance_norm=True))
    assert it.encode(speech(1000)).codes.shape == (1, 32)
    with pytest.raises(UserInputError, match="instance_norm"):
        it.encode_stream()


def chunks(wave: np.ndarray, sizes: tuple[int, ...] = (1, 700, 0, 3000)) -> Iterator[np.ndarray]:
    at = 0
    while at < len(wave):
        for size in sizes:
            yield wave[at : at + size]
            at += size


def test_quiet_input_of_any_length_may_come_at_once() -> None:
    """Thousands of seconds below the level at which sound begins, here of a hundredth each."""
    wave = 1e-7 * np.ones(40 * 8000, np.float32)
    wave[-8000:] = np.sin(np.arange(8000)).astype(np.float32)
    whole, pieces = Level(-23.0, 80), Level(-23.0, 80)
    at_once = np.concatenate([whole.push(wave), whole.flush()])
    parts = [pieces.push(part) for part in np.array_split(wave, 999)]
    np.testing.assert_array_equal(at_once, np.concatenate([*parts, pieces.flush()]))
    assert len(at_once) == len(wave)


def test_a_stream_that_is_over_takes_nothing_more() -> None:
    stream = codec(FrameEncoderSpec(), EMAQuantizerSpec(codebook_size=16)).encode_stream(RATE)
    wave = np.sin(np.arange(RATE)).astype(np.float32)
    stream.push(wave)
    stream.flush()
    for again in (lambda: stream.push(wave), stream.flush):
        with pytest.raises(UserInputError, match="this stream is over, expected a new one"):
            again()


def test_the_level_is_taken_from_the_first_second() -> None:
    wave = (0.01 * speech(12000) + 0.2).numpy()
    quiet = np.concatenate([np.zeros(500, np.float32), wave])
    found = {}
    for name, pieces in (("one", [quiet]), ("many", chunks(quiet))):
        level = Level(-23.0, 8000)
        found[name] = np.concatenate([*(level.push(piece) for piece in pieces), level.flush()])
    assert np.array_equal(found["one"], found["many"])
    assert len(found["one"]) == len(quiet)
    assert np.all(found["one"][:500] == 0)
    assert audio.level_db(found["one"][500:8500]) == pytest.approx(-23.0, abs=0.01)
    assert abs(found["one"][500:].mean()) < 1e-3
    short = Level(-23.0, 8000)
    prepared = np.concatenate([short.push(wave[:5000]), short.flush()])
    assert np.array_equal(prepared, audio.normalise_level(audio.remove_dc(wave[:5000])))
    known = Level(-23.0, 8000, known=-43.0)
    assert np.allclose(known.push(wave), 10 * wave)
    for nothing in ([], [np.zeros(9000, np.float32)]):
        level = Level(-23.0, 8000)
        for piece in nothing:
            assert not level.push(piece).any()
        with pytest.raises(UserInputError, match="empty or silent"):
            level.flush()


@pytest.mark.parametrize("rates", [(16000, 8000), (8000, 8000), (44100, 8000), (8000, 11025)])
def test_resampling_goes_on_from_chunk_to_chunk(rates: tuple[int, int]) -> None:
    wave = speech(rates[0] // 2).numpy()
    found = []
    for pieces in ([wave], chunks(wave)):
        it = Resampler(*rates)
        found.append(np.concatenate([*(it.push(piece) for piece in pieces), it.flush()]))
    assert np.array_equal(*found)
    whole = audio.resample(wave, *rates)
    assert len(found[0]) == len(whole)
    assert np.abs(found[0] - whole)[100:-100].max() < 2e-3


def test_names_of_a_codec_follow_its_weights_and_settings() -> None:
    it = codec(ENCODERS["frames"])
    name, older = it.fingerprint, it._names.older
    assert it.fingerprint == name
    assert older != (name,)
    assert codec(ENCODERS["frames"]).fingerprint == name
    # no tensor of it is saved
    other = codec(replace(ENCODERS["frames"], features=replace(MEL, window_ms=6.0)))
    other.model.load_state_dict(it.model.state_dict())
    assert (other.fingerprint != name, other._names.older) == (True, older)
    coded = it.encode(speech(800))
    it.check(replace(coded, fingerprint=older[0]))  # as older files have it
    with pytest.raises(UserInputError, match="these codes are of codec"):
        it.check(replace(coded, fingerprint="another"))
    with torch.no_grad():
        it.model.encoder.out.bias[0] += 1
    assert it.fingerprint != name


def test_a_recording_of_any_length_takes_the_same_memory() -> None:
    """What is kept between pieces of a recording does not grow."""
    it = codec(ENCODERS["frames"])
    blocks, kept = ChunkEncoder(it.model, 50), []
    for _ in range(100):
        blocks.push(speech(1600).numpy())
        kept.append(len(blocks.kept))
    assert max(kept[50:]) <= max(kept[:50])
