"""Quantizers: continuous latents -> codes of a finite alphabet, with gradients through.

All have one interface, `base.Quantizer`, also those from outside the package.
"""

from __future__ import annotations

from typing import Annotated

from vqwave.config import OpenTo
from vqwave.nn.quantize.base import (
    Quantized,
    Quantizer,
    QuantizerSpec,
    frame_mask,
    perplexity,
)
from vqwave.nn.quantize.entropy_loss import EntropySpec
from vqwave.nn.quantize.estimators import rotation, straight_through
from vqwave.nn.quantize.fsq import FSQuantizer, FSQuantizerSpec
from vqwave.nn.quantize.hierarchical import HierarchicalQuantizer, HierarchicalQuantizerSpec
from vqwave.nn.quantize.jitter import TimeJitter
from vqwave.nn.quantize.product import ProductQuantizer, ProductQuantizerSpec
from vqwave.nn.quantize.projected import Projected
from vqwave.nn.quantize.rvq import ResidualQuantizer, ResidualQuantizerSpec
from vqwave.nn.quantize.vq import EMAQuantizerSpec, GradientQuantizerSpec, VectorQuantizer

AnyQuantizerSpec = Annotated[
    EMAQuantizerSpec
    | GradientQuantizerSpec
    | FSQuantizerSpec
    | ProductQuantizerSpec
    | ResidualQuantizerSpec
    | HierarchicalQuantizerSpec,
    OpenTo(QuantizerSpec),
]

__all__ = [
    "AnyQuantizerSpec",
    "EMAQuantizerSpec",
    "EntropySpec",
    "FSQuantizer",
    "FSQuantizerSpec",
    "GradientQuantizerSpec",
    "HierarchicalQuantizer",
    "HierarchicalQuantizerSpec",
    "ProductQuantizer",
    "ProductQuantizerSpec",
    "Projected",
    "Quantized",
    "Quantizer",
    "QuantizerSpec",
    "ResidualQuantizer",
    "ResidualQuantizerSpec",
    "TimeJitter",
    "VectorQuantizer",
    "frame_mask",
    "perplexity",
    "rotation",
    "straight_through",
]
