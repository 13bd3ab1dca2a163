"""Encoding as a stream with melody: both kinds of codes in step, the range of the voice, and what
chunks must not change.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from small_models import stack

from vqwave.codes import CodeBlock, Header, PitchFormat, pitch_due
from vqwave.codes.pitch import InStep
from vqwave.data.voices import UNVOICED, VoicePitch
from vqwave.errors import UserInputError
from vqwave.features import LogMelSpec
from vqwave.inference.melody_stream import BlockStream, PitchCodeStream
from vqwave.inference.model_folder import ModelCard
from vqwave.inference.pitch_encoding import encode_melody
from vqwave.inference.speech_model import SpeechModel
from vqwave.models import VQVAESpec, WaveNetSpec
from vqwave.models.melody import Melody
from vqwave.models.pitch import SEMITONE, PitchCodecSpec
from vqwave.nn.condition import ConditionerSpec
from vqwave.nn.encoders import FrameEncoderSpec
from vqwave.nn.quantize import EMAQuantizerSpec
from vqwave.pitch_tracking import contour, track

RATE = 8000
VOICES = {"low": (0.2, 0.1), "high": (0.9, 0.2)}
STACK = stack(4)


def build(melody: PitchCodecSpec | None) -> SpeechModel:
    """Random weights; the codes of the melody are spread over its latents, so that all are
    taken.
    """
    features = LogMelSpec(bands=8, fmax=4000)
    spec = VQVAESpec(
        encoder=FrameEncoderSpec(features=features, channels=8, latent_dim=4),
        quantizer=EMAQuantizerSpec(codebook_size=8),
        melody=melody,
        decoder=WaveNetSpec(network=STACK, conditioner=ConditionerSpec(channels=4)),
    )
    torch.manual_seed(0)
    labels = {"speaker": list(VOICES)}
    it = SpeechModel(
        spec.build(RATE, labels).eval(),
        ModelCard(sample_rate=RATE, labels=labels, spec=spec, about={}),
    )
    if it.model.melody is not None:
        it.model.melody.voices.copy_(torch.tensor(list(VOICES.values())))
        spread(it.model.melody)
    return it


@torch.no_grad()
def spread(melody: Melody) -> None:
    pitch = torch.from_numpy(contour(track(voice(6.0), RATE, melody.hop)))[None]
    z = melody.codec.encoder(pitch, torch.tensor([pitch.shape[-1]]))[0].t()
    book = melody.codec.quantizer.codebook
    book.sums.copy_(z[:: len(z) // book.size][: book.size])
    book.started.fill_(True)


@pytest.fixture(scope="module")
def codec() -> SpeechModel:
    return build(
        PitchCodecSpec(channels=8, latent_dim=4, quantizer=EMAQuantizerSpec(codebook_size=6))
    )


@pytest.fixture(scope="module")
def melody(codec: SpeechModel) -> Melody:
    return codec.model.melody


def voice(
    seconds: float, f0: float = 140.0, silence: float = 0.0, swing: float = 0.3
) -> np.ndarray:
    """Harmonics whose F0 goes up and down, a pause of a quarter of each second, after some
    silence.
    """
    t = np.arange(round(seconds * RATE)) / RATE
    phase = 2 * np.pi * np.cumsum(f0 * np.exp(swing * np.sin(5 * t))) / RATE
    wave = 0.1 * sum(np.cos(k * phase + k) / k for k in range(1, 13)) * (t % 1 < 0.75)
    noise = 1e-4 * np.random.default_rng(0).standard_normal(len(t))
    return np.concatenate([np.zeros(round(silence * RATE)), wave + noise]).astype(np.float32)


def encoded(stream: BlockStream, wave: np.ndarray, sizes: Sequence[int]) -> list[CodeBlock]:
    """Blocks of what is pushed piece by piece, pieces of these sizes by turns."""
    blocks, at, turn = [], 0, 0
    while at < len(wave):
        size = sizes[turn % len(sizes)]
        blocks.append(stream.push(wave[at : at + size]))
        at, turn = at + size, turn + 1
    return [*blocks, stream.flush()]


def joined(blocks: Sequence[CodeBlock]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.cat([b.codes for b in blocks], 1), torch.cat([b.pitch for b in blocks], 1)


CHUNKS = {"one": [10**6], "ticks": [80], "any": [1, 700, 0, 3000, 161]}


@pytest.mark.parametrize(
    "given",
    [{}, {"speaker": "low"}, {"pitch_range": (150.0, 2.5)}],
    ids=["taken", "speaker", "range"],
)
def test_chunks_do_not_show(codec: SpeechModel, given: dict[str, object]) -> None:
    """Codes, pitch codes and the range are the same bits, however the samples came; blocks are
    consecutive, both kinds in step.
    """
    wave, found = voice(2.53), {}
    for name, sizes in CHUNKS.items():
        stream = codec.encode_stream(level=-23.0, **given)
        blocks = encoded(stream, wave, sizes)
        found[name] = (*joined(blocks), stream.pitch, stream.samples)
        place = 0
        for block in blocks:
            frames = block.codes.shape[1]
            assert (block.first, block.pitch.shape[1]) == (
                place,
                pitch_due(place, place + frames, 4),
            )
            place += frames
    codes, pitch, said, samples = found.pop("one")
    assert (codes.shape, pitch.shape, samples) == ((1, 127), (1, 32), len(wave))
    assert pitch.unique().numel() > 3
    for other in found.values():
        assert torch.equal(other[0], codes)
        assert torch.equal(other[1], pitch)
        assert other[2:] == (said, samples)


def test_windows_have_the_latents_of_the_whole(melody: Melody) -> None:
    """In float64, of any contour and any length: a window holds all frames that its code depends
    on, and the end is the end.
    """
    it = Melody(melody.codec, 0).double()
    wanted, rng = [], np.random.default_rng(1)
    plain = it.codec.quantizer.encode
    it.codec.quantizer.encode = lambda z: (
        torch.zeros(1, 1, z.shape[-1], dtype=torch.int64) if wanted.append(z) is None else None
    )
    try:
        for frames in (1, 7, 8, 9, 64, 171):
            f0 = (
                120 * np.exp(0.2 * rng.standard_normal(frames)) * (rng.random(frames) < 0.7)
            ).astype(np.float32)
            stream = PitchCodeStream(it, RATE, VoicePitch(0.2, 0.1))
            wanted.clear()
            known = 0
            while known < frames:  # some frames at a time, as a tracker would give them
                more = f0[known : known + 5]
                stream.f0, known = np.concatenate([stream.f0, more]), known + len(more)
                stream._encode(last=known == frames)
                assert len(stream.f0) <= sum(it.codec.context) + 2 * it.ratio + 5
            places = [
                (max(0, n * it.ratio - it.codec.context[0])) // it.ratio
                for n in range(-(-frames // it.ratio))
            ]
            mine = [z[..., n - low] for n, (low, z) in enumerate(zip(places, wanted, strict=True))]
            wanted.clear()
            encode_melody(it, f0, VoicePitch(0.2, 0.1))
            torch.testing.assert_close(torch.stack(mine, -1), wanted[0], rtol=0, atol=1e-12)
    finally:
        it.codec.quantizer.encode = plain
        it.float()


def test_codes_of_a_known_range_are_those_of_the_whole(codec: SpeechModel) -> None:
    """Normalised alike, a stream has the codes of the recording; F0 itself is that of the whole up
    to rounding.
    """
    wave = voice(2.5)
    whole = codec.encode(wave, speaker="low")
    stream = codec.encode_stream(
        speaker="low", level=20 * math.log10(np.sqrt(np.mean(np.square(wave - wave.mean()))))
    )
    _, pitch = joined(encoded(stream, wave, [400]))
    assert stream.pitch == whole.pitch.format
    assert pitch.shape == whole.pitch.codes.shape
    assert (pitch == whole.pitch.codes).float().mean() > 0.9


def ranged(melody: Melody, wave: np.ndarray, sizes: Sequence[int]) -> tuple[VoicePitch, float]:
    """The range that was taken, and seconds after which it was."""
    stream, came = PitchCodeStream(melody, RATE), 0
    while stream.voice is None and came < len(wave):
        size = sizes[came % len(sizes)]
        stream.push(wave[came : came + size])
        came += size
    if stream.voice is None:
        stream.flush()
    return stream.voice, came / RATE


def test_the_range_is_that_of_the_first_voiced_second(melody: Melody) -> None:
    """Silence before it does not count; what comes after it changes nothing, however it came."""
    low, high = voice(2.0, 100.0), voice(2.0, 250.0)
    whole = track(low, RATE, melody.hop)
    frames = whole[: np.flatnonzero(whole)[99] + 1]
    for wave in (
        np.concatenate([low, high]),
        np.concatenate([np.zeros(8 * RATE, np.float32), low, high]),
    ):
        for sizes in ([160], [100_000]):
            taken, after = ranged(melody, wave, sizes)
            assert taken.mean == pytest.approx(VoicePitch.of(frames).mean, abs=2e-3)
            assert taken.deviation == pytest.approx(VoicePitch.of(frames).deviation, abs=2e-3)
            assert sizes != [160] or after - (len(wave) - 4 * RATE) / RATE < 2.0
    taken, _ = ranged(melody, low[: RATE // 2], [160])  # all there is
    assert taken.mean == pytest.approx(
        VoicePitch.of(track(low[: RATE // 2], RATE, melody.hop)).mean, abs=2e-3
    )


def test_the_range_of_a_whisper_is_known_after_four_seconds(melody: Melody) -> None:
    """Where hardly anything is voiced, a stream does not wait for a voice for ever."""
    whisper = (0.05 * np.random.default_rng(0).standard_normal(7 * RATE)).astype(np.float32)
    assert not track(whisper, RATE, melody.hop).any()
    for sizes in ([80], [1000], [100_000]):
        taken, after = ranged(
            melody, np.concatenate([np.zeros(RATE, np.float32), whisper, voice(2.0)]), sizes
        )
        assert taken == UNVOICED
        assert sizes != [80] or 5.0 <= after < 5.5


def test_codes_come_in_time(codec: SpeechModel) -> None:
    """No later than the latency says; and what is kept does not grow."""
    wave, stream = voice(6.0), codec.encode_stream(level=-23.0, pitch_range=(140.0, 3.0))
    codes, came, behind, kept = 0, 0, 0, []
    for piece in np.split(wave, range(100, len(wave), 100)):
        came += len(piece)
        behind = max(behind, came - codes * 160)
        codes += stream.push(piece).codes.shape[1]
        kept.append(len(stream.pitch_codes.f0) + stream.in_step.codes.shape[1])
    assert behind <= stream.latency * RATE + 100
    assert behind > 0.8 * stream.latency * RATE
    assert max(kept[240:]) <= max(kept[:240])


def test_no_code_comes_before_the_range(codec: SpeechModel) -> None:
    stream = codec.encode_stream(level=-23.0)
    assert stream.pitch is None
    for piece in np.split(voice(3.0, silence=0.5), range(400, 28000, 400)):
        block = stream.push(piece)
        assert (block.codes.shape[1] == 0) or stream.pitch is not None
    stream.flush()
    assert stream.pitch == PitchFormat(640, 6, 1, stream.pitch.mean, stream.pitch.deviation)
    assert Header.of(codec.encode(voice(1.0))).sizes == codec.header(pitch=stream.pitch).sizes


def test_a_range_that_is_given_or_known(codec: SpeechModel) -> None:
    """Given before known; a speaker whom the model does not know is no range."""
    given = codec.encode_stream(speaker="low", pitch_range=(200, 4)).pitch
    assert (given.mean, given.deviation) == pytest.approx((math.log(2.0), 4 * SEMITONE))
    known = codec.encode_stream(speaker="high").pitch
    assert (known.mean, known.deviation) == pytest.approx(VOICES["high"])
    assert codec.encode_stream(speaker="nobody").pitch is None


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ((20.0, 3.0), "pitch_range: a mean F0 of 20 Hz, expected a voice's, 50 to 600"),
        ((700.0, 3.0), "pitch_range: a mean F0 of 700 Hz"),
        (
            (120.0, 0.0),
            "pitch_range: a deviation of 0 semitones, expected a number above 0 and at most 24",
        ),
        ((120.0,), r"pitch_range: \(120.0,\), expected two numbers"),
        (120.0, "pitch_range: 120.0, expected two numbers"),
        ((120.0, math.nan), "pitch_range: holds NaN"),
        ("low", "pitch_range: str, expected numbers"),
    ],
)
def test_a_range_that_is_none(codec: SpeechModel, wrong: object, said: str) -> None:
    with pytest.raises(UserInputError, match=f"^{said}"):
        codec.encode_stream(pitch_range=wrong)


def test_a_model_without_melody_takes_no_range() -> None:
    it = build(None)
    with pytest.raises(
        UserInputError,
        match="pitch_range: given, expected none: this model has no codes of a melody",
    ):
        it.encode_stream(pitch_range=(120.0, 3.0))
    assert it.encode_stream(speaker="low").push(voice(0.5)).shape[0] == 1


def test_silence_is_refused(codec: SpeechModel) -> None:
    stream = codec.encode_stream()
    stream.push(np.zeros(RATE, np.float32))
    with pytest.raises(UserInputError, match="empty or silent"):
        stream.flush()


def test_in_step() -> None:
    """Whatever comes first waits for the other."""
    it, every = InStep(1, 1, 4), torch.arange(11)[None]
    assert it.push(every[:, :3]).codes.shape[1] == 0
    block = it.push(every[:, 3:6], torch.tensor([[7]]))
    assert (block.codes.tolist(), block.pitch.tolist(), block.first) == ([[0, 1, 2, 3]], [[7]], 0)
    assert it.left_over == "2 frames and 0 pitch codes"
    assert it.push(every[:, :0], torch.tensor([[8, 9]])).codes.tolist() == [[4, 5]]
    assert it.left_over == "0 frames and 1 pitch codes"
    block = it.push(every[:, 6:])
    assert (block.codes.tolist(), block.pitch.tolist(), block.first) == (
        [[6, 7, 8, 9, 10]],
        [[9]],
        6,
    )
    assert it.left_over == ""
