"""Held-out likelihood, and how much worse it is when codes, frames or speakers are shuffled among
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

from vqwave.codes import PitchCodes
from vqwave.data import Batch, collate
from vqwave.data.corpus import Utterance
from vqwave.data.frame_tracks import carried
from vqwave.data.segments import read_crop
from vqwave.evaluation.context import EvaluationContext
from vqwave.evaluation.progress import NotApplicable
from vqwave.evaluation.result import MetricValue, Result
from vqwave.evaluation.unseen_speakers import WHY
from vqwave.evaluation.utterances import ONE
from vqwave.metrics import likelihood
from vqwave.metrics.bootstrap import bootstrap, mean, ratio
from vqwave.metrics.code_likelihood import baselines
from vqwave.models import WaveNet
from vqwave.models.melody import VOICE
from vqwave.models.wavenet import WaveNetState
from vqwave.nn.causal import shift_right
from vqwave.nn.condition import Condition

SAMPLES = 1 << 17  # of a batch
CHUNK = 1 << 14  # samples of each utterance that are computed at once
TRAINED = 200  # training recordings that the baselines are fitted on


def nll(context: EvaluationContext, result: Result) -> None:
    """Bits a sample of complete held-out utterances; with the codes (or frames) of others; with the
    labels of others.
    """
    context.need(not context.unseen_speakers, f"{WHY}: the decoder has no label of theirs")
    decoder, variants = context.wavenet, _variants(context, result)
    lengths = np.array([len(wave) for wave in context.waves], np.float64)
    costs = _costs(context, decoder, variants, lengths)
    resamples, unit = context.settings.resamples, decoder.head.cost_unit
    rate = mean(costs["model"] / lengths, lengths, resamples=resamples)
    rows = _spread(context.training, TRAINED)
    train = [context.corpus.read(row, 0, 20_000) for row in rows]
    baseline = likelihood.baselines(decoder.head, train, list(context.waves))
    floor = MetricValue(baseline["linear predictor"], what="linear predictor")
    note = (
        f"{unit}; the marginal histogram costs {baseline['marginal histogram']:.2f}, no model at"
        f" all {baseline['uniform']:g}"
    )
    figures = {"model": MetricValue.of(rate), "floor": floor}
    result.add("nll.bits", "held-out likelihood", unit, "lower", figures, note=note)
    for name in variants[1:]:
        sums = np.stack([costs[name] - costs["model"], lengths], 1)
        rise = bootstrap(sums, ratio, resamples=resamples)
        figures = {"model": MetricValue.of(rise), "floor": MetricValue(0.0, what="not used")}
        result.add(
            f"nll.{name.replace(' ', '_')}",
            f"rise of its cost under {name}",
            "bits per sample",
            "higher",
            figures,
        )


def _variants(context: EvaluationContext, result: Result) -> list[str]:
    """The model's own conditions, then those that can be another utterance's."""
    variants = ["model"]
    for name in _shuffled(context):
        if name == "shuffled speakers" and context.several and not _other_voices(context):
            why = "needs utterances of two speakers, and of one are measured"
            result.skip(f"cost under {name}", why)
        elif not context.several:
            result.skip(f"cost under {name}", ONE)
        else:
            variants.append(name)
    return variants


def _costs(
    context: EvaluationContext,
    decoder: WaveNet,
    variants: Sequence[str],
    lengths: NDArray[np.float64],
) -> dict[str, NDArray[np.float64]]:
    """Bits of each utterance under each variant of its conditions."""
    costs = {name: np.zeros(len(context.rows)) for name in variants}
    total = len(variants) * lengths.sum() / context.rate
    with context.progress("likelihood", total, "s of speech") as advance:
        for places in _batches(context):
            batch = _batch(context, places)
            for name in variants:
                condition = _condition(context, places, batch, name)
                costs[name][places] = _bits(decoder, batch, condition)
                advance(lengths[places].sum() / context.rate)
    return costs


def _shuffled(context: EvaluationContext) -> list[str]:
    """What of a decoder's condition can be another utterance's."""
    conditioner, result = context.codec.decoder.conditioner, []
    if context.reconstructs:
        result.append("shuffled codes" if context.has_codes else "shuffled frames")
    if conditioner.labels or conditioner.vector_sizes:
        result.append("shuffled speakers")
    return result


def _other_voices(context: EvaluationContext) -> bool:
    """Whether another utterance has other labels, or a vector of its own."""
    conditioner = context.codec.decoder.conditioner
    labels = {tuple(u.labels[name] for name in conditioner.labels) for u in _utterances(context)}
    return bool(conditioner.vector_sizes) or len(labels) > 1


def _utterances(context: EvaluationContext) -> list[Utterance]:
    return [context.corpus.utterances[row] for row in context.rows]


def prior(context: EvaluationContext, result: Result) -> None:
    """Bits a code under the prior, with those under unigrams and bigrams of training codes, and the
    bit rate that it packs codes to.
    """
    network = context.codec.prior
    if network is None:
        raise NotApplicable("the model is no prior")
    coded = context.coded
    bits, melody = np.array([network.stream_bits(item) for item in coded]).T
    codes = np.array([item.codes.numel() for item in coded], np.float64)
    seconds = np.array([item.seconds for item in coded])
    train = [
        context.codec.codes_of(torch.from_numpy(context.corpus.read(row)))
        for row in _spread(context.training, 1200)
    ]
    others = baselines(train, [item.codes for item in coded], coded[0].size)
    resamples = context.settings.resamples
    note = ", ".join(f"{name} {value:.2f}" for name, value in others.items())
    floor = MetricValue(others["unigram"], what="unigram")
    cost = mean(bits / codes, codes, resamples=resamples)
    figures = {"model": MetricValue.of(cost), "floor": floor}
    title = "bits a code under the prior"
    result.add("prior.bits", title, "bits", "lower", figures, note=note)
    pitch = [item.pitch for item in coded if item.pitch is not None]
    if pitch:
        _pitch_prior(pitch, melody, resamples, result)
    rate = mean((bits + melody) / seconds, seconds, resamples=resamples)
    nominal = context.vqvae.bit_rate(context.rate)
    figures = {
        "model": MetricValue.of(rate),
        "floor": MetricValue(nominal, what="codes packed without a prior"),
    }
    result.add("prior.rate", "bit rate under the prior", "bit/s", "lower", figures)


def _pitch_prior(
    pitch: Sequence[PitchCodes], bits: NDArray[np.float64], resamples: int, result: Result
) -> None:
    """Bits a pitch code under the prior; the floor is log2 K."""
    codes = np.array([item.codes.numel() for item in pitch], np.float64)
    figures = {
        "model": MetricValue.of(mean(bits / codes, codes, resamples=resamples)),
        "floor": MetricValue(math.log2(pitch[0].size), what="uniform"),
    }
    title = "bits a pitch code under the prior"
    result.add("prior.pitch_bits", title, "bits", "lower", figures)


def _spread(rows: Sequence[int], most: int) -> list[int]:
    count = min(most, len(rows))
    return [rows[k * len(rows) // count] for k in range(count)]


def _batches(context: EvaluationContext) -> Iterator[list[int]]:
    """Places of utterances, shortest first, at most SAMPLES samples a batch with its padding."""
    order = sorted(range(len(context.waves)), key=lambda i: len(context.waves[i]))
    part: list[int] = []
    for i in order:
        if part and (len(part) + 1) * len(context.waves[i]) > SAMPLES:
            yield part
            part = []
        part.append(i)
    if part:
        yield part


def _batch(context: EvaluationContext, places: Sequence[int]) -> Batch:
    """Complete utterances, padded to one length that is a multiple of the hop, with all that the
    decoder may be conditioned on.
    """
    hop, decoder = context.codec.model.hop, context.codec.decoder
    tracks = () if decoder.frontend is None else carried(context.corpus, decoder.frontend.tracks)
    frames = -(-max(len(context.waves[i]) for i in places) // hop) * hop
    crops = [read_crop(context.corpus, context.rows[i], 0, frames, tracks) for i in places]
    batch = collate(crops)
    wave, lengths = batch.wave, torch.tensor([len(context.waves[i]) for i in places])
    wave = wave * (torch.arange(frames) < lengths[:, None])
    labels = batch.labels | _label_ids(context, places)
    return Batch(wave, lengths, labels, batch.index).to(context.codec.device)


def _ids(context: EvaluationContext, place: int) -> dict[str, Tensor]:
    """The ids that the model gives to an utterance's labels, which are not the corpus' where it was
    trained on another.
    """
    return context.codec.given.label_ids(context.corpus.utterances[context.rows[place]].labels)


def _label_ids(context: EvaluationContext, places: Sequence[int]) -> dict[str, Tensor]:
    """Ids of utterances (B,) for each label that conditions the decoder."""
    ids = [_ids(context, i) for i in places]
    names = context.codec.decoder.conditioner.labels
    return {name: torch.cat([each[name] for each in ids]) for name in names}


@torch.inference_mode()
def _condition(
    context: EvaluationContext, places: Sequence[int], batch: Batch, variant: str
) -> Condition | None:
    """The decoder's condition: the utterances' own (`model`), or with a part of it from others."""
    decoder, labels = context.codec.decoder, dict(batch.labels)
    mask = batch.frame_mask(context.codec.model.hop)
    others = [] if variant == "model" else [context.others()[i] for i in places]
    voices = others if variant == "shuffled speakers" else places
    if voices is others:
        labels |= {k: v.to(batch.wave.device) for k, v in _label_ids(context, others).items()}
        for name in decoder.conditioner.vector_sizes:
            vectors = context.corpus.vectors[name]
            rows = [torch.from_numpy(vectors[context.rows[i]]) for i in others]
            labels[name] = torch.stack(rows).to(batch.wave.device)
    if context.has_codes:
        sources, repeat = (others, True) if variant == "shuffled codes" else (places, False)
        if context.vqvae.melody is not None:
            labels[VOICE] = torch.cat([_voice(context, i) for i in voices])
        return _code_condition(context, sources, labels, mask, repeat=repeat)
    if decoder.frontend is None:
        return decoder.condition(None, labels)
    frames = decoder.frontend(batch.wave, labels, mask)
    if variant == "shuffled frames":
        frames = _frames_of(context, others, frames.shape[-1])
    return decoder.condition(frames, labels, mask)


def _code_condition(
    context: EvaluationContext,
    sources: Sequence[int],
    labels: dict[str, Tensor],
    mask: Tensor,
    *,
    repeat: bool,
) -> Condition | None:
    """The condition with the codes of utterances `sources`, zeros after them or repeated."""
    frames, coded = mask.shape[1], [context.coded[i] for i in sources]
    codes = _filled([item.codes for item in coded], frames, repeat=repeat).to(mask.device)
    melodies = [item.pitch.codes for item in coded if item.pitch is not None]
    pitch = None
    if context.vqvae.melody is not None:
        length = -(-frames // coded[0].ratio)
        pitch = _filled(melodies, length, repeat=repeat).to(mask.device)
    return context.vqvae.condition(codes, labels, mask, pitch)


def _filled(codes: Sequence[Tensor], frames: int, *, repeat: bool) -> Tensor:
    """Codes (Q, F') of each utterance, zeros after them or repeated: (B, Q, frames)."""
    if repeat:
        codes = [x.repeat(1, -(-frames // x.shape[1]))[:, :frames] for x in codes]
    return torch.stack([F.pad(x, (0, frames - x.shape[1])) for x in codes])


def _voice(context: EvaluationContext, place: int) -> Tensor:
    """The range (1, 2) that the melody of an utterance is decoded in."""
    pitch = context.coded[place].pitch
    return context.codec.given.range_of(_ids(context, place), pitch)[VOICE]


def _frames_of(context: EvaluationContext, places: Sequence[int], count: int) -> Tensor:
    """The decoder's frames of utterances, repeated or cut to `count`: (B, C, count)."""
    decoder, batch = context.codec.decoder, _batch(context, places)
    mask = batch.frame_mask(decoder.hop)
    if decoder.frontend is None:
        raise NotApplicable("the decoder is not conditioned on frames")
    frames = decoder.frontend(batch.wave, batch.labels, mask)
    parts = [x[:, :n] for x, n in zip(frames, mask.sum(1).tolist(), strict=True)]
    return torch.stack([x.repeat(1, -(-count // x.shape[1]))[:, :count] for x in parts])


@torch.inference_mode()
def _bits(decoder: WaveNet, batch: Batch, condition: Condition | None) -> np.ndarray:
    """Bits of each utterance (B,), chunk by chunk."""
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
