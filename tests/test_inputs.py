"""What the Python API takes is checked once, in the same words, at every entry point."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from small_models import stack
from torch import Tensor

from vqwave import audio, inputs
from vqwave.codes import CodeSequence, CodeWriter, Header, load_codes, save_codes
from vqwave.codes.pitch import PitchCodes
from vqwave.data.frame_tracks import FrameFile
from vqwave.distributions import Gaussian
from vqwave.errors import UserInputError
from vqwave.features import LogMelSpec
from vqwave.inference.model_folder import ModelCard
from vqwave.inference.speech_model import SpeechModel
from vqwave.models import ModelSpec, StudentSpec, VQVAESpec, WaveNetSpec
from vqwave.nn.condition import ConditionerSpec
from vqwave.nn.encoders import WaveformEncoderSpec
from vqwave.nn.quantize import EMAQuantizerSpec

RATE, HOP, SIZE, T = 8000, 16, 16, 237
LABELS = {"speaker": ["ann", "bob"]}
SIZES = stack(4)
CONDITIONER = ConditionerSpec(channels=4)
MEL = LogMelSpec(bands=6, window_ms=8.0, hop_ms=2.0, fmin=200.0, fmax=4000.0)
ENCODER = WaveformEncoderSpec(strides=(4, 4), channels=4, blocks=1, latent_dim=4)


def codec(spec: ModelSpec) -> SpeechModel:
    torch.manual_seed(0)
    card = ModelCard(sample_rate=RATE, labels=LABELS, spec=spec, about={})
    return SpeechModel(card.build().eval(), card)


def coder_with(decoder: WaveNetSpec | StudentSpec) -> SpeechModel:
    it = codec(
        VQVAESpec(encoder=ENCODER, quantizer=EMAQuantizerSpec(codebook_size=SIZE), decoder=decoder)
    )
    it.model.quantizer.train()(it.model.encoder(speech(4000)[None]).detach())
    it.model.eval()
    return it


def speech(samples: int) -> Tensor:
    t = torch.arange(samples) / RATE
    noise = torch.randn(samples, generator=torch.Generator().manual_seed(1))
    return (0.1 * torch.sin(2 * torch.pi * (200 * t + 700 * t**2)) + 0.02 * noise).float()


SPEAKS = coder_with(StudentSpec(flows=(2,), network=SIZES, conditioner=CONDITIONER))
SCORES = coder_with(WaveNetSpec(head=Gaussian(), network=SIZES, conditioner=CONDITIONER))
VOCODER = codec(WaveNetSpec(head=Gaussian(), network=SIZES, conditioner=CONDITIONER, features=MEL))
BABBLER = codec(WaveNetSpec(head=Gaussian(), network=SIZES, conditioner=CONDITIONER))
WAVE = speech(T)
PCM = (WAVE * 32768).round().to(torch.int16)
CODED = SPEAKS.encode(WAVE, speaker="ann")
ANN = {"speaker": "ann"}

TAKES: dict[str, Callable[..., object]] = {
    "prepare": SPEAKS.prepare,
    "encode": lambda wave, rate=None: SPEAKS.encode(wave, rate).codes,
    "convert": lambda wave, rate=None: SPEAKS.convert(wave, rate, speaker="bob"),
    "score": lambda wave, rate=None: SCORES.log_likelihood(wave, rate, labels=ANN).bits,
    "reconstruct": lambda wave, rate=None: VOCODER.reconstruct(wave, rate, labels=ANN),
    "generate": lambda wave, rate=None: BABBLER.generate(
        0.01, labels=ANN, prompt=wave, prompt_rate=rate
    )[0],
}
"""Every method that takes a recording and its rate."""
ENTRIES = pytest.mark.parametrize("take", TAKES.values(), ids=TAKES)


def as_numbers(found: object) -> np.ndarray:
    return np.asarray(found, np.float64)


ALIKE: dict[str, Any] = {
    "numpy": WAVE.numpy(),
    "float64": WAVE.double(),
    "list": WAVE.tolist(),
    "a leaf of a graph": WAVE.clone().requires_grad_(),
    "big-endian": WAVE.numpy().astype(">f4"),
    "(1, T)": WAVE[None],
    "(T, 1)": WAVE[:, None],
    "(1, 1, T)": WAVE[None, None],
    "(2, T)": torch.stack([WAVE, WAVE]),
    "(T, 2), as soundfile reads": torch.stack([WAVE, WAVE], 1).numpy(),
    "(1, 2, T)": torch.stack([WAVE, WAVE])[None],
}


@ENTRIES
@pytest.mark.parametrize("wave", ALIKE.values(), ids=ALIKE)
def test_one_recording_in_any_form_is_one_recording(take: Callable, wave: object) -> None:
    np.testing.assert_array_equal(as_numbers(take(wave)), as_numbers(take(WAVE)))


@ENTRIES
@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.int16])
def test_narrow_samples_are_their_values_in_float32(take: Callable, kind: torch.dtype) -> None:
    wave = PCM if kind == torch.int16 else WAVE.to(kind)
    values = wave.float() / (32768 if kind == torch.int16 else 1)
    np.testing.assert_array_equal(as_numbers(take(wave)), as_numbers(take(values)))


NO_WAVE: dict[str, tuple[Any, str]] = {
    "a batch": (WAVE.expand(16, -1), r"shape \(16, 237\), .* of a batch, give one recording at a"),
    "a batch of (B, 1, T)": (WAVE.expand(2, 1, -1), r"shape \(2, 1, 237\)"),
    "three channels": (WAVE.expand(3, -1).T, r"shape \(237, 3\)"),
    "(2, 2)": (torch.ones(2, 2), r"shape \(2, 2\)"),
    "a number": (0.5, r"shape \(\)"),
    "int32": (PCM.int(), "int32, expected floating-point samples in .* or int16 PCM"),
    "uint8": (PCM.to(torch.uint8).numpy(), "uint8, expected floating-point"),
    "int64": (PCM.tolist(), "int64, expected floating-point"),
    "bool": (WAVE > 0, "bool, expected floating-point"),
    "complex": (WAVE.numpy().astype(np.complex64), "complex64, expected floating-point"),
    "a path": ("a.wav", "str, expected floating-point"),
    "ragged": ([[0.1, 0.2], [0.3]], "no array of numbers"),
    "without values": (torch.empty(T, device="meta"), "no array of numbers"),
}


@ENTRIES
@pytest.mark.parametrize(("wave", "said"), NO_WAVE.values(), ids=NO_WAVE)
def test_what_is_no_recording_is_refused_in_a_line(take: Callable, wave: object, said: str) -> None:
    with pytest.raises(UserInputError, match=rf"^wave: {said}[^\n]*$"):
        take(wave)


RATES = [0, -8000, 8000.5, float("nan"), float("inf"), "8000", True, [8000], 1j]


@ENTRIES
@pytest.mark.parametrize("rate", RATES, ids=repr)
def test_a_rate_that_is_none_is_refused(take: Callable, rate: object) -> None:
    with pytest.raises(UserInputError, match=r"^sample_rate: .*, expected whole Hz above 0"):
        take(WAVE, rate)


@ENTRIES
def test_a_rate_may_be_any_whole_number(take: Callable) -> None:
    for rate in (8000.0, np.int64(8000), np.float32(8000), torch.tensor(8000)):
        np.testing.assert_array_equal(as_numbers(take(WAVE, rate)), as_numbers(take(WAVE)))


def test_two_channels_are_averaged_whichever_axis_they_are_on() -> None:
    left, right = WAVE, 0.5 * speech(T).flip(0)
    mean = SPEAKS.prepare((left + right) / 2)
    for pair in (torch.stack([left, right]), torch.stack([left, right], 1)):
        torch.testing.assert_close(SPEAKS.prepare(pair), mean, rtol=0, atol=1e-6)


def test_the_rule_of_shapes() -> None:
    shapes = {(1, 1): (1,), (1, 2): (2,), (2, 1): (2,), (2, 3): (2, 3), (3, 2): (2, 3), (0,): (0,)}
    shapes |= {(0, 2): (0,), (2, 0): (0,), (1, 1, 1, 5): (5,), (1, 4, 2): (2, 4)}
    for given, taken in shapes.items():
        assert inputs.waveform(np.zeros(given)).shape == taken, given
    assert inputs.waveform(np.array([[1.0, 2], [3, 4], [5, 6]]))[0].tolist() == [1, 3, 5]


def test_a_stream_of_speech_takes_what_a_whole_recording_is() -> None:
    def pushed(wave: object, rate: object = None) -> Tensor:
        stream = SPEAKS.encode_stream(rate)
        return torch.cat([stream.push(wave), stream.flush()], 1)

    for name, wave in ALIKE.items():
        if "2" in name:
            with pytest.raises(UserInputError, match="two channels, expected one"):
                pushed(wave)
        else:
            assert torch.equal(pushed(wave), pushed(WAVE)), name
    assert torch.equal(pushed(PCM), pushed(PCM.float() / 32768))
    assert torch.equal(pushed(WAVE.bfloat16()), pushed(WAVE.bfloat16().float()))
    for rate in RATES:
        with pytest.raises(UserInputError, match="sample_rate: "):
            pushed(WAVE, rate)
    for wrong in (PCM.int(), WAVE.expand(3, -1)):
        with pytest.raises(UserInputError, match=r"^wave: "):
            pushed(wrong)
    for settings in ({"seconds": 0.0}, {"seconds": float("nan")}, {"level": float("inf")}):
        with pytest.raises(UserInputError, match=next(iter(settings))):
            SPEAKS.encode_stream(**settings)


def test_a_corpus_recording_is_one_channel() -> None:
    prepared = SPEAKS.prepare(WAVE)
    assert torch.equal(SPEAKS.codes_of(prepared), CODED.codes)
    assert torch.equal(SPEAKS.codes_of(prepared.numpy()[None]), CODED.codes)
    with pytest.raises(UserInputError, match=r"^wave: shape \(3, 237\)"):
        SPEAKS.codes_of(prepared.expand(3, -1))


def test_write_stores_what_it_was_given(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    for wave in (PCM, PCM.numpy(), PCM[None], PCM.float() / 32768, PCM.double()[:, None] / 32768):
        audio.write(path, wave, RATE)
        assert np.array_equal(soundfile.read(path, dtype="int16")[0], PCM.numpy())
    audio.write(path, np.array([-32768, 32767], np.int16), RATE)
    assert soundfile.read(path, dtype="int16")[0].tolist() == [-32768, 32767]
    audio.write(path, WAVE.bfloat16(), np.int64(RATE))
    path.unlink()
    for wave in (PCM.int(), torch.stack([WAVE, WAVE]), WAVE.expand(4, -1), WAVE * torch.nan):
        with pytest.raises(UserInputError, match=r"a\.wav: "):
            audio.write(path, wave, RATE)
    for rate in RATES:
        with pytest.raises(UserInputError, match=r"a\.wav: sample_rate: .*, expected whole Hz"):
            audio.write(path, WAVE, rate)
    assert list(tmp_path.iterdir()) == []


CODES = CODED.codes
NO_CODES: dict[str, tuple[dict[str, Any], str]] = {
    "too high": ({"codes": CODES * 0 + SIZE}, r"code 16 \(book 0, frame 0\), expected 0 to 15"),
    "negative": ({"codes": CODES - 20}, r"code -\d+ \(book 0, frame 0\), expected 0 to 15"),
    "fractions": ({"codes": CODES.float()}, "float32 of shape"),
    "truths": ({"codes": CODES > 3}, "bool of shape"),
    "one axis": ({"codes": CODES[0]}, r"int64 of shape \(15,\), expected whole numbers \(Q, F\)"),
    "a batch": ({"codes": CODES[None]}, r"int64 of shape \(1, 1, 15\)"),
    "no books": ({"codes": CODES[:0]}, r"int64 of shape \(0, 15\)"),
    "text": ({"codes": "abc"}, "str of shape"),
    "more frames": ({"codes": CODES.repeat(1, 2)}, "237 samples in 30 frames of 16, expected 465"),
    "fewer frames": ({"codes": CODES[:, :3]}, "237 samples in 3 frames of 16, expected 33 to 48"),
    "no frames": ({"codes": CODES[:, :0]}, "237 samples in 0 frames of 16, expected none"),
    "no hop": ({"hop": 0}, "hop: 0, expected a whole number, at least 1"),
    "a length in seconds": ({"samples": 0.03}, "samples: 0.03, expected a whole number"),
    "a rate": ({"sample_rate": "8000"}, "sample_rate: '8000', expected"),
    "a numbered speaker": ({"speaker": 3}, "speaker: 3, expected a name"),
}


@pytest.mark.parametrize(("changes", "said"), NO_CODES.values(), ids=NO_CODES)
def test_codes_that_cannot_be_are_refused(changes: dict, said: str, tmp_path: Path) -> None:
    wrong = replace(CODED, **changes)
    uses: list[Callable[[], object]] = [
        lambda: SPEAKS.decode(wrong, "bob"),
        lambda: SPEAKS.decode_many([CODED, wrong], ["bob", "bob"]),
        lambda: save_codes(tmp_path / "a.vqw", wrong),
    ]
    for use in uses:
        with pytest.raises(UserInputError, match=rf"^[^\n]*{said}[^\n]*$"):
            use()
    assert list(tmp_path.iterdir()) == []


def test_codes_of_other_sizes_than_the_models_are_refused() -> None:
    wrong = [
        replace(CODED, codes=CODES.expand(2, -1)),
        replace(CODED, size=32),
        replace(CODED, hop=8, samples=8 * 15),
        replace(CODED, sample_rate=16000),
    ]
    for coded in wrong:
        with pytest.raises(
            UserInputError, match=r"expected 1 books of 16 codes, hop 16 at 8000 Hz"
        ):
            SPEAKS.decode(coded, "bob")
        with pytest.raises(
            UserInputError, match=r"expected 1 books of 16 codes, hop 16 at 8000 Hz"
        ):
            SPEAKS.check(Header.of(coded))


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16, np.int32, np.uint64])
def test_codes_may_be_of_any_whole_type(kind: type, tmp_path: Path) -> None:
    narrow = replace(CODED, codes=CODES.numpy().astype(kind))
    assert torch.equal(SPEAKS.decode(narrow, "bob"), SPEAKS.decode(CODED, "bob"))
    save_codes(tmp_path / "a.vqw", narrow)
    assert torch.equal(load_codes(tmp_path / "a.vqw").codes, CODES)
    streams = [SPEAKS.stream("bob") for _ in range(2)]
    assert np.array_equal(streams[0].push(narrow.codes), streams[1].push(CODES))


def test_what_is_not_coded_at_all_is_refused(tmp_path: Path) -> None:
    for wrong in (CODES, CODES.numpy(), None, "a.vqw"):
        uses = (lambda x=wrong: SPEAKS.decode(x), lambda x=wrong: save_codes(tmp_path / "a", x))
        for use in uses:
            with pytest.raises(UserInputError, match=r"^codes: a \w+, expected a CodeSequence"):
                use()
    for count, beside in ((1, {}), (2, {"labels": [{}]}), (2, {"embeddings": [{}] * 3})):
        with pytest.raises(UserInputError, match="expected one for each of the 2 utterances"):
            SPEAKS.decode_many([CODED, CODED], ["bob"] * count, **beside)


def test_a_stream_of_codes_is_checked_as_it_is_written() -> None:
    writer = CodeWriter(io.BytesIO(), Header.of(CODED))
    for wrong in (CODES + SIZE, CODES - SIZE, CODES.float(), CODES.expand(2, -1)):
        with pytest.raises(UserInputError, match=r"^codes: "):
            writer.write(wrong)
    writer.write(CODES)
    with pytest.raises(UserInputError, match="500 samples in 15 frames of 16"):
        writer.finish(500)
    writer.finish(T)


def test_pitch_codes_are_checked_like_the_others(tmp_path: Path) -> None:
    melody = PitchCodes(torch.arange(4).view(1, 4), 4 * HOP, 5, 4.8, 0.2)
    sound = replace(CODED, pitch=melody)
    narrow = replace(sound, pitch=replace(melody, codes=melody.codes.numpy().astype(np.uint8)))
    save_codes(tmp_path / "a.vqw", narrow)
    assert torch.equal(load_codes(tmp_path / "a.vqw").pitch.codes, melody.codes)
    for codes in (melody.codes + 2, melody.codes - 1, melody.codes.float()):
        wrong = replace(sound, pitch=replace(melody, codes=codes))
        writer = CodeWriter(io.BytesIO(), Header.of(sound))
        uses = (
            lambda x=wrong: save_codes(tmp_path / "b.vqw", x),
            lambda x=codes, it=writer: it.write(CODES, x),
        )
        for use in uses:
            with pytest.raises(UserInputError, match=r"^pitch codes: "):
                use()
    assert [path.name for path in tmp_path.iterdir()] == ["a.vqw"]


def test_lengths_and_counts() -> None:
    for seconds in (0, -1.0, float("nan"), float("inf"), "long", None):
        with pytest.raises(UserInputError, match=r"^seconds .*: expected a number above 0"):
            BABBLER.generate(seconds, labels=ANN)
    for count in (0, -1, 1.5, "2"):
        with pytest.raises(
            UserInputError, match=r"^count: .*, expected a whole number, at least 1"
        ):
            BABBLER.generate(0.01, labels=ANN, count=count)
    assert len(BABBLER.generate(1e-9, labels=ANN)[0]) == 1
    for labels in ("ann", ["ann"]):
        with pytest.raises(UserInputError, match=r"labels: a .*, expected a dictionary"):
            BABBLER.generate(0.01, labels=labels)
    with pytest.raises(UserInputError, match="features: a Tensor, expected a dictionary"):
        VOCODER.synthesize(WAVE, 0.1, labels=ANN)


def test_frames_and_vectors_of_any_kind() -> None:
    track, frames = FrameFile("mel", 4, 3), torch.arange(15.0).view(3, 5)
    leaf = frames.clone().requires_grad_()
    for given in (frames, frames.bfloat16(), frames.int(), frames.tolist(), leaf):
        assert np.array_equal(track.given(given, 20, RATE, {}), frames.numpy())
    with pytest.raises(UserInputError, match="frames 'mel': holds NaN or infinity"):
        track.given(frames * torch.nan, 20, RATE, {})
    spec = ConditionerSpec(channels=4, categorical=(), embeddings={"voice": 3})
    it = codec(WaveNetSpec(head=Gaussian(), network=SIZES, conditioner=spec))
    for vector in ([1, 2, 3], np.array([1.0, 2, 3]), torch.tensor([1.0, 2, 3]).bfloat16()):
        assert it.given.attributes({}, {"voice": vector})["voice"].tolist() == [[1, 2, 3]]
    with pytest.raises(UserInputError, match="vector 'voice': holds NaN or infinity"):
        it.given.attributes({}, {"voice": [1.0, float("nan"), 0.0]})


def test_a_file_whose_length_does_not_fit_is_refused(tmp_path: Path) -> None:
    """Written by hand: `save_codes` does not write one."""
    from vqwave.codes import from_bytes, pack, seal

    header = replace(Header.of(CODED), samples=500)
    with pytest.raises(UserInputError, match=r"^x: .*15 frames of 16 do not fit 500 samples"):
        from_bytes(seal(header, pack(CODES, CODED.bits_per_code)), "x")


def test_codes_are_as_they_were() -> None:
    assert isinstance(CODED, CodeSequence)
    assert CodeSequence.checked(CODED).codes.dtype == torch.int64
    assert torch.equal(CodeSequence.checked(CODED).codes, CODED.codes)
