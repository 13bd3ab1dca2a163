"""Decoding as a stream: the bits of the whole, however the codes are cut; bounded; copied, saved,
gone on with.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from vqwave.codes import CodeSequence
from vqwave.decode.batching import DecodeRequest, decode_each
from vqwave.decode.sampling import Sampling
from vqwave.decode.streaming.conditions import CodeConditions, Reach, code_condition
from vqwave.decode.streaming.stream import Stream, StreamState
from vqwave.distributions import Gaussian, MixtureOfLogistics, MuLaw
from vqwave.errors import UserInputError
from vqwave.inference.model_folder import ModelCard
from vqwave.inference.speech_model import SpeechModel
from vqwave.models import StudentSpec, VQVAESpec, WaveNetSpec
from vqwave.nn.condition import ConditionDropoutSpec, ConditionerSpec
from vqwave.nn.encoders import WaveformEncoderSpec
from vqwave.nn.quantize import EMAQuantizerSpec, HierarchicalQuantizerSpec, ResidualQuantizerSpec
from vqwave.nn.wavenet import ContextSpec, StackSpec

LABELS = {"speaker": ["george", "lucas", "theo"]}
RATE, FRAMES = 8000, 9
SIZES = StackSpec(
    layers=4,
    dilation_cycle=3,
    residual_channels=8,
    gate_channels=8,
    skip_channels=8,
    hidden_channels=12,
)
FAST = importlib.util.find_spec("numba") is not None
NUMBA = pytest.mark.skipif(not FAST, reason="numba is not installed")


def codec(
    decoder: WaveNetSpec | StudentSpec,
    *,
    strides: tuple[int, ...] = (4, 4),
    quantizer: object = EMAQuantizerSpec(codebook_size=16),
    double: bool = False,
    **conditioner: object,
) -> SpeechModel:
    torch.manual_seed(0)
    decoder = replace(decoder, conditioner=ConditionerSpec(channels=6, **conditioner))
    spec = VQVAESpec(
        encoder=WaveformEncoderSpec(strides=strides, channels=8, latent_dim=4),
        quantizer=quantizer,
        decoder=decoder,
    )
    model = spec.build(RATE, LABELS).eval()
    for name, parameter in model.named_parameters():
        if "projection" in name:
            parameter.data.mul_(4.0)
    card = ModelCard(sample_rate=RATE, labels=LABELS, spec=spec, about={"corpus": "x"})
    return SpeechModel(model.double() if double else model, card)


def codes_for(it: SpeechModel, frames: int = FRAMES, seed: int = 1) -> Tensor:
    quantizer, generator = it.model.quantizer, torch.Generator().manual_seed(seed)
    return torch.randint(
        quantizer.codebook_size, (quantizer.num_codebooks, frames), generator=generator
    )


def coded(it: SpeechModel, codes: Tensor, samples: int) -> CodeSequence:
    return CodeSequence(
        codes, RATE, it.model.hop, samples, it.model.quantizer.codebook_size, it.fingerprint, "theo"
    )


def played(
    stream: Stream, codes: Tensor, cuts: list[int], samples: int | None = None
) -> np.ndarray:
    """What comes out where the codes are cut so; that it is never later than it says."""
    parts, pushed, sent = [], 0, 0
    for piece in codes.split(cuts, 1):
        parts.append(stream.push(piece))
        pushed, sent = pushed + piece.shape[1] * stream.model.hop, sent + len(parts[-1])
        assert pushed - sent <= stream.latency
    return np.concatenate([*parts, stream.flush(samples)])


CUTS = {"each": [1] * FRAMES, "some": [2, 0, 4, 3]}
WAVENETS = {
    "mixture": WaveNetSpec(head=MixtureOfLogistics(components=2), network=SIZES),
    "mu_law": WaveNetSpec(head=MuLaw(), network=replace(SIZES, kernel_size=3, skip_channels=0)),
    "context": WaveNetSpec(
        head=Gaussian(), network=replace(SIZES, context=ContextSpec(stride=8, layers=2))
    ),
}
STUDENTS = {
    "plain": StudentSpec(flows=(2, 3), network=replace(SIZES, skip_channels=0)),
    "staggered": StudentSpec(
        flows=(2, 3),
        network=replace(SIZES, skip_channels=0),
        squeeze=4,
        stagger_blocks=True,
        base="gaussian",
    ),
    "maf": StudentSpec(
        flows=(2,), network=replace(SIZES, skip_channels=0), squeeze=2, flow_type="maf"
    ),
}
CONDITIONERS = {
    "held": {},
    "upsampled": {"kernel_size": 5, "upsample": (2, 2)},
    "alone": {"kernel_size": 1},
}


def assert_streams(it: SpeechModel, backend: str, samples: int) -> None:
    """Whole and in every way of cutting: the same bits."""
    sampling, codes = Sampling(seed=3, backend=backend, temperature=0.9), codes_for(it)
    whole = it.decode(coded(it, codes, samples), sampling=sampling).numpy()
    assert whole.shape == (samples,)
    assert np.std(whole) > 0
    for cuts in CUTS.values():
        stream = it.stream("theo", sampling=sampling)
        assert np.array_equal(played(stream, codes, cuts, samples), whole), (
            f"{cuts} {stream.engine.name}"
        )


@pytest.mark.parametrize("voice", CONDITIONERS.values(), ids=CONDITIONERS)
@pytest.mark.parametrize("decoder", WAVENETS.values(), ids=WAVENETS)
def test_the_reference_streams_the_bits_of_the_whole(decoder: WaveNetSpec, voice: dict) -> None:
    assert_streams(codec(decoder, **voice), "reference", FRAMES * 16 - 5)


@pytest.mark.parametrize("decoder", STUDENTS.values(), ids=STUDENTS)
@pytest.mark.parametrize("voice", CONDITIONERS.values(), ids=CONDITIONERS)
def test_a_student_streams_the_bits_of_the_whole(decoder: StudentSpec, voice: dict) -> None:
    assert_streams(codec(decoder, **voice), "reference", FRAMES * 16 - 5)


def test_a_student_of_long_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks of a student's pass."""
    monkeypatch.setattr("vqwave.decode.reference.BLOCK_OF_STUDENT", 40)
    assert_streams(codec(STUDENTS["staggered"]), "reference", FRAMES * 16 - 5)
    assert_streams(codec(STUDENTS["staggered"], double=True), "reference", FRAMES * 16 - 5)


@NUMBA
@pytest.mark.parametrize("voice", CONDITIONERS.values(), ids=CONDITIONERS)
@pytest.mark.parametrize(
    "decoder", [WAVENETS["mixture"], WAVENETS["mu_law"], *list(STUDENTS.values())[:2]]
)
def test_numba_streams_the_bits_of_the_whole(
    decoder: WaveNetSpec | StudentSpec, voice: dict
) -> None:
    assert_streams(codec(decoder, **voice), "numba", FRAMES * 16 - 5)


@pytest.mark.parametrize(
    "quantizer", [HierarchicalQuantizerSpec(downsample=4), ResidualQuantizerSpec(num_quantizers=2)]
)
def test_codes_of_several_books(quantizer: object) -> None:
    it = codec(WAVENETS["mixture"], quantizer=quantizer)
    assert_streams(it, "reference", FRAMES * 16)
    codes, voice = codes_for(it), {"speaker": torch.tensor([2])}
    whole, mine = (
        it.model.condition(codes[None], voice),
        code_condition(it.model, codes, voice)[0],
    )
    torch.testing.assert_close(mine.features, whole.features, rtol=0, atol=1e-5)


def test_guidance_and_top_p_stream_too() -> None:
    it = codec(WAVENETS["mu_law"], dropout=ConditionDropoutSpec(all=0.1))
    it.decoder.conditioner.dropout.nothing["frames"].data.normal_()
    sampling, codes = Sampling(seed=1, top_p=0.8, guidance=2.0), codes_for(it)
    whole = it.decode(coded(it, codes, 16 * FRAMES), sampling=sampling).numpy()
    assert np.array_equal(played(it.stream("theo", sampling=sampling), codes, CUTS["some"]), whole)


def test_a_stream_refuses_the_settings_that_decode_refuses() -> None:
    """And a folder of utterances, of which each may be the next in a slot."""
    continuous, student = codec(WAVENETS["mixture"]), codec(STUDENTS["staggered"])
    for it, settings, said in (
        (continuous, {"top_p": 0.5}, "top_p: this model has a mixture_of_logistics head"),
        (continuous, {"precision": "bf8"}, "precision"),
        (student, {"guidance": 2.0}, "a student has none of them"),
    ):
        sampling = Sampling(**settings)
        task = it.task(coded(it, codes_for(it), 16 * FRAMES), "theo")
        for decode in (
            lambda it=it, sampling=sampling: it.stream("theo", sampling=sampling),
            lambda it=it, s=sampling, task=task: list(it.decode_each([(0, task)], s)),
        ):
            with pytest.raises(UserInputError, match=said):
                decode()


def test_a_stream_of_numbers_of_numpy_is_saved(tmp_path: Path) -> None:
    it = codec(WAVENETS["mixture"])
    given = Sampling(seed=np.int64(3), temperature=np.float32(0.5), backend="reference")
    assert given == Sampling(seed=3, temperature=0.5, backend="reference")
    it.stream("theo", sampling=given).save(tmp_path / "a.safetensors")
    for settings in ({"seed": 1.5}, {"seed": "1"}, {"temperature": "1"}, {"top_p": 0.0}):
        with pytest.raises(UserInputError, match=next(iter(settings))):
            Sampling(**settings)


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("upsample", [(), (4,), (2, 3), (3, 2, 4)])
def test_the_reach_of_a_conditioner(kernel: int, upsample: tuple[int, ...]) -> None:
    """What a frame's columns hear is exactly what it says, and made alone they are those of the
    whole, in float64.
    """
    it = codec(
        WAVENETS["mixture"], strides=(4, 6), kernel_size=kernel, upsample=upsample, double=True
    )
    model, voice = it.model, {"speaker": torch.tensor([1])}
    z = torch.randn(1, 4, 15, dtype=torch.float64, requires_grad=True)
    columns = model.hop // model.decoder.conditioner.hold
    model.decoder.condition(model.decoder_features(z, voice), voice).features[
        ..., 7 * columns : 8 * columns
    ].sum().backward()
    used = z.grad.abs().sum((0, 1)).nonzero().flatten()
    reach = Reach.of(model)
    assert (reach.before, reach.after) == (7 - int(used[0]), int(used[-1]) - 7)
    codes = codes_for(it, 15)
    with torch.inference_mode():
        whole, mine = (
            model.condition(codes[None], voice),
            code_condition(model, codes, voice)[0],
        )
    torch.testing.assert_close(mine.features, whole.features, rtol=0, atol=1e-13)


def test_what_is_kept_of_codes_does_not_grow() -> None:
    it = codec(WAVENETS["mixture"], kernel_size=5, upsample=(4,))
    conditions = CodeConditions(it.model, it.given.attributes({"speaker": "theo"}))
    kept = {
        conditions.pending.z.shape[-1]
        for codes in codes_for(it, 300).split(1, 1)
        if conditions.push(codes) is not None
    }
    assert max(kept) <= conditions.reach.before + conditions.reach.after + 1


ENGINES = [
    ("mixture", "reference"),
    ("context", "reference"),
    ("staggered", "reference"),
    pytest.param("mixture", "numba", marks=NUMBA),
    pytest.param("staggered", "numba", marks=NUMBA),
]


@pytest.mark.parametrize(("name", "backend"), ENGINES)
def test_a_stream_is_copied_saved_and_gone_on_with(name: str, backend: str, tmp_path: Path) -> None:
    it = codec((WAVENETS | STUDENTS)[name])
    codes, sampling = codes_for(it), Sampling(seed=5, backend=backend)
    whole = played(it.stream("theo", sampling=sampling), codes, [FRAMES])
    for at in (1, 5):
        stream = it.stream("theo", sampling=sampling)
        start, rest = stream.push(codes[:, :at]), codes[:, at:]
        branch, twin = stream.copy(seed=6), stream.copy()
        stream.save(tmp_path / "a.safetensors")
        assert np.array_equal(np.concatenate([start, played(stream, rest, [FRAMES - at])]), whole)
        resumed = it.resume_stream(tmp_path / "a.safetensors")
        for other in (twin, resumed):
            other.push(rest[:, :2])
            state = other.state()
            assert state.header["counts"]["pushed"] == at + 2
            again = it.resume_stream(state)
            assert np.array_equal(
                whole[again.sent :], np.concatenate([again.push(rest[:, 2:]), again.flush()])
            )
        other = np.concatenate([start, played(branch, rest, [FRAMES - at])])
        assert np.array_equal(other[: len(start)], whole[: len(start)])
        assert not np.array_equal(other, whole)
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_what_cannot_be_gone_on_with_is_named(tmp_path: Path) -> None:
    it, other = codec(WAVENETS["mixture"]), codec(WAVENETS["mu_law"])
    stream = it.stream("theo", sampling=Sampling(backend="reference"))
    with pytest.raises(UserInputError, match="of model"):
        other.resume_stream(stream.state())
    (tmp_path / "text").write_text("hello")
    for path in (tmp_path / "text", tmp_path / "none"):
        with pytest.raises(UserInputError, match=str(path)):
            it.resume_stream(path)
    state = stream.state()
    StreamState({**state.header, "format": 9}, state.arrays).save(tmp_path / "new")
    with pytest.raises(UserInputError, match="format 9, expected 1"):
        it.resume_stream(tmp_path / "new")


def test_what_is_no_code_is_named() -> None:
    stream = codec(WAVENETS["mixture"]).stream("theo")
    for wrong in (
        torch.zeros(2, 3, dtype=torch.int64),
        torch.zeros(1, 3),
        torch.tensor([[16]]),
        torch.tensor([[-1]]),
    ):
        with pytest.raises(UserInputError, match="push: "):
            stream.push(wrong)
    sent = len(stream.push(np.zeros((1, 3), np.int16)))
    for samples in (32, 49, -1):
        with pytest.raises(UserInputError, match=f"{samples} samples in 3 frames of 16"):
            stream.flush(samples)
    assert sent + len(stream.flush(33)) == 33
    with pytest.raises(UserInputError, match="is over"):
        stream.push(np.zeros((1, 1), np.int64))
    with pytest.raises(UserInputError, match="is over"):
        stream.flush()
    with pytest.raises(UserInputError, match="did you mean theo"):
        codec(WAVENETS["mixture"]).stream("thea")


def test_a_stream_says_what_it_is() -> None:
    assert (
        repr(codec(WAVENETS["context"]).stream("theo"))
        == "Stream(reference, 0.00 s sent, latency 2 ms)"
    )


def test_no_codes_no_sound() -> None:
    stream = codec(WAVENETS["mixture"]).stream("theo")
    assert len(stream.push(torch.zeros(1, 0, dtype=torch.int64))) == 0
    assert len(stream.flush(0)) == 0


@NUMBA
def test_the_slots_of_a_tile_do_not_show() -> None:
    """Unequal lengths, more utterances than slots, any order: each comes out as alone, and as a
    stream gives it.
    """
    it, sampling = codec(WAVENETS["mixture"]), Sampling(seed=3, backend="numba")
    lengths = [5, 40, 1, 23, 60, 8, 31]
    items = [coded(it, codes_for(it, frames, frames), frames * 16 - 3) for frames in lengths]
    alone = [it.decode(item, sampling=sampling) for item in items]
    for order, slots in ((range(7), 3), ([6, 2, 4, 1, 0, 5, 3], 2), (range(7), 50), ([3], 4)):
        counted: list[int] = []
        tasks = ((i, it.task(items[i], None)) for i in order)
        done = dict(decode_each(it.decoder, tasks, sampling, slots=slots, progress=counted.append))
        assert sorted(done) == sorted(order)
        assert all(torch.equal(done[i], alone[i]) for i in order)
        assert sum(counted) == sum(items[i].samples for i in order)
    stream = it.stream("theo", sampling=sampling)
    assert np.array_equal(
        played(stream, items[3].codes, [2, 21], items[3].samples), alone[3].numpy()
    )


@NUMBA
def test_a_tile_is_refilled_before_it_runs_empty() -> None:
    """At no time are fewer slots in use than there are utterances left, or slots."""
    it, taken = codec(WAVENETS["mixture"]), []

    def tasks() -> Iterator[tuple[int, DecodeRequest]]:
        for i, frames in enumerate([90, 20, 20, 20, 20]):
            taken.append(i)
            yield i, it.task(coded(it, codes_for(it, frames), frames * 16), None)

    done = [key for key, _ in decode_each(it.decoder, tasks(), Sampling(backend="numba"), slots=2)]
    # the long one keeps its slot while four others pass through the other
    assert done == [1, 2, 3, 4, 0]


def test_without_kernels_utterances_come_one_after_another() -> None:
    it, sampling = codec(STUDENTS["plain"]), Sampling(backend="reference")
    items = [coded(it, codes_for(it, frames), frames * 16) for frames in (3, 5)]
    done = list(
        it.decode_each(((i, it.task(item, None)) for i, item in enumerate(items)), sampling)
    )
    assert [key for key, _ in done] == [0, 1]
    assert all(
        torch.equal(wave, it.decode(item, sampling=sampling))
        for (_, wave), item in zip(done, items, strict=True)
    )
    with pytest.raises(UserInputError, match="temperature"):
        list(it.decode_each([(0, it.task(items[0], None))], replace(sampling, temperature=-1.0)))


OWN = {"choice": 0.9, "scale": 0.5, "voiced": 0.5}


def with_card(it: SpeechModel, temperature: dict[str, float]) -> SpeechModel:
    return SpeechModel(
        it.model, replace(it.card, about=it.card.about | {"temperature": temperature})
    )


def test_what_is_not_given_is_the_cards() -> None:
    plain = codec(WAVENETS["mixture"])
    it, item = with_card(plain, OWN), coded(plain, codes_for(plain), FRAMES * 16)
    given = Sampling(2, 0.9, backend="reference", scale_temperature=0.5, voiced_temperature=0.5)
    expected, own = plain.decode(item, sampling=given), Sampling(2, backend="reference")
    assert torch.equal(it.decode(item, sampling=own), expected)
    streamed = played(it.stream("theo", sampling=own), item.codes, CUTS["some"])
    assert np.array_equal(streamed, expected.numpy())
    done = dict(it.decode_each([(0, it.task(item, None))], own))
    assert torch.equal(done[0], expected)
    for same in (replace(own, temperature=1.0), replace(own, temperature=0.7)):
        assert torch.equal(it.decode(item, sampling=same), plain.decode(item, sampling=same))
    assert not torch.equal(plain.decode(item, sampling=own), expected)


def test_a_saved_stream_keeps_its_temperatures(tmp_path: Path) -> None:
    """Those it began with, whatever the card says by now; a state of a single one, as it was once
    written, too.
    """
    plain = codec(WAVENETS["mixture"])
    it, codes = with_card(plain, OWN), codes_for(plain)
    stream = it.stream("theo", sampling=Sampling(seed=2, backend="reference"))
    stream.push(codes[:, :4])
    stream.save(tmp_path / "state")
    rest = played(stream, codes[:, 4:], [5])
    assert np.array_equal(played(plain.resume_stream(tmp_path / "state"), codes[:, 4:], [5]), rest)

    sampling = {
        "seed": 2,
        "top_p": 1.0,
        "guidance": 1.0,
        "backend": "reference",
        "precision": "float32",
    }
    for temperature in (0.9, 1.0):
        stream = plain.stream("theo", sampling=Sampling(**sampling, temperature=temperature))
        stream.push(codes[:, :4])
        state = stream.state()
        old = StreamState(
            {**state.header, "sampling": sampling | {"temperature": temperature}}, state.arrays
        )
        rest = played(stream, codes[:, 4:], [5])
        assert np.array_equal(played(it.resume_stream(old), codes[:, 4:], [5]), rest)
