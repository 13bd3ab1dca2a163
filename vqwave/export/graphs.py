"""The parts of a model as graphs: one pass over named inputs, in operations that ONNX has."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from vqwave.codes import fingerprint
from vqwave.decode.postfilter import conditioning_spectrum, strength_of
from vqwave.decode.sampling import Temperatures, temperatures_of
from vqwave.errors import UserInputError, under
from vqwave.export.flow_graph import RealSpectralPredictor, one_pass, synthesise
from vqwave.export.postfilter_graph import RealPostfilter, RealSpectrum, magnitudes
from vqwave.features import MelBands
from vqwave.inference.model_folder import Loaded
from vqwave.inference.model_kinds import kind_of
from vqwave.models import VQVAE, Student
from vqwave.models.melody import VOICE, Melody
from vqwave.models.pitch import normalise
from vqwave.models.student import BASES
from vqwave.nn.condition import Condition
from vqwave.nn.flows import AffineFlow
from vqwave.nn.module_lists import elements
from vqwave.nn.repeat import repeated

NEUTRAL = Temperatures()


class Graph(nn.Module, ABC):
    """One pass over named inputs; `example` makes inputs for a batch and a number of frames,
    `reference` is PyTorch's own pass.
    """

    names: tuple[str, ...]
    output: str
    tolerance: float
    facts: dict[str, object]
    hop: int

    @abstractmethod
    def example(self, batch: int, frames: int) -> tuple[Tensor, ...]: ...

    @abstractmethod
    def reference(self, *inputs: Tensor) -> Tensor: ...

    def axes(self) -> dict[str, dict[int, str]]:
        """The free axes of inputs and output."""
        free = {
            "codes": {0: "batch", 2: "frames"},
            "frames": {0: "batch", 2: "frames"},
            "noise": {0: "batch", 1: "samples"},
        }
        free["pitch_codes"] = {0: "batch", 2: "pitch_frames"}
        return {name: free.get(name, {0: "batch"}) for name in self.names} | {
            self.output: free.get(self.output, {0: "batch", 1: "samples"})
        }


class DecoderGraph(Graph):
    """codes or frames, noise, labels and vectors -> wave: the student's flows as one pass over
    complete clips.
    """

    output, tolerance = "wave", 1e-3  # of samples, which lie in [-1, 1]

    def __init__(
        self,
        student: Student,
        coder: VQVAE | None,
        vocabulary: dict[str, list[str]],
        *,
        temperatures: Temperatures = NEUTRAL,
        postfilter: float = 0.0,
        free_range: bool = False,
    ) -> None:
        """coder: the model whose codes the student decodes, if it decodes codes; temperatures: by
        which the graph scales its noise; postfilter: its strength; free_range: the range of a
        melody is an input also where there are speakers, so that it can be moved.
        """
        super().__init__()
        self.temperatures, features = temperatures, conditioning_spectrum(coder)
        self.postfilter = RealPostfilter(features, postfilter) if postfilter and features else None
        self.original = [(student, coder)]  # in a list, so that the graph does not hold its weights
        self.predictor_order = 0 if student.predictor is None else student.predictor.order
        self.student, self.coder = _in_real_numbers(student, coder)
        conditioner, melody = student.conditioner, None if coder is None else coder.melody
        frames: tuple[str, ...] = ()
        if conditioner.frames is not None:
            frames = ("frames",) if coder is None else ("codes",)
        attributes = (*conditioner.labels, *conditioner.vector_sizes)
        if melody is not None:
            # whose range the melody is decoded in
            voice = "speaker" if "speaker" in vocabulary and not free_range else VOICE
            frames, attributes = (
                (*frames, "pitch_codes"),
                tuple(dict.fromkeys((*attributes, voice))),
            )
        self.names = (*frames, "noise", *attributes)
        hop = conditioner.hop if coder is None else coder.hop
        self.hop = math.lcm(hop, flows_of(student)[0].squeeze)
        base = next(name for name, kind in BASES.items() if kind is student.base)
        self.labels = {name: vocabulary[name] for name in attributes if name in vocabulary}
        self.facts = {"base": base, "hop": self.hop, "labels": self.labels}
        self.facts |= {"temperatures": self.temperatures._asdict(), "postfilter": postfilter}
        if melody is not None:
            self.facts["pitch_hop"] = melody.codec.hop

    def forward(self, *inputs: Tensor) -> Tensor:
        given, student = dict(zip(self.names, inputs, strict=True)), self.student
        given_condition, spectrum = _condition(student, self.coder, given)
        condition, columns = student.flow_condition(given_condition)
        x = self._scaled(given["noise"], columns)
        for flow in flows_of(student):
            x = one_pass(flow, x, condition, still=student.conditioner.frames is None)
        if columns is not None:
            x = synthesise(x, columns.features[:, : self.predictor_order], columns.repeat)
        return self._filtered(x.clamp(-1.0, 1.0), spectrum)

    def reference(self, *inputs: Tensor) -> Tensor:
        given, (student, coder) = dict(zip(self.names, inputs, strict=True)), self.original[0]
        condition, spectrum = _condition(student, coder, given)
        noise = self._scaled(given["noise"], student.conditioner.split(condition)[1])
        return self._filtered(student.transform(noise, condition).x.clamp(-1.0, 1.0), spectrum)

    def _filtered(self, wave: Tensor, spectrum: Tensor | None) -> Tensor:
        if self.postfilter is None or spectrum is None:
            return wave
        return self.postfilter(wave, spectrum)

    def _scaled(self, noise: Tensor, columns: Condition | None) -> Tensor:
        """Noise (B, T) at the temperatures: see `decode.reference.scales`."""
        predictor, of_all, of_voiced = self.student.predictor, *self.temperatures[1:]
        if predictor is None or columns is None or of_all == of_voiced:
            return noise if of_all == 1 else noise * of_all
        voiced = predictor.voiced(columns.features)  # (B, columns)
        if voiced is None:
            return noise * of_all
        return noise * repeated(torch.where(voiced, of_voiced, of_all), columns.repeat)

    def example(self, batch: int, frames: int) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(frames)
        return tuple(self._example_of(name, batch, frames, generator) for name in self.names)

    def _example_of(self, name: str, batch: int, frames: int, generator: torch.Generator) -> Tensor:
        conditioner, coder = self.student.conditioner, self.coder
        if name == "codes" and coder is not None:
            shape = (batch, coder.quantizer.num_codebooks, frames)
            return torch.randint(0, coder.quantizer.codebook_size, shape, generator=generator)
        if name == "pitch_codes" and coder is not None and coder.melody is not None:
            codec = coder.melody.codec
            shape = (batch, codec.quantizer.num_codebooks, -(-frames * coder.hop // codec.hop))
            return torch.randint(0, codec.quantizer.codebook_size, shape, generator=generator)
        if name == "frames" and conditioner.frames is not None:
            return torch.randn(batch, conditioner.frames.in_channels, frames, generator=generator)
        if name == "noise":
            return torch.randn(batch, frames * self.hop, generator=generator)
        if name in self.labels:
            return torch.arange(batch) % len(self.labels[name])
        if name == VOICE:
            return torch.tensor([0.4, 0.2]).repeat(batch, 1)
        return torch.randn(batch, conditioner.vector_sizes[name], generator=generator)


def _in_real_numbers(student: Student, coder: VQVAE | None) -> tuple[Student, VQVAE | None]:
    """The models themselves; with a predictor copies, whose predictors are made of operations that
    ONNX has.
    """
    if student.predictor is None:
        return student, coder
    student, coder = copy.deepcopy((student, coder))
    if student.predictor is not None:
        real = RealSpectralPredictor(student.predictor.analysis)
        student.predictor.analysis = real  # type: ignore[assignment]
    return student, coder


def flows_of(student: Student) -> Sequence[AffineFlow]:
    return elements(student.flows.flows, AffineFlow)


def _condition(
    student: Student, coder: VQVAE | None, given: dict[str, Tensor]
) -> tuple[Condition | None, Tensor | None]:
    """The condition, and the log-mel frames (B, M, F), predicted from codes, that it was made
    of.
    """
    frames, spectrum = given.get("frames"), None
    if coder is not None:
        codes = given["codes"]
        pitch = coder.pitch(given.get("pitch_codes"), given, codes.shape[-1])
        z, predicted = coder.quantizer.decode(codes), None
        if coder.spectral_decoder is not None and conditioning_spectrum(coder) is not None:
            predicted = coder.spectral_decoder(z, given, pitch=pitch)
            spectrum = coder.spectral_decoder.log_mel(predicted)
        frames = coder.decoder_features(z, given, predicted, pitch=pitch)
    elif student.frontend is not None and frames is not None:
        frames = student.frontend.extended(frames)
    return student.condition(frames, given), spectrum


class EncoderGraph(Graph):
    """wave -> codes; of a model with melody those of the content alone."""

    output, names = "codes", ("wave",)
    tolerance = 0.02  # share of codes: a latent between two codes may fall to either

    def __init__(self, model: VQVAE) -> None:
        super().__init__()
        self.model, self.hop = copy.deepcopy(model), model.hop
        self.original = [model]  # in a list, so that the graph does not hold its weights
        for parent in list(self.model.encoder.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, MelBands):
                    setattr(parent, name, RealMelBands(child))
        melody = [] if model.melody is None else [model.melody.codec]
        codec = fingerprint(model.encoder, model.quantizer, *melody)
        self.facts = {
            "hop": self.hop,
            "size": model.quantizer.codebook_size,
            "books": model.quantizer.num_codebooks,
            "codec": codec,
        }

    def forward(self, wave: Tensor) -> Tensor:
        return self.model.encode(wave)

    def reference(self, *inputs: Tensor) -> Tensor:
        return self.original[0].encode(*inputs)

    def example(self, batch: int, frames: int) -> tuple[Tensor, ...]:
        return (
            0.1
            * torch.randn(
                batch, frames * self.hop, generator=torch.Generator().manual_seed(frames)
            ),
        )

    def axes(self) -> dict[str, dict[int, str]]:
        return {"wave": {0: "batch", 1: "samples"}, "codes": {0: "batch", 2: "frames"}}


class PitchGraph(Graph):
    """contour (B, 2, N ratio) of `pitch_tracking.contour`, of which lengths (B,) frames are real,
    and the range (B, 2) that it is normalised by -> pitch_codes (B, Q_p, N).
    """

    output, names = "pitch_codes", ("contour", "lengths", VOICE)
    tolerance = 0.02  # share of codes, as of the encoder

    def __init__(self, melody: Melody) -> None:
        super().__init__()
        self.codec, self.hop = melody.codec, melody.codec.hop
        self.facts = {
            "hop": self.hop,
            "frames_a_code": self.codec.ratio,
            "size": self.codec.size,
            "books": self.codec.books,
        }

    def forward(self, *inputs: Tensor) -> Tensor:
        contour, lengths, voice = inputs
        return self.codec.encode(normalise(contour, voice[:, 0], voice[:, 1]), lengths)

    def reference(self, *inputs: Tensor) -> Tensor:
        return self.forward(*inputs)

    def example(self, batch: int, frames: int) -> tuple[Tensor, ...]:
        generator, n = torch.Generator().manual_seed(frames), frames * self.codec.ratio
        voiced = (torch.rand(batch, n, generator=generator) > 0.3).float()
        log_f0 = 0.4 + 0.2 * torch.randn(batch, n, generator=generator)
        lengths = (n - torch.arange(batch)).clamp(min=1)
        return (
            torch.stack([voiced * log_f0, voiced], 1),
            lengths,
            torch.tensor([0.4, 0.2]).repeat(batch, 1),
        )

    def axes(self) -> dict[str, dict[int, str]]:
        return {
            "contour": {0: "batch", 2: "pitch_frames"},
            "lengths": {0: "batch"},
            VOICE: {0: "batch"},
            self.output: {0: "batch", 2: "pitch_codes"},
        }


class RealMelBands(nn.Module):
    """`MelBands` in real numbers."""

    def __init__(self, mel: MelBands) -> None:
        super().__init__()
        self.mel, self.spectrum = mel, RealSpectrum(mel)

    def forward(self, wave: Tensor) -> Tensor:
        magnitude = magnitudes(self.spectrum(wave))
        return self.mel.filters @ (magnitude if self.mel.power == 1 else magnitude.square())


def decoder_graph(
    loaded: Loaded,
    name: str | Path,
    *,
    temperatures: Temperatures | None = None,
    free_range: bool = False,
) -> DecoderGraph:
    """The graph of a model's decoder and its post-filter, with the settings of `DecoderGraph`, by
    default the model's own.

    Raises UserInputError for one that is no student.
    """
    with under(str(name)):
        kind = kind_of(loaded.model, loaded.card)
        student = kind.decoder
        if not isinstance(student, Student):
            raise UserInputError(
                "its decoder is a WaveNet, whose loop over samples is no graph; expected a student"
                " (distill it)"
            )
        flows = flows_of(student)
        if not all(flow.parallel_sampling for flow in flows):
            raise UserInputError(
                "its flows are masked (flow_type maf), whose loop over samples is no graph;"
                " expected iaf"
            )
        if any(flow.stack.context is not None or flow.stack.spec.skip_channels for flow in flows):
            raise UserInputError(
                "its flows have a context stack, which has no graph; expected flows without"
            )
    return DecoderGraph(
        student,
        kind.codec,
        loaded.card.labels,
        temperatures=temperatures_of(loaded.card.about) if temperatures is None else temperatures,
        postfilter=strength_of(loaded.card.about, kind.codec),
        free_range=free_range,
    ).eval()


def encoder_graph(loaded: Loaded, name: str | Path) -> EncoderGraph:
    """The graph of a model's encoder and quantizer. Raises UserInputError for a model without."""
    return EncoderGraph(_codec(loaded, name)).eval()


def pitch_graph(loaded: Loaded, name: str | Path) -> PitchGraph:
    """The graph of a model's pitch encoder. Raises UserInputError for a model without."""
    melody = _codec(loaded, name).melody
    if melody is None:
        raise UserInputError(f"{name}: a model without pitch codes, expected one with")
    return PitchGraph(melody).eval()


def _codec(loaded: Loaded, name: str | Path) -> VQVAE:
    codec = getattr(loaded.model, "codec", loaded.model)  # of a prior
    if not isinstance(codec, VQVAE):
        raise UserInputError(
            f"{name}: a {loaded.card.kind} without an encoder, expected a vqvae (or its student)"
        )
    return codec
