"""Models for elsewhere: export."""

from __future__ import annotations

import argparse
from pathlib import Path

from vqwave.cli.arguments import Add, within, writable
from vqwave.errors import UserInputError
from vqwave.terminal import output


def add(add: Add) -> None:
    export = add(
        "export",
        export_model,
        "A model as an ONNX graph (checked against PyTorch), or as a model folder of its own.",
    )
    export.add_argument("model", help="run folder, model folder or name")
    export.add_argument(
        "--format",
        choices=("onnx", "safetensors"),
        required=True,
        help="a graph, or a model folder with its card",
    )
    export.add_argument(
        "--part",
        choices=("decoder", "encoder"),
        help="of a graph: a student's decoder (default), or the encoder",
    )
    export.add_argument(
        "--half", action="store_true", help="of a folder: weights in 16 bits, half the bytes"
    )
    export.add_argument(
        "--out", type=Path, required=True, help="file that ends in .onnx, or a new folder"
    )


def export_model(arguments: argparse.Namespace) -> None:
    from vqwave import export

    out = (within if arguments.format == "safetensors" else writable)(arguments.out)
    if arguments.format == "safetensors":
        if arguments.part is not None:
            raise UserInputError(
                f"--part {arguments.part}: a model folder has all parts, expected it with"
                " --format onnx"
            )
        loaded = export.export_folder(arguments.model, out, half=arguments.half)
        output(
            f"{out}: a {loaded.card.kind} for vqwave.load,"
            f" {sum(f.stat().st_size for f in out.iterdir()):,} bytes"
        )
        return
    if arguments.half:
        raise UserInputError(
            "--half: a graph computes in 32 bits, expected it with --format safetensors"
        )
    if out.suffix != ".onnx":
        raise UserInputError(f"{out}: expected a file name that ends in .onnx")
    checked = export.export_onnx(arguments.model, out, arguments.part or "decoder")
    shapes = ", ".join(f"{name} {tuple(shape)}" for name, shape in checked.inputs.items()).replace(
        "'", ""
    )
    output(f"{out}: {checked.part}, {out.stat().st_size:,} bytes; {shapes}")
    what = "codes differ" if checked.part == "encoder" else "largest difference"
    for frames, difference in checked.differences.items():
        output(f"{frames:4d} frames: {what} {difference:.2g}")
