"""Models for elsewhere: ONNX graphs that are checked against PyTorch before they are kept, and
folders that stand alone.

A graph is one pass, so a decoder must be a student: a WaveNet's loop over samples is no graph.
Lengths and batch are free.

| part | inputs | output |
|---|---|---|
| decoder | codes (B, Q, F) or frames (B, D, F), noise (B, T), labels (B,), vectors | wave (B, T) |
| encoder | wave (B, T) of the model's level, without DC | codes (B, Q, F) |

T = F hop samples; codes and labels are int64. A decoder with melody takes pitch_codes (B, Q_p, N),
too, which cover T, and decodes them in the range of its speaker; a model that knows no speakers
takes the range, voice_pitch (B, 2).
"""

from __future__ import annotations

import copy
import importlib.util
import json
import math
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqwave.atomic_files import write_text
from vqwave.codes import fingerprint
from vqwave.errors import UserInputError
from vqwave.export.flow_graph import RealSpectralPredictor, one_pass, synthesise
from vqwave.features import MelBands
from vqwave.inference.model_folder import Loaded, load_trained, save_trained
from vqwave.models import VQVAE, Classifier, PitchCodec, Prior, Student
from vqwave.models.melody import VOICE
from vqwave.models.student import BASES
from vqwave.nn.condition import Condition
from vqwave.nn.flows import MaskedFlow
from vqwave.nn.frontend import PredictorFrontend

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Part = Literal["decoder", "encoder"]
OPSET = 18
CHECKED = ((1, 1), (1, 2), (3, 7), (2, 40))  # batches and frames that a graph is checked at


@dataclass(frozen=True)
class Checked:
    """A graph that was written: how far it is from PyTorch at each length, in samples; or the share
    of other codes.
    """

    path: Path
    part: Part
    inputs: dict[str, list[int | str]]
    differences: dict[int, float]  # by number of frames

    @property
    def largest(self) -> float:
        return max(self.differences.values())


def export_onnx(name: str | Path, out: Path, part: Part = "decoder") -> Checked:
    """Write one part of a model as an ONNX graph, once onnxruntime has found it equal to PyTorch at
    several lengths.

    Raises UserInputError for a part that is no single pass, a missing package, or a graph that
    differs.
    """
    for package in ("onnx", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise UserInputError(f"{package} is not installed: pip install 'vqwave[export]'")
    loaded = load_trained(name)
    graph = encoder_of(loaded, name) if part == "encoder" else decoder_of(loaded, name)
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        trace(graph, temporary, name)
        inputs = _describe(
            temporary, graph.facts | {"part": part, "sample_rate": loaded.card.sample_rate}
        )
        with _in_a_line(f"{name}: its graph does not run"):
            found = {
                frames: _difference(temporary, graph, batch, frames) for batch, frames in CHECKED
            }
        checked = Checked(out, part, inputs, found)
        if not checked.largest <= graph.tolerance:
            raise UserInputError(
                f"{name}: its graph is {checked.largest:.2g} away from PyTorch, expected at most"
                f" {graph.tolerance:g}"
            )
        os.replace(temporary, out)
    except OSError as error:
        raise UserInputError(f"{out}: cannot be written ({error.strerror})") from None
    finally:
        temporary.unlink(missing_ok=True)
    return checked


def export_folder(name: str | Path, out: Path, *, half: bool = False) -> Loaded:
    """A folder that `vqwave.load` reads: `model.safetensors`, `config.json`, and a card
    `README.md`. Raises UserInputError.

    half: weights in 16 bits, half the bytes. They are rounded, so that a few codes differ: it is a
    codec of its own.
    """
    if out.exists() and any(out.iterdir() if out.is_dir() else [out]):
        raise UserInputError(f"{out}: there already, expected a new or empty folder")
    loaded = load_trained(name)
    save_trained(out, copy.deepcopy(loaded.model).half() if half else loaded.model, loaded.card)
    write_text(out / "README.md", model_page(loaded))
    return loaded


def model_page(loaded: Loaded) -> str:
    """The folder's card, as model hubs read it: what it is, what it was trained on, how to use
    it.
    """
    card = loaded.card
    about = "\n".join(
        f"| {key.replace('_', ' ')} | {_cell(value)} |" for key, value in card.about.items()
    )
    head = "---\nlibrary_name: vqwave\npipeline_tag: audio-to-audio\ntags: [speech, vqwave]\n---\n"
    use = 'import vqwave\n\nmodel = vqwave.load("path/of/this/folder")\nprint(model)'
    return (
        f"{head}\n# {card.kind} at {card.sample_rate:,} Hz\n\n```python\n{use}\n```\n\n| |"
        f" |\n|---|---|\n{about}\n"
        + "".join(
            f"| {label} | {len(values)}: {_cell(values)} |\n"
            for label, values in card.labels.items()
        )
    )


def _cell(value: object) -> str:
    shown = (
        json.dumps(value)
        if isinstance(value, dict)
        else ", ".join(map(str, value))
        if isinstance(value, list)
        else str(value)
    )
    return shown if len(shown) <= 120 else shown[:117] + "..."


class Graph(nn.Module, ABC):
    """One pass over named inputs; `example` makes inputs for a batch and a number of frames,
    `truth` is PyTorch's own pass.
    """

    names: tuple[str, ...]
    output: str
    tolerance: float
    facts: dict[str, object]
    hop: int

    @abstractmethod
    def example(self, batch: int, frames: int) -> tuple[Tensor, ...]: ...

    @abstractmethod
    def truth(self, *inputs: Tensor) -> Tensor: ...

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


class SpeakingGraph(Graph):
    """codes or frames, noise, labels and vectors -> wave: the student's flows as one pass over
    whole clips.
    """

    output, tolerance = "wave", 1e-3  # of samples, which lie in [-1, 1]

    def __init__(
        self, student: Student, coder: VQVAE | None, vocabulary: dict[str, list[str]]
    ) -> None:
        """coder: the model whose codes the student speaks, if it speaks codes."""
        super().__init__()
        self.original = [(student, coder)]  # in a list, so that the graph does not hold its weights
        self.student, self.coder = _in_real_numbers(student, coder)
        conditioner, melody = student.conditioner, None if coder is None else coder.melody
        heard = () if conditioner.frames is None else ("frames",) if coder is None else ("codes",)
        attributes = (*conditioner.labels, *conditioner.vector_sizes)
        if melody is not None:
            # whose range the melody is decoded in
            voice = "speaker" if "speaker" in vocabulary else VOICE
            heard, attributes = (*heard, "pitch_codes"), tuple(dict.fromkeys((*attributes, voice)))
        self.names = (*heard, "noise", *attributes)
        self.hop = math.lcm(
            conditioner.hop if coder is None else coder.hop, student.flows.flows[0].squeeze
        )
        base = next(name for name, kind in BASES.items() if kind is student.base)
        self.labels = {name: vocabulary[name] for name in attributes if name in vocabulary}
        self.facts = {"base": base, "hop": self.hop, "labels": self.labels}
        if melody is not None:
            self.facts["pitch_hop"] = melody.codec.hop

    def forward(self, *inputs: Tensor) -> Tensor:
        given, student = dict(zip(self.names, inputs, strict=True)), self.student
        condition, columns = student.conditioner.split(_condition(student, self.coder, given))
        x = given["noise"]
        for flow in student.flows.flows:
            x = one_pass(flow, x, condition, still=student.conditioner.frames is None)
        if columns is not None:
            x = synthesise(x, columns.features[:, : student.predictor.order], columns.repeat)
        return x.clamp(-1.0, 1.0)

    def truth(self, *inputs: Tensor) -> Tensor:
        given, (student, coder) = dict(zip(self.names, inputs, strict=True)), self.original[0]
        return student.transform(given["noise"], _condition(student, coder, given)).x.clamp(
            -1.0, 1.0
        )

    def example(self, batch: int, frames: int) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(frames)
        conditioner, found = self.student.conditioner, []
        for name in self.names:
            if name in ("codes", "pitch_codes"):
                found.append(self._codes(name, batch, frames, generator))
            elif name == "frames":
                found.append(
                    torch.randn(batch, conditioner.frames.in_channels, frames, generator=generator)
                )
            elif name == "noise":
                found.append(torch.randn(batch, frames * self.hop, generator=generator))
            elif name in self.labels:
                found.append(torch.arange(batch) % len(self.labels[name]))
            elif name == VOICE:
                found.append(torch.tensor([0.4, 0.2]).repeat(batch, 1))
            else:
                found.append(
                    torch.randn(batch, conditioner.vector_sizes[name], generator=generator)
                )
        return tuple(found)

    def _codes(self, name: str, batch: int, frames: int, generator: torch.Generator) -> Tensor:
        """Of so many latents: content codes, or the pitch codes that cover them."""
        quantizer = self.coder.quantizer
        if name == "pitch_codes":
            quantizer, frames = (
                self.coder.melody.codec.quantizer,
                -(-frames * self.coder.hop // self.coder.melody.codec.hop),
            )
        return torch.randint(
            0,
            quantizer.codebook_size,
            (batch, quantizer.num_codebooks, frames),
            generator=generator,
        )


def _in_real_numbers(student: Student, coder: VQVAE | None) -> tuple[Student, VQVAE | None]:
    """The models themselves; with a predictor copies, whose predictors are made of operations that
    ONNX has.
    """
    if student.predictor is None:
        return student, coder
    student, coder = copy.deepcopy((student, coder))
    student.predictor.analysis = RealSpectralPredictor(student.predictor.analysis)
    return student, coder


def _condition(student: Student, coder: VQVAE | None, given: dict[str, Tensor]) -> Condition | None:
    frames = given.get("frames")
    if coder is not None:
        codes = given["codes"]
        pitch = coder.pitch(given.get("pitch_codes"), given, codes.shape[-1])
        frames = coder.decoder_features(coder.quantizer.decode(codes), given, pitch=pitch)
    elif isinstance(student.frontend, PredictorFrontend):
        frames = student.frontend.extended(frames)
    return student.condition(frames, given)


class HearingGraph(Graph):
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

    def truth(self, wave: Tensor) -> Tensor:
        return self.original[0].encode(wave)

    def example(self, batch: int, frames: int) -> tuple[Tensor, ...]:
        return (
            0.1
            * torch.randn(
                batch, frames * self.hop, generator=torch.Generator().manual_seed(frames)
            ),
        )

    def axes(self) -> dict[str, dict[int, str]]:
        return {"wave": {0: "batch", 1: "samples"}, "codes": {0: "batch", 2: "frames"}}


class RealMelBands(nn.Module):
    """`MelBands` in real numbers, which are all that ONNX has: windowed cosines and sines as one
    convolution.
    """

    def __init__(self, mel: MelBands) -> None:
        super().__init__()
        self.mel = mel
        window = F.pad(mel.window.double(), ((mel.fft - mel.window.numel()) // 2,) * 2)
        window = F.pad(window, (0, mel.fft - window.numel()))
        phase = (
            torch.arange(mel.fft // 2 + 1)[:, None]
            * torch.arange(mel.fft)
            * (2 * torch.pi / mel.fft)
        )
        waves = torch.cat([phase.double().cos(), phase.double().sin()]) * window
        self.register_buffer("waves", waves[:, None].float(), persistent=False)  # (2 bins, 1, fft)

    def forward(self, wave: Tensor) -> Tensor:
        before = self.mel.fft // 2 - self.mel.hop // 2
        padded = F.pad(wave, (before, self.mel.fft - self.mel.hop - before))
        real, imaginary = F.conv1d(padded[:, None], self.waves, stride=self.mel.hop).chunk(2, 1)
        power = real.square() + imaginary.square()
        return self.mel.filters @ (power.sqrt() if self.mel.power == 1 else power)


def decoder_of(loaded: Loaded, name: str | Path) -> SpeakingGraph:
    """The graph of a model's decoder. Raises UserInputError for one that is no student."""
    model = loaded.model.codec if isinstance(loaded.model, Prior) else loaded.model
    if isinstance(model, Classifier | PitchCodec):
        raise UserInputError(
            f"{name}: a {loaded.card.kind.replace('_', ' ')}, expected a model that speaks"
        )
    decoder = model.decoder if isinstance(model, VQVAE) else model
    if not isinstance(decoder, Student):
        raise UserInputError(
            f"{name}: its decoder is a WaveNet, whose loop over samples is no graph; expected a"
            " student (distill it)"
        )
    if any(isinstance(flow, MaskedFlow) for flow in decoder.flows.flows):
        raise UserInputError(
            f"{name}: its flows are masked (flow_type maf), whose loop over samples is no graph;"
            " expected iaf"
        )
    if any(
        flow.stack.context is not None or flow.stack.spec.skip_channels
        for flow in decoder.flows.flows
    ):
        raise UserInputError(
            f"{name}: its flows have a context stack, which has no graph; expected flows without"
        )
    return SpeakingGraph(
        decoder, model if isinstance(model, VQVAE) else None, loaded.card.labels
    ).eval()


def encoder_of(loaded: Loaded, name: str | Path) -> HearingGraph:
    """The graph of a model's encoder and quantizer. Raises UserInputError for a model without."""
    model = loaded.model.codec if isinstance(loaded.model, Prior) else loaded.model
    if not isinstance(model, VQVAE):
        raise UserInputError(
            f"{name}: a {loaded.card.kind} without an encoder, expected a vqvae (or its student)"
        )
    return HearingGraph(model).eval()


@torch.no_grad()
def trace(graph: Graph, path: Path, name: str | Path) -> None:
    """TorchScript's exporter: torch.export reasons for minutes about the shapes of forty layers, a
    trace takes seconds.

    Raises UserInputError for a model with an operation that ONNX has not.
    """
    with warnings.catch_warnings(), _in_a_line(f"{name}: cannot become a graph"):
        # that it is the older exporter; and that shapes become constants, which is checked
        warnings.simplefilter("ignore")
        torch.onnx.export(
            graph,
            graph.example(2, 5),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=list(graph.names),
            output_names=[graph.output],
            dynamic_axes=graph.axes(),
        )


@contextmanager
def _in_a_line(problem: str) -> Iterator[None]:
    """What the exporter and onnxruntime raise is of any kind: as UserInputError, but for files that
    cannot be written.
    """
    try:
        yield
    except (UserInputError, OSError):
        raise
    except Exception as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserInputError(f"{problem} ({first})") from None


def _describe(path: Path, facts: dict[str, object]) -> dict[str, list[int | str]]:
    """Put what a user must know into the file's metadata -> shapes of its inputs by name."""
    import onnx

    model = onnx.load(path)
    for key, value in facts.items():
        model.metadata_props.add(
            key=key, value=value if isinstance(value, str) else json.dumps(value)
        )
    onnx.checker.check_model(model)
    onnx.save(model, path)
    shapes = {item.name: item.type.tensor_type.shape.dim for item in model.graph.input}
    return {name: [dim.dim_param or dim.dim_value for dim in dims] for name, dims in shapes.items()}


@torch.no_grad()
def _difference(path: Path, graph: Graph, batch: int, frames: int) -> float:
    """Largest difference of samples between onnxruntime and PyTorch, or the share of codes that
    differ.
    """
    inputs = graph.example(batch, frames)
    expected, found = graph.truth(*inputs), run_onnx(path, graph.names, inputs)
    if found.shape != expected.shape:
        raise UserInputError(
            f"the graph made {tuple(found.shape)} of {frames} frames, expected"
            f" {tuple(expected.shape)}"
        )
    if not expected.is_floating_point():
        return float((found != expected).float().mean())
    return float((found - expected).abs().max())


def run_onnx(path: Path, names: Sequence[str], inputs: Sequence[Tensor]) -> Tensor:
    """The graph's output, by onnxruntime on the CPU."""
    return run_session(open_session(path), names, inputs)


def open_session(path: Path, threads: int | None = None) -> InferenceSession:
    """threads None: torch's number."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run_session(
    session: InferenceSession, names: Sequence[str], inputs: Sequence[Tensor]
) -> Tensor:
    """The output for these inputs."""
    feed = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
    return torch.from_numpy(session.run(None, feed)[0])
