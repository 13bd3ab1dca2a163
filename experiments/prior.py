"""Train a prior over the codes of a trained VQ-VAE, so that it speaks by itself and its codes take
fewer bits.

accelerate launch experiments/prior.py --config configs/prior/fsdd.yaml codec=runs/vqvae-fsdd
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from vqwave.config import option, spec
from vqwave.data import Batch
from vqwave.distributed.collectives import masked_mean, rank, world_size
from vqwave.errors import UserInputError
from vqwave.inference.model_folder import ModelCard
from vqwave.inference.speech_model import SpeechModel
from vqwave.metrics import code_likelihood, likelihood
from vqwave.metrics.codebook import CodeCounts
from vqwave.models import VQVAE, Prior, PriorSpec
from vqwave.training.code_dataset import CodeCorpus
from vqwave.training.experiment import Evaluation, Experiment, StepOutput
from vqwave.training.settings import Count, ExperimentSpec
from vqwave.training.tracking import SampleSheet
from vqwave.training.trainer import main


@spec
class Config(ExperimentSpec):
    """Settings of `experiments/prior.py`."""

    codec: Path = option(
        default=Path("runs/vqvae-demo"), help="run or model folder of a VQ-VAE, or of its student"
    )
    model: PriorSpec = option(
        default=PriorSpec(), help="the network over codes; its codec is the one above"
    )
    losses: dict[str, float] = option(default={"nll": 1.0}, help="weights: nll (nats a code)")
    num_samples: Count = option(default=4, help="utterances in samples/")
    sample_seconds: Annotated[float, Field(gt=0)] = option(
        default=2.0, help="after which they are cut, if they have not ended"
    )


class PriorExperiment(Experiment[Config]):
    """Train a prior over the codes of a trained VQ-VAE."""

    name = "prior"
    config_class = Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        loaded = self.load_source("codec", config.codec)
        if not isinstance(loaded.model, VQVAE):
            raise UserInputError(
                f"codec: {config.codec} is a {loaded.card.kind}, expected a vqvae or its student"
            )
        self.check_compatible("codec", loaded, loaded.model.decoder.conditioner.labels)
        self.source = SpeechModel(loaded.model, loaded.card)

    @property
    def model_spec(self) -> PriorSpec:
        return replace(self.config.model, codec=self.source.card.spec)

    @property
    def trains_decoder(self) -> bool:
        """Whether its codes can be heard."""
        return self.source.card.about.get("speaks", True)

    @property
    def hop(self) -> int:
        return self.source.model.hop

    def build(self) -> Prior:
        model = self.model_spec.build(self.corpus.sample_rate, self.corpus.labels)
        model.codec.load_state_dict(self.source.model.state_dict())
        return model

    def card(self, model: Prior, step: int, seconds: float) -> ModelCard:
        """As every card, and with the codec's temperatures: its decoder is this model's."""
        card, own = super().card(model, step, seconds), self.source.card.about.get("temperature")
        return card if own is None else replace(card, about=card.about | {"temperature": own})

    def trainable(self, model: Prior) -> nn.Module:
        return model.network

    def fit_statistics(self, model: Prior) -> None:
        self.source.model.to(self.device)
        self.coded = CodeCorpus(self.source, self.corpus)

    def losses(self, batch: Batch) -> StepOutput:
        """The batch only says which utterances: pieces of their codes are drawn here, by the step's
        own seed.
        """
        frames = self.samples_of(self.config.data.clip_seconds) // self.hop
        piece = self.coded.pieces(self.model.network, batch.index.tolist(), frames).to(self.device)
        log_p = self.network(piece.symbols, piece.labels, piece.mask, piece.before)
        nll = -masked_mean(log_p, piece.mask)
        return StepOutput({"nll": nll}, {"bits": nll.detach() / torch.tensor(2.0).log()})

    def evaluate(self, model: Prior) -> Evaluation:
        """Bits a code given the utterance's length, as `.vqw` pays: with the true labels, with
        others, with none.
        """
        network, rows = model.network, self.valid_rows()
        names = ("bits", "others", "untold", "whole", "codes", "utterances", "pitch", "pitch_codes")
        sums = {name: torch.zeros((), dtype=torch.float64) for name in names}
        counts = CodeCounts(network.books, network.size, self.corpus.labels.get("speaker", []))
        for batch in self.coded.utterances(network, rows[rank() :: world_size()]):
            batch = batch.to(self.device)
            real = batch.mask & (batch.symbols < network.end)
            symbols, (codes, pitch) = torch.where(real, batch.symbols, 0), network.order.split(real)
            conditions = {"bits": batch.labels, "others": self.mismatched_labels(batch)}
            conditions |= {"untold": {}} if network.label_dropout else {}
            for name, labels in conditions.items():
                log_p = network(batch.symbols, labels, real, ends=False)
                log_p, log_p_pitch = network.order.split(log_p)
                sums[name] -= log_p.sum(dtype=torch.float64).cpu()
                if name == "bits" and pitch is not None:
                    sums["pitch"] -= log_p_pitch.sum(dtype=torch.float64).cpu()
                    sums["pitch_codes"] += pitch.sum().cpu()
            log_p = network(batch.symbols, batch.labels, batch.mask)
            sums["whole"] -= log_p.sum(dtype=torch.float64).cpu()
            sums["codes"] += codes.sum().cpu()
            sums["utterances"] += len(batch.symbols)
            counts.add(network.order.split(symbols)[0], codes[:, 0], batch.labels.get("speaker"))
        found, nats = self.total(sums), torch.tensor(2.0).log().item()
        end = (found["whole"] - found["bits"] - found["pitch"]) / nats / found["utterances"]
        bits = {name: found[name] / nats / found["codes"] for name in ("bits", "others", "untold")}
        bits["others"] = bits["others"] if self.comparable(network)[1] else None
        if network.order.pitch is not None:
            bits["pitch"] = found["pitch"] / nats / found["pitch_codes"]
        section = counts.section(self.corpus.sample_rate / self.hop)
        return self.summary(bits, end, section, network.label_dropout > 0)

    def valid_rows(self) -> list[int]:
        """Whole validation utterances, at most `data.valid_clips`, evenly spread."""
        rows, limit = self.corpus.of("valid"), self.config.data.valid_clips
        return rows if limit >= len(rows) else [rows[k * len(rows) // limit] for k in range(limit)]

    def summary(
        self, bits: dict[str, float], end: float, codes: dict[str, object], untold: bool
    ) -> Evaluation:
        """Bits a code beside what they would be without a network, and the bit rates that
        follow.
        """
        baselines, rate = self.code_baselines, codes["books"] * self.corpus.sample_rate / self.hop
        pitches, melody = self.pitch_baselines, self.source.model.melody
        slow = (
            0.0
            if melody is None
            else melody.codec.books * self.corpus.sample_rate / melody.codec.hop
        )
        rates = {
            "nominal": codes["bit_rate"] + slow * pitches.get("uniform", 0.0),
            **{k: rate * value + slow * pitches.get(k, 0.0) for k, value in baselines.items()},
            "prior": rate * bits["bits"] + slow * bits.get("pitch", 0.0),
        }
        nll = {
            "unit": "bits per code",
            "model": bits["bits"],
            "baselines": baselines,
            "shuffled labels": bits["others"],
        }
        scalars = {"bits": bits["bits"], "bits_shuffled_labels": bits["others"], "bits_end": end}
        scalars = likelihood.measured(scalars | {"bits_untold": bits["untold"] if untold else None})
        beside = ", ".join(f"{name} {value:.2f}" for name, value in baselines.items())
        headline = (
            f"{bits['bits']:.3f} bits per code on held-out speech ({beside}): {rates['prior']:.0f}"
            f" of {rates['nominal']:.0f} bit/s"
        )
        sections = {"nll": nll, "codes": codes, "bit_rate": rates, "prior": scalars}
        if pitches:
            headline += f"; {bits['pitch']:.3f} per pitch code (uniform {pitches['uniform']:.2f})"
            scalars["bits_pitch"] = bits["pitch"]
            sections["pitch"] = {"model": bits["pitch"], "baselines": pitches}
        return Evaluation(headline, scalars, sections)

    @cached_property
    def code_baselines(self) -> dict[str, float]:
        """Without a network."""
        train, test = (self.coded.of(rows) for rows in (self.corpus.of("train"), self.valid_rows()))
        return code_likelihood.baselines(train, test, self.source.model.quantizer.codebook_size)

    @cached_property
    def pitch_baselines(self) -> dict[str, float]:
        """The same for pitch codes; none where the codec has none."""
        melody, splits = self.source.model.melody, (self.corpus.of("train"), self.valid_rows())
        if melody is None:
            return {}
        train, test = (self.coded.pitch_of(rows) for rows in splits)
        return code_likelihood.baselines(train, test, melody.codec.size)

    def samples(self, model: Prior, sheet: SampleSheet) -> None:
        codec, rows = self.codec(model), self.shown_rows(self.config.num_samples)
        if not rows or not self.trains_decoder:
            return
        told = [self.corpus.utterances[row] for row in rows]
        longest = self.config.sample_seconds
        drawn = [
            codec.prior.draw(labels=u.labels, seed=row, longest=longest)[0]
            for u, row in zip(told, rows, strict=True)
        ]
        waves = codec.decode_many(
            drawn,
            [utterance.speaker for utterance in told],
            labels=[utterance.labels for utterance in told],
            embeddings=[self.vectors(codec.decoder, row) for row in rows],
        )
        for utterance, wave in zip(told, waves, strict=True):
            said = f"{utterance.text} as " if "text" in model.network.conditioner.labels else ""
            sheet.add(
                f"{said}{utterance.speaker}",
                "generation",
                wave,
                speaker=utterance.speaker,
                text=utterance.text or "",
            )

    def next_steps(self) -> list[str]:
        run, speaker = self.config.run, self.example_speaker
        return [
            *(
                [f"vqwave generate {run} --speaker {speaker} --out drawn.wav"]
                if self.trains_decoder
                else []
            ),
            f"vqwave encode {run} in.wav --speaker {speaker} --prior {run} --out in.vqw",
            *super().next_steps(),
        ]


if __name__ == "__main__":
    main(PriorExperiment)
