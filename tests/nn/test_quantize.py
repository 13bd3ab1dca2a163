"""The EMA quantizer: consistent state, order, precision, masks, restarts, straight-through, jitter.

PITFALLS one by one.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from vqwave.nn.quantize import (
    EMAQuantizerSpec,
    TimeJitter,
    VectorQuantizer,
    frame_mask,
    perplexity,
    straight_through,
)
from vqwave.nn.quantize.codebook import SCORES, EMACodebook, k_means, nearest_codes
from vqwave.nn.quantize.entropy_loss import EntropySpec, assignment_entropy

K, D = 8, 4


def quantizer(size: int = K, dim: int = D, **settings: float) -> VectorQuantizer:
    return EMAQuantizerSpec(
        codebook_size=size, **{"dead_code_threshold": 0.0, "decay": 0.9} | settings
    ).build(dim)


def latents(step: int = 0, B: int = 3, F: int = 20, spread: float = 1.0) -> Tensor:
    """(B, D, F) around eight centres that stay the same from step to step."""
    generator = torch.Generator().manual_seed(100 + step)
    z = centres()[torch.randint(K, (B, F), generator=generator)] + 0.1 * spread * torch.randn(
        B, F, D, generator=generator
    )
    return z.transpose(1, 2)


def centres() -> Tensor:
    return 3.0 * torch.randn(K, D, generator=torch.Generator().manual_seed(7))


def state(module: torch.nn.Module) -> dict[str, Tensor]:
    return deepcopy(module.state_dict())


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_codes_are_the_nearest_by_channel_vectors() -> None:
    """(B, D, F) is searched frame by frame, against the plain distance."""
    vq = quantizer().eval()
    z = latents(B=2, F=5)
    distance = (z.transpose(1, 2)[:, :, None] - vq.codebook.codes).square().sum(-1)  # (B, F, K)
    codes = vq(z).codes
    assert codes.shape == (2, 1, 5)
    assert torch.equal(codes[:, 0], distance.argmin(-1))
    torch.testing.assert_close(vq(z).z, vq.codebook.codes[codes[:, 0]].transpose(1, 2))


def test_encode_inverts_decode() -> None:
    vq = quantizer(512, 16)
    codes = torch.randperm(512, generator=torch.Generator().manual_seed(0)).view(2, 1, 256)
    assert torch.equal(vq.encode(vq.decode(codes)), codes)


def test_the_start_places_consistent_codes() -> None:
    """Pitfall 1: after k-means the codes are the cluster means, and the sizes are what a step
    really brings.
    """
    vq, z = quantizer(), latents(B=8, F=40)
    flat = z.transpose(1, 2).flatten(0, 1)
    vq.codebook.start(flat)
    codes = vq.codebook.codes
    assert torch.cdist(centres(), codes).min(1).values.max() < 0.15
    assert vq.codebook.sizes.sum().item() == pytest.approx(320, rel=1e-5)
    index = nearest_codes(flat, codes)
    means = torch.stack([flat[index == k].mean(0) for k in range(K)])
    torch.testing.assert_close(codes, means, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        vq.codebook.sizes, torch.bincount(index, minlength=K).float(), rtol=1e-4, atol=1e-3
    )
    vq.codebook.update(flat, index)
    torch.testing.assert_close(vq.codebook.codes, codes, rtol=1e-4, atol=1e-4)  # a fixed point


def test_a_start_on_a_part_of_the_batch_is_as_consistent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pitfall 1: sizes count the whole batch though k-means saw a tenth of it; the codes still lie
    on the data.
    """
    monkeypatch.setattr("vqwave.nn.quantize.codebook.START_VECTORS", 4)
    vq, flat = quantizer(), latents(B=8, F=40).transpose(1, 2).flatten(0, 1)
    vq.codebook.start(flat)
    assert vq.codebook.sizes.sum().item() == pytest.approx(320, rel=1e-5)
    assert torch.cdist(vq.codebook.codes, flat).min(1).values.max() < 0.5
    norms = flat.norm(dim=1)
    assert vq.codebook.codes.norm(dim=1).max() < norms.max()


class Operations(TorchDispatchMode):
    """Names of what is computed within, and the elements of the largest result."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.largest = 0

    def __torch_dispatch__(
        self,
        function: Any,  # noqa: ANN401 - torch's
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        result = function(*args, **kwargs or {})
        self.names.add(function.overloadpacket.__name__)
        for each in result if isinstance(result, list | tuple) else [result]:
            if isinstance(each, Tensor):
                self.largest = max(self.largest, each.numel())
        return result


def test_a_step_takes_products_and_sums_alone() -> None:
    """No roots of distances, no one-hot rows, and never all N x K scores at once."""
    N, size, dim = 4096, 512, 16
    module = quantizer(size, dim)
    z = torch.randn(8, dim, N // 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    module(z)  # starts
    with Operations() as seen:
        result = module(z)
        (result.z.sum() + result.losses["commitment"]).backward()
    assert {"addmm", "argmin", "index_add_"} <= seen.names
    roots = {"sqrt", "cdist", "_cdist_forward", "norm", "linalg_vector_norm"}
    one_hot = {"one_hot", "scatter", "scatter_", "eye"}
    assert not seen.names & (roots | one_hot)
    assert seen.largest <= max(N * dim, SCORES) < N * size / 4


def test_unused_codes_stay_where_they_are() -> None:
    """Pitfall 1: sums and sizes shrink together from the first step, so no code jumps or fades."""
    book = EMACodebook(K, D, decay=0.9, dead_code_threshold=0.0)
    before = book.codes.clone()
    for _ in range(40):
        book.update(torch.full((50, D), 2.0), torch.zeros(50, dtype=torch.int64))
    torch.testing.assert_close(book.codes[1:], before[1:], rtol=2e-2, atol=0)
    torch.testing.assert_close(book.codes[0], torch.full((D,), 2.0), rtol=0.02, atol=0)


def test_smoothing_is_never_written_back() -> None:
    """Pitfall 2: the sizes follow their recursion exactly, however large the smoothing."""
    book = EMACodebook(K, D, decay=0.9, dead_code_threshold=0.0, epsilon=0.5)
    sizes = book.sizes.clone()
    for step in range(5):
        index = torch.randint(3, (30,), generator=torch.Generator().manual_seed(step))
        _ = book.codes
        book.update(torch.randn(30, D), index)
        sizes = sizes.lerp(torch.bincount(index, minlength=K).float(), 1 - 0.9)
        assert torch.equal(book.sizes, sizes)


def test_codes_converge_to_the_cluster_means() -> None:
    vq = quantizer(decay=0.5)
    flat = latents(B=8, F=40).transpose(1, 2)
    for _ in range(30):
        out = vq(flat.transpose(1, 2))
    index = out.codes[:, 0].flatten()
    means = torch.stack([flat.flatten(0, 1)[index == k].mean(0) for k in range(K)])
    torch.testing.assert_close(vq.codebook.codes, means, rtol=0, atol=1e-4)


def test_a_restarted_code_is_moved_with_its_sum_and_size() -> None:
    """Pitfall 3: it lands on a vector of the batch, at a fair share, and stays there."""
    book = EMACodebook(K, D, decay=0.9, dead_code_threshold=0.2)
    book.sums[5], book.sizes[5] = 1e-3, 1e-3
    x = torch.randn(60, D, generator=torch.Generator().manual_seed(1)) + 8.0
    index = torch.arange(60) % 5
    book.update(x, index)
    assert (book.codes[5] - x).abs().sum(1).min() < 1e-4
    alive = book.sizes[[0, 1, 2, 3, 4]]
    assert 0.5 * alive.mean() < book.sizes[5] < 1.5 * alive.mean()
    moved = book.codes[5].clone()
    book.update(x, index)
    torch.testing.assert_close(book.codes[5], moved, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("repeat", [1, 10])
def test_the_restart_threshold_does_not_depend_on_the_batch_size(repeat: int) -> None:
    book = EMACodebook(4, D, decay=0.0, dead_code_threshold=0.5)
    # a fair share is 25: only code 3 is below half of it
    use = torch.tensor([0] * 50 + [1] * 30 + [2] * 15 + [3] * 5)
    x = centres()[use].repeat(repeat, 1)
    book.update(x, use.repeat(repeat))
    assert (book.sizes == repeat * torch.tensor([50.0, 30.0, 15.0, 25.0])).all()


def test_restarts_fill_a_bad_start() -> None:
    """Pitfall 16: codes that start far from the data; without restarts nearly all of them stay
    dead.
    """
    used = {}
    for restart in (0.0, 0.1):
        book = EMACodebook(K, D, decay=0.8, dead_code_threshold=restart)
        for step in range(60):
            x = latents(step).transpose(1, 2).flatten(0, 1) + 20.0
            book.update(x, nearest_codes(x, book.codes))
        used[restart] = nearest_codes(x, book.codes).unique().numel()
    assert used[0.1] >= 7 > 2 >= used[0.0]


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
@pytest.mark.parametrize("N", [1, 3, 8])
@pytest.mark.parametrize("value", [None, 0.0, 0.7])
def test_a_start_on_few_or_equal_vectors(N: int, value: float | None) -> None:
    x = torch.randn(N, D) if value is None else torch.full((N, D), value)
    places, counts = k_means(x, K)
    assert torch.isfinite(places).all()
    assert (counts >= 1).all()
    assert torch.cdist(x, places).min(1).values.max() < 0.05


def test_quantize_first_update_after() -> None:
    """Pitfall 7: what comes out are the codes as they were before this step's averages."""
    vq = quantizer()
    vq(latents(0))
    before = vq.codebook.codes.clone()
    out = vq(latents(1, spread=8.0))
    assert torch.equal(out.z, before[out.codes[:, 0]].transpose(1, 2))
    assert not torch.equal(before, vq.codebook.codes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_straight_through_is_the_code_bit_for_bit(dtype: torch.dtype) -> None:
    """Pitfall 6, with the usual formula failing beside it."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(4000, generator=generator).to(dtype).requires_grad_()
    q = torch.randn(4000, generator=generator).to(dtype)
    w = torch.randn(4000, generator=generator).to(dtype)
    out = straight_through(z, q)
    assert torch.equal(out, q)
    assert not torch.equal(z + (q - z).detach(), q)
    out.backward(w)
    assert torch.equal(z.grad, w)  # the gradient is the identity


def test_commitment_pulls_the_latents_alone() -> None:
    vq = quantizer().eval()
    z, mask = latents().requires_grad_(), torch.arange(20) < torch.tensor([[20], [7], [0]])
    out = vq(z, mask)
    out.losses["commitment"].backward()
    expected = 2 * (z - out.z).detach() / (D * 27) * mask[:, None]
    torch.testing.assert_close(z.grad, expected)
    assert not any(buffer.requires_grad for buffer in vq.buffers())


@pytest.mark.parametrize("restart", [0.0, 0.9])
def test_padding_enters_nothing(restart: float) -> None:
    """Pitfall 9: k-means start, averages, restarts, perplexity, commitment: bit for bit the same
    with garbage in it.
    """
    first, second = quantizer(dead_code_threshold=restart), quantizer(dead_code_threshold=restart)
    for step in range(6):
        mask = torch.arange(20) < torch.tensor([[20], [9], [step]])
        z = latents(step)
        spoilt = torch.where(mask[:, None], z, 1e3 * torch.randn(3, D, 20))
        one, two = first(z, mask), second(spoilt, mask)
        assert equal(state(first), state(second))
        assert equal(one.losses | one.metrics, two.losses | two.metrics)
        assert torch.equal(one.codes[:, 0][mask], two.codes[:, 0][mask])
    third = quantizer(dead_code_threshold=restart)
    third(torch.where(torch.arange(20) < 10, latents(0), 1e3))
    assert not equal(state(third), state(first))


def test_a_wholly_masked_batch_changes_no_code() -> None:
    vq = quantizer(dead_code_threshold=0.5)
    nothing = torch.zeros(3, 20, dtype=torch.bool)
    out = vq(latents(), nothing)
    assert not vq.codebook.started
    assert out.losses["commitment"].item() == 0
    vq(latents())
    before = vq.codebook.codes.clone()
    vq(latents(1), nothing)
    torch.testing.assert_close(vq.codebook.codes, before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("steps", [0, 3])
def test_evaluation_changes_nothing(steps: int) -> None:
    """Pitfall 10, before and after the start."""
    vq = quantizer(dead_code_threshold=0.9, kmeans_after_steps=1)
    for step in range(steps):
        vq(latents(step))
    before = state(vq)
    vq.eval()(latents(9))
    assert equal(state(vq), before)


def test_codes_do_not_depend_on_autocast() -> None:
    """Pitfall 5, on the device type in use."""
    plain, cast = quantizer(64, 16), quantizer(64, 16)
    z = torch.randn(4, 16, 200, generator=torch.Generator().manual_seed(3))
    for _ in range(2):
        expected = plain(z)
        with torch.autocast("cpu", torch.bfloat16):
            out = cast(z)
            encoded = cast.encode(z)
        assert torch.equal(out.codes, expected.codes)
        assert torch.equal(out.z, expected.z)
        assert out.losses["commitment"].dtype == torch.float32
        assert equal(state(plain), state(cast))
        assert torch.equal(encoded, plain.encode(z))


def test_the_search_does_not_depend_on_autocast() -> None:
    x, codes = (torch.randn(N, 16, generator=torch.Generator().manual_seed(N)) for N in (4000, 256))
    exact = nearest_codes(x, codes)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(nearest_codes(x, codes), exact)
        rough = torch.addmm(codes.square().sum(1), x, codes.t(), alpha=-2).argmin(1)
    assert (rough != exact).float().mean() > 1e-3  # what autocast would do


def far_from_the_origin(far: float, N: int = 4000) -> tuple[Tensor, Tensor]:
    """Vectors (N, 16) about codes (32, 16) of unit spread, `far` away in a direction of its own."""
    generator = torch.Generator().manual_seed(4)
    codes = torch.randn(32, 16, generator=generator) + far * torch.randn(16, generator=generator)
    return (
        codes[torch.randint(32, (N,), generator=generator)]
        + torch.randn(N, 16, generator=generator),
        codes,
    )


@pytest.mark.parametrize("far", [0.0, 300.0, 3000.0])
def test_the_nearest_code_does_not_hang_on_the_distance_from_the_origin(far: float) -> None:
    """Pitfall 36: against float64, and whatever the length of the blocks, wherever the two best
    differ by more than rounding.
    """
    x, codes = far_from_the_origin(far)
    squares = (x.double()[:, None] - codes.double()).square().sum(-1)  # (N, K)
    best, second = squares.topk(2, 1, largest=False).values.unbind(1)
    plain = second - best > 1e-4
    assert plain.float().mean() > 0.99
    for block in (1, 3, 50, 4000):
        index = torch.cat([nearest_codes(part, codes) for part in x.split(block)])
        assert torch.equal(index[plain], squares.argmin(1)[plain]), block


def test_the_entropy_of_assignments_does_not_hang_on_the_distance_from_the_origin() -> None:
    x, codes = far_from_the_origin(3000.0)
    expected = assignment_entropy(x.double(), codes.double(), EntropySpec())
    torch.testing.assert_close(
        assignment_entropy(x, codes, EntropySpec()).double(), expected, rtol=1e-4, atol=1e-4
    )


def test_k_means_does_not_hang_on_the_distance_from_the_origin() -> None:
    x = torch.randn(400, 16, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    near, counts = k_means(x, 12)
    far, far_counts = k_means(x + 1e7, 12)
    torch.testing.assert_close(far - 1e7, near, rtol=0, atol=1e-6)
    assert torch.equal(far_counts, counts)


@pytest.mark.parametrize("steps", [1, 4])
def test_a_saved_state_goes_on_bit_for_bit(steps: int) -> None:
    """Pitfall 11: sums, sizes, start and the counters of draws and of waiting are all of the
    state.
    """
    vq = quantizer(dead_code_threshold=0.9, kmeans_after_steps=2)
    for step in range(steps):
        vq(latents(step))
    other = quantizer(dead_code_threshold=0.9, kmeans_after_steps=2)
    other.load_state_dict(state(vq))
    for step in range(steps, steps + 4):
        assert torch.equal(vq(latents(step)).z, other(latents(step)).z)
        assert equal(state(vq), state(other))


def test_waiting_passes_the_latents_through() -> None:
    vq = quantizer(kmeans_after_steps=2)
    for step in range(2):
        z = latents(step).requires_grad_()
        assert torch.equal(vq(z).z, z)
        assert not vq.codebook.started
    vq(latents(2))
    assert vq.codebook.started


def test_perplexity() -> None:
    counts = torch.tensor([[5, 5, 5, 5], [7, 0, 0, 0], [3, 1, 0, 0], [0, 0, 0, 0]])
    assert perplexity(counts).tolist() == pytest.approx([4, 1, (4 / 3) ** 0.75 * 4**0.25, 1])


def test_frame_mask_counts_frames_with_a_sample() -> None:
    assert frame_mask(torch.tensor([0, 1, 4, 5, 12]), 4, 3).sum(1).tolist() == [0, 1, 1, 2, 3]


def sources(jitter: TimeJitter, B: int, F: int, mask: Tensor | None = None) -> Tensor:
    """Which frame each frame was taken from, (B, F)."""
    return jitter(torch.arange(F).float().expand(B, 3, F), mask)[:, 0].long()


def test_jitter_takes_neighbours_with_total_probability_p() -> None:
    torch.manual_seed(0)
    offset = sources(TimeJitter(0.12).train(), 200, 500) - torch.arange(500)
    inner = offset[:, 1:-1]
    for value, share in ((-1, 0.06), (1, 0.06), (0, 0.88)):
        assert (inner == value).float().mean().item() == pytest.approx(share, abs=0.004)
    assert set(offset[:, 0].tolist()) == {0, 1}
    assert set(offset[:, -1].tolist()) == {0, -1}
    assert len({tuple(row) for row in offset.tolist()}) > 190  # each item draws its own


def test_jitter_never_takes_padding() -> None:
    torch.manual_seed(0)
    mask = torch.arange(10) < torch.tensor([6]).expand(400, 1)
    taken = sources(TimeJitter(0.9).train(), 400, 10, mask)
    assert taken[:, :6].max() == 5
    assert sources(TimeJitter(0.9).train(), 400, 10)[:, :6].max() == 6


def test_jitter_moves_whole_vectors_and_their_gradient() -> None:
    torch.manual_seed(0)
    jitter, z = TimeJitter(0.5).train(), torch.randn(2, 3, 40, requires_grad=True)
    torch.manual_seed(1)
    taken = sources(jitter, 2, 40)
    torch.manual_seed(1)
    out = jitter(z)
    assert torch.equal(out, torch.stack([z[i][:, taken[i]] for i in range(2)]))
    out.sum().backward()
    times = torch.stack([torch.bincount(row, minlength=40) for row in taken]).float()
    assert torch.equal(z.grad, times[:, None].expand(2, 3, 40))


def test_jitter_is_off_in_evaluation() -> None:
    z = torch.randn(2, 3, 50)
    assert torch.equal(TimeJitter(0.9).eval()(z), z)
    assert torch.equal(TimeJitter(0.0).train()(z), z)
