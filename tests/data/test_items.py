"""A corpus as a data set of complete utterances, in a loader with and without workers."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
import torch
from torch.utils.data import DataLoader, Dataset, Subset

from vqwave.data import Corpus, collate_items, prepare
from vqwave.errors import UserInputError

RATE, SPLITS = 8000, ("train", "train", "train", "valid", "test")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    root = tmp_path_factory.mktemp("items")
    rows = ["path,speaker,text,split,accent"]
    for k, length in enumerate([900, 1600, 1200, 800, 700]):
        tone = 0.1 * np.sin(2 * np.pi * (150 + 20 * k) * np.arange(length) / RATE)
        soundfile.write(root / f"{k}.wav", tone, RATE)
        rows.append(f"{k}.wav,{'ab'[k % 2]},text {k},{SPLITS[k]},x{k // 2}")
    (root / "manifest.csv").write_text("\n".join(rows))
    prepare("manifest", root, root / "corpus", quiet=True)
    (root / "corpus" / "vectors").mkdir()
    np.save(root / "corpus" / "vectors" / "xvector.npy", np.arange(15.0).reshape(5, 3))
    return Corpus.open(root / "corpus")


def test_an_item_is_what_the_corpus_has(corpus: Corpus) -> None:
    assert isinstance(corpus, Dataset)
    assert len(corpus) == 5
    for i, item in enumerate(corpus):
        assert (item["index"], item["id"], item["text"]) == (i, str(i), f"text {i}")
        assert torch.equal(item["wave"], torch.from_numpy(corpus.read(i)))
        assert torch.equal(item["f0"], torch.from_numpy(corpus.f0(i)))
        assert item["labels"].keys() == {"speaker", "accent", "xvector"}
        assert corpus.labels["speaker"][item["labels"]["speaker"]] == "ab"[i % 2]
        assert item["labels"]["xvector"].tolist() == [3.0 * i, 3.0 * i + 1, 3.0 * i + 2]
    assert corpus[-1]["id"] == "4"
    assert torch.equal(corpus[-1]["f0"], corpus[4]["f0"])
    for beyond in (5, -6):
        with pytest.raises(IndexError):
            corpus[beyond]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_pads_with_zeros(corpus: Corpus, workers: int) -> None:
    train = Subset(corpus, corpus.of("train"))
    loader = DataLoader(train, batch_size=3, collate_fn=collate_items, num_workers=workers)
    (batch,) = loader
    assert batch["lengths"].tolist() == [900, 1600, 1200]
    assert batch["wave"].shape == (3, 1600)
    assert batch["text"] == ["text 0", "text 1", "text 2"]
    assert batch["index"].tolist() == [0, 1, 2]
    assert batch["labels"]["xvector"].shape == (3, 3)
    assert batch["labels"]["speaker"].tolist() == [0, 1, 0]
    for b in range(3):
        item, n = corpus[b], len(corpus[b]["wave"])
        assert torch.equal(batch["wave"][b, :n], item["wave"])
        assert not batch["wave"][b, n:].any()
        assert torch.equal(batch["f0"][b, : len(item["f0"])], item["f0"])


def test_no_items_are_refused() -> None:
    with pytest.raises(UserInputError, match="collate_items: no utterances"):
        collate_items([])
