"""The parts that only some quantizers have: FSQ's levels, the rotation trick, residual stages, two
levels, cosine, entropy.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vqwave.errors import UserInputError
from vqwave.nn.quantize import (
    EMAQuantizerSpec,
    EntropySpec,
    FSQuantizer,
    FSQuantizerSpec,
    GradientQuantizerSpec,
    HierarchicalQuantizer,
    HierarchicalQuantizerSpec,
    ProductQuantizerSpec,
    ResidualQuantizerSpec,
    rotation,
    straight_through,
)
from vqwave.nn.quantize.codebook import GradientCodebook, nearest_codes
from vqwave.nn.quantize.entropy_loss import assignment_entropy


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- finite scalar quantization


@pytest.mark.parametrize("L", [2, 3, 4, 5, 6, 7, 8, 9, 16, 255, 256])
def test_fsq_takes_exactly_its_levels(L: int) -> None:
    """REFERENCE 6.6: L values, -floor(L / 2) ..

    ceil(L / 2) - 1 over floor(L / 2), all of them, in order; 8: -4 .. 3; 2: -1, 1.
    """
    fsq = FSQuantizer((L,)).eval()
    z = torch.linspace(-12, 12, 40001, dtype=torch.float64)[None, None]
    out = fsq(z)
    values = torch.arange(-(L // 2), math.ceil(L / 2), dtype=torch.float64) / (L // 2)
    values = torch.tensor([-1.0, 1.0], dtype=torch.float64) if L == 2 else values
    assert torch.equal(out.z.flatten().unique(), values)
    assert torch.equal(fsq.decode(torch.arange(L)[None, None]).flatten(), values.float())
    assert (out.z.flatten().diff() >= 0).all()
    assert torch.equal(out.codes.flatten().unique(), torch.arange(L))


def test_fsq_keeps_all_its_levels_in_use() -> None:
    """However small and shifted the latents of an untrained encoder are, and however they grow;
    evaluation moves nothing.
    """
    fsq = FSQuantizer((4, 5))
    z = 1e-3 * randn(4, 2, 500) + 0.5
    assert fsq.eval()(z).metrics["codes_used"] == 1
    assert fsq.train()(z).metrics["codes_used"] == 20
    for _ in range(300):
        fsq(30 * z)
    assert fsq(30 * z).metrics["codes_used"] == 20
    kept = fsq.deviation.clone()
    fsq.eval()(z)
    assert torch.equal(fsq.deviation, kept)


def test_fsq_with_two_levels_takes_the_signs() -> None:
    """Every code alike often, whatever the scale; the gradient is that of the tanh."""
    fsq, z = FSQuantizer((2, 2, 2, 2)), randn(4, 4, 500)
    assert fsq.train()(3 * z + 1).metrics["perplexity"] > 15.5
    plain = FSQuantizer((2, 3)).eval()
    x = randn(2, 2, 50).requires_grad_()
    out = plain(x)
    assert torch.equal(out.z[:, 0], x[:, 0].sign())
    assert torch.equal(plain.decode(out.codes), out.z.float())
    out.z[:, 0].sum().backward()
    torch.testing.assert_close(
        x.grad[:, 0], 1.001 * (1 - x[:, 0].tanh().square()), rtol=1e-10, atol=0
    )


def test_fsq_far_from_zero_follows_the_spread() -> None:
    """Its deviation is that of float64: mean(x^2) - mean(x)^2 would have no digit left."""
    fsq, z = FSQuantizer((4, 5)).train(), (1e4 + randn(4, 2, 500)).float()
    fsq(z)
    expected = z.double().transpose(1, 2).flatten(0, 1).std(0, correction=0)
    torch.testing.assert_close(fsq.deviation[:, 0].double(), expected, rtol=1e-3, atol=0)


@pytest.mark.parametrize("L", [4, 5, 8])
def test_fsq_zero_is_a_level(L: int) -> None:
    """What the shift is for: a latent of zero is the level zero, for even numbers of levels,
    too.
    """
    assert FSQuantizer((L,)).eval()(torch.zeros(1, 1, 1)).z.item() == 0
    assert FSQuantizer((L,)).bound(
        torch.zeros(1, 1, 1, dtype=torch.float64)
    ).item() == pytest.approx(0, abs=1e-12)


def test_fsq_numbers_its_codes_in_mixed_radix() -> None:
    fsq = FSQuantizer((3, 4, 2))
    values = fsq.decode(torch.arange(24)[None, None])[0].t().tolist()
    assert values == [[a, b, c] for c in (-1, 1) for b in (-1, -0.5, 0, 0.5) for a in (-1, 0, 1)]


def test_fsq_gradient_is_that_of_the_bound() -> None:
    z = (2 * randn(2, 2, 30)).requires_grad_()
    fsq, w = FSQuantizer((5, 8)).eval(), randn(2, 2, 30, seed=1)
    (fsq(z).z * w).sum().backward()
    found, z.grad = z.grad, None
    (fsq.bound(z) / torch.tensor([[2], [4]]) * w).sum().backward()
    torch.testing.assert_close(found, z.grad, rtol=1e-12, atol=1e-12)


# --- gradients through the code


def rotation_matrix(e: Tensor, q: Tensor) -> Tensor:
    """The formula of REFERENCE 6.5, written out for one vector."""
    a, b = e / e.norm(), q / q.norm()
    w = (a + b) / (a + b).norm()
    return torch.eye(len(e), dtype=e.dtype) - 2 * torch.outer(w, w) + 2 * torch.outer(b, a)


def test_rotation_takes_the_latent_to_its_code() -> None:
    e, q = randn(5), randn(5, seed=1)
    R = rotation_matrix(e, q)
    torch.testing.assert_close(R @ e * (q.norm() / e.norm()), q)
    torch.testing.assert_close(R @ R.t(), torch.eye(5, dtype=torch.float64))
    assert torch.linalg.det(R).item() == pytest.approx(1)


def test_rotation_gradient_is_the_explicit_formula() -> None:
    z, q, g = randn(3, 5, 7).requires_grad_(), randn(3, 5, 7, seed=1), randn(3, 5, 7, seed=2)
    out = rotation(z, q)
    assert torch.equal(out, q)
    out.backward(g)
    for b in range(3):
        for f in range(7):
            e, code = z.detach()[b, :, f], q[b, :, f]
            expected = (code.norm() / e.norm()) * rotation_matrix(e, code).t() @ g[b, :, f]
            torch.testing.assert_close(z.grad[b, :, f], expected, rtol=1e-10, atol=1e-10)
    assert (z.grad - g).abs().max() > 0.1  # unlike straight-through


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rotation_is_the_code_bit_for_bit_and_finite_everywhere(dtype: torch.dtype) -> None:
    z = randn(2, 4, 6).to(dtype)
    q = randn(2, 4, 6, seed=1).to(dtype)
    z[0, :, 0], q[0, :, 1], q[0, :, 2] = 0, 0, -z[0, :, 2]
    z.requires_grad_()
    out = rotation(z, q)
    assert torch.equal(out, q)
    out.sum().backward()
    assert torch.isfinite(z.grad).all()
    assert torch.equal(z.grad[0, :, :2], torch.ones(4, 2, dtype=dtype))


def test_the_estimator_is_what_the_config_says() -> None:
    z = randn(2, 4, 9).float().requires_grad_()
    w = randn(2, 4, 9, seed=3).float()
    for name, rule in (("straight_through", straight_through), ("rotation", rotation)):
        for spec in (
            EMAQuantizerSpec(codebook_size=8, gradient_estimator=name),
            ResidualQuantizerSpec(
                quantizer=EMAQuantizerSpec(codebook_size=8, gradient_estimator=name)
            ),
        ):
            vq = spec.build(4).eval()
            out = vq(z)
            (found,) = torch.autograd.grad(out.z, z, w)
            (expected,) = torch.autograd.grad(rule(z, out.z.detach()), z, w)
            torch.testing.assert_close(found, expected)


# --- a codebook that learns by its loss


def test_codebook_and_commitment_are_two_losses_with_their_own_gradients() -> None:
    """REFERENCE 6.1: |sg(z) - e|^2 moves the codes alone, |z - sg(e)|^2 the latents alone; neither
    takes the output's.
    """
    vq = GradientQuantizerSpec(codebook_size=8).build(4).double().eval()
    z = randn(2, 4, 9).requires_grad_()
    out = vq(z)
    codes, n = out.codes[:, 0].flatten(), 2 * 4 * 9
    gap = (z.detach() - out.z.detach()).transpose(1, 2).flatten(0, 1)  # (B F, D)
    for name, of_codes, of_latents in (("codebook", 1, 0), ("commitment", 0, 1)):
        grads = torch.autograd.grad(
            out.losses[name], [vq.codebook.weight, z], retain_graph=True, allow_unused=True
        )
        pulled, moved = (
            torch.zeros_like(x) if g is None else g
            for g, x in zip(grads, (vq.codebook.weight, z), strict=True)
        )
        expected = torch.zeros(8, 4, dtype=torch.float64).index_add_(0, codes, -2 * gap / n)
        torch.testing.assert_close(pulled, of_codes * expected)
        torch.testing.assert_close(moved.transpose(1, 2).flatten(0, 1), of_latents * 2 * gap / n)
    assert torch.autograd.grad(out.z.sum(), vq.codebook.weight, allow_unused=True)[0] is None


def test_codes_of_a_rate_move_that_much_faster() -> None:
    moved = {}
    for rate in (1.0, 10.0):
        vq = GradientQuantizerSpec(codebook_size=8, lr_scale=rate).build(4).eval()
        before, optimizer = (
            vq.codebook.codes.detach().clone(),
            torch.optim.Adam(vq.parameters(), lr=1e-3),
        )
        vq(randn(2, 4, 200).float()).losses["codebook"].backward()
        optimizer.step()
        moved[rate] = (vq.codebook.codes - before).abs().max().item()
    assert moved[1.0] == pytest.approx(1e-3, rel=0.01)
    assert moved[10.0] == pytest.approx(1e-2, rel=0.01)


def test_a_restarted_gradient_code_lands_on_a_vector() -> None:
    book = GradientCodebook(8, 4, decay=0.5, dead_code_threshold=0.2, lr_scale=10.0)
    x = randn(60, 4, seed=1).float() + 8.0
    for _ in range(4):
        book.update(x, torch.arange(60) % 5)
    distance = (book.codes[:, None] - x).norm(dim=2).min(1).values
    assert distance[5:].max() < 1e-5
    assert distance[:5].min() > 1.0


# --- cosine


def test_cosine_is_the_largest_cosine_on_a_sphere_of_unit_power() -> None:
    vq = EMAQuantizerSpec(codebook_size=32, l2_normalize=True).build(4).eval()
    vq.codebook.sums *= torch.rand(32, 1) * 9 + 0.1  # lengths that would mislead a distance
    z = 5 * randn(3, 4, 50).float()
    cosine = torch.einsum(
        "bdf,kd->bfk",
        z / z.norm(dim=1, keepdim=True),
        vq.codebook.sums / vq.codebook.sums.norm(dim=1)[:, None],
    )
    out = vq(z)
    assert torch.equal(out.codes[:, 0], cosine.argmax(-1))
    assert torch.equal(vq.encode(z * 100), out.codes)
    torch.testing.assert_close(out.z.square().mean(1), torch.ones(3, 50))


# --- several books


def residual(stages: int = 3, dropout: float = 0.0, **settings: float) -> torch.nn.Module:
    torch.manual_seed(0)
    inner = EMAQuantizerSpec(codebook_size=8, **{"dead_code_threshold": 0.0} | settings)
    return ResidualQuantizerSpec(
        num_quantizers=stages, quantizer_dropout=dropout, quantizer=inner
    ).build(4)


def test_residual_stages_quantize_what_is_left() -> None:
    vq = residual().eval()
    z = randn(2, 4, 9).float()
    out, left = vq(z), z
    for depth, stage in enumerate(vq.stages):
        codes = nearest_codes(left.transpose(1, 2).flatten(0, 1), stage.codebook.codes).view(2, 9)
        assert torch.equal(out.codes[:, depth], codes)
        left = left - stage.codebook.codes[codes].transpose(1, 2)
        # fewer books: coarser
        torch.testing.assert_close(vq.decode(out.codes[:, : depth + 1]), z - left)


def test_residual_gradient_is_the_identity_and_every_stage_commits() -> None:
    """Pitfall 12: straight-through once on the sum; |r_i - q_i|^2 of *every* stage reaches the
    encoder.
    """
    vq = residual().double().eval()
    z, w = randn(2, 4, 9).requires_grad_(), randn(2, 4, 9, seed=1)
    out = vq(z)
    (found,) = torch.autograd.grad(out.z, z, w, retain_graph=True)
    assert torch.equal(found, w)
    (found,) = torch.autograd.grad(out.losses["commitment"], z)
    left, expected = z.detach(), torch.zeros_like(w)
    for depth, stage in enumerate(vq.stages):
        left = left - stage.decode(out.codes[:, depth : depth + 1])
        expected += 2 * left / (3 * left.numel())
    torch.testing.assert_close(found, expected)


def test_dropout_draws_every_depth_alike() -> None:
    """Pitfall 12: one stage, all stages, and each between; a dropout of 0.3 leaves 70 % whole."""
    torch.manual_seed(0)
    always, seldom = residual(4, 1.0), residual(4, 0.3)
    share = torch.bincount(always.draw_depths(40000, torch.device("cpu")), minlength=5) / 40000
    assert share[0] == 0
    assert share[1:].tolist() == pytest.approx([0.25] * 4, abs=0.01)
    share = torch.bincount(seldom.draw_depths(40000, torch.device("cpu")), minlength=5) / 40000
    assert share[1:].tolist() == pytest.approx([0.075] * 3 + [0.775], abs=0.01)


def test_dropout_hides_items_from_later_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage that an item drops neither quantizes it nor learns from it, as if its frames were
    padding there.
    """
    vq = residual(2, 1.0)
    z = randn(3, 4, 20).float()
    vq(z)
    depths = torch.tensor([1, 2, 1])
    monkeypatch.setattr(vq, "draw_depths", lambda items, device: depths)
    codes = [stage.codebook.codes.clone() for stage in vq.stages]
    sizes = vq.stages[1].codebook.sizes.clone()
    out = vq(z)
    parts = [codes[i][out.codes[:, i]].transpose(1, 2) for i in range(2)]
    torch.testing.assert_close(
        out.z, parts[0] + parts[1] * torch.tensor([0.0, 1.0, 0.0])[:, None, None]
    )
    counted = torch.bincount(out.codes[1, 1], minlength=8).float()
    torch.testing.assert_close(vq.stages[1].codebook.sizes, sizes.lerp(counted, 0.01))


def test_product_groups_are_alone() -> None:
    vq = ProductQuantizerSpec(groups=2, quantizer=EMAQuantizerSpec(codebook_size=8)).build(6).eval()
    z, other = randn(2, 6, 9).float(), randn(2, 6, 9, seed=1).float()
    out = vq(z)
    mixed = vq(torch.cat([z[:, :3], other[:, 3:]], 1))
    assert torch.equal(mixed.codes[:, 0], out.codes[:, 0])
    assert not torch.equal(mixed.codes[:, 1], out.codes[:, 1])
    expected = (z - out.z).square().mean()
    # the same as of one book over all channels
    torch.testing.assert_close(out.losses["commitment"], expected)


# --- two levels


def two_level(ratio: int = 4) -> HierarchicalQuantizer:
    """Three books of 16 codes, with weights as after some training."""
    level = EMAQuantizerSpec(codebook_size=16)
    vq = HierarchicalQuantizerSpec(
        downsample=ratio, top=ResidualQuantizerSpec(quantizer=level), bottom=level
    ).build(6)
    with torch.no_grad():
        for i, layer in enumerate((vq.down, vq.to_bottom, vq.out)):
            layer.weight += 0.2 * randn(*layer.weight.shape, seed=i)
    vq(randn(4, 6, 40, seed=9).float())
    return vq


@pytest.mark.parametrize("F", [1, 3, 4, 21, 24])
def test_two_levels_hold_a_top_code_over_its_frames(F: int) -> None:
    vq = two_level().eval()
    z = randn(3, 6, F, seed=1).float()
    codes = vq.encode(z)
    assert codes.shape == (3, 3, F)
    assert torch.equal(codes[:, :2], codes[:, :2, ::4].repeat_interleave(4, -1)[..., :F])
    assert torch.equal(vq(z).codes, codes)
    assert torch.equal(vq(z).z, vq.decode(codes))
    longer = torch.cat([z, z[..., -1:].expand(-1, -1, -F % 4)], -1)
    assert torch.equal(vq.encode(longer)[..., :F], codes)


@pytest.mark.parametrize("ratio", [2, 4])
def test_two_levels_pay_a_top_code_once(ratio: int) -> None:
    assert two_level(ratio).bits_per_frame == pytest.approx(2 * 4 / ratio + 4)


def test_two_levels_of_a_padded_item_are_those_of_it_alone() -> None:
    """Its last top frame, of which one frame is real, is real; what follows is not."""
    vq = two_level().eval()
    z = randn(2, 6, 24, seed=2).float()
    mask = torch.arange(24) < torch.tensor([[24], [13]])
    out, full, alone = vq(z, mask), vq(z[:1]), vq(z[1:, :, :13])
    assert torch.equal(out.codes[1:, :, :13], alone.codes)
    torch.testing.assert_close(out.z[1:, :, :13], alone.z)
    used = [
        vq.top(vq._slow(item, None)).losses["commitment"] * n
        for item, n in ((z[:1], 6), (z[1:, :, :13], 4))
    ]
    fast = (
        full.losses["commitment"] * 2 * 24
        + alone.losses["commitment"] * 2 * 13
        - used[0] * 4
        - used[1] * 13 / 4
    )
    torch.testing.assert_close(out.losses["commitment"], (sum(used) / 10 + fast / 37) / 2)


def test_two_levels_start_as_residual_stages() -> None:
    """The mean of its frames above, what it leaves below."""
    level = EMAQuantizerSpec(codebook_size=16)
    vq = HierarchicalQuantizerSpec(top=level, bottom=level).build(6).eval()
    z = randn(2, 6, 24).float()
    top = vq.top(z.unflatten(-1, (6, 4)).mean(-1)).z.repeat_interleave(4, -1)
    torch.testing.assert_close(vq(z).z, top + vq.bottom(z - top).z)


def test_a_loss_that_one_level_has_is_not_lost() -> None:
    vq = (
        HierarchicalQuantizerSpec(
            top=FSQuantizerSpec(levels=(4, 4)), bottom=EMAQuantizerSpec(codebook_size=16)
        )
        .build(6)
        .eval()
    )
    z = randn(2, 6, 24).float()
    held = vq.top(vq._slow(z, None)).z.repeat_interleave(4, -1)
    torch.testing.assert_close(vq(z).losses, vq.bottom(z - held).losses)


def test_both_levels_learn_from_what_is_decoded() -> None:
    """The straight-through passes through both books, so that without any loss of theirs every
    layer has a gradient.
    """
    vq, z = two_level(), randn(2, 6, 24, seed=3).float().requires_grad_()
    (vq(z).z * randn(2, 6, 24, seed=4).float()).sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in vq.parameters())
    assert (z.grad.abs().sum(1) > 0).all()


# --- projection, entropy, refusals


def test_projection_keeps_what_lies_in_its_directions() -> None:
    vq = EMAQuantizerSpec(codebook_size=8, codebook_dim=3).build(7).double()
    w = vq.directions
    torch.testing.assert_close(w.t() @ w, torch.eye(3, dtype=torch.float64))
    z = randn(2, 7, 9)
    torch.testing.assert_close(vq.eval()(w @ (w.t() @ z)).z, vq(z).z)
    assert torch.linalg.matrix_rank(vq(randn(4, 7, 50)).z.transpose(1, 2).flatten(0, 1)) == 3


def test_projection_is_smooth_in_its_weight() -> None:
    """QR alone flips the sign of a direction where the first entry of a column changes sign."""
    vq = EMAQuantizerSpec(codebook_size=8, codebook_dim=2).build(5).double()
    with torch.no_grad():
        vq.weight[0, 0] = 1e-6
        before = vq.directions
        vq.weight[0, 0] = -1e-6
        torch.testing.assert_close(vq.directions, before, rtol=0, atol=1e-4)
    vq.weight.requires_grad_()
    assert torch.autograd.gradcheck(lambda w: vq.directions, (vq.weight,))


def test_entropy_of_known_assignments() -> None:
    """On codes, far apart: sure and even, -ln K; between all codes: ln K - ln K; all on one code:
    zero.
    """
    codes = 100 * torch.eye(4, dtype=torch.float64)
    spec = EntropySpec()
    assert assignment_entropy(codes, codes, spec).item() == pytest.approx(-math.log(4))
    assert assignment_entropy(
        torch.zeros(6, 4, dtype=torch.float64), codes, spec
    ).item() == pytest.approx(0, abs=1e-9)
    assert assignment_entropy(codes[:1].expand(6, 4), codes, spec).item() == pytest.approx(
        0, abs=1e-9
    )
    unsure = assignment_entropy(
        torch.zeros(6, 4, dtype=torch.float64), codes, EntropySpec(diversity=0.0)
    )
    assert unsure.item() == pytest.approx(math.log(4))


def test_entropy_has_a_gradient_where_no_vector_is_near_a_code() -> None:
    """The soft assignment to a far code is 0 for every vector; the slope of -p ln p is not."""
    near = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    codes = torch.cat([near[:4], torch.full((1, 8), 20.0)]).requires_grad_()
    x = near.clone().requires_grad_()
    assignment_entropy(x, codes, EntropySpec()).backward()
    for each in (x, codes):
        assert each.grad.isfinite().all()
        assert each.grad.abs().sum() > 0


def test_entropy_spreads_the_latents() -> None:
    codes = torch.eye(4, dtype=torch.float64)
    x = (0.01 * randn(40, 4)).requires_grad_()
    optimizer = torch.optim.Adam([x], lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        assignment_entropy(x, codes, EntropySpec(temperature=0.2)).backward()
        optimizer.step()
    assert torch.bincount(nearest_codes(x.detach(), codes), minlength=4).min() >= 5


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (ProductQuantizerSpec(groups=5), "groups: 5, expected a divisor of the 6"),
        (EMAQuantizerSpec(codebook_dim=7), "7 code dimensions, expected 1 to 6"),
        (FSQuantizerSpec(levels=(2,) * 8), "8 code dimensions, expected 1 to 6"),
        (
            ResidualQuantizerSpec(quantizer=EMAQuantizerSpec(l2_normalize=True)),
            "l2_normalize: true, expected false",
        ),
        (
            HierarchicalQuantizerSpec(bottom=EMAQuantizerSpec(codebook_size=8)),
            "bottom: books of 8 codes, expected 512",
        ),
    ],
)
def test_what_cannot_be_built_says_why(spec: EMAQuantizerSpec, said: str) -> None:
    with pytest.raises(UserInputError, match=said):
        spec.build(6)
