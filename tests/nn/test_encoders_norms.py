"""Normalisation that padding cannot reach, van Niekerk's encoder, and the adversary's reversed
gradient.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from vqwave.errors import UserInputError
from vqwave.nn.auxiliary.adversarial_classifier import (
    AdversarialClassifier,
    AdversarialClassifierSpec,
    ReverseGradient,
)
from vqwave.nn.encoders import (
    BatchNormEncoderSpec,
    EncoderSpec,
    FrameEncoderSpec,
    InstanceNorm,
    MaskedBatchNorm,
    WaveformEncoderSpec,
)

F64 = torch.float64
COUNTS = (7, 4, 0, 9)
MASK = torch.arange(9) < torch.tensor(COUNTS)[:, None]


def latents(seed: int = 0) -> Tensor:
    return (
        3
        + torch.randn(4, 5, 9, dtype=F64, generator=torch.Generator().manual_seed(seed))
        * torch.arange(1, 6)[:, None]
    )


def joined(x: Tensor) -> Tensor:
    """The valid frames alone, as one clip (1, C, N)."""
    return torch.cat([row[:, :count] for row, count in zip(x, COUNTS, strict=True)], 1)[None]


def test_batch_norm_is_the_usual_one_on_the_valid_frames() -> None:
    """Values, gradients, running statistics and evaluation, whatever stands in the padding."""
    ours, usual = MaskedBatchNorm(5).double().train(), nn.BatchNorm1d(5).double().train()
    for seed in range(3):
        x = latents(seed).requires_grad_()
        y, expected = joined(ours(torch.where(MASK[:, None], x, 1e3), MASK)), usual(joined(x))
        torch.testing.assert_close(y, expected)
        weight = torch.randn(1, 5, sum(COUNTS), dtype=F64)
        torch.testing.assert_close(
            *(torch.autograd.grad((out * weight).sum(), x)[0] for out in (y, expected))
        )
    torch.testing.assert_close(ours.mean, usual.running_mean)
    torch.testing.assert_close(ours.variance, usual.running_var)
    torch.testing.assert_close(joined(ours.eval()(x, None)), usual.eval()(joined(x)))


def test_batch_norm_far_from_zero_is_that_of_float64() -> None:
    """Values and running statistics: mean(x^2) - mean(x)^2 would have no digit left."""
    x = latents().float() + 1e4
    ours, exact = MaskedBatchNorm(5).train(), MaskedBatchNorm(5).double().train()
    for _ in range(2):
        torch.testing.assert_close(
            joined(ours(x, MASK)).double(), joined(exact(x.double(), MASK)), rtol=1e-2, atol=1e-2
        )
    torch.testing.assert_close(ours.variance.double(), exact.variance, rtol=1e-2, atol=0)
    torch.testing.assert_close(
        ours.eval()(x).double(), exact.eval()(x.double()), rtol=1e-2, atol=1e-2
    )


def test_a_wholly_masked_batch_changes_no_statistics() -> None:
    norm = MaskedBatchNorm(5).double().train()
    norm(latents(), torch.zeros_like(MASK))
    assert torch.equal(norm.mean, torch.zeros(5, dtype=F64))
    assert torch.equal(norm.variance, torch.ones(5, dtype=F64))


def test_evaluation_leaves_the_statistics() -> None:
    norm = MaskedBatchNorm(5).double().eval()
    norm(latents(), MASK)
    assert torch.equal(norm.mean, torch.zeros(5, dtype=F64))


def test_instance_norm_is_the_usual_one_on_each_utterances_valid_frames() -> None:
    x = latents()
    found = InstanceNorm()(x, MASK)
    for row, y, count in zip(x, found, COUNTS, strict=True):
        if count:
            usual = nn.functional.instance_norm(row[None, :, :count])[0]
            torch.testing.assert_close(y[:, :count], usual)


def test_instance_norm_forgets_gain_and_offset_of_each_channel() -> None:
    """What is constant in time about a voice."""
    x, gain, offset = latents(), torch.rand(4, 5, 1, dtype=F64) + 1, torch.randn(4, 5, 1, dtype=F64)
    torch.testing.assert_close(
        InstanceNorm()(gain * x + offset), InstanceNorm()(x), rtol=1e-4, atol=1e-4
    )


ENCODERS = [
    BatchNormEncoderSpec(channels=6, latent_dim=4),
    BatchNormEncoderSpec(channels=6, latent_dim=4, instance_norm=True),
    FrameEncoderSpec(channels=6, latent_dim=4, instance_norm=True),
    WaveformEncoderSpec(strides=(4, 4, 10), channels=6, latent_dim=4, instance_norm=True),
]


@pytest.mark.parametrize("spec", ENCODERS)
def test_shape_gradient_and_hop(spec: EncoderSpec) -> None:
    torch.manual_seed(0)
    encoder = spec.build(8000).train()
    x = 0.1 * torch.randn(2, 12 * encoder.hop)
    z = encoder(x, torch.tensor([12 * encoder.hop, 7 * encoder.hop]))
    assert z.shape == (2, 4, 12)
    (z[0].square().sum() + z[1, :, :7].square().sum()).backward()
    assert [
        name
        for name, p in encoder.named_parameters()
        if p.grad is None or not p.grad.abs().max() > 0
    ] == []


@pytest.mark.parametrize("spec", ENCODERS)
def test_padding_of_a_neighbour_is_not_in_the_statistics(spec: EncoderSpec) -> None:
    """The latents of an utterance do not depend on how much padding follows; where it is counted as
    speech, they do.
    """
    torch.manual_seed(0)
    encoder = spec.build(8000).double().eval()
    frames, hop = 16, encoder.hop
    x = 0.1 * torch.randn(1, frames * hop, dtype=F64)

    def latents_with(padding: int, valid: int) -> Tensor:
        return encoder(torch.nn.functional.pad(x, (0, padding * hop)), torch.tensor([valid * hop]))[
            ..., :frames
        ]

    torch.testing.assert_close(
        latents_with(10, frames), latents_with(25, frames), rtol=0, atol=1e-9
    )
    if spec.instance_norm:
        assert (latents_with(10, frames) - latents_with(10, frames + 10)).abs().max() > 1e-2


def test_the_gradient_is_reversed_and_nothing_else() -> None:
    x = torch.randn(3, dtype=F64, requires_grad=True)
    y = ReverseGradient.apply(x)
    assert torch.equal(y, x)
    assert torch.equal(
        torch.autograd.grad((y * torch.arange(3)).sum(), x)[0], -torch.arange(3, dtype=F64)
    )


def adversary() -> AdversarialClassifier:
    torch.manual_seed(0)
    return AdversarialClassifierSpec(channels=8).build(5, {"speaker": ["a", "b", "c"]}).double()


def test_the_classifier_learns_while_the_latents_unlearn() -> None:
    """A step along -gradient lowers the loss for the classifier and raises it for the latents."""
    judge, z, labels = (
        adversary(),
        latents().requires_grad_(),
        {"speaker": torch.tensor([0, 1, 2, 0])},
    )
    loss = judge(z, labels).loss
    on_z, *on_weights = torch.autograd.grad(loss, [z, *judge.parameters()])
    with torch.no_grad():
        assert judge(z - 1e-3 * on_z, labels).loss > loss
        for parameter, gradient in zip(judge.parameters(), on_weights, strict=True):
            parameter -= 1e-4 * gradient
        assert judge(z, labels).loss < loss


def test_the_classifier_hears_no_padding() -> None:
    judge, labels, mask = adversary(), {"speaker": torch.tensor([0, 1, 2, 0])}, MASK.clone()
    x = latents()
    a, b = (judge(z, labels, mask).loss for z in (x, torch.where(mask[:, None], x, 7.0)))
    torch.testing.assert_close(a, b)
    with pytest.raises(UserInputError, match=r"adversarial_classifier\.label"):
        AdversarialClassifierSpec(label="accent").build(5, {"speaker": ["a"]})
