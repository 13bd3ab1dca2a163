"""The perceptual loss: two sounds are alike if a classifier's features have the same
correlations.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vqwave.models.classifier import Classifier


def gram(features: Tensor, frames: Tensor | None = None) -> Tensor:
    """F F^T / (C F): correlations of the channels over time, whatever their place.

    features (B, C, F) -> (B, C, C).

    frames: how many of the F are not padding, (B, 1, 1), where the others are zero.
    """
    _, C, columns = features.shape
    return features @ features.transpose(1, 2) / (C * (columns if frames is None else frames))


def style_loss(classifier: Classifier, x: Tensor, y: Tensor, mask: Tensor | None = None) -> Tensor:
    r""":math:`\sum_l \| G_l(x) - G_l(y) \|_F^2` over the classifier's layers, mean over the batch.

    x, y, mask (B, T).

    The classifier is frozen; gradients flow through it into x. Of the paper's two forms, features
    and style, the style form was the better. References: van den Oord et al., 2018, sec. 4.2.
    arXiv:1711.10433; Gatys et al., 2016, eq. 3 to 5
    """
    features = classifier.features(x, mask)
    frames = classifier.columns(x, mask, features[0].shape[-1]).sum(-1, keepdim=True).clamp(min=1.0)
    with torch.no_grad():
        wanted = [gram(each, frames) for each in classifier.features(y, mask)]
    errors = [gram(mine, frames) - target for mine, target in zip(features, wanted, strict=True)]
    return torch.stack([error.square().sum((1, 2)).mean() for error in errors]).sum()
