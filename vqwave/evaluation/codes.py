"""Statistics of the codes: how they are used, and which phones or words they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vqwave.data import Corpus
from vqwave.evaluation.context import EvaluationContext
from vqwave.evaluation.result import Matrix, MetricValue, Result
from vqwave.features import MFCCSpec
from vqwave.metrics.bootstrap import bootstrap, ratio
from vqwave.metrics.code_to_label import CodeMap, frame_labels
from vqwave.nn.quantize import Quantizer
from vqwave.nn.quantize.codebook import k_means, nearest_codes

FITTED = 1500  # training utterances that a map is fitted on
CLUSTERED = 20_000  # frames that cepstra are clustered on
SHOWN = 96  # codes of the map that are shown
PAPER = (
    "49.3 % of 41 phones from 128 codes at 25 Hz, on another corpus: van den Oord et al., 2017,"
    " sec. 4.3"
)


@dataclass(frozen=True)
class Use:
    """How often each code of a stream is used, by utterance.

    sums (N, Q K + 1): counts, and then frames; codes_per_frame (Q): see `Quantizer`.
    """

    key: str
    name: str
    sums: NDArray[np.float64]
    num_codebooks: int
    size: int
    codes_per_frame: Sequence[float]

    @classmethod
    def of(cls, key: str, name: str, codes: Sequence[Tensor], quantizer: Quantizer) -> Use:
        """codes: (Q, F) of each utterance."""
        size = quantizer.codebook_size
        counts = [[np.bincount(row, minlength=size) for row in each.numpy()] for each in codes]
        frames = np.array([[each.shape[1]] for each in codes], np.float64)
        sums = np.concatenate([np.reshape(counts, (len(codes), -1)), frames], 1)
        return cls(key, name, sums, codes[0].shape[0], size, quantizer.codes_per_frame)

    def entropies(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sums over resampled utterances (R, Q K + 1) -> bits a frame of each codebook (R, Q)."""
        counts = sums[:, :-1].reshape(-1, self.num_codebooks, self.size)
        p = counts / counts.sum(-1, keepdims=True)
        return -(p * np.log2(np.where(p > 0, p, 1.0))).sum(-1)

    def bits(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        """(R, Q K + 1) -> (R,): bits of all of their codes."""
        return self.entropies(sums) @ np.array(self.codes_per_frame) * sums[:, -1]

    def report(self, result: Result, resamples: int) -> None:
        """Perplexity, and how many codes are never used."""
        spread = bootstrap(
            self.sums,
            lambda sums: (2 ** self.entropies(sums)).mean(1),
            resamples=resamples,
            centred=True,
        )
        figures = {
            "ceiling": MetricValue(float(self.size), what="even use"),
            "model": MetricValue.of(spread),
            "floor": MetricValue(1.0, what="one code"),
        }
        mean = ", mean of the books" if self.num_codebooks > 1 else ""
        title = f"{self.name} perplexity{mean}"
        result.add(f"{self.key}.perplexity", title, "codes", "higher", figures)
        dead = {"model": MetricValue(float((self.sums[:, :-1].sum(0) == 0).sum()))}
        prefix = "pitch " if self.key != "codes" else ""
        title = f"{prefix}codes never used, of {self.num_codebooks * self.size:,}"
        result.add(f"{self.key}.dead", title, "codes", "lower", dead)


def codes(context: EvaluationContext, result: Result) -> None:
    """Perplexity, dead codes, nominal and empirical bit rate (N / D x entropy, as ZeroSpeech counts
    it).
    """
    nominal, coded = context.vqvae.bit_rate(context.rate), context.coded
    content = [item.codes for item in coded]
    streams = [Use.of("codes", "codebook", content, context.vqvae.quantizer)]
    pitch = [item.pitch.codes for item in coded if item.pitch is not None]
    if pitch and context.vqvae.melody is not None:
        quantizer = context.vqvae.melody.codec.quantizer
        streams.append(Use.of("codes.pitch", "pitch codebook", pitch, quantizer))
    seconds, resamples = np.array([item.seconds for item in coded]), context.settings.resamples
    for use in streams:
        use.report(result, resamples)
    ends = np.cumsum([use.sums.shape[1] for use in streams])

    def rates(sums: NDArray[np.float64]) -> NDArray[np.float64]:
        parts = np.split(sums, ends, 1)  # of each stream; seconds
        bits = [use.bits(part) for use, part in zip(streams, parts[:-1], strict=True)]
        return np.sum(bits, 0) / parts[-1][:, 0]

    flat = np.concatenate([*(use.sums for use in streams), seconds[:, None]], 1)
    rate = bootstrap(flat, rates, resamples=resamples, centred=True)
    raw = MetricValue(16.0 * context.rate, what="16-bit samples")
    result.add(
        "codes.nominal_rate",
        "bit rate, nominal",
        "bit/s",
        "lower",
        {"model": MetricValue(nominal), "floor": raw},
    )
    result.add(
        "codes.entropy_rate",
        "bit rate, empirical (entropy)",
        "bit/s",
        "lower",
        {"model": MetricValue.of(rate), "floor": raw},
    )


def mapping(context: EvaluationContext, result: Result) -> None:
    """Each code stands for the phone (or word) that is most frequent with it in training: how many
    held-out frames that classifies correctly.
    """
    corpus, hop = context.corpus, context.vqvae.hop
    aligned = all(u.phones for u in corpus.utterances)
    context.need(
        aligned or "text" in corpus.labels,
        "the corpus has neither aligned phones nor few words that are said again",
    )
    kind = "phones" if aligned else "words"
    train = context.training[:: max(1, len(context.training) // FITTED)]
    codes_train = []
    with context.progress("encoding training recordings", len(train), "utterances") as advance:
        for row in train:
            wave = torch.from_numpy(context.read(row))
            codes_train.append(context.codec.codes_of(wave).numpy())
            advance(1)
    truth_train = [
        _truth(corpus, row, c.shape[1], hop) for row, c in zip(train, codes_train, strict=True)
    ]
    fitted = CodeMap.fit(codes_train, truth_train)
    test = [item.codes.numpy() for item in context.coded]
    truth = [
        _truth(corpus, row, c.shape[1], hop) for row, c in zip(context.rows, test, strict=True)
    ]
    figures = {
        "ceiling": _accuracy(
            context,
            _clustered(context, train, truth_train, len(fitted.kinds)),
            truth,
            "as many clusters of MFCC",
        ),
        "model": _accuracy(context, [fitted.read(c) for c in test], truth),
        "floor": _accuracy(
            context,
            [[fitted.commonest] * len(row) for row in truth],
            truth,
            f"always {fitted.commonest!r}",
        ),
    }
    title = f"codes to {kind}: frames named rightly, of {len(fitted.labels)} {kind}"
    note = f"the paper's: {PAPER}" if aligned else ""
    result.add("map.accuracy", title, "%", "higher", figures, note=note)
    result.matrices.append(_map_matrix(fitted, kind))


def _truth(corpus: Corpus, row: int, frames: int, hop: int) -> list[str]:
    u = corpus.utterances[row]
    return frame_labels(u.phones, frames, hop) if u.phones else [u.labels["text"]] * frames


def _accuracy(
    context: EvaluationContext,
    predicted: Sequence[Sequence[str]],
    truth: Sequence[Sequence[str]],
    what: str = "",
) -> MetricValue:
    sums = [
        [sum(a == b for a, b in zip(x, y, strict=True)), len(y)]
        for x, y in zip(predicted, truth, strict=True)
    ]
    return MetricValue.of(
        bootstrap(np.array(sums, np.float64), ratio, resamples=context.settings.resamples),
        what,
        100,
    )


def _clustered(
    context: EvaluationContext, train: Sequence[int], truth: Sequence[Sequence[str]], size: int
) -> list[list[str]]:
    """The same map from k-means clusters of the recordings' cepstra, as many as codes in use, at
    the codes' frame rate.
    """
    hop = context.vqvae.hop
    mfcc = MFCCSpec(
        hop_ms=1000 * hop / context.rate, window_ms=max(25.0, 1000 * hop / context.rate)
    ).build(context.rate)

    def frames(row: int) -> Tensor:
        wave = torch.from_numpy(context.read(row))
        return mfcc(torch.nn.functional.pad(wave, (0, -len(wave) % hop))[None])[0].T  # (F, C)

    with context.progress("clustering cepstra", len(train), "utterances") as advance:
        recorded = []
        for row in train:
            recorded.append(frames(row))
            advance(1)
    every = torch.cat(recorded)
    centre, spread = every.mean(0), every.std(0).clamp_min(1e-6)
    chosen = every[
        torch.randperm(len(every), generator=torch.Generator().manual_seed(0))[:CLUSTERED]
    ]
    centres, _ = k_means((chosen - centre) / spread, size)

    def clusters(x: Tensor) -> NDArray[np.int64]:
        return nearest_codes((x - centre) / spread, centres)[None].numpy()

    fitted = CodeMap.fit([clusters(x) for x in recorded], truth)
    return [fitted.read(clusters(frames(row))) for row in context.rows]


def _map_matrix(fitted: CodeMap, kind: str) -> Matrix:
    """Share of each code's training frames by label, in percent: the most used codes, those of one
    label next to each other.
    """
    used = np.argsort(-fitted.counts.sum(0))[:SHOWN]
    share = 100 * fitted.counts[:, used] / fitted.counts[:, used].sum(0)
    order = np.lexsort((-share.max(0), share.argmax(0)))
    names = ["/".join(map(str, kind_)) for kind_ in fitted.kinds[used][order].tolist()]
    values: list[list[float | None]] = [
        [round(float(cell), 1) for cell in row] for row in share[:, order]
    ]
    return Matrix(
        "map",
        f"codes and {kind}",
        kind,
        "codes",
        fitted.labels,
        names,
        values,
        "% of a code's frames",
    )
