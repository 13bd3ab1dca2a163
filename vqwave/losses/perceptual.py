"""The perceptual loss: two sounds are alike if a classifier's features have the same correlations."""

from __future__ import annotations

import torch
from torch import Tensor

from vqwave.models.classifier import Classifier


def gram(features: Tensor) -> Tensor:
    """F F^T / (C F): correlations of the channels over time, blind to where in time. features (B, C, F) -> (B, C, C)."""
    _, C, frames = features.shape
    return features @ features.transpose(1, 2) / (C * frames)


def style_loss(classifier: Classifier, x: Tensor, y: Tensor) -> Tensor:
    r""":math:`\sum_l \| G_l(x) - G_l(y) \|_F^2` over the classifier's layers, mean over the batch. x, y (B, T).

    The classifier is frozen; gradients flow through it into x. Of the paper's two forms, features and style, the style form
    was the better. References: van den Oord et al., 2018, sec. 4.2. arXiv:1711.10433; Gatys et al., 2016, eq. 3 to 5
    """
    with torch.no_grad():
        wanted = [gram(features) for features in classifier.features(y)]
    pairs = zip(classifier.features(x), wanted, strict=True)
    return torch.stack([(gram(features) - target).square().sum((1, 2)).mean() for features, target in pairs]).sum()
