"""The folder of a page: graphs that are checked against PyTorch, runtime, and one HTML file."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from vqwave import pitch_tracking
from vqwave.atomic_files import new_folder, new_place
from vqwave.data.voices import LEAST_DEVIATION, UNVOICED
from vqwave.errors import UserInputError
from vqwave.export.graphs import DecoderGraph, Graph, decoder_graph, encoder_graph, pitch_graph
from vqwave.export.onnx_files import Checked, Part, check_packages, write_graph
from vqwave.export.web.runtime import check_runtime, copy_runtime
from vqwave.inference.model_folder import Loaded, load_trained
from vqwave.inference.speech_model import SpeechModel
from vqwave.inference.standalone_folder import Facts, model_page
from vqwave.models.melody import VOICE, Melody

HERE = Path(__file__).parent
SCRIPTS = ("noise.js", "sound.js", "codes.js", "melody.js", "graphs.js", "page.js")
PAGE, CARD, F0_MODEL, F0_LICENCE = "index.html", "MODEL.md", "f0.onnx", "f0.LICENSE"
LONGEST = 30.0  # seconds of a recording: a graph's memory grows with it
FURTHEST_SHIFT = 12  # semitones


@dataclass(frozen=True)
class Site:
    """A folder that was written: bytes of its files by name, and how far graphs are from
    PyTorch.
    """

    path: Path
    sizes: dict[str, int]
    graphs: tuple[Checked, ...]

    @property
    def bytes(self) -> int:
        return sum(self.sizes.values())


def export_site(name: str | Path, out: Path, runtime: Path | None = None) -> Site:
    """Write a folder that any web server can offer as it is: see `vqwave.export.web`.

    runtime: a folder with onnxruntime-web; None: npm fetches it. Raises UserInputError for a model
    whose decoder is no graph of codes and labels, a missing package, and a folder that is not
    empty.
    """
    place = new_place(out)
    check_packages()
    loaded = load_trained(name)
    speech = SpeechModel(loaded.model, loaded.card)
    decoder, graphs = _graphs(loaded, name, speech)
    check_runtime(runtime)
    with new_folder(place) as folder:
        checked = tuple(
            write_graph(graph, folder / f"{part}.onnx", name, part, speech.sample_rate)
            for part, graph in graphs.items()
        )
        if "pitch" in graphs:
            _copy_f0_model(folder)
        copy_runtime(folder, runtime)
        (folder / CARD).write_text(model_page(loaded, Facts(), str(name)), encoding="utf-8")
        _write_page(folder, _facts(_title(name), speech, decoder))
        return Site(out, _sizes(folder), checked)


def _graphs(
    loaded: Loaded, name: str | Path, speech: SpeechModel
) -> tuple[DecoderGraph, dict[Part, Graph]]:
    """The decoder, and all parts that the page needs, the decoder among them.

    Raises UserInputError.
    """
    decoder = decoder_graph(loaded, name, free_range=True)
    graphs: dict[Part, Graph] = {"encoder": encoder_graph(loaded, name), "decoder": decoder}
    if speech.kind.melody is not None:
        graphs["pitch"] = pitch_graph(loaded, name)
    known = {"codes", "pitch_codes", "noise", VOICE, *decoder.labels}
    if unknown := [each for each in decoder.names if each not in known]:
        raise UserInputError(
            f"{name}: its decoder is conditioned on {', '.join(unknown)}, which a page cannot make;"
            " expected codes and labels alone"
        )
    return decoder, graphs


def _copy_f0_model(folder: Path) -> None:
    """SwiftF0 (MIT), which the package of that name carries, and its licence."""
    package = importlib.util.find_spec("swift_f0")
    if package is None or package.origin is None:
        raise UserInputError("swift_f0 is not installed: pip install swift-f0")
    shutil.copyfile(Path(package.origin).parent / "model.onnx", folder / F0_MODEL)
    for file in importlib.metadata.files("swift-f0") or ():
        if file.name == "LICENSE":
            shutil.copyfile(str(file.locate()), folder / F0_LICENCE)


def _title(name: str | Path) -> str:
    """The name of a run, of a model folder, or of a model elsewhere."""
    path = Path(name)
    place = path.resolve() if path.exists() else path
    return (place.parent if place.name == "model" else place).name


def _sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in sorted(folder.iterdir())}


def _facts(name: str, speech: SpeechModel, decoder: DecoderGraph) -> dict[str, Any]:
    """The facts of a model that the page uses."""
    header, melody, codec = speech.header(), speech.kind.melody, speech.kind.codec
    assert codec is not None  # whose header it is
    return {
        "name": name,
        "sample_rate": header.sample_rate,
        "level_db": speech.level_db,
        "hop": header.hop,
        "size": header.size,
        "books": header.books,
        "codec": header.fingerprint,
        "bit_rate": codec.bit_rate(header.sample_rate),
        "base": decoder.facts["base"],
        "labels": _labels(speech, decoder),
        "melody": None if melody is None else _melody(melody, decoder),
        "longest_seconds": LONGEST,
    }


def _labels(speech: SpeechModel, decoder: DecoderGraph) -> dict[str, list[tuple[int, str]]]:
    """The numbers and names of each label's values that the decoder was trained on."""
    return {
        label: [
            (number, value)
            for number, value in enumerate(values)
            if value not in speech.card.untrained(label)
        ]
        for label, values in decoder.labels.items()
    }


def _melody(melody: Melody, decoder: DecoderGraph) -> dict[str, Any]:
    """Of the pitch codes, and of F0 as `vqwave.pitch_tracking` has it."""
    codec = melody.codec
    voices = melody.voices.tolist() if "speaker" in decoder.labels else None
    return {
        "hop": melody.hop,
        "frames_a_code": melody.ratio,
        "size": codec.size,
        "books": codec.books,
        "voices": voices,
        "unvoiced": [UNVOICED.mean, UNVOICED.deviation],
        "least_deviation": LEAST_DEVIATION,
        "furthest_shift": FURTHEST_SHIFT,
        "tracker": {
            "rate": pitch_tracking.RATE,
            "grid": pitch_tracking.GRID,
            "lowest": pitch_tracking.LOWEST,
            "highest": pitch_tracking.HIGHEST,
            "voiced": pitch_tracking.VOICED,
        },
    }


def _write_page(folder: Path, facts: dict[str, Any]) -> None:
    """The HTML file, which says the size of the folder, its own included."""
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style, script = _source(["page.css"]), _source(SCRIPTS)
    template, others, own = environment.get_template("page.html"), _sizes(folder), 0
    while True:
        model = facts | {"sizes": others | {PAGE: own}}
        page = template.render(name=facts["name"], model=model, style=style, script=script)
        if len(page.encode()) == own:
            break
        own = len(page.encode())  # whose number of digits may change the length once more
    (folder / PAGE).write_text(page, encoding="utf-8", newline="")


def _source(names: Sequence[str]) -> str:
    return "\n".join((HERE / name).read_text(encoding="utf-8") for name in names)
