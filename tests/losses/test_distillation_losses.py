"""The losses beside the KL: what they see and do not see, where their gradients go, and that only
weighted ones are computed.
"""

from __future__ import annotations

import importlib.util
import math
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from noise import noise_corpus
from small_models import stack
from torch import Tensor

from vqwave.data import Corpus
from vqwave.distributions import Distribution, LogisticMixture, MixtureOfLogistics
from vqwave.errors import UserInputError
from vqwave.inference.model_folder import ModelCard, load_trained, save_trained
from vqwave.losses import (
    AdversarialSpec,
    AdversarialTraining,
    ClosedGaussian,
    ContrastiveSpec,
    DistillationLosses,
    DistillationSpec,
    Distilled,
    RandomisedQuantiles,
    STFTSpec,
    adversarial_loss,
    discriminator_loss,
    gram,
    style_loss,
)
from vqwave.models import Classifier, ClassifierSpec, StudentSpec, WaveNetSpec
from vqwave.models.discriminator import DiscriminatorSpec
from vqwave.nn.condition import ConditionerSpec
from vqwave.training.settings import DataSpec, OptimSpec, TrainSpec
from vqwave.training.trainer import Trainer

F64 = torch.float64
NETWORK = stack(4)


def waves(B: int = 2, T: int = 4096) -> Tensor:
    return 0.1 * torch.randn(B, T, dtype=F64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("gain", [0.5, 1.0, 3.0])
def test_stft_loss_of_a_gain(gain: float) -> None:
    """|Y| - |X| is (1 - g) |Y| and ln|Y| - ln|X| is -ln g at every resolution: |1 - g| + |ln g|."""
    y = waves()
    for spec in (
        STFTSpec(floor=1e-20),
        STFTSpec(floor=1e-20, resolutions=((128, 20, 60), (256, 40, 120))),
    ):
        assert spec.loss(gain * y, y).item() == pytest.approx(
            abs(1 - gain) + abs(math.log(gain)), abs=1e-9
        )


def test_stft_loss_against_its_definition() -> None:
    x, y = waves(2, 1500), waves(2, 1500).flip(1)
    total = 0.0
    for fft, hop, window in ((256, 40, 120), (128, 30, 128)):
        shape = torch.hann_window(window, dtype=F64)
        magnitudes = []
        for wave in (x, y):
            stft = torch.stft(
                wave, fft, hop, window, shape, center=True, pad_mode="constant", return_complex=True
            )
            magnitudes.append((stft.abs() / shape.square().sum().sqrt()).clamp(min=1e-7**0.5))
        p, q = magnitudes
        convergence = [
            torch.linalg.matrix_norm(q[b] - p[b]) / torch.linalg.matrix_norm(q[b]) for b in range(2)
        ]
        total += (sum(convergence) / 2 + (q.log() - p.log()).abs().mean()).item() / 2
    assert STFTSpec(resolutions=((256, 40, 120), (128, 30, 128))).loss(
        x, y
    ).item() == pytest.approx(total)


def test_stft_loss_has_a_gradient_in_silence() -> None:
    x = torch.zeros(1, 4096, dtype=F64, requires_grad=True)
    STFTSpec().loss(x + 1e-9, waves(1)).backward()
    assert torch.isfinite(x.grad).all()


def ear() -> Classifier:
    torch.manual_seed(1)
    spec = ClassifierSpec(layers=3, dilation_cycle=3, channels=6)
    return spec.build(8000, {"speaker": ["a", "b", "c"]}).double().eval().requires_grad_(False)


def test_gram_matrices_do_not_see_the_order_of_frames() -> None:
    features = torch.randn(2, 5, 40, dtype=F64)
    assert gram(features).shape == (2, 5, 5)
    torch.testing.assert_close(gram(features[..., torch.randperm(40)]), gram(features))
    assert (gram(features[:, torch.randperm(5)]) - gram(features)).abs().max() > 0.01
    torch.testing.assert_close(
        gram(features)[0, 1, 3], (features[0, 1] * features[0, 3]).mean() / 5
    )


def test_style_loss_measures_timbre_and_hardly_timing() -> None:
    classifier, pad = ear(), torch.zeros(1, 400, dtype=F64)
    sound = waves(1, 800)
    early, late = torch.cat([pad, sound, pad, pad], 1), torch.cat([pad, pad, sound, pad], 1)
    smooth = torch.cat([pad, torch.nn.functional.avg_pool1d(sound, 5, 1, 2), pad, pad], 1)
    assert style_loss(classifier, early, early).item() == 0
    assert style_loss(classifier, late, early).item() < 1e-20  # moved by a multiple of the stride
    assert style_loss(classifier, smooth, early).item() > 1e-6


def test_style_loss_flows_through_a_frozen_ear_into_the_sample() -> None:
    classifier, x = ear(), waves().requires_grad_(True)
    style_loss(classifier, x, waves().flip(1)).backward()
    assert (x.grad.abs().sum(1) > 0).all()
    assert all(p.grad is None for p in classifier.parameters())


def test_a_classifier_does_not_hear_padding() -> None:
    classifier, x = ear(), waves(1, 400)
    mask = torch.arange(400)[None] < 200
    moved = (
        classifier(x, mask)["speaker"] - classifier(x * (torch.arange(400) < 240), mask)["speaker"]
    )
    torch.testing.assert_close(moved, torch.zeros_like(moved))
    gradient = torch.autograd.functional.jacobian(lambda x: classifier(x)["speaker"], x)
    assert (gradient.abs().sum((0, 1, 2)) > 0).all()


def test_least_squares_terms() -> None:
    real, made = torch.tensor([[1.0, 0.5]]), torch.tensor([[0.0, 0.5]])
    assert discriminator_loss(torch.ones(1, 2), torch.zeros(1, 2)).item() == 0
    assert discriminator_loss(real, made).item() == pytest.approx(0.25)
    assert adversarial_loss(made).item() == pytest.approx(0.625)
    assert adversarial_loss(made, torch.tensor([[True, False]])).item() == pytest.approx(1.0)


ADVERSARY = AdversarialSpec(start=2, lr=5e-3, discriminator=DiscriminatorSpec(layers=4, channels=6))


def test_the_adversary_learns_to_tell_and_trains_nobody_else() -> None:
    torch.manual_seed(0)
    adversary, mask = ADVERSARY.build(), torch.ones(2, 300, dtype=torch.bool)
    before = [p.clone() for p in adversary.discriminator.parameters()]
    x = (0.01 * torch.randn(2, 300)).requires_grad_(True)
    assert adversary.loss(x, torch.randn(2, 300), mask, 1).item() == 0  # not yet
    assert all(
        torch.equal(p, q) for p, q in zip(before, adversary.discriminator.parameters(), strict=True)
    )
    for step in range(2, 120):
        loss = adversary.loss(0.01 * torch.randn(2, 300), torch.randn(2, 300), mask, step)
    assert loss.item() > 0.6  # samples do not pass
    network = adversary.discriminator
    assert (
        network(torch.randn(2, 300)).mean() - network(0.01 * torch.randn(2, 300)).mean()
    ).item() > 0.4
    adversary.loss(x, torch.randn(2, 300), mask, 120).backward()
    assert x.grad.abs().max() > 0
    frozen = [p.clone() for p in network.parameters()]
    with torch.no_grad():
        adversary.loss(x, torch.randn(2, 300), mask, 121)
    assert all(torch.equal(p, q) for p, q in zip(frozen, network.parameters(), strict=True))


def test_the_adversary_goes_on_from_its_state() -> None:
    mask = torch.ones(1, 100, dtype=torch.bool)

    def train(adversary: AdversarialTraining, seeds: range) -> None:
        for seed in seeds:
            torch.manual_seed(seed)
            adversary.loss(torch.randn(1, 100), torch.randn(1, 100), mask, 5)

    torch.manual_seed(0)
    first, second = ADVERSARY.build(), ADVERSARY.build()
    train(first, range(3))
    second.load_state({name: value.clone() for name, value in first.state().items()})
    for adversary in (first, second):
        train(adversary, range(3, 6))
    a, b = first.state(), second.state()
    assert a.keys() == b.keys()
    assert any(name.startswith("optimizer/") for name in a)
    assert all(torch.equal(a[name], b[name]) for name in a)


def distilled() -> Distilled:
    x, zero = waves(), torch.zeros(2, 1, 4096, dtype=F64)

    def contrast() -> Distribution:
        raise AssertionError("a second teacher was asked for")

    def redraw() -> Tensor:
        raise AssertionError("a second sample was asked for")

    student = LogisticMixture(zero, zero, zero - 3)
    divergence = RandomisedQuantiles(num_samples=2).of(student)
    mask = torch.ones(2, 4096, dtype=torch.bool)
    return Distilled(x, x.flip(1), mask, student, lambda: student, divergence, contrast, redraw)


def test_only_losses_with_a_weight_are_computed() -> None:
    losses = DistillationLosses(
        DistillationSpec(),
        {"kl": 1.0, "stft": 0.5, "contrastive": 0.0, "perceptual": 0.0, "adversarial": 0.0},
    )
    assert set(losses(distilled())) == {"kl", "stft"}
    assert losses.adversarial is None
    with pytest.raises(AssertionError, match="second teacher"):
        DistillationLosses(DistillationSpec(), {"contrastive": -0.3})(distilled())
    with pytest.raises(AssertionError, match="second sample"):
        DistillationLosses(DistillationSpec(), {"energy_distance": 1.0})(distilled())


def test_the_teacher_is_asked_for_until_a_step_and_no_longer() -> None:
    def teacher() -> Distribution:
        raise AssertionError("the teacher was asked for")

    losses = DistillationLosses(DistillationSpec(kl_until=5), {"kl": 1.0, "stft": 0.5})
    alone = replace(distilled(), predict=teacher)
    losses.step = 4
    with pytest.raises(AssertionError, match="the teacher was asked for"):
        losses(alone)
    losses.step = 5
    assert set(losses(alone)) == {"stft"}


def test_every_named_loss_is_there() -> None:
    assert set(
        DistillationLosses(DistillationSpec(), dict.fromkeys(DistillationLosses.names, 1.0)).terms
    ) == set(DistillationLosses.names)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "experiments" / "distill.py"
    found = importlib.util.spec_from_file_location("distill_experiment", path)
    module = importlib.util.module_from_spec(found)
    sys.modules[found.name] = module  # where dataclasses look for the names of annotations
    found.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A corpus of noises, and an untrained teacher of it."""
    root = tmp_path_factory.mktemp("distillation")
    noise_corpus(root, takes=20, samples=1200)
    corpus = Corpus.open(root / "corpus")
    torch.manual_seed(0)
    spec = WaveNetSpec(
        head=MixtureOfLogistics(components=2),
        network=NETWORK,
        conditioner=ConditionerSpec(channels=4),
    )
    card = ModelCard(sample_rate=8000, labels=corpus.labels, spec=spec, about={})
    save_trained(root / "teacher", spec.build(8000, corpus.labels), card)
    return root / "corpus", root / "teacher"


def config(script: ModuleType, folders: tuple[Path, Path], run: Path) -> object:
    return script.Config(
        run=run,
        teacher=folders[1],
        data=DataSpec(
            corpus=folders[0], clip_seconds=0.03, batch=4, valid_clip_seconds=0.03, valid_clips=2
        ),
        model=StudentSpec(flows=(2, 2), network=NETWORK, squeeze=2, stagger_blocks=True),
        losses={"kl": 1.0, "contrastive": -0.3, "adversarial": 4.0},
        contrastive=ContrastiveSpec(other="labels"),
        adversarial=ADVERSARY,
        optim=OptimSpec(lr=1e-2, warmup=2),
        train=TrainSpec(
            steps=8, grad_accumulation=2, log_every=4, valid_every=8, save_every=4, threads=1
        ),
        num_samples=1,
    )


def test_a_killed_run_with_a_discriminator_resumes_bit_for_bit(
    script: ModuleType, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    Trainer(script.DistillExperiment(config(script, folders, tmp_path / "whole")), quiet=True).run()
    loop = Trainer(
        script.DistillExperiment(config(script, folders, tmp_path / "broken")), quiet=True
    )
    batches = loop.batches()
    for _ in range(4):
        loop._optimize(batches)
    loop._save()
    loop.held.close()  # as a killed process leaves the folder
    Trainer(
        script.DistillExperiment(config(script, folders, tmp_path / "broken")), quiet=True
    ).run()
    ends = [tmp_path / run / "checkpoints" / "step-00000008" for run in ("whole", "broken")]
    for name in ("network", "average", "optimizer", "extra"):
        first, second = ((end / f"{name}.safetensors").read_bytes() for end in ends)
        assert first == second
        assert len(first) > 500


def test_a_student_starts_from_the_weights_of_another(
    script: ModuleType, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    first = config(script, folders, tmp_path / "first")
    Trainer(script.DistillExperiment(first), quiet=True).run()
    second = replace(first, run=tmp_path / "second", start_from=tmp_path / "first")
    loop = Trainer(script.DistillExperiment(second), quiet=True)
    loop.held.close()
    trained = load_trained(tmp_path / "first").model.state_dict()
    begun = loop.model.state_dict()
    assert all(torch.equal(begun[name], value) for name, value in trained.items())
    other = replace(second, model=replace(first.model, flows=(2, 2, 2)))
    for changed, complaint in (
        (other, "start_from: .*first.* has other settings than `model`"),
        (replace(second, start_from=folders[1]), "start_from: .*teacher.* has other settings"),
    ):
        with pytest.raises(UserInputError, match=complaint):
            Trainer(script.DistillExperiment(replace(changed, run=tmp_path / "third")), quiet=True)


def test_what_distillation_refuses(
    script: ModuleType, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    good = config(script, folders, tmp_path)
    for changed, complaint in (
        ({"model": replace(good.model, flow_type="maf")}, "model.flow_type: maf, expected iaf"),
        ({"kl": ClosedGaussian()}, "kl.kind: gaussian"),
        ({"voiced_temperature": 0.5}, "voiced_temperature: 0.5 with losses.kl, .* expected 1"),
        (
            {
                "losses": {"perceptual": 1.0},
                "perceptual": replace(good.perceptual, classifier=folders[1]),
            },
            "perceptual.classifier: .* is a wavenet, expected a classifier",
        ),
        (
            {"contrastive": ContrastiveSpec(other="frames")},
            "contrastive.other: frames, with a teacher without any",
        ),
    ):
        with pytest.raises(UserInputError, match=complaint):
            Trainer(
                script.DistillExperiment(replace(good, run=tmp_path / complaint[:5], **changed)),
                quiet=True,
            ).run()
