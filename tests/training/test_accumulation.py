"""Accumulation over micro-batches moves the weights as one large batch does, in float64.

Every experiment takes three of the trainer's own steps. All random numbers depend on the item
alone, clips have one length, and Adam's eps of 1 keeps a step nearly linear in the gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from noise import noise_corpus
from torch import Tensor, nn

from vqwave.data import Batch, Corpus
from vqwave.distributions import MixtureOfLogistics
from vqwave.features import LogMelSpec
from vqwave.inference.model_folder import ModelCard, save_trained
from vqwave.losses import EnergySpec, PowerSpec, STFTSpec
from vqwave.models import (
    ClassifierSpec,
    ModelSpec,
    PriorSpec,
    StudentSpec,
    VQVAESpec,
    WaveNetSpec,
)
from vqwave.models.wavenet import InputDropoutSpec
from vqwave.nn.auxiliary.adversarial_classifier import AdversarialClassifierSpec
from vqwave.nn.auxiliary.spectral_decoder import SpectralDecoderSpec
from vqwave.nn.condition import ConditionDropoutSpec, ConditionerSpec
from vqwave.nn.encoders import WaveformEncoderSpec
from vqwave.nn.quantize import GradientQuantizerSpec
from vqwave.nn.quantize.codebook import Codebook
from vqwave.nn.wavenet import ContextSpec, StackSpec
from vqwave.rng import keyed
from vqwave.training.experiment import Experiment, StepOutput
from vqwave.training.recordings import Recordings
from vqwave.training.settings import DataSpec, OptimSpec, TrainSpec
from vqwave.training.trainer import Trainer

STEPS, BATCH = 3, 4
NETWORK = StackSpec(
    layers=4,
    dilation_cycle=2,
    residual_channels=4,
    gate_channels=4,
    skip_channels=4,
    hidden_channels=4,
)
TEACHER = WaveNetSpec(
    head=MixtureOfLogistics(components=2),
    network=replace(
        NETWORK, context=ContextSpec(stride=8, layers=2, residual_channels=4, channels=4)
    ),
    conditioner=ConditionerSpec(channels=4, dropout=ConditionDropoutSpec(all=0.3)),
    input_dropout=InputDropoutSpec(noise_std=0.02),
)
CODES = VQVAESpec(
    encoder=WaveformEncoderSpec(strides=(4, 4), channels=4, blocks=1, latent_dim=4),
    quantizer=GradientQuantizerSpec(codebook_size=4, dead_code_threshold=0.0),
    decoder=replace(TEACHER, network=NETWORK),
    spectral_decoder=SpectralDecoderSpec(
        features=LogMelSpec(bands=4, window_ms=4.0, hop_ms=2.0), channels=4
    ),
    adversarial_classifier=AdversarialClassifierSpec(channels=4),
    decoder_input="both",
    decoder_input_noise=0.1,
)
STUDENT = StudentSpec(
    flows=(2, 2), network=replace(NETWORK, skip_channels=0, kernel_size=3), squeeze=2
)
PRIOR = PriorSpec(network=NETWORK, conditioner=ConditionerSpec(channels=4))
LOSSES = {
    "nll": 1.0,
    "commitment": 0.25,
    "codebook": 1.0,
    "spectral": 0.5,
    "domain_adversarial": 0.1,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`corpus`, whose recordings are longer than a clip, and untrained models of it."""
    root = tmp_path_factory.mktemp("accumulation")
    noise_corpus(root, takes=20, samples=1200)
    for name, model in (("teacher", TEACHER), ("codec", CODES)):
        _untrained(root / name, model, Corpus.open(root / "corpus"))
    return root


def _untrained(folder: Path, spec: ModelSpec, corpus: Corpus) -> None:
    torch.manual_seed(0)
    card = ModelCard(sample_rate=8000, labels=corpus.labels, spec=spec, about={})
    save_trained(folder, spec.build(8000, corpus.labels), card)


@pytest.fixture
def numbers_by_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every item of every batch draws the same numbers, in float64."""

    def same(
        draw: Callable[..., Tensor], items: int, shape: tuple[int, ...], like: object
    ) -> Tensor:
        numbers = draw(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        return numbers.repeat(items, *[1] * len(shape))

    monkeypatch.setattr(keyed, "_each", same)


class DoubleRecordings(Recordings):
    """Waveforms for statistics in float64."""

    def waves(self, count: int = 200) -> list[Tensor]:
        return [wave.double() for wave in super().waves(count)]


def in_float64(kind: type[Experiment]) -> type[Experiment]:
    """The experiment with double weights, teacher and clips, and with codebooks that have begun."""

    class Exact(kind):
        def build(self) -> nn.Module:
            model = super().build().double()
            for book in model.modules():
                if isinstance(book, Codebook):
                    book.started.fill_(True)
            if hasattr(self, "teacher"):
                self.teacher.double()
            return model

        @property
        def recordings(self) -> Recordings:
            return DoubleRecordings(self.corpus, self.tracks)

        def losses(self, batch: Batch) -> StepOutput:
            return super().losses(replace(batch, wave=batch.wave.double()))

    return Exact


EXPERIMENTS = {  # the script, its class, its settings
    "teacher": ("wavenet", "WaveNetExperiment", {"model": TEACHER}),
    "vqvae": ("vqvae", "VQVAEExperiment", {"model": CODES, "losses": LOSSES}),
    "student": (
        "distill",
        "DistillExperiment",
        {
            "model": STUDENT,
            "train_conditioner": True,
            "losses": dict.fromkeys(
                ("kl", "power", "log_spectral", "stft", "energy_distance"), 1.0
            ),
            "power": PowerSpec(fft=64, hop=16),
            "stft": STFTSpec(resolutions=((64, 16, 64),)),
            "energy_distance": EnergySpec(windows=(64,)),
        },
    ),
    "prior": ("prior", "PriorExperiment", {"model": PRIOR}),
    "flow": ("flow", "FlowExperiment", {"model": replace(STUDENT, flow_type="maf")}),
    "classifier": (
        "classifier",
        "ClassifierExperiment",
        {"model": ClassifierSpec(layers=2, channels=4)},
    ),
}
PATHS = {"student": {"teacher": "teacher"}, "prior": {"codec": "codec"}}


def moves(
    script: ModuleType, name: str, folder: Path, run: Path, accumulate: int
) -> dict[str, Tensor]:
    """By how much the steps move each trained parameter."""
    _, kind, settings = EXPERIMENTS[name]
    config = script.Config(
        run=run,
        data=DataSpec(corpus=folder / "corpus", clip_seconds=0.03, batch=BATCH, valid_clips=2),
        optim=OptimSpec(lr=1e-2, eps=1.0, warmup=2, max_grad_norm=0.01),
        train=TrainSpec(steps=STEPS, grad_accumulation=accumulate, threads=1),
        **settings | {key: folder / place for key, place in PATHS.get(name, {}).items()},
    )
    loop = Trainer(in_float64(getattr(script, kind))(config), quiet=True)
    start, batches = deepcopy(loop.network).state_dict(), loop.batches()
    for _ in range(STEPS):
        loop._optimize(batches)
    loop.held.close()
    norm, count = loop.running["gradient_norm"]
    assert norm / count > config.optim.max_grad_norm, "expected gradients that are clipped"
    return {key: p.detach() - start[key] for key, p in loop.network.named_parameters()}


@pytest.mark.parametrize("name", EXPERIMENTS)
@pytest.mark.usefixtures("numbers_by_shape")
def test_micro_batches_add_up_to_the_large_batch(
    name: str, experiment_script: Callable[[str], ModuleType], folder: Path, tmp_path: Path
) -> None:
    script = experiment_script(EXPERIMENTS[name][0])
    large, *accumulated = [moves(script, name, folder, tmp_path / f"{n}", n) for n in (1, 2, 4)]
    assert sum(bool(move.any()) for move in large.values()) > 0.9 * len(large)
    for found in accumulated:
        for key, move in large.items():
            torch.testing.assert_close(found[key], move, rtol=1e-9, atol=1e-14, msg=key)
