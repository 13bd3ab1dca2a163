"""One suite for all quantizers: what holds whatever the variant.

PITFALLS 4 to 10 and 12, on each of them.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from vqwave.config import build, spec, to_tree
from vqwave.nn.quantize import AnyQuantizerSpec, FSQuantizer, Projected, Quantizer

D, K = 6, 16
CASES: dict[str, dict[str, Any]] = {
    "ema": {"kind": "ema", "codebook_size": K},
    "ema cosine": {"kind": "ema", "codebook_size": K, "l2_normalize": True},
    "ema rotation": {"kind": "ema", "codebook_size": K, "gradient_estimator": "rotation"},
    "ema entropy": {"kind": "ema", "codebook_size": K, "entropy": {}},
    "ema projected": {"kind": "ema", "codebook_size": K, "codebook_dim": 3},
    "gradient": {"kind": "gradient", "codebook_size": K},
    "gradient cosine": {
        "kind": "gradient",
        "codebook_size": K,
        "l2_normalize": True,
        "lr_scale": 10.0,
    },
    "gradient projected, rotation": {
        "kind": "gradient",
        "codebook_size": K,
        "codebook_dim": 2,
        "gradient_estimator": "rotation",
    },
    "fsq": {"kind": "fsq", "levels": [4, 2, 2]},
    "fsq, all dimensions": {"kind": "fsq", "levels": [3, 2, 2, 4, 5, 2]},
    "product": {"kind": "product", "groups": 3, "quantizer": {"kind": "ema", "codebook_size": K}},
    "product of fsq": {
        "kind": "product",
        "groups": 2,
        "quantizer": {"kind": "fsq", "levels": [4, 4]},
    },
    "product of residual": {
        "kind": "product",
        "groups": 2,
        "quantizer": {"kind": "residual", "quantizer": {"kind": "ema", "codebook_size": K}},
    },
    "residual": {
        "kind": "residual",
        "num_quantizers": 3,
        "quantizer": {"kind": "ema", "codebook_size": K},
    },
    "residual dropout": {
        "kind": "residual",
        "num_quantizers": 3,
        "quantizer_dropout": 0.7,
        "quantizer": {"kind": "ema", "codebook_size": K},
    },
    "residual gradient": {
        "kind": "residual",
        "num_quantizers": 2,
        "quantizer": {"kind": "gradient", "codebook_size": K},
    },
    "residual projected": {
        "kind": "residual",
        "num_quantizers": 2,
        "quantizer": {
            "kind": "ema",
            "codebook_size": K,
            "codebook_dim": 4,
            "gradient_estimator": "rotation",
        },
    },
    "two-level": {
        "kind": "hierarchical",
        "top": {"kind": "ema", "codebook_size": K},
        "bottom": {"kind": "ema", "codebook_size": K},
    },
    "two-level, mixed": {
        "kind": "hierarchical",
        "downsample": 5,
        "top": {"kind": "residual", "quantizer": {"kind": "gradient", "codebook_size": K}},
        "bottom": {"kind": "ema", "codebook_size": K, "gradient_estimator": "rotation"},
    },
}
everyone = pytest.mark.parametrize("case", CASES)


@spec
class Holder:
    """As a model holds its quantizer."""

    quantizer: AnyQuantizerSpec


def innermost(tree: dict[str, Any]) -> list[dict[str, Any]]:
    """The specs of single books."""
    parts = [tree[name] for name in ("quantizer", "top", "bottom") if name in tree]
    return [book for part in parts for book in innermost(part)] if parts else [tree]


def quantizer(case: str, **settings: Any) -> Quantizer:  # noqa: ANN401 - any setting of the innermost spec
    tree = deepcopy(CASES[case])
    for inner in innermost(tree):
        if inner["kind"] != "fsq":
            inner |= settings
    torch.manual_seed(0)
    return build(Holder, {"quantizer": tree}).quantizer.build(D)


def latents(step: int = 0, B: int = 5, F: int = 24) -> Tensor:
    generator = torch.Generator().manual_seed(100 + step)
    places = 2.0 * torch.randn(12, D, generator=torch.Generator().manual_seed(7))
    z = places[torch.randint(12, (B, F), generator=generator)] + 0.3 * torch.randn(
        B, F, D, generator=generator
    )
    return z.transpose(1, 2).contiguous()


def trained(case: str, steps: int = 3, **settings: Any) -> Quantizer:  # noqa: ANN401
    vq = quantizer(case, **settings)
    for step in range(steps):
        vq(latents(step))
    return vq.eval()


def state(vq: torch.nn.Module) -> dict[str, Tensor]:
    return deepcopy(vq.state_dict())


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@everyone
def test_frames_alone_are_those_of_the_whole_where_a_quantizer_says_so(case: str) -> None:
    vq = trained(case)
    if not vq.framewise:
        assert vq.downsample > 1 or any(isinstance(part, Projected) for part in vq.modules())
        return
    codes = vq.encode(latents(9))
    alone = [vq.decode(frame) for frame in codes.split(1, -1)]
    assert torch.equal(torch.cat(alone, -1), vq.decode(codes))


@everyone
def test_forward_encode_and_decode_agree_bit_for_bit(case: str) -> None:
    vq, z = trained(case), latents(9)
    out = vq(z)
    assert out.z.shape == z.shape
    assert out.codes.shape == (5, vq.num_codebooks, 24)
    assert out.codes.dtype == torch.int64
    assert 0 <= out.codes.min() <= out.codes.max() < vq.codebook_size
    assert torch.equal(out.codes, vq.encode(z))
    assert torch.equal(out.z, vq.decode(out.codes))
    assert (out.z - z).square().mean() < 1.2 * z.square().mean()


@everyone
def test_its_spec_survives_a_file(case: str) -> None:
    config = build(Holder, {"quantizer": CASES[case]})
    assert build(Holder, to_tree(config)) == config


@pytest.mark.parametrize("case", [case for case in CASES if "two-level" not in case])
def test_bits_per_frame(case: str) -> None:
    vq = quantizer(case)
    assert 2**vq.bits_per_frame == pytest.approx(float(vq.codebook_size) ** vq.num_codebooks)


def every_code(vq: Quantizer) -> Tensor:
    """All combinations of a code in each book where they are few, else 2,000 of them: (1, Q, N)."""
    if vq.codebook_size**vq.num_codebooks <= 5000:
        return (
            torch.cartesian_prod(*[torch.arange(vq.codebook_size)] * vq.num_codebooks)
            .view(-1, vq.num_codebooks)
            .t()[None]
        )
    return torch.randint(
        vq.codebook_size, (1, vq.num_codebooks, 2000), generator=torch.Generator().manual_seed(0)
    )


@pytest.mark.parametrize(
    "case",
    [case for case in CASES if not any(kind in case for kind in ("residual", "fsq", "two-level"))],
)
def test_encode_inverts_decode_on_every_code(case: str) -> None:
    """Random codes are far apart; the code of a code vector is itself, also through a
    projection.
    """
    vq = quantizer(case).eval()
    codes = every_code(vq)
    assert torch.equal(vq.encode(vq.decode(codes)), codes)


def test_encode_inverts_decode_of_residual_stages_that_shrink() -> None:
    vq = quantizer("residual").eval()
    for depth, stage in enumerate(vq.stages):
        stage.codebook.sums *= 0.02**depth
    codes = every_code(vq)
    assert torch.equal(vq.encode(vq.decode(codes)), codes)


@pytest.mark.parametrize("case", [case for case in CASES if "fsq" in case])
def test_fsq_encode_inverts_decode(case: str) -> None:
    """The latents in the middle of each code's cell are those that the bound takes to its
    levels.
    """
    vq = quantizer(case).eval()
    codes = every_code(vq)
    q = vq.decode(codes)
    assert torch.equal(vq.encode(middles(vq, q)), codes)
    assert len(q[0].t().unique(dim=0)) == codes.shape[-1]


def middles(vq: Quantizer, q: Tensor) -> Tensor:
    """FSQ's decoded latents -> latents that the bound takes to the same levels."""
    if isinstance(vq, FSQuantizer):
        L = vq.levels[:, None].double()
        h, o = (L - 1) * (1 + 1e-3) / 2, 0.5 * (1 - L % 2)
        many = torch.atanh((q.double() * (L // 2) + o) / h) - torch.atanh(o / h)
        return torch.where(L > 2, many, q.double()).float()  # two levels are the signs
    if isinstance(vq, Projected):
        return vq.directions @ middles(vq.inner, vq.directions.t() @ q)
    groups = list(vq.groups)
    return torch.cat(
        [middles(group, part) for group, part in zip(groups, q.chunk(len(groups), 1), strict=True)],
        1,
    )


@everyone
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_codes_do_not_depend_on_autocast(case: str, dtype: torch.dtype) -> None:
    """Pitfall 5: in training and in evaluation; bfloat16 latents are searched in float32 as they
    are.
    """
    plain, cast = quantizer(case), quantizer(case)
    for step in range(3):
        z = latents(step).to(dtype)
        torch.manual_seed(step)
        expected = plain(z.float())
        with torch.autocast("cpu", torch.bfloat16):
            torch.manual_seed(step)
            out = cast(z)
            assert torch.equal(cast.encode(z), plain.encode(z.float()))
            assert torch.equal(cast.decode(out.codes), plain.decode(out.codes))
        assert torch.equal(out.codes, expected.codes)
        assert torch.equal(out.z, expected.z)
        assert out.z.dtype == torch.float32
        assert equal(out.losses, expected.losses)
        assert equal(state(plain), state(cast))


@everyone
def test_evaluation_changes_nothing(case: str) -> None:
    """Pitfall 10, before and after the start."""
    for vq in (
        quantizer(case, dead_code_threshold=0.9, kmeans_after_steps=2).eval(),
        trained(case, dead_code_threshold=0.9),
    ):
        before = state(vq)
        vq(latents(9))
        assert equal(state(vq), before)


def total(vq: Quantizer, z: Tensor) -> Tensor:
    out = vq(z)
    return out.z.sum() + sum(out.losses.values())


@everyone
def test_a_checkpointed_forward_learns_once(case: str) -> None:
    """Pitfall 10: activation checkpointing runs the forward again in the backward pass."""
    plain, twice = (
        quantizer(case, kmeans_after_steps=1, dead_code_threshold=0.3) for _ in range(2)
    )
    for step in range(4):
        torch.manual_seed(step)
        plain(latents(step))
        torch.manual_seed(step)
        z = latents(step).requires_grad_()
        with set_checkpoint_early_stop(False):
            checkpoint(total, twice, z, use_reentrant=False).backward()
        assert equal(state(plain), state(twice))


# k-means on few vectors
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
@everyone
def test_padding_enters_nothing(case: str) -> None:
    """Pitfall 9: start, averages, restarts, losses, gradients, metrics are the same whatever the
    padding holds.
    """
    first, second = (
        quantizer(case, dead_code_threshold=0.7),
        quantizer(case, dead_code_threshold=0.7),
    )
    for step in range(4):
        mask = torch.arange(24) < torch.tensor([[24], [9], [step], [20], [0]])
        z = latents(step).requires_grad_()
        spoilt = torch.where(
            mask[:, None], z.detach(), 1e3 * torch.randn(5, D, 24)
        ).requires_grad_()
        outs = []
        for vq, x in ((first, z), (second, spoilt)):
            torch.manual_seed(step)
            outs.append(vq(x, mask))
            total = (outs[-1].z * mask[:, None]).square().sum() + sum(outs[-1].losses.values())
            total.backward()
        assert equal(state(first), state(second))
        assert equal(outs[0].losses | outs[0].metrics, outs[1].losses | outs[1].metrics)
        kept = mask[:, None].expand(5, first.num_codebooks, 24)
        assert torch.equal(outs[0].codes[kept], outs[1].codes[kept])
        torch.testing.assert_close(
            z.grad * mask[:, None], spoilt.grad * mask[:, None], rtol=1e-5, atol=1e-6
        )
        assert not z.grad[~mask[:, None].expand_as(z)].any()


@everyone
def test_a_wholly_masked_batch_is_harmless(case: str) -> None:
    vq, nothing = quantizer(case, dead_code_threshold=0.5), torch.zeros(5, 24, dtype=torch.bool)
    assert all(loss.item() == 0 for loss in vq(latents(), nothing).losses.values())
    vq(latents(1))
    before = vq.eval().decode(every_code(vq))
    vq.train()(latents(2), nothing)
    torch.testing.assert_close(vq.decode(every_code(vq)), before, rtol=1e-4, atol=1e-4)


@everyone
def test_quantize_first_update_after(case: str) -> None:
    """Pitfall 7: what comes out of a training step are the codes as they were before it."""
    vq = trained(case)
    before, z = deepcopy(vq), latents(9)
    vq.train()
    for stage in vq.modules():
        if hasattr(stage, "quantizer_dropout"):
            stage.quantizer_dropout = 0.0
    out = vq(z)
    assert torch.equal(out.z, before.decode(out.codes))


@everyone
def test_waiting_passes_on_what_will_be_quantized(case: str) -> None:
    """`kmeans_after_steps` lets the encoder find its latents first, in every stage and group alike;
    FSQ has nothing to wait for.
    """
    vq = quantizer(case, kmeans_after_steps=2)
    books = [module for module in vq.modules() if hasattr(module, "kmeans_after_steps")]
    for step in range(2):
        z = latents(step)
        out = vq(z)
        assert not any(book.codebook.started for book in books)
        if "two-level" in case:  # which subtracts the top level and adds it again
            torch.testing.assert_close(out.z, z)
        elif books and "cosine" not in case and "projected" not in case:
            assert torch.equal(out.z, z)
    vq(latents(2))
    assert all(book.codebook.started for book in books)


@everyone
def test_a_saved_state_goes_on_bit_for_bit(case: str) -> None:
    """Pitfall 11."""
    vq, other = (quantizer(case, dead_code_threshold=0.9, kmeans_after_steps=1) for _ in range(2))
    for step in range(3):
        vq(latents(step))
    other.load_state_dict(state(vq))
    for step in range(3, 6):
        torch.manual_seed(step)
        z = vq(latents(step)).z
        torch.manual_seed(step)
        assert torch.equal(other(latents(step)).z, z)
    assert equal(state(vq), state(other))


@everyone
def test_everything_learns(case: str) -> None:
    """Some steps on latents of twelve places: the error falls, and every parameter has a
    gradient.
    """
    vq = quantizer(case, decay=0.8, dead_code_threshold=0.0)
    optimizer = torch.optim.Adam([*vq.parameters(), torch.nn.Parameter(torch.zeros(1))], lr=0.03)
    start = latents()
    first = (trained(case, steps=0)(start).z - start).square().mean()
    for step in range(60):
        z = latents(step).requires_grad_()
        out = vq(z)
        loss = 2 * (out.z - z.detach()).square().mean() + sum(
            value for name, value in out.losses.items() if name != "entropy"
        )
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in vq.parameters())
        assert z.grad.abs().sum() > 0
        optimizer.step()
    last = (vq.eval()(start).z - start).square().mean()
    # whose levels are fixed: its encoder learns, not itself
    assert last < first or case.startswith("fsq")
