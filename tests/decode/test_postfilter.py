"""The spectral post-filter: its law, against torch; the bits of the whole, however it comes; where
a decoder has it, and how strong.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import MELODY, RATE, SPECTRAL, VQVAE, start_codebooks
from torch import Tensor

from vqwave.codes import CodeSequence
from vqwave.decode.postfilter import BLOCK, LIMIT, Postfilter, postfiltered
from vqwave.decode.sampling import Sampling
from vqwave.errors import UserInputError
from vqwave.export.postfilter_graph import RealPostfilter
from vqwave.features import LogMel, LogMelSpec
from vqwave.inference.model_folder import ModelCard
from vqwave.inference.speech_model import SpeechModel
from vqwave.metrics.griffin_lim import overlap_add
from vqwave.models import VQVAESpec

FEATURES = LogMelSpec(bands=24, fmax=4000.0).build(RATE)
HOP = FEATURES.hop
LENGTHS = [1, HOP - 1, HOP, BLOCK * HOP, BLOCK * HOP + 1, 4096, 3 * RATE + 37]


def drawn(samples: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noise (T,), and frames (M, F) that are 3 to 9 dB above those of some other noise."""
    generator = np.random.default_rng(seed)
    wave = generator.normal(0, 0.1, samples).astype(np.float32)
    frames = generator.normal(0, 0.5, (24, -(-samples // HOP)))
    return wave, frames.astype(np.float32)


def by_torch(features: LogMel, wave: np.ndarray, frames: np.ndarray, strength: float) -> Tensor:
    """The law, all frames at once."""
    mel, padding = features.mel, frames.shape[1] * features.hop - len(wave)
    x = torch.nn.functional.pad(torch.from_numpy(wave), (0, padding))[None]
    spectrum = mel.spectrum(x)
    deviation = torch.from_numpy(frames)[None] - features(x)
    shares = mel.filters / mel.filters.sum(0).clamp_min(1e-12)
    gain = shares.T @ (strength * deviation).clamp(-LIMIT, LIMIT)
    return overlap_add(spectrum * gain.exp(), mel)[0, : len(wave)].clamp(-1, 1)


@pytest.mark.parametrize("samples", LENGTHS)
@pytest.mark.parametrize("strength", [0.3, 1.0])
def test_it_is_the_law_computed_at_once(samples: int, strength: float) -> None:
    wave, frames = drawn(samples)
    filtered = Postfilter(FEATURES, strength).whole(wave, frames)
    assert filtered.shape == wave.shape
    assert filtered.dtype == np.float32
    expected = by_torch(FEATURES, wave, frames, strength)
    torch.testing.assert_close(torch.from_numpy(filtered), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("samples", LENGTHS)
@pytest.mark.parametrize("window_ms", [10.0, 25.0, 64.0])
def test_its_own_frames_leave_a_waveform_as_it_is(samples: int, window_ms: float) -> None:
    """Also where windows just touch, so that no window holds the sample between them."""
    features = LogMelSpec(bands=24, fmax=4000.0, window_ms=window_ms).build(RATE)
    wave, frames = drawn(samples)
    padded = np.pad(wave, (0, frames.shape[1] * HOP - samples))
    own = features(torch.from_numpy(padded)[None])[0].numpy()
    filtered = Postfilter(features, 1.0).whole(wave, own)
    np.testing.assert_allclose(filtered, wave, rtol=0, atol=1e-4)
    graph = RealPostfilter(features, 1.0)
    exported = graph(torch.from_numpy(padded)[None], torch.from_numpy(own)[None])
    np.testing.assert_allclose(exported[0, :samples], wave, rtol=0, atol=1e-4)


def test_the_stronger_it_is_the_nearer_are_the_frames() -> None:
    wave, frames = drawn(2 * RATE)

    def distance(filtered: np.ndarray) -> float:
        own = FEATURES(torch.from_numpy(filtered)[None])[0].numpy()
        return float(np.abs(own - frames).mean())

    distances = [distance(wave)]
    distances += [
        distance(Postfilter(FEATURES, strength).whole(wave, frames)) for strength in (0.25, 0.5, 1)
    ]
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 0.7 * distances[0]


@pytest.mark.parametrize("sign", [-1, 1])
def test_a_gain_is_limited(sign: int) -> None:
    """To 13 dB."""
    wave, frames = drawn(2 * RATE)
    wave *= 0.1
    filtered = Postfilter(FEATURES, 1.0).whole(wave, frames + 100 * np.float32(sign))
    before, after = FEATURES(torch.from_numpy(np.stack([wave, filtered])))
    inner = (after - before)[2:, 2:-2]
    assert float(inner.mean()) == pytest.approx(sign * LIMIT, abs=0.05)


def test_its_samples_stay_in_range() -> None:
    wave, frames = drawn(RATE)
    filtered = Postfilter(FEATURES, 1.0).whole(8 * wave.clip(-0.12, 0.12), frames + np.float32(100))
    assert np.abs(filtered).max() == 1


@pytest.mark.parametrize("samples", LENGTHS)
@pytest.mark.parametrize("seed", range(3))
def test_pieces_are_the_bits_of_the_whole(samples: int, seed: int) -> None:
    """However samples and frames come, no sample is later than it says."""
    (wave, frames), generator = drawn(samples), np.random.default_rng(seed)
    whole = Postfilter(FEATURES, 0.5).whole(wave, frames)
    postfilter, parts, n, f = Postfilter(FEATURES, 0.5), [], 0, 0
    while n < samples or f < frames.shape[1]:
        more, further = generator.integers(0, 5 * HOP), generator.integers(0, 6)
        parts.append(postfilter.push(wave[n : n + more], frames[:, f : f + further]))
        n, f = n + more, f + further
        assert sum(map(len, parts)) == postfilter.sent
        known = min(n, samples, f * HOP)
        assert known - postfilter.sent <= postfilter.latency
    parts.append(postfilter.flush(samples))
    assert np.array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("strength", [-0.1, 1.1, math.nan, math.inf])
def test_a_strength_out_of_range(strength: float) -> None:
    with pytest.raises(UserInputError, match=r"postfilter .*: expected a strength from 0 to 1"):
        Sampling(postfilter=strength)
    with pytest.raises(UserInputError, match="expected a strength from 0 to 1"):
        Postfilter(FEATURES, strength)


def speech_of(spec: VQVAESpec, **about: object) -> SpeechModel:
    torch.manual_seed(0)
    labels = {"speaker": ["a", "b"]}
    model = spec.build(RATE, labels).eval()
    start_codebooks(model)
    if model.melody is not None:
        model.melody.voices.copy_(torch.tensor([(0.2, 0.1), (0.9, 0.3)]))
    card = ModelCard(sample_rate=RATE, labels=labels, spec=spec, about={"corpus": "x", **about})
    return SpeechModel(model, card)


def codes_of(it: SpeechModel, frames: int, samples: int) -> CodeSequence:
    return it.encode_prepared(torch.randn(frames * it.model.hop)[:samples] * 0.1, "b")


@pytest.mark.parametrize("spec", [MELODY, SPECTRAL], ids=["melody", "without"])
@pytest.mark.parametrize("backend", ["reference", "auto"])
def test_a_decoder_has_it_whichever_way_it_decodes(spec: VQVAESpec, backend: str) -> None:
    """Alone, in a batch, in slots, as a stream, saved and gone on with: the same bits."""
    it, sampling = speech_of(spec, postfilter=0.75), Sampling(seed=3, backend=backend)
    coded, other = codes_of(it, 37, 37 * it.model.hop - 5), codes_of(it, 20, 20 * it.model.hop)
    whole = it.decode(coded, sampling=sampling).numpy()
    plain = it.decode(coded, sampling=replace(sampling, postfilter=0.0)).numpy()
    assert whole.shape == plain.shape == (coded.samples,)
    assert np.abs(whole - plain).max() > 1e-4
    features = it.model.spectral_decoder.spectrum
    spectrum = it.task(coded, None).spectrum[0].numpy()
    assert np.array_equal(Postfilter(features, 0.75).whole(plain, spectrum), whole)

    if backend != "reference":  # which rounds otherwise in a batch
        together = it.decode_many([other, coded], [None, None], sampling=sampling)[1]
        assert np.array_equal(together.numpy(), whole)
    tasks = {name: it.task(each, None) for name, each in (("other", other), ("this", coded))}
    slots = dict(it.decode_each(tasks.items(), sampling))
    assert np.array_equal(slots["this"].numpy(), whole)

    for size in (1, 5, 37):
        stream, parts, pushed, sent = it.stream("b", sampling=sampling), [], 0, 0
        for first in range(0, 37, size):
            pitch, last = None, min(first + size, 37)
            if coded.pitch is not None:
                pitch = coded.pitch.codes[:, -(-first // 4) : -(-last // 4)]
            parts.append(stream.push(coded.codes[:, first:last], pitch))
            pushed, sent = last * it.model.hop, sent + len(parts[-1])
            assert pushed - sent <= stream.latency
            stream = it.resume_stream(stream.state())
        parts.append(stream.flush(coded.samples))
        assert np.array_equal(np.concatenate(parts), whole)


def test_a_model_has_its_own_strength(tmp_path: Path) -> None:
    """That of its card; none without; what is given comes before both."""
    plain = speech_of(SPECTRAL)
    coded = codes_of(plain, 9, 9 * plain.model.hop)

    def decoded(it: SpeechModel, strength: float | None = None) -> Tensor:
        return it.decode(coded, sampling=Sampling(postfilter=strength))

    assert plain.postfilter == 0
    strong = speech_of(SPECTRAL, postfilter=0.8)
    assert strong.postfilter == 0.8
    assert torch.equal(decoded(strong), decoded(plain, 0.8))
    assert torch.equal(decoded(strong, 0.0), decoded(plain))
    assert not torch.equal(decoded(strong), decoded(plain))
    strong.save_pretrained(tmp_path / "model")
    assert SpeechModel.load(tmp_path / "model").postfilter == 0.8
    for wrong in ("much", True, 2):
        with pytest.raises(UserInputError, match="postfilter"):
            speech_of(SPECTRAL, postfilter=wrong)


def test_a_waveform_that_is_not_finite_is_refused() -> None:
    for strength in (0.0, 1.0):
        for value in (math.nan, math.inf):
            with pytest.raises(UserInputError, match="NaN or infinite samples, expected a lower"):
                postfiltered(None, torch.tensor([0.0, value]), None, strength)


def test_a_decoder_that_is_conditioned_on_latents_has_none() -> None:
    it = speech_of(VQVAE, postfilter=0.5)
    assert it.postfilter == 0
    coded = codes_of(it, 9, 9 * it.model.hop)
    it.decode(coded, sampling=Sampling(postfilter=0.0))
    with pytest.raises(UserInputError, match=r"postfilter 0.5: no log-mel frames.*expected 0"):
        it.decode(coded, sampling=Sampling(postfilter=0.5))
    with pytest.raises(UserInputError, match="postfilter"):
        it.stream("a", sampling=Sampling(postfilter=0.5))


@pytest.mark.parametrize("damage", ["wave", "frames", "summed"])
def test_a_damaged_state_is_refused(damage: str) -> None:
    it = speech_of(SPECTRAL, postfilter=0.5)
    stream = it.stream("a", sampling=Sampling(seed=1, backend="reference"))
    stream.push(codes_of(it, 20, 20 * it.model.hop).codes)
    state = stream.state()
    state.arrays[f"postfilter.{damage}"] = state.arrays[f"postfilter.{damage}"][..., :-1]
    with pytest.raises(UserInputError, match="this stream's state"):
        it.resume_stream(state)
