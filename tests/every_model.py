"""Every kind of model at its smallest, with a loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from vqwave.distributions import (
    Gaussian,
    LinearBins,
    Logistic,
    MixtureOfGaussians,
    MixtureOfLogistics,
    MuLaw,
)
from vqwave.features import LogMelSpec
from vqwave.losses import discriminator_loss, negative_log_likelihood, randomised_quantiles
from vqwave.losses.distillation import cross_entropy
from vqwave.models import (
    ClassifierSpec,
    Density,
    PriorSpec,
    StudentSpec,
    VQVAESpec,
    WaveNetSpec,
)
from vqwave.models.discriminator import DiscriminatorSpec
from vqwave.models.wavenet import InputDropoutSpec
from vqwave.nn.auxiliary.adversarial_classifier import AdversarialClassifierSpec
from vqwave.nn.auxiliary.conversion_classifier import ConversionClassifierSpec
from vqwave.nn.auxiliary.spectral_decoder import SpectralDecoderSpec
from vqwave.nn.condition import ConditionDropoutSpec, ConditionerSpec
from vqwave.nn.encoders import (
    BatchNormEncoderSpec,
    FrameEncoderSpec,
    WaveformEncoderSpec,
)
from vqwave.nn.linear_prediction import LinearPredictorSpec
from vqwave.nn.quantize import (
    EMAQuantizerSpec,
    EntropySpec,
    FSQuantizerSpec,
    GradientQuantizerSpec,
    HierarchicalQuantizerSpec,
    ProductQuantizerSpec,
    QuantizerSpec,
    ResidualQuantizerSpec,
)
from vqwave.nn.wavenet import ContextSpec, StackSpec, force_layerwise

RATE, B, T = 8000, 3, 96
VOCABULARY = {"speaker": ["a", "b", "c"], "text": ["no", "yes"]}
LABELS = {"speaker": torch.tensor([0, 2, 1]), "text": torch.tensor([1, 0, 1])}
MEL = LogMelSpec(bands=6, window_ms=4.0, hop_ms=1.0, fmin=200.0, fmax=4000.0)  # hop 8
CONDITIONER = ConditionerSpec(channels=4)
WAVEFORM = WaveformEncoderSpec(strides=(4, 4), channels=4, blocks=1, latent_dim=4)
HEADS = {
    "mu-law": MuLaw(classes=16),
    "linear": LinearBins(classes=32),
    "logistics": MixtureOfLogistics(components=2),
    "gaussians": MixtureOfGaussians(components=2),
    "gaussian": Gaussian(),
    "logistic": Logistic(),
}
CONTEXT = ContextSpec(stride=8, layers=2, residual_channels=4, channels=3)
DROPOUT = ConditionDropoutSpec(all=0.3, labels=0.2, frames=0.2)
QUANTIZERS: Mapping[str, QuantizerSpec] = {
    "averages": EMAQuantizerSpec(codebook_size=4, entropy=EntropySpec()),
    "gradient": GradientQuantizerSpec(
        codebook_size=4, l2_normalize=True, gradient_estimator="rotation", entropy=EntropySpec()
    ),
    "code dimensions": GradientQuantizerSpec(codebook_size=4, codebook_dim=2),
    "residual": ResidualQuantizerSpec(
        num_quantizers=2, quantizer_dropout=0.5, quantizer=GradientQuantizerSpec(codebook_size=4)
    ),
    "product": ProductQuantizerSpec(quantizer=GradientQuantizerSpec(codebook_size=4)),
    "fsq": FSQuantizerSpec(levels=(4, 3)),
    "two levels": HierarchicalQuantizerSpec(downsample=2),
}
Loss = Callable[[], Tensor]
Built = tuple[nn.Module, Loss]


def network(**settings: object) -> StackSpec:
    sizes = {
        "layers": 3,
        "dilation_cycle": 2,
        "residual_channels": 4,
        "gate_channels": 4,
        "skip_channels": 5,
        "hidden_channels": 6,
    }
    return StackSpec(**sizes | settings)


def wave(generator: int = 1) -> Tensor:
    return 0.2 * torch.randn(B, T, generator=torch.Generator().manual_seed(generator)).clamp(-4, 4)


def wavenet(*, checkpointing: bool = False, **settings: object) -> Built:
    parts = {"head": HEADS["logistics"], "network": network(), "conditioner": CONDITIONER}
    spec = WaveNetSpec(**parts | settings)
    model = spec.build(RATE, VOCABULARY)
    model.stack.checkpointing = checkpointing
    labels = LABELS | {
        name: torch.randn(B, size) for name, size in spec.conditioner.embeddings.items()
    }
    return model, lambda: negative_log_likelihood(model(wave(), labels), wave())


def pitch_taps() -> Built:
    """A predictor of whose residuals one pitch period ago the network has three."""
    predictor = LinearPredictorSpec(order=3)
    spec = WaveNetSpec(
        network=network(), conditioner=CONDITIONER, predictor=predictor, pitch_taps=3
    )
    model = spec.build(RATE, VOCABULARY, MEL.bands, 8, MEL.build(RATE))
    log_mel = torch.randn(B, MEL.bands, T // 8, generator=torch.Generator().manual_seed(0))
    columns = model.predictor.analyse(log_mel, torch.ones(B, 2, T // 8))
    frames = torch.cat([log_mel, columns], 1)
    return model, lambda: negative_log_likelihood(model(wave(), LABELS, frames), wave())


def layered() -> Built:
    model, loss = wavenet()

    def one_layer_after_another() -> Tensor:
        with force_layerwise():
            return loss()

    return model, one_layer_after_another


def vqvae(**settings: object) -> Built:
    decoder = WaveNetSpec(network=network(), conditioner=CONDITIONER)
    parts = {"encoder": WAVEFORM, "quantizer": QUANTIZERS["averages"], "decoder": decoder}
    spec = VQVAESpec(**parts | settings)
    model = spec.build(RATE, VOCABULARY)
    others = {"speaker": LABELS["speaker"].roll(1), "text": LABELS["text"]}
    cyclic = "cycle_consistency" not in spec.needs

    def loss() -> Tensor:
        out = model(wave(), LABELS, others=others if cyclic else None, cyclic=cyclic)
        return sum(out.losses.values(), negative_log_likelihood(out.distribution, wave()))

    return model, loss


def frames_vqvae(**settings: object) -> Built:
    encoder = FrameEncoderSpec(features=MEL, stride=2, channels=6, latent_dim=4)
    readout = SpectralDecoderSpec(features=MEL, channels=6, blocks=2)
    return vqvae(encoder=encoder, spectral_decoder=readout, **settings)


def student(**settings: object) -> Built:
    sizes = network(kernel_size=3, skip_channels=0, residual_channels=8, hidden_channels=8)
    spec = StudentSpec(**{"flows": (2, 3), "network": sizes, "conditioner": CONDITIONER} | settings)
    model = spec.build(RATE, VOCABULARY)
    teacher, _ = wavenet()
    teacher.requires_grad_(False)

    def loss() -> Tensor:
        flowed = model(model.noise(torch.rand(4, B, T).clamp(1e-3, 1 - 1e-3)), LABELS)
        mine = model.distribution(flowed)
        u = randomised_quantiles(2, flowed.x.shape, device=flowed.x.device, dtype=flowed.x.dtype)
        predicted = teacher.predict(flowed.x, teacher.condition(None, LABELS))
        return (cross_entropy(mine, predicted, u) - mine.entropy).mean()

    return model, loss


def density(**settings: object) -> Built:
    model, _ = student(flow_type="maf", **settings)
    whole = Density(model)
    return whole, lambda: -whole(wave(), LABELS).mean()


def prior(quantizer: QuantizerSpec) -> Built:
    codec = VQVAESpec(
        encoder=FrameEncoderSpec(features=MEL, channels=4, latent_dim=4), quantizer=quantizer
    )
    conditioner = ConditionerSpec(channels=4, categorical=("speaker", "text"))
    model = (
        PriorSpec(network=network(), conditioner=conditioner, codec=codec)
        .build(RATE, VOCABULARY)
        .network
    )
    codes = torch.randint(
        model.size, (B, model.books, 7), generator=torch.Generator().manual_seed(0)
    )
    return model, lambda: -model(codes, LABELS).mean()


def classifier() -> Built:
    model = ClassifierSpec(
        categorical=("speaker", "text"), layers=3, dilation_cycle=2, channels=5
    ).build(RATE, VOCABULARY)

    def loss() -> Tensor:
        return sum(
            nn.functional.cross_entropy(logits, LABELS[name])
            for name, logits in model(wave()).items()
        )

    return model, loss


def discriminator() -> Built:
    model = DiscriminatorSpec(layers=4, channels=5).build()
    return model, lambda: discriminator_loss(model(wave()), model(wave(2)))


MODELS: dict[str, Callable[[], Built]] = {
    **{f"wavenet, {name}": lambda head=head: wavenet(head=head) for name, head in HEADS.items()},
    "wavenet, three taps": lambda: wavenet(network=network(kernel_size=3)),
    "wavenet, one layer": lambda: wavenet(network=network(layers=1)),
    "wavenet, no skips": lambda: wavenet(network=network(skip_channels=0)),
    "wavenet, context": lambda: wavenet(network=network(context=CONTEXT)),
    "wavenet, unconditional": lambda: wavenet(
        conditioner=ConditionerSpec(channels=4, categorical=())
    ),
    "wavenet, two labels": lambda: wavenet(
        conditioner=ConditionerSpec(channels=4, categorical=("speaker", "text"))
    ),
    "wavenet, vectors": lambda: wavenet(
        conditioner=ConditionerSpec(channels=4, embeddings={"voice": 3})
    ),
    "wavenet, frames": lambda: wavenet(
        features=MEL, conditioner=ConditionerSpec(channels=4, dropout=DROPOUT)
    ),
    "wavenet, upsampled": lambda: wavenet(
        features=MEL, conditioner=ConditionerSpec(channels=4, upsample=(2, 2))
    ),
    "wavenet, predictor": lambda: wavenet(features=MEL, predictor=LinearPredictorSpec(order=3)),
    "wavenet, pitch taps": pitch_taps,
    "wavenet, past dropout": lambda: wavenet(
        input_dropout=InputDropoutSpec(prob=0.2, span=2, noise_std=0.01)
    ),
    "wavenet, checkpointing": lambda: wavenet(checkpointing=True),
    "wavenet, layer by layer": layered,
    **{
        f"vqvae, {name}": lambda quantizer=quantizer: vqvae(quantizer=quantizer)
        for name, quantizer in QUANTIZERS.items()
    },
    "vqvae, batch norm": lambda: vqvae(
        encoder=BatchNormEncoderSpec(features=MEL, channels=4, latent_dim=4)
    ),
    "vqvae, readout": frames_vqvae,
    "vqvae, readout alone": lambda: frames_vqvae(
        decoder_input="spectrogram", decoder_input_noise=0.1
    ),
    "vqvae, latents and readout": lambda: frames_vqvae(decoder_input="both"),
    "vqvae, adversary": lambda: frames_vqvae(
        adversarial_classifier=AdversarialClassifierSpec(channels=5)
    ),
    "vqvae, listener": lambda: frames_vqvae(
        conversion_classifier=ConversionClassifierSpec(labels=("speaker", "text"), channels=5)
    ),
    "student": student,
    "student, gaussian": lambda: student(base="gaussian"),
    "student, folded": lambda: student(squeeze=2, stagger_blocks=True),
    "density": density,
    "density, folded": lambda: density(squeeze=2, stagger_blocks=True),
    "prior, one book": lambda: prior(QUANTIZERS["averages"]),
    "prior, books": lambda: prior(QUANTIZERS["residual"]),
    "classifier": classifier,
    "discriminator": discriminator,
}
