"""Held-out likelihood, and what it loses when codes, frames or speakers are shuffled among
utterances; a prior's bits a code.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from vqwave.codes import CodeSequence
from vqwave.data import Batch, collate
from vqwave.data.corpus import Utterance
from vqwave.data.frame_tracks import carried
from vqwave.data.segments import read_crop
from vqwave.evaluation.context import ONE, EvaluationContext
from vqwave.evaluation.result import MetricValue, Result
from vqwave.metrics import likelihood
from vqwave.metrics.bootstrap import bootstrap, mean
from vqwave.metrics.code_likelihood import baselines
from vqwave.models import WaveNet
from vqwave.models.melody import VOICE
from vqwave.models.wavenet import WaveNetState
from vqwave.nn.causal import shift_right
from vqwave.nn.condition import Condition

SAMPLES = 1 << 17  # of a batch
CHUNK = 1 << 14  # samples of each utterance that are computed at once
TRAINED = 200  # training recordings that the baselines are fitted on


def nll(material: EvaluationContext, result: Result) -> None:
    """Bits a sample of whole held-out utterances; with the codes (or frames) of others; with the
    labels of others.
    """
    material.need(
        material.scores, "the model's decoder is a student, which gives no likelihood of recordings"
    )
    decoder = material.codec.decoder
    variants = ["model"]
    for name in _shuffled(material):
        if name == "shuffled speakers" and material.several and not _other_voices(material):
            why = "needs utterances of two speakers, and of one are measured"
            result.skipped[f"cost under {name}"] = why
        elif not material.several:
            result.skipped[f"cost under {name}"] = ONE
        else:
            variants.append(name)
    costs = {name: np.zeros(len(material.rows)) for name in variants}
    lengths = np.array([len(wave) for wave in material.waves], np.float64)
    with material.stage(
        "likelihood", len(variants) * lengths.sum() / material.rate, "s of speech"
    ) as advance:
        for places in _batches(material):
            batch = _batch(material, places)
            for name in variants:
                condition = _condition(material, places, batch, name)
                costs[name][places] = _bits(decoder, batch, condition)
                advance(lengths[places].sum() / material.rate)
    resamples, unit = material.settings.resamples, likelihood.unit(decoder.head)
    rate = mean(costs["model"] / lengths, lengths, resamples=resamples)
    train = [
        material.corpus.read(row, 0, 20_000)
        for row in _spread(material.corpus.of("train"), TRAINED)
    ]
    beside = likelihood.baselines(decoder.head, train, list(material.waves))
    floor = MetricValue(beside["linear predictor"], what="linear predictor")
    note = (
        f"{unit}; the marginal histogram costs {beside['marginal histogram']:.2f}, no model at all"
        f" {beside['uniform']:g}"
    )
    result.add(
        "nll.bits",
        "held-out likelihood",
        unit,
        "lower",
        {"model": MetricValue.of(rate), "floor": floor},
        note,
    )
    for name in variants[1:]:
        sums = np.stack([costs[name] - costs["model"], lengths], 1)
        rise = bootstrap(sums, lambda drawn: drawn[:, 0] / drawn[:, 1], resamples=resamples)
        figures = {"model": MetricValue.of(rise), "floor": MetricValue(0.0, what="does not listen")}
        result.add(
            f"nll.{name.replace(' ', '_')}",
            f"rise of its cost under {name}",
            "bits per sample",
            "higher",
            figures,
        )


def _shuffled(material: EvaluationContext) -> list[str]:
    """What of a decoder's condition can be another utterance's."""
    conditioner, found = material.codec.decoder.conditioner, []
    if material.copies:
        found.append("shuffled codes" if material.has_codes else "shuffled frames")
    if conditioner.labels or conditioner.vector_sizes:
        found.append("shuffled speakers")
    return found


def _other_voices(material: EvaluationContext) -> bool:
    """Whether another utterance has other labels, or a vector of its own."""
    conditioner = material.codec.decoder.conditioner
    labels = {tuple(u.labels[name] for name in conditioner.labels) for u in _utterances(material)}
    return bool(conditioner.vector_sizes) or len(labels) > 1


def _utterances(material: EvaluationContext) -> list[Utterance]:
    return [material.corpus.utterances[row] for row in material.rows]


def prior(material: EvaluationContext, result: Result) -> None:
    """Bits a code under the prior, beside unigrams and bigrams of training codes, and the bit rate
    that it packs codes to.
    """
    network = material.codec.prior
    material.need(network is not None, "the model is no prior")
    coded = material.coded
    bits, melody = np.array([network.stream_bits(item) for item in coded]).T
    codes = np.array([item.codes.numel() for item in coded], np.float64)
    seconds = np.array([item.seconds for item in coded])
    train = [
        material.codec.codes_of(torch.from_numpy(material.corpus.read(row)))
        for row in _spread(material.corpus.of("train"), 1200)
    ]
    others = baselines(train, [item.codes for item in coded], coded[0].size)
    resamples = material.settings.resamples
    note = ", ".join(f"{name} {value:.2f}" for name, value in others.items())
    floor = MetricValue(others["unigram"], what="unigram")
    cost = mean(bits / codes, codes, resamples=resamples)
    result.add(
        "prior.bits",
        "bits a code under the prior",
        "bits",
        "lower",
        {"model": MetricValue.of(cost), "floor": floor},
        note,
    )
    if coded[0].pitch is not None:
        _pitch_prior(coded, melody, resamples, result)
    rate = mean((bits + melody) / seconds, seconds, resamples=resamples)
    nominal = material.codec.model.bit_rate(material.rate)
    figures = {
        "model": MetricValue.of(rate),
        "floor": MetricValue(nominal, what="codes packed without a prior"),
    }
    result.add("prior.rate", "bit rate under the prior", "bit/s", "lower", figures)


def _pitch_prior(
    coded: Sequence[CodeSequence], bits: NDArray[np.float64], resamples: int, result: Result
) -> None:
    """Bits a pitch code under the prior, beside log2 K."""
    codes = np.array([item.pitch.codes.numel() for item in coded], np.float64)
    figures = {
        "model": MetricValue.of(mean(bits / codes, codes, resamples=resamples)),
        "floor": MetricValue(math.log2(coded[0].pitch.size), what="uniform"),
    }
    title = "bits a pitch code under the prior"
    result.add("prior.pitch_bits", title, "bits", "lower", figures)


def _spread(rows: Sequence[int], most: int) -> list[int]:
    return list(rows[:: max(1, len(rows) // most)][:most])


def _batches(material: EvaluationContext) -> Iterator[list[int]]:
    """Places of utterances, shortest first, at most SAMPLES samples a batch with its padding."""
    order = sorted(range(len(material.waves)), key=lambda i: len(material.waves[i]))
    part: list[int] = []
    for i in order:
        if part and (len(part) + 1) * len(material.waves[i]) > SAMPLES:
            yield part
            part = []
        part.append(i)
    if part:
        yield part


def _batch(material: EvaluationContext, places: Sequence[int]) -> Batch:
    """Whole utterances, padded to one length that is a multiple of the hop, with all that the
    decoder may hear.
    """
    model, decoder = material.codec.model, material.codec.decoder
    tracks = () if decoder.frontend is None else carried(material.corpus, decoder.frontend.tracks)
    frames = -(-max(len(material.waves[i]) for i in places) // model.hop) * model.hop
    whole = [read_crop(material.corpus, material.rows[i], 0, frames, tracks) for i in places]
    batch = collate(whole)
    wave, lengths = batch.wave, torch.tensor([len(material.waves[i]) for i in places])
    wave = wave * (torch.arange(frames) < lengths[:, None])
    labels = batch.labels | {
        name: torch.cat([_ids(material, i)[name] for i in places])
        for name in decoder.conditioner.labels
    }
    return Batch(wave, lengths, labels, batch.index).to(material.codec.device)


def _ids(material: EvaluationContext, place: int) -> dict[str, Tensor]:
    """The ids that the model gives to an utterance's labels, which are not the corpus' where it was
    trained on another.
    """
    return material.codec.given.label_ids(material.corpus.utterances[material.rows[place]].labels)


@torch.inference_mode()
def _condition(
    material: EvaluationContext, places: Sequence[int], batch: Batch, variant: str
) -> Condition | None:
    decoder, labels = material.codec.decoder, dict(batch.labels)
    mask = batch.frame_mask(material.codec.model.hop)
    others = [] if variant == "model" else [material.others()[i] for i in places]
    if variant == "shuffled speakers":
        for name in decoder.conditioner.labels:
            labels[name] = torch.cat([_ids(material, i)[name] for i in others]).to(
                batch.wave.device
            )
        for name in decoder.conditioner.vector_sizes:
            labels[name] = torch.stack(
                [torch.from_numpy(material.corpus.vectors[name][material.rows[i]]) for i in others]
            )
    if material.has_codes:
        model, whole = material.codec.model, variant == "shuffled codes"
        frames = batch.wave.shape[1] // model.hop
        coded = [material.coded[i] for i in (others if whole else places)]
        codes = _filled([item.codes for item in coded], frames, repeat=whole).to(batch.wave.device)
        pitch = None
        if model.melody is not None:
            voices = others if variant == "shuffled speakers" else places
            labels[VOICE] = torch.cat([_voice(material, i) for i in voices])
            melodies = [item.pitch.codes for item in coded]
            pitch = _filled(melodies, -(-frames // coded[0].ratio), repeat=whole).to(codes.device)
        return model.condition(codes, labels, mask, pitch)
    if decoder.frontend is None:
        return decoder.condition(None, labels)
    frames = decoder.frontend(batch.wave, labels, mask)
    if variant == "shuffled frames":
        frames = _frames_of(material, others, frames.shape[-1])
    return decoder.condition(frames, labels, mask)


def _filled(codes: Sequence[Tensor], frames: int, *, repeat: bool) -> Tensor:
    """Codes (Q, F') of each utterance, zeros after them or repeated: (B, Q, frames)."""
    if repeat:
        codes = [it.repeat(1, -(-frames // it.shape[1]))[:, :frames] for it in codes]
    return torch.stack([F.pad(it, (0, frames - it.shape[1])) for it in codes])


def _voice(material: EvaluationContext, place: int) -> Tensor:
    """The range (1, 2) that the melody of an utterance is decoded in."""
    pitch = material.coded[place].pitch
    return material.codec.given.range_of(_ids(material, place), pitch)[VOICE]


def _frames_of(material: EvaluationContext, places: Sequence[int], count: int) -> Tensor:
    """The decoder's frames of utterances, repeated or cut to `count`: (B, C, count)."""
    decoder, batch = material.codec.decoder, _batch(material, places)
    mask = batch.frame_mask(decoder.hop)
    frames = decoder.frontend(batch.wave, batch.labels, mask)
    parts = [x[:, :n] for x, n in zip(frames, mask.sum(1).tolist(), strict=True)]
    return torch.stack([x.repeat(1, -(-count // x.shape[1]))[:, :count] for x in parts])


@torch.inference_mode()
def _bits(decoder: WaveNet, batch: Batch, condition: Condition | None) -> np.ndarray:
    """Bits that each utterance costs (B,), chunk by chunk."""
    projected, state = decoder.project(condition), WaveNetState()
    x, before, total = (
        batch.wave,
        shift_right(batch.wave),
        torch.zeros(len(batch.wave), dtype=torch.float64),
    )
    for chunk, past, mask in zip(
        x.split(CHUNK, 1), before.split(CHUNK, 1), batch.mask.split(CHUNK, 1), strict=True
    ):
        cost = likelihood.bits(decoder.head, decoder.step(past, projected, state), chunk)
        total += (cost * mask).sum(1, dtype=torch.float64).cpu()
    return total.numpy()
