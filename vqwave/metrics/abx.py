"""ABX: is X closer to A, of its own category, than to B of another? How well a representation
separates categories.

N tokens of F frames and D dimensions; L categories, S speakers. Frames are compared by angle,
tokens by dynamic time warping. Own, vectorised over tokens: the usual package wants item files on
disk, and a compiler. Schatz et al., 2013, "Evaluating speech features with the Minimal-Pair ABX
task".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vqwave.metrics.bootstrap import Estimate

Frames = NDArray[np.floating]
CELLS = 1 << 21  # of warping tables held at once


@dataclass(frozen=True)
class ABX:
    """Error rates, 0.5 for a representation without information; None where there is no triple."""

    within: Estimate | None
    across: Estimate | None


def token_distances(tokens: Sequence[Frames]) -> NDArray[np.float64]:
    """Tokens (F_i, D) -> distances (N, N): mean angle of two frames, in halves of a turn, along the
    cheapest warping path.

    0 for equal directions, 1 for opposite ones. Of equally cheap paths the shortest counts, as in
    `spectral.warped_distance`.
    """
    lengths = np.array([len(token) for token in tokens])
    most, dim = lengths.max(), tokens[0].shape[1]
    padded = np.zeros((len(tokens), most, dim))
    for i, token in enumerate(tokens):
        norm = np.linalg.norm(token, axis=1, keepdims=True)
        padded[i, : len(token)] = token / np.where(norm > 0, norm, 1.0)
    first, second = np.triu_indices(len(tokens), 1)
    order = np.argsort(np.maximum(lengths[first], lengths[second]), kind="stable")
    first, second = first[order], second[order]
    result = np.zeros((len(tokens), len(tokens)))
    start = 0
    while start < len(first):
        step = max(
            1,
            CELLS
            // int(np.maximum(lengths[first], lengths[second])[min(start + 4096, len(first) - 1)])
            ** 2,
        )
        pairs = slice(start, start + step)
        n, m = lengths[first[pairs]], lengths[second[pairs]]
        cosines = padded[first[pairs], : n.max()] @ padded[second[pairs], : m.max()].transpose(
            0, 2, 1
        )
        result[first[pairs], second[pairs]] = warped_distances(
            np.arccos(cosines.clip(-1, 1)) / np.pi, n, m
        )
        start += step
    return result + result.T


def warped_distances(
    cost: NDArray[np.float64], n: NDArray[np.int64], m: NDArray[np.int64]
) -> NDArray[np.float64]:
    """`spectral.warped_distance` of P tables at once: cost (P, N, M), of which n x m entries (P,)
    are real -> (P,).
    """
    P, N, M = cost.shape
    total, steps = np.full((3, P, N + 1), np.inf), np.zeros((3, P, N + 1))
    result, last = np.zeros(P), n + m - 2
    for k in range(N + M - 1):
        low, high = max(0, k - M + 1), min(N - 1, k)
        here, before, behind = k % 3, (k - 1) % 3, (k - 2) % 3
        rows, above = slice(low + 1, high + 2), slice(low, high + 1)
        i = np.arange(low, high + 1)
        ways = np.stack([total[behind, :, above], total[before, :, rows], total[before, :, above]])
        counts = np.stack(
            [steps[behind, :, above], steps[before, :, rows], steps[before, :, above]]
        )
        best = ways.min(0) if k else np.zeros((P, 1))
        total[here] = np.inf
        total[here, :, rows] = best + cost[:, i, k - i]
        steps[here, :, rows] = 1 + (np.where(ways == best, counts, np.inf).min(0) if k else 0)
        done = np.flatnonzero(last == k)
        result[done] = total[here, done, n[done]] / steps[here, done, n[done]]
    return result


def abx(
    distances: NDArray[np.float64],
    labels: Sequence[str],
    speakers: Sequence[str],
    *,
    resamples: int = 300,
    seed: int = 0,
) -> ABX:
    """Error rates within speakers (A, B and X by one) and across (A and B by one, X by another),
    from distances (N, N).

    A triple is wrong where X is closer to B than to A, half wrong where it is as close. Averaged
    over triples of one cell (the two categories, the speaker of A and B, that of X), over speakers,
    then over pairs of categories. Intervals draw the tokens X.
    """
    names, voices = sorted(set(labels)), sorted(set(speakers))
    label = np.array([names.index(value) for value in labels])
    speaker = np.array([voices.index(value) for value in speakers])
    wrong = _wrong(distances, label, speaker, len(names), len(voices))  # (N, S, L)
    same = speaker[:, None] == np.arange(len(voices))  # (N, S)
    within, across = (np.where(side[..., None], wrong, np.nan) for side in (same, ~same))
    cells = label * len(voices) + speaker
    shape = (len(names), len(voices))
    return ABX(*(_averaged(part, cells, shape, resamples, seed) for part in (within, across)))


def _wrong(
    distances: NDArray[np.float64],
    label: NDArray[np.int64],
    speaker: NDArray[np.int64],
    names: int,
    voices: int,
) -> NDArray[np.float64]:
    """(N, S, L): share of wrong triples for each X, speaker of A and B, and category of B; NaN
    where there is none.
    """
    result = np.full((len(label), voices, names), np.nan)
    for x in range(len(label)):
        for s in range(voices):
            theirs = speaker == s
            a = np.flatnonzero(theirs & (label == label[x]) & (np.arange(len(label)) != x))
            b = np.flatnonzero(theirs & (label != label[x]))
            if not len(a) or not len(b):
                continue
            near, far = distances[x, a][:, None], distances[x, b][None]
            share = ((far < near) + 0.5 * (far == near)).mean(0)  # (b,)
            counts = np.bincount(label[b], minlength=names)
            sums = np.bincount(label[b], share, minlength=names)
            result[x, s] = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    return result


def _averaged(
    wrong: NDArray[np.float64],
    cells: NDArray[np.int64],
    shape: tuple[int, int],
    resamples: int,
    seed: int,
) -> Estimate | None:
    there = np.isfinite(wrong)
    tokens = np.flatnonzero(there.any((1, 2)))
    if not len(tokens):
        return None
    values, known = (
        np.nan_to_num(wrong).reshape(len(wrong), -1),
        there.reshape(len(wrong), -1).astype(np.float64),
    )
    groups = np.zeros((shape[0] * shape[1], len(wrong)))
    groups[cells, np.arange(len(wrong))] = 1.0

    def rate(weights: NDArray[np.float64]) -> float:
        resampled = groups * weights
        # (L S, S L): cells by (category and speaker of X, speaker of A and B, category of B)
        counts = resampled @ known
        with np.errstate(invalid="ignore", divide="ignore"):
            by_cell = (resampled @ values / counts).reshape(*shape, shape[1], shape[0])
        seen = np.isfinite(by_cell)
        sums, filled = np.nan_to_num(by_cell).sum((1, 2)), seen.sum((1, 2))  # (L of A, L of B)
        return float((sums[filled > 0] / filled[filled > 0]).mean())

    rng = np.random.default_rng(seed)
    draws = []
    for _ in range(resamples):
        weights = np.zeros(len(wrong))
        weights[tokens] = rng.multinomial(len(tokens), np.full(len(tokens), 1 / len(tokens)))
        draws.append(rate(weights))
    value = rate(np.ones(len(wrong)))
    low, high = np.quantile(draws, [0.025, 0.975]) if draws else (value, value)
    return Estimate(value, float(low), float(high), len(tokens))
