"""Graphs as ONNX files, which are checked against PyTorch before they are kept."""

from __future__ import annotations

import importlib.util
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from vqwave.atomic_files import new_file
from vqwave.errors import UserInputError
from vqwave.export.graphs import Graph, decoder_graph, encoder_graph, pitch_graph
from vqwave.inference.model_folder import Loaded, load_trained

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Part = Literal["decoder", "encoder", "pitch"]
GRAPHS: dict[Part, Callable[[Loaded, str | Path], Graph]] = {
    "decoder": decoder_graph,
    "encoder": encoder_graph,
    "pitch": pitch_graph,
}
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
    """Write one part of a model as an ONNX graph, once onnxruntime gives the same as PyTorch at
    several lengths.

    Raises UserInputError for a part that is no single pass, a missing package, or a graph that
    differs.
    """
    check_packages()
    loaded = load_trained(name)
    return write_graph(GRAPHS[part](loaded, name), out, name, part, loaded.card.sample_rate)


def check_packages() -> None:
    """Raises UserInputError where a package that writing graphs needs is missing."""
    for package in ("onnx", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise UserInputError(f"{package} is not installed: pip install 'vqwave[export]'")


def write_graph(graph: Graph, out: Path, name: str | Path, part: Part, sample_rate: int) -> Checked:
    """As `export_onnx`, of a graph that is made already; name: of its model, for messages."""
    with new_file(out) as temporary:
        trace(graph, temporary, name)
        inputs = _describe(temporary, graph.facts | {"part": part, "sample_rate": sample_rate})
        with _in_a_line(f"{name}: its graph does not run"):
            session = open_session(temporary)
            differences = {
                frames: _difference(session, graph, batch, frames) for batch, frames in CHECKED
            }
        checked = Checked(out, part, inputs, differences)
        if not checked.largest <= graph.tolerance:
            raise UserInputError(
                f"{name}: its graph is {checked.largest:.2g} away from PyTorch, expected at most"
                f" {graph.tolerance:g}"
            )
    return checked


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
    """Put a graph's facts into the file's metadata -> shapes of its inputs by name."""
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
def _difference(session: InferenceSession, graph: Graph, batch: int, frames: int) -> float:
    """Largest difference of samples between onnxruntime and PyTorch, or the share of codes that
    differ.
    """
    inputs = graph.example(batch, frames)
    expected, output = graph.reference(*inputs), run_session(session, graph.names, inputs)
    if output.shape != expected.shape:
        raise UserInputError(
            f"the graph made {tuple(output.shape)} of {frames} frames, expected"
            f" {tuple(expected.shape)}"
        )
    if not expected.is_floating_point():
        return float((output != expected).float().mean())
    return float((output - expected).abs().max())


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
