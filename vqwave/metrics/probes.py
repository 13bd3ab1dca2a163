"""What can be read from codes: a small classifier is trained on those of some utterances and tested
on those of others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from vqwave.distributed.threads import limited_to


@dataclass(frozen=True)
class Probe:
    """Share of the test utterances that are classified correctly, and `chance`, that of always
    predicting the commonest training label.
    """

    accuracy: float
    chance: float
    utterances: int
    right: tuple[bool, ...] = ()  # of each test utterance


class ProbeNetwork(nn.Module):
    """Two convolutions over the frames, mean and maximum over time, one linear layer."""

    def __init__(self, dim: int, classes: int, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(dim, channels, 5, padding="same")
        self.second = nn.Conv1d(channels, channels, 5, padding="same")
        self.out = nn.Linear(2 * channels, classes)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (B, D, F), mask (B, 1, F) -> logits (B, classes).

        Padding is kept at zero in each layer.
        """
        h = F.relu(self.first(x)) * mask
        h = F.relu(self.second(F.dropout(h, 0.2, self.training))) * mask
        return self.out(torch.cat([h.sum(2) / mask.sum(2), h.amax(2)], 1))


@limited_to(1)
def probe_accuracy(
    train_codes: Sequence[Tensor],
    train_labels: Tensor,
    test_codes: Sequence[Tensor],
    test_labels: Tensor,
    *,
    channels: int = 64,
    steps: int = 300,
    batch: int = 32,
    seed: int = 0,
) -> Probe:
    """Embedded codes (D, F) of each utterance, labels (N,) from 0 -> how well they predict these.

    The same network, steps and draws for every caller, on any number of threads: codes of the same
    frame rate can be compared. High for what codes should keep (words), low, down to `chance`, for
    what they should not (the speaker).
    """
    (x, mask), (y, test_mask) = _pad(train_codes), _pad(test_codes)
    total = mask.sum()
    mean = (x * mask).sum((0, 2), keepdim=True) / total
    deviation = (
        (((x - mean) * mask).square().sum((0, 2), keepdim=True) / total).sqrt().clamp(min=1e-6)
    )
    x, y = (x - mean) / deviation * mask, (y - mean) / deviation * test_mask
    classes = int(max(train_labels.max(), test_labels.max())) + 1
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        network = ProbeNetwork(x.shape[1], classes, channels).train()
        optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.01)
        for _ in range(steps):
            rows = torch.randint(len(x), (batch,))
            loss = F.cross_entropy(network(x[rows], mask[rows]), train_labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        right = network.eval()(y, test_mask).argmax(1) == test_labels
    commonest = torch.bincount(train_labels).argmax()
    chance = float((test_labels == commonest).float().mean())
    return Probe(float(right.float().mean()), chance, len(test_labels), tuple(right.tolist()))


def _pad(codes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """[(D, F_i)] -> (N, D, F), and the mask (N, 1, F)."""
    x = pad_sequence([item.t().float() for item in codes], batch_first=True).transpose(1, 2)
    lengths = torch.tensor([item.shape[1] for item in codes])
    return x, (torch.arange(x.shape[2]) < lengths[:, None])[:, None].float()
