"""Train a prior over the codes of a trained VQ-VAE: to sample speech, and to code in fewer bits.

python experiments/prior.py --config configs/prior/fsdd.yaml codec=runs/vqvae-fsdd
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vqwave.config import option, spec
from vqwave.data import Batch
from vqwave.distributed.collectives import masked_mean, rank, world_size
from vqwave.inference.speech_model import SpeechModel
from vqwave.metrics import code_likelihood, likelihood
from vqwave.metrics.codebook import CodeCounts
from vqwave.models import VQVAE, Prior, PriorSpec, VQVAESpec
from vqwave.models.prior import CodeNetwork
from vqwave.training.code_dataset import CodeCorpus
from vqwave.training.command_line import main
from vqwave.training.experiment import Evaluation, Experiment, StepOutput
from vqwave.training.settings import Count, ExperimentSpec, Seconds, Weights
from vqwave.training.sources import checked_source
from vqwave.training.tracking import SampleSheet


@spec
class Config(ExperimentSpec):
    """Settings of `experiments/prior.py`."""

    codec: Path = option(
        default=Path("runs/demo/vqvae"), help="run or model folder of a VQ-VAE, or of its student"
    )
    model: PriorSpec = option(
        default=PriorSpec(), help="the network over codes; its codec is the one above"
    )
    losses: Weights = option(default={"nll": 1.0}, help="weights: nll (nats a code)")
    num_samples: Count = option(default=4, help="utterances in samples/")
    sample_seconds: Seconds = option(
        default=2.0, help="after which they are cut, if they have not ended"
    )


class PriorExperiment(Experiment[Config, Prior]):
    """Train a prior over the codes of a trained VQ-VAE."""

    name = "prior"
    config_class = Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        loaded, types = self.sources.load("codec", config.codec), (VQVAE, VQVAESpec)
        given = checked_source("codec", config.codec, loaded, types, "a vqvae or its student")
        self.sources.check_compatible("codec", loaded, given.model.decoder.conditioner.labels)
        self.source = SpeechModel(given.model, loaded.card)
        self.codec, self.codec_spec = given.model, given.spec

    @property
    def model_spec(self) -> PriorSpec:
        return replace(self.config.model, codec=self.codec_spec)

    @property
    def trains_decoder(self) -> bool:
        """Whether its codec has a trained decoder."""
        return self.source.card.decodes

    @property
    def hop(self) -> int:
        return self.codec.hop

    def build(self) -> Prior:
        model = self.model_spec.build(self.corpus.sample_rate, self.corpus.labels)
        model.codec.load_state_dict(self.codec.state_dict())
        return model

    def card_entries(self) -> dict[str, Any]:
        """The codec's ways to decode: its decoder is this model's; the labels that either had no
        training recordings of; and the seconds of the longest training utterance of each label,
        after which what is drawn is cut.
        """
        about, longest = self.source.card.about, dict[str, dict[str, float]]()
        for row in self.corpus.of("train"):
            utterance = self.corpus.utterances[row]
            for name in self.config.model.conditioner.categorical:
                value, of_label = utterance.labels[name], longest.setdefault(name, {})
                seconds = round(utterance.frames / self.corpus.sample_rate, 2)
                of_label[value] = max(of_label.get(value, 0.0), seconds)
        decoding = {name: about[name] for name in ("temperature", "postfilter") if name in about}
        untrained = {"untrained_labels": self.untrained} if self.untrained else {}
        return decoding | untrained | {"longest": longest}

    @property
    def untrained(self) -> dict[str, list[str]]:
        """The values of each label that the prior, or its codec, had no training recordings of."""
        own, codec = self.voices.untrained, self.source.card
        either = {
            label: [x for x in values if x in own.get(label, ()) or x in codec.untrained(label)]
            for label, values in self.corpus.vocabulary.items()
        }
        return {label: values for label, values in either.items() if values}

    @property
    def example_speaker(self) -> str:
        """A speaker whom the codec was trained on, too, if there is one, as a shell takes it."""
        untrained = self.untrained.get("speaker", ())
        trained = [name for name in self.corpus.speakers if name not in untrained]
        return shlex.quote(trained[0]) if trained else super().example_speaker

    def trainable(self, model: Prior) -> nn.Module:
        return model.network

    def fit_statistics(self, model: Prior) -> None:  # noqa: ARG002 - of the base class
        self.codec.to(self.device)
        self.coded = CodeCorpus(self.source, self.corpus)

    def losses(self, batch: Batch) -> StepOutput:
        """The batch only names the utterances: pieces of their codes are drawn here, by the step's
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
        names = ["bits", "mismatched", "unconditional", "with_end", "codes", "utterances"]
        names += ["pitch", "pitch_codes"]
        sums = {name: torch.zeros((), dtype=torch.float64) for name in names}
        speakers, held = self.corpus.labels.get("speaker", []), model.codec.quantizer
        counts = CodeCounts(network.books, network.size, speakers, held.codes_per_frame)
        for batch in self.coded.utterances(network, rows[rank() :: world_size()]):
            batch = batch.to(self.device)
            real = batch.mask & (batch.symbols < network.end)
            symbols, (codes, pitch) = torch.where(real, batch.symbols, 0), network.order.split(real)
            conditions: dict[str, dict[str, Tensor]] = {"bits": batch.labels}
            conditions["mismatched"] = self.voices.mismatched_labels(batch)
            if network.label_dropout:
                conditions["unconditional"] = {}
            for name, labels in conditions.items():
                log_p = network(batch.symbols, labels, real, ends=False)
                log_p, log_p_pitch = network.order.split(log_p)
                sums[name] -= log_p.sum(dtype=torch.float64).cpu()
                if name == "bits" and pitch is not None and log_p_pitch is not None:
                    sums["pitch"] -= log_p_pitch.sum(dtype=torch.float64).cpu()
                    sums["pitch_codes"] += pitch.sum().cpu()
            log_p = network(batch.symbols, batch.labels, batch.mask)
            sums["with_end"] -= log_p.sum(dtype=torch.float64).cpu()
            sums["codes"] += codes.sum().cpu()
            sums["utterances"] += len(batch.symbols)
            counts.add(network.order.split(symbols)[0], codes[:, 0], batch.labels.get("speaker"))
        section = counts.section(self.corpus.sample_rate / self.hop)
        return self.summary(self.total(sums), section, network)

    def valid_rows(self) -> list[int]:
        """Complete validation utterances, at most `data.valid_clips`, evenly spread."""
        rows, limit = self.corpus.of("valid"), self.config.data.valid_clips
        return rows if limit >= len(rows) else [rows[k * len(rows) // limit] for k in range(limit)]

    def summary(
        self, total: Mapping[str, float], codes: dict[str, Any], network: CodeNetwork
    ) -> Evaluation:
        """Bits a code, what they would be without a network, and the bit rates that follow.

        total: nats and counts, summed over all ranks.
        """
        nats = torch.tensor(2.0).log().item()
        rate = codes["books"] * self.corpus.sample_rate / self.hop
        bits = {
            name: total[name] / nats / total["codes"]
            for name in ("bits", "mismatched", "unconditional")
        }
        end = (total["with_end"] - total["bits"] - total["pitch"]) / nats / total["utterances"]
        mismatched = bits["mismatched"] if self.comparable(network)[1] else None
        baselines, pitches, melody = self.code_baselines, self.pitch_baselines, self.codec.melody
        pitch, pitch_rate = 0.0, 0.0
        if melody is not None:
            pitch = total["pitch"] / nats / total["pitch_codes"]
            pitch_rate = melody.codec.books * self.corpus.sample_rate / melody.codec.hop
        rates = {
            "nominal": codes["bit_rate"] + pitch_rate * pitches.get("uniform", 0.0),
            **{k: rate * v + pitch_rate * pitches.get(k, 0.0) for k, v in baselines.items()},
            "prior": rate * bits["bits"] + pitch_rate * pitch,
        }
        nll = {
            "unit": "bits per code",
            "model": bits["bits"],
            "baselines": baselines,
            "shuffled labels": mismatched,
        }
        measured = {
            "bits": bits["bits"],
            "bits_shuffled_labels": mismatched,
            "bits_end": end,
            "bits_unconditional": bits["unconditional"] if network.label_dropout else None,
        }
        scalars = likelihood.measured(measured)
        references = ", ".join(f"{name} {value:.2f}" for name, value in baselines.items())
        headline = (
            f"{bits['bits']:.3f} bits per code on held-out speech ({references}):"
            f" {rates['prior']:.0f} of {rates['nominal']:.0f} bit/s"
        )
        sections = {"nll": nll, "codes": codes, "bit_rate": rates, "prior": scalars}
        if pitches:
            headline += f"; {pitch:.3f} per pitch code (uniform {pitches['uniform']:.2f})"
            scalars["bits_pitch"] = pitch
            sections["pitch"] = {"model": pitch, "baselines": pitches}
        return Evaluation(headline, scalars, sections)

    @cached_property
    def code_baselines(self) -> dict[str, float]:
        """Without a network."""
        train, test = (self.coded.of(rows) for rows in (self.corpus.of("train"), self.valid_rows()))
        return code_likelihood.baselines(train, test, self.codec.quantizer.codebook_size)

    @cached_property
    def pitch_baselines(self) -> dict[str, float]:
        """The same for pitch codes; none where the codec has none."""
        melody, splits = self.codec.melody, (self.corpus.of("train"), self.valid_rows())
        if melody is None:
            return {}
        train, test = (
            [codes for codes in self.coded.pitch_of(rows) if codes is not None] for rows in splits
        )
        return code_likelihood.baselines(train, test, melody.codec.size)

    def samples(self, model: Prior, sheet: SampleSheet) -> None:
        rows = self.validation.example_rows(self.config.num_samples)
        if not rows or not self.trains_decoder:
            return
        speech, utterances = self.speech_model(model), [self.corpus.utterances[row] for row in rows]
        prior, longest = speech.prior, self.config.sample_seconds
        assert prior is not None
        generated = [
            prior.draw(labels=utterance.labels, seed=row, longest=longest)[0]
            for utterance, row in zip(utterances, rows, strict=True)
        ]
        waves = speech.decode_many(
            generated,
            [utterance.speaker for utterance in utterances],
            labels=[utterance.labels for utterance in utterances],
            embeddings=[self.recordings.vectors(speech.decoder, row) for row in rows],
        )
        for utterance, wave in zip(utterances, waves, strict=True):
            text = f"{utterance.text} as " if "text" in model.network.conditioner.labels else ""
            sheet.add(
                f"{text}{utterance.speaker}",
                "generation",
                wave,
                speaker=utterance.speaker,
                text=utterance.text or "",
            )

    def next_steps(self) -> list[str]:
        run, speaker = self.config.run, self.example_speaker
        return [
            *(
                [f"vqwave generate {run} --speaker {speaker} --out generated.wav"]
                if self.trains_decoder
                else []
            ),
            f"vqwave encode {run} in.wav --speaker {speaker} --prior {run} --out in.vqw",
            *super().next_steps(),
        ]


if __name__ == "__main__":
    main(PriorExperiment)
