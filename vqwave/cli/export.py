"""Models for elsewhere: export."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from vqwave.cli.arguments import Add, within, writable
from vqwave.errors import UserInputError
from vqwave.terminal import output

DIFFERENCE = {
    "decoder": "largest difference",
    "encoder": "codes differ",
    "pitch": "codes differ",
}  # by part of a model: what its graph's distance from PyTorch is
PARTS = tuple(DIFFERENCE)


def add(add: Add) -> None:
    export = add(
        "export",
        export_model,
        "A model as an ONNX graph (checked against PyTorch), as a page that runs in a browser, or"
        " as a model folder of its own.",
    )
    export.add_argument("model", help="run folder, model folder or name")
    export.add_argument(
        "--format",
        choices=("onnx", "safetensors", "web"),
        required=True,
        help="a graph, a model folder with its card, or a static folder for a web server",
    )
    export.add_argument(
        "--part",
        choices=PARTS,
        help="of a graph: a student's decoder (default), the encoder, or that of pitch codes",
    )
    export.add_argument(
        "--half", action="store_true", help="of a folder: weights in 16 bits, half the bytes"
    )
    export.add_argument(
        "--runtime",
        type=Path,
        metavar="FOLDER",
        help="of a page: the package onnxruntime-web (default: npm fetches it)",
    )
    export.add_argument(
        "--out", type=Path, required=True, help="file that ends in .onnx, or a new folder"
    )


def export_model(arguments: argparse.Namespace) -> None:
    _check_options(arguments)
    EXPORTS[arguments.format](arguments)


def _check_options(arguments: argparse.Namespace) -> None:
    """Raises UserInputError for an option of another format."""
    kind = arguments.format
    if arguments.part is not None and kind != "onnx":
        what = "a model folder" if kind == "safetensors" else "a page"
        raise UserInputError(
            f"--part {arguments.part}: {what} has all parts, expected it with --format onnx"
        )
    if arguments.half and kind != "safetensors":
        raise UserInputError(
            "--half: a graph computes in 32 bits, expected it with --format safetensors"
        )
    if arguments.runtime is not None and kind != "web":
        raise UserInputError(f"--runtime: {kind} needs none, expected it with --format web")


def _export_folder(arguments: argparse.Namespace) -> None:
    from vqwave import export

    out = within(arguments.out)
    loaded = export.export_folder(arguments.model, out, half=arguments.half)
    output(
        f"{out}: a {loaded.card.kind} for vqwave.load,"
        f" {sum(f.stat().st_size for f in out.iterdir()):,} bytes"
    )


def _export_page(arguments: argparse.Namespace) -> None:
    from vqwave.export.web import export_site

    out = within(arguments.out)
    site = export_site(arguments.model, out, arguments.runtime)
    output(f"{out}: a page, {site.bytes / 1e6:.1f} MB in {len(site.sizes)} files")
    for graph in site.graphs:
        output(
            f"  {graph.path.name}: {site.sizes[graph.path.name] / 1e6:.1f} MB,"
            f" {DIFFERENCE[graph.part]} {graph.largest:.2g}"
        )
    output(f"python -m http.server --directory {shlex.quote(str(out))}")


def _export_graph(arguments: argparse.Namespace) -> None:
    from vqwave import export

    out = writable(arguments.out)
    if out.suffix != ".onnx":
        raise UserInputError(f"{out}: expected a file name that ends in .onnx")
    checked = export.export_onnx(arguments.model, out, arguments.part or "decoder")
    shapes = ", ".join(f"{name} {tuple(shape)}" for name, shape in checked.inputs.items()).replace(
        "'", ""
    )
    output(f"{out}: {checked.part}, {out.stat().st_size:,} bytes; {shapes}")
    for frames, difference in checked.differences.items():
        output(f"{frames:4d} frames: {DIFFERENCE[checked.part]} {difference:.2g}")


EXPORTS = {"onnx": _export_graph, "safetensors": _export_folder, "web": _export_page}
