"""An entropy term for codebooks: sure of each vector, even over all of them."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from vqwave.config import option, spec
from vqwave.distributed.collectives import sum_over_ranks, world_size
from vqwave.nn.quantize.codebook import centred_scores


@spec
class EntropySpec:
    """Loss `entropy`: the entropy of the soft assignment of each vector, less that of their mean.

    Needs a weight in `losses`.
    """

    temperature: Annotated[float, Field(gt=0)] = option(
        default=1.0, help="of the soft assignment: softmax of -|z - e|^2 / temperature"
    )
    diversity: Annotated[float, Field(ge=0)] = option(
        default=1.0, help="weight of the even use of all codes against sureness"
    )


def assignment_entropy(x: Tensor, codes: Tensor, spec: EntropySpec) -> Tensor:
    r"""Mean entropy of p(k | x), less the entropy of the mean p(k), in nats.

    x (N, D) of this rank, codes (K, D).

    .. math:: L = E[H(p(k|x))] - \gamma H(E[p(k|x)]),\quad p(k|x) \propto \exp(-|x - e_k|^2 / \tau)

    The mean is over all ranks; its gradient is such that DDP's average over ranks is that of the
    joined batch.

    Reference: Yu et al., 2024 (MAGVIT-v2), eq. 5, here by distances. arXiv:2310.05737
    """
    scores = centred_scores(x, codes)  # what they lack of the squares cancels in the softmax
    log_p = (-scores / spec.temperature).log_softmax(1)  # (N, K)
    p = log_p.exp()
    count = (
        sum_over_ranks(torch.tensor(float(len(x)), device=x.device)).clamp(min=1.0) / world_size()
    )
    mine = p.sum(0) / count
    mean = mine + (sum_over_ranks(mine.detach()) / world_size() - mine).detach()
    # at 0, where no vector is near a code, the slope of the entropy is infinite
    mean = torch.where(mean > 0, mean, 1.0)
    return -(p * log_p).sum() / count - spec.diversity * torch.special.entr(mean).sum()
