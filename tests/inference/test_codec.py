"""A codec as people use it: lengths, voices, batches that do not show, and one line for what cannot
be.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from vqwave.codes import CodeSequence, load_codes, save_codes
from vqwave.decode.backend import SampleRequest, sample
from vqwave.decode.sampling import Sampling
from vqwave.distributions import Gaussian, Head, MixtureOfLogistics, MuLaw
from vqwave.errors import UserInputError
from vqwave.features import LogMelSpec
from vqwave.inference.model_folder import ModelCard, save_trained
from vqwave.inference.speech_model import SpeechModel
from vqwave.models import Model, ModelSpec, StudentSpec, VQVAESpec, WaveNetSpec
from vqwave.nn.condition import Condition, ConditionerSpec, join
from vqwave.nn.encoders import WaveformEncoderSpec
from vqwave.nn.quantize import EMAQuantizerSpec
from vqwave.nn.wavenet import StackSpec

LABELS = {"speaker": ["george", "jackson", "lucas", "theo"]}
SIZES = StackSpec(
    layers=3,
    dilation_cycle=3,
    residual_channels=8,
    gate_channels=8,
    skip_channels=8,
    hidden_channels=12,
)
CONDITIONER = ConditionerSpec(channels=6)
RATE, HOP = 8000, 16


def codec(spec: ModelSpec, model: Model | None = None) -> SpeechModel:
    card = ModelCard(sample_rate=RATE, labels=LABELS, spec=spec, about={"corpus": "x"})
    return SpeechModel((model or card.build()).eval(), card)


def teacher(head: Head) -> SpeechModel:
    """A VQ-VAE whose codebook lies on its latents, and whose decoder depends on its condition."""
    torch.manual_seed(0)
    spec = VQVAESpec(
        encoder=WaveformEncoderSpec(strides=(4, 4), channels=8, blocks=1, latent_dim=4),
        quantizer=EMAQuantizerSpec(codebook_size=16, dead_code_threshold=0.0),
        decoder=WaveNetSpec(head=head, network=SIZES, conditioner=CONDITIONER),
    )
    it = codec(spec)
    it.model.quantizer.train()
    it.model.quantizer(it.model.encoder(speech(16_000)[None]).detach())
    it.model.eval()
    with torch.no_grad():
        it.decoder.stack.projection.weight.mul_(4.0)
    return it


def student_of(it: SpeechModel) -> SpeechModel:
    """As distillation builds it: the same encoder, codebook and conditioner, flows in the decoder's
    place.
    """
    spec = replace(
        it.card.spec, decoder=StudentSpec(flows=(1, 2), network=SIZES, conditioner=CONDITIONER)
    )
    model = spec.build(RATE, LABELS)
    for mine, theirs in (
        (model.encoder, it.model.encoder),
        (model.quantizer, it.model.quantizer),
        (model.decoder.conditioner, it.decoder.conditioner),
    ):
        mine.load_state_dict(theirs.state_dict())
    return codec(spec, model)


def speech(T: int, seed: int = 1) -> Tensor:
    """A chirp with noise: something with a spectrum that changes."""
    generator = torch.Generator().manual_seed(seed)
    t = torch.arange(T) / RATE
    return 0.1 * torch.sin(2 * torch.pi * (200 * t + 700 * t**2)) + 0.03 * torch.randn(
        T, generator=generator
    )


VQ = teacher(MixtureOfLogistics(components=2))
FAST = student_of(VQ)
BOTH = pytest.mark.parametrize("it", [VQ, FAST], ids=["teacher", "student"])


@BOTH
@pytest.mark.parametrize("T", [2, HOP - 1, HOP, HOP + 1, 237])
def test_what_comes_out_is_as_long_as_what_went_in(it: SpeechModel, T: int) -> None:
    coded = it.encode(speech(T), speaker="theo")
    assert coded.codes.shape == (1, -(-T // HOP))
    assert (coded.samples, coded.sample_rate, coded.hop, coded.size) == (T, RATE, HOP, 16)
    decoded = it.decode(coded)
    assert decoded.shape == (T,)
    assert decoded.dtype == torch.float32
    assert decoded.abs().max() <= 1


@pytest.mark.parametrize("rate", [16_000, 44_100, 6_000])
def test_any_sample_rate_is_resampled_to_the_models(rate: int) -> None:
    coded = VQ.encode(speech(rate // 10), rate)
    assert coded.samples == 800
    assert VQ.decode(coded, "theo").shape == (800,)


def test_level_dc_and_channels_do_not_matter(clear_frames: Callable[..., Tensor]) -> None:
    wave = speech(4000)
    codes, clear = (
        VQ.encode(wave).codes,
        clear_frames(VQ.model.quantizer, VQ.model.encoder(VQ.prepare(wave)[None])),
    )
    assert codes.unique().numel() > 4
    assert clear.float().mean() > 0.9
    for other in (
        0.3 * wave,
        wave + 0.1,
        torch.stack([wave, wave]),
        wave.numpy(),
        wave.double().numpy(),
    ):
        assert torch.equal(VQ.encode(other).codes[clear], codes[clear])


@BOTH
def test_each_of_many_comes_out_as_it_would_alone(it: SpeechModel) -> None:
    """Other lengths, other voices, other orders beside it change nothing."""
    waves = [speech(T, T) for T in (150, 40, 97, 16)]
    coded, voices = [it.encode(wave) for wave in waves], ["theo", "lucas", "lucas", "george"]
    together = it.decode_many(coded, voices, sampling=Sampling(seed=3))
    for item, voice, decoded in zip(coded, voices, together, strict=True):
        torch.testing.assert_close(
            it.decode(item, voice, sampling=Sampling(seed=3)), decoded, rtol=0, atol=1e-6
        )
    backwards = it.decode_many(coded[::-1], voices[::-1], sampling=Sampling(seed=3))
    for a, b in zip(backwards[::-1], together, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


@BOTH
def test_what_is_padded_behind_an_utterance_is_not_in_its_codes(it: SpeechModel) -> None:
    """Encoding is per recording: neither the length of its last frame nor a neighbour shows in the
    others.
    """
    wave = speech(10 * HOP)
    whole, part = (
        it.model.encode(wave[None]),
        it.model.encode(torch.cat([wave, torch.zeros(5 * HOP)])[None]),
    )
    assert torch.equal(part[..., :6], whole[..., :6])


@BOTH
def test_what_is_decoded_may_be_changed_and_trained_on(it: SpeechModel) -> None:
    coded = it.encode(speech(120))
    made = [it.decode(coded, "theo"), it.convert(speech(120), RATE, speaker="theo")]
    made += [wave for _, wave in it.decode_each([(0, it.task(coded, "theo"))])]
    scale = torch.ones((), requires_grad=True)
    for wave in made:
        wave *= 0.5
        (scale * wave).square().sum().backward()


@BOTH
def test_a_label_that_the_model_does_not_know_is_refused(it: SpeechModel) -> None:
    coded = it.encode(speech(120))
    with pytest.raises(
        UserInputError, match=r"label 'speeker': no label here; did you mean speaker"
    ):
        it.decode(coded, "theo", labels={"speeker": "theo"})
    it.decode(coded, "theo", labels={"text": "one", "speaker_id": "3"})


@BOTH
def test_a_seed_and_a_voice_decide(it: SpeechModel) -> None:
    coded = it.encode(speech(120), speaker="theo")
    plain = it.decode(coded, sampling=Sampling(seed=1))
    assert torch.equal(it.decode(coded, sampling=Sampling(seed=1)), plain)
    # the voice noted beside the codes
    assert torch.equal(it.decode(coded, "theo", sampling=Sampling(seed=1)), plain)
    assert torch.equal(
        it.decode(coded.as_speaker("lucas"), sampling=Sampling(seed=1)),
        it.decode(coded, "lucas", sampling=Sampling(seed=1)),
    )
    assert not torch.equal(it.decode(coded, "lucas", sampling=Sampling(seed=1)), plain)
    assert not torch.equal(it.decode(coded, sampling=Sampling(seed=2)), plain)
    assert torch.equal(
        it.convert(speech(120), speaker="lucas", sampling=Sampling(seed=1)),
        it.decode(coded, "lucas", sampling=Sampling(seed=1)),
    )


def test_teacher_and_student_read_each_others_codes() -> None:
    coded = VQ.encode(speech(100), speaker="theo")
    assert VQ.fingerprint == FAST.fingerprint
    assert torch.equal(FAST.encode(speech(100)).codes, coded.codes)
    assert FAST.decode(coded).shape == (100,)


def test_foreign_codes_are_refused() -> None:
    other = deepcopy(VQ)
    other.model.quantizer.codebook.sums[0, 0] += 1e-3
    with pytest.raises(UserInputError, match=VQ.fingerprint):
        other.decode(VQ.encode(speech(100)), "theo")
    with pytest.raises(UserInputError, match="expected"):
        VQ.decode_many([VQ.encode(speech(50)), other.encode(speech(50))], ["theo", "theo"])


def test_weights_that_are_not_finite_are_refused_at_loading_and_in_use(tmp_path: Path) -> None:
    """Every entrance of a model of NaN weights says which, and so does its folder."""
    for part, name in (("encoder", "encoder"), ("quantizer", "sums"), ("decoder", "decoder")):
        it, coded = deepcopy(VQ), VQ.encode(speech(100), speaker="theo")
        with torch.no_grad():
            (
                it.model.quantizer.codebook.sums
                if part == "quantizer"
                else next(getattr(it.model, part).parameters())
            )[0] = torch.nan
        coded = replace(coded, fingerprint=it._names.name)
        uses = (
            lambda it=it: it.encode(speech(100)),
            lambda it=it: it.encode_stream(),
            lambda it=it, coded=coded: it.decode(coded),
            lambda it=it, coded=coded: list(it.decode_each([(0, it.task(coded, None))])),
            lambda it=it: it.stream("theo"),
            lambda it=it: it.log_likelihood(speech(100), labels={"speaker": "theo"}),
        )
        for use in uses:
            with pytest.raises(UserInputError, match=rf"this vqvae: .*{name}.*NaN or infinite"):
                use()
        save_trained(tmp_path / part, it.model, it.card)
        with pytest.raises(UserInputError, match=rf"{part}.*: .*{name}.*NaN or infinite"):
            SpeechModel.load(tmp_path / part)
    broken = babbler()
    with torch.no_grad():
        next(broken.model.parameters())[0] = torch.inf
    with pytest.raises(UserInputError, match=r"this WaveNet: .*NaN or infinite"):
        broken.generate(0.01)
    with pytest.raises(UserInputError, match=r"this wavenet: .*NaN or infinite"):
        broken.log_likelihood(speech(100))
    with pytest.raises(UserInputError, match=r"this WaveNet: .*NaN or infinite"):
        sample(SampleRequest(broken.model, None, 3, torch.arange(1)))


def test_an_unknown_voice_lists_the_nearest() -> None:
    coded = VQ.encode(speech(100))
    with pytest.raises(UserInputError, match=r"speaker 'jakson'.*did you mean jackson"):
        VQ.decode(coded, "jakson")
    with pytest.raises(UserInputError, match="expected one of george, jackson, lucas, theo"):
        VQ.decode(coded, "zzz")
    with pytest.raises(UserInputError, match="speaker: not given"):
        VQ.decode(coded)


@pytest.mark.parametrize(
    "wave",
    [
        np.zeros(0, np.float32),
        np.zeros(800, np.float32),
        np.array([0.1, np.nan, 0.2], np.float32),
        np.full(50, np.inf),
    ],
    ids=["empty", "silent", "nan", "infinite"],
)
def test_what_is_no_recording_is_named(wave: np.ndarray) -> None:
    with pytest.raises(UserInputError, match=r"the recording is (empty or not finite|silent)"):
        VQ.encode(wave)


@pytest.mark.parametrize(
    "wave", [np.full(800, 0.25, np.float32), np.array([0.3], np.float32)], ids=["dc", "one sample"]
)
def test_a_recording_without_sound_is_named(wave: np.ndarray) -> None:
    with pytest.raises(UserInputError, match=r"the recording is (empty or not finite|silent)"):
        VQ.encode(wave)


def test_too_short_a_recording_for_the_models_rate_is_named() -> None:
    with pytest.raises(UserInputError):
        VQ.encode(speech(2), 96_000)


def test_codes_of_no_frames_are_no_sound() -> None:
    nothing = replace(VQ.encode(speech(100)), codes=torch.zeros(1, 0, dtype=torch.int64), samples=0)
    assert VQ.decode(nothing, "theo").shape == (0,)
    beside = VQ.decode_many([nothing, VQ.encode(speech(40))], ["theo", "theo"])
    assert [len(wave) for wave in beside] == [0, 40]


def test_over_the_disk(tmp_path: Path) -> None:
    """Save model and codes, load both: the same audio."""
    coded = VQ.encode(speech(100), speaker="theo")
    save_trained(tmp_path / "run" / "model", VQ.model, VQ.card)
    save_codes(tmp_path / "a.vqw", coded)
    loaded: CodeSequence = load_codes(tmp_path / "a.vqw")
    again = SpeechModel.load(tmp_path / "run")
    assert again.speakers == LABELS["speaker"]
    assert torch.equal(
        again.decode(loaded, sampling=Sampling(seed=7)), VQ.decode(coded, sampling=Sampling(seed=7))
    )


def babbler(*labels: str, features: LogMelSpec | None = None) -> SpeechModel:
    torch.manual_seed(0)
    conditioner = ConditionerSpec(channels=4, categorical=labels)
    return codec(
        WaveNetSpec(head=Gaussian(), network=SIZES, conditioner=conditioner, features=features)
    )


def test_babble() -> None:
    it = babbler("speaker")
    first, second = it.generate(
        0.01, labels={"speaker": "theo"}, count=2, sampling=Sampling(seed=5)
    )
    assert first.shape == second.shape == (80,)
    assert not torch.equal(first, second)
    (alone,) = it.generate(0.01, labels={"speaker": "theo"}, sampling=Sampling(seed=5))
    torch.testing.assert_close(alone, first, rtol=0, atol=1e-6)
    assert babbler().generate(0.01)[0].shape == (80,)
    for seconds in (0.0, -1.0, float("nan")):
        with pytest.raises(UserInputError, match="above 0"):
            it.generate(seconds, labels={"speaker": "theo"})


def test_seed_temperature_and_speaker_stand_for_sampling_and_labels() -> None:
    """Wherever samples are drawn, and wherever labels condition the decoder."""
    slow = Sampling(backend="reference")
    long = {"sampling": replace(slow, seed=5, temperature=0.5), "labels": {"speaker": "theo"}}
    short = {"sampling": slow, "seed": 5, "temperature": 0.5, "speaker": "theo"}
    it, wave = babbler("speaker"), speech(60)
    assert torch.equal(it.generate(0.01, **short)[0], it.generate(0.01, **long)[0])
    assert not torch.equal(
        it.generate(0.01, **{**short, "seed": 6})[0], it.generate(0.01, **long)[0]
    )
    assert it.log_likelihood(wave, speaker="theo") == it.log_likelihood(wave, labels=long["labels"])
    vocoder = babbler(
        "speaker", features=LogMelSpec(bands=6, window_ms=8.0, hop_ms=2.0, fmin=200.0, fmax=4000.0)
    )
    assert torch.equal(vocoder.reconstruct(wave, **short), vocoder.reconstruct(wave, **long))
    coded = VQ.encode(wave)
    expected = VQ.decode(coded, "theo", sampling=long["sampling"])
    assert torch.equal(VQ.decode(coded, **short), expected)
    assert torch.equal(VQ.convert(wave, **short), expected)
    (one,) = VQ.decode_many([coded], ["theo"], sampling=slow, seed=5, temperature=0.5)
    assert torch.equal(one, expected)
    with pytest.raises(UserInputError, match="has one voice"):
        babbler().generate(0.01, speaker="theo")


def test_a_vocoder_copies_a_recording() -> None:
    it = babbler(
        "speaker", features=LogMelSpec(bands=6, window_ms=8.0, hop_ms=2.0, fmin=200.0, fmax=4000.0)
    )
    assert it.reconstruct(speech(101), labels={"speaker": "theo"}).shape == (101,)
    with pytest.raises(UserInputError, match="vocoder"):
        it.generate(0.01, labels={"speaker": "theo"})


def test_what_a_model_cannot_do_is_named() -> None:
    with pytest.raises(UserInputError, match="without codes"):
        babbler("speaker").encode(speech(100))
    with pytest.raises(UserInputError, match="decodes codes"):
        VQ.generate(1.0)
    with pytest.raises(UserInputError, match="front end"):
        VQ.reconstruct(speech(100))


def test_a_mu_law_teacher_decodes_too() -> None:
    it = teacher(MuLaw())
    assert it.decode(it.encode(speech(70)), "theo").shape == (70,)


def test_conditions_join_with_their_last_column_held() -> None:
    short, long = (Condition(torch.randn(1, 3, F), 4) for F in (2, 5))
    joined = join([short, long])
    assert torch.equal(
        joined.features[0],
        torch.cat([short.features[0], short.features[0, :, -1:].expand(3, 3)], 1),
    )
    assert torch.equal(joined.features[1], long.features[0])
    assert join([None, None]) is None


def test_a_wrong_name_is_answered_with_voices_that_were_trained() -> None:
    """`speech` has labels for all speakers of its codes, its decoder was trained on eleven."""
    model = SpeechModel.load("speech")
    coded = model.encode(np.random.default_rng(0).standard_normal(1600).astype(np.float32))
    with pytest.raises(UserInputError, match="'anna': not among the 11 of this model") as error:
        model.decode(coded, speaker="anna")
    offered = re.findall(r"\d+", str(error.value).partition("one of")[2])
    assert set(offered) <= set(model.card.trained("speaker"))
    assert len(offered) > 5
