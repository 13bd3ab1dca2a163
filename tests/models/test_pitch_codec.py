"""The pitch codec: normalisation by voice, codes of a contour whole, in chunks and in batches, what
flat codes decode to.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vqwave.models import PitchCodec, PitchCodecSpec, denormalise, normalise
from vqwave.models.pitch import PitchReconstruction
from vqwave.nn.quantize import EMAQuantizerSpec, Quantized, ResidualQuantizerSpec

MEAN, DEVIATION = torch.tensor([0.1, 0.8]).double(), torch.tensor([0.3, 0.2]).double()


def pitch(B: int = 2, frames: int = 120, seed: int = 0) -> Tensor:
    """v ln(F0 / 100 Hz) and v, (B, 2, F) float64, of random melodies with pauses."""
    generator = torch.Generator().manual_seed(seed)
    slow = torch.randn(B, frames // 10 + 2, generator=generator, dtype=torch.float64)
    smooth = torch.nn.functional.interpolate(slow[:, None], frames, mode="linear")[:, 0]
    voiced = (torch.rand(B, frames // 5 + 1, generator=generator) < 0.6).repeat_interleave(5, 1)
    v = voiced[:, :frames].double()
    return torch.stack([v * (0.4 + 0.2 * smooth), v], 1)


def codec(ratio: int = 8, **quantizer: int) -> PitchCodec:
    """In float64, its codes among the latents of melodies."""
    torch.manual_seed(0)
    books = (
        EMAQuantizerSpec(codebook_size=16) if not quantizer else ResidualQuantizerSpec(**quantizer)
    )
    model = (
        PitchCodecSpec(downsample=ratio, channels=8, latent_dim=4, quantizer=books)
        .build(16000, {})
        .double()
    )
    model.train()(normalise(pitch(8), 0.4, 0.2))
    return model.eval()


def test_a_voice_s_normalisation_inverts() -> None:
    """Bit by bit in voicing, to rounding in F0; voices of a batch each by their own numbers."""
    melody = pitch()
    contour = normalise(melody, MEAN, DEVIATION)
    voiced = melody[:, 1] > 0
    torch.testing.assert_close(contour[1, 0][voiced[1]], (melody[1, 0][voiced[1]] - 0.8) / 0.2)
    torch.testing.assert_close(denormalise(contour, MEAN, DEVIATION), melody, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        denormalise(normalise(melody[0], 0.1, 0.3), 0.1, 0.3), melody[0], rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("semitones", [-5.0, 0.5, 12.0])
def test_k_semitones_move_the_median_f0_by_k(semitones: float) -> None:
    contour = normalise(pitch(), MEAN, DEVIATION)
    plain, moved = (denormalise(contour, MEAN, DEVIATION, k) for k in (0.0, semitones))
    assert torch.equal(plain[:, 1], moved[:, 1])
    voiced = plain[:, 1] > 0
    medians = [100 * x[:, 0][voiced].exp().median() for x in (plain, moved)]
    assert 12 * math.log2(medians[1] / medians[0]) == pytest.approx(semitones)
    assert not moved[:, 0][~voiced].any()


def test_unvoiced_frames_carry_nothing() -> None:
    """Whatever stands where F0 is not: neither the contour nor its codes know of it."""
    melody, model = pitch(), codec()
    other = melody.clone()
    other[:, 0] += 7.0 * (melody[:, 1] == 0)
    contour, same = normalise(melody, MEAN, DEVIATION), normalise(other, MEAN, DEVIATION)
    assert torch.equal(contour, same)
    assert not contour[:, 0][melody[:, 1] == 0].any()
    assert torch.equal(model.encode(contour), model.encode(same))


@pytest.mark.parametrize("ratio", [1, 8, 10])
def test_a_code_depends_on_its_context_and_no_more(ratio: int) -> None:
    """By its gradient, which reaches each end of the context."""
    model = codec(ratio)
    contour = normalise(pitch(1, 40 * ratio), 0.4, 0.2).requires_grad_()
    model.encoder(contour, torch.tensor([40 * ratio]))[..., 20].sum().backward()
    reached = contour.grad.abs().sum((0, 1)).nonzero().flatten() - 20 * ratio
    before, after = model.context
    assert -before <= int(reached[0]) <= -before + 2
    assert ratio - 1 + after - 2 <= int(reached[-1]) <= ratio - 1 + after
    assert model.receptive_field == (before + ratio + after) * 160


@pytest.mark.parametrize("ratio", [8, 10])
def test_chunks_have_the_codes_of_the_whole(ratio: int) -> None:
    """Windows with their context, at the start, within and at the end; latents to rounding."""
    model, frames = codec(ratio), 30 * ratio + 3
    contour = normalise(pitch(1, frames), 0.4, 0.2)
    whole, codes = model._latents(contour, None), model.encode(contour)
    before, after = (-(-side // ratio) for side in model.context)
    for first in range(0, 31, 5):
        low, high = max(0, first - before), min(frames, (first + 5 + after) * ratio)
        window = contour[..., low * ratio : high]
        latents = model._latents(window, None)[..., first - low :][..., :5]
        torch.testing.assert_close(latents, whole[..., first : first + 5], rtol=0, atol=1e-12)
        assert torch.equal(
            model.encode(window)[..., first - low :][..., :5], codes[..., first : first + 5]
        )


def test_a_batch_has_the_codes_of_each_alone() -> None:
    """And in training the same losses, whatever the padding is."""
    model, lengths = codec(), torch.tensor([120, 61])
    contour = normalise(pitch(), MEAN, DEVIATION)
    codes = model.encode(contour, lengths)
    alone = model.encode(contour[1:, :, :61])
    assert codes.shape == (2, 1, 15)
    assert torch.equal(codes[1, :, :8], alone[0])
    other = contour.clone()
    other[1, :, 61:] = 3.0
    mask = torch.arange(120) < lengths[:, None]
    losses = [model(x, lengths).losses(x, mask) for x in (contour, other)]
    for name, value in losses[0].items():
        torch.testing.assert_close(losses[1][name], value, rtol=0, atol=1e-12)


def test_decoding_is_what_training_sees() -> None:
    for model in (codec(), codec(num_quantizers=2, quantizer=EMAQuantizerSpec(codebook_size=4))):
        contour = normalise(pitch(), MEAN, DEVIATION)
        codes = model.encode(contour)
        assert codes.shape == (2, model.books, 15)
        decoded, seen = model.decode(codes), model(contour).decoded
        torch.testing.assert_close(decoded[:, 0], seen[:, 0], rtol=0, atol=1e-12)
        torch.testing.assert_close(decoded[:, 1], seen[:, 1].sigmoid(), rtol=0, atol=1e-12)
    assert (model.ratio, model.size, model.books, model.bits_per_frame) == (8, 4, 2, 4.0)


def test_flattened_codes_give_a_flat_contour() -> None:
    """A code that stays the same is a melody that stays the same, away from the ends; other codes
    make one that moves.
    """
    model = codec()
    codes = model.encode(normalise(pitch(1), 0.4, 0.2))
    flat = model.decode(codes[..., :1].expand(-1, -1, 20))[..., 40:-40]
    torch.testing.assert_close(flat, flat[..., :1].expand_as(flat), rtol=0, atol=1e-12)
    assert codes.unique().numel() > 3
    assert model.decode(codes)[:, 0].std() > 1e-3


def test_losses_are_over_what_is_voiced_and_real() -> None:
    """By hand: two frames are voiced and real, three are real."""
    contour = torch.tensor([[[1.0, 0.0, 2.0, 5.0], [1.0, 0.0, 1.0, 1.0]]])
    decoded = torch.tensor([[[0.5, 9.0, 4.0, 0.0], [2.0, -1.0, 0.0, 0.0]]])
    mask = torch.tensor([[True, True, True, False]])
    quantized = Quantized(torch.zeros(1), torch.zeros(1), {"commitment": torch.tensor(3.0)}, {})
    losses = PitchReconstruction(decoded, quantized).losses(contour, mask)
    assert losses["contour"] == pytest.approx((0.25 + 4.0) / 2)
    logistic = [math.log1p(math.exp(-x)) for x in (2.0, 1.0, 0.0)]
    assert float(losses["voicing"]) == pytest.approx(sum(logistic) / 3, rel=1e-6)
    assert float(losses["commitment"]) == 3.0


def test_a_gradient_reaches_every_parameter() -> None:
    model = codec().train()
    contour = normalise(pitch(), MEAN, DEVIATION)
    sum(model(contour).losses(contour, torch.ones(2, 120, dtype=torch.bool)).values()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
