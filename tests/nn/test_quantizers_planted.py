"""The laws can fail: each of these plants one of the mistakes of public code, and the law that
forbids it complains.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from vqwave.nn.quantize import (
    Quantized,
    Quantizer,
    ResidualQuantizer,
    TimeJitter,
    VectorQuantizer,
    base,
    codebook,
    vq,
)
from vqwave.nn.quantize.codebook import Codebook, EMACodebook
from vqwave.nn.quantize.estimators import ESTIMATORS


def laws(name: str) -> ModuleType:
    """A test file beside this one, as a module."""
    spec = importlib.util.spec_from_file_location(
        f"laws_{name}", Path(__file__).with_name(f"test_{name}.py")
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


EMA, ALL, PARTS, RANKS = (
    laws(name) for name in ("quantize", "quantizers_laws", "quantizers_parts", "ranks")
)
Patch = pytest.MonkeyPatch
quantize = VectorQuantizer._quantize


def sums_that_are_not_scaled(patch: Patch) -> None:
    patch.setattr(
        EMACodebook, "_put", lambda self, where, vectors: self.sums.__setitem__(where, vectors)
    )


def counts_that_start_at_zero(patch: Patch) -> None:
    start = EMACodebook.__init__
    patch.setattr(
        EMACodebook,
        "__init__",
        lambda self, *sizes, **settings: (start(self, *sizes, **settings), self.sizes.zero_())[0],
    )


def smoothing_written_back(patch: Patch) -> None:
    smoothed = Codebook._smoothed
    patch.setattr(Codebook, "_smoothed", lambda self: self.sizes.copy_(smoothed(self)))


def a_restart_that_forgets_the_size(patch: Patch) -> None:
    restart = Codebook._restart

    def forgetful(self: Codebook, dead: Tensor, x: Tensor, fair_share: Tensor) -> None:
        before = self.sizes.clone()
        restart(self, dead, x, fair_share)
        self.sizes.copy_(before)

    patch.setattr(Codebook, "_restart", forgetful)


def an_absolute_restart_threshold(patch: Patch) -> None:
    update = Codebook.update

    def absolute(self: Codebook, x: Tensor, index: Tensor) -> None:
        self.dead_code_threshold = (
            10.0
            * self.size
            / float(self.sizes.lerp(torch.bincount(index).to(self.sizes), 1 - self.decay).sum())
        )
        update(self, x, index)

    patch.setattr(Codebook, "update", absolute)


def statistics_of_one_rank(patch: Patch) -> None:
    patch.setattr(codebook, "sum_over_ranks", lambda x: x)


def draws_of_one_rank(patch: Patch) -> None:
    patch.setattr(codebook, "gather_over_ranks", lambda x: x)


def autocast_left_on(patch: Patch) -> None:
    patch.setattr(Quantizer, "forward", lambda self, z, mask=None: self._quantize(z, mask))
    patch.setattr(
        vq,
        "nearest_codes",
        lambda x, e: torch.addmm(e.square().sum(1), x, e.t(), alpha=-2).argmin(1),
    )


def the_usual_straight_through(patch: Patch) -> None:
    patch.setitem(ESTIMATORS, "straight_through", lambda z, q: z + (q - z).detach())


def averages_first(patch: Patch) -> None:
    def early(self: VectorQuantizer, z: Tensor, mask: Tensor | None) -> Quantized:
        if self.training and self.codebook.started:
            self.codebook.update(
                z.transpose(1, 2).flatten(0, 1).detach(), self._encode(z).flatten()
            )
        return quantize(self, z, mask)

    patch.setattr(VectorQuantizer, "_quantize", early)


def time_slices(patch: Patch) -> None:
    def sliced(self: VectorQuantizer, z: Tensor, mask: Tensor | None) -> Quantized:
        B, D, F = z.shape
        return quantize(self, z.reshape(B, F, D).transpose(1, 2), mask)

    patch.setattr(VectorQuantizer, "_quantize", sliced)


def a_mask_that_is_not_heard(patch: Patch) -> None:
    patch.setattr(VectorQuantizer, "_quantize", lambda self, z, mask: quantize(self, z, None))


def evaluation_that_learns(patch: Patch) -> None:
    patch.setattr(
        VectorQuantizer, "_quantize", lambda self, z, mask: quantize(self.train(), z, mask)
    )


def a_recomputation_that_learns(patch: Patch) -> None:
    patch.setattr(vq, "recomputing", lambda: False)


def a_state_without_sizes(patch: Patch) -> None:
    start = Codebook.__init__

    def lossy(self: Codebook, size: int, dim: int, **settings: float) -> None:
        start(self, size, dim, **settings)
        self._non_persistent_buffers_set.add("sizes")

    patch.setattr(Codebook, "__init__", lossy)


def straight_through_at_every_stage(patch: Patch) -> None:
    def per_stage(self: ResidualQuantizer, z: Tensor, mask: Tensor | None) -> Quantized:
        left, total, parts = z, torch.zeros_like(z), []
        for stage in self.stages:
            parts.append(stage(left, mask))
            left, total = left - parts[-1].z, total + parts[-1].z
        return Quantized(total, torch.cat([p.codes for p in parts], 1), base.mean_losses(parts), {})

    patch.setattr(ResidualQuantizer, "_quantize", per_stage)


def a_dropout_that_never_draws_all(patch: Patch) -> None:
    patch.setattr(
        ResidualQuantizer,
        "draw_depths",
        lambda self, items, device: torch.randint(1, self.num_codebooks, (items,)),
    )


def jitter_without_gradient(patch: Patch) -> None:
    forward = TimeJitter.forward
    patch.setattr(
        TimeJitter, "forward", lambda self, z, mask=None: forward(self, z.detach(), mask) + 0.0 * z
    )


def jitter_of_p_on_each_side(patch: Patch) -> None:
    start = TimeJitter.__init__
    patch.setattr(TimeJitter, "__init__", lambda self, p: start(self, 2 * p))


def ranks_agree(folder: Path) -> None:
    RANKS.test_all_ranks_keep_the_same_codebook(RANKS.in_two_processes(RANKS.quantize_here, folder))


MISTAKES: list[tuple[int, Callable[[Patch], None], Callable[[], object]]] = [
    (1, sums_that_are_not_scaled, EMA.test_the_start_places_consistent_codes),
    (1, counts_that_start_at_zero, EMA.test_unused_codes_stay_where_they_are),
    (2, smoothing_written_back, EMA.test_smoothing_is_never_written_back),
    (3, a_restart_that_forgets_the_size, EMA.test_a_restarted_code_is_moved_with_its_sum_and_size),
    (
        3,
        an_absolute_restart_threshold,
        lambda: EMA.test_the_restart_threshold_does_not_depend_on_the_batch_size(10),
    ),
    (5, autocast_left_on, lambda: ALL.test_codes_do_not_depend_on_autocast("ema", torch.float32)),
    (
        6,
        the_usual_straight_through,
        lambda: ALL.test_forward_encode_and_decode_agree_bit_for_bit("ema"),
    ),
    (7, averages_first, lambda: ALL.test_quantize_first_update_after("ema")),
    (8, time_slices, EMA.test_codes_are_the_nearest_by_channel_vectors),
    (9, a_mask_that_is_not_heard, lambda: ALL.test_padding_enters_nothing("ema")),
    (10, evaluation_that_learns, lambda: ALL.test_evaluation_changes_nothing("ema")),
    (10, a_recomputation_that_learns, lambda: ALL.test_a_checkpointed_forward_learns_once("ema")),
    (11, a_state_without_sizes, lambda: ALL.test_a_saved_state_goes_on_bit_for_bit("ema")),
    (
        12,
        straight_through_at_every_stage,
        PARTS.test_residual_gradient_is_the_identity_and_every_stage_commits,
    ),
    (12, a_dropout_that_never_draws_all, PARTS.test_dropout_draws_every_depth_alike),
    (13, jitter_without_gradient, EMA.test_jitter_moves_whole_vectors_and_their_gradient),
    (13, jitter_of_p_on_each_side, EMA.test_jitter_takes_neighbours_with_total_probability_p),
]


@pytest.mark.parametrize(
    ("pitfall", "plant", "law"),
    MISTAKES,
    ids=[f"{n}: {plant.__name__}" for n, plant, _ in MISTAKES],
)
def test_a_planted_mistake_is_found(
    monkeypatch: pytest.MonkeyPatch,
    pitfall: int,
    plant: Callable[[Patch], None],
    law: Callable[[], object],
) -> None:
    law()
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        law()


@pytest.mark.parametrize("plant", [statistics_of_one_rank, draws_of_one_rank])
def test_a_mistake_between_ranks_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, plant: Callable[[Patch], None]
) -> None:
    """Pitfall 4.

    The forked processes inherit the mistake: their codes part, or one waits for the other for ever.
    """
    monkeypatch.setattr(RANKS, "PATIENCE", 8.0)
    monkeypatch.setattr(RANKS, "BUILT", {"ema": RANKS.BUILT["ema"]})
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        ranks_agree(tmp_path)


def test_the_defaults_are_the_paper() -> None:
    """Pitfall 14."""
    for kind in (vq.EMAQuantizerSpec(), vq.GradientQuantizerSpec()):
        assert (kind.gradient_estimator, kind.l2_normalize, kind.codebook_dim, kind.entropy) == (
            "straight_through",
            False,
            None,
            None,
        )
