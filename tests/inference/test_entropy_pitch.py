"""Two streams entropy-coded with one prior: without loss, and at its cross-entropy."""

from __future__ import annotations

import math
import zlib
from dataclasses import replace

import pytest
import torch

from vqwave.codes import CodeSequence, Header, PitchCodes, from_bytes, seal, to_bytes
from vqwave.codes.file_format import header_of
from vqwave.data.voices import UNVOICED, VoicePitch
from vqwave.errors import UserInputError
from vqwave.inference.code_prior import CodePrior
from vqwave.models.prior import CodeNetwork, CodeStream
from vqwave.models.symbols import PitchBooks, SymbolOrder
from vqwave.nn.condition import ConditionerSpec
from vqwave.nn.wavenet import Stack, StackSpec

VOICES = {"ann": VoicePitch(0.5, 0.25), "bob": VoicePitch(0.0, 0.125)}


@pytest.fixture(autouse=True)
def _constriction() -> None:
    pytest.importorskip("constriction")


def prior(order: SymbolOrder, *, seed: int = 0) -> CodePrior:
    """A prior of random weights that is sure of what it gives: few bits a code."""
    torch.manual_seed(seed)
    spec = StackSpec(
        layers=4,
        dilation_cycle=4,
        residual_channels=12,
        gate_channels=12,
        skip_channels=12,
        hidden_channels=16,
    )
    stack = Stack(spec, order.outputs, 6)
    conditioner = ConditionerSpec(channels=6).build(0, 1, {"speaker": [*VOICES, "untold"]})
    embed = torch.nn.Embedding(sum(order.sizes) + len(order.sizes), 12)
    place = torch.nn.Embedding(order.slots, 12)
    stack.out.weight.data.mul_(12)
    network = CodeNetwork(embed, place, stack, conditioner, pitch=order.pitch, label_dropout=0.1)
    return CodePrior(network.exact(), {"speaker": [*VOICES]}, "c0dec", 8000, 160, voices=VOICES)


def coded(order: SymbolOrder, frames: int, speaker: str | None = None) -> CodeSequence:
    generator, pitch = torch.Generator().manual_seed(frames), order.pitch
    codes = torch.randint(order.size, (order.books, frames), generator=generator)
    slow = (pitch.books, -(-frames // pitch.ratio))
    melody = torch.randint(pitch.size, slow, generator=generator)
    pitch_codes = PitchCodes(melody, 160 * pitch.ratio, pitch.size, 0.5, 0.2)
    return CodeSequence(codes, 8000, 160, 160 * frames, order.size, "c0dec", speaker, pitch_codes)


ORDER = SymbolOrder(1, 40, PitchBooks(1, 20, 4))


@pytest.mark.parametrize("frames", [0, 1, 4, 13])
@pytest.mark.parametrize(
    "order",
    [ORDER, SymbolOrder(2, 9, PitchBooks(2, 30, 3)), SymbolOrder(1, 2, PitchBooks(1, 1, 1))],
)
def test_round_trip_of_codes_that_the_prior_did_not_expect(order: SymbolOrder, frames: int) -> None:
    it, coder = coded(order, frames), prior(order)
    back = from_bytes(to_bytes(it, coder), "x.vqw", coder)
    assert torch.equal(back.codes, it.codes)
    assert torch.equal(back.pitch.codes, it.pitch.codes)
    assert Header.of(back) == Header.of(it)


def test_the_size_is_the_cross_entropy_of_both_streams() -> None:
    coder = prior(ORDER)
    it = coder.draw(4.0, labels={"speaker": "bob"}, seed=1)[0]
    header = header_of(to_bytes(it, coder), "x")
    content, melody = coder.stream_bits(it)
    assert content > 0
    assert melody > 0
    assert coder.bits(it) == content + melody
    assert content + melody <= 8 * header.payload + 1e-6
    assert 8 * header.payload <= 1.02 * (content + melody) + 64
    assert 8 * header.payload < 0.9 * header.packed_bits
    flat = replace(it, pitch=replace(it.pitch, codes=1 - it.pitch.codes.clamp(max=1)))
    assert coder.stream_bits(flat)[0] != content, "the content is coded given the melody"


def test_a_last_pitch_code_that_covers_few_frames_costs_no_more() -> None:
    """Bits are of the frames that there are: symbol by symbol, as the coder reads them."""
    coder, it = prior(ORDER), coded(ORDER, 13)
    stream, last, bits = CodeStream(coder.network, {}, ends=False), torch.tensor([ORDER.end]), []
    for symbol in ORDER.flat(it.codes, it.pitch.codes)[:, None]:
        bits.append(-stream.next(last)[0, symbol].item() / math.log(2))
        last = symbol
    melody = sum(bits[place] for place in range(0, len(bits), ORDER.slots))
    assert coder.stream_bits(it) == pytest.approx((sum(bits) - melody, melody), abs=1e-6)


def test_draws_are_codes_of_the_speaker_s_range() -> None:
    coder = prior(ORDER)
    for speaker, voice in (("ann", VOICES["ann"]), (None, VoicePitch(0.25, 0.1875))):
        for it in coder.draw(labels={"speaker": speaker}, count=3, longest=0.3):
            assert it.speaker == speaker
            assert (it.pitch.mean, it.pitch.deviation) == (voice.mean, voice.deviation)
            assert (it.pitch.hop, it.pitch.size) == (640, 20)
            assert it.samples == 160 * it.codes.shape[1]
            assert torch.equal(from_bytes(to_bytes(it, coder), "x", coder).codes, it.codes)
    nobody = replace(coder, voices={}).draw(0.1)[0].pitch
    assert nobody.mean == pytest.approx(UNVOICED.mean, abs=1e-7)


def test_a_draw_that_misses_its_end_is_cut_after_the_longest_utterance_of_its_labels() -> None:
    coder = replace(prior(ORDER), longest={"speaker": {"ann": 0.2, "bob": 0.4}})
    for speaker, seconds in (("ann", 0.2), ("bob", 0.4), (None, 0.4)):
        drawn = coder.draw(labels={"speaker": speaker}, count=12)
        assert max(it.samples for it in drawn) == seconds * coder.sample_rate
    assert max(it.samples for it in coder.draw(count=12, longest=0.1)) == 0.1 * coder.sample_rate


def test_codes_of_another_kind_are_refused() -> None:
    coder, it = prior(ORDER), coded(ORDER, 13)
    with pytest.raises(
        UserInputError,
        match=r"^no pitch codes, the prior is for 1 books of 20 pitch codes, one for 4 frames$",
    ):
        to_bytes(replace(it, pitch=None), coder)
    with pytest.raises(
        UserInputError,
        match=r"^1 books of 20 pitch codes, one for 4 frames, the prior is for no pitch codes$",
    ):
        to_bytes(it, prior(SymbolOrder(1, 40)))
    other = SymbolOrder(1, 40, PitchBooks(1, 20, 2))
    with pytest.raises(
        UserInputError, match=r"one for 4 frames, the prior is for .* one for 2 frames"
    ):
        to_bytes(it, prior(other))
    with pytest.raises(
        UserInputError, match=f"with prior {coder.fingerprint}, expected that prior"
    ):
        from_bytes(to_bytes(it, coder), "x")
    assert prior(other).fingerprint != coder.fingerprint


def test_damage_is_refused_in_a_line() -> None:
    coder, it = prior(ORDER), coded(ORDER, 13)
    data = to_bytes(it, coder)
    for place in range(0, len(data), 3):
        damaged = data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :]
        with pytest.raises(UserInputError, match=r"^x\.vqw: [^\n]+$"):
            from_bytes(damaged, "x.vqw", coder)
    header = header_of(data, "x")
    for payload in (b"", b"\xff" * 12, b"\x12\x34" * 9):
        with pytest.raises(
            UserInputError, match=r"^x: its (codes do not match|bytes are no codes)"
        ):
            from_bytes(seal(header, payload), "x", coder)
    wrong = replace(header, check=zlib.crc32(b"else"))
    with pytest.raises(UserInputError, match=r"^x: its codes do not match their checksum"):
        from_bytes(seal(wrong, coder.encode(it)), "x", coder)
