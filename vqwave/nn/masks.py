"""What lies beyond the end of an utterance in a padded batch: zeros, as a convolution has them
around an utterance alone.

A convolution with bias makes something of padding, which the next one would carry into the last
frames of the utterance. Training would then see other frames there than use, where nothing follows.
So padding is set to zero before each convolution.
"""

from __future__ import annotations

from torch import Tensor


def stretched(mask: Tensor, columns: int) -> Tensor:
    """mask (B, F) of frames -> (B, columns) at a rate that is a whole multiple of theirs."""
    frames = mask.shape[-1]
    return mask if columns == frames else mask.repeat_interleave(columns // frames, 1)


def masked(x: Tensor, mask: Tensor | None) -> Tensor:
    """x (B, C, n F), zero in the columns of frames that are false in mask (B, F); x itself without
    a mask.
    """
    return x if mask is None else x.masked_fill(~stretched(mask, x.shape[-1])[:, None], 0.0)
