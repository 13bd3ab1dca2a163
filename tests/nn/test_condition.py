"""The conditioner: any labels, any frames, held exactly where they belong."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from vqwave.errors import UserInputError
from vqwave.nn.condition import Condition, Conditioner, ConditionerSpec

F64 = torch.float64
VOCABULARY = {"speaker": ["a", "b", "c"], "gender": ["f", "m"]}


def build(frames: int, hop: int, **settings: object) -> Conditioner:
    torch.manual_seed(0)
    return (
        ConditionerSpec(**{"channels": 6, "categorical": ()} | settings)
        .build(frames, hop, VOCABULARY)
        .double()
    )


def frames(F: int, seed: int = 0) -> Tensor:
    return torch.randn(2, 4, F, dtype=F64, generator=torch.Generator().manual_seed(seed))


LABELS = {"speaker": torch.tensor([0, 2]), "gender": torch.tensor([1, 0])}


def test_nothing_to_hear() -> None:
    conditioner = build(0, 1)
    assert conditioner.channels == 0
    assert conditioner(None, {}) is None


def test_labels_alone_add_up() -> None:
    conditioner = build(0, 1, categorical=("speaker", "gender"))
    condition = conditioner(None, LABELS)
    speaker, gender = (
        conditioner.embeddings["speaker"].weight,
        conditioner.embeddings["gender"].weight,
    )
    torch.testing.assert_close(condition.features[..., 0], speaker[[0, 2]] + gender[[1, 0]])
    assert condition.features.shape == (2, 6, 1)


def test_labels_shift_the_frames_by_a_constant() -> None:
    conditioner = build(4, 5, categorical=("speaker",))
    total, local = conditioner(frames(7), LABELS), conditioner.frames(frames(7))
    expected = conditioner.embeddings["speaker"].weight[[0, 2]][..., None].expand(2, 6, 7)
    torch.testing.assert_close(total.features - local, expected)


def test_upsampling_without_frames_is_nothing() -> None:
    conditioner = build(0, 1, categorical=("speaker",), upsample=(2, 2))
    assert conditioner.hold == 1
    assert conditioner(None, LABELS).samples().shape == (2, 6, 1)


@pytest.mark.parametrize(
    ("hop", "upsample"),
    [(6, ()), (6, (2,)), (6, (3,)), (6, (2, 3)), (15, (3, 5)), (15, (5,)), (1, ())],
)
def test_a_frame_is_hop_samples(hop: int, upsample: tuple[int, ...]) -> None:
    conditioner = build(4, hop, upsample=upsample)
    condition = conditioner(frames(7), {})
    assert condition.repeat == hop // math.prod(upsample)
    assert condition.samples().shape == (2, 6, 7 * hop)


def heard_by(conditioner: Conditioner, frame: int, F: int = 9) -> list[int]:
    """The samples that change when a frame changes."""
    x = frames(F)
    y = x.clone()
    y[..., frame] += 1.0
    changed = (conditioner(x, {}).samples() - conditioner(y, {}).samples()).abs().sum((0, 1)) > 0
    return changed.nonzero().flatten().tolist()


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_a_held_frame_reaches_its_samples_and_its_neighbours(kernel: int) -> None:
    reach, hop = kernel // 2, 6
    assert heard_by(build(4, hop, kernel_size=kernel), 4) == list(
        range((4 - reach) * hop, (5 + reach) * hop)
    )


@pytest.mark.parametrize(("hop", "stride"), [(4, 4), (2, 2), (8, 4), (3, 3), (15, 5)])
def test_learned_upsampling_is_centred(hop: int, stride: int) -> None:
    """The response to a frame lies around its own samples: exactly for even strides, half a step
    off for odd ones.
    """
    hold = hop // stride
    samples = heard_by(build(4, hop, kernel_size=1, upsample=(stride,)), 4)
    assert len(samples) == 2 * hop
    assert samples == list(range(samples[0], samples[0] + 2 * hop))
    middle, own = (samples[0] + samples[-1]) / 2, 4 * hop + (hop - 1) / 2
    assert abs(middle - own) == (0.5 * hold if stride % 2 else 0)


def test_two_upsamplings_are_centred() -> None:
    samples = heard_by(build(4, 8, kernel_size=1, upsample=(2, 4)), 4)
    assert (samples[0] + samples[-1]) / 2 == 4 * 8 + 3.5


def test_gradient_reaches_every_parameter() -> None:
    conditioner = build(4, 6, categorical=("speaker", "gender"), upsample=(2, 3))
    conditioner(frames(5), LABELS).features.square().sum().backward()
    assert [
        name
        for name, p in conditioner.named_parameters()
        if p.grad is None or not p.grad.abs().max() > 0
    ] == []


@pytest.mark.parametrize(
    ("start", "T"), [(0, 20), (0, 12), (4, 8), (3, 9), (17, 1), (18, 9), (200, 3)]
)
@pytest.mark.parametrize("columns", [1, 5, 7])
def test_add_to_adds_what_holds_at_each_sample(start: int, T: int, columns: int) -> None:
    """Whole frames, parts of frames, past the end (the last column holds): one law."""
    condition = Condition(torch.randn(2, 3, columns, dtype=F64), 4)
    a = torch.randn(2, 3, T, dtype=F64)
    at = [min((start + t) // 4, columns - 1) for t in range(T)]
    torch.testing.assert_close(condition.add_to(a, start), a + condition.features[..., at])


def test_projecting_columns_is_projecting_samples() -> None:
    torch.manual_seed(0)
    layer = nn.Conv1d(3, 8, 1, bias=False).double()
    condition = Condition(torch.randn(2, 3, 5, dtype=F64), 4)
    torch.testing.assert_close(condition.project(layer).samples(), layer(condition.samples()))
    torch.testing.assert_close(
        condition.project(layer).channels(2, 3).samples(), layer(condition.samples())[:, 2:5]
    )


def test_bad_settings_are_named() -> None:
    with pytest.raises(UserInputError, match=r"conditioner\.upsample.*12.*hop 10"):
        build(4, 10, upsample=(3, 4))
    with pytest.raises(UserInputError, match=r"'dialect'.*speaker, gender"):
        build(0, 1, categorical=("dialect",))
