"""What the codes are like: how they are used, what they tell of phones, words and speakers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vqwave.data import Corpus
from vqwave.evaluate.material import Material
from vqwave.evaluate.result import Figure, Matrix, Result
from vqwave.features import MFCCSpec
from vqwave.metrics.bootstrap import bootstrap, ratio
from vqwave.metrics.mapping import CodeMap, frame_labels
from vqwave.nn.codebook import k_means, nearest_codes

FITTED = 1500  # training utterances that a map is fitted on
CLUSTERED = 20_000  # frames that cepstra are clustered on
SHOWN = 96  # codes of the map that are shown
PAPER = "49.3 % of 41 phones from 128 codes at 25 Hz, on another corpus: van den Oord et al., 2017, sec. 4.3"


def codes(material: Material, result: Result) -> None:
    """Perplexity, dead codes, nominal and empirical bit rate (N / D x entropy, as ZeroSpeech counts it)."""
    material.need(material.has_codes, "the model has no codes")
    coded = material.coded
    books, size = coded[0].codes.shape[0], coded[0].size
    counts = np.stack([[np.bincount(book, minlength=size) for book in item.codes.numpy()] for item in coded])  # (N, Q, K)
    seconds, frames = np.array([item.seconds for item in coded]), np.array([item.codes.shape[1] for item in coded])
    resamples = material.settings.resamples

    def entropies(sums: NDArray[np.float64]) -> NDArray[np.float64]:
        drawn = sums[:, : books * size].reshape(-1, books, size)
        p = drawn / drawn.sum(-1, keepdims=True)
        return -(p * np.log2(np.where(p > 0, p, 1.0))).sum(-1)  # (R, Q)

    flat = np.concatenate([counts.reshape(len(coded), -1), frames[:, None], seconds[:, None]], 1).astype(np.float64)
    spread = bootstrap(flat, lambda sums: (2 ** entropies(sums)).mean(1), resamples=resamples, centred=True)
    rate = bootstrap(flat, lambda sums: entropies(sums).sum(1) * sums[:, -2] / sums[:, -1], resamples=resamples, centred=True)
    nominal = material.codec.model.bit_rate(material.rate)
    result.add(
        "codes.perplexity",
        "codebook perplexity" + (", mean of the books" if books > 1 else ""),
        "codes",
        "higher",
        {"ceiling": Figure(float(size), what="even use"), "model": Figure.of(spread), "floor": Figure(1.0, what="one code")},
    )
    dead = int((counts.sum(0) == 0).sum())
    result.add("codes.dead", f"codes never used, of {books * size:,}", "codes", "lower", {"model": Figure(float(dead))})
    raw = Figure(16.0 * material.rate, what="16-bit samples")
    result.add("codes.nominal_rate", "bit rate, nominal", "bit/s", "lower", {"model": Figure(nominal), "floor": raw})
    result.add("codes.entropy_rate", "bit rate, empirical (entropy)", "bit/s", "lower", {"model": Figure.of(rate), "floor": raw})


def mapping(material: Material, result: Result) -> None:
    """Each code stands for the phone (or word) it goes with most in training: how many held-out frames that names rightly."""
    material.need(material.has_codes, "the model has no codes")
    corpus = material.corpus
    aligned = all(u.phones for u in corpus.utterances)
    material.need(aligned or "text" in corpus.labels, "the corpus has neither aligned phones nor few words that are said again")
    kind = "phones" if aligned else "words"
    train = corpus.of("train")[:: max(1, len(corpus.of("train")) // FITTED)]
    codes_train = []
    with material.stage("encoding training recordings", len(train), "utterances") as advance:
        for row in train:
            codes_train.append(material.codec.codes_of(torch.from_numpy(_read(material, row))).numpy())
            advance(1)
    hop = material.codec.model.hop
    truth_train = [_truth(corpus, row, c.shape[1], hop) for row, c in zip(train, codes_train, strict=True)]
    fitted = CodeMap.fit(codes_train, truth_train)
    test = [item.codes.numpy() for item in material.coded]
    truth = [_truth(corpus, row, c.shape[1], hop) for row, c in zip(material.rows, test, strict=True)]
    figures = {
        "ceiling": _accuracy(
            material, _clustered(material, train, truth_train, len(fitted.kinds)), truth, "as many clusters of MFCC"
        ),
        "model": _accuracy(material, [fitted.read(c) for c in test], truth),
        "floor": _accuracy(material, [[fitted.commonest] * len(row) for row in truth], truth, f"always {fitted.commonest!r}"),
    }
    title = f"codes to {kind}: frames named rightly, of {len(fitted.labels)} {kind}"
    result.add("map.accuracy", title, "%", "higher", figures, f"the paper's: {PAPER}" if aligned else "")
    result.matrices.append(_map_matrix(fitted, kind))


def _read(material: Material, row: int) -> NDArray[np.float32]:
    return material.corpus.read(row, 0, round(material.settings.seconds * material.rate))


def _truth(corpus: Corpus, row: int, frames: int, hop: int) -> list[str]:
    u = corpus.utterances[row]
    return frame_labels(u.phones, frames, hop) if u.phones else [u.labels["text"]] * frames


def _accuracy(material: Material, said: Sequence[Sequence[str]], truth: Sequence[Sequence[str]], what: str = "") -> Figure:
    sums = [[sum(a == b for a, b in zip(x, y, strict=True)), len(y)] for x, y in zip(said, truth, strict=True)]
    return Figure.of(bootstrap(np.array(sums, np.float64), ratio, resamples=material.settings.resamples), what, 100)


def _clustered(material: Material, train: Sequence[int], truth: Sequence[Sequence[str]], size: int) -> list[list[str]]:
    """The same map from k-means clusters of the recordings' cepstra, as many as codes in use, at the codes' frame rate."""
    hop = material.codec.model.hop
    mfcc = MFCCSpec(hop_ms=1000 * hop / material.rate, window_ms=max(25.0, 1000 * hop / material.rate)).build(material.rate)

    def frames(row: int) -> Tensor:
        wave = torch.from_numpy(_read(material, row))
        return mfcc(torch.nn.functional.pad(wave, (0, -len(wave) % hop))[None])[0].T  # (F, C)

    with material.stage("clustering cepstra", len(train), "utterances") as advance:
        heard = []
        for row in train:
            heard.append(frames(row))
            advance(1)
    every = torch.cat(heard)
    centre, spread = every.mean(0), every.std(0).clamp_min(1e-6)
    chosen = every[torch.randperm(len(every), generator=torch.Generator().manual_seed(0))[:CLUSTERED]]
    centres, _ = k_means((chosen - centre) / spread, size)

    def clusters(x: Tensor) -> NDArray[np.int64]:
        return nearest_codes((x - centre) / spread, centres)[None].numpy()

    fitted = CodeMap.fit([clusters(x) for x in heard], truth)
    return [fitted.read(clusters(frames(row))) for row in material.rows]


def _map_matrix(fitted: CodeMap, kind: str) -> Matrix:
    """Share of each code's training frames by label, in percent: the most used codes, those of one label side by side."""
    used = np.argsort(-fitted.counts.sum(0))[:SHOWN]
    share = 100 * fitted.counts[:, used] / fitted.counts[:, used].sum(0)
    order = np.lexsort((-share.max(0), share.argmax(0)))
    names = ["/".join(map(str, kind_)) for kind_ in fitted.kinds[used][order].tolist()]
    values = [[round(float(cell), 1) for cell in row] for row in share[:, order]]
    return Matrix("map", f"codes and {kind}", kind, "codes", fitted.labels, names, values, "% of a code's frames")
