"""Recordings -> a prepared corpus on disk -> batches of crops.

`prepare` writes a corpus, `Corpus.open` reads it. It is a data set of complete utterances, of which
`collate_items` makes batches; `Segments` with `StepSampler` (together:
`training_batches`) and `evaluation_batches` cut it into `Batch`es.
"""

from vqwave.data.corpus import Corpus, Utterance
from vqwave.data.items import Item, ItemBatch, collate_items
from vqwave.data.prepare import prepare
from vqwave.data.recipes import RECIPES, Recipe
from vqwave.data.sampler import StepSampler, counter_key
from vqwave.data.segments import (
    Batch,
    Crop,
    Segments,
    collate,
    evaluation_batches,
    evaluation_crops,
    training_batches,
)
from vqwave.data.summary import Summary

__all__ = [
    "RECIPES",
    "Batch",
    "Corpus",
    "Crop",
    "Item",
    "ItemBatch",
    "Recipe",
    "Segments",
    "StepSampler",
    "Summary",
    "Utterance",
    "collate",
    "collate_items",
    "counter_key",
    "evaluation_batches",
    "evaluation_crops",
    "prepare",
    "training_batches",
]
