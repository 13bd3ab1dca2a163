"""WaveNet: strictly causal, its receptive field exact, streamed logits equal to parallel ones for
every head and condition.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vqwave.distributions import (
    Distribution,
    Gaussian,
    Head,
    LinearBins,
    Logistic,
    MixtureOfGaussians,
    MixtureOfLogistics,
    MuLaw,
)
from vqwave.features import LogMelSpec
from vqwave.models import WaveNet, WaveNetSpec
from vqwave.models.wavenet import Projected, WaveNetState
from vqwave.nn.condition import ConditionerSpec
from vqwave.nn.wavenet import StackSpec

F64 = torch.float64
VOCABULARY = {"speaker": ["a", "b", "c"], "gender": ["f", "m"]}
LABELS = {"speaker": torch.tensor([0, 2]), "gender": torch.tensor([1, 0])}
HEADS = [
    MuLaw(),
    MuLaw(classes=11),
    LinearBins(classes=32),
    MixtureOfLogistics(components=3),
    MixtureOfGaussians(components=2),
    Gaussian(),
    Logistic(),
]
# labels, learned upsampling, frames a hop of samples (hop 0: none)
CONDITIONERS = {
    "nothing": ((), (), 0),
    "labels": (("speaker", "gender"), (), 0),
    "frames": ((), (), 6),
    "labels and frames": (("speaker",), (), 6),
    "upsampled frames": (("speaker",), (2,), 6),
    "fully upsampled frames": ((), (3, 2), 6),
}


def build(
    head: Head, kernel: int = 2, conditions: str = "labels and frames", reach: int = 3, **sizes: int
) -> WaveNet:
    torch.manual_seed(0)
    labels, upsample, hop = CONDITIONERS[conditions]
    spec = WaveNetSpec(
        head=head,
        network=StackSpec(
            **{
                "layers": 4,
                "dilation_cycle": 2,
                "kernel_size": kernel,
                "residual_channels": 6,
                "gate_channels": 5,
                "skip_channels": 8,
                "hidden_channels": 16,
            }
            | sizes
        ),
        conditioner=ConditionerSpec(
            channels=4, categorical=labels, upsample=upsample, kernel_size=reach
        ),
    )
    return spec.build(8000, VOCABULARY, 3 if hop else 0, hop or 1).double()


def wave(T: int, B: int = 2) -> Tensor:
    x = 0.3 * torch.randn(B, T, dtype=F64, generator=torch.Generator().manual_seed(1))
    return ((x.clamp(-0.99, 0.99) * 32768).round() / 32768).requires_grad_()


def frames(wavenet: WaveNet, F: int) -> Tensor | None:
    return (
        torch.randn(2, 3, F, dtype=F64, generator=torch.Generator().manual_seed(2))
        if wavenet.conditioner.frames
        else None
    )


def parameters_of(distribution: Distribution) -> Tensor:
    """All parameters of all samples, (B, C, T)."""
    parts = [
        getattr(distribution, name)
        for name in ("logits", "location", "log_scale")
        if hasattr(distribution, name)
    ]
    return torch.cat(parts, 1)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("kernel", [2, 3])
@pytest.mark.parametrize("conditions", CONDITIONERS)
def test_cached_steps_give_the_parallel_logits(head: Head, kernel: int, conditions: str) -> None:
    """In float64 to 1e-9, one sample a step and in chunks, also past the last frame."""
    wavenet = build(head, kernel, conditions)
    T = 21
    x, condition = wave(T), wavenet.condition(frames(wavenet, 3), LABELS)
    with torch.no_grad():
        whole = parameters_of(wavenet.predict(x, condition))
        projected, before = (
            wavenet.project(condition),
            torch.cat([torch.zeros(2, 1, dtype=F64), x[:, :-1]], 1),
        )
        for chunks in ([1] * T, [4, 1, 9, 7]):
            state, start, parts = WaveNetState(), 0, []
            for count in chunks:
                parts.append(
                    parameters_of(wavenet.step(before[:, start : start + count], projected, state))
                )
                start += count
            torch.testing.assert_close(torch.cat(parts, -1), whole, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kernel", [2, 3])
@pytest.mark.parametrize(("layers", "cycle"), [(3, 3), (6, 3), (4, 2)])
def test_a_prediction_depends_on_exactly_its_receptive_field(
    kernel: int, layers: int, cycle: int
) -> None:
    """x_t's distribution depends on all of x_{t-R} to x_{t-1}, and neither on x_t nor on anything
    earlier.
    """
    wavenet = build(Gaussian(), kernel, "nothing", layers=layers, dilation_cycle=cycle)
    R = 1 + (kernel - 1) * sum(2 ** (i % cycle) for i in range(layers))
    assert wavenet.receptive_field == R
    T = R + 5
    x = wave(T, 4)
    out = parameters_of(wavenet.predict(x, None))
    rows = [
        torch.autograd.grad(out[..., t].abs().sum(), x, retain_graph=True)[0].abs().sum(0) > 0
        for t in range(T)
    ]
    distance = torch.arange(T)[:, None] - torch.arange(T)
    assert torch.equal(torch.stack(rows), (distance >= 1) & (distance <= R))


@pytest.mark.parametrize("head", [MuLaw(), LinearBins(classes=32)])
def test_class_inputs_are_as_strictly_causal(head: Head) -> None:
    wavenet = build(head, 3, "nothing", layers=2)
    R, T, at = wavenet.receptive_field, 24, 6
    x = wave(T).detach()
    y = x.clone()
    y[:, at] = -y[:, at] + 0.5
    changed = (
        parameters_of(wavenet.predict(x, None)) - parameters_of(wavenet.predict(y, None))
    ).abs().sum((0, 1)) > 0
    assert changed.nonzero().flatten().tolist() == list(range(at + 1, at + 1 + R))


def test_the_first_sample_is_predicted_from_silence() -> None:
    wavenet = build(MuLaw(), conditions="nothing")
    first = parameters_of(wavenet.predict(wave(5), None))[..., 0]
    stepped = parameters_of(
        wavenet.step(torch.zeros(2, 1, dtype=F64), wavenet.project(None), WaveNetState())
    )[..., 0]
    torch.testing.assert_close(first, stepped)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("conditions", ["nothing", "labels", "upsampled frames"])
def test_gradient_reaches_every_parameter(head: Head, conditions: str) -> None:
    wavenet = build(head, conditions=conditions)
    x = wave(48)
    condition = wavenet.condition(frames(wavenet, 8), LABELS)
    wavenet.predict(x, condition).log_prob(x.detach()).sum().backward()
    assert [
        name
        for name, p in wavenet.named_parameters()
        if p.grad is None or not p.grad.abs().max() > 0
    ] == []


def test_a_frame_counts_from_its_first_sample_on() -> None:
    """With a conditioner of one tap, frame 2 of hop 6 begins to matter at sample 12.

    It ends to matter one sample before the receptive field does: the condition enters behind the
    first convolution.
    """
    wavenet = build(Gaussian(), 2, "frames", reach=1, layers=3, dilation_cycle=3)
    given, x = frames(wavenet, 6), wave(36)
    other = given.clone()
    other[..., 2] += 1.0
    conditions = [parameters_of(wavenet(x, {}, f)) for f in (given, other)]
    changed = (conditions[0] - conditions[1]).abs().sum((0, 1)) > 0
    assert changed.nonzero().flatten().tolist() == list(
        range(12, 12 + 6 + wavenet.receptive_field - 2)
    )


def test_labels_condition_their_own_item_alone() -> None:
    wavenet, x = build(Gaussian(), conditions="labels"), wave(10)
    plain = parameters_of(wavenet(x, LABELS))
    for name in LABELS:
        other = LABELS | {name: torch.stack([LABELS[name][0], 1 - LABELS[name][1].clamp(max=1)])}
        difference = (parameters_of(wavenet(x, other)) - plain).abs().sum((1, 2))
        assert difference[0] == 0 < difference[1]


def test_a_vocoder_is_conditioned_on_the_frames_of_its_own_wave() -> None:
    torch.manual_seed(0)
    features = LogMelSpec(bands=6, window_ms=8.0, hop_ms=1.0, fmin=200.0, fmax=4000.0)
    spec = WaveNetSpec(
        head=Gaussian(),
        network=StackSpec(
            layers=2,
            dilation_cycle=2,
            residual_channels=4,
            gate_channels=4,
            skip_channels=4,
            hidden_channels=8,
        ),
        conditioner=ConditionerSpec(channels=3, categorical=()),
        features=features,
    )
    vocoder = spec.build(8000, {}).double()
    assert vocoder.hop == 8
    x = wave(64)
    given = vocoder.condition(vocoder.frontend(x), {})
    torch.testing.assert_close(
        parameters_of(vocoder(x, {})), parameters_of(vocoder.predict(x, given))
    )
    assert given.samples().shape == (2, 3, 64)


@pytest.mark.parametrize("components", [1, 3])
def test_a_unit_of_locations_changes_the_step_and_not_the_law(components: int) -> None:
    """Weights of the location's rows divided by the unit: the same distribution, in one pass and
    step by step.
    """
    plain, scaled = (
        build(
            MixtureOfLogistics(components=components, location_scale=unit), conditions="nothing"
        ).double()
        for unit in (1.0, 0.25)
    )
    scaled.load_state_dict(plain.state_dict())
    with torch.no_grad():
        rows = scaled.units[:, 0]
        scaled.stack.out.weight /= rows[:, None, None]
        scaled.stack.out.bias /= rows
    assert 0.25 in rows
    x = wave(40)
    torch.testing.assert_close(parameters_of(scaled(x, {})), parameters_of(plain(x, {})))
    state, other = WaveNetState(), WaveNetState()
    nothing = Projected(None)
    torch.testing.assert_close(
        scaled.parameters_after(x, nothing, state), plain.parameters_after(x, nothing, other)
    )
    for mine, theirs in zip(scaled.last_layer(), plain.last_layer(), strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("head", HEADS)
def test_an_untrained_network_starts_near_its_heads_start(head: Head) -> None:
    """No head starts with a cost far from what its own initial bias costs on speech-like
    samples.
    """
    wavenet, x = (
        build(head, conditions="nothing", residual_channels=32, gate_channels=32, skip_channels=32),
        0.2 * wave(200).detach(),
    )
    start = head(head.initial_bias().double().view(1, -1, 1).expand(2, -1, 200)).log_prob(x).mean()
    assert abs(wavenet(x, {}).log_prob(x).mean() - start) < 1.0


def test_likelihoods_stay_in_float32_under_autocast() -> None:
    wavenet = build(MixtureOfLogistics(components=3)).float()
    with torch.autocast("cpu", torch.bfloat16):
        distribution = wavenet(wave(12).float(), LABELS, frames(wavenet, 2).float())
    assert distribution.log_prob(wave(12).float()).dtype == torch.float32
